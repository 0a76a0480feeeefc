"""Answer files: resumable after a kill, in the same bytes, and never mixed."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llava.eval import results
from llava.eval.answers import AnswerFile, AnswersKeyMismatch, AnswerStore
from llava.eval.answers_key import AnswersKey, compression_file_name, compression_name, without_seed
from llava.eval.results import format_table, read_results, write_results
from llava.locks import InUseError
from llava.model.configuration import CompressionConfig

KEY = AnswersKey("tiny_vqa", "abc", CompressionConfig().to_dict(), "v1", "p", {"max_new_tokens": 16}, "torch.float32")


def test_interrupted_run_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    with AnswerFile(whole, KEY) as answers:
        for number in range(4):
            answers.append(str(number), f"answer {number} é")
    answers.finish(["0", "1", "2", "3"])
    with AnswerFile(cut, KEY) as answers:
        answers.append("2", "answer 2 é")
        answers.append("0", "answer 0 é")
    with cut.open("ab") as stream:
        stream.write(b'{"question_id": "1", "text": "answ')
    resumed = AnswerFile(cut, KEY)
    assert set(resumed.answers) == {"2", "0"}
    with resumed:
        resumed.append("3", "answer 3 é")
        resumed.append("1", "answer 1 é")
    resumed.finish(["0", "1", "2", "3"])
    assert cut.read_bytes() == whole.read_bytes()


def test_only_newlines_end_a_line(tmp_path: Path) -> None:
    path, text = tmp_path / "a.jsonl", "one\u2028two\u2029three\x85four\x0bfive\x1csix"
    with AnswerFile(path, KEY) as answers:
        answers.append("0", text)
    assert AnswerFile(path, KEY).answers["0"]["text"] == text


@pytest.mark.parametrize("field", ["model", "compression", "prompts", "conv_mode", "generation", "dtype", "data"])
def test_answers_of_another_run_are_refused(tmp_path: Path, field: str) -> None:
    with AnswerFile(tmp_path / "a.jsonl", KEY) as answers:
        answers.append("0", "text")
    other = None if field == "compression" else {"max_new_tokens": 1} if field == "generation" else "other"
    with pytest.raises(AnswersKeyMismatch, match=rf"a\.jsonl.*{field}: .*--output-dir"):
        AnswerFile(tmp_path / "a.jsonl", replace(KEY, **{field: other}))


def test_a_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text("hello\n")
    with pytest.raises(AnswersKeyMismatch, match="not a file of answers"):
        AnswerFile(path, KEY)


def test_killed_before_the_header_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"run_k')
    with AnswerFile(path, KEY) as answers:
        answers.append("0", "text")
    header, _ = path.read_text().splitlines()
    assert json.loads(header) == {"run_key": KEY.to_json()}


def test_budgets_that_differ_have_names_that_differ() -> None:
    budgets = [None, *(CompressionConfig("visionzip", 54, 10, **more) for more in ({}, {"merge": "mean"}, {"seed": 1}))]
    budgets += [CompressionConfig("random", 64, 0, seed=seed) for seed in (0, 1)]
    assert len({compression_name(budget) for budget in budgets}) == len(budgets)
    names = [compression_file_name(budget) for budget in budgets]
    assert len(set(names)) == len(names)
    assert names[:2] == ["none", "visionzip_54+10"]
    assert all("/" not in name and ":" not in name for name in names)
    assert compression_name(budgets[2]) == "visionzip:54+10,merge=mean"
    assert compression_name(budgets[3]) == "visionzip:54+10,seed=1"
    two = CompressionConfig.parse("visionzip:54+10,seed=3|random:9,layers=2/6,seed=2")
    assert compression_name(two) == str(two) and without_seed(str(two)) == "visionzip:54+10|random:9,layers=2/6"
    assert compression_file_name(two) == "visionzip_54+10_seed-3_random_9_seed-2_layers-2-6"


def row(compression: str, accuracy: float, n: int = 10) -> dict[str, object]:
    method = compression.split("_")[0]
    return {"task": "t", "compression": compression, "method": method, "accuracy": accuracy, "n": n}


def test_retention_is_against_the_vanilla_row_of_the_same_size(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, [row("visionzip_4+1", 0.4)], "model")
    assert read_results(path)[0]["retention"] is None
    write_results(path, [row("none", 0.8), row("random_5", 0.2, n=3)], "model")
    assert {r["compression"]: r["retention"] for r in read_results(path)} == {
        "visionzip_4+1": 0.5,
        "none": 1.0,
        "random_5": None,
    }


def test_retention_is_of_the_main_score_and_needs_one(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    rows = [row("none", 0.9) | {"f1": 0.8, "main_score": "f1"}, row("random_5", 0.9) | {"f1": 0.6, "main_score": "f1"}]
    judged = {"task": "mmvet", "compression": "none", "method": "none", "n": 2, "main_score": "score"}
    rows += [judged, judged | {"compression": "random_5", "method": "random", "score": math.nan}]
    write_results(path, rows, "model")
    assert "NaN" not in path.read_text()
    read = read_results(path)
    assert [r["retention"] for r in read] == [1.0, pytest.approx(0.75), None, None] and read[3]["score"] is None
    table = format_table([*read, judged | {"score": 31.14, "tokens": 64}])
    cells = [[cell.strip() for cell in line.split("|")[3:7]] for line in table.splitlines()[2:]]
    assert cells[:3] == [["-", "f1", "80.0 %", "100.0 %"], ["-", "f1", "60.0 %", "75.0 %"], ["-", "score", "-", "-"]]
    assert cells[4] == ["64", "score", "31.1", "-"]


def test_retention_needs_one_judge(tmp_path: Path) -> None:
    """A rerun of llava.eval keeps grades, and works out retention among rows that may be of different judges."""
    path = tmp_path / "results.json"
    judge = {"model": "judge-1", "served": ["judge-1-0613"], "runs": 1, "extra": {}}
    rows = [row(name, 0.0) | {"task": "mmvet", "main_score": "score", "score": 30.0} for name in "abcd"]
    rows[0] |= {"compression": "none", "judge": judge}
    for number, own in enumerate((judge, judge | {"model": "judge-2"}, judge | {"served": ["judge-1-1106"]}), start=1):
        rows[number] |= {"score": 15.0, "judge": own | {"std": 0.1, "missing": []}}
    write_results(path, rows, "model")
    assert [r["retention"] for r in read_results(path)] == [1.0, 0.5, None, None]
    write_results(path, [row("none", 0.8)], "model")
    assert [r["retention"] for r in read_results(path)] == [1.0, 0.5, None, None, 1.0]


def test_scores_against_other_annotations_are_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, [row("none", 0.8) | {"references": "a"}, row("random_5", 0.4) | {"references": "b"}], "model")
    assert [r["retention"] for r in read_results(path)] == [1.0, None]
    write_results(path, [row("none", 0.5) | {"references": "b"}], "model")
    assert [(r["accuracy"], r["retention"]) for r in read_results(path)] == [(0.5, 1.0), (0.4, 0.8)]


def test_each_row_says_which_code_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    for commit, name in (("first", "none"), ("second", "random_5")):
        monkeypatch.setattr(results, "source_commit", lambda commit=commit: commit)
        write_results(path, [row(name, 0.8)], "model")
    assert [r["commit"] for r in read_results(path)] == ["first", "second"]
    assert all(r["versions"]["torch"] == torch.__version__ for r in read_results(path))


@pytest.mark.parametrize("field", ["n", "dtype", "conv_mode", "generation", "prompts"])
def test_rows_made_otherwise_stand_beside_each_other(tmp_path: Path, field: str) -> None:
    """A run with --limit takes no fuller row's place, and a row is compared with what was made as it was."""
    path = tmp_path / "results.json"
    write_results(path, [row("none", 0.8), row("random_5", 0.2)], "model")
    other = {"n": 3, "generation": {"max_new_tokens": 1}}.get(field, "other")
    write_results(path, [row("none", 0.5) | {field: other}], "model")
    assert [(r["accuracy"], r["retention"]) for r in read_results(path)] == [(0.8, 1.0), (0.2, 0.25), (0.5, 1.0)]
    write_results(path, [row("random_5", 0.4) | {field: other}], "model")
    assert [r["retention"] for r in read_results(path)] == [1.0, 0.25, 1.0, 0.8]


def test_another_models_results_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, [row("none", 0.8)], "model")
    before = path.read_bytes()
    for attempt in (lambda: read_results(path, "b"), lambda: write_results(path, [row("none", 0.1)], "b")):
        with pytest.raises(AnswersKeyMismatch, match=r"results\.json holds the results of another model.*--output-dir"):
            attempt()
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": []}', '{"run": {"model": "m"}, "rows": [{"task": "gqa"}]}'])
def test_another_file_is_no_results(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"results\.json is not a results\.json .*; move it away"):
        read_results(path)


def test_shards_are_merged_in_order_and_removed(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "a.jsonl", KEY)
    with AnswerFile(store.path, KEY) as answers:
        answers.append("2", "two")
    for rank, sample_id in enumerate(("3", "0")):
        with store.shard(rank, 2) as shard:
            shard.append(sample_id, sample_id)
    with store.shard(1, 2) as shard:
        shard.append_error("1", "1: no such image")
    with store.shards[1].open("ab") as stream:
        stream.write(b'{"question_id": "9", "te')  # another process is writing
    assert store.known() == (
        {key: {"question_id": key, "text": text} for key, text in (("3", "3"), ("0", "0"), ("2", "two"))},
        {"1": "1: no such image"},
    )
    store.merge(["0", "1", "2", "3"], keep_errors=True)
    assert [json.loads(line).get("question_id") for line in store.path.read_text().splitlines()] == [
        *(None, "0", "2", "3")
    ]
    assert [path.name for path in store.shards] == ["1-of-2.jsonl"], "its error is known nowhere else"
    assert store.shard(1, 2).errors == {} and store.known()[1] == {}, "what failed is tried again"
    store.merge(["0", "1", "2", "3"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]


def test_a_second_writer_is_refused_and_loses_nothing(tmp_path: Path) -> None:
    store, order = AnswerStore(tmp_path / "a.jsonl", KEY), ["0", "1", "2"]
    with AnswerFile(store.path, KEY) as first:
        first.append("0", "zero")
        for attempt in (lambda: AnswerFile(store.path, KEY).__enter__(), lambda: store.merge(order)):
            with pytest.raises(InUseError, match=r"a\.jsonl: another process is answering this"):
                attempt()
        first.append("1", "one")
    store.merge(order)
    with store.shard(0, 2) as shard:
        for attempt in (lambda: store.shard(0, 2), lambda: store.merge(order)):
            with pytest.raises(InUseError, match=r"0-of-2\.jsonl: another process"):
                attempt()
        with store.shard(1, 2) as other:
            other.append("1", "another")
        shard.append("2", "two")
    store.merge(order)
    assert list(store.known()[0]) == order


def test_answers_do_not_go_into_a_file_that_was_replaced_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, real, opened = AnswerStore(tmp_path / "a.jsonl", KEY), fcntl.flock, []

    def replaced_first(stream: Any, how: int) -> None:
        if not opened:
            opened.append(stream)
            store.merge([])
        real(stream, how)

    store.merge([])
    monkeypatch.setattr(fcntl, "flock", replaced_first)
    with AnswerFile(store.path, KEY) as answers:
        answers.append("0", "zero")
    assert opened and list(store.known()[0]) == ["0"]


def test_a_disk_without_locks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(stream: Any, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    answers = AnswerFile(tmp_path / "a.jsonl", KEY)
    with pytest.warns(UserWarning, match=r"a\.jsonl cannot be locked .*start no second command on it"), answers:
        answers.append("0", "zero")
    assert list(AnswerFile(tmp_path / "a.jsonl", KEY).answers) == ["0"]


def test_shards_of_another_run_are_refused(tmp_path: Path) -> None:
    with AnswerStore(tmp_path / "a.jsonl", KEY).shard(0, 2) as shard:
        shard.append("0", "text")
    other = AnswerStore(tmp_path / "a.jsonl", replace(KEY, model="other"))
    with pytest.raises(AnswersKeyMismatch, match=r"0-of-2\.jsonl holds answers made otherwise \(model"):
        other.merge(["0"])


def test_the_commit_of_the_source_is_on_record(tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", [row("none", 0.8)], "model")
    commit = json.loads((tmp_path / "results.json").read_text())["run"]["commit"]
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert commit is None if head.returncode else commit.removesuffix("-dirty") == head.stdout.strip()
