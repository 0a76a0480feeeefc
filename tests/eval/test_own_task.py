"""Tasks from files outside the package: evaluated, judged, reported with intervals, compared; nothing is edited."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LlavaConfig

from llava import conversation
from llava.conversation import TEMPLATES
from llava.eval.answers_key import used_plugins
from llava.eval.command import main as evaluate
from llava.eval.data_place import DataPlace
from llava.eval.judge.command import main as judge
from llava.eval.report.command import main as report
from llava.eval.report.intervals import add_intervals
from llava.eval.report.table import build_table
from llava.eval.results import with_retention
from llava.eval.tasks import (
    POINTS,
    SHARE,
    TASKS,
    LoadedTask,
    Sample,
    Scores,
    Task,
    TaskDataError,
    get_task,
    register_task,
)
from llava.kinds import load_plugins, plugin_records, plugins
from llava.kinds.families import FAMILIES
from llava.kinds.towers import TOWERS
from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import COMPRESSORS
from llava.model.used_plugins import vision_plugins
from llava.results.task_facts import TaskFacts
from tests.eval.judge_server import judging
from tests.test_readme import blocks

PLUGINS = Path(__file__).resolve().parents[1] / "fixtures" / "plugins"
OWN, GRADED = PLUGINS / "own_task.py", PLUGINS / "own_judged_task.py"
BUDGETS = ("none", "visionzip:54+10")
WRONG = {"none": {1, 6}, "visionzip:54+10": {1, 2, 3, 6, 9, 10}}  # of 12 questions, four an image


def results_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())["rows"]
    return rows


@pytest.fixture(scope="module", autouse=True)
def own_tasks() -> Iterator[None]:
    """The two files as plug-ins; tests of other files do not see them."""
    TASKS.names()
    modules = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TASKS, "_entries", dict(TASKS._entries))
        patch.setattr(plugins, "_LOADED", dict(plugins._LOADED))
        load_plugins([str(OWN), str(GRADED)])
        yield
    for name in set(sys.modules) - modules:
        if name.startswith("llava_plugin_"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def run(oracle_dir: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with answers of both tasks under two budgets."""
    folder = tmp_path_factory.mktemp("own") / "out"
    words = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--tasks", "own_points,own_graded", "--device", "cpu"]
    words += [word for budget in BUDGETS for word in ("--compression", budget)]
    words += ["--limit", "12", "--latency-repeats", "0", "--data-root", str(tiny_data), "--output-dir", str(folder)]
    assert evaluate(words) == 0
    mend(folder)
    return folder


def mend(folder: Path) -> None:
    """The tiny model knows no digits: gives its answers what a model may say, and scores them anew."""
    content = json.loads((folder / "results.json").read_text())
    for row in content["rows"]:
        task = get_task(row["task"])
        path = folder / "answers" / row["task"] / f"{row['compression'].replace(':', '_')}.jsonl"
        head, *lines = map(json.loads, path.read_text().splitlines())
        for number, line in enumerate(lines):
            right = f"It is {line['answer']}" if number % 4 == 0 else line["answer"]
            line["text"] = "?" if number in WRONG[row["compression"]] else right
        path.write_text("".join(json.dumps(line) + "\n" for line in (head, *lines)))
        samples = [Sample(line["question_id"], "", (), line["answer"]) for line in lines]
        row |= task.score(samples, {line["question_id"]: line["text"] for line in lines})
    (folder / "results.json").write_text(json.dumps(content))


def test_the_page_shows_these_files() -> None:
    shown = [text for language, text in blocks("docs/add_a_task.md") if language == "python"]
    assert shown[:2] == [OWN.read_text(), GRADED.read_text()]
    assert all(text.count("\n") <= 60 for text in shown)


def test_points_are_shown_as_points_and_have_an_interval(
    run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--output-dir", str(tmp_path), "--data-root", str(tiny_data), "--no-picture", "--plugin", str(OWN)]
    assert report([str(run), *words]) == 0
    text = capsys.readouterr().out
    vanilla, compressed = (row for row in results_of(run) if row["task"] == "own_points")
    assert vanilla["answered"] == 1.0 and vanilla["points"] == pytest.approx((3 * 4 + 7 * 10) / 12)
    assert re.search(rf"\| vanilla +\| 576 +\| {vanilla['points']:.1f}\*", text), text
    with (tmp_path / "report.csv").open() as file:
        [row] = [row for row in csv.DictReader(file) if (row["task"], row["tokens"]) == ("own_points", "64")]
    assert float(row["retention"]) == pytest.approx(100 * compressed["points"] / vanilla["points"], abs=0.01)
    assert float(row["low"]) < float(row["retention"]) < float(row["high"])
    assert row["published_n"] == "20" and "own_points: 12 questions, the published split has 20" in text
    assert "high-image mean: over 1 (own_points)" in text


def test_the_command_shows_points_too(
    oracle_dir: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--tasks", "own_points", "--device", "cpu"]
    words += ["--limit", "2", "--latency-repeats", "0", "--data-root", str(tiny_data), "--output-dir", str(tmp_path)]
    words += ["--plugin", str(OWN)]
    assert evaluate(words) == 0
    [row] = results_of(tmp_path)
    assert TaskFacts(POINTS, needs_image=True, published_sizes=(20,)).to_json() == row["task_facts"]
    assert f"| points | {row['points']:.1f} " in re.sub(" +", " ", capsys.readouterr().out)


def test_a_judge_grades_it_and_its_share_is_in_percent(
    run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_JUDGE_KEY", "k")
    with judging() as server:
        server.reply = lambda question: "0" if "Answer: ?" in question else "4"
        assert judge([str(run), "--judge-url", server.url, "--judge-model", "m", "--data-root", str(tiny_data)]) == 0
    vanilla, compressed = (row for row in results_of(run) if row["task"] == "own_graded")
    assert (vanilla["quality"], compressed["quality"]) == (pytest.approx(0.8 * 10 / 12), pytest.approx(0.4))
    assert "own_graded none: 66.7 % (n 12, m)" in capsys.readouterr().out
    table = build_table([run])
    add_intervals(table, DataPlace(tiny_data), 200)
    cell = table.lines[1].cells["own_graded"]
    assert cell.score == pytest.approx(40.0) and cell.retention == pytest.approx(60.0)
    assert cell.low is not None and cell.high is not None and cell.low < 60 < cell.high
    files = [str(run / "answers" / "own_graded" / f"{name}.jsonl") for name in ("none", "visionzip_54+10")]
    assert report(["--diff", *files, "--output", str(tmp_path), "--data-root", str(tiny_data)]) == 0
    assert re.search(r"\n[1-9]\d* better in A\n", capsys.readouterr().out)


def test_two_answer_sets_of_it_are_compared(
    run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(run / "answers" / "own_points" / f"{name}.jsonl") for name in ("none", "visionzip_54+10")]
    assert report(["--diff", *files, "--output", str(tmp_path), "--data-root", str(tiny_data)]) == 0
    assert re.search(r"\n[1-9]\d* better in A\n", capsys.readouterr().out)
    assert "<td>10</td>" in (tmp_path / "diff-own_points-none-visionzip_54+10.html").read_text()


def test_answers_are_bound_to_the_plugins_that_they_depend_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(task: str) -> list[str]:
        line = (run / "answers" / task / "none.jsonl").read_text().splitlines()[0]
        return [record["name"] for record in json.loads(line)["run_key"]["plugins"]]

    assert (held("own_points"), held("own_graded")) == ([OWN.name], [GRADED.name])  # both were loaded for both
    assert len(plugin_records()) > 1
    for registry in (COMPRESSORS, TEMPLATES, TOWERS, FAMILIES):
        registry.names()
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(plugins, "_LOADED", dict(plugins._LOADED))
    monkeypatch.setattr(conversation, "conv_templates", dict(conversation.conv_templates))
    load_plugins([str(PLUGINS / "corner_first.py"), str(PLUGINS / "own_template.py")])
    [template] = [name for name in TEMPLATES.names() if TEMPLATES.plugin_name(name) == "own_template.py"]
    [method] = [name for name in COMPRESSORS.names() if COMPRESSORS.plugin_name(name) == "corner_first.py"]

    def used(task: str, compression: CompressionConfig | None, conv_mode: str) -> list[str]:
        return [record["name"] for record in used_plugins(task, compression, conv_mode, LlavaConfig())]

    budget = CompressionConfig(method="visionzip", dominant=54, contextual=10)
    assert used("gqa", budget, "vicuna_v1") == []
    own = CompressionConfig(method=method, dominant=54)
    assert used("gqa", own, "vicuna_v1") == ["corner_first.py"]
    assert used("gqa", replace(budget, then=own), "vicuna_v1") == ["corner_first.py"]
    assert used("gqa", None, template) == ["own_template.py"]
    load_plugins([str(PLUGINS / f"own_{name}.py") for name in ("tower", "family")])
    towers = [name for name in TOWERS.names() if TOWERS.plugin_name(name) == "own_tower.py"]
    assert [vision_plugins(LlavaConfig(vision_config={"model_type": name}), None) for name in towers] == [
        {"own_tower.py", None}
    ]
    assert vision_plugins(FAMILIES.get("llava_scaled").config()(), own) == {"own_family.py", "corner_first.py", None}


def test_an_edited_task_is_set_in_no_relation_to_the_one_before(run: Path, tmp_path: Path) -> None:
    rows = [row for row in json.loads((run / "results.json").read_text())["rows"] if row["task"] == "own_points"]
    assert [row["task_plugin"][0]["name"] for row in rows] == [OWN.name] * len(rows)
    vanilla, compressed = sorted(rows, key=lambda row: row["compression"] != "none")[:2]
    edited = compressed | {"task_plugin": [compressed["task_plugin"][0] | {"sha256": "0" * 16}]}
    assert [row["retention"] is None for row in with_retention([vanilla, compressed, edited])] == [False, False, True]


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("paper_column", None, "task_facts.paper_column is None, not a text"),
        ("published_size", "20", "task_facts.published_sizes is ['20'], not a list of whole numbers"),
        ("needs_image", "yes", "task_facts.needs_image is 'yes', not true or false"),
        ("max_new_tokens", "16", "max_new_tokens is '16', not a whole number above 0"),
        ("scale", "percent", "scale 'percent' is neither"),
    ],
)
def test_a_wrong_attribute_is_named_before_anything_is_asked(attribute: str, value: object, message: str) -> None:
    task = type("Wrong", (Median,), {"name": "wrong_task", attribute: value})
    with pytest.raises(ValueError, match=re.escape(message)):
        register_task(task)
    assert TASKS.find("wrong_task") is None


def test_what_an_answer_earns_is_a_number() -> None:
    task = type("NoNumber", (Median,), {"name": "no_number", "is_correct": lambda self, sample, text: None})()
    with pytest.raises(ValueError, match=r"NoNumber\.is_correct gives None for sample 7, no number"):
        task.earned([Sample("7", "What?", (), "1")], {"7": "1"})


def test_a_report_without_the_plugin_says_what_it_lacks(run: Path, tmp_path: Path) -> None:
    content = json.loads((run / "results.json").read_text().replace("own_points", "nowhere"))
    (tmp_path / "results.json").write_text(json.dumps(content))
    table = build_table([tmp_path])
    vanilla = next(row for row in content["rows"] if row["task"] == "nowhere")
    assert table.lines[0].cells["nowhere"].score == vanilla["points"]
    add_intervals(table, DataPlace(), 10)
    assert [note for note in table.notes if "nowhere" in note] == [
        "nowhere: no intervals, no task of that name is registered; name its plug-in with --plugin MODULE_OR_FILE"
    ]


class Median(Task):
    """A main score that is no mean, and no `parts`."""

    name = "median"
    main_score = "median"

    def load(self, data_root: Path) -> LoadedTask:
        return LoadedTask([])

    def parse(self, text: str) -> str:
        return text

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        return {"median": 1.0}


def test_a_score_that_is_no_mean_asks_for_parts_of_its_own() -> None:
    samples = [Sample(str(number), "?", (), "yes") for number in range(3)]
    with pytest.raises(ValueError, match=r"median of median is 1\.0.*give Median a method `parts`"):
        Median().parts(samples, {"0": "yes", "1": "yes"})


@pytest.fixture
def unregistered() -> Iterator[type[Task]]:
    class Nameless(Median):
        name = ""

    yield Nameless


def test_what_cannot_be_registered(unregistered: type[Task]) -> None:
    with pytest.raises(ValueError, match="Nameless has no name"):
        register_task(unregistered)
    unregistered.scale = "percent"
    unregistered.name = "of_percents"
    with pytest.raises(ValueError, match="'percent' is neither 'share' nor 'points'"):
        register_task(unregistered)
    for name in ("mine/points", "..", "a,b", "all"):
        unregistered.name, unregistered.scale = name, POINTS
        with pytest.raises(ValueError, match=rf"Nameless.name is '{name}': folders are named after it"):
            register_task(unregistered)
    unregistered.name, unregistered.scale = "gqa", POINTS
    with pytest.raises(ValueError, match="'gqa' is registered already"):
        register_task(unregistered)


def test_points_that_are_called_a_share_are_refused(
    oracle_dir: Path,
    tiny_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = TASKS.get("own_points")
    monkeypatch.setattr(kind, "scale", SHARE)
    monkeypatch.setattr(kind, "is_correct", lambda self, sample, text: 10.0)
    words = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--tasks", "own_points", "--device", "cpu"]
    words += ["--limit", "1", "--latency-repeats", "0", "--data-root", str(tiny_data), "--output-dir", str(tmp_path)]
    assert evaluate(words) == 1
    assert "own_points: points is 10, which is not between 0 and 1; set the task's `scale`" in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()


def one(**more: Any) -> Sample:
    fields: dict[str, Any] = {"sample_id": "7", "prompt": "?", "images": (), "answer": "yes"}
    return Sample(**(fields | more))


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        ([one()], r"load\(\) returned a list; it must return a LoadedTask"),
        (LoadedTask([]), r"load\(\) found no sample in "),
        (LoadedTask([one(), one(prompt="What?")]), "sample 1: sample_id '7' is that of sample 0 too"),
        (LoadedTask([one(), one(sample_id=3)]), "sample 1: sample_id is 3, which is not text"),
        (LoadedTask([one(images=("x.png",))]), r"sample 0: \(id '7'\): images is \('x.png',\); it must be a tuple of"),
        (LoadedTask([one(images="x.png")]), r"sample 0: \(id '7'\): images is 'x.png'; it must be a tuple of"),
        (LoadedTask([one(prompt=None)]), "sample 0: prompt is None, which is not text"),
    ],
    ids=["a list", "empty", "an id twice", "id", "image", "images", "prompt"],
)
def test_what_a_task_loads_is_checked(
    loaded: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Median, "load", lambda self, data_root: loaded)
    with pytest.raises(TaskDataError, match=f"^median: {message}"):
        DataPlace(tmp_path).load(Median())


def test_a_main_score_that_is_not_returned_is_an_error(
    oracle_dir: Path,
    tiny_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TASKS.get("own_points"), "main_score", "acc")
    monkeypatch.setattr(TASKS.get("own_points"), "score", lambda self, samples, texts: {"points": 3.0})
    words = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--tasks", "own_points", "--device", "cpu"]
    words += ["--limit", "1", "--latency-repeats", "0", "--data-root", str(tiny_data), "--output-dir", str(tmp_path)]
    assert evaluate(words) == 1
    said = capsys.readouterr().err
    assert (
        "own_points: score() of PointsTask returned no 'acc' that is a finite number; it returned points: 3.0" in said
    )


def test_missing_data_say_where_they_are_published(tmp_path: Path) -> None:
    with pytest.raises(TaskDataError, match=r"eval_vqa\.json does not exist.*published at https://example\.org/my-"):
        DataPlace(tmp_path).load(get_task("own_points"))


def test_every_source_is_in_the_pages() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    page = "".join((docs / name).read_text() for name in ("benchmarks.md", "video_benchmarks.md"))
    built_in = [task for task in TASKS if task.__module__.startswith("llava.eval.tasks")]
    for task in (task for task in built_in if not task.name.startswith(("tiny", "crowded"))):
        assert task.sources and all(source in page for source in task.sources), task.name
