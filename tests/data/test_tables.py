"""Parquet and Arrow tables as training data: the same records as JSON, and clear words where a table is wrong."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
import torch
from datasets import DatasetDict
from PIL import Image
from torch.utils.data import DataLoader

from llava.data.dataset import LlavaDataset, SampleError, Skipped, TrainingSample
from llava.data.open_records import open_records, select_records
from llava.data.presence import check_images_exist
from llava.data.records import images_of, read_records, source_of
from llava.data.subset import content_hash, subset_indices, subset_manifest
from llava.data.tables.open_table import is_table
from llava.data.templates import get_template
from llava.data.validate import main as validate
from llava.model.builder import load_pretrained_model
from tests.data import tables

V1 = get_template("v1")
KINDS = ["parquet", "shards", "pattern", "arrow", "saved", "copied", "several", "several saved", "paths"]


def png(colour: str = "red", size: tuple[int, int] = (12, 8)) -> dict[str, object]:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def row(identity: str = "a", image: object = None, question: str | None = None, answer: str = "Red.") -> dict:
    asked = question or ("<image>\nWhat?" if image else "Hi")
    return {
        "id": identity,
        "image": image,
        "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}],
    }


@pytest.fixture(scope="module")
def records(oracle_dir):
    """LLaVA's JSON with and without images, twice as long as recorded."""
    return [
        {**record, "id": f"{record['id']} {turn}"}
        for turn in range(2)
        for record in json.loads((oracle_dir / "train_tiny.json").read_text())
    ]


@pytest.fixture
def write(records, oracle_dir, tmp_path):
    """The same entries as a table of each kind; what `--data_path` and `--data_cache` are."""

    def write(kind: str) -> tuple[str, Path | None]:
        rows = tables.rows_of(records, oracle_dir / "images")
        folder = tmp_path / "table"
        if kind in ("parquet", "copied"):
            file = tables.write_parquet(folder / "rows.parquet", rows)
            return str(file), tmp_path / "copies" if kind == "copied" else None
        if kind == "several":
            return str(tables.write_shards(folder, tables.several(rows), tables.SEVERAL)), None
        if kind == "paths":
            schema = tables.SCHEMA.set(1, pyarrow.field("image", pyarrow.string()))
            return str(tables.write_parquet(folder / "rows.parquet", records, schema)), None
        if kind == "arrow":
            return str(tables.write_arrow(folder / "rows.arrow", rows)), None
        if kind.endswith("saved"):
            many = kind.startswith("several")
            dataset = tables.dataset_of(
                tables.several(rows) if many else rows, tables.SEVERAL if many else tables.SCHEMA
            )
            dataset.save_to_disk(str(folder), num_shards=2)
            return str(folder), None
        tables.write_shards(folder, rows)
        return str(folder / "data" / "*.parquet" if kind == "pattern" else folder), None

    return write


@pytest.fixture(scope="module")
def make(oracle_dir):
    tokenizer, model, image_processor, _ = load_pretrained_model(oracle_dir / "tiny-llava-v1.5", device="cpu")

    def make(records, image_folder=None, **changes) -> LlavaDataset:
        given = {
            "tokenizer": tokenizer,
            "template": V1,
            "image_processor": image_processor,
            "image_config": model.config,
            "image_folder": image_folder,
            "count_visual_tokens": model.num_visual_tokens,
            "max_length": 2048,
            **changes,
        }
        return LlavaDataset(records, **given)

    return make


def same(ours, expected) -> bool:
    assert isinstance(ours, TrainingSample) and isinstance(expected, TrainingSample)
    return (
        ours.input_ids.tolist() == expected.input_ids.tolist()
        and ours.labels.tolist() == expected.labels.tolist()
        and ours.image_sizes == expected.image_sizes
        and len(ours.images) == len(expected.images)
        and all(torch.equal(a, b) for a, b in zip(ours.images, expected.images, strict=True))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_those_of_the_json_in_its_order(kind, write, make, records, oracle_dir, tmp_path):
    (tmp_path / "data.json").write_text(json.dumps(records))
    expected = make(read_records(tmp_path / "data.json", V1), oracle_dir / "images")
    path, cache = write(kind)
    assert is_table(path)
    ours = make(open_records(path, V1, cache), oracle_dir / "images" if kind == "paths" else None)
    assert len(ours) == len(expected) == 2 * len({record["id"].split()[0] for record in records})
    assert [record["id"] for record in ours.records] == [record["id"] for record in records]
    assert ours.modality_lengths == expected.modality_lengths
    check_images_exist(ours, is_quiet=True)
    for index in [*range(len(ours)), 0, -1]:
        assert same(ours[index], expected[index]), index
    loader = DataLoader(ours, batch_size=2, num_workers=2, collate_fn=list)
    for index, sample in enumerate(sample for batch in loader for sample in batch):
        assert same(sample, expected[index])
    if kind == "copied":
        assert list(cache.rglob("*.arrow"))
    elif "saved" not in kind and kind != "arrow":
        assert not list(tmp_path.rglob("*.arrow"))


@pytest.mark.parametrize("kind", ["shards", "several", "saved", "arrow"])
def test_what_is_sent_to_another_process_holds_no_images(kind, write, tmp_path):
    records = open_records(write(kind)[0], V1)
    images = [image for record in records for image in images_of(record)]
    content = [image.read() for image in images]
    sent = pickle.dumps(records)  # as to the workers where processes are not forked
    assert content and not any(part[-40:] in sent for part in content)
    again = [image for record in pickle.loads(sent) for image in images_of(record)]
    assert again == images and [image.read() for image in again] == content


def test_no_copy_lands_in_the_cache_of_datasets(write, tmp_path):
    code = "import sys; from llava.data.open_records import open_records\n"
    code += "from llava.data.templates import get_template\n"
    code += "records = open_records(sys.argv[1], get_template('v1')); print(len(records), 'torch' in sys.modules)"
    home = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_DATASETS_CACHE": str(tmp_path / "home/datasets")}
    path, _ = write("shards")
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, env=home)
    assert int(done.stdout.split()[0]) > 0
    assert [file for file in (tmp_path / "home").rglob("*") if file.is_file()] == []


def test_json_never_imports_datasets(oracle_dir, tmp_path):
    code = "import sys; from llava.data.validate import main\n"
    code += (
        "status = main(sys.argv[1:]); assert not {'datasets', 'pyarrow'} & set(sys.modules); raise SystemExit(status)"
    )
    flags = ["--data-path", oracle_dir / "train_tiny.json", "--image-folder", oracle_dir / "images", "--workers", "0"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, flags)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_part_of_a_table_is_drawn_as_from_json(write, records, tmp_path):
    path, _ = write("shards")
    table = open_records(path, V1)
    indices = subset_indices(len(table), 0.5, 7)
    part = select_records(table, indices)
    assert [record["id"] for record in part] == [records[index]["id"] for index in indices]
    assert [record["id"] for record in part[1:]] == [records[index]["id"] for index in indices[1:]]
    assert part[-1]["id"] == records[indices[-1]]["id"]
    manifest = subset_manifest(path, table, indices, 0.5, 7)
    assert manifest["sha256"] == content_hash(path, part) and manifest["ids"] == [record["id"] for record in part]
    assert set(manifest["sources"]) <= {"tiny", "text"}


def test_a_table_is_known_by_its_content(tmp_path):
    def known(name: str, rows: list[dict], cache: Path | None = None) -> str:
        path = tables.write_parquet(tmp_path / f"{name}.parquet", rows)
        return content_hash(path, open_records(path, V1, cache))

    rows = [row("a", png()), row("b")]
    same = known("one", rows)
    assert same == known("another name", rows) == known("one", rows, tmp_path / "copies")
    others = {
        "text": [row("a", png()), row("b", answer="Tan.")],
        "order": rows[::-1],
        "ids": [row("a", png()), row("c")],
        "image": [row("a", png(size=(30, 90))), row("b")],
        "no image": [row("a", question="What?"), row("b")],
    }
    hashes = {name: known(name, changed) for name, changed in others.items()}
    assert len({same, *hashes.values()}) == len(others) + 1


def test_several_images_and_none(make, tmp_path):
    pair = {"id": "pair", "images": [png("red"), png("blue", (5, 9))], "conversations": row()["conversations"]}
    pair["conversations"] = [{"from": "human", "value": "<image>\n<image>\nWhich?"}, {"from": "gpt", "value": "One."}]
    rows = [pair, {**row("none"), "images": []}, {**row("null"), "images": None}]
    dataset = make(open_records(tables.write_parquet(tmp_path / "a.parquet", rows, tables.SEVERAL), V1))
    assert dataset[0].image_sizes == [(12, 8), (5, 9)]
    assert not dataset[1].images and not dataset[2].images
    assert [source_of(record) for record in dataset.records] == ["(table)", "text", "text"]
    assert images_of(dataset.records[0])[1].name.endswith("a.parquet, row 0, image 1")


@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.struct([("bytes", pyarrow.binary())])])
def test_images_without_a_path_beside_them(kind, make, tmp_path):
    schema = tables.SCHEMA.set(1, pyarrow.field("image", kind))
    images = [png("red"), None, png("blue", (5, 9))]
    rows = [
        row(f"{number}", image and (image["bytes"] if kind == pyarrow.binary() else {"bytes": image["bytes"]}))
        for number, image in enumerate(images)
    ]
    dataset = make(open_records(tables.write_parquet(tmp_path / "a.parquet", rows, schema), V1))
    assert [dataset[index].image_sizes for index in range(3)] == [[(12, 8)], [], [(5, 9)]]
    with pytest.raises(ValueError, match="holds no rows"):
        open_records(tables.write_parquet(tmp_path / "a.parquet", [], schema), V1)


def test_what_is_wrong_with_an_image_names_file_and_row(make, tmp_path):
    cut = png("red", (64, 64))
    rows = [
        row("ok", png()),
        row("cut", {**cut, "bytes": cut["bytes"][:60]}),
        row("named", {"bytes": None, "path": "x"}),
    ]
    dataset = make(
        open_records(tables.write_parquet(tmp_path / "a.parquet", [*rows, row("big", png(size=(90, 90)))]), V1)
    )
    dataset.max_pixels = 8000
    place = f"{tmp_path / 'a.parquet'}, row"
    assert dataset[1] == Skipped("undecodable image", f"{place} 1")
    assert dataset[3] == Skipped("image too large", f"{place} 3")
    with pytest.raises(SampleError, match=r"a\.parquet, row 2 of sample 'named' is not in the table") as caught:
        dataset[2]
    assert caught.value.kind == "missing image"


def test_validation_counts_what_is_wrong_with_rows(tmp_path, capsys):
    rows = [row("ok", png()), row("bad", {"bytes": b"no image", "path": None}), row("text"), row("b", png(), "no tag")]
    rows += [row("silent") | {"conversations": row()["conversations"][:1]}, row("null") | {"conversations": None}]
    file = tables.write_parquet(tmp_path / "a.parquet", rows)
    report = tmp_path / "report.json"
    for workers in ("0", "2"):
        flags = ["--data-path", str(file), "--workers", workers, "--report", str(report)]
        assert validate(flags) == 1
        found = json.loads(report.read_text())
        assert found["num_entries"] == 6 and found["num_bad"] == 4
        assert found["counts"] == {"image count": 1, "no answer": 1, "schema": 1, "undecodable image": 1}
        assert found["problems"]["undecodable image"][0]["place"] == f"{file}, row 1"
        assert found["images"]["count"] == 1
    assert "4 of 6 entries cannot be trained on" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"a\.parquet, row 3 \(id 'b'\): "):
        open_records(file, V1)


def write_wrong(kind: str, folder: Path) -> object:
    """A table with one fault, or a name of none."""
    good, without = [row("a", png())], tables.SCHEMA.remove(2)
    if kind == "no conversations":
        return tables.write_parquet(folder / "a.parquet", [{"id": "a"}], without)
    if kind == "conversations as text":
        text = tables.SCHEMA.set(2, pyarrow.field("conversations", pyarrow.string()))
        return tables.write_parquet(folder / "a.parquet", [{"id": "a", "conversations": "hi"}], text)
    if kind == "image of numbers":
        number = tables.SCHEMA.set(1, pyarrow.field("image", pyarrow.int64()))
        return tables.write_parquet(folder / "a.parquet", [row("a", None) | {"image": 3}], number)
    if kind == "empty":
        return tables.write_parquet(folder / "a.parquet", [])
    if kind == "no parquet":
        folder.mkdir()
        (folder / "a.parquet").write_text("<html>")
        return folder / "a.parquet"
    if kind == "no arrow":
        folder.mkdir()
        (folder / "a.arrow").write_text("<html>")
        return folder / "a.arrow"
    if kind == "half":
        tables.write_shards(folder, good * 4)
        (folder / "data/train-00001-of-00002.parquet").unlink()
    if kind == "other split":
        tables.write_parquet(folder / "data/validation-00000-of-00001.parquet", good)
    if kind == "pictures":
        folder.mkdir()
        (folder / "a.png").write_bytes(good[0]["image"]["bytes"])
    if kind == "nothing":
        folder.mkdir()
    if kind == "several splits":
        DatasetDict({"train": tables.dataset_of(good)}).save_to_disk(str(folder))
    if kind == "no file":
        return folder / "*.parquet"
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no conversations", r"a\.parquet has no column 'conversations'; it has id, image, data_source"),
        ("conversations as text", r"a\.parquet: column 'conversations' must be a list .* is string"),
        ("image of numbers", r"a\.parquet: column 'image' must hold images .* is int64"),
        ("empty", r"a\.parquet holds no rows"),
        ("no parquet", r"a\.parquet is not a readable parquet file"),
        ("no arrow", r"a\.arrow is not a readable Arrow file"),
        ("half", r"train-00001-of-00002\.parquet is missing"),
        (
            "other split",
            r"has no split 'train', but: validation\. Name files, such as .*/data/validation-\*\.parquet",
        ),
        ("pictures", r"its files end in \.png, not in \.parquet or \.arrow"),
        ("nothing", r"folder"),
        ("several splits", r"holds several splits; name the folder of one, such as .*train"),
        ("no file", r"\*\.parquet: there is no such file"),
    ],
)
def test_a_table_that_cannot_be_trained_on_is_refused_in_a_line(kind, message, tmp_path):
    wrong = write_wrong(kind, tmp_path / "folder")
    with pytest.raises(ValueError, match=message) as caught:
        open_records(wrong, V1)
    assert "\n" not in str(caught.value)
