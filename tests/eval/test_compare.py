"""Comparisons of methods: values by hand, names of tuned models, refused pairs, files, and one run from end to end."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from llava import LlavaForConditionalGeneration
from llava.eval.answers import AnswerFile
from llava.eval.answers_key import AnswersKey, compression_file_name
from llava.eval.compare.command import main
from llava.eval.compare.files import tenths, to_csv, to_markdown
from llava.eval.compare.grid import Grid, Refused, budgets_of, make_grid
from llava.eval.compare.intervals import add_intervals
from llava.eval.compare.latex import to_latex
from llava.eval.compare.methods import Method, marks_of, name_without_budget, parse_methods
from llava.eval.compare.picture import spread, to_svg
from llava.eval.compare.table import Comparison, build_comparison
from llava.eval.data_place import DataPlace
from llava.eval.model_origin import config_of, origin_of
from llava.eval.tasks import get_task
from llava.inference import Inference, Question
from llava.inference.latency import compare_latency
from llava.model.configuration import CompressionConfig
from llava.model.flops import kv_bytes
from llava.model.language_pruning import PRUNERS
from llava.model.multimodal_compressor import COMPRESSORS, keep_patches, register_compressor
from llava.results.paper import paper_tables
from tests.eval import layout

ROOT = Path(__file__).parents[2]
TINY = ROOT / "playground" / "tiny" / "model"
BUDGETS = ("none", "visionzip:54+10", "random:64", "random:64,seed=1", "random:64,seed=2", "uniform:64")
GRID = Grid((64,), dict.fromkeys(BUDGETS[1:], 64), [], [Refused("uniform", 600, "it is too many")])

# Who answers which of GQA's four questions rightly; each question is about an image of its own.
RIGHT = {
    "none": (1, 1, 1, 1),
    "visionzip:54+10": (1, 1, 1, 0),
    "random:64": (1, 1, 0, 0),
    "random:64,seed=1": (1, 0, 0, 0),
    "random:64,seed=2": (1, 1, 1, 0),
    "uniform:64": (0, 1, 0, 0),
}
# What is said to POPE's four questions, in each split; the truth is yes, yes, no, no.
SAID = {
    "none": ("yes", "yes", "no", "no"),
    "visionzip:54+10": ("yes", "yes", "yes", "no"),
    "random:64": ("yes", "no", "no", "no"),
    "random:64,seed=1": ("yes", "no", "no", "no"),
    "random:64,seed=2": ("yes", "no", "no", "no"),
    "uniform:64": ("yes", "no", "yes", "no"),
}
TIMES = {"none": (40.0, 60.0, None), "visionzip:54+10": (42.0, 20.0, 1.5), "uniform:64": (40.0, 22.0, 0.25)}
TIMES |= {name: (41.0, 20.0 + n, 0.5 + n) for n, name in enumerate(BUDGETS[2:5])}


def gqa_rows(count: int) -> list[dict[str, Any]]:
    types = {"structural": "query", "semantic": "obj"}
    return [{"question": f"Q{n}?", "answer": "a", "imageId": f"i{n}", "types": types} for n in range(count)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    layout.write_gqa(root, gqa_rows(4))
    labels = ("yes", "yes", "no", "no")
    rows = [{"question_id": n, "image": f"{n}.jpg", "text": "T?", "label": label} for n, label in enumerate(labels)]
    layout.write_pope(root, rows)
    return root


def texts_of(task: str, budget: str, count: int) -> Sequence[str]:
    """What is said to each question."""
    if task == "gqa":
        return ["a" if right else "z" for right in RIGHT[budget]]
    return list(SAID[budget]) * (count // 4)


def write_run(
    folder: Path,
    data: Path,
    budgets: Sequence[str] = BUDGETS,
    says: Callable[[str, str, int], Sequence[str]] = texts_of,
    **more: Any,
) -> Path:
    """An output folder as the runner leaves it."""
    rows = []
    for name in ("gqa", "pope"):
        task = get_task(name)
        samples = task.load(data).samples
        for budget in budgets:
            compression = CompressionConfig.parse(budget)
            key = AnswersKey(name, "fp", compression and compression.to_dict(), "v1", "p", {}, "torch.float16")
            said = {s.sample_id: text for s, text in zip(samples, says(name, budget, len(samples)), strict=True)}
            with AnswerFile(folder / "answers" / name / f"{compression_file_name(compression)}.jsonl", key) as file:
                for sample_id, text in said.items():
                    file.append(sample_id, text)
            vision, prefill, own = TIMES[budget]
            row = {"task": name, "method": budget.split(":")[0], "compression": budget, "n": len(samples)}
            row |= {"tokens": 64 if compression else 576, "prompts": "p", "conv_mode": "v1", "dtype": "torch.float16"}
            row |= {"generation": {}, "errors": [], "bad_rows": [], "truncated": [], "main_score": task.main_score}
            row |= {"vision_ms": vision, "prefill_ms": prefill, "selector_ms": own, "kv_bytes": 2**20, "rows_read": 64}
            row |= {"timing": TIMING, "tuned_for": ""} | more
            rows.append(row | task.score(samples, said))
    layout.write_json(folder / "results.json", {"run": {"model": "fp"}, "rows": rows})
    return folder


TIMING = {"budgets": list(BUDGETS), "task": "gqa", "sample": "0", "repeats": 11, "device": "d", "dtype": "f"}


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "untuned", data)


def compared(*folders: Path, data: Path, resamples: int = 0) -> Comparison:
    comparison = build_comparison(list(folders), GRID)
    add_intervals(comparison, DataPlace(data), resamples)
    return comparison


def entries(comparison: Comparison) -> Mapping[str, Any]:
    return {entry.label: entry for entry in comparison.entries}


# ----- Values by hand ----------------------------------------------------------


def test_retention_and_differences_are_those_worked_out_by_hand(folder: Path, data: Path) -> None:
    found = entries(compared(folder, data=data))
    assert list(found) == ["all tokens", "visionzip:54+10", "random:64", "uniform:64"]
    gqa = {label: entry.line.cells["gqa"].retention for label, entry in found.items()}
    assert gqa == pytest.approx({"all tokens": 100, "visionzip:54+10": 75, "random:64": 50, "uniform:64": 25})
    # F1 of yes: all tokens 1; VisionZip 2 of 3 are right and both are found, 4/5; random 1 of 1, one of two found, 2/3;
    # uniform 1 of 2, one of two found, 1/2. All splits alike.
    pope = {label: entry.line.cells["pope"].retention for label, entry in found.items()}
    f1 = {"all tokens": 100, "visionzip:54+10": 80, "random:64": 200 / 3, "uniform:64": 50}
    assert pope == pytest.approx(f1)
    assert found["visionzip:54+10"].mean.value == pytest.approx((75 + 80) / 2)
    assert found["visionzip:54+10"].against == {} and found["all tokens"].against == {}
    against = {task: figure.value for task, figure in found["random:64"].against.items()}
    assert against == pytest.approx({"gqa": -25, "pope": 200 / 3 - 80})
    assert found["uniform:64"].mean_against.value == pytest.approx((25 + 50 - 75 - 80) / 2)


def test_precision_and_recall_stand_apart(folder: Path, data: Path) -> None:
    found = entries(compared(folder, data=data))
    assert found["visionzip:54+10"].yes == {"pope": pytest.approx((100 * 2 / 3, 100))}
    assert found["random:64"].yes == {"pope": pytest.approx((100, 50))}
    assert found["uniform:64"].yes == {"pope": pytest.approx((50, 50))}


def test_costs_are_the_mean_over_seeds_and_old_rows_have_none(folder: Path, data: Path, tmp_path: Path) -> None:
    found = entries(compared(folder, data=data))
    random = found["random:64"].costs
    assert (random.vision_ms, random.prefill_ms, random.selector_ms) == (41.0, 21.0, 1.5)
    assert random.first_token_ms == 62.0 and found["all tokens"].costs.selector_ms is None
    content = json.loads((folder / "results.json").read_text())
    for row in content["rows"]:
        for name in ("selector_ms", "kv_bytes", "rows_read", "timing", "tuned_for"):
            del row[name]
    old = write_run(tmp_path / "old", data)
    layout.write_json(old / "results.json", content)
    comparison = compared(old, data=data)
    assert comparison.timing is None
    entry = entries(comparison)["visionzip:54+10, tuning not known"]
    assert entry.costs.selector_ms is None and entry.costs.vision_ms == 42.0
    assert "were not measured in one run" in to_markdown(comparison)


# ----- Intervals ---------------------------------------------------------------


def test_intervals_are_those_of_the_few_draws_there_can_be(data: Path, tmp_path: Path) -> None:
    """Of two images, A and B: both drawn from A in a quarter of the draws, both from B in another, one each in half."""
    root = tmp_path / "data"
    layout.write_gqa(root, gqa_rows(2))
    layout.write_pope(root, [{"question_id": 0, "image": "0.jpg", "text": "T?", "label": "yes"}])
    rights = {"none": "aa", "visionzip:54+10": "aa", "uniform:64": "az"}

    def says(task: str, budget: str, count: int) -> Sequence[str]:
        return rights[budget] if task == "gqa" else ["yes"] * count

    run = write_run(tmp_path / "run", root, list(rights), says)
    comparison = build_comparison([run], GRID)
    add_intervals(comparison, DataPlace(root), 4_000)
    uniform = entries(comparison)["uniform:64"]
    cell = uniform.line.cells["gqa"]
    assert (cell.retention, cell.low, cell.high) == (50, 0, 100)
    figure = uniform.against["gqa"]
    assert (figure.value, figure.low, figure.high) == (-50, -100, 0) and not figure.excludes_zero
    # POPE is the same for all: the mean is halfway, draw by draw.
    assert (uniform.mean.value, uniform.mean.low, uniform.mean.high) == (75, 50, 100)
    assert (uniform.mean_against.value, uniform.mean_against.low, uniform.mean_against.high) == (-25, -50, 0)


def test_of_many_answers_only_those_of_a_row_are_read(data: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", data)
    (run / "answers" / "gqa" / "another.jsonl").write_text("damaged")
    assert entries(compared(run, data=data, resamples=20))["uniform:64"].mean.low is not None
    renamed = run / "answers" / "gqa" / "uniform_64.jsonl"
    (run / "answers" / "gqa" / "another.jsonl").unlink()
    renamed.rename(renamed.with_name("by_hand.jsonl"))
    assert entries(compared(run, data=data, resamples=20))["uniform:64"].mean.low is not None


def test_the_same_draws_give_the_same_bytes(folder: Path, data: Path) -> None:
    first, second = (compared(folder, data=data, resamples=300) for _ in range(2))
    for write in (to_markdown, to_csv, to_latex, to_svg):
        assert write(first) == write(second)
    assert "[" in to_markdown(first).split("## Scores")[0]


# ----- Names -------------------------------------------------------------------


def test_a_tuned_model_never_stands_under_an_untuned_name(folder: Path, data: Path, tmp_path: Path) -> None:
    tuned = write_run(tmp_path / "tuned", data, ("none", "visionzip:54+10"), tuned_for="visionzip:54+10")
    comparison = compared(folder, tuned, data=data, resamples=50)
    names = [entry.label for entry in comparison.entries]
    assert len(set(names)) == len(names)
    assert "tuned visionzip:54+10, model tuned for visionzip:54+10" in names and "untuned visionzip:54+10" in names
    assert "tuned all tokens, model tuned for visionzip:54+10" in names
    by_label = entries(comparison)
    untuned = by_label["untuned visionzip:54+10"]
    assert all(comparison.reference(entry) is untuned for entry in comparison.entries if entry.budget is not None)
    markdown = to_markdown(comparison)
    assert "| tuned visionzip, model tuned for visionzip:54+10 " in markdown
    assert "training_args.json or config.json" in markdown


def test_an_adaptive_budget_of_another_mean_than_its_column_is_named(data: Path, tmp_path: Path) -> None:
    adaptive = "uniform:128,adaptive=gain,threshold=0.1"
    folder = write_run(tmp_path / "run", data)
    content = json.loads((folder / "results.json").read_text())
    grid = Grid((64,), {"visionzip:54+10": 64, adaptive: 64}, [], [])
    for tokens, is_named in ((66.0, False), (80.0, True)):
        for row in content["rows"]:
            if row["compression"] in ("uniform:64", adaptive):
                row |= {"compression": adaptive, "adaptive": True, "tokens": tokens}
        layout.write_json(folder / "results.json", content)
        notes = build_comparison([folder], grid).notes
        told = f"{adaptive}, gqa: {tokens} visual tokens a question where a fixed budget has 64.0"
        assert any(note.startswith(told) for note in notes) == is_named


def test_what_a_checkpoint_was_tuned_for_is_read_from_its_files(tmp_path: Path) -> None:
    assert origin_of(TINY).tuned_for == ""
    layout.write_json(
        tmp_path / "config.json", {"compression": {"method": "visionzip", "dominant": 17, "contextual": 3}}
    )
    assert (origin_of(tmp_path).tuned_for, origin_of(tmp_path).said_by) == ("visionzip:17+3", "config.json")
    inside = CompressionConfig.parse("visionzip:17+3|fastv:9,layer=1")
    layout.write_json(tmp_path / "config.json", {"compression": inside and inside.to_dict()})
    assert origin_of(tmp_path).tuned_for == "visionzip:17+3"  # no model is trained with a method inside it
    layout.write_json(tmp_path / "config.json", {"compression": CompressionConfig("fastv", 9).to_dict()})
    assert origin_of(tmp_path).tuned_for == ""
    adaptive = CompressionConfig.parse("visionzip:17+3,adaptive=attention,threshold=0.2")
    layout.write_json(tmp_path / "config.json", {"compression": adaptive and adaptive.to_dict()})
    assert origin_of(tmp_path).tuned_for == origin_of(tmp_path).said_by == ""  # nor under an adaptive budget
    layout.write_json(tmp_path / "training_args.json", {"model": {"compression": "visionzip:41+8"}})
    assert (origin_of(tmp_path).tuned_for, origin_of(tmp_path).said_by) == ("visionzip:41+8", "training_args.json")
    few, many = CompressionConfig("visionzip", 17, 3).to_dict(), CompressionConfig("visionzip", 82, 16).to_dict()
    entries = {"compression": few, "compression_range": {"least": few, "most": many}}
    layout.write_json(tmp_path / "config.json", entries)
    assert origin_of(tmp_path).tuned_for == "visionzip:17+3 to visionzip:82+16"  # budgets that were drawn
    layout.write_json(tmp_path / "config.json", {**entries, "compression_range": {"least": few}})
    with pytest.raises(ValueError, match=r"config\.json: compression_range .* must have least and most"):
        origin_of(tmp_path)
    layout.write_json(tmp_path / "training_args.json", {"model": {"compression": "nonsense"}})
    with pytest.raises(ValueError, match=r"training_args\.json: compression: "):
        origin_of(tmp_path)


def test_methods_may_have_options_and_no_budget() -> None:
    assert parse_methods("uniform, random,seed=4") == [Method("uniform"), Method("random", "seed=4")]
    assert parse_methods("visionzip,merge=mean")[0].with_budget(64) == CompressionConfig("visionzip", 54, 10, "mean")
    assert str(Method("visionzip").with_budget(192)) == "visionzip:162+30"
    assert str(Method("visionzip").with_budget(2)) == "visionzip:2"
    assert str(Method("uniform").with_budget(64)) == "uniform:64"
    assert {method.name for method in parse_methods("all")} == {*COMPRESSORS.names(), *PRUNERS.names()}
    assert (
        str(parse_methods("visionzip:108+20|fastv,layer=3")[0].with_budget(64)) == "visionzip:108+20|fastv:64,layer=3"
    )
    budget = CompressionConfig.parse("visionzip:54+10,merge=mean")
    assert name_without_budget(budget) == "visionzip,merge=mean"
    assert name_without_budget(CompressionConfig.parse("random:64,seed=2")) == "random"
    assert name_without_budget(CompressionConfig.parse("visionzip:108+20|later:64,k=2")) == "visionzip:108+20|later,k=2"
    for text, message in (
        ("merge=mean,visionzip", "stands before the method"),
        ("visionzip:54+10", "has a budget; leave it out"),
        ("nothing_like_it", "there is no 'nothing_like_it'; there are: .*visionzip.*fastv"),
        ("visionzip:54+10|uniform", "unknown method inside the language model 'uniform'"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_methods(text)


@pytest.fixture
def by_clip() -> Iterator[str]:
    """A method that reads the question by CLIP where there is one, as CDPruner does."""
    register_compressor("by_clip", wants={"clip_joint"})(lambda features, budget: keep_patches(features, None))
    yield "by_clip:64"
    COMPRESSORS._forget(__name__)


def test_marks_say_what_reads_the_question(by_clip: str) -> None:
    assert marks_of(CompressionConfig.parse("visionzip:54+10"), has_clip=False).multi_turn
    budget = CompressionConfig.parse(by_clip)
    alone, read = marks_of(budget, has_clip=False), marks_of(budget, has_clip=True)
    assert (alone.multi_turn, alone.text_free) == (True, True)
    assert (read.multi_turn, read.text_free) == (False, False)
    inside = marks_of(CompressionConfig.parse("visionzip:54+10|fastv:20"), has_clip=False)
    assert (inside.multi_turn, inside.servable) == (False, False) and "VisionZip" in inside.source
    assert "FastV" in inside.source and marks_of(CompressionConfig("divprune", 64), has_clip=False).rule == "reference"
    asking = marks_of(CompressionConfig("mmtok", 64), has_clip=False)
    assert (asking.multi_turn, asking.servable) == (False, False)
    unknown = marks_of(CompressionConfig("gone", 64), has_clip=False)
    assert (unknown.multi_turn, unknown.servable) == (None, None)


# ----- The grid ----------------------------------------------------------------

PLUGIN = '''
from llava.model.multimodal_compressor import register_compressor

def only_even(budget, tile):
    """Refuses odd numbers."""
    if budget.num_tokens % 2:
        raise ValueError(f"compression {budget}: only even numbers")

@register_compressor("even", check=only_even)
def even(features, budget):
    """Never called."""

@register_compressor("asks_clip", needs={"clip_joint"})
def asks_clip(features, budget):
    """Never called."""
'''


def test_a_dry_run_lists_the_grid_and_why_pairs_are_left_out(tmp_path: Path) -> None:
    plugin = tmp_path / "even.py"
    plugin.write_text(PLUGIN)
    words = ["--model-path", str(TINY), "--methods", "even,asks_clip,uniform", "--budgets", "49,20,400"]
    words += ["--tasks", "tiny_vqa", "--output-dir", str(tmp_path / "out"), "--seeds", "2", "--dry-run"]
    command = [sys.executable, "-m", "llava.eval.compare", *words, "--plugin", str(plugin)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    runs, _, left = done.stdout.partition("left out:\n")
    for budget in (
        "none",
        "visionzip:41+8",
        "visionzip:17+3",
        "random:49",
        "random:49,seed=1",
        "uniform:20",
        "even:20",
    ):
        assert f"  {budget}\n" in runs
    assert "seed=2" not in runs and "even:49" not in runs and ":400" not in runs
    assert "  even at 49: only even numbers\n" in left
    assert left.count("asks_clip at ") == 3 and "give --clip-text" in left
    assert left.count("random at 400: dominant=400 is outside 1..196") == 1
    assert not (tmp_path / "out").exists()


def test_what_every_pair_that_is_run_says_is_said_by_the_grid() -> None:
    """What only the width of the projector tells counts too: a refusal after the model is loaded would end the run."""
    config = config_of(TINY)
    every = parse_methods("all,prumerge_plus,rule=distinct")
    grid = make_grid(every, [140, 98], config, seeds=1, has_clip=True)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    for budget in grid.configs:
        model.set_compression(budget)
    assert any(pair.method == "cdpruner" and pair.tokens == 140 for pair in grid.refused)


def test_totals_are_of_five_tiles(oracle_dir: Path) -> None:
    tiled, single = (config_of(oracle_dir / name) for name in ("tiny-llava-v1.6-next", "tiny-llava-v1.5"))
    assert budgets_of(None, "640,320,160", tiled) == [128, 64, 32]
    assert budgets_of("192,64,192", None, single) == [192, 64]
    grid = make_grid([], [128], tiled, seeds=1)
    assert [str(budget) for budget in grid.configs][:2] == ["None", "visionzip:108+20"]
    # Inside the language model a budget is of the whole image: five tiles of 300.
    grid = make_grid(parse_methods("pyramiddrop"), [300], tiled, seeds=1)
    assert grid.tokens["pyramiddrop:1500"] == 300 and str(grid.configs[1]) == "visionzip:253+47"
    compiled = make_grid(parse_methods("pyramiddrop"), [300], tiled, seeds=1, compiled=True)
    assert [(pair.method, pair.tokens) for pair in compiled.refused] == [("pyramiddrop", 300)]
    assert compiled.refused[0].reason.startswith("--compile does not go with")
    for budgets, total, config, message in (
        (None, "640", single, "this model has one"),
        (None, "641", tiled, "does not divide evenly over 5 tiles"),
        ("a", None, single, "give whole numbers"),
        ("0", None, single, "1 or more each"),
        (",", None, single, "1 or more each"),
    ):
        with pytest.raises(ValueError, match=message):
            budgets_of(budgets, total, config)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--model-path, --tasks, --output-dir: needed"),
        (["--budgets", "49", "--total", "640"], "give --budgets, tokens a tile, or --total"),
        ([], "give --budgets, tokens a tile, or --total"),
        (["--budgets", "49", "--methods", "nothing_like_it"], "there is no 'nothing_like_it'"),
        (["--budgets", "49", "--methods", ","], "--methods ',': give names separated by commas"),
        (["--budgets", "49", "--methods", "scope,alpha=much"], "alpha='much' must be a number"),
        (["--budgets", "98", "--methods", "fastv,layers=1"], "layers"),
        (["--budgets", "5000"], "no method takes any of these budgets"),
        (["--budgets", "49", "--methods", "all", "--baselines"], "--baselines compares no other methods"),
        (["--budgets", "49", "--exact", "--batch-size", "4"], "--exact asks questions one by one"),
    ],
)
def test_wrong_flags_end_in_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = ["--model-path", str(TINY), "--tasks", "tiny_vqa", "--output-dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        main([*(needed if "needed" not in message else []), *words])
    assert end.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


# ----- Files -------------------------------------------------------------------


def test_quoted_figures_never_share_a_column_with_measured_ones(folder: Path, data: Path) -> None:
    comparison = build_comparison([folder], GRID, paper_tables()["table1"])
    measured, quoted = to_markdown(comparison).split("## Quoted from the paper")
    assert "SparseVLM" not in measured and "arXiv 2412.04467, LLaVA-1.5-7B" in quoted and "| 55.1 " in quoted
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    kinds = {row["kind"] for row in rows}
    assert kinds == {"measured", "quoted"}
    assert all(bool(row["quoted"]) == (row["kind"] == "quoted") for row in rows)
    assert all(not row["score"] and not row["retention"] for row in rows if row["kind"] == "quoted")
    latex = to_latex(comparison)
    assert latex.count(r"\begin{tabular}") == 2 and "% Quoted, not measured here: table1" in latex


def test_texts_are_defused_and_escaped(folder: Path, data: Path, tmp_path: Path) -> None:
    evil = write_run(tmp_path / "=a_b & <c>", data, ("none", "visionzip:54+10"))
    comparison = compared(evil, folder, data=data)
    cells = [cell for row in csv.reader(io.StringIO(to_csv(comparison))) for cell in row]
    assert not any(cell.startswith(("=", "+", "@")) for cell in cells)
    assert any(cell.startswith("'=a_b") for cell in cells)
    assert r"=a\_b \& \textless{}c\textgreater{} all tokens" in to_latex(comparison)
    svg = to_svg(comparison)
    assert "=a_b &amp; &lt;c&gt;" in svg and ElementTree.fromstring(svg) is not None


def test_what_is_not_answered_is_named_and_what_is_not_drawn_is_not_explained(folder: Path, data: Path) -> None:
    wider = Grid((64,), dict.fromkeys([*BUDGETS[1:], "scope:64"], 64), [], [])
    bare = to_markdown(build_comparison([folder], wider))
    assert "- of the grid, nothing is answered yet under: scope:64\n" in bare
    assert "Mean over 2 tasks" in bare and "In brackets" not in bare and "marks an interval" not in bare
    drawn = to_markdown(compared(folder, data=data, resamples=50))
    assert "nothing is answered yet" not in drawn and "In brackets" in drawn and "marks an interval" in drawn


def test_the_matrix_names_what_is_left_out_and_the_marks(folder: Path, data: Path) -> None:
    text = to_markdown(compared(folder, data=data))
    assert "- uniform at 600: it is too many" in text
    assert "| visionzip | yes " in text.split("## What the methods are")[1]
    assert "Medians of 11 turns, the budgets in turn, on one question of gqa at batch 1: d, f." in text
    assert tenths(-0.04, signed=True) == "+0.0" and tenths(-0.06, signed=True) == "-0.1"


def test_labels_of_the_picture_never_overlap(folder: Path, data: Path) -> None:
    comparison = compared(folder, data=data)
    entry = comparison.entries[1]
    for number in range(24):  # as many methods, all of them with the same points
        copy = type(entry)(**vars(entry) | {"method": f"method number {number}", "budget": None})
        comparison.entries.append(copy)
    root = ElementTree.fromstring(to_svg(comparison))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert width <= 420
    space = "{http://www.w3.org/2000/svg}"
    panels = root.findall(f"{space}g")
    assert len(panels) == 2
    for panel in panels:
        labels = [text for text in panel.iter(f"{space}text") if text.get("class") == "label"]
        assert len(labels) == 28
        heights = sorted(float(text.attrib["y"]) for text in labels)
        assert min(b - a for a, b in pairwise(heights)) >= 13.9
        assert all(float(t.attrib["x"]) + 6.1 * len(t[0].tail) <= width for t in labels) and heights[-1] <= height


def test_heights_are_spread_within_their_room() -> None:
    assert spread([10, 10, 10], 14, 0, 100) == [10, 24, 38]
    assert spread([95, 96, 97], 14, 0, 100) == [72, 86, 100]
    assert spread([50, 90], 14, 0, 100) == [50, 90]
    crowded = spread([50] * 5, 14, 0, 30)
    assert [b - a for a, b in pairwise(crowded)] == [14] * 4


# ----- The engine --------------------------------------------------------------


def test_the_choice_of_tokens_is_measured_alone_and_the_cache_is_what_flops_say(tiny_data: Path) -> None:
    inference = Inference.load(TINY, device="cpu")
    sample = get_task("tiny_vqa").load(tiny_data).samples[0]
    budgets = [None, "visionzip:41+8", "uniform:20", "pyramiddrop:98"]
    costs = compare_latency(inference, Question(sample.prompt, sample.images), budgets, warmup=1, repeats=3)
    assert [cost.rows_read for cost in costs] == [196, 49, 20, 98]
    assert [cost.selector_ms is None for cost in costs] == [True, False, False, True]
    assert all(0 < cost.selector_ms < cost.vision_ms for cost in costs[1:3])
    config, text = inference.model.config, costs[0].prompt_tokens - 196
    # What is cut off inside the language model is not in the cache, though it is in the prompt.
    assert costs[3].prompt_tokens == costs[0].prompt_tokens
    lengths = [text + rows for rows in (196, 49, 20, 98)]
    assert [cost.kv_bytes for cost in costs] == [kv_bytes(config, length, 4) for length in lengths]


def run(output: Path, tiny_data: Path, *more: str) -> int:
    words = ["--model-path", str(TINY), "--methods", "visionzip,merge=mean", "--budgets", "20", "--seeds", "1"]
    words += ["--tasks", "tiny_vqa,tiny_pope", "--data-root", str(tiny_data), "--limit", "8", "--device", "cpu"]
    return main([*words, "--output-dir", str(output), "--latency-repeats", "1", "--resamples", "50", *more])


def test_a_comparison_runs_and_goes_on(tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert run(output, tiny_data) == 0
    first = (output / "results.json").read_text()
    rows = json.loads(first)["rows"]
    every = ["none", "visionzip:17+3", "random:20", "uniform:20", "visionzip:17+3,merge=mean"]
    assert {row["compression"] for row in rows} >= set(every)
    assert len({json.dumps(row["timing"]) for row in rows}) == 1 and all(row["tuned_for"] == "" for row in rows)
    assert all((row["selector_ms"] is None) == (row["compression"] == "none") for row in rows)
    for ending in ("md", "csv", "tex", "svg"):
        assert (output / f"compare.{ending}").stat().st_size > 0
    answers = {path: path.read_bytes() for path in output.rglob("*.jsonl")}
    # As a kill leaves it: one file of answers cut in the middle of a line, and no row of its results.
    cut = output / "answers" / "tiny_vqa" / "visionzip_17+3.jsonl"
    cut.write_bytes(cut.read_bytes()[:-30])
    table = (output / "compare.md").read_text().split("## Cost of one question")[0]
    assert run(output, tiny_data) == 0
    assert {path: path.read_bytes() for path in output.rglob("*.jsonl")} == answers
    assert (output / "compare.md").read_text().split("## Cost of one question")[0] == table
    again = (output / "results.json").read_text()
    assert run(output, tiny_data) == 0  # nothing is asked and nothing measured any more
    same = ("vision_ms", "selector_ms", "prefill_ms", "seconds")
    kept = [[[row[name] for name in same] for row in json.loads(text)["rows"]] for text in (again,)]
    assert kept == [[[row[name] for name in same] for row in json.loads((output / "results.json").read_text())["rows"]]]
    capsys.readouterr()
    assert run(output, tiny_data, "--tables-only") == 0 and "## Scores" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_write_one_comparison(tiny_data: Path, tmp_path: Path) -> None:
    words = ["--model-path", str(TINY), "--methods", "divprune", "--budgets", "20", "--seeds", "1", "--resamples", "50"]
    words += ["--tasks", "tiny_vqa", "--data-root", str(tiny_data), "--device", "cpu", "--latency-repeats", "1"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "llava.eval.compare"]
    command = [sys.executable, *launch, *words, "--output-dir", str(tmp_path / "two")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("budgets of each task") == done.stdout.count("compare.md") == 1
    assert main([*words, "--output-dir", str(tmp_path / "one")]) == 0
    answers = [
        {path.name: path.read_bytes() for path in sorted((tmp_path / name).rglob("*.jsonl"))} for name in ("one", "two")
    ]
    assert answers[0] == answers[1] and len(answers[0]) == 7
