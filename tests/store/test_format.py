"""What lies on the disk: whole or not there, whenever a process is killed; once, however many write."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava.encoded import writer as writer_module
from llava.encoded.errors import StoreError, StoreMismatchError
from llava.encoded.index import FileStamp
from llava.encoded.layout import STORED_TYPES, Layout
from llava.encoded.rows import Rounding, pack_rows, unpack_rows
from llava.encoded.store import EncodedStore, make_store, open_store
from llava.encoded.writer import EncodedRows, StoreWriter

LAYOUT = Layout("tower", "float32", "float32", 4, 3, (2, 2), several_tiles=True, positions=True, num_dominant=2)
PARTS = {"stage": "tower", "tower": "a" * 64, "dtype": "float32", "compression": None}


def _rows(number: int, tiles: int = 2) -> EncodedRows:
    rows = torch.arange(tiles * 12, dtype=torch.float32).view(-1, 4) + 100 * number
    return EncodedRows((640, 480), tiles, rows, (torch.arange(3) - 1).repeat(tiles))


def _content(number: int) -> str:
    return f"{number:064x}"


def _stamp(number: int) -> FileStamp:
    return FileStamp(f"/images/{number}.jpg", 10, number)


def _add(store: EncodedStore, *numbers: int) -> None:
    with StoreWriter(store) as writer:
        for number in numbers:
            writer.add(_content(number), _rows(number, 1 + number % 3))
            writer.add_stamps([(_stamp(number), _content(number))])


def _check(store: EncodedStore, *numbers: int) -> None:
    """Every image is there, once, whole, and nothing else takes place on the disk."""
    assert sorted(store) == [_content(number) for number in sorted(numbers)]
    for number in numbers:
        image, expected = store[_content(number)], _rows(number, 1 + number % 3)
        assert torch.equal(image.tokens, expected.rows) and image.positions.tolist() == expected.positions.tolist()
        assert image.entry.size == (640, 480) and image.entry.tiles == expected.tiles
        assert store.index.find(_stamp(number)) == image.entry
    shards = [load_file(file)["tokens"] for file in store.folder.glob("*.safetensors")]
    assert sum(len(shard) for shard in shards) == sum(3 * (1 + number % 3) for number in numbers)


def test_images_come_back_by_hash_and_path(tmp_path):
    store = make_store(tmp_path / "store", LAYOUT, PARTS)
    _add(store, 1, 2)
    _add(open_store(store.folder), 3)
    store.index.refresh()
    _check(store, 1, 2, 3)
    assert len(store) == 3 and _content(9) not in store and store.num_bytes > 0
    with pytest.raises(KeyError, match="holds no image"):
        store[_content(9)]
    line = json.loads(next(store.folder.glob("*.jsonl")).read_text().splitlines()[1])
    assert set(line) == {"content", "size", "grid", "tiles", "K", "shard", "row"} and line["K"] == 3


def _killed_at(folder: Path, point: int, work: Callable[[], None]) -> bool:
    """Runs work in a process that kills itself at a call to the disk, by its number; whether it came so far."""
    child = os.fork()
    if child == 0:
        count = 0

        def dying(function):
            def call(*given, **named):
                nonlocal count
                if count == point:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                return function(*given, **named)

            return call

        for name in ("replace", "fsync", "open"):
            setattr(os, name, dying(getattr(os, name)))
        writer_module.save_file = dying(writer_module.save_file)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_a_process_killed_at_any_point_loses_and_doubles_nothing(tmp_path):
    """Killed at each write, rename and flush in turn; the next process finishes, and the disk holds each image once."""

    def two_shards() -> None:
        store = open_store(folder)
        with StoreWriter(store) as writer:
            for number in (1, 2, 3, 4):
                if not writer.holds(_content(number)):
                    writer.add(_content(number), _rows(number, 1 + number % 3))
                writer.add_stamps([(_stamp(number), _content(number))])
                if number == 2:
                    writer.commit()

    point, states = 0, set()
    while True:
        folder = tmp_path / str(point)
        make_store(folder, LAYOUT, PARTS)
        was_killed = _killed_at(folder, point, two_shards)
        left = open_store(folder)
        assert sorted(left) in ([], [_content(1), _content(2)], [_content(n) for n in (1, 2, 3, 4)])
        states.add(len(left))
        two_shards()
        _check(open_store(folder), 1, 2, 3, 4)
        assert not [*folder.glob(".*.part"), *folder.glob(".*.writing")]
        if not was_killed:
            break
        point += 1
    assert point >= 16 and states == {0, 2, 4}


def test_two_processes_that_add_the_same_images_store_them_once(tmp_path):
    folder = tmp_path / "store"
    make_store(folder, LAYOUT, PARTS)
    one, other = open_store(folder), open_store(folder)
    with StoreWriter(one) as first, StoreWriter(other, sweeps=True) as second:
        for number in (1, 2):
            first.add(_content(number), _rows(number, 1 + number % 3))
        for number in (2, 3):
            second.add(_content(number), _rows(number, 1 + number % 3))
        for number in (1, 2, 3):
            first.add_stamps([(_stamp(number), _content(number))])
    _check(open_store(folder), 1, 2, 3)


def test_a_living_writers_parts_are_left_alone(tmp_path):
    store = make_store(tmp_path / "store", LAYOUT, PARTS)
    with StoreWriter(store) as writer:
        mine = store.folder / f".{writer._name}-00000.safetensors.part"
        dead = store.folder / f".{'0' * 32}-00000.safetensors.part"
        orphan = store.folder / f"{'0' * 32}-00001.safetensors"
        for file in (mine, dead, orphan):
            file.write_bytes(b"x")
        _add(open_store(store.folder), 1)
        assert mine.is_file() and not dead.exists() and not orphan.exists()


def test_what_waits_is_written_when_it_is_much_or_old_and_at_ctrl_c(tmp_path, monkeypatch):
    store = make_store(tmp_path / "store", LAYOUT, PARTS)
    monkeypatch.setattr(writer_module, "SHARD_BYTES", 100)
    _add(store, 1, 2)
    assert len(store.index.shards) == 2
    monkeypatch.setattr(writer_module, "SHARD_BYTES", 2**30)
    monkeypatch.setattr(writer_module, "SHARD_SECONDS", 0)
    _add(store, 3, 4)
    assert len(store.index.shards) == 4
    with pytest.raises(KeyboardInterrupt), StoreWriter(store) as writer:
        writer.add(_content(5), _rows(5, 3))
        raise KeyboardInterrupt
    assert _content(5) in open_store(store.folder)


def test_damage_is_named(tmp_path):
    store = make_store(tmp_path / "store", LAYOUT, PARTS)
    _add(store, 1)
    [shard], [index] = store.folder.glob("*.safetensors"), store.folder.glob("*.jsonl")
    whole = index.read_bytes()
    index.write_bytes(whole[:-5])
    with pytest.raises(StoreError, match=rf"{index.name} is damaged .*; delete {index.name} and {shard.name}"):
        open_store(store.folder)
    index.write_bytes(whole)
    os.truncate(shard, shard.stat().st_size - 1)
    with pytest.raises(StoreError, match=rf"{shard.name} has \d+ bytes, and should have"):
        open_store(store.folder)
    shard.unlink()
    with pytest.raises(StoreError, match=rf"{shard.name} is not there"):
        open_store(store.folder)
    index.unlink()
    (store.folder / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match=r"manifest.json is damaged"):
        open_store(store.folder)


@pytest.mark.parametrize("change", [{"stored": "int4"}, {"channels": "4"}, {"grid": None}, {"more": 1}, {"nested": 1}])
def test_a_wrong_layout_is_told_and_no_traceback(change, tmp_path):
    store = make_store(tmp_path / "store", LAYOUT, PARTS)
    manifest = json.loads((store.folder / "manifest.json").read_text())
    manifest["layout"] |= change
    (store.folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"manifest.json is damaged \(its layout"):
        open_store(store.folder)


def test_no_store_an_old_cache_and_another_format_are_told(tmp_path):
    with pytest.raises(StoreError, match=r"no store of images, there is no manifest.json; `llava store build`"):
        open_store(tmp_path)
    (tmp_path / "key.json").write_text("{}")
    for open_it in (open_store, lambda folder: make_store(folder, LAYOUT, PARTS)):
        with pytest.raises(StoreError, match=r"of an earlier version \(key.json, \*.bin\), which is read no more"):
            open_it(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["key.json"]
    store = make_store(tmp_path / "store", LAYOUT, PARTS)
    manifest = json.loads((store.folder / "manifest.json").read_text())
    (store.folder / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(StoreError, match="of format 2, and this version reads format 1"):
        open_store(store.folder)


def test_what_was_made_otherwise_is_refused_and_the_part_is_named(tmp_path):
    make_store(tmp_path, LAYOUT, PARTS)
    for change, told in (
        ({"tower": "b" * 64}, "tower is aaaaaaaaaaaa, this model's is bbbbbbbbbbbb"),
        ({"compression": {"method": "visionzip", "dominant": 5}}, "compression is none, this model's is visionzip:5"),
        ({"dtype": "float16", "tower": "b" * 64}, 'dtype is "float32", this model\'s is "float16". Take'),
    ):
        with pytest.raises(StoreMismatchError, match=told):
            make_store(tmp_path, LAYOUT, PARTS | change)


@pytest.mark.parametrize("stored", STORED_TYPES)
def test_rows_are_rounded_as_their_type_says(stored):
    rows = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 2, 50).unsqueeze(1)
    packed, scales = pack_rows(rows, stored)
    back = unpack_rows(packed, scales, "float32")
    error = Rounding()
    error.measure(rows, packed, scales)
    relative = float((back - rows).double().square().sum().sqrt() / rows.double().square().sum().sqrt())
    assert error.rms == pytest.approx(relative, rel=1e-3, abs=1e-12)
    largest = ((back - rows).abs() / rows.abs().amax(dim=1, keepdim=True)).max()
    assert error.largest == pytest.approx(float(largest), rel=1e-3, abs=1e-9)
    bound = {"float32": 0, "bfloat16": 2**-8, "float16": 2**-11, "int8": 0.5 / 127}[stored]
    assert error.largest <= bound * 1.001 and (error.largest > 0) == (stored != "float32")
    assert packed.shape == rows.shape and (scales is not None) == (stored == "int8")


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(StoreError, match=r"a feature of 1e\+05 does not fit float16; take bfloat16"):
        pack_rows(torch.tensor([[1e5, 0.0]]), "float16")
    for stored in STORED_TYPES:
        with pytest.raises(StoreError, match="not finite"):
            pack_rows(torch.tensor([[float("nan"), 1.0]]), stored)
    packed, scales = pack_rows(torch.zeros(1, 3), "int8")
    assert unpack_rows(packed, scales, "float16").tolist() == [[0.0, 0.0, 0.0]]
