"""`llava doctor`: the gate, wrong flags, runs that lack something, the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from llava.eval.doctor.pictures import choose_flips
from tests.eval import layout
from tests.eval.doctor.conftest import (
    TINY_MODEL,
    doctor,
    examined,
    said_by_hand,
    write_run,
)


def test_the_gate_says_what_fell(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(run, data, "--fail-under", "0.5") == 0
    assert capsys.readouterr().err.count("FELL") == 0
    assert json.loads((run / "doctor.json").read_text())["failed"] == []
    assert doctor(run, data, "--fail-under", "0.8") == 1, "POPE keeps 6 of 8"
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("FELL")]
    assert len(lines) == 1
    assert re.fullmatch(
        r"FELL: tiny_pope under visionzip:54\+10 keeps 75\.0 % \[.*\] of all tokens, below 80\.0 %", lines[0]
    )
    assert json.loads((run / "doctor.json").read_text())["failed"] == [lines[0].removeprefix("FELL: ")]
    assert doctor(run, data, "--fail-under", "0.8", "--tasks", "tiny_vqa") == 0
    assert doctor(run, data, "--fail-under", "0.8", "--tasks", "tiny_vqa", "--fail-lower-bound") == 1
    assert "the lower end is below 80.0 %" in capsys.readouterr().err
    assert doctor(run, data, "--fail-under", "0.5", "--tasks", "tiny_vqa", "--fail-lower-bound") == 1
    told = "4 pictures had something to lose, and 6 are needed to tell 50.0 %"
    assert told in capsys.readouterr().err, "by the rule of three"
    assert doctor(run, data, "--fail-under", "0.25", "--tasks", "tiny_vqa", "--fail-lower-bound") == 0
    assert doctor(run, data, "--fail-under", "0.79", "--fail-on", "mean") == 0, "the mean of 75 and 83.3"
    assert doctor(run, data, "--fail-under", "0.8", "--fail-on", "mean") == 1
    assert "the mean over tasks under visionzip:54+10 keeps 79.2 %" in capsys.readouterr().err


def test_pictures_on_which_nothing_can_be_lost_do_not_count(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in `llava budget`: all tokens get both questions about the last picture wrong."""
    said = {"tiny_vqa": said_by_hand()["tiny_vqa"]}
    said["tiny_vqa"] = {budget: texts | {"6": "up", "7": "up"} for budget, texts in said["tiny_vqa"].items()}
    run = write_run(tmp_path / "run", data, said)
    assert doctor(run, data, "--fail-under", "0.25", "--fail-lower-bound") == 1
    assert "3 pictures had something to lose, and 4 are needed to tell 25.0 %" in capsys.readouterr().err
    assert doctor(run, data, "--fail-under", "0.25", "--fail-lower-bound", "--fail-on", "mean") == 1
    content = json.loads((run / "doctor.json").read_text())
    assert [case["right_with_all_tokens"] for case in content["budgets"][0]["tasks"]] == [3]


def test_what_is_not_known_has_not_passed(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "answers" / "tiny_pope" / "visionzip_54+10.jsonl").unlink()
    assert doctor(run, data, "--fail-under", "0.5") == 1
    assert "FELL: tiny_pope under visionzip:54+10 is not known: its answers are not in" in capsys.readouterr().err
    content = json.loads((run / "results.json").read_text())
    for row in content["rows"]:
        if row["compression"] == "visionzip:54+10" and row["task"] == "tiny_pope":
            row["dtype"] = "torch.float16"
    layout.write_json(run / "results.json", content)
    assert doctor(run, data, "--fail-under", "0.5") == 1
    said = capsys.readouterr()
    assert "tiny_pope under visionzip:54+10 is not known: its row cannot be compared" in said.err
    assert "note: visionzip:54+10, tiny_pope: no retention, vanilla differs in dtype" in said.out


def test_answers_that_changed_since_they_were_scored_are_not_examined(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A killed run leaves half of them; another file of questions gives them another score."""
    path = run / "answers" / "tiny_pope" / "visionzip_54+10.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:6]))
    assert doctor(run, data, "--fail-under", "0.5") == 1
    said = capsys.readouterr()
    assert "tiny_pope under visionzip:54+10 is not known: " in said.err
    assert "visionzip_54+10.jsonl scores 30.0 % and results.json says 60.0 %" in said.err
    questions = json.loads((data / "eval_vqa.json").read_text())
    layout.write_json(data / "eval_vqa.json", [question | {"answer": "green"} for question in questions])
    with pytest.raises(
        SystemExit, match=r"none\.jsonl scores 0\.0 % and results\.json says 75\.0 %.*have changed since"
    ):
        doctor(run, data)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fail-under", "97"], "97 is not above 0 and at most 1; 97 % is 0.97"),
        (["--fail-under", "much"], "'much' is no number"),
        (["--fail-lower-bound"], "--fail-lower-bound goes with --fail-under"),
        (["--fail-on", "mean"], "--fail-on goes with --fail-under"),
        (["--fail-under", "0.9", "--fail-lower-bound", "--resamples", "0"], "leave out --resamples 0"),
        (["--pictures", "21"], "at most 20, got 21"),
        (["--tasks", " , "], "--tasks: ' , ' names nothing; leave the flag out for all that is there"),
    ],
)
def test_wrong_flags_are_named(
    run: Path, data: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        doctor(run, data, *words)
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_a_run_that_lacks_something_is_answered_in_a_line(run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no results of fastv:64; it has visionzip:54\+10, downsample:64"):
        doctor(run, data, "--compression", "fastv:64")
    with pytest.raises(SystemExit, match="--compression none: all tokens are what each budget is compared with"):
        doctor(run, data, "--compression", "none")
    with pytest.raises(SystemExit, match=r"--coco-instances .*nowhere\.json: no such file"):
        doctor(run, data, "--coco-instances", str(tmp_path / "nowhere.json"))
    with pytest.raises(SystemExit, match="has no scores of all tokens for gqa; it has tiny_pope, tiny_vqa"):
        doctor(run, data, "--tasks", "gqa")
    with pytest.raises(SystemExit, match=r"nothing can be examined: .*eval_pope\.json does not exist"):
        doctor(run, tmp_path)
    with pytest.raises(SystemExit, match=r"results\.json does not exist or has no rows"):
        doctor(tmp_path / "nowhere", data)
    alone = write_run(tmp_path / "alone", data, {"tiny_vqa": {"none": said_by_hand()["tiny_vqa"]["none"]}})
    with pytest.raises(SystemExit, match="has results of all tokens only; add a budget with `llava eval"):
        doctor(alone, data)
    other = write_run(tmp_path / "other", data, {"tiny_vqa": {"random:64": said_by_hand()["tiny_vqa"]["none"]}})
    with pytest.raises(SystemExit, match="no results without compression; add --compression none"):
        doctor(other, data)


def test_the_page_needs_no_other_file(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(run, data, "--fail-under", "0.99", "--pictures", "3") == 1
    page = (run / "doctor.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href|action)\s*=\s*[\"'](?!data:|#)|url\(|@import|<script|<link", page)
    assert "<b>?" not in page and "Q0 &lt;b&gt;?" in page, "questions are text"
    assert page.count("<article>") == 3 and page.count("data:image/jpeg;base64,") >= 1
    assert 'name="viewport"' in page and "What plain down-sampling gets wrong" in page and "Failed." in page
    content = json.loads((run / "doctor.json").read_text())
    vqa = next(case for case in content["budgets"][0]["tasks"] if case["task"] == "tiny_vqa")
    assert vqa["questions"] | {"change": None} == {
        "n": 8,
        "pictures": 4,
        "lost": 2,
        "gained": 1,
        "reworded": 2,
        "same": 3,
        "before": 0.75,
        "after": 0.625,
        "change": None,
    }
    assert vqa["flips"] == {"lost": ["0", "2"], "gained": ["3"]}
    assert vqa["down_sampling"]["wrong"]["n"] == 2 and content["tokens"] == 576


def test_shown_flips_take_turns(run: Path, data: Path) -> None:
    chosen = [(case.task, flip.sample.sample_id) for _, case, flip in choose_flips(examined(run, data), 20)]
    assert chosen[:4] == [("tiny_pope", "1"), ("tiny_vqa", "0"), ("tiny_pope", "5"), ("tiny_vqa", "2")]
    assert len(chosen) == 6 + 3 and ("tiny_vqa", "5") not in chosen, "other words are no flip"


def test_the_patches_that_were_kept_stand_beside_the_picture(run: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    words = ["--tasks", "tiny_vqa", "--pictures", "2", "--model-path", str(TINY_MODEL), "--device", "cpu"]
    assert doctor(run, data, *words) == 0
    page = (run / "doctor.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2
    assert page.count("64 tokens: CLS + 53 patches + 10 merged") == 2
    assert "the answers are from a model with fingerprint fp" in " ".join(page.split())
    assert not (run / "model_hashes.json").exists()
