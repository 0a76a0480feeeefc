"""`llava judge` against a local server: grades, scores, and answers that no grade can be read of."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava.eval.answer_sets import find_answers, made_alike
from llava.eval.answers import AnswerFile
from llava.eval.answers_key import AnswersKey
from llava.eval.judge.command import main
from llava.eval.judge.run import read_grades
from llava.eval.tasks import get_task
from tests.eval import layout
from tests.eval.judge.conftest import KEY
from tests.eval.judge_server import SERVED_MODEL, JudgeServer, Misbehaviour


def answered(root: Path, task_name: str, texts: dict[str, str], compression: dict[str, Any] | None = None) -> None:
    """An output folder as llava.eval leaves it."""
    task = get_task(task_name)
    generation = {"max_new_tokens": task.max_new_tokens}
    key = AnswersKey(task_name, "fp", compression, "vicuna_v1", "prompts", generation, "torch.float32")
    name = "none" if compression is None else "visionzip:54+10"
    with AnswerFile(root / "answers" / task_name / f"{name.replace(':', '_')}.jsonl", key) as file:
        for sample_id, text in texts.items():
            file.append(sample_id, text)
    path = root / "results.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    row = {"task": task_name, "method": name.split(":")[0], "compression": name, "n": 3, "tokens": 576}
    row |= {"prompts": "prompts", "conv_mode": "vicuna_v1", "dtype": "torch.float32", "generation": generation}
    row |= {"main_score": "score"}
    root.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"run": {"model": "fp", "commit": "abc"}, "rows": [*rows, row]}))


@pytest.fixture
def judged_data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    row = {"imagename": "v1_0.png", "question": "What is x?", "answer": "-1<AND>-5"}
    layout.write_mmvet(root, [row | {"capability": ["ocr", "math"]}, row | {"capability": ["rec"]}] * 2)
    questions = [
        {"question_id": n, "image": f"{n}.jpg", "category": category, "text": f"Question {n}?"}
        for n, category in enumerate(("conv", "detail", "complex"))
    ]
    layout.write_llava_bench(root, questions)
    return root


def run(server: JudgeServer, root: Path, data: Path, *more: str) -> int:
    words = [str(root), "--judge-url", server.url, "--judge-model", "gpt-judge", "--data-root", str(data)]
    return main([*words, *more])


def rows_of(root: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((root / "results.json").read_text())["rows"]
    return rows


VISIONZIP = {"method": "visionzip", "dominant": 54, "contextual": 10, "merge": "reference", "seed": 0}


def test_scores_go_into_the_results(
    server: JudgeServer, judged_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    answered(out, "mmvet", {"v1_0": "right", "v1_1": "half", "v1_2": "wrong"})
    answered(out, "mmvet", {"v1_0": "half", "v1_1": "half"}, VISIONZIP)
    grades = {"right": "1.0", "half": "0.5", "wrong": "0.0 \nbecause"}
    server.reply = lambda question: grades.get(question.rsplit("|", 2)[-2].strip(), "0.1")
    assert run(server, out, judged_data, "--tasks", "mmvet") == 0
    vanilla, compressed = rows_of(out)
    assert vanilla["score"] == pytest.approx(50.0) and vanilla["missing"] == 0
    assert compressed["score"] == pytest.approx(100 * 1.1 / 3)  # the third has no answer: an empty one is graded
    assert vanilla["judge"]["model"] == "gpt-judge" and vanilla["judge"]["served"] == [SERVED_MODEL]
    assert (vanilla["retention"], compressed["retention"]) == (1.0, pytest.approx(1.1 / 1.5))
    assert vanilla["judge"]["url"] == server.url and vanilla["tokens"] == 576
    assert vanilla["score_by_capability"] == pytest.approx({"math": 50.0, "ocr": 50.0, "rec": 50.0})
    assert json.loads((out / "results.json").read_text())["run"]["commit"] == "abc"
    assert read_grades(out, "mmvet", "none.jsonl") == {"v1_0": [1.0], "v1_1": [0.5], "v1_2": [0.0]}
    assert "mmvet visionzip:54+10: 36.7 (n 3, gpt-judge)" in capsys.readouterr().out
    assert all(body["temperature"] == 0 and body["max_tokens"] == 3 for _, _, body in server.requests)
    assert "Bearer" in server.requests[0][1]["Authorization"]
    for file in out.rglob("*"):
        assert file.is_dir() or KEY not in file.read_text(), file


def test_a_rerun_asks_nothing_again(server: JudgeServer, judged_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answered(out, "llava_bench", {"0": "a", "1": "b", "2": "c"})
    server.reply = lambda question: "8 6\nBecause."
    assert run(server, out, judged_data, "--tasks", "llava_bench", "--judge-runs", "2") == 0
    assert len(server.requests) == 6  # each answer twice
    system, user = server.requests[0][2]["messages"]
    assert system["content"].startswith("You are a helpful and precise") and "[Context]\nCaption of" in user["content"]
    [row] = rows_of(out)
    assert row["score"] == 75.0 and row["judge"]["scores"] == [75.0, 75.0] and row["judge"]["std"] == 0.0
    results, grades = (out / "results.json").read_bytes(), (out / "grades" / "llava_bench" / "none.jsonl").read_bytes()
    assert run(server, out, judged_data, "--tasks", "llava_bench", "--judge-runs", "2") == 0
    assert len(server.requests) == 6
    assert (out / "results.json").read_bytes() == results
    assert (out / "grades" / "llava_bench" / "none.jsonl").read_bytes() == grades
    run(server, out, judged_data, "--tasks", "llava_bench", "--judge-runs", "3")
    assert len(server.requests) == 9  # only the third run is new


def test_equal_answers_get_one_grade(server: JudgeServer, judged_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answered(out, "mmvet", {"v1_0": "same", "v1_1": "same", "v1_2": "same"})
    answered(out, "mmvet", {"v1_0": "same", "v1_1": "same", "v1_2": "other"}, VISIONZIP)
    told = iter(["0.2", "0.4", "0.6", "0.8"])
    server.reply = lambda question: time.sleep(0.05) or next(told)  # all threads wait for the first
    assert run(server, out, judged_data, "--tasks", "mmvet", "--judge-concurrency", "3") == 0
    assert [row["score"] for row in rows_of(out)] == pytest.approx([20.0, 80 / 3])
    assert len(server.requests) == 2


def test_runs_spread(
    server: JudgeServer, judged_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    answered(out, "mmvet", {"v1_0": "a", "v1_1": "b", "v1_2": "c"})
    told = iter(["0.2"] * 3 + ["0.4"] * 3)
    server.reply = lambda question: next(told)
    assert run(server, out, judged_data, "--tasks", "mmvet", "--judge-runs", "2", "--judge-concurrency", "1") == 0
    [row] = rows_of(out)
    assert row["score"] == pytest.approx(30.0) and row["judge"]["scores"] == pytest.approx([20.0, 40.0])
    assert row["judge"]["std"] == pytest.approx(10.0) and row["std"] == pytest.approx(10.0)
    assert "30.0, spread 10.00 over 2 runs" in capsys.readouterr().out


def test_a_grade_that_cannot_be_read_counts_as_in_mm_vets_tool(
    server: JudgeServer, judged_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    answered(out, "mmvet", {"v1_0": "fine", "v1_1": "odd", "v1_2": "null"})
    replies = {"fine": "0.8", "odd": "I like it", "null": None}
    server.reply = lambda question: replies[next(word for word in replies if f"| {word} |" in question)]
    assert run(server, out, judged_data, "--tasks", "mmvet") == 0
    [row] = rows_of(out)
    # Five replies are read, then the tool gives 0.
    assert row["score"] == pytest.approx(80 / 3) and row["strict_score"] == pytest.approx(80.0)
    assert [line.partition(":")[0] for line in row["judge"]["unread"]] == ["v1_1, run 1", "v1_2, run 1"]
    assert row["judge"]["missing"] == [] and row["missing"] == 0 and row["judge"]["reading"] == "official"
    assert "no grade in 'I like it' (replies: 5)" in row["judge"]["unread"][0]
    assert "2 of 3 grades could not be read" in capsys.readouterr().out
    odd = [body for _, _, body in server.requests if "| odd |" in str(body)]
    assert [body["temperature"] for body in odd] == [0, 0, 0.5, 1, 1.5]
    asked = len(server.requests)
    server.reply = lambda question: "0.4"
    assert run(server, out, judged_data, "--tasks", "mmvet") == 0
    assert len(server.requests) == asked and rows_of(out)[0]["score"] == row["score"], "replies are kept, bad ones too"
    assert run(server, out, judged_data, "--tasks", "mmvet", "--judge-again") == 0
    assert len(server.requests) == asked + 2 and rows_of(out)[0]["score"] == pytest.approx(160 / 3)
    odd = [body for _, _, body in server.requests if "| odd |" in str(body)]
    assert [body["messages"][-1]["content"].endswith("(digit): ") for body in odd] == [False, *[True] * 4, False]


def test_a_grade_without_a_reply_is_missing_and_not_zero(
    server: JudgeServer, judged_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    answered(out, "mmvet", {"v1_0": "a", "v1_1": "b", "v1_2": "c"})
    server.troubles = [Misbehaviour(400, body=b"too long")]
    assert run(server, out, judged_data, "--judge-concurrency", "1") == 0
    [row] = rows_of(out)
    assert row["score"] == row["strict_score"] == 50.0 and row["missing"] == 1 and row["judge"]["unread"] == []
    assert "1 of 3 grades are missing:\n  v1_0, run 1: " in capsys.readouterr().out
    assert run(server, out, judged_data) == 0 and rows_of(out)[0]["missing"] == 0, "a rerun asks for it"


def test_llava_bench_counts_whatever_two_numbers_are_read(
    server: JudgeServer, judged_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    answered(out, "llava_bench", {"0": "fine", "1": "zero", "2": "odd"})
    replies = {"fine": "8 6", "zero": "10 0\nBecause.", "odd": "I like both."}
    server.reply = lambda question: next(text for word, text in replies.items() if f"2]\n{word}\n" in question)
    assert run(server, out, judged_data, "--tasks", "llava_bench") == 0
    [row] = rows_of(out)
    # LLaVA's script: the grades 6, 0 and -1 over 8, 10 and -1; strictly 6 over 8.
    assert row["score"] == pytest.approx(29.4) and row["strict_score"] == 75.0
    assert [line.partition(":")[0] for line in row["judge"]["unread"]] == ["2, run 1"] and row["missing"] == 0
    assert len(server.requests) == 3 and {body["temperature"] for _, _, body in server.requests} == {0.2}


def test_a_task_whose_grades_are_all_unreadable_does_not_stop_the_next(
    server: JudgeServer, judged_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    answered(out, "llava_bench", {"0": "a"})
    answered(out, "mmvet", {"v1_0": "a"})
    server.reply = lambda question: "no idea" if "[Assistant 1]" in question else "0.5"
    with pytest.raises(SystemExit, match=r"error: llava_bench none: not one answer was graded in run 1"):
        run(server, out, judged_data)
    assert [row.get("score") for row in rows_of(out)] == [None, 50.0]
    assert "mmvet none: 50.0" in capsys.readouterr().out


def test_no_grade_at_all_is_an_error_and_leaves_the_results(
    server: JudgeServer, judged_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    answered(out, "mmvet", {"v1_0": "a"})
    before = (out / "results.json").read_bytes()
    server.reply = lambda question: "no idea"
    with pytest.raises(SystemExit, match="not one answer was graded in run 1, the first is v1_0"):
        run(server, out, judged_data, "--tasks", "mmvet")
    assert (out / "results.json").read_bytes() == before
    server.troubles = [Misbehaviour(401, body=b"bad key")] * 9
    server.reply = lambda question: "0.5"
    with pytest.raises(SystemExit, match="401"):
        run(server, out, judged_data, "--tasks", "mmvet", "--judge-model", "other")
    assert (out / "results.json").read_bytes() == before


def test_an_endpoint_that_is_down_is_reported_soon(server: JudgeServer, judged_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answered(out, "mmvet", {"v1_0": "a"})
    server.troubles = [Misbehaviour(500, body=b"down")] * 999
    runs = ("--judge-runs", "50", "--judge-attempts", "1")
    with pytest.raises(SystemExit, match=r"the first 8 questions got no reply; .*500 .*down"):
        run(server, out, judged_data, "--tasks", "mmvet", *runs)
    assert len(server.requests) < 50


def test_wrong_use_ends_in_a_line(server: JudgeServer, judged_data: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has no answers of mmvet"):
        run(server, tmp_path, judged_data, "--tasks", "mmvet")
    with pytest.raises(SystemExit, match="unknown task 'mmvat'"):
        run(server, tmp_path, judged_data, "--tasks", "mmvat")
    runs, extra, wait = "--judge-runs", "--judge-extra", "--judge-timeout"
    waits = [[wait, "0"], [wait, "-1"], [wait, "nan"], [wait, "inf"], [wait, "1e99"]]
    for wrong in (["--tasks", "gqa"], ["--tasks", ""], [runs, "0"], [extra, "[1]"], [extra, "{"], *waits):
        with pytest.raises(SystemExit) as error:
            run(server, tmp_path, judged_data, *wrong)
        assert error.value.code == 2


def test_without_tasks_what_is_there_is_graded(
    server: JudgeServer, judged_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match=r"results\.json does not exist or has no rows"):
        run(server, out, judged_data)
    row = {"task": "pope", "compression": "none", "n": 3}
    layout.write_json(out / "results.json", {"run": {"model": "fp"}, "rows": [row]})
    assert run(server, out, judged_data) == 0 and "nothing to grade" in capsys.readouterr().out
    answered(out, "mmvet", {"v1_0": "a"})
    server.reply = lambda question: "0.5"
    assert run(server, out, judged_data) == 0
    assert [row.get("score") for row in rows_of(out)] == [None, 50.0]


def test_rows_and_answers_of_exact_runs_never_meet_others(tmp_path: Path) -> None:
    answered(tmp_path, "mmvet", {"v1_0": "yes"})
    [answers] = find_answers(tmp_path, "mmvet")
    [row] = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert made_alike(row, answers) and made_alike(row | {"exact": False}, answers)
    exact = replace(answers, key=answers.key | {"exact": True})
    assert not made_alike(row | {"exact": True}, answers) and not made_alike(row, exact)
    assert made_alike(row | {"exact": True}, exact)


def test_ctrl_c_ends_in_a_line_and_what_is_graded_is_kept(
    server: JudgeServer, judged_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    answered(out, "mmvet", {"v1_0": "a", "v1_1": "b", "v1_2": "c"})
    words = ["--tasks", "mmvet", "--judge-concurrency", "1"]

    def stop_at_the_second(question: str) -> str:
        if len(server.requests) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return "0.5"

    server.reply = stop_at_the_second
    with pytest.raises(SystemExit) as end:
        run(server, out, judged_data, *words)
    assert end.value.code == 130
    assert capsys.readouterr().err.endswith("stopped; the same command goes on from here\n")
    asked = len(server.requests)
    assert 2 <= asked <= 3 and "score" not in rows_of(out)[0]
    assert run(server, out, judged_data, *words) == 0
    assert len(server.requests) == 3 and rows_of(out)[0]["score"] == pytest.approx(50)
