"""A table of the paper from nothing, in miniature: preflight, dry run, steps that go on, and the deviations by hand."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava.eval.answers import AnswerFile
from llava.eval.answers_key import AnswersKey, compression_file_name
from llava.eval.reproduce.command import main
from llava.eval.reproduce.data import look_at_data, sizes_of
from llava.eval.reproduce.deviation import Reproduction, reproduce, to_csv, to_markdown
from llava.eval.reproduce.plan import VARIABLES, make_plan, read_recipe, read_terms, recipe_names
from llava.eval.reproduce.preflight import Check, DataState, Gpu, estimate, preflight
from llava.eval.reproduce.running import read_marks, run_steps, what_lacks
from llava.eval.reproduce.steps import Data, Rows, Step, budget_names, steps_of
from llava.eval.tasks import get_task
from llava.model.configuration import CompressionConfig
from tests.eval import layout

ROOT = Path(__file__).parents[2]
TINY = ROOT / "playground" / "tiny"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GQA with four questions, each about an image of its own."""
    root = tmp_path_factory.mktemp("data")
    types = {"structural": "query", "semantic": "obj"}
    rows = [{"question": f"Q{n}?", "answer": "a", "imageId": f"i{n}", "types": types} for n in range(4)]
    layout.write_gqa(root, rows)
    for number in range(4):
        image = root / "gqa" / "data" / "images" / f"i{number}.jpg"
        image.parent.mkdir(exist_ok=True)
        image.write_bytes(layout.png())
    return root


def variables(data: Path, output: Path, **more: str) -> dict[str, str]:
    found = {"MODEL": str(TINY / "model"), "DATA": str(data), "OUTPUT": str(output), "TASKS": "gqa", "BUDGETS": "64"}
    return found | {"DEVICE": "cpu", "ASK_SIZES": "0", "PILOT": "0"} | more


# ----- Recipes -----------------------------------------------------------------


def test_recipes_are_tables_of_the_paper_and_their_columns_are_tasks() -> None:
    assert recipe_names() == ["table1", "table2", "table10", "table12", "table13", "table14"]
    terms = read_terms()
    for name in recipe_names():
        recipe = read_recipe(name)
        columns = [get_task(task).paper_column for task in recipe.tasks]
        assert set(columns) == set(recipe.paper.columns) and set(recipe.paper.average_over) <= set(columns)
        assert recipe.model in terms["models"] and set(recipe.tasks) <= set(terms["tasks"])
        assert {row.method for row in recipe.paper.rows} >= {recipe.rows, recipe.tuned_rows}
    for licence, page in [*terms["models"].values(), *terms["tasks"].values()]:
        assert licence and page.startswith("https://")


def test_budgets_are_those_that_the_table_prints() -> None:
    assert budget_names(make_plan("table1", {})) == {
        "none": None,
        "visionzip:162+30": 192,
        "visionzip:108+20": 128,
        "visionzip:54+10": 64,
    }
    assert budget_names(make_plan("table14", {})) == budget_names(make_plan("table1", {}))
    assert list(budget_names(make_plan("table2", {}))) == [
        "none",
        "visionzip:108+20",
        "visionzip:54+10",
        "visionzip:27+5",
    ]


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("table9", {}, "no recipe of 'table9'; there are: table1, table2, table10, table12, table13, table14"),
        ("table1", {"BUDGETS": "64,65"}, "BUDGETS=64,65: 65 is no row of table1; it has 192, 128, 64"),
        ("table1", {"TASKS": "gqa vizwiz"}, "TASKS=gqa vizwiz: vizwiz is no column of table1; it has gqa, mmbench"),
        ("table1", {"LIMIT": "all"}, "LIMIT=all: give a whole number, 1 or more"),
        ("table1", {"LIMIT": "0"}, "LIMIT=0: give a whole number, 1 or more"),
        ("table1", {"PILOT": "-1"}, "PILOT=-1: give a whole number, 0 or more"),
        ("table1", {"JUDGE_URL": "http://a"}, "JUDGE_URL and JUDGE_MODEL go together"),
    ],
)
def test_wrong_input_is_named_in_one_line(
    name: str, given: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([name], given)
    assert str(end.value.code).startswith(f"error: {message}") and "\n" not in str(end.value.code)


def test_the_list_names_tables_and_variables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"], {}) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in VARIABLES) and "table10 " in shown and "llava-v1.5-13b" in shown


# ----- Preflight ---------------------------------------------------------------


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_the_gpus_memory_is_held_against_the_weights(data: Path, tmp_path: Path) -> None:
    plan = make_plan("table1", {"DATA": str(data), "OUTPUT": str(tmp_path), "TASKS": "gqa"})
    here = DataState([], questions={"gqa": 4})
    large, small = Gpu("card", 24.0, 23.5), Gpu("old card", 16.0, 15.0)
    assert by_name(preflight(plan, [large], here))["GPU"].status == "ok"
    # 7,062,902,784 weights of two bytes are 13.16 GiB, and 2 GiB are to work with.
    assert by_name(preflight(plan, [large, small], here))["GPU"].status == "ok"  # one process uses the first
    plan = replace(plan, processes=2)
    assert by_name(preflight(plan, [large], here))["GPU"].status == "fails"
    short = by_name(preflight(plan, [large, small], here))["GPU"]
    assert short.status == "fails" and "old card with 15.0 of 16.0 GiB free" in short.text and "13.2 GiB" in short.text
    none = by_name(preflight(plan, [], here))["GPU"]
    assert none.status == "fails" and "DEVICE=cpu does without" in none.text


def test_what_a_tuned_projector_goes_on_is_looked_at_too(data: Path, tmp_path: Path) -> None:
    projector = tmp_path / "projector"
    projector.mkdir()
    (projector / "config.json").write_text("{}")
    (projector / "mm_projector.bin").write_bytes(bytes(2**20))
    base = "liuhaotian/llava-v1.5-7b"
    plan = make_plan("table1", {"DATA": str(data), "OUTPUT": str(tmp_path), "MODEL": str(projector), "BASE": base})
    checks = preflight(plan, [Gpu("old card", 16.0, 15.0)], DataState([]))
    assert by_name(checks)["GPU"].status == "fails" and "13.2 GiB of weights" in by_name(checks)["GPU"].text
    assert [check.text.split(",")[0].split(":")[0] for check in checks if check.name == "model"] == [
        str(projector),
        base,
    ]
    assert any(check.name == "terms" and check.text.startswith(f"{base}: Llama 2") for check in checks)
    checks = preflight(replace(plan, base=str(tmp_path / "nowhere")), [], DataState([]))
    assert any(f"BASE={tmp_path / 'nowhere'}: there is no such folder" in check.text for check in checks)


def test_disk_data_terms_judge_and_time_are_looked_at(data: Path, tmp_path: Path) -> None:
    plan = make_plan("table1", variables(data, tmp_path, TASKS="gqa,mmvet", PILOT="2"))
    state = DataState(["mmvet"], 10**18, ["mmvet.zip"], {"gqa": 4})
    checks = preflight(plan, [], state)
    texts = [str(check) for check in checks]
    disk = [check for check in checks if check.name == "disk"]
    assert [check.status for check in disk] == ["note", "fails"] and "GiB are free" in disk[1].text
    assert any("here in" in text and "gqa" in text for text in texts)
    assert any("to be downloaded" in text and "mmvet" in text for text in texts)
    assert any("mmvet: " in text and "github.com/yuweihao/MM-Vet" in text for text in texts)
    assert by_name(checks)["judge"].status == "note" and "JUDGE_URL" in by_name(checks)["judge"].text
    assert by_name(checks)["time"].text.startswith("not known: the pilot measures it")
    assert by_name(preflight(plan, [], None))["data"].text == "not looked at: packages lack"


def test_the_time_is_that_of_the_pilot_a_question(data: Path, tmp_path: Path) -> None:
    plan = make_plan("table1", variables(data, tmp_path, PILOT="2"))
    assert estimate(plan, {"gqa": 18_000}) is None
    row = {"task": "gqa", "n": 2, "compression": "none", "answered": 2, "seconds": 1.0}
    layout.write_json(tmp_path / "pilot" / "results.json", {"run": {"model": "m"}, "rows": [row]})
    found = estimate(plan, {"gqa": 18_000})  # half a second a question, two budgets: five hours
    assert found is not None and found.startswith("about 5.00 h for 18000 questions under 2 budgets")
    assert "2 questions of the pilot" in found
    assert estimate(plan, {}) is None


def test_data_that_lack_are_found_and_their_publishers_need_not_be_asked(data: Path) -> None:
    state = look_at_data(["gqa", "pope"], data, ask_sizes=False)
    assert (state.missing, state.archive_bytes, state.unknown) == (["pope"], 0, ["pope"])
    assert state.questions == {"gqa": 4}
    assert sizes_of(["mme"], data) == (0, ["mme (from the Hub)"])


def test_a_preflight_that_fails_downloads_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = variables(tmp_path / "data", tmp_path / "out", MODEL=str(tmp_path / "gone"))
    assert main(["table1"], given) == 1
    said = capsys.readouterr()
    assert "FAILS: MODEL=" in said.out and said.err == "error: the preflight fails; nothing was downloaded\n"
    assert not (tmp_path / "out").exists() and not (tmp_path / "data").exists()


def test_a_dry_run_prints_preflight_and_plan(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = variables(data, tmp_path / "out", PILOT="3", LIMIT="2", DRY_RUN="1")
    assert main(["table1"], given) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("preflight of table1, nothing is downloaded yet:\n")
    assert "  1. data of gqa: " in shown and "  2. pilot: " in shown and "  4. evaluate visionzip:54+10: " in shown
    assert "--compression visionzip:54+10" in shown and "--limit 2" in shown and "--limit 3" in shown
    assert not (tmp_path / "out").exists()
    several = steps_of(make_plan("table1", variables(data, tmp_path, NPROC="4")))[-1].command
    assert several[:4] == ("torchrun", "--standalone", "--nproc_per_node", "4")
    judged = make_plan("table1", variables(data, tmp_path, TASKS="mmvet", JUDGE_URL="http://a", JUDGE_MODEL="j"))
    assert steps_of(judged)[-1].name == "judge" and "http://a" in steps_of(judged)[-1].command


def test_preflight_and_plan_need_no_package(tmp_path: Path) -> None:
    """As on a bare node: without the folder of installed packages."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from llava.eval.reproduce.command import main; "
    code += f"sys.exit(main(['table10', '--dry-run'], {{'DEVICE': 'cpu', 'OUTPUT': {str(tmp_path / 'out')!r}}}))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "NOTE: torch, transformers" in done.stdout and "lack; scripts/setup.sh installs them" in done.stdout
    assert "NOTE: not looked at: packages lack" in done.stdout and "evaluate visionzip:162+30: " in done.stdout


# ----- Steps -------------------------------------------------------------------


def writing(path: Path, name: str, *more: str) -> Step:
    """A step that appends a line to a file."""
    code = f"import pathlib; f = pathlib.Path({str(path)!r}); f.open('a').write('x')"
    return Step(name, (sys.executable, "-c", code, *more), Rows(name, path, None))


def is_not_there(step: Step) -> str | None:
    """What the output of such a step lacks."""
    return None if step.output.folder.is_file() else f"{step.output.folder} is not there"


def test_steps_go_on_where_they_were_and_marks_do_not_hide_what_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marks, one, two = tmp_path / "steps.json", tmp_path / "one", tmp_path / "two"
    killed = Step("two", (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"), Rows("two", two, None))
    with pytest.raises(ValueError, match="step 2 of 2, two ended with status -9; the same command goes on from here"):
        run_steps([writing(one, "one"), killed], marks, is_not_there, 2)
    assert list(read_marks(marks)) == ["one"]
    steps = [writing(one, "one"), writing(two, "two")]
    run_steps(steps, marks, is_not_there, 2)
    assert "step 1 of 2, one: done before" in capsys.readouterr().out
    assert (one.read_text(), two.read_text()) == ("x", "x")
    one.unlink()  # a mark alone counts for nothing
    run_steps(steps, marks, is_not_there, 2)
    assert (one.read_text(), two.read_text()) == ("x", "x")
    marks.write_text("{")  # and what is whole without a mark is made again
    run_steps(steps, marks, is_not_there, 2)
    assert (one.read_text(), two.read_text()) == ("xx", "xx")
    empty = Step("three", (sys.executable, "-c", ""), Rows("three", tmp_path / "three", None))
    with pytest.raises(ValueError, match=r"three has run, and its output is not whole: .*three is not there"):
        run_steps([empty], marks, is_not_there, 1)


def test_another_command_is_another_step_and_data_need_no_mark(tmp_path: Path) -> None:
    marks, path = tmp_path / "steps.json", tmp_path / "one"
    run_steps([writing(path, "one")], marks, is_not_there, 1)
    run_steps([writing(path, "one", "--limit")], marks, is_not_there, 1)
    assert path.read_text() == "xx"
    run_steps([replace(writing(path, "data"), output=Data("gqa"))], marks, lambda step: None, 1)
    assert path.read_text() == "xx"


def test_rows_are_whole_over_all_questions_of_every_benchmark(data: Path, tmp_path: Path) -> None:
    output = write_results(tmp_path / "out", data, {"none": (1, 1, 1, 0)})
    plan = make_plan("table1", variables(data, output))
    of_none, of_few = (step for step in steps_of(plan) if step.name.startswith("evaluate"))
    assert what_lacks(plan, of_none) is None
    assert "no row of gqa under visionzip:54+10 over 4 questions" in str(what_lacks(plan, of_few))
    part = make_plan("table1", variables(data, output, LIMIT="3"))
    assert "over 3 questions" in str(what_lacks(part, steps_of(part)[1]))
    (output / "results.json").write_text("{")
    assert "is not a results.json" in str(what_lacks(plan, of_none))


# ----- Deviations, by hand -----------------------------------------------------


def write_results(folder: Path, data: Path, right: dict[str, tuple[int, ...]], tuned_for: str = "") -> Path:
    task = get_task("gqa")
    samples, rows = task.load(data).samples, []
    for budget, hits in right.items():
        compression = CompressionConfig.parse(budget)
        key = AnswersKey("gqa", "fp", compression and compression.to_dict(), "v1", "p", {}, "torch.float16")
        texts = {sample.sample_id: "a" if hit else "z" for sample, hit in zip(samples, hits, strict=True)}
        with AnswerFile(folder / "answers" / "gqa" / f"{compression_file_name(compression)}.jsonl", key) as file:
            for sample_id, text in texts.items():
                file.append(sample_id, text)
        row: dict[str, Any] = {"task": "gqa", "compression": budget, "n": 4, "main_score": "accuracy"}
        row |= {"tokens": 64 if compression else 576, "prompts": "p", "conv_mode": "v1", "dtype": "torch.float16"}
        row |= {"generation": {}, "errors": [], "bad_rows": [], "truncated": [], "tuned_for": tuned_for}
        rows.append(row | task.score(samples, texts))
    layout.write_json(folder / "results.json", {"run": {"model": "fp"}, "rows": rows})
    return folder


def of(found: Reproduction, tokens: int, column: str) -> Any:
    return next(cell for cell in found.cells if (cell.tokens, cell.column) == (tokens, column))


def test_deviations_are_those_worked_out_by_hand(data: Path, tmp_path: Path) -> None:
    output = write_results(tmp_path / "out", data, {"none": (1, 1, 1, 0), "visionzip:54+10": (1, 1, 0, 0)})
    found = reproduce(make_plan("table1", variables(data, output)))
    full, few = of(found, 576, "GQA"), of(found, 64, "GQA")
    assert (full.row, few.row) == ("Vanilla", "VisionZip")
    assert (full.score.ours, full.score.paper, full.kept) == (75.0, 61.9, None)
    assert full.score.deviation == pytest.approx(13.1) and full.score.holds_paper
    assert few.score.deviation == pytest.approx(50 - 55.1) and few.score.holds_paper
    assert few.kept.ours == pytest.approx(100 * 50 / 75) and few.kept.paper == pytest.approx(100 * 55.1 / 61.9)
    assert (few.score.low, few.score.high) == (0, 100)  # two of four: none is right in one draw of 16
    mean = of(found, 64, "mean")
    assert mean.score is None and mean.kept.ours == few.kept.ours and mean.note == "over 1 of the paper's 11"
    assert found.summary.startswith("2 of 2 of the paper's scores lie within our 95 % intervals; 2 cells are not over")
    text = " ".join(to_markdown(found).split())
    assert "| VisionZip | 64 | GQA | 50.0 [0.0, 100.0] | 55.1 | -5.1 | yes |" in text
    assert "gqa: 4 questions, the published split has 12578" in text and "untuned" in text
    rows = list(csv.DictReader(to_csv(found).splitlines()))
    assert [(row["tokens"], row["benchmark"]) for row in rows] == [("576", "GQA"), ("64", "GQA"), ("64", "mean")]
    assert rows[1]["deviation"] == "-5.1000" and rows[1]["paper_within"] == "yes"


def test_a_value_outside_is_said_to_be_outside(data: Path, tmp_path: Path) -> None:
    output = write_results(tmp_path / "out", data, {"none": (1, 1, 1, 1), "visionzip:54+10": (1, 1, 1, 1)})
    found = reproduce(make_plan("table1", variables(data, output)))
    assert of(found, 64, "GQA").score.holds_paper is False
    assert found.summary.startswith("0 of 2 of the paper's scores")


def test_a_tuned_model_is_held_against_the_tuned_rows_and_the_untuned_vanilla(data: Path, tmp_path: Path) -> None:
    right = {"none": (1, 1, 0, 0), "visionzip:54+10": (1, 1, 0, 0)}
    tuned = write_results(tmp_path / "tuned", data, right, tuned_for="visionzip:54+10")
    alone = reproduce(make_plan("table1", variables(data, tuned)))
    cell = of(alone, 64, "GQA")
    assert (cell.row, cell.score.paper, cell.kept) == ("VisionZip_ft", 57.0, None) and "give VANILLA" in cell.note
    vanilla = write_results(tmp_path / "vanilla", data, {"none": (1, 1, 1, 1)})
    found = reproduce(make_plan("table1", variables(data, tuned, VANILLA=str(vanilla))))
    assert of(found, 64, "GQA").kept.ours == pytest.approx(50) and of(found, 576, "GQA").score.ours == 100
    assert len(found.cells) == 3 and "tuned for visionzip:54+10" in to_markdown(found)


@pytest.mark.parametrize(
    ("tuned_for", "is_own"),
    [
        ("visionzip:54+10", True),
        ("visionzip:27+5 to visionzip:162+30", True),
        ("visionzip:108+20", False),
        ("visionzip:108+20 to visionzip:162+30", False),
        ("random:32 to random:128", False),
    ],
)
def test_a_row_within_a_tuned_range_is_not_called_another_budgets(
    tuned_for: str, is_own: bool, data: Path, tmp_path: Path
) -> None:
    right = {"none": (1, 1, 0, 0), "visionzip:54+10": (1, 1, 0, 0)}
    tuned = write_results(tmp_path / "tuned", data, right, tuned_for=tuned_for)
    note = of(reproduce(make_plan("table1", variables(data, tuned))), 64, "GQA").note
    assert (f"tuned for {tuned_for}, the paper's for this row" in note) is not is_own


# ----- From end to end ---------------------------------------------------------


@pytest.mark.slow
def test_the_script_makes_a_table_in_miniature_and_goes_on(tmp_path: Path) -> None:
    made = [sys.executable, str(TINY / "make_benchmarks.py"), "--output", str(tmp_path / "data"), "--size", "6"]
    subprocess.run([*made, "--scenes", "6"], check=True, capture_output=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = variables(tmp_path / "data", tmp_path / "out", TASKS="gqa,pope", PILOT="2", RESAMPLES="50")
    environment = {**os.environ, **given, "PATH": path, "SETUP": "0", "PYTHONPATH": str(ROOT)}

    def script() -> str:
        command = ["bash", str(ROOT / "scripts" / "reproduce.sh"), "table1"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    shown = script()
    assert "of the paper's scores lie within our 95 % intervals" in shown and "time: about " in shown
    results = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [(row["task"], row["compression"]) for row in results] == [
        (task, budget) for budget in ("none", "visionzip:54+10") for task in ("gqa", "pope")
    ]
    table = (tmp_path / "out" / "reproduce.md").read_bytes()
    again = script()
    assert again.count(": done before") == 5 and (tmp_path / "out" / "reproduce.md").read_bytes() == table
