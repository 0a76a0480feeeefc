"""The crowded world: pictures show what is said of them, answers are right, and splits share nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from playground.crowded import make_data
from playground.crowded.backgrounds import SIZE, TEXTURES
from playground.crowded.make_data import make_questions
from playground.crowded.questions import ASKED, Scene, Thing, ask, ask_many, read_scene
from playground.crowded.scenes import COLOURS, SceneBatch, patch_targets, render, sample_scenes
from playground.crowded.things import ALL_NAMES, FOOTPRINT, PATCH, SIZES, Split, load_bank

ROOT = Path(__file__).parents[2]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


def drawn(count: int = 60, world: str = "first", split: Split = "dev") -> SceneBatch:
    return sample_scenes(np.random.default_rng(3), load_bank(split), world, count)


def scenes_of(count: int = 60) -> list[Scene]:
    batch = drawn(count)
    return [read_scene(batch, index, "first") for index in range(count)]


def test_no_instance_is_in_two_splits() -> None:
    seen = {}
    for split in SPLITS:
        bank = load_bank(split)
        seen[split] = {ink.tobytes() for ink in bank.ink}
        assert len(bank.ink) == bank.count.sum() and bank.count.min() > 0
    assert len(seen["train"]) > 2000
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not seen[one] & seen[other]


def test_things_stand_in_cells_of_their_own_and_names_once() -> None:
    batch = drawn(300)
    for index in range(len(batch)):
        there = batch.names[index] >= 0
        assert 4 <= there.sum() <= 10
        assert len(set(batch.names[index][there])) == len(set(batch.cells[index][there])) == there.sum()
        room = FOOTPRINT[batch.names[index], batch.sizes[index]][there]
        assert (batch.rows[index][there] + room[:, 0] <= SIZE // PATCH).all()
        assert (batch.cols[index][there] + room[:, 1] <= SIZE // PATCH).all()
    names, colours, sizes = patch_targets(batch)
    covered = (FOOTPRINT[batch.names, batch.sizes].prod(-1) * (batch.names >= 0)).sum()
    assert (names < len(ALL_NAMES)).sum() == (colours < len(COLOURS)).sum() == (sizes < len(SIZES)).sum() == covered


@pytest.mark.parametrize("world", TEXTURES)
def test_a_picture_changes_just_where_a_thing_is_taken_away(world: str) -> None:
    """What `patch_targets` says of a thing's place holds in the pixels, up to the pixel of play on each side."""
    batch = sample_scenes(np.random.default_rng(5), load_bank("dev"), world, 20)
    batch = replace(batch, textures=np.zeros(20, np.int64))
    alone = batch.names.copy()
    alone[:, 1:] = -1
    one = replace(batch, names=alone)
    none = replace(batch, names=np.full_like(alone, -1))
    pictures = []
    for scenes in (one, none):
        # Distractors draw from the same source of chance, so the cell of the thing is left out of both.
        rng = np.random.default_rng(1)
        pictures.append(render(rng, scenes, replace(load_bank("dev"), distractors=np.zeros((1, 24, 24))), world, "dev"))
    changed = (pictures[0] != pictures[1]).any(-1)
    names, _, _ = patch_targets(one)
    shown = (names < len(ALL_NAMES)).reshape(20, 14, 14).repeat(PATCH, 1).repeat(PATCH, 2)
    for index in range(20):
        rows, cols = np.nonzero(shown[index])
        room = np.zeros((SIZE, SIZE), bool)
        room[max(rows.min() - 1, 0) : rows.max() + 2, max(cols.min() - 1, 0) : cols.max() + 2] = True
        assert changed[index].any() and not (changed[index] & ~room).any()


def test_answers_are_right_by_a_reading_of_their_own() -> None:
    """Each answer is found again from the question's words alone."""
    checked: Counter[str] = Counter()
    rng = np.random.default_rng(0)
    for scene in scenes_of(200):
        for question in ask_many(scene, 20, rng):
            assert answer_of(question.text, scene.things) == question.answer, question
            checked[question.kind] += 1
    assert set(checked) == set(ASKED) and min(checked.values()) > 100


def named(words: str, things: tuple[Thing, ...]) -> Thing:
    """The thing that `the digit 7`, `the circle` or `the red digit` means."""

    def names(thing: Thing) -> tuple[str, ...]:
        return f"the {thing.kind} {thing.name}", f"the {thing.name}", f"the {thing.colour} {thing.kind}"

    [found] = [thing for thing in things if words in names(thing)]
    return found


def answer_of(text: str, things: tuple[Thing, ...]) -> str:
    words = text.removesuffix("?").split()
    if text.startswith("How many"):
        return str(sum(f"{thing.kind}s" == words[2] for thing in things))
    if text.startswith("Is there"):
        return "yes" if any(" ".join(words[3:]) in (f"{t.kind} {t.name}", t.name) for t in things) else "no"
    if text.startswith("What colour"):
        if words[4] == "small":
            [found] = [thing for thing in things if thing.size == "small" and thing.kind == words[5]]
            return found.colour
        return named(" ".join(words[3:]), things).colour
    for between, place in ((" left of ", lambda t: t.col), (" above ", lambda t: t.row)):
        if between in text:
            one, other = text.removeprefix("Is ").removesuffix("?").split(between)
            return "yes" if place(named(one, things)) < place(named(other, things)) else "no"
    words = words[: words.index("say")] if "say" in words else words
    if "in" in words:
        [found] = [thing for thing in things if thing.kind == words[3] and thing.place == words[-1]]
    else:
        [found] = [thing for thing in things if thing.kind == words[4] and thing.colour == words[3]]
    return found.name


def test_yes_and_no_are_about_equally_frequent() -> None:
    scenes = scenes_of(400)
    rng = np.random.default_rng(2)
    for kind in ("side", "exist", "two-step"):
        said = Counter(found.answer for scene in scenes for _ in range(3) if (found := ask(kind, scene, rng)))
        assert abs(said["yes"] - said["no"]) < 0.1 * said.total(), (kind, said)


def test_kinds_come_in_turn() -> None:
    scenes = scenes_of(10)
    rows = make_questions(scenes, [f"{index}.png" for index in range(10)], 70, np.random.default_rng(0))
    assert [row["kind"] for row in rows] == list(ASKED) * 10
    shares = {row.get("object_share") for row in rows if row["kind"] in ("text", "which", "colour")}
    assert shares <= {round(patches / 196, 4) for patches in (2, 4, 6, 9)} and len(shares) > 2
    assert not any("object_share" in row for row in rows if row["kind"] in ("count", "side", "two-step"))
    assert [row["question_id"] for row in rows] == list(range(70))


def test_the_same_seed_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a process of its own, too; the others share what is slow to draw."""
    sizes = ["--train", "6", "--align", "4", "--scenes", "3", "--questions", "14"]

    def make(name: str, *more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["make_data", *sizes, "--output", str(tmp_path / name), *more])
        make_data.main()
        return capsys.readouterr().out

    command = [sys.executable, "-m", "playground.crowded.make_data", *sizes, "--output", str(tmp_path / "a")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for name, more in (("b", ()), ("c", ("--seed", "1")), ("d", ("--world", "second"))):
        make(name, *more)
    found = {
        name: {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*g")}
        | {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.json")}
        for name in "abcd"
    }
    assert found["a"] == found["b"] and len(found["a"]) == 12 + 4
    assert found["a"] != found["c"] and found["a"] != found["d"]
    (tmp_path / "a" / "train.json").unlink()
    assert "already there" in make("a", "--splits", "test") and not (tmp_path / "a" / "train.json").exists()
    shutil.rmtree(tmp_path / "a")
    make("a", "--splits", "test")
    alone = {path.relative_to(tmp_path / "a"): path.read_bytes() for path in (tmp_path / "a").rglob("*.png")}
    assert len(alone) == 3 and alone.items() <= found["a"].items()
    turns = json.loads((tmp_path / "b" / "align.json").read_text())[0]["conversations"]
    assert turns[0]["value"].startswith("<image>\n") and turns[1]["from"] == "gpt"
