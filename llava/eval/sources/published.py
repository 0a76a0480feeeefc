"""Where the benchmarks' own files are published, and where the local layout wants them.

URLs are those of the publishers' pages (docs/benchmarks.md), LLaVA's docs/Evaluation.md and ScienceQA's
tools/download.sh; single files of repositories are pinned to a commit. MME, MMMU, OCRBench and SEED-Bench are not among
them: MME's page itself points to the Hub, MMMU is published there, OCRBench's pictures are on Google Drive, and
SEED-Bench's videos come from three other data sets.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from llava.data.prepare.catalog import RemoteFile

_COCO = "http://images.cocodataset.org/zips"
_VQA = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
_VIZWIZ = "https://vizwiz.cs.colorado.edu/VizWiz_final"
_TEXTVQA = "https://dl.fbaipublicfiles.com/textvqa"
_GQA = "https://downloads.cs.stanford.edu/nlp/data/gqa"
_MMBENCH = "https://download.openmmlab.com/mmclassification/datasets/mmbench"
_POPE = "https://raw.githubusercontent.com/AoiDragon/POPE/e3e39262c85a6a83f26cf5094022a782cb0df58d/output/coco"
_SCIENCE_QA = (
    "https://raw.githubusercontent.com/lupantech/ScienceQA/2cbf8318e07b9ece895bb2ae605e71e38d623264/data/scienceqa"
)
_LLAVA_BENCH = "https://huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild/resolve/main"
_CHARTQA = "https://huggingface.co/datasets/ahmed-masry/ChartQA/resolve/42455d40dbcbb3d66ec5c6bc448c0b9c37d5650f"
_MMSTAR = "https://huggingface.co/datasets/Lin-Chen/MMStar/resolve/bc98d668301da7b14f648724866e57302778ab27"
_REFCOCO = "https://ofasys-wlcb.oss-cn-wulanchabu.aliyuncs.com/Qwen-VL/evaluation"
_NUM_LLAVA_BENCH_IMAGES = 24


@dataclass(frozen=True)
class PublishedFiles:
    """What a benchmark needs.

    Attributes:
        files: To be downloaded; archives are unpacked.
        wanted: Files of archives at the places where the tasks read them; an archive that has one in another folder
            has that folder's contents moved.
        links: Folders that stand for others, by the place where the tasks look.
    """

    files: tuple[RemoteFile, ...]
    wanted: tuple[str, ...] = ()
    links: dict[str, str] = field(default_factory=dict)

    def moved(self, base_url: str) -> PublishedFiles:
        """The same from a mirror that has each file at its path."""
        base = base_url.rstrip("/")
        return replace(self, files=tuple(replace(file, url=f"{base}/{file.path}") for file in self.files))


def _file(path: str, url: str, extract_to: str | None = None) -> RemoteFile:
    return RemoteFile(path, url, path.split("/")[0], extract_to)


_VAL2014 = _file("coco/val2014.zip", f"{_COCO}/val2014.zip", "coco")

_GQA_FILES = PublishedFiles(
    (
        _file("gqa/questions1.2.zip", f"{_GQA}/questions1.2.zip", "gqa/data"),
        _file("gqa/images.zip", f"{_GQA}/images.zip", "gqa/data"),
    ),
    ("gqa/data/testdev_balanced_questions.json",),
)
_SQA_FILES = PublishedFiles(
    (
        _file("scienceqa/problems.json", f"{_SCIENCE_QA}/problems.json"),
        _file("scienceqa/pid_splits.json", f"{_SCIENCE_QA}/pid_splits.json"),
        _file("scienceqa/test.zip", "https://scienceqa.s3.us-west-1.amazonaws.com/images/test.zip", "scienceqa/images"),
    )
)
_MMVET_FILES = PublishedFiles(
    (_file("mm-vet/mm-vet.zip", "https://github.com/yuweihao/MM-Vet/releases/download/v1/mm-vet.zip", "mm-vet"),),
    ("mm-vet/mm-vet.json",),
)
_TEXTVQA_FILES = PublishedFiles(
    (
        *(
            _file(f"textvqa/{name}", f"{_TEXTVQA}/data/{name}")
            for name in ("TextVQA_0.5.1_val.json", "TextVQA_Rosetta_OCR_v0.2_val.json")
        ),
        _file("textvqa/train_val_images.zip", f"{_TEXTVQA}/images/train_val_images.zip", "textvqa"),
    )
)


def _vizwiz(split: str) -> PublishedFiles:
    return PublishedFiles(
        (
            _file("vizwiz/Annotations.zip", f"{_VIZWIZ}/vqa_data/Annotations.zip", "vizwiz"),
            _file(f"vizwiz/{split}.zip", f"{_VIZWIZ}/images/{split}.zip", "vizwiz"),
        ),
        (f"vizwiz/{split}.json",),
    )


def _refcoco(name: str) -> PublishedFiles:
    """Qwen-VL's file of phrases, which most evaluations use, and COCO's pictures."""
    address = f"{name}/{name}_val.jsonl".replace("+", "%2B")
    return PublishedFiles(
        (
            _file(f"refcoco/{name}_val.jsonl", f"{_REFCOCO}/{address}"),
            _file("coco/train2014.zip", f"{_COCO}/train2014.zip", "coco"),
        ),
        links={"refcoco/train2014": "coco/train2014"},
    )


def _vqav2(*archives: str) -> tuple[RemoteFile, ...]:
    return tuple(_file(f"vqav2/{name}", f"{_VQA}/{name}", "vqav2") for name in archives)


PUBLISHED: dict[str, PublishedFiles] = {
    "chartqa": PublishedFiles(
        (_file("chartqa/ChartQA-Dataset.zip", f"{_CHARTQA}/ChartQA%20Dataset.zip", "chartqa"),),
        ("chartqa/test_human.json",),
    ),
    "gqa": _GQA_FILES,
    "llava_bench": PublishedFiles(
        tuple(
            _file(f"llava-bench-in-the-wild/{name}", f"{_LLAVA_BENCH}/{name}")
            for name in (
                *("questions.jsonl", "context.jsonl", "answers_gpt4.jsonl"),
                *(f"images/{number:03d}.jpg" for number in range(1, _NUM_LLAVA_BENCH_IMAGES + 1)),
            )
        )
    ),
    **{
        task: PublishedFiles((_file(f"{task}/{name}", f"{_MMBENCH}/{name}"),))
        for task, name in (("mmbench", "mmbench_dev_20230712.tsv"), ("mmbench_cn", "mmbench_dev_cn_20231003.tsv"))
    },
    "mmbench_lmms": PublishedFiles(
        (_file("mmbench/mmbench_dev_20230712.tsv", f"{_MMBENCH}/mmbench_dev_20230712.tsv"),)
    ),
    "mmstar": PublishedFiles((_file("mmstar/mmstar.parquet", f"{_MMSTAR}/mmstar.parquet"),)),
    "mmvet": _MMVET_FILES,
    "mmvet_lmms": _MMVET_FILES,
    "pope": PublishedFiles(
        (
            *(
                _file(f"pope/coco/coco_pope_{split}.json", f"{_POPE}/coco_pope_{split}.json")
                for split in ("random", "popular", "adversarial")
            ),
            _VAL2014,
        ),
        links={"pope/val2014": "coco/val2014"},
    ),
    "refcoco_plus_val": _refcoco("refcoco+"),
    "refcoco_val": _refcoco("refcoco"),
    "refcocog_val": _refcoco("refcocog"),
    "sqa_full": _SQA_FILES,
    "sqa_img": _SQA_FILES,
    "textvqa": _TEXTVQA_FILES,
    "textvqa_no_ocr": _TEXTVQA_FILES,
    "vizwiz": _vizwiz("test"),
    "vizwiz_val": _vizwiz("val"),
    "vqav2_testdev": PublishedFiles(
        (*_vqav2("v2_Questions_Test_mscoco.zip"), _file("vqav2/test2015.zip", f"{_COCO}/test2015.zip", "vqav2"))
    ),
    "vqav2_val": PublishedFiles(
        (*_vqav2("v2_Questions_Val_mscoco.zip", "v2_Annotations_Val_mscoco.zip"), _VAL2014),
        links={"vqav2/val2014": "coco/val2014"},
    ),
}
