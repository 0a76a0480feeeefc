"""`llava store build`: what it stores is what the model encodes; it goes on, shares out, and refuses in a line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import PIL.Image
import pytest
import torch

import llava.store
from llava.encoded.made_with import ModelFacts
from llava.encoded.store import open_store
from llava.images.processing import process_images
from llava.inference import Inference
from llava.model.builder import instantiate
from llava.model.checkpoints.parts import parts_of_checkpoint
from llava.store.command import main
from llava.store.encoder import new_layout
from tests.model.tiny import hf_llava, hf_llava_next
from tests.store.conftest import MODEL
from tests.train.conftest import launch_environment


def _live(inference: Inference, files: list[Path]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Features of each image, all encoded in one batch, and the positions kept."""
    images = inference.open(files)
    pixels = process_images(images, inference.image_processor, inference.model.config)
    with torch.inference_mode():
        sizes = [image.size for image in images]
        return inference.model.encode_each(pixels, sizes), inference.model.compress_images(pixels, sizes).positions


def test_stored_rows_are_those_of_the_model(build, inference, files, tmp_path, capsys):
    store = build(tmp_path / "store")
    assert "6 images" in capsys.readouterr().out
    features, positions = _live(inference, files)
    for file, expected, where in zip(files, features, positions, strict=True):
        image = store[file]
        assert torch.equal(image.tokens, expected), "the same batch shape, so bit for bit"
        assert torch.equal(image.positions.long(), where)
        alone = _live(inference, [file])[0][0]
        assert ((image.tokens - alone).norm() / alone.norm()) <= 1e-5
    assert store.layout.tokens == 49 and store.num_bytes == pytest.approx(6 * 49 * (4 * 128 + 2), rel=0.01)
    assert isinstance(llava.store.open(store.folder), llava.store.EncodedStore)


def test_the_tower_stage_serves_another_projector(build, files, tmp_path):
    store = build(tmp_path / "store", "visionzip:41+8", "--stage", "tower")
    tuned = Inference.load(MODEL, device="cpu", compression="visionzip:41+8", image_store=store)
    with torch.no_grad():
        for parameter in tuned.model.model.multi_modal_projector.parameters():
            parameter.mul_(1.5)
    features, _ = _live(tuned, files)
    for image, expected in zip(tuned.look_at(files), features, strict=True):
        assert image.features is not None
        torch.testing.assert_close(image.features[0], expected, rtol=1e-5, atol=1e-5)
    assert store.layout.channels == 96


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "int8"])
def test_a_smaller_type_is_within_its_rounding_and_the_error_is_told(stored, build, inference, files, tmp_path, capsys):
    store = build(tmp_path / "store", "visionzip:41+8", "--store-dtype", stored)
    bound = {"float16": 2**-11, "bfloat16": 2**-8, "int8": 0.5 / 127}[stored]
    error = store.rounding
    assert f"rounding: {error.rms:.2e} of the numbers (rms), at most {error.largest:.2e}" in capsys.readouterr().out
    assert 0 < error.rms < 0.01 and error.largest <= bound * 1.001
    for file, expected in zip(files, _live(inference, files)[0], strict=True):
        assert ((store[file].tokens - expected).abs() <= expected.abs().amax(1, keepdim=True) * bound * 1.001).all()


@pytest.mark.parametrize("stage", ["tower", "projected"])
@pytest.mark.parametrize("compression", [None, "visionzip:5+2", "fastervlm:6"], ids=str)
@pytest.mark.parametrize("kind", ["llava", "llava_next"])
def test_every_family_and_stage(kind, compression, stage, tmp_path):
    """Through shards and back, tiles of several numbers, newlines and order included."""
    from llava.encoded.serving import features_of, tokens_of
    from llava.encoded.store import make_store
    from llava.encoded.writer import StoreWriter
    from llava.model.vision_tokens import VisionTokens
    from llava.store.encoder import Encoder
    from tests.model.tiny import random_pixels

    (hf_llava() if kind == "llava" else hf_llava_next()).save_pretrained(tmp_path / "model")
    model = instantiate(parts_of_checkpoint(tmp_path / "model"), dtype=torch.float32)
    model.set_compression(compression)
    sizes = [(28, 28), (100, 30), (56, 50)] if kind == "llava_next" else [(28, 28)] * 3
    from llava.model.anyres import TileLayout

    layout = TileLayout.from_config(model.config)
    counts = [layout.num_tiles(size) for size in sizes]
    pixels = [random_pixels(count, 3, 28, 28, seed=index) for index, count in enumerate(counts)]
    found = new_layout(model.model, stage)
    assert found.several_tiles == (kind == "llava_next")
    store = make_store(tmp_path / "store", found, {"stage": stage})
    with StoreWriter(store) as writer:
        for number, rows in enumerate(Encoder(model.model, found)(pixels, sizes)):
            writer.add(f"{number:064x}", rows)
    with torch.no_grad():
        expected = model.encode_images(pixels if found.several_tiles else torch.cat(pixels), sizes)
        entries = [store[f"{number:064x}"].entry for number in range(3)]
        if stage == "projected":
            given = [features_of(store, entry) for entry in entries]
        else:
            given = model.model.project(VisionTokens.join([tokens_of(store, entry) for entry in entries]), sizes)
    for ours, theirs in zip(given, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_a_second_build_adds_what_is_new_and_opens_nothing_else(build, pictures, tmp_path, capsys):
    images = tmp_path / "images"
    shutil.copytree(pictures, images)
    shutil.copy(images / "0.png", images / "same as 0.png")
    (images / "bad.png").write_bytes(b"no image")
    store = build(tmp_path / "store", images=images)
    assert len(store) == 6 and "bad.png: undecodable image" in capsys.readouterr().err
    for file in images.iterdir():  # same sizes, same times: whoever opens one of them fails
        found = file.stat()
        file.write_bytes(b"x" * found.st_size)
        os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    shutil.copy(pictures / "1.png", images / "new name of 1.png")
    PIL.Image.new("RGB", (50, 50), "green").save(images / "new.png")
    before = {file.name for file in store.folder.iterdir()}
    again = build(tmp_path / "store", images=images)
    said = capsys.readouterr()
    assert "8 of 10 images are there already" in said.out or "7 of 10" in said.out, said.out
    assert "process 0: 1 encoded" in said.out and len(again) == 7
    assert len({file.name for file in again.folder.iterdir()} - before) == 2
    assert again[images / "new name of 1.png"].entry == again[images / "1.png"].entry


def test_a_list_and_a_table_name_images(build, pictures, tmp_path):
    lines = [{"image": "0.png"}, {"id": 7, "image": ["1.png", "2.png"]}, {"text": "no image"}, {"image": "0.png"}]
    listed = pictures.parent / "list.jsonl"
    listed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(build(tmp_path / "a", "visionzip:41+8", "--image-folder", str(pictures), images=listed)) == 3
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageColumn

    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a"}]
    rows = {"image": [{"bytes": (pictures / f"{n}.png").read_bytes(), "path": None} for n in (3, 4)]}
    rows |= {"conversations": [turns, turns]}
    kinds = Features({"image": ImageColumn(), "conversations": [{"from": Value("string"), "value": Value("string")}]})
    Dataset.from_dict(rows, features=kinds).to_parquet(tmp_path / "table.parquet")
    store = build(tmp_path / "b", images=tmp_path / "table.parquet")
    assert len(store) == 2 and pictures / "3.png" in store, "by its content"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--images", "nowhere"], "--images nowhere: there is no such folder, list or data set"),
        (["--images", "{pictures}/0.png"], "0.png: this is a file; give a folder, LIST.jsonl or a table of training"),
        (["--images", "{empty}"], "there is no image"),
        (
            ["--images", "{missing}"],
            "missing.jsonl, line 1: there is no image {root}/no.png; --image-folder says where",
        ),
        (["--images", "{odd}"], "odd.jsonl, line 1: `image` is 5, and should be a path or several"),
        (
            ["--compression", "cdpruner:20", "--stage", "tower"],
            "cdpruner may read the question, for which the stage tower",
        ),
        (["--compression", "mmtok:20"], "mmtok chooses by the question, so what it keeps of an image cannot be stored"),
        (
            ["--compression", "mmtok:20,text=false", "--stage", "tower"],
            "mmtok chooses among the projector's rows, and the stage tower",
        ),
        (
            ["--compression", "visionzip:41+8", "--nested"],
            "--nested: visionzip has no order of selection that holds at",
        ),
        (
            ["--compression", "divprune:20", "--nested"],
            "--nested: divprune has no order of selection that holds at ever",
        ),
        (["--compression", "coverage:20", "--nested"], "coverage:20 merges, so tokens change with K; give options by"),
        (["--compression", "none", "--nested"], "--nested orders what a method chooses, and there is none"),
        (["--compression", "scope:20,adaptive=gain,threshold=0.01", "--stage", "tower"], "its tiles differ in their"),
        (["--compression", "scope:20,positions=restore"], "with positions=restore rows carry where they stand"),
        (["--images", "{pipes}"], "pipe.png: a broken link, a pipe or a device, and no file; take it away"),
        (["--output", "{pictures}/0.png"], "0.png: a file, and a store is a folder; take another name"),
        (["--output", "{old}"], "a cache of vision tokens in the form of an earlier version (key.json, *.bin)"),
    ],
)
def test_what_cannot_be_stored_is_told_in_a_line(words, told, pictures, tmp_path):
    for name, content in (("missing", {"image": "no.png"}), ("odd", {"image": 5})):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(content))
    for name in ("empty", "old", "pipes"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipes" / "pipe.png")
    (tmp_path / "old" / "key.json").write_text("{}")
    places = {name: tmp_path / name for name in ("empty", "old", "pipes")} | {"pictures": pictures, "root": tmp_path}
    places |= {name: tmp_path / f"{name}.jsonl" for name in ("missing", "odd")}
    given = {"--images": str(pictures), "--output": str(tmp_path / "store"), "--compression": "visionzip:41+8"}
    given = {"--model-path": str(MODEL), "--device": "cpu", **given}
    flags = [flag for flag, value in given.items() if flag not in words for flag in (flag, value)]
    with pytest.raises(SystemExit) as end:
        main(["build", *flags, *(word.format(**places) for word in words)])
    assert str(end.value).startswith("error: ") and told.format(**places) in str(end.value), end.value
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_a_store_of_another_model_or_form_is_not_added_to(build, tmp_path):
    build(tmp_path, "visionzip:41+8")
    for words, told in (
        (("visionzip:40+9",), "compression is visionzip:41+8, this model's is visionzip:40+9"),
        (("visionzip:41+8", "--stage", "tower"), 'stage is "projected", this model\'s is "tower"'),
        (("visionzip:41+8", "--dtype", "bfloat16"), 'dtype is "float32", this model\'s is "bfloat16"'),
        (("visionzip:41+8", "--autocast", "--dtype", "bfloat16"), "autocast is false, this model's is true"),
        (("visionzip:41+8", "--store-dtype", "int8"), "type is float32, asked for is int8; take another folder"),
    ):
        with pytest.raises(SystemExit, match="error: ") as end:
            build(tmp_path, *words)
        assert told in str(end.value)


def test_only_weights_that_are_run_count():
    """The layer behind the selected one is run by no method but those that read its queries and keys."""
    asking = Inference.load(MODEL, device="cpu", compression="visionzip:41+8")
    model = asking.model.model

    def tower() -> str:
        return ModelFacts(model, asking.image_processor, model.config).parts("tower")["tower"]

    before = tower()
    last = [weight for name, weight in model.vision_tower.named_parameters() if "layers.4.self_attn.q_proj" in name]
    with torch.no_grad():
        last[0].mul_(2)
    assert tower() == before
    model.set_compression("prumerge:20")
    read = tower()
    with torch.no_grad():
        last[0].mul_(2)
    assert tower() != read


def test_show_says_what_is_there(build, tmp_path, capsys):
    build(tmp_path / "store", "scope:20", "--nested", "--store-dtype", "int8")
    capsys.readouterr()
    assert main(["show", str(tmp_path / "store")]) == 0
    said = capsys.readouterr().out
    assert "6 images" in said and "compression scope:20, and every smaller K" in said
    assert "20 rows an image of 128 numbers in int8, computed in float32" in said and "rounding: " in said
    for words in (["show"], ["build"], ["build", str(tmp_path)]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2


SLOW = """
import sys, time
from llava.encoded import writer
from llava.store import encoder
from llava.store.command import main

writer.SHARD_BYTES = 1
call = encoder.Encoder.__call__
def slowly(self, *given):
    time.sleep(0.2)
    return call(self, *given)
encoder.Encoder.__call__ = slowly
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_build_goes_on_in_two_processes(pictures, tmp_path):
    images, output = tmp_path / "images", tmp_path / "store"
    images.mkdir()
    for number in range(40):
        PIL.Image.new("RGB", (60 + number, 50), (6 * number, 9, 90)).save(images / f"{number}.png")
    words = ["build", "--model-path", str(MODEL), "--device", "cpu", "--compression", "visionzip:41+8"]
    words += ["--images", str(images), "--output", str(output), "--batch-size", "2"]
    first = subprocess.Popen([sys.executable, "-c", SLOW, *words], env=launch_environment())
    deadline = time.monotonic() + 120
    while len(list(output.glob("*.jsonl"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    there = open_store(output)
    assert 8 <= len(there) < 40
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, "-m", "llava.store", *words]
    done = subprocess.run(command, env=launch_environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert sum(int(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("process ")) == 40 - len(
        there
    )
    store = open_store(output)
    assert len(store) == 40 and sum(facts.rows for facts in store.index.shards.values()) == 40 * 49
    lines = [json.loads(line) for file in output.glob("*.jsonl") for line in file.read_text().splitlines()]
    assert sum("K" in line for line in lines) == 40
