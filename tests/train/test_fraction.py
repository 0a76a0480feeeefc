"""A recipe's part of the data is a part of its own data; of a user's file all samples are trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.data.prepare.origin import dataset_of
from llava.train.arguments import parse_arguments

TUNING = "llava-v1.5-7b-visionzip-64"  # a tenth of LLaVA-665K
NAME = "llava_v1_5_mix665k"


def fraction(*words: str, recipe: str | Path = TUNING) -> float:
    given = ["--recipe", str(recipe), *words, "--use_cpu", "True", "--output_dir", "out"]
    return parse_arguments(given).data.data_fraction


@pytest.fixture
def prepared(tmp_path):
    """A root as `llava.data.prepare` leaves it."""
    root = tmp_path / "prepared"
    root.mkdir()
    for name in (f"{NAME}.json", f"{NAME}.reduced.json", "mine.json"):
        (root / name).write_text("[]\n")
    entry = {"url": "u", "size": 3, "sha256": "0" * 64, "mtime_ns": 0}
    (root / "prepare.lock.json").write_text(json.dumps({"version": 1, "files": {f"{NAME}.json": entry}}))
    return root


def test_it_holds_for_the_recipes_own_data(tmp_path):
    assert fraction() == 0.1
    assert fraction("--data_path", f"./playground/data/{NAME}.json") == 0.1


def test_it_does_not_hold_for_other_data(tmp_path):
    file = tmp_path / f"{NAME}.json"  # by its name alone nothing is known
    file.write_text("[]")
    for named in (str(file), "hf:lmms-lab/LLaVA-NeXT-Data", "data/*.parquet"):
        assert fraction("--data_path", named) == 1
        assert fraction(f"--data-path={named}") == 1
    arguments = parse_arguments(
        ["--recipe", TUNING, "--data_path", str(file), "--use_cpu", "True", "--output_dir", "out"]
    )
    (note,) = arguments.notes
    assert note.startswith(f"the recipe's data_fraction 0.1 is meant for playground/data/{NAME}.json; of {file} all")


def test_it_holds_for_what_prepare_recorded_as_the_same_data(prepared):
    for name, expected in ((f"{NAME}.json", 0.1), (f"{NAME}.reduced.json", 0.1), ("mine.json", 1)):
        assert fraction("--data_path", str(prepared / name)) == expected
    assert dataset_of(prepared / f"{NAME}.json") == dataset_of(prepared / f"{NAME}.reduced.json") == "llava-665k"
    (prepared / f"{NAME}.json").write_text("[1, 2, 3]\n")  # another file by that name
    assert dataset_of(prepared / f"{NAME}.json") is None
    assert dataset_of(prepared / "gone.json") is dataset_of("hf:a/b") is None


def test_the_command_line_is_followed(tmp_path, prepared):
    for data in (tmp_path / "mine.json", prepared / f"{NAME}.json"):
        assert fraction("--data_path", str(data), "--data_fraction", "0.5") == 0.5
        assert fraction("--data_path", str(data), "--data-fraction=0.1") == 0.1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data_path: mine.json", 1),
        ("data-path: mine.json\ndata-fraction: 0.5", 0.5),
        ("data_fraction: 0.5", 0.5),  # of the data of the recipe that it extends
    ],
)
def test_a_recipe_that_extends_another(text, expected, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"extends: {TUNING}\n{text}\n")
    assert fraction(recipe=file) == expected
    assert fraction("--data_path", "other.json", recipe=file) == 1


def test_a_recipe_without_data_means_any(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("model_name_or_path: m\ndata_fraction: 0.5\n")
    assert fraction("--data_path", "mine.json", recipe=file) == 0.5


def test_a_damaged_record_is_told(prepared):
    (prepared / "prepare.lock.json").write_text("{")
    with pytest.raises(ValueError, match=r"prepare\.lock\.json is not a record of downloads"):
        fraction("--data_path", str(prepared / "mine.json"))
