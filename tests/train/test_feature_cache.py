"""Training from cached vision tokens: the same losses, and no image is opened twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llava.data.cached_dataset import CachedDataset
from llava.data.dataset import SampleError
from llava.encoded.errors import StoreMismatchError
from llava.store.command import main as store_command
from llava.train.train import train
from tests.train.conftest import launch_environment, losses_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(oracle_dir, tmp_path):
    """Conversations about pictures of which two are the same file's copies, and without a picture; own folder."""
    images = tmp_path / "images"
    shutil.copytree(oracle_dir / "images", images)
    shutil.copy(images / "portrait.png", images / "copy.png")
    records = json.loads((oracle_dir / "train_tiny.json").read_text())
    records += [{**records[0], "id": "3", "image": "copy.png"}]
    pair = [{"from": "human", "value": "<image>\n<image>\nWhich?"}, {"from": "gpt", "value": "the first"}]
    records += [{"id": "4", "image": ["square.png", "wide.png"], "conversations": pair}]
    file = tmp_path / "data.json"
    file.write_text(json.dumps(records))
    return {"data_path": file, "image_folder": images}


def _replace_by_garbage(folder: Path) -> None:
    """Same sizes, same times: whoever opens one of them fails."""
    for file in folder.iterdir():
        found = file.stat()
        file.write_bytes(b"x" * found.st_size)
        os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))


def _files(cache: Path) -> list[str]:
    return sorted(file.name for file in cache.iterdir())


@pytest.mark.parametrize(
    ("model", "compression", "aspect_ratio", "bf16"),
    [
        ("tiny-llava-v1.5", "visionzip:54+10", "pad", False),
        pytest.param("tiny-llava-v1.5", "none", "pad", True, marks=pytest.mark.slow),
        pytest.param("tiny-llava-v1.6-next", "visionzip:27+5", "anyres", False, marks=pytest.mark.slow),
    ],
)
def test_losses_are_identical_and_a_second_run_opens_no_image(
    model, compression, aspect_ratio, bf16, flags, data, oracle_dir, tmp_path
):
    common = {
        **data,
        "model_name_or_path": oracle_dir / model,
        "stage": "projector",
        "compression": compression,
        "image_aspect_ratio": aspect_ratio,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 3,
        "packing": True,
        "bf16": bf16,
    }
    expected = losses_of(train(flags(**common, output_dir=tmp_path / "without")))
    cache = tmp_path / "cache"
    first = train(flags(**common, output_dir=tmp_path / "first", feature_cache=cache))
    # Equal to the last bit where a matrix product does not depend on how many rows it has; nearly so elsewhere.
    assert losses_of(first) == pytest.approx(expected, rel=1e-6)
    assert {entry["visual_tokens_per_sample"] for entry in first.state.log_history if "loss" in entry} != {0}
    index = next(cache.glob("*.jsonl")).read_text().splitlines()
    contents = [json.loads(line) for line in index]
    assert sum("tiles" in line for line in contents) == 4 and sum("path" in line for line in contents) == 5

    written = _files(cache)
    _replace_by_garbage(data["image_folder"])
    again = train(flags(**common, output_dir=tmp_path / "again", feature_cache=cache, dataloader_num_workers=1))
    assert losses_of(again) == losses_of(first) and _files(cache) == written
    shutil.rmtree(data["image_folder"])
    gone = train(flags(**common, output_dir=tmp_path / "gone", feature_cache=cache, max_steps=1))
    assert losses_of(gone) == losses_of(first)[:1]


def test_a_changed_image_is_seen_again_and_a_broken_one_skipped(flags, data, tmp_path):
    common = {**data, "stage": "projector", "compression": "visionzip:54+10", "max_steps": 1}
    common |= {"feature_cache": tmp_path / "cache", "max_bad_fraction": 1, "per_device_train_batch_size": 5}
    train(flags(**common, output_dir=tmp_path / "a"))
    folder = data["image_folder"]
    shutil.copy(folder / "small.png", folder / "square.png")
    (folder / "landscape.png").write_bytes(b"no image")
    without = {name: value for name, value in common.items() if name != "feature_cache"}
    cached, plain = (
        train(flags(**given, output_dir=tmp_path / name)) for name, given in (("b", common), ("c", without))
    )
    assert losses_of(cached) == pytest.approx(losses_of(plain), rel=1e-6)
    assert cached.report.bad_images == plain.report.bad_images == {str(folder / "landscape.png")}
    (folder / "wide.png").unlink()
    (folder / "new.png").write_bytes((folder / "small.png").read_bytes())
    records = json.loads(data["data_path"].read_text())
    records[0]["image"] = "never.png"
    data["data_path"].write_text(json.dumps(records))
    with pytest.raises(SampleError, match=r"never.png of sample '0' does not exist"):
        train(flags(**common, output_dir=tmp_path / "d"))


def test_a_cache_of_something_else_is_refused(flags, data, tmp_path):
    common = {**data, "stage": "projector", "compression": "visionzip:54+10", "image_aspect_ratio": "pad"}
    common |= {"feature_cache": tmp_path / "cache", "max_steps": 1}
    train(flags(**common, output_dir=tmp_path / "a"))
    for change, told in (
        ({"compression": "visionzip:27+5"}, "compression is visionzip:54"),
        ({"image_aspect_ratio": "square"}, "image_aspect_ratio is"),
        ({"bf16": True}, 'dtype is "float32", this model\'s is "bfloat16"'),
    ):
        with pytest.raises(StoreMismatchError, match=told):
            train(flags(**{**common, **change}, output_dir=tmp_path / "b"))


@pytest.mark.parametrize("more", [{}, pytest.param({"bf16": True}, marks=pytest.mark.slow)], ids=["fp32", "bf16"])
def test_a_store_built_by_the_command_is_trained_from(more, flags, data, oracle_dir, tmp_path):
    """The same command's store: no image is opened, and the losses are those of a cache that training fills."""
    common = {**data, "stage": "projector", "compression": "visionzip:54+10", "image_aspect_ratio": "pad", **more}
    common |= {"max_steps": 2, "per_device_train_batch_size": 2}
    filled = losses_of(train(flags(**common, output_dir=tmp_path / "a", feature_cache=tmp_path / "cache")))
    words = ["build", "--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--device", "cpu", "--stage", "tower"]
    words += [
        "--compression",
        "visionzip:54+10",
        "--images",
        str(data["data_path"]),
        "--output",
        str(tmp_path / "store"),
    ]
    words += ["--dtype", "bfloat16", "--autocast"] if more else []
    assert store_command([*words, "--image-folder", str(data["image_folder"])]) == 0
    written = _files(tmp_path / "store")
    _replace_by_garbage(data["image_folder"])
    built = losses_of(train(flags(**common, output_dir=tmp_path / "b", feature_cache=tmp_path / "store")))
    assert built == pytest.approx(filled, rel=1e-6) and _files(tmp_path / "store") == written


# Two images a time and a shard; after the first shard the process dies, in the middle of writing the next.
DYING = """
import os, sys
from llava.encoded import writer
from llava.store import fill
from llava.train.train import train

save = writer.save_file
def save_and_die(tensors, part):
    if list(part.parent.glob("*.jsonl")):
        part.write_bytes(b"torn")
        os._exit(9)
    save(tensors, part)

writer.save_file, writer.SHARD_BYTES, fill.fill.__kwdefaults__["batch_size"] = save_and_die, 1, 2
train(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_fill_goes_on(flags, data, tmp_path):
    """A process that dies in the middle leaves whole images; the next one computes the rest."""
    cache = tmp_path / "cache"
    given = flags(**data, stage="projector", compression="visionzip:54+10", max_steps=1, feature_cache=cache)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", DYING, *given], env=environment).returncode == 9
    index = next(cache.glob("*.jsonl"))
    assert len(index.read_text().splitlines()) == 5  # a shard, two images, two paths
    expected = index.read_bytes()
    trainer = train(given)
    assert isinstance(trainer.train_dataset, CachedDataset) and index.read_bytes() == expected
    lines = [json.loads(line) for file in cache.glob("*.jsonl") for line in file.read_text().splitlines()]
    assert sum("tiles" in line for line in lines) == 4 and sum("path" in line for line in lines) == 5


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [None, 3])
def test_two_processes_share_a_cache(zero_stage, flags, data, tmp_path):
    if zero_stage:
        pytest.importorskip("deepspeed")
    common = {**data, "stage": "projector", "compression": "visionzip:54+10", "global_batch_size": 2}
    common |= {"train_sampling_strategy": "sequential", "max_steps": 2, "learning_rate": "1e-3"}
    one = train(flags(**common, output_dir=tmp_path / "one"))
    report, cache = tmp_path / "report.json", tmp_path / "cache"
    two = flags(**common, output_dir=tmp_path / "two", feature_cache=cache)
    if zero_stage:
        two += ["--deepspeed", str(ROOT / "configs" / "deepspeed" / "zero3.json")]
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "REPORT": str(report), "OMP_NUM_THREADS": "1"}
    launched = Path(__file__).with_name("launched.py")
    subprocess.run([*torchrun, str(launched), *two], env=environment, check=True, timeout=600)
    assert json.loads(report.read_text())["losses"] == pytest.approx(losses_of(one), abs=1e-4)
    assert len(list(cache.glob("*.jsonl"))) == 2


FULL_DISK = """
import resource, signal, sys
from llava.train.run import main

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit := int(sys.argv.pop(1)), limit))
main()
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_is_told_and_the_next_run_goes_on(flags, tmp_path):
    """The file-size limit of a process stands in for a full disk: the second image does not fit."""
    given = flags(stage="projector", max_steps=1, feature_cache=tmp_path / "cache")
    (tmp_path / "full.py").write_text(FULL_DISK)
    whole = train(flags(stage="projector", max_steps=1, output_dir=tmp_path / "without"))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "full.py"), "60000", *given],
        env=launch_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-3000:]
    assert last.startswith(f"error: --feature_cache {tmp_path / 'cache'}: ") and "File too large" in last
    assert losses_of(train(given)) == losses_of(whole)
