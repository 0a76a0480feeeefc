"""Forms of tables that other tools write: read like any other, or refused in a line that says why."""

from __future__ import annotations

import glob
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
from PIL import Image

from llava.data.open_records import open_records
from llava.data.records import images_of
from llava.data.subset import content_hash
from llava.data.tables.open_table import open_table
from llava.data.templates import get_template
from llava.data.validate import main as validate
from tests.data import tables

V1 = get_template("v1")


@pytest.fixture(scope="module")
def png(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("image") / "red.png"
    Image.new("RGB", (12, 8), "red").save(path)
    return path.read_bytes()


def row(identity: str, **images: Any) -> dict[str, Any]:
    asked = "<image>\nWhat?" if any(images.values()) else "Hi"
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": "Red."}]
    return {"id": identity, "conversations": turns, **images}


def write(path: Path, rows: list[dict[str, Any]], **kinds: Any) -> Path:
    """A parquet file with these columns beside `id` and `conversations`."""
    schema = pyarrow.schema([("id", pyarrow.string()), ("conversations", tables.TURNS), *kinds.items()])
    return tables.write_parquet(path, rows, schema)


def stored(content: bytes) -> dict[str, Any]:
    return {"bytes": content, "path": None}


@pytest.mark.parametrize("first", ["no image column", "no rows", "another name"])
def test_a_copy_holds_the_images_of_each_file(first, png, tmp_path):
    folder = tmp_path / "data"
    if first == "no image column":
        write(folder / "0.parquet", [row("a")])
    elif first == "no rows":
        write(folder / "0.parquet", [], image=tables.IMAGE)
    else:
        write(folder / "0.parquet", [row("a", images=[stored(png)])], images=pyarrow.list_(tables.IMAGE))
    write(folder / "1.parquet", [row("b", image=stored(png))], image=tables.IMAGE)
    path = folder / "*.parquet"
    in_place, copied = open_records(path, V1), open_records(path, V1, tmp_path / "copies")
    assert [image.read() for image in images_of(copied[-1])] == [png]
    assert [len(images_of(record)) for record in copied] == [len(images_of(record)) for record in in_place]
    assert content_hash(path, copied) == content_hash(path, in_place)


def test_a_copy_that_fails_says_why(png, tmp_path):
    file = write(tmp_path / "a.parquet", [row(f"{n}", image=stored(png)) for n in range(9)], image=tables.IMAGE)
    content = bytearray(file.read_bytes())
    content[4:40] = b"x" * 36  # the first page; the footer is whole
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.parquet cannot be copied to .*copies: ") as caught:
        open_table(file, tmp_path / "copies")
    assert "\n" not in str(caught.value) and "error occurred while generating" not in str(caught.value)


def test_a_name_is_no_pattern(png, tmp_path):
    def table(name: str) -> Path:
        return write(
            tmp_path / name / "train-00000-of-00001.parquet", [row(name, image=stored(png))], image=tables.IMAGE
        )

    table("run1")
    file = table("run[1]")
    for cache in (None, tmp_path / "copies"):
        assert open_table(file, cache)[0]["id"] == "run[1]"
    with pytest.raises(ValueError, match=r"run\[1\]: .* rename it, or name files: (.*)") as caught:
        open_table(file.parent)
    pattern = str(caught.value).rsplit("name files: ")[1]
    assert pattern.startswith(glob.escape(str(file.parent))) and open_table(pattern)[0]["id"] == "run[1]"


@pytest.mark.parametrize("kind", [pyarrow.null(), pyarrow.list_(pyarrow.null())])
def test_a_column_of_nulls_hides_no_images(kind, png, tmp_path):
    rows = [row("a", image=None, images=[stored(png)])]
    file = write(tmp_path / "a.parquet", rows, image=kind, images=pyarrow.list_(tables.IMAGE))
    assert [image.read() for image in images_of(open_records(file, V1)[0])] == [png]
    both = write(tmp_path / "b.parquet", rows, image=tables.IMAGE, images=pyarrow.list_(tables.IMAGE))
    with pytest.raises(ValueError, match=r"b\.parquet has both columns 'image' and 'images'"):
        open_records(both, V1)


def test_validation_warns_of_a_tag_without_an_image(tmp_path, capsys):
    rows = [row("plain"), {**row("blind", image="x"), "image": None}]
    file = write(tmp_path / "a.parquet", rows, image=tables.IMAGE)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    for path in (file, tmp_path / "a.json"):
        assert validate(["--data-path", str(path), "--workers", "0", "--report", str(tmp_path / "r.json")]) == 0
        warnings = json.loads((tmp_path / "r.json").read_text())["warnings"]
        assert [entry["id"] for entry in warnings["<image> without an image"]] == ["blind"]
        assert "1 with <image> and no image" in capsys.readouterr().out


def test_an_image_that_is_no_image_is_reported_with_the_reason(tmp_path):
    file = write(tmp_path / "a.parquet", [row("a", image={"bytes": b"", "path": "x"})], image=tables.IMAGE)
    assert validate(["--data-path", str(file), "--workers", "0", "--report", str(tmp_path / "r.json")]) == 1
    (problem,) = json.loads((tmp_path / "r.json").read_text())["problems"]["undecodable image"]
    assert "a.parquet, row 0: <0 bytes>: not an image" in problem["message"]


@pytest.mark.parametrize("cached", [False, True])
def test_categories_and_views(cached, png, tmp_path):
    cache = tmp_path / "copies" if cached else None
    names = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    for number, (kind, image) in enumerate([(names, "x.png"), (pyarrow.string_view(), "x.png")]):
        file = write(tmp_path / f"{number}.parquet", [row("a", image=image)], image=kind)
        assert open_records(file, V1, cache)[0]["image"] == image
    file = write(tmp_path / "view.parquet", [row("a", image=png), row("b", image=None)], image=pyarrow.binary_view())
    records = open_records(file, V1, cache)
    assert [[image.read() for image in images_of(record)] for record in records] == [[png], []]


@pytest.mark.parametrize("compression", ["uncompressed", "lz4"])
def test_arrow_files_with_random_access(compression, png, tmp_path):
    rows = [row("a", image=stored(png)), row("b", image=None)]
    table = pyarrow.parquet.read_table(write(tmp_path / "a.parquet", rows, image=tables.IMAGE))
    pyarrow.feather.write_feather(table, tmp_path / "a.arrow", compression=compression)
    records = open_records(tmp_path / "a.arrow", V1)
    assert [[image.read() for image in images_of(record)] for record in records] == [[png], []]


def write_wrong(kind: str, folder: Path) -> Path:
    """A folder, or a file in it, with one fault."""
    file = folder / "train.parquet"
    if kind == "test split":
        write(folder / "test-00000-of-00001.parquet", [row("a")])
    elif kind == "saved":
        tables.dataset_of([row("a", image=None)]).save_to_disk(str(folder))
        (folder / "state.json").write_text('{"_data_files": 3}')
    elif kind == "twice":
        table = pyarrow.parquet.read_table(write(file, [row("a")]))
        pyarrow.parquet.write_table(table.append_column("conversations", table["conversations"]), file)
        return file
    else:
        write(file, [row("a")])
    if kind == "script":
        (folder / f"{folder.name}.py").write_text("")
    if kind == "yaml":
        (folder / "README.md").write_text("---\nconfigs: [a: b: c\n---\n")
    if kind == "numbers":
        (folder / "README.md").write_text("---\nconfigs:\n- 3\n---\n")
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("test split", r"no split 'train', but: test\. Name files, such as .*folder/test-\*\.parquet$"),
        ("saved", r"folder cannot be read as a saved dataset; look at its state\.json"),
        ("twice", r"train\.parquet has 2 columns 'conversations'; keep one"),
        ("script", r"folder: Dataset scripts are no longer supported"),
        ("yaml", r"folder/README\.md: its YAML header .*line 1, column 10"),
        ("numbers", r"folder/README\.md: its YAML header "),
    ],
)
def test_what_is_wrong_is_told_in_a_line(kind, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        open_records(write_wrong(kind, tmp_path / "folder"), V1)
    assert "\n" not in str(caught.value)


def test_a_folder_of_two_kinds_of_files_is_refused_and_no_half_is_read(png, tmp_path):
    write(tmp_path / "a.parquet", [row("a", image=stored(png))], image=tables.IMAGE)
    tables.write_arrow(tmp_path / "b.arrow", [row("b", image=stored(png))])
    with pytest.raises(ValueError, match=r"its files end in \.arrow, \.parquet"):
        open_table(tmp_path)


def test_the_present_folder_is_a_folder_like_others(png, tmp_path, monkeypatch):
    write(tmp_path / "a.parquet", [row("a", image=stored(png))], image=tables.IMAGE)
    monkeypatch.chdir(tmp_path)
    assert [len(open_table(place)) for place in (".", "./")] == [1, 1]
