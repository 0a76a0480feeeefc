"""`python -m llava.eval` on the reference's tiny checkpoint: every budget a row, killed and rerun the same bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from llava.eval.answers import AnswersKeyMismatch
from llava.eval.command import main
from llava.eval.report.command import main as report
from llava.eval.results import write_results
from llava.eval.runner import RunSettings, evaluate
from llava.eval.tasks import TaskDataError, get_task
from llava.inference import Answer, Inference, Question
from llava.model.configuration import CompressionConfig
from tests.eval import layout

BUDGET = CompressionConfig("visionzip", 54, 10)


@pytest.fixture(scope="module")
def inference(oracle_dir: Path) -> Inference:
    return Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu")


def settings(output_dir: Path, data_root: Path, **more: Any) -> RunSettings:
    defaults: dict[str, Any] = {"fingerprint": "model", "latency_repeats": 0, "progress": False}
    return RunSettings(output_dir, data_root=data_root, **(defaults | more))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.jsonl")}


def test_command_line_runs_tasks_by_budgets(
    oracle_dir: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--tasks", "tiny_vqa,tiny_pope"]
    arguments += ["--compression", "none", "--compression", "visionzip:54+10", "--device", "cpu"]
    arguments += [
        "--limit",
        "8",
        "--latency-repeats",
        "2",
        "--data-root",
        str(tiny_data),
        "--output-dir",
        str(tmp_path),
    ]
    assert main(arguments) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [(row["task"], row["method"], row["tokens"], row["n"]) for row in rows] == [
        ("tiny_vqa", "none", 576, 8),
        ("tiny_vqa", "visionzip", 64, 8),
        ("tiny_pope", "none", 576, 8),
        ("tiny_pope", "visionzip", 64, 8),
    ]
    assert [row["encodes_saved"] for row in rows] == [6, 6, 4, 4]
    assert all(row["vision_ms"] > 0 and row["prefill_ms"] > 0 and row["seconds"] > 0 for row in rows)
    assert all("f1" in row for row in rows[2:]) and set(rows[0]["accuracy_by_group"]) == {"digit", "count", "colour"}
    assert "tiny_pope" in capsys.readouterr().out

    # Rerun: nothing is asked again, and the measured figures stay.
    assert main(arguments) == 0
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == rows


def test_exact_runs_are_said_to_be_so_and_never_mixed(
    oracle_dir: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--tasks", "tiny_pope", "--device", "cpu"]
    arguments += ["--limit", "3", "--latency-repeats", "0", "--data-root", str(tiny_data), "--compression", "none"]
    for name, flags in (("batches", []), ("exact", ["--exact"])):
        assert main([*arguments, *flags, "--output-dir", str(tmp_path / name)]) == 0
        [row] = json.loads((tmp_path / name / "results.json").read_text())["rows"]
        assert row["exact"] == (name == "exact") and (row["encodes_saved"] == 0) == (name == "exact")
    answers = [
        files_of(tmp_path / name)["answers/tiny_pope/none.jsonl"].split(b"\n", 1) for name in ("batches", "exact")
    ]
    assert answers[0][1] == answers[1][1] and b'"exact": true' in answers[1][0] and b"exact" not in answers[0][0]
    assert main([*arguments, "--output-dir", str(tmp_path / "exact")]) == 1
    assert "exact: True -> False" in capsys.readouterr().err
    assert report([str(tmp_path / "exact"), "--no-picture", "--resamples", "0"]) == 0
    assert "Questions were asked one by one, nothing shared (--exact)." in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*arguments, "--exact", "--batch-size", "4", "--output-dir", str(tmp_path / "other")])
    assert "--exact asks questions one by one: leave out --batch-size" in capsys.readouterr().err


def test_answers_are_the_models_own(inference: Inference, tiny_data: Path, tmp_path: Path) -> None:
    [result] = evaluate(inference, [get_task("tiny_vqa")], [BUDGET], settings(tmp_path, tiny_data, batch_size=7))
    assert inference.model.compression is None, "the model's own compression is put back"
    header, *lines = (tmp_path / "answers" / "tiny_vqa" / "visionzip_54+10.jsonl").read_text().splitlines()
    assert json.loads(header)["run_key"]["compression"] == BUDGET.to_dict()
    samples = get_task("tiny_vqa").load(tiny_data).samples
    inference.model.set_compression(BUDGET)
    try:
        for line, sample in list(zip(map(json.loads, lines), samples, strict=True))[:6]:
            alone = inference.ask_one(sample.prompt, *sample.images)
            assert line["question_id"] == sample.sample_id
            assert line["text"] == inference.decode(alone.token_ids[:16])
    finally:
        inference.model.set_compression(None)
    assert result.row["accuracy"] == sum(result.earned.values()) / 20


def test_killed_and_rerun_ends_in_the_same_bytes(
    inference: Inference, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = get_task("tiny_vqa")
    evaluate(inference, [task], [BUDGET], settings(tmp_path / "whole", tiny_data, batch_size=3))

    ask = Inference.ask

    def killed_after_five(self: Inference, questions: list[Question], **options: Any) -> Iterator[Answer]:
        for count, answer in enumerate(ask(self, questions, **options)):
            if count == 5:
                raise KeyboardInterrupt
            yield answer

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Inference, "ask", killed_after_five)
        evaluate(inference, [task], [BUDGET], settings(tmp_path / "killed", tiny_data, batch_size=3))
    [(_, left)] = files_of(tmp_path / "killed").items()
    assert len(left.splitlines()) == 1 + 5

    asked: list[int] = []

    def counted(self: Inference, questions: list[Question], **options: Any) -> Iterator[Answer]:
        asked.append(len(questions))
        return ask(self, questions, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Inference, "ask", counted)
        evaluate(inference, [task], [BUDGET], settings(tmp_path / "killed", tiny_data, batch_size=4))
    assert asked == [15]
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_another_model_or_prompt_refuses_to_mix(inference: Inference, tiny_data: Path, tmp_path: Path) -> None:
    task, out, data = get_task("tiny_pope"), tmp_path / "out", tmp_path / "data"
    shutil.copytree(tiny_data, data)
    evaluate(inference, [task], [BUDGET], settings(out, data, limit=2))
    results = (out / "results.json").read_bytes()
    (out / "results.json").unlink()
    with pytest.raises(AnswersKeyMismatch, match="model: 'model' -> 'other'"):
        evaluate(inference, [task], [BUDGET], settings(out, data, fingerprint="other"))
    (out / "results.json").write_bytes(results)
    rows = json.loads((data / "eval_pope.json").read_text())
    rows[0]["text"] = "Is there, perhaps, a 0?"
    (data / "eval_pope.json").write_text(json.dumps(rows))
    with pytest.raises(AnswersKeyMismatch, match="prompts: "):
        evaluate(inference, [task], [BUDGET], settings(out, data))


def test_a_larger_limit_goes_on_where_a_smaller_one_ended(
    inference: Inference, tiny_data: Path, tmp_path: Path
) -> None:
    task = get_task("tiny_pope")
    [first] = evaluate(inference, [task], [BUDGET], settings(tmp_path / "a", tiny_data, limit=3))
    assert (first.row["n"], len(first.earned)) == (3, 3)
    [rest] = evaluate(inference, [task], [BUDGET], settings(tmp_path / "a", tiny_data))
    evaluate(inference, [task], [BUDGET], settings(tmp_path / "b", tiny_data))
    assert rest.row["n"] == 10
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_bad_image_is_named_counted_and_asked_again(inference: Inference, tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    (data / "images" / "eval_1.png").write_bytes(b"no picture")
    task = get_task("tiny_pope")
    [result] = evaluate(inference, [task], [BUDGET], settings(tmp_path / "out", data))
    assert result.row["n"] == 10 and len(result.row["errors"]) == 2
    assert all("eval_1.png" in line for line in result.row["errors"])
    shutil.copy(tiny_data / "images" / "eval_1.png", data / "images" / "eval_1.png")
    [mended] = evaluate(inference, [task], [BUDGET], settings(tmp_path / "out", data))
    assert mended.row["errors"] == []
    evaluate(inference, [task], [BUDGET], settings(tmp_path / "whole", tiny_data))
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_list_and_wrong_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    listed = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert listed["seed"][1:6] == ["19242", "or", "17990", "accuracy", "SEED"]
    assert listed["mmbench"][1:4] == ["4377", "circular_accuracy", "MMB"] and listed["seed_video"][5] == "-"
    assert listed["tiny_pope"][1:4] == ["-", "accuracy", "-"] and listed["vizwiz"][2:5] == ["by", "its", "server"]
    for arguments, message in (
        (["--tasks", "tiny_vqa"], "--model-path, --output-dir: needed"),
        (["--model-path", "m", "--tasks", "gqua", "--output-dir", "o"], "unknown task 'gqua'"),
        (
            ["--model-path", "m", "--tasks", "tiny_vqa", "--output-dir", "o", "--compression", "zip"],
            "compression 'zip'",
        ),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--batch-size", "0"], "--batch-size: must be at least 1, got 0"),
        (["--limit", "-1"], "--limit: must be at least 1, got -1"),
        (["--limit", "x"], "--limit: invalid"),
        (["--latency-repeats", "-1"], "--latency-repeats: must be at least 0"),
        (["--tasks", " , "], "--tasks names no task"),
        (["--output-dir", "{file}"], "file is not a folder"),
        (["--output-dir", "{file}/inside"], "file is not a folder"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], message: str
) -> None:
    (tmp_path / "file").touch()
    given = ["--model-path", "nowhere", "--tasks", "tiny_vqa", "--output-dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main([*given, *(word.format(file=tmp_path / "file") for word in wrong)])
    assert message in capsys.readouterr().err


def test_results_that_cannot_be_added_to_are_refused_first(
    inference: Inference, oracle_dir: Path, tiny_data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "results.json"
    path.write_text("{")
    with pytest.raises(SystemExit, match=r"error: .*results\.json is not a results\.json"):
        main(["--model-path", "nowhere", "--tasks", "tiny_vqa", "--output-dir", str(tmp_path)])
    path.unlink()
    task = get_task("tiny_pope")
    evaluate(inference, [task], [None], settings(tmp_path, tiny_data, limit=2))
    flags = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--tasks", " tiny_vqa, tiny_pope"]
    with pytest.raises(SystemExit, match="results of another model"):
        main([*flags, "--output-dir", str(tmp_path)])
    with pytest.raises(AnswersKeyMismatch, match="results of another model"):
        evaluate(inference, [get_task("tiny_vqa")], [BUDGET], settings(tmp_path, tiny_data, fingerprint="other"))
    assert not (tmp_path / "answers" / "tiny_vqa").exists(), "nothing was asked"


def test_a_smaller_limit_leaves_the_fuller_row(inference: Inference, tiny_data: Path, tmp_path: Path) -> None:
    task = get_task("tiny_pope")
    evaluate(inference, [task], [None, BUDGET], settings(tmp_path, tiny_data))
    [part] = evaluate(inference, [task], [None], settings(tmp_path, tiny_data, limit=3))
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [(row["compression"], row["n"]) for row in rows] == [("none", 10), ("visionzip:54+10", 10), ("none", 3)]
    assert part.row["n"] == 3 and rows[0]["dtype"] == "torch.float32" and rows[0]["generation"]["num_beams"] == 1


def test_a_task_without_one_readable_image_fails(inference: Inference, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_data / "eval_pope.json", tmp_path)
    with pytest.raises(TaskDataError, match=r"tiny_pope: not one of 10 questions .*eval_0\.png.*--data-root"):
        evaluate(inference, [get_task("tiny_pope")], [BUDGET], settings(tmp_path / "out", tmp_path))
    assert not (tmp_path / "out" / "results.json").exists()


def test_cut_prompts_are_listed(
    inference: Inference, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference.model.config, "tokenizer_model_max_length", 80, raising=False)
    [result] = evaluate(inference, [get_task("tiny_pope")], [BUDGET], settings(tmp_path, tiny_data, limit=3))
    assert result.row["truncated"] == ["0", "1", "2"]
    [again] = evaluate(inference, [get_task("tiny_pope")], [BUDGET], settings(tmp_path, tiny_data, limit=3))
    assert again.row["truncated"] == ["0", "1", "2"], "known from the answers on disk too"


def test_missing_data_is_an_error_without_a_traceback(
    oracle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_EVAL_DATA", str(tmp_path / "nowhere"))
    arguments = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--tasks", "tiny_vqa", "--device", "cpu"]
    with pytest.raises(SystemExit, match=r"^error: .*nowhere"):
        main([*arguments, "--output-dir", str(tmp_path)])


def write_small_benchmarks(root: Path) -> None:
    """VizWiz, whose answers are not public, MM-Vet, which a judge grades, and POPE, whose main score is F1."""
    layout.write_vizwiz(root, [{"image": f"v{n}.png", "question": "what is it?"} for n in range(2)])
    row = {"imagename": "a.png", "question": "What is x?", "answer": "1", "capability": ["ocr"]}
    layout.write_mmvet(root, [row, row])
    pope = [
        {"question_id": n, "image": "a.png", "text": "Is it?", "label": label} for n, label in enumerate(("yes", "no"))
    ]
    layout.write_pope(root, [*pope, {"question_id": 2, "image": "a.png", "text": "Is it?"}])
    for image in ("vizwiz/test/v0.png", "vizwiz/test/v1.png", "mm-vet/images/a.png", "pope/val2014/a.png"):
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        (root / image).write_bytes(layout.png())


def test_all_runs_what_is_there_and_says_what_is_not(
    oracle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for task in ("vizwiz", "mmvet", "pope"):
        monkeypatch.setattr(type(get_task(task)), "max_new_tokens", 4)
    flags = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--tasks", "all", "--device", "cpu"]
    flags += ["--compression", "none", "--compression", "visionzip:54+10", "--latency-repeats", "0"]
    flags += ["--data-root", str(data), "--output-dir", str(out)]
    assert main(flags) == 1, "nothing to run"
    assert "no task's data are here" in capsys.readouterr().err
    write_small_benchmarks(data)
    assert main(flags) == 0
    text = (out / "results.json").read_text()
    rows = {(row["task"], row["method"]): row for row in json.loads(text)["rows"]}
    run = ("vizwiz", "mmvet", "mmvet_lmms", "pope")
    assert set(rows) == {(task, method) for task in run for method in ("none", "visionzip")}
    said = capsys.readouterr().out
    assert "not run: gqa: " in said and "not run: tiny_vqa: " in said and "NaN" not in text
    assert "left out: " in said and "row 2: missing field 'label'" in said
    assert "mmvet: 2 questions, the published split has 218" in said and f"llava.eval.judge {out}" in said

    pope = rows["pope", "visionzip"]
    assert pope["main_score"] == "f1" and len(pope["bad_rows"]) == 3 and pope["n"] == 6
    vanilla = rows["pope", "none"]["f1"]
    assert pope["retention"] == (pytest.approx(pope["f1"] / vanilla) if vanilla else None)
    for task in ("vizwiz", "mmvet"):
        row = rows[task, "visionzip"]
        assert row["retention"] is None and "accuracy" not in row and "score" not in row
        assert row["submission"] == f"submissions/visionzip_54+10/{task}.json" and row["submission"] in said
    submission = json.loads((out / rows["vizwiz", "none"]["submission"]).read_text())
    assert [entry["image"] for entry in submission] == ["v0.png", "v1.png"]


@pytest.mark.parametrize("is_broken", [False, True])
def test_grades_and_costs_survive_a_rerun_that_answers_nothing(
    inference: Inference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_broken: bool
) -> None:
    """An image that cannot be read is tried again each time, which changes nothing."""
    task, given = get_task("mmvet"), settings(tmp_path / "out", tmp_path / "data")
    monkeypatch.setattr(type(task), "max_new_tokens", 4)
    write_small_benchmarks(tmp_path / "data")
    row = {"question": "Q?", "answer": "a", "capability": ["rec"]}
    layout.write_mmvet(tmp_path / "data", [row | {"imagename": name} for name in ("a.png", "b.png")])
    if not is_broken:
        (tmp_path / "data" / "mm-vet" / "images" / "b.png").write_bytes(layout.png())
    [first] = evaluate(inference, [task], [None], given)
    assert (first.row["answered"], len(first.row["errors"])) == (2 - is_broken, is_broken)
    judge = {"model": "local"}
    write_results(given.results_path, [first.row | {"score": 31.1, "judge": judge}], "model")
    [again] = evaluate(inference, [task], [None], given)
    assert (again.row["score"], again.row["judge"], again.row["retention"]) == (31.1, judge, 1.0)
    assert {name: again.row[name] for name in ("answered", "seconds")} == {
        name: first.row[name] for name in ("answered", "seconds")
    }


def test_an_unanswered_question_leaves_no_submission(
    inference: Inference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = get_task("vizwiz")
    monkeypatch.setattr(type(task), "max_new_tokens", 4)
    write_small_benchmarks(tmp_path / "data")
    (tmp_path / "data" / "vizwiz" / "test" / "v1.png").unlink()
    [result] = evaluate(inference, [task], [None], settings(tmp_path / "out", tmp_path / "data"))
    assert result.row["submission"] is None and len(result.row["errors"]) == 1
    assert not (tmp_path / "out" / "submissions").exists()


@pytest.mark.parametrize(
    ("size", "said"), [("3", "give --batch-size auto"), ("auto", "a single question does not fit")]
)
def test_a_full_memory_ends_in_a_line_and_keeps_what_is_answered(
    oracle_dir: Path,
    tiny_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    size: str,
    said: str,
) -> None:
    tried: list[int] = []
    encode = Inference.encode_pixels

    def refuse(self: Inference, images: Sequence[Any]) -> Any:
        tried.append(len(images))
        if len(tried) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")
        return encode(self, images)

    flags = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--tasks", "tiny_pope", "--device", "cpu"]
    flags += ["--latency-repeats", "0", "--data-root", str(tiny_data), "--output-dir", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(Inference, "encode_pixels", refuse)
        assert main([*flags, "--batch-size", size]) == 1
    assert f"error: CUDA out of memory. Tried to allocate 2 GiB.: {said}" in capsys.readouterr().err
    assert main([*flags, "--batch-size", size]) == 0
    [row] = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert row["n"] == 10 and not row["errors"]
