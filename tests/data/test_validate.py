"""`python -m llava.data.validate` says what training would do."""

import hashlib
import json
import subprocess
import sys

import pytest
from PIL import Image

from llava.data.dataset import LlavaDataset, SampleError, TrainingSample, read_records
from llava.data.model_rules import rules_of_model, rules_of_tokenizer
from llava.data.templates import get_template
from llava.data.validate import main
from llava.model.builder import load_pretrained_model


def turns(question="<image>\nWhat?", answer="Red."):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, good and bad."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "coco").mkdir()
    Image.new("RGB", (60, 40)).save(folder / "coco/good.png")
    Image.new("RGB", (64, 64), "red").save(folder / "coco/cut.jpg")
    (folder / "coco/cut.jpg").write_bytes((folder / "coco/cut.jpg").read_bytes()[:200])
    Image.new("1", (2000, 2000)).save(folder / "coco/bomb.png")
    Image.new("1", (2, 1001)).save(folder / "coco/thin.png")
    (folder / "coco/loop.png").symlink_to("loop.png")
    secret = folder.parent / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    (folder / "coco/link.png").symlink_to(secret)
    return folder


CASES = [
    ("", {"id": "fine", "image": "coco/good.png", "conversations": turns()}),
    ("", {"id": "fine", "conversations": turns("Hi", "Ho")}),
    ("schema", ["no", "object"]),
    ("schema", {"id": "a", "conversations": [{"from": "robot", "value": "x"}]}),
    ("turns", {"id": "b", "conversations": [*turns("Hi"), *turns("Hi")[1:]]}),
    ("image count", {"id": "c", "image": "coco/good.png", "conversations": turns("no tag")}),
    ("no answer", {"id": "d", "conversations": turns("Hi")[:1]}),
    ("image path", {"id": "e", "image": "/etc/passwd", "conversations": turns()}),
    ("image path", {"id": "f", "image": "../secret.png", "conversations": turns()}),
    ("", {"id": "g", "image": "coco/link.png", "conversations": turns()}),
    ("missing image", {"id": "h", "image": "coco/gone.png", "conversations": turns()}),
    ("undecodable image", {"id": "i", "image": "coco/cut.jpg", "conversations": turns()}),
    ("image too large", {"id": "j", "image": "coco/bomb.png", "conversations": turns()}),
    ("missing image", {"id": "n", "image": f"{'a' * 300}.png", "conversations": turns()}),
    ("missing image", {"id": "o", "image": "coco/loop.png", "conversations": turns()}),
    ("image path", {"id": "p", "image": "\ud83d/a.png", "conversations": turns()}),
    ("schema", {"id": "q", "conversations": turns("Hi", "\ud83d")}),
    ("image too large", {"id": "r", "image": "coco/thin.png", "conversations": turns()}),
    ("no targets", {"id": "\ud83d", "conversations": turns("Hi", "")}),
    ("no targets", {"id": "k", "conversations": turns("Hi", "")}),
    ("no targets", {"id": "l", "image": "coco/good.png", "conversations": turns("<image>\n" + "a dog " * 900)}),
    ("", {"id": "m", "image": "coco/good.png", "conversations": turns(answer="a dog " * 900)}),
]


@pytest.fixture
def validate(oracle_dir, folder, tmp_path, capsys):
    def validate(entries, *flags, model=True, name="data.json"):
        data = tmp_path / name
        if entries is not None:
            data.write_text(json.dumps(entries) if isinstance(entries, list) else entries)
        asked = ["--model-path", str(oracle_dir / "tiny-llava-v1.5")] if model else []
        common = ["--data-path", str(data), "--image-folder", str(folder), "--max-pixels", "1000000"]
        report = tmp_path / "out/report.json"
        status = main([*common, *asked, "--workers", "0", "--report", str(report), *flags])
        found = json.loads(report.read_text()) if report.is_file() and report.stat().st_size else None
        return status, found, *capsys.readouterr()

    return validate


@pytest.mark.parametrize("workers", [0, 2])
def test_every_kind_of_problem_is_reported(validate, workers):
    status, report, shown, _ = validate([entry for _, entry in CASES], "--workers", str(workers))
    assert status == 1 and report["num_entries"] == len(CASES) and report["num_bad"] == len(CASES) - 4
    expected = {}
    for number, (kind, _) in enumerate(CASES):
        if kind:
            expected.setdefault(kind, []).append(f"entry {number}")
    assert {kind: [entry["place"] for entry in entries] for kind, entries in report["problems"].items()} == expected
    assert report["counts"] == {kind: len(places) for kind, places in expected.items()}
    assert report["problems"]["missing image"][0]["id"] == "h"
    assert "gone.png of sample 'h' does not exist" in report["problems"]["missing image"][0]["message"]
    assert report["warnings"]["duplicate id"] == {"fine": 2}
    assert [entry["id"] for entry in report["warnings"]["truncated"]] == ["m"]
    assert report["tokens"]["p100"] > report["tokens after the cut"]["p100"] == 2048
    assert report["sources"]["text"] == {"entries": 8, "bad": 7} and report["sources"]["/"] == {"entries": 1, "bad": 1}
    assert "missing image: 3; the first: entry 10 (id 'h')" in shown
    assert "18 of 22 entries cannot be trained on" in shown


def test_good_data_pass(validate, oracle_dir, tmp_path):
    status, report, _, _ = validate([entry for kind, entry in CASES if not kind])
    assert status == 0 and report["problems"] == {} and report["images"]["count"] == 3
    assert report["images"]["pixels"]["p100"] == 2400 and report["images"]["width"]["min"] == 8
    assert report["sha256"] == hashlib.sha256((tmp_path / "data.json").read_bytes()).hexdigest()


def test_tokens_are_the_models(validate, oracle_dir, tmp_path, folder):
    """The lengths reported are those of the sequences that the model makes of training's own samples."""
    records = [entry for kind, entry in CASES if not kind]
    checkpoint = oracle_dir / "tiny-llava-v1.5"
    tokenizer, model, processor, _ = load_pretrained_model(checkpoint, device="cpu")
    for flags, compression in (([], None), (["--compression", "visionzip:54+10"], "visionzip:54+10")):
        _, report, _, _ = validate(records, *flags)
        model.set_compression(compression)
        dataset = LlavaDataset(
            read_records(tmp_path / "data.json", get_template("v1")),
            tokenizer=tokenizer,
            template=get_template("v1"),
            image_processor=processor,
            image_config=model.config,
            image_folder=folder,
            count_visual_tokens=model.num_visual_tokens,
            max_length=10**6,
        )
        lengths = []
        for sample in (dataset[index] for index in range(len(records))):
            assert isinstance(sample, TrainingSample)
            images = len(sample.images)
            lengths.append(len(sample.input_ids) - images + images * (64 if compression else 576))
        assert report["tokens"]["p100"] == max(lengths) and report["tokens"]["min"] == min(lengths)
        assert report["tokens"]["mean"] == round(sum(lengths) / len(lengths), 2)


@pytest.mark.parametrize("name", ["tiny-llava-v1.5", "tiny-llava-v1.6-next"])
def test_rules_need_no_weights(name, oracle_dir, tmp_path):
    _, model, _, _ = load_pretrained_model(oracle_dir / name, device="cpu", compression="visionzip:54+10")
    for file in (oracle_dir / name).iterdir():
        if file.suffix not in (".safetensors", ".bin"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    rules = rules_of_model(tmp_path, compression="visionzip:54+10")
    sizes = [(100, 50), (336, 336), (1000, 400), (400, 1300)]
    assert rules.count_visual_tokens(sizes) == model.num_visual_tokens(sizes)
    model.set_compression(None)
    assert rules_of_model(tmp_path).count_visual_tokens(sizes) == model.num_visual_tokens(sizes)


def test_a_tokenizer_alone_will_do(validate, oracle_dir):
    tokenizer = str(oracle_dir / "tiny-llava-v1.5")
    status, report, _, _ = validate([CASES[0][1]], "--tokenizer", tokenizer, "--visual-tokens", "7", model=False)
    _, full, _, _ = validate([CASES[0][1]])
    assert status == 0 and full["tokens"]["p100"] - report["tokens"]["p100"] == 576 - 7
    assert rules_of_tokenizer(tokenizer, 5).count_visual_tokens([(1, 1), (2, 2)]) == [5, 5]


def test_form_and_images_need_no_tokenizer(validate):
    status, report, _, _ = validate([entry for _, entry in CASES], model=False)
    assert status == 1 and report["tokens"] == {} and report["images"]["count"] == 5
    assert (
        "no targets" not in report["counts"] and report["counts"]["image too large"] == 1
    )  # nothing says that it is padded


def test_lines_of_jsonl_that_are_not_json_are_problems_of_their_own(validate):
    lines = [json.dumps(CASES[1][1]), "{broken", "", json.dumps(CASES[0][1])]
    status, report, _, _ = validate("\n".join(lines), name="data.jsonl")
    assert status == 1 and report["num_entries"] == 3
    assert report["problems"] == {
        "schema": [
            {
                "place": "line 2",
                "id": None,
                "message": "not valid JSON: Expecting property name enclosed in double quotes (column 2)",
            }
        ]
    }


def test_the_exit_status_tells_bad_data_from_a_bad_command(validate, oracle_dir, tmp_path):
    for content, message in (("[{", "is not valid JSON"), ("[]", "must hold a non-empty list")):
        status, report, shown, _ = validate(content, model=False)
        assert status == 1 and report["num_bad"] == 1 and message in report["problems"]["file"][0]["message"]
        assert message in shown and "the file cannot be trained on" in shown
    (tmp_path / "data.json").unlink()
    status, _, _, errors = validate(None, model=False)
    assert status == 2 and "data.json is not a file" in errors
    entries = [CASES[0][1]]
    for flags, message in (
        (["--version", "v9"], "--version 'v9' is not a training template"),
        (["--image-folder", str(tmp_path / "none")], "is not a folder"),
        (["--model-path", str(tmp_path)], "there is no config.json"),
        (["--tokenizer", str(tmp_path)], "no tokenizer"),
        (["--report", str(tmp_path / "data.json" / "x.json")], "data.json"),
        (["--report", str(tmp_path / "out" / ".." / "data.json")], "would overwrite the data"),
        (["--compression", "visonzip=54"], "compression 'visonzip=54' is not of the form"),
        (["--compression", "nosuch:64"], "nosuch"),
        (["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--image-aspect-ratio", "anyres"], "grid_pinpoints"),
    ):
        status, _, _, errors = validate(entries, *flags, model=False)
        assert status == 2 and message in errors, (flags, errors)
    assert json.loads((tmp_path / "data.json").read_text()) == entries
    for flags in (
        ["--workers", "-1"],
        ["--visual-tokens", "-5"],
        ["--max-pixels", "0"],
        ["--model-max-length", "0"],
        ["--image-aspect-ratio", "padd"],
    ):
        with pytest.raises(SystemExit) as caught:
            validate(entries, *flags, model=False)
        assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2


def test_validate_and_training_agree(validate, folder, oracle_dir, tmp_path):
    """What passes can be made, what is a problem cannot: entry by entry, by training's own reader and dataset."""
    rules = rules_of_model(oracle_dir / "tiny-llava-v1.5")
    template = get_template("v1")
    for kind, entry in CASES:
        (tmp_path / "one.json").write_text(json.dumps([entry]))
        try:
            dataset = LlavaDataset(
                read_records(tmp_path / "one.json", template),
                tokenizer=rules.tokenizer,
                template=template,
                image_processor=None,
                image_config=rules.config,
                image_folder=folder,
                count_visual_tokens=rules.count_visual_tokens,
                max_length=2048,
                max_pixels=1_000_000,
            )
            trained = not hasattr(dataset.example(0), "reason")
        except (ValueError, SampleError):
            trained = False
        assert trained == (validate([entry])[0] == 0) == (not kind), entry


def test_help_imports_no_torch():
    code = """
import sys
from llava.data import subset, validate
from llava.data.prepare import command
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
