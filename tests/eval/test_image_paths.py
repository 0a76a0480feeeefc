"""Where a benchmark's images may be: inside the folder as their names are written, links or not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llava.eval import model_vqa, model_vqa_science
from llava.eval.command import main
from llava.eval.data_place import DataPlace
from llava.eval.report.command import main as report
from llava.eval.tasks import TaskDataError, get_task
from tests.eval import layout


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_data, tmp_path / "data"))


def name_images(data: Path, *names: str | Path) -> None:
    """Puts these into the first rows."""
    path = data / "eval_pope.json"
    rows = json.loads(path.read_text())
    for row, name in zip(rows, names, strict=False):
        row["image"] = str(name)
    path.write_text(json.dumps(rows))


def loaded(data: Path, image_root: Path | None = None) -> tuple[set[str], list[str]]:
    found = DataPlace(data, None, image_root).load(get_task("tiny_pope"))
    return {sample.sample_id for sample in found.samples}, found.bad_rows


def test_names_that_leave_the_folder_are_bad_rows(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = shutil.copy(data / "images" / "eval_0.png", tmp_path / "secret.png")
    inside = str(data / "images" / "eval_1.png")
    name_images(
        data, "../../secret.png", secret, "a/../../../secret.png", inside, "./a/../eval_2.png", f"{data}x/a.png"
    )
    samples, bad = loaded(data)
    assert samples == {"3", "4", "6", "7", "8", "9"} and len(bad) == 4
    assert all(f"sample '{number}'" in line for number, line in zip((0, 1, 2, 5), bad, strict=True))
    assert all(f"lies outside {data}; --image-root names a folder of images" in line for line in bad)
    assert loaded(data, tmp_path)[1] == [] == loaded(data, Path("/"))[1]
    monkeypatch.chdir(tmp_path)
    assert loaded(Path("data"))[0] == samples
    name_images(data, *[secret] * 10)
    with pytest.raises(TaskDataError, match=r"not one sample can be asked, the first is .*secret\.png"):
        loaded(data)


def test_links_are_followed_wherever_they_lead(data: Path, tmp_path: Path) -> None:
    """A folder linked into the root, and files as the Hub's cache has them: `snapshots/` of links into `blobs/`."""
    everywhere = tmp_path / "disk"
    (data / "images").rename(everywhere)
    blobs = tmp_path / "hub" / "blobs"
    snapshot = tmp_path / "hub" / "snapshots" / "abc"
    (snapshot / "images").mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate([*sorted(everywhere.iterdir()), data / "eval_pope.json"]):
        shutil.copy(file, blobs / f"{number:064x}")
        place = snapshot if file.suffix == ".json" else snapshot / "images"
        (place / file.name).symlink_to(Path("../" * (3 if place != snapshot else 2)) / "blobs" / f"{number:064x}")
    (data / "images").symlink_to(everywhere)
    linked_root = tmp_path / "linked"
    linked_root.symlink_to(data)
    for root in (data, snapshot, linked_root):
        found = DataPlace(root).load(get_task("tiny_pope"))
        assert len(found.samples) == 10 and not found.bad_rows
        assert all(image.is_file() for sample in found.samples for image in sample.images if isinstance(image, Path))


def test_the_flag_and_the_page_of_differences(
    oracle_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not asked is not shown either: an answer file cannot make the page show another file."""
    secret = shutil.copy(data / "images" / "eval_0.png", tmp_path / "secret.png")
    name_images(data, secret)
    words = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--tasks", "tiny_pope", "--device", "cpu"]
    words += ["--data-root", str(data), "--latency-repeats", "0", "--compression", "none"]
    words += ["--compression", "visionzip:54+10"]
    for flags, count in (([], 9), (["--image-root", str(tmp_path)], 10)):
        out = tmp_path / f"out{count}"
        assert main([*words, *flags, "--output-dir", str(out)]) == 0
        shown = capsys.readouterr().out
        assert ("left out: tiny_pope sample '0': image" in shown) == (count == 9)
        assert {row["n"] for row in json.loads((out / "results.json").read_text())["rows"]} == {count}
    answers = tmp_path / "out10" / "answers" / "tiny_pope"
    a, b = answers / "none.jsonl", answers / "visionzip_54+10.jsonl"
    rows = [json.loads(line) for line in b.read_text().splitlines()]
    changed = [row | ({"text": "something else"} if row.get("question_id") == "0" else {}) for row in rows]
    b.write_text("".join(json.dumps(row) + "\n" for row in changed))
    page = answers / "diff-tiny_pope-none-visionzip_54+10.html"
    for flags, is_there in (([], False), (["--image-root", str(tmp_path)], True)):
        assert report(["--diff", str(a), str(b), "--data-root", str(data), *flags]) == 0
        assert ("something else" in page.read_text()) == is_there


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../secret.png", "must not go up with"),
        ("/etc/passwd", "lies outside"),
        (5, "is no file name"),
        ("", "is no file name"),
        ("a\0b", "is no file name"),
        ("\udcff.png", "is no file name"),
    ],
)
def test_question_files_name_images_inside_the_image_folder(name: Any, message: str, tmp_path: Path) -> None:
    rows = [{"question_id": 7, "image": name, "text": "?"}]
    lines = tmp_path / "q.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    listed = layout.write_json(tmp_path / "q.json", [{"id": "7", "image": "x", "conversations": [{"value": "?"}]}])
    listed.write_text(json.dumps([json.loads(listed.read_text())[0] | {"image": name}]))
    for module, questions in ((model_vqa, lines), (model_vqa_science, listed)):
        words = [
            "--model-path",
            "nowhere",
            "--question-file",
            str(questions),
            "--image-folder",
            str(tmp_path / "images"),
        ]
        with pytest.raises(SystemExit, match=rf"error: .*q\.jsonl?: question '?7'?: image .*{message}.*--image-folder"):
            module.main(words)


def test_an_image_that_leaves_the_folder_is_a_bad_row_and_the_rest_goes_on(
    oracle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["../a.png", "small.png", "/etc/passwd", "square.png", 5]
    rows = [{"question_id": number, "image": name, "text": "?"} for number, name in enumerate(names)]
    questions = layout.write_jsonl(tmp_path / "q.jsonl", rows)
    words = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--device", "cpu", "--temperature", "0"]
    words += ["--image-folder", str(oracle_dir / "images"), "--question-file", str(questions)]
    words += ["--answers-file", str(tmp_path / "a.jsonl")]
    from llava.eval import model_vqa_loader

    with pytest.raises(SystemExit, match=r"error: 3 of 5 questions have no answer.*question 0: image '\.\./a\.png'"):
        model_vqa_loader.main([*words, "--max-new-tokens", "1"])
    answers = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [answer["question_id"] for answer in answers] == [1, 3]
    told = capsys.readouterr().err
    assert "question 2: image '/etc/passwd' lies outside" in told and "question 4: image 5 is no file name" in told
    (line,) = (line for line in told.splitlines() if "'../a.png'" in line)
    assert "absolute" not in line, "which would not help a relative name"


def test_the_image_folder_may_be_all(oracle_dir: Path, tmp_path: Path) -> None:
    picture = oracle_dir / "images" / "small.png"
    questions = layout.write_jsonl(tmp_path / "q.jsonl", [{"question_id": 7, "image": str(picture), "text": "?"}])
    words = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--device", "cpu", "--image-folder", "/"]
    words += ["--question-file", str(questions), "--answers-file", str(tmp_path / "a.jsonl"), "--temperature", "0"]
    from llava.eval import model_vqa_loader

    assert model_vqa_loader.main([*words, "--max-new-tokens", "1"]) == 0
    assert (tmp_path / "a.jsonl").read_text().count("\n") == 1
