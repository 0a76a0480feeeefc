"""Small benchmarks twice: in the local layout, and as the Hub's tables with the columns that lmms-eval reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from llava.eval.sources.layout import content_name
from tests.eval import layout

COLOURS = ("red", "blue")


def image(colour: str) -> dict[str, Any]:
    return {"bytes": layout.png(colour), "path": None}


def write_table(root: Path, name: str, split: str, rows: Sequence[Any], config: str = "data") -> Path:
    path = root / name / config / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def write_image(path: Path, colour: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(layout.png(colour))


def gqa(hub: Path, local: Path) -> None:
    types = {"structural": "query", "semantic": "obj", "detailed": "x"}
    rows = [{"question": f"What {n}?", "answer": "cat", "imageId": f"n{n}", "types": types} for n in range(2)]
    layout.write_gqa(local, rows)
    write_table(
        hub, "GQA", "testdev", [{"id": str(n)} | r for n, r in enumerate(rows)], "testdev_balanced_instructions"
    )
    pictures = [{"id": f"n{n}", "image": image(colour)} for n, colour in enumerate(COLOURS)]
    write_table(hub, "GQA", "testdev", pictures, "testdev_balanced_images")
    for n, colour in enumerate(COLOURS):
        write_image(local / "gqa" / "data" / "images" / f"n{n}.jpg", colour)


def pope(hub: Path, local: Path) -> None:
    source = "COCO_val2014_000000000042"
    asked = [{"question_id": n, "text": f"Is there a {n}?", "label": label} for n, label in enumerate(("yes", "no"))]
    layout.write_pope(local, [row | {"image": f"{source}.jpg"} for row in asked])
    common = {"image_source": source, "image": image("red")}
    rows = [
        {"id": str(n), "question_id": str(row["question_id"]), "question": row["text"], "answer": row["label"]}
        | {"category": split, **common}
        for split in ("adversarial", "popular", "random")
        for n, row in enumerate(asked)
    ]
    write_table(hub, "POPE", "test", rows)
    write_image(local / "pope" / "val2014" / f"{source}.jpg", "red")


def mme(hub: Path, local: Path) -> None:
    asked = ["Is it Python? Please answer yes or no.", "Is it C++? Please answer yes or no."]
    pairs = list(zip(asked, ("Yes", "No"), strict=True))
    layout.write_mme(local, {"code_reasoning/0020": [f"{q}\t{a}" for q, a in pairs]})
    common = {"question_id": "code_reasoning/0020.png", "image": image("red"), "category": "code_reasoning"}
    write_table(hub, "MME", "test", [common | {"question": q, "answer": a} for q, a in pairs])


def mmbench(hub: Path, local: Path, name: str = "mmbench", config: str = "en") -> None:
    rows: list[dict[str, Any]] = [
        {"index": 7, "question": 'What\n"colour"?', "hint": "nan", "A": "red", "B": "blue", "C": "nan", "D": "nan"},
        {"index": 1_000_007, "question": "What?", "hint": "See\tit.", "A": "a", "B": "b", "C": "c", "D": "d"},
    ]
    rows = [row | {"answer": "A", "category": "colour", "split": "dev"} for row in rows]
    layout.write_mmbench(local, rows, name)
    more = {"source": "x", "L2-category": "coarse", "comment": "nan", "image": image("red")}
    write_table(hub, "MMBench", "dev", [row | more for row in rows], config)


def mmbench_cn(hub: Path, local: Path) -> None:
    mmbench(hub, local, "mmbench_cn", "cn")


def scienceqa(hub: Path, local: Path, config: str = "ScienceQA-FULL") -> None:
    common = {"question": "Which?", "choices": ["x", "y"], "subject": "natural science", "grade": "grade3"}
    rows: list[dict[str, Any]] = [common | {"answer": 1, "hint": ""}, common | {"answer": 0, "hint": "See."}]
    pictured = [True, config == "ScienceQA-IMG"]
    layout.write_scienceqa(
        local, [r | {"image": "image.png" if p else None} for r, p in zip(rows, pictured, strict=True)]
    )
    more = {"task": "closed choice", "topic": "physics", "lecture": "", "solution": ""}
    table = [r | more | {"image": image("red") if p else None} for r, p in zip(rows, pictured, strict=True)]
    write_table(hub, "ScienceQA", "test", table, config)
    for number, is_pictured in enumerate(pictured):
        if is_pictured:
            write_image(local / "scienceqa" / "images" / "test" / str(number) / "image.png", "red")


def sqa_img(hub: Path, local: Path) -> None:
    scienceqa(hub, local, "ScienceQA-IMG")


def textvqa(hub: Path, local: Path) -> None:
    row = {"question_id": 34602, "image_id": "ab", "question": "what BRAND?", "answers": ["nokia"] * 10}
    row |= {"ocr_tokens": ["NOKIA", "5G"]}
    layout.write_textvqa(local, [row])
    write_table(hub, "textvqa", "validation", [row | {"image": image("red"), "image_classes": ["Phone"]}])
    write_image(local / "textvqa" / "train_images" / "ab.jpg", "red")


def seed(hub: Path, local: Path) -> None:
    rows = [
        {"question_id": str(n), "question": "Which?", "answer": "B", "question_type_id": kind, "data_type": data_type}
        | {"data_id": f"d{n}", **{f"choice_{letter}": letter for letter in "abcd"}}
        for n, (kind, data_type) in enumerate(((1, "image"), (10, "video")))
    ]
    layout.write_seed(local, rows)
    frames = [[image("red")], [image("green"), image("blue"), image("red")]]
    write_table(hub, "SEED-Bench", "test", [r | {"image": f} for r, f in zip(rows, frames, strict=True)])
    write_image(local / "seed_bench" / "SEED-Bench-image" / "d0", "red")
    write_image(local / "seed_bench" / "SEED-Bench-video-image" / "10_1.png", "blue")


def mmmu(hub: Path, local: Path) -> None:
    row = {"id": "validation_Math_1", "question": "See <image 1>.", "options": "['1', '2']", "image_1": image("red")}
    row |= {"answer": "B", "question_type": "multiple-choice"}
    layout.write_mmmu(local, [row])
    pictures = {f"image_{n}": None for n in range(2, 8)}
    write_table(hub, "MMMU", "validation", [row | pictures | {"topic_difficulty": "Easy"}])


def vqav2(hub: Path, local: Path) -> None:
    rows = [{"question_id": n, "image_id": 42, "question": "What?"} for n in (420, 421)]
    layout.write_vqav2(local, rows)
    answers = [{"answer": "no", "answer_id": n, "answer_confidence": "yes"} for n in range(10)]
    known = {"answer_type": "other", "multiple_choice_answer": "no", "answers": answers, "image": image("red")}
    write_table(hub, "VQAv2", "validation", [row | known for row in rows])
    write_table(hub, "VQAv2", "testdev", [row | dict.fromkeys(known) | {"image": image("blue")} for row in rows])
    write_image(local / "vqav2" / "val2014" / "COCO_val2014_000000000042.jpg", "red")
    write_image(local / "vqav2" / "test2015" / "COCO_test2015_000000000042.jpg", "blue")


def vizwiz(hub: Path, local: Path) -> None:
    name = "VizWiz_val_00000001"
    given = {"answers": [{"answer": "black"}] * 10, "answer_type": "other"}
    layout.write_vizwiz(local, [{"image": f"{name}.jpg", "question": "what is it?"} | given])
    layout.write_vizwiz(local, [{"image": f"{name}.jpg", "question": "what is it?"}])
    row = {"question_id": name, "question": "what is it?", "image": image("red")}
    write_table(hub, "VizWiz-VQA", "val", [row | {"answers": ["black"] * 10, "category": "other"}])
    write_table(hub, "VizWiz-VQA", "test", [row | {"answers": None, "category": None}])
    for split in ("val", "test"):
        write_image(local / "vizwiz" / split / f"{name}.jpg", "red")


def mmvet(hub: Path, local: Path) -> None:
    row = {"question": "What is x?", "answer": "-1<AND>-5"}
    layout.write_mmvet(local, [row | {"imagename": "v1_0.png", "capability": ["ocr", "math"]}])
    more = {"question_id": "v1_0", "capability": "ocr,math", "image_source": "x", "image": image("red")}
    write_table(hub, "MMVet", "test", [row | more])
    write_image(local / "mm-vet" / "images" / "v1_0.png", "red")


def llava_bench(hub: Path, local: Path) -> None:
    row = {"question_id": 3, "category": "conv"}
    layout.write_llava_bench(local, [row | {"image": "001.jpg", "text": "What?"}])
    more = {"question": "What?", "image": image("red"), "caption": "Caption of 001.jpg.", "gpt_answer": "Reference 3."}
    write_table(hub, "llava-bench-in-the-wild", "train", [row | more | {"image_id": "001"}])
    write_image(local / "llava-bench-in-the-wild" / "images" / "001.jpg", "red")


def by_content(colour: str) -> str:
    """The name of an image that has none in the Hub's table."""
    return content_name(image(colour))


def ocrbench(hub: Path, local: Path) -> None:
    kind, name = "Regular Text Recognition", f"svt/{by_content('red')}"
    rows = [{"dataset_name": "svt", "question": "What is written?", "answers": ["EXIT"]} for _ in range(2)]
    layout.write_ocrbench(local, [r | {"id": n, "type": kind, "image_path": name} for n, r in enumerate(rows)])
    more = {"dataset": "svt", "question_type": kind, "answer": ["EXIT"], "image": image("red")}
    write_table(hub, "OCRBench", "test", [more | {"question": row["question"]} for row in rows])
    write_image(local / "ocrbench" / "OCRBench_Images" / name, "red")


def chartqa(hub: Path, local: Path) -> None:
    human = [{"imgname": by_content("red"), "query": f"How many {n}?", "label": str(n)} for n in range(2)]
    augmented = [{"imgname": by_content("blue"), "query": "Which year?", "label": "2014"}]
    layout.write_chartqa(local, human, augmented)
    rows = [
        {"type": kind, "question": row["query"], "answer": row["label"], "image": image(colour)}
        for kind, colour, listed in (("human_test", "red", human), ("augmented_test", "blue", augmented))
        for row in listed
    ]
    write_table(hub, "ChartQA", "test", rows)
    for colour in COLOURS:
        write_image(local / "chartqa" / "png" / by_content(colour), colour)


def mmstar(hub: Path, local: Path) -> None:
    row = {"index": 3, "question": "What?\nOptions: A: x, B: y, C: z, D: w", "answer": "B", "category": "math"}
    path = layout.write_mmstar(local, [row | {"l2_category": "geometry"}])
    table = hub / "MMStar" / "mmstar.parquet"
    table.parent.mkdir(parents=True)
    table.write_bytes(path.read_bytes())


def refcoco(hub: Path, local: Path, name: str = "refcoco", table: str = "RefCOCO") -> None:
    source = "COCO_train2014_000000000042"
    about = {"image": f"{source}.jpg", "width": 4, "height": 4, "bbox": [1.0, 0.5, 3.0, 3.5]}
    layout.write_refcoco(local, [about | {"sent": sent} for sent in ("left boy", "boy in red")], name)
    row = {"question_id": "7", "question": "Where?", "answer": ["left boy", "boy in red"], "image": image("red")}
    write_table(hub, table, "val", [row | {"bbox": [1.0, 0.5, 2.0, 3.0], "file_name": f"{source}_3.jpg"}])
    write_image(local / "refcoco" / "train2014" / f"{source}.jpg", "red")


def refcoco_plus(hub: Path, local: Path) -> None:
    refcoco(hub, local, "refcoco+", "RefCOCOplus")


def refcocog(hub: Path, local: Path) -> None:
    refcoco(hub, local, "refcocog", "RefCOCOg")


BUILDERS: dict[str, Callable[[Path, Path], None]] = {
    "chartqa": chartqa,
    "gqa": gqa,
    "llava_bench": llava_bench,
    "mmbench": mmbench,
    "mmbench_cn": mmbench_cn,
    "mmbench_lmms": mmbench,
    "mme": mme,
    "mmmu_val": mmmu,
    "mmmu_val_official": mmmu,
    "mmstar": mmstar,
    "mmvet": mmvet,
    "mmvet_lmms": mmvet,
    "ocrbench": ocrbench,
    "ocrbench_lmms": ocrbench,
    "pope": pope,
    "refcoco_plus_val": refcoco_plus,
    "refcoco_val": refcoco,
    "refcocog_val": refcocog,
    "seed": seed,
    "seed_image": seed,
    "seed_video": seed,
    "sqa_full": scienceqa,
    "sqa_img": sqa_img,
    "textvqa": textvqa,
    "textvqa_no_ocr": textvqa,
    "vizwiz": vizwiz,
    "vizwiz_val": vizwiz,
    "vqav2_testdev": vqav2,
    "vqav2_val": vqav2,
}
