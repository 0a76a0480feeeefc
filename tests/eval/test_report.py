"""The report on folders as the runner and the judge leave them, and the comparison of two answer sets."""

from __future__ import annotations

import csv
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava.eval.answers import AnswerFile
from llava.eval.answers_key import AnswersKey, compression_file_name, compression_name
from llava.eval.data_place import DataPlace
from llava.eval.report.command import main
from llava.eval.report.files import to_markdown
from llava.eval.report.intervals import add_intervals
from llava.eval.report.table import build_table
from llava.eval.tasks import JudgedTask, Task, get_task
from llava.model.configuration import CompressionConfig
from llava.results.paper import paper_tables
from llava.results.score_parts import ScoreParts, mean_of
from tests.eval import layout

BUDGETS = {"none": (None, 576), "visionzip:54+10": (CompressionConfig("visionzip", 54, 10), 64)}
BUDGETS |= {f"random:64{f',seed={n}' if n else ''}": (CompressionConfig("random", 64, 0, seed=n), 64) for n in range(3)}
TASKS = ("gqa", "pope", "mme", "mmbench", "mmvet")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    rng = random.Random(1)
    types = {"structural": "query", "semantic": "obj"}
    rows = [
        {"question": f"Q{n}?", "answer": rng.choice("ab"), "imageId": f"i{n % 10}", "types": types} for n in range(60)
    ]
    layout.write_gqa(root, rows)
    images = root / "gqa" / "data" / "images"
    images.mkdir()
    for number in range(9):  # one is not there
        (images / f"i{number}.jpg").write_bytes(layout.png())
    labels = [
        {"question_id": n, "image": f"{n % 8}.jpg", "text": "T?", "label": rng.choice(["yes", "no"])} for n in range(40)
    ]
    layout.write_pope(root, labels)
    layout.write_mme(root, {f"{c}/{n}": ["A?\tYes", "B?\tNo"] for c in ("count", "color") for n in range(6)})
    turned = [
        {"index": n + turn * 1_000_000, "question": "Q?", "answer": "AB"[turn], "A": "xy"[turn], "B": "yx"[turn]}
        for n in range(10)
        for turn in range(2)
    ]
    layout.write_mmbench(root, turned)
    row = {"imagename": "v.png", "question": "Q?", "answer": "a", "capability": ["rec"]}
    layout.write_mmvet(root, [row | {"imagename": f"{n}.png"} for n in range(12)])
    return root


def says(task: Task, sample: Any, rng: random.Random, skill: float) -> str:
    """The answer, or another, as a model of that skill says it."""
    right = rng.random() < skill
    if task.name in ("pope", "mme"):
        return sample.answer if right else {"yes": "no", "no": "yes"}[sample.answer.lower()]
    return sample.answer if right else "z"


def write_run(folder: Path, data: Path, skills: dict[str, float], seed: int = 0, **more: Any) -> None:
    """An output folder: answers, grades of the judged, results."""
    rng, rows = random.Random(seed), []
    for name in TASKS:
        task = get_task(name)
        samples = task.load(data).samples
        for budget, skill in skills.items():
            compression, tokens = BUDGETS[budget]
            setting = {"prompts": "p", "conv_mode": "vicuna_v1", "dtype": "torch.float16", "generation": {}} | more
            key = AnswersKey(
                task=name,
                model="fp",
                compression=compression.to_dict() if compression else None,
                conv_mode=setting["conv_mode"],
                prompts=setting["prompts"],
                generation=setting["generation"],
                dtype=setting["dtype"],
            )
            texts = {sample.sample_id: says(task, sample, rng, skill) for sample in samples}
            with AnswerFile(folder / "answers" / name / f"{compression_file_name(compression)}.jsonl", key) as file:
                for sample_id, text in texts.items():
                    file.append(sample_id, text)
            row = {"task": name, "method": budget.split(":")[0], "compression": compression_name(compression)}
            row |= {"tokens": tokens, "n": len(samples), "errors": [], "bad_rows": [], "truncated": []} | setting
            row["main_score"] = task.main_score
            scores = task.score(samples, texts)
            if isinstance(task, JudgedTask):
                grades = {sample.sample_id: [float(rng.random() < skill)] for sample in samples}
                lines = [{"judge": {}}, *({"question_id": key, "grades": values} for key, values in grades.items())]
                layout.write_jsonl(folder / "grades" / name / f"{compression_file_name(compression)}.jsonl", lines)
                scores = task.score_grades(samples, grades)
                row["judge"] = {"model": "judge-1", "served": ["judge-1-0613"], "runs": 1, "extra": {}, "missing": []}
            rows.append(row | scores)
    layout.write_json(folder / "results.json", {"run": {"model": "fp", "versions": {"torch": "2.13"}}, "rows": rows})


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "7b"
    write_run(root, data, {"none": 0.9, "visionzip:54+10": 0.7})
    return root


def test_the_table_and_its_means(folder: Path) -> None:
    table = build_table([folder])
    assert [column.heading for column in table.columns] == ["GQA", "MMB", "MME", "POPE", "MMVet"]
    vanilla, compressed = table.lines
    assert (vanilla.label, vanilla.tokens, compressed.label, compressed.tokens) == (
        "vanilla",
        576,
        "visionzip:54+10",
        64,
    )
    rows = {(row["task"], row["compression"]): row for row in json.loads((folder / "results.json").read_text())["rows"]}
    expected = {
        task: 100
        * rows[task, "visionzip:54+10"][get_task(task).main_score]
        / rows[task, "none"][get_task(task).main_score]
        for task in TASKS
    }
    assert {task: cell.retention for task, cell in compressed.cells.items()} == pytest.approx(expected)
    assert compressed.mean(table.tasks) == pytest.approx(sum(expected.values()) / 5)
    assert compressed.mean(table.high_image_tasks) == pytest.approx(
        sum(expected[t] for t in ("gqa", "mme", "pope")) / 3
    )
    assert vanilla.mean(table.tasks) == 100.0


def test_files_of_the_report(folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    words = [
        str(folder),
        "--output",
        str(tmp_path),
        "--data-root",
        str(data),
        "--paper",
        "table1",
        "--resamples",
        "200",
    ]
    assert main(words) == 0
    text = (tmp_path / "report.md").read_text()
    assert text in capsys.readouterr().out
    assert (tmp_path / "report.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    latex = (tmp_path / "report.tex").read_text()
    assert latex.startswith(r"\begin{tabular}{lrccccc" + "c}") and r"MMVet & Mean \\" in latex
    score = next(row["score"] for row in csv.DictReader((tmp_path / "report.csv").open()) if row["task"] == "gqa")
    assert rf"vanilla & 576 & {float(score):.1f}$^{{*}}$ & " in latex and r"paper: VisionZip\_ft & 64 & " in latex
    with (tmp_path / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    own = {(row["task"], row["compression"]): row for row in rows if row["source"] == str(folder)}
    assert len(own) == 10
    for task in TASKS:
        row = own[task, "visionzip:54+10"]
        assert float(row["low"]) <= float(row["retention"]) <= float(row["high"]), task
        assert float(row["low"]) < float(row["high"]) and own[task, "none"]["low"] == ""
    assert own["mmvet", "none"]["judge"] == "judge-1" and own["gqa", "none"]["published_n"] == "12578"
    papers = {(row["label"], row["tokens"], row["task"]): row for row in rows if row["source"] == "paper table1"}
    assert float(papers["VisionZip", "64", "gqa"]["retention"]) == pytest.approx(100 * 55.1 / 61.9, abs=1e-3)
    assert "mean: over 5 (GQA, MMB, MME, POPE, MMVet). high-image mean: over 3 (GQA, MME, POPE)" in text
    lacking = "SQA, VQAv2, TextVQA, MMMU, SEED, LLaVA-B"
    assert f"the paper's own means are over 11 benchmarks, of which these lack here: {lacking}\n" in text
    assert re.search(r"\| paper: VisionZip +\| 64 .*\| 55\.1 ", text)
    assert "gqa: 60 questions, the published split has 12578: vanilla GQA, visionzip:54+10 GQA" in text
    assert (
        "MMVet: graded here by judge-1 (served as judge-1-0613); the judge of the paper's figure is not known" in text
    )
    assert re.search(r"\| visionzip:54\+10 +\| 64 .*\d\* \[\d", text)  # over a part, with an interval


def test_means_of_the_papers_rows_are_over_the_tables_own_tasks() -> None:
    table = paper_tables()["table1"]
    row, own = table.row("VisionZip", 64), ["GQA", "POPE"]
    expected = (100 * 55.1 / 61.9 + 100 * 77.0 / 85.9) / 2
    assert table.mean(row, own) == pytest.approx(expected)
    assert table.mean(row, [*own, "tiny_pope"]) is None
    assert len(table.average_over) == 11
    assert table.mean(row, table.average_over) == pytest.approx(table.average(row))


def test_every_difference_in_setting_is_reported(folder: Path, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "tuned"
    write_run(other, data, {"visionzip:54+10": 0.8}, seed=3)
    results = json.loads((other / "results.json").read_text())
    results["run"]["model"] = "fp2"
    for row in results["rows"]:
        row["errors"] = ["one: no such image"] if row["task"] == "gqa" else []
        if row["task"] == "mmvet":
            row["judge"] |= {"model": "judge-2", "missing": ["v1_0, run 1: 500"]}
        if row["task"] == "pope":
            row["n"] = 40
        if row["task"] == "mmbench":
            row |= {"dtype": "torch.bfloat16", "conv_mode": "llava_v1"}
    layout.write_json(other / "results.json", results)
    assert (
        main(
            [
                str(folder),
                str(other),
                "--output",
                str(tmp_path),
                "--data-root",
                str(data),
                "--no-picture",
                "--resamples",
                "50",
            ]
        )
        == 0
    )
    text = (tmp_path / "report.md").read_text()
    assert f"{other}: model is fp2, vanilla's fp\n" in text
    assert "dtype is torch.bfloat16, vanilla's torch.float16: tuned visionzip:54+10 MMB" in text
    assert "conv_mode is llava_v1, vanilla's vicuna_v1: tuned visionzip:54+10 MMB" in text
    assert "1 questions had no answer: tuned visionzip:54+10 GQA" in text
    assert "judged by judge-2 (served as judge-1-0613), vanilla by judge-1 (served as judge-1-0613), so not" in text
    assert "tuned visionzip:54+10, MMVet: no retention, vanilla differs in judge" in text
    assert "tuned visionzip:54+10, MMB: no retention, vanilla differs in conv_mode, dtype" in text
    assert "1 grades are missing: tuned visionzip:54+10 MMVet" in text
    assert "n is 40, vanilla's 120: tuned visionzip:54+10 POPE" in text
    # Scores over other questions are not compared, and so not in the mean.
    assert "POPE is not in the means: tuned visionzip:54+10 cannot be compared there" in text
    assert "mean: over 2 (GQA, MME)" in text


def test_a_benchmark_counts_once_in_the_means(tmp_path: Path) -> None:
    setting = {"prompts": "p", "n": 10, "tokens": 576, "main_score": "accuracy"}
    names = ("gqa", "seed", "seed_image", "textvqa_no_ocr", "sqa_full", "mmbench_cn", "vizwiz_val")
    rows = [
        {"task": task, "compression": budget, "accuracy": score, "circular_accuracy": score, **setting}
        for task in names
        for budget, score in (("none", 0.8), ("visionzip:54+10", 0.2 if task == "seed_image" else 0.6))
    ]
    layout.write_json(tmp_path / "results.json", {"run": {"model": "fp"}, "rows": rows})
    table = build_table([tmp_path])
    assert table.tasks == ["gqa", "seed", "vizwiz_val", "mmbench_cn", "sqa_full", "textvqa_no_ocr"]
    assert table.lines[1].mean(table.tasks) == pytest.approx(75)
    assert "SEED-I is not in the means: SEED is, another variant of it" in table.notes
    # Beside the paper only what its own means count, so that they are over the same tasks.
    table = build_table([tmp_path], paper_tables()["table1"])
    assert table.tasks == ["gqa", "seed"] and table.paper is not None
    assert table.paper.mean(table.paper.row("VisionZip", 64), table.headings(table.tasks)) is not None
    assert "VizWiz is not in the means: it is not in those of the paper's table1" in table.notes


def test_of_rows_over_as_many_questions_the_newest_is_shown(tmp_path: Path) -> None:
    row = {"task": "gqa", "compression": "none", "n": 10, "tokens": 576, "accuracy": 0.5, "dtype": "torch.float16"}
    rows = [row, row | {"accuracy": 0.7, "dtype": "torch.bfloat16"}, row | {"accuracy": 0.9, "n": 5}]
    layout.write_json(tmp_path / "results.json", {"run": {"model": "fp"}, "rows": rows})
    table = build_table([tmp_path])
    assert table.lines[0].cells["gqa"].score == 70
    assert table.notes == ["vanilla, GQA: shown is the row over 10; others: 10, 5"]


def test_means_over_nothing_are_said_in_words(tmp_path: Path) -> None:
    row = {"task": "sqa_img", "compression": "none", "n": 10, "tokens": 576, "accuracy": 0.5}
    layout.write_json(tmp_path / "results.json", {"run": {"model": "fp"}, "rows": [row]})
    text = to_markdown(build_table([tmp_path]))
    assert "high-image mean: over no task (none is in all rows). It is of the tasks that cannot" in text


def test_seeds_of_a_method_that_draws_are_one_row(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, data, {"none": 0.9, "random:64": 0.5, "random:64,seed=1": 0.4, "random:64,seed=2": 0.7})
    rows = json.loads((run / "results.json").read_text())["rows"]
    table = build_table([run])
    assert [line.label for line in table.lines] == ["vanilla", "random:64"]
    add_intervals(table, DataPlace(data), 200)
    for task in TASKS:
        scores = [row[get_task(task).main_score] for row in rows if row["task"] == task]
        cell = table.lines[1].cells[task]
        assert cell.retention == pytest.approx(100 * sum(scores[1:]) / 3 / scores[0]), task
        assert cell.low is not None and cell.high is not None and cell.low < cell.retention < cell.high, task
    assert set(table.tasks) == set(TASKS) and table.notes == ["random:64: mean of 3 seeds"]
    # The mean of the seeds' scores, not the score of all answers together.
    parts = [
        ScoreParts(("a", "b"), np.array([[1.0, hits], [1.0, 0.0]]), lambda s: s[:, 0] ** 2 * s[:, 1]) for hits in (1, 5)
    ]
    assert mean_of(parts).total == (4 * 1 + 4 * 5) / 2
    results = {
        "run": {"model": "fp"},
        "rows": [row for row in rows if row["compression"] != "random:64,seed=1" or row["task"] != "gqa"],
    }
    layout.write_json(run / "results.json", results)
    table = build_table([run])
    assert "gqa" not in table.lines[1].cells
    assert "random:64, GQA: not shown, not all seeds were asked the same questions" in table.notes


def test_no_interval_where_the_answers_are_others(folder: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, data, {"none": 0.9, "visionzip:54+10": 0.7})
    results = json.loads((run / "results.json").read_text())
    for row in results["rows"]:
        if row["task"] != "gqa":
            row["prompts"] = "other"
        elif row["compression"] != "none":
            row["accuracy"] = 0.123
    layout.write_json(run / "results.json", results)
    assert main([str(run), "--data-root", str(data), "--no-picture", "--resamples", "20"]) == 0
    text = (run / "report.md").read_text()
    assert re.search(
        r"visionzip:54\+10, GQA: no interval, the answers on disk score \d+\.\d+ and results.json says 12\.30", text
    )
    assert "vanilla, POPE: no interval, its answers are not in" in text
    assert main([str(run), "--data-root", str(tmp_path), "--no-picture"]) == 0
    assert "GQA: no intervals, its data are not here" in (run / "report.md").read_text()


def test_unscored_rows_and_missing_vanilla_are_reported(folder: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, data, {"none": 0.9})
    results = json.loads((run / "results.json").read_text())
    results["rows"] = [row for row in results["rows"] if row["task"] in ("gqa", "mmvet")]
    results["rows"][1].pop("score")
    results["rows"].append(results["rows"][0] | {"n": 5, "accuracy": 1.0})
    layout.write_json(run / "results.json", results)
    table = build_table([run])
    assert list(table.lines[0].cells) == ["gqa"] and table.lines[0].cells["gqa"].row["n"] == 60
    assert table.notes == [
        "vanilla, GQA: shown is the row over 60; others: 5",
        "vanilla, MMVet: not scored (python -m llava.eval.judge has not graded it)",
    ]
    for row in results["rows"]:
        row["compression"] = "visionzip:54+10"
    layout.write_json(run / "results.json", results)
    with pytest.raises(SystemExit, match="no results without compression; add --compression none"):
        main([str(run)])
    with pytest.raises(SystemExit, match="does not exist or has no rows"):
        main([str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="no table 'table9'; there are: table1"):
        main([str(folder), "--paper", "table9"])
    with pytest.raises(SystemExit):
        main([])


def test_two_answer_sets_question_by_question(
    folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = folder / "answers" / "gqa"
    files = [str(answers / "none.jsonl"), str(answers / "visionzip_54+10.jsonl")]
    assert main(["--diff", *files, "--output", str(tmp_path), "--data-root", str(data)]) == 0
    task = get_task("gqa")
    samples = task.load(data).samples
    texts = [
        {row["question_id"]: row["text"] for row in map(json.loads, Path(file).read_text().splitlines()[1:])}
        for file in files
    ]
    pairs = [tuple(task.is_correct(s, side[s.sample_id]) for side in texts) for s in samples]
    lost, gained = pairs.count((1.0, 0.0)), pairs.count((0.0, 1.0))
    same = sum(texts[0][s.sample_id] == texts[1][s.sample_id] for s in samples)
    out = capsys.readouterr().out
    assert f"{lost} better in A\n{gained} better in B\n{60 - lost - gained - same} the same score" in out
    assert "compression: A None, B {'method': 'visionzip'" in out
    page = (tmp_path / "diff-gqa-none-visionzip_54+10.html").read_text()
    assert page.count('<article class="lost">') == lost > 0 and page.count('<article class="gained">') == gained > 0
    assert page.count("data:image/jpeg;base64,") > 0 and "cannot read image" in page  # i9.jpg is not there
    assert page.count("<section id=") == page.count("</section>") and 'name="viewport"' in page
    assert all(f'name="{name}"' in page for name in ("words", "kind", "order", "count"))
    assert main(["--diff", *files, "--output", str(tmp_path), "--data-root", str(data), "--pictures", "2"]) == 0
    page = (tmp_path / "diff-gqa-none-visionzip_54+10.html").read_text()
    assert page.count("data:image/jpeg;base64,") + page.count("cannot read image") == 2
    other = folder / "answers" / "pope" / "none.jsonl"
    with pytest.raises(SystemExit, match=r"answers gqa and .* answers pope"):
        main(["--diff", files[0], str(other)])
    with pytest.raises(SystemExit, match=r"results\.json is not a file of answers"):
        main(["--diff", files[0], str(folder / "results.json")])


def test_judged_answers_are_compared_by_their_grades(
    folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(folder / "answers" / "mmvet" / name) for name in ("none.jsonl", "visionzip_54+10.jsonl")]
    assert main(["--diff", *files, "--output", str(tmp_path), "--data-root", str(data)]) == 0
    grades = []
    for name in ("none.jsonl", "visionzip_54+10.jsonl"):
        rows = map(json.loads, (folder / "grades" / "mmvet" / name).read_text().splitlines()[1:])
        grades.append({row["question_id"]: row["grades"][0] for row in rows})
    lost = sum(grades[0][key] > grades[1][key] for key in grades[0])
    assert f"\n{lost} better in A" in capsys.readouterr().out
