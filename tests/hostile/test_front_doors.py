"""Bad input at every front door: an error in one line that names what is wrong, and nothing written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.table import Case, World, all_cases
from tests.train.conftest import launch_environment

DRIVER = Path(__file__).with_name("at_the_doors.py")
PROCESSES = 2
LISTING = ("verify:", "validate:", "push:")  # these print a list of what is wrong

pytestmark = pytest.mark.slow


def make_world(oracle: Path, root: Path) -> World:
    """Two questions of `tiny_vqa`, three training samples and five pictures, with the recorded LLaVA-1.5."""
    data = root / "sound"
    shutil.copytree(oracle / "images", data / "images")
    shutil.copy(oracle / "train_tiny.json", data)
    row = {"image": "square.png", "answer": "1", "kind": "digit"}
    rows = [row | {"question_id": number, "text": f"Which digit is {number}?"} for number in range(2)]
    (data / "eval_vqa.json").write_text(json.dumps(rows))
    return World(root, oracle / "tiny-llava-v1.5", data / "images" / "square.png", data)


def run(oracle: Path, folder: Path) -> list[tuple[Case, dict[str, Any]]]:
    """Each case with what it did; they are shared out among long-lived processes, each in a world of its own."""
    running = []
    for number in range(PROCESSES):
        root = folder / str(number)
        cases = all_cases(make_world(oracle, root / "world"))[number::PROCESSES]
        words = [{"id": case.id, "words": case.words, "keys": case.keys} for case in cases]
        (root / "cases.json").write_text(json.dumps(words))
        command = [sys.executable, str(DRIVER), "cases.json", "world", "results.jsonl"]
        running.append((subprocess.Popen(command, cwd=root, env=launch_environment()), root, cases))
    done = []
    for process, root, cases in running:
        assert process.wait(timeout=600) == 0, f"a case ended the process; {root} holds those before it"
        results = map(json.loads, (root / "results.jsonl").read_text().splitlines())
        done += list(zip(cases, results, strict=True))
    return done


def fault(case: Case, done: dict[str, Any]) -> str | None:
    """What is wrong with how a command met a bad input; None if nothing is."""
    said = done["stderr"] + done["stdout"]
    if "Traceback" in said:
        return "a traceback"
    if done["status"] not in case.status:
        return f"exit status {done['status']}"
    missing = [name for name in case.names if name not in said]
    if missing:
        return f"does not name {missing}"
    if done["changed"] and not case.writes:
        return f"changed {done['changed'][:5]}"
    errors = [line for line in done["stderr"].splitlines() if "error: " in line]
    if 0 not in case.status and len(errors) != 1 and not case.id.startswith(LISTING):
        return f"{len(errors)} lines of errors"
    return None


def test_bad_input_ends_in_a_line(oracle_dir: Path, tmp_path: Path) -> None:
    done = run(oracle_dir, tmp_path)
    assert len({case.id for case, _ in done}) == len(done) >= 150
    faults = [(case, result, wrong) for case, result in done if (wrong := fault(case, result))]
    report = "\n".join(f"{case.id}: {wrong}\n{result['stderr'][-600:]}" for case, result, wrong in faults)
    assert not faults, f"{len(faults)} of {len(done)} cases:\n{report}"


# One input a front door as a real process: a status, a line, and no traceback of an import or an exit.
ALONE = [
    "ask: pipe.png",
    "chat: thin.png",
    "eval: config-deep",
    "train: layers-huge",
    "export: weights-pointer",
    "validate: no-utf8.json",
    "merge: adapter-base-itself",
    "model_vqa: q-list.jsonl",
    "eval_pope: a-text-null.jsonl",
]


def test_a_real_process_ends_in_a_line_too(oracle_dir: Path, tmp_path: Path) -> None:
    cases = {case.id: case for case in all_cases(make_world(oracle_dir, tmp_path / "world"))}
    for name in ALONE:
        case = cases[name]
        module = {"train": "llava.train.train"}.get(case.words[0], case.words[0])
        words = ["-m", module, *case.words[1:]] if module.startswith("llava.") else ["-m", "llava", *case.words]
        command, keys = [sys.executable, *words], case.keys
        environment = launch_environment()
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment, input=keys, capture_output=True, text=True, timeout=120, check=False
        )
        done = {"stdout": ended.stdout, "stderr": ended.stderr, "status": ended.returncode, "changed": []}
        assert fault(case, done) is None, (name, fault(case, done), ended.stderr[-800:])
