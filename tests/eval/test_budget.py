"""`llava budget`: halves of pictures, advice by hand, and one run from end to end that goes on."""

from __future__ import annotations

import argparse
import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava.command_line import budget_text
from llava.eval.budget.advice import Wish, advise
from llava.eval.budget.command import main
from llava.eval.budget.halves import Ladder, Rung, climb, split_pictures
from llava.eval.compare.grid import Grid
from llava.eval.compare.intervals import add_intervals
from llava.eval.compare.methods import Marks
from llava.eval.compare.table import Costs, Entry, Figure, build_comparison
from llava.eval.data_place import DataPlace
from llava.eval.report.table import Line
from llava.model.configuration import CompressionConfig
from llava.results.score_parts import ScoreParts, mean_of_sums
from tests.eval.compare.conftest import GRID, write_run

ROOT = Path(__file__).parents[2]
TINY = ROOT / "playground" / "tiny" / "model"
MANY = (400, 400)


def rung(name: str, tokens: float, first: Sequence[float], second: Sequence[float], ms: float | None = None) -> Rung:
    """A budget with (retention, lower end) on either half."""
    budget = CompressionConfig.parse(name)
    costs = Costs() if ms is None else Costs(vision_ms=ms / 4, prefill_ms=3 * ms / 4)
    entry = Entry(Line(Path(), name, name, tokens), budget, int(tokens), name, name, "", Marks(), costs)
    figures = [Figure(value, low, 2 * value - low) for value, low in (first, second)]
    return Rung(entry, figures[0], *figures)


ALL = rung("none", 576, (100, 100), (100, 100), 80)
LADDER = [
    ALL,
    rung("visionzip:162+30", 192, (99.5, 98.6), (99.1, 98.0), 50),
    rung("visionzip:54+10", 64, (98.4, 97.2), (98.0, 96.6), 30),
    rung("uniform:64", 64, (98.6, 97.4), (98.3, 97.1), 29),
    rung("visionzip:27+5", 32, (93.0, 91.0), (97.9, 97.5), 20),
]


@pytest.mark.parametrize(
    ("keep", "ms", "taken", "chosen", "confirmed", "said"),
    [
        # The smallest that holds on the first half; of two with 64 tokens the one that keeps more there.
        (0.97, None, "uniform:64", "uniform:64", True, "confirmed on the other half: 98.3 % [97.1, 99.5]"),
        (0.98, None, "visionzip:162+30", "visionzip:162+30", True, "is the smallest whose lower bound holds 98 %"),
        # What the other half does not confirm is not advised, and no other budget is tried there.
        (0.982, None, None, "visionzip:162+30", False, "NOT confirmed on the other half: 99.1 % [98.0, 100.2]"),
        (0.99, None, "none", None, None, "no budget of the ladder holds 99 %"),
        (None, 40, "uniform:64", "uniform:64", None, "uniform:64 keeps most within 40 ms: it takes 29.0 ms"),
        (None, 25, "visionzip:27+5", "visionzip:27+5", None, "on the other half it keeps 97.9 % [97.5, 98.3]"),
        (None, 90, "none", "none", None, "none keeps most within 90 ms"),
        (None, 10, None, None, None, "no budget is within 10 ms: the quickest is visionzip:27+5, 20.0 ms"),
        (0.9, 25, "visionzip:27+5", "visionzip:27+5", True, "is the smallest within 25 ms"),
        (0.97, 25, None, None, None, "no budget of the ladder within 25 ms holds 97 % on the half that is chosen on"),
    ],
)
def test_advice_by_hand(
    keep: float | None, ms: float | None, taken: str | None, chosen: str | None, confirmed: bool | None, said: str
) -> None:
    advice = advise(Ladder(LADDER, MANY, MANY), Wish(keep, ms))
    assert (advice.rung and advice.rung.name, advice.chosen and advice.chosen.name) == (taken, chosen)
    assert advice.confirmed is confirmed and said in "\n".join(advice.lines)


def test_too_few_pictures_show_nothing() -> None:
    """Without one loss among n pictures, the truth may still be 3 / n (rule of three)."""
    assert [Wish(keep).fewest_pictures for keep in (0.5, 0.9, 0.97, 0.99)] == [6, 30, 100, 300]
    advice = advise(Ladder(LADDER, (100, 99), (100, 99)), Wish(0.97))
    assert advice.rung is None and "Ask about 200 pictures, or lower --keep" in advice.lines[0]
    assert advise(Ladder(LADDER, (100, 100), (100, 100)), Wish(0.97)).confirmed
    # A model that is right on few pictures has little to lose on the others, which show nothing.
    [line] = advise(Ladder(LADDER, (400, 400), (80, 50)), Wish(0.97)).lines
    assert "something right on 80 and 50 of them" in line and "Ask about 1600 pictures" in line
    parts = ScoreParts.collect(["a", "b", "a", "c"], [(1, 1), (0, 1), (0, 1), (0.3, 1)], mean_of_sums)
    assert parts.telling == ("a", "c")
    untimed = [replace(each, entry=replace(each.entry, costs=Costs())) for each in LADDER]
    [line] = advise(Ladder(untimed, MANY, MANY), Wish(None, 10)).lines
    assert line == "nothing was measured, for no question has a picture"


def test_halves_are_the_same_wherever_the_pictures_are() -> None:
    names = [f"/a/{number}.png" for number in range(101)]
    tasks = {"vqa": names[:60], "pope": names[40:]}
    first, second = split_pictures(tasks)
    assert first | second == set(names) and not first & second
    for own in tasks.values():
        assert abs(len(first.intersection(own)) - len(second.intersection(own))) <= 2
    elsewhere = {task: [name.replace("/a/", "b/") for name in reversed(own)] for task, own in tasks.items()}
    moved, _ = split_pictures(elsewhere)
    assert moved == {name.replace("/a/", "b/") for name in first}
    assert len(first.intersection(f"/a/{number}.png" for number in range(50))) not in (0, 25, 50)  # not every other one


def test_a_part_of_the_groups_keeps_their_sums() -> None:
    rows = [(1.0, 1.0), (0.0, 1.0), (1.0, 1.0), (1.0, 1.0)]
    parts = ScoreParts.collect(["a", "b", "a", "c"], rows, mean_of_sums)
    own = parts.only({"a", "b"})
    assert own.groups == ("a", "b") and own.total == pytest.approx(2 / 3) and parts.total == 0.75
    assert np.array_equal(own.values, [[2, 2], [0, 1]])


def test_intervals_of_all_pictures_are_those_of_a_comparison(tmp_path: Path) -> None:
    from tests.eval import layout
    from tests.eval.compare.conftest import gqa_rows

    layout.write_gqa(tmp_path, gqa_rows(4))
    labels = ("yes", "yes", "no", "no")
    rows = [{"question_id": n, "image": f"{n}.jpg", "text": "T?", "label": label} for n, label in enumerate(labels)]
    layout.write_pope(tmp_path, rows)
    folder = write_run(tmp_path / "run", tmp_path)
    comparison = build_comparison([folder], GRID, tasks={"gqa"})
    ladder = climb(comparison, DataPlace(tmp_path), 200)
    assert ladder.pictures == ladder.telling == (2, 2)
    assert [each.name for each in ladder.rungs][:2] == ["none", "visionzip:54+10"]
    add_intervals(comparison, DataPlace(tmp_path), 200)
    for each in ladder.rungs[1:]:
        assert each.whole == each.entry.mean
        assert (each.chosen_on.value + each.confirmed_on.value) / 2 == pytest.approx(each.whole.value)  # all 4 right
    lacking = Grid((64,), {**GRID.tokens, "scope:64": 64}, [], [])
    assert "scope:64" in build_comparison([folder], lacking, tasks={"gqa"}).notes[0]


# ----- The command -------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two questions about each of eight pictures, of which the tiny model gets one right or both."""
    folder = tmp_path_factory.mktemp("own")
    rows: list[dict[str, Any]] = []
    for number in range(8):
        shutil.copy(tiny_data / "images" / f"eval_{number % 5}.png", folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": "How many digits are there?", "answer": ["4", "four"]})
        rows.append({"image": f"{number}.png", "question": "Is there a 3?", "answer": "no", "type": "exist"})
    path = folder / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(own: Path, output: Path, *more: str) -> int:
    words = ["--model-path", str(TINY), "--tasks", str(own), "--device", "cpu", "--latency-repeats", "1"]
    return main([*words, "--budgets", "11", "--output-dir", str(output), "--resamples", "100", *more])


def test_a_budget_is_found_and_taken_by_other_commands(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(own, tmp_path, "--keep", "0.2", "--methods", "visionzip,uniform") == 0
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "budget.json").read_text())
    assert [row["tokens"] for row in found["budgets"]] == [196, 11, 11]
    assert found["pictures"] == {"chosen_on": 4, "confirmed_on": 4} and found["keep"] == 0.2
    [taken] = [row for row in found["budgets"] if row["compression"] == found["chosen"]]
    assert taken["chosen_on"]["low"] >= 20 and found["confirmed"] == (taken["confirmed_on"]["low"] >= 20)
    assert found["compression"] == (found["chosen"] if found["confirmed"] else None)
    assert all(line in said for line in found["advice"]) and "The halves have 4 and 4 pictures;" in said
    assert all(row["first_token_ms"] > 0 for row in found["budgets"])
    svg = ElementTree.fromstring((tmp_path / "budget.svg").read_text())
    assert any(path.get("stroke-dasharray") == "2 2" for path in svg.iter("{http://www.w3.org/2000/svg}path"))

    answers = {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    assert len(answers) == 3
    assert run(own, tmp_path, "--keep", "0.2", "--methods", "visionzip,uniform") == 0  # nothing is asked or measured
    again = json.loads((tmp_path / "budget.json").read_text())
    assert again == found and {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")} == answers
    assert run(own, tmp_path, "--keep", "0.97", "--methods", "visionzip,uniform", "--tables-only") == 0
    assert "Ask about 200 pictures, or lower --keep" in capsys.readouterr().out
    with pytest.raises(argparse.ArgumentTypeError, match="advises none there"):
        budget_text(f"@{tmp_path / 'budget.json'}")
    with pytest.raises(SystemExit, match="nothing is answered yet under: scope:11"):
        run(own, tmp_path, "--keep", "0.2", "--methods", "scope", "--tables-only")

    # Milliseconds are those of now, not of a row.
    content = json.loads((tmp_path / "results.json").read_text())
    for row in content["rows"]:
        row |= {"vision_ms": 1e6, "prefill_ms": 1e6}
    (tmp_path / "results.json").write_text(json.dumps(content))
    assert run(own, tmp_path, "--ms", "100000", "--methods", "visionzip,uniform") == 0
    timed = json.loads((tmp_path / "budget.json").read_text())
    assert max(row["first_token_ms"] for row in timed["budgets"]) < 1e5
    assert budget_text(f"@{tmp_path / 'budget.json'}") == timed["compression"] == timed["chosen"]
    assert "within 100000 ms: it takes" in timed["advice"][0] and timed["keep"] is None


def test_the_ladder_follows_the_model(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model-path", str(TINY), "--tasks", str(own), "--output-dir", str(tmp_path / "out"), "--dry-run"]
    assert main(words) == 0
    said = capsys.readouterr().out
    for budget in ("none", "visionzip:83+15", "visionzip:55+10", "visionzip:37+7", "visionzip:28+5", "visionzip:19+3"):
        assert f"  {budget}\n" in said
    assert "7 budgets of each task" in said and "uniform" not in said and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--keep", "97"], "argument --keep: must be between 0 and 1, as in 0.97, got 97"),
        (["--ms", "0"], "argument --ms: must be above 0"),
        (["--ms", "5", "--latency-repeats", "0"], "--ms is measured now"),
        (["--ms", "5", "--tables-only"], "--ms is measured now"),
        (["--metric", "contains", "--tables-only"], "--metric scores anew: leave out --tables-only"),
        (["--total", "640"], "not allowed with argument --budgets"),
        (["--tasks", "all"], "--tasks all: name the tasks"),
        (["--tasks", "mmvet"], "--tasks: mmvet has no score of its own to choose by"),
        (["--budgets", "5000"], "no method takes any of these budgets"),
        (["--methods", "nothing_like_it"], "there is no 'nothing_like_it'"),
    ],
)
def test_wrong_flags_end_in_one_line(
    more: list[str], message: str, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(own, tmp_path / "out", *more)
    assert end.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]
