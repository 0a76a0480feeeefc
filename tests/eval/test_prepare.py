"""`python -m llava.eval.prepare` against a local server: what it fetches is what the tasks read."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llava.eval.prepare import main
from llava.eval.sources.published import PUBLISHED
from llava.eval.sources.video_sets import VIDEO_SETS
from llava.eval.tasks import get_task
from tests.data.http_server import Server, serving
from tests.eval.hub_tables import BUILDERS
from tests.eval.test_sources import as_seen

# What each archive holds: which files of the local layout, seen from where, in which folder of the archive.
ARCHIVES = {
    "chartqa/ChartQA-Dataset.zip": ("chartqa", "**/*", "ChartQA Dataset/test/"),
    "coco/train2014.zip": ("refcoco", "train2014/*", ""),
    "coco/val2014.zip": ("{task}", "val2014/*", ""),
    "gqa/images.zip": ("gqa/data", "images/*", ""),
    "gqa/questions1.2.zip": ("gqa/data", "*.json", "questions1.2/"),
    "mm-vet/mm-vet.zip": ("mm-vet", "**/*", "mm-vet/"),
    "scienceqa/test.zip": ("scienceqa/images", "test/**/*", ""),
    "textvqa/train_val_images.zip": ("textvqa", "train_images/*", ""),
    "vizwiz/Annotations.zip": ("vizwiz", "*.json", "Annotations/"),
    "vizwiz/test.zip": ("vizwiz", "test/*", ""),
    "vizwiz/val.zip": ("vizwiz", "val/*", ""),
    "vqav2/test2015.zip": ("vqav2", "test2015/*", ""),
    "vqav2/v2_Annotations_Val_mscoco.zip": ("vqav2", "*annotations.json", ""),
    "vqav2/v2_Questions_Test_mscoco.zip": ("vqav2", "*test-dev2015_questions.json", ""),
    "vqav2/v2_Questions_Val_mscoco.zip": ("vqav2", "*val2014_questions.json", ""),
}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def offer(server: Server, task: str, local: Path) -> list[str]:
    """Puts a benchmark's files on the server, in the archives that its publisher has; returns their paths."""
    for file in PUBLISHED[task].files:
        if file.path in ARCHIVES:
            folder, pattern, prefix = ARCHIVES[file.path]
            base, content = local / folder.format(task=task.split("_")[0]), io.BytesIO()
            with zipfile.ZipFile(content, "w") as archive:
                for path in sorted(path for path in base.glob(pattern) if path.is_file()):
                    archive.write(path, prefix + str(path.relative_to(base)))
            server.put(file.path, content.getvalue())
        else:
            path = local / file.path
            server.put(file.path, (path if path.exists() else path.parent / "001.jpg").read_bytes())
    return [file.path for file in PUBLISHED[task].files]


def prepare(server: Server, root: Path, *more: str) -> int:
    return main([*more, "--root", str(root), "--base-url", server.url, "--retry-wait", "0.001"])


@pytest.mark.parametrize("task", sorted(PUBLISHED))
def test_what_is_fetched_is_what_the_task_reads(task: str, server: Server, tmp_path: Path) -> None:
    local, root = tmp_path / "local", tmp_path / "root"
    BUILDERS[task](tmp_path / "hub", local)
    paths = offer(server, task, local)
    assert prepare(server, root, task) == 0
    assert as_seen(get_task(task).load(root).samples) == as_seen(get_task(task).load(local).samples)
    asked = len(server.requests)
    for _ in range(2):
        assert prepare(server, root, task, "--delete-archives") == 0
        assert not list(root.rglob("*.zip"))
    assert len(server.requests) == asked, "what is there, or was and is unpacked, is not asked for again"
    assert {"prepare.lock.json", *(path.split("/")[0] for path in paths)} <= {path.name for path in root.iterdir()}


@pytest.mark.parametrize("task", ["pope", "mmvet"])
def test_a_copied_record_says_nothing_of_what_is_unpacked_here(task: str, server: Server, tmp_path: Path) -> None:
    local, first, second = tmp_path / "local", tmp_path / "first", tmp_path / "second"
    BUILDERS[task](tmp_path / "hub", local)
    offer(server, task, local)
    assert prepare(server, first, task, "--delete-archives") == 0
    second.mkdir()
    shutil.copy(first / "prepare.lock.json", second)
    assert prepare(server, second, task) == 0
    assert as_seen(get_task(task).load(second).samples) == as_seen(get_task(task).load(local).samples)
    # On a third machine the images have come in another way, and the archive is not asked for.
    third, asked = tmp_path / "third", len(server.requests)
    shutil.copytree(first, third, symlinks=True)
    assert prepare(server, third, task) == 0 and len(server.requests) == asked


def test_an_image_that_was_lost_comes_out_of_its_archive_again(server: Server, tmp_path: Path) -> None:
    BUILDERS["pope"](tmp_path / "hub", tmp_path / "local")
    offer(server, "pope", tmp_path / "local")
    assert prepare(server, tmp_path / "root", "pope") == 0
    image = next((tmp_path / "root" / "coco" / "val2014").iterdir())
    content = image.read_bytes()
    image.unlink()
    assert prepare(server, tmp_path / "root", "pope") == 0
    assert image.read_bytes() == content and len(server.gets("coco/val2014.zip")) == 1


@pytest.mark.parametrize("task", ["mme", "mmmu_val", "seed", "pope"])
def test_the_hubs_tables_are_written_into_the_root(task: str, tmp_path: Path) -> None:
    hub, local, root = tmp_path / "hub", tmp_path / "local", tmp_path / "root"
    BUILDERS[task](hub, local)
    assert main([task, "--source", str(hub), "--root", str(root)]) == 0
    assert as_seen(get_task(task).load(root).samples) == as_seen(get_task(task).load(local).samples)


def test_a_cut_connection_is_taken_up_and_a_missing_file_named(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    BUILDERS["pope"](tmp_path / "hub", tmp_path / "local")
    offer(server, "pope", tmp_path / "local")
    server.resources["coco/val2014.zip"].cuts = [100]
    gone = server.resources.pop("pope/coco/coco_pope_popular.json")
    assert prepare(server, tmp_path / "root", "pope") == 1
    assert "coco_pope_popular.json: HTTP 404" in capsys.readouterr().err
    server.resources["pope/coco/coco_pope_popular.json"] = gone
    assert prepare(server, tmp_path / "root", "pope") == 0
    assert [headers.get("Range") for headers in server.gets("coco/val2014.zip")] == [None, "bytes=100-"]
    assert len(server.gets("pope/coco/coco_pope_random.json")) == 1
    assert "pope: 6 questions" in capsys.readouterr().out


def test_an_error_page_is_no_file_and_missing_images_are_told(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    BUILDERS["mmbench"](tmp_path / "hub", tmp_path / "local")
    server.put("mmbench/mmbench_dev_20230712.tsv", b"\n<!DOCTYPE html><p>Moved")
    assert prepare(server, tmp_path / "root", "mmbench") == 1
    assert "damaged or not the file" in capsys.readouterr().err
    assert not list((tmp_path / "root").rglob("*.tsv*"))
    BUILDERS["textvqa"](tmp_path / "hub", tmp_path / "local")
    offer(server, "textvqa", tmp_path / "local")
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    server.put("textvqa/train_val_images.zip", empty.getvalue())
    assert prepare(server, tmp_path / "root", "textvqa") == 1
    said = capsys.readouterr()
    assert "1 question, 1 image missing" in said.out and "ab.jpg" in said.err


def test_lists_plans_and_wrong_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert set(listed) == {*BUILDERS, *VIDEO_SETS} and (listed["gqa"], listed["mme"]) == ("publisher", "Hub")
    assert main(["--dry-run", "pope", "mme"]) == 0
    said = capsys.readouterr().out
    assert "images.cocodataset.org/zips/val2014.zip" in said and "lmms-lab/MME or lmms-lab-encoder/MME" in said
    assert not any("drive.google" in file.url for files in PUBLISHED.values() for file in files.files)
    for flags, message in ((["gqua"], "no benchmark 'gqua'"), ([], "which?")):
        with pytest.raises(SystemExit):
            main(flags)
        assert message in capsys.readouterr().err


def test_a_disk_that_is_too_small_is_told_before_the_download(server: Server, tmp_path: Path) -> None:
    BUILDERS["textvqa"](tmp_path / "hub", tmp_path / "local")
    offer(server, "textvqa", tmp_path / "local")
    server.resources["textvqa/train_val_images.zip"].claimed = 10**18
    with pytest.raises(SystemExit, match=r"train_val_images\.zip needs 1000000000\.0 GB in .*, but the disk has"):
        prepare(server, tmp_path / "root", "textvqa")
    assert not server.gets("textvqa/train_val_images.zip")
