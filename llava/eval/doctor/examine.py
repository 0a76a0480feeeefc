"""A folder of results -> a diagnosis, from the answers that are there. Nothing is asked, and no model is loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from llava.eval.answer_sets import AnswerSet, answers_of_row
from llava.eval.compare.intervals import Draws, ends_of, mean_of_draws, retention_draws
from llava.eval.compare.table import Figure
from llava.eval.data_place import DataPlace
from llava.eval.doctor.diagnosis import Budget, Case, Diagnosis
from llava.eval.doctor.down_sampling import (
    beside,
    down_sampling_budget,
    down_sampling_row,
    is_down_sampling,
    read_down_sampling,
)
from llava.eval.doctor.sizes import ObjectSizes
from llava.eval.doctor.slices import all_slices, make_slice
from llava.eval.doctor.yes_no import asks_yes_or_no, yes_shifts
from llava.eval.report.flips import Earned, answered_by_both, earned_by, find_flips
from llava.eval.report.intervals import TOLERANCE, load_column, parts_by_line
from llava.eval.report.table import VANILLA, Cell, Column, Line, Table, build_table
from llava.eval.results import Row, read_results
from llava.eval.tasks import Sample, Task


@dataclass(frozen=True)
class Wanted:
    """What is to be examined, and how.

    Attributes:
        folder: An output folder of llava.eval.
        data: Where the benchmarks' files are.
        budgets: Those to be examined, as results.json names them; none for all but down-sampling.
        tasks: Names of the tasks to be examined; none for all that all tokens have answered.
        resamples: Of the bootstrap; 0 for no intervals.
        sizes: Of objects, where a file beside the benchmarks' says them.
        model: What commands that are advised call the model.
    """

    folder: Path
    data: DataPlace
    budgets: Collection[str] = ()
    tasks: Collection[str] = ()
    resamples: int = 2_000
    sizes: ObjectSizes = field(default_factory=ObjectSizes)
    model: str = "MODEL"


@dataclass(frozen=True)
class _Asked:
    """A task as all tokens have answered it."""

    task: Task
    column: Column
    samples: Sequence[Sample]
    row: Row
    answers: AnswerSet
    earned: Earned
    sizes: Mapping[str, float]
    limit: int | None


def examine(wanted: Wanted) -> Diagnosis:
    """Compares every budget of a run with all tokens, question by question.

    Raises:
        OSError: A file cannot be read.
        ValueError: The folder has no results, none without compression, or not what `wanted` names; or none of it can
            be examined.
    """
    rows = read_results(wanted.folder / "results.json")
    table = build_table([wanted.folder], only={VANILLA, *_chosen(wanted, rows)}, join_seeds=False)
    columns = _columns(wanted, table)
    by_task = {column.task: column for column in columns}
    counted = [task for task in table.tasks if task in by_task]
    diagnosis = Diagnosis(wanted.folder, table.runs[wanted.folder], table.vanilla.tokens, by_task, counted)
    diagnosis.budgets = [Budget(line.compression, line.tokens) for line in table.lines[1:]]
    draws: dict[str, dict[int, Draws]] = {}
    sizes_found = 0
    for number, column in enumerate(tqdm(columns, desc="examining", unit="task", disable=None)):
        before = len(table.notes)
        asked = _asked(wanted, table, column)
        if asked is None:
            reason = "; ".join(note.removeprefix(f"{column.heading}: ") for note in table.notes[before:])
            for budget in diagnosis.budgets:
                budget.missing[column.task] = reason
            continue
        sizes_found += len(asked.sizes)
        parts = parts_by_line(table, column, asked.task, asked.samples)
        if parts and wanted.resamples:
            draws[column.task] = retention_draws(parts, wanted.resamples, seed=number)
        for place, (line, budget) in enumerate(zip(table.lines[1:], diagnosis.budgets, strict=True), start=1):
            drawn = draws.get(column.task, {}).get(place)
            _examine_line(wanted, asked, line, budget, rows, drawn, telling=len(parts[0].telling) if parts else 0)
    _add_means(diagnosis, table, draws)
    diagnosis.notes = list(dict.fromkeys(table.notes))
    if wanted.sizes.instances is not None and not sizes_found:
        diagnosis.notes.append(
            f"{wanted.sizes.instances} has no object of these questions: it is for POPE, on COCO's val2014"
        )
    _add_advice(wanted, diagnosis, rows)
    if not any(True for _ in diagnosis.cases()):
        reasons = [reason for budget in diagnosis.budgets for reason in budget.missing.values()] + diagnosis.notes
        raise ValueError(f"{wanted.folder}: nothing can be examined: {'; '.join(dict.fromkeys(reasons))}")
    return diagnosis


def _chosen(wanted: Wanted, rows: Sequence[Row]) -> list[str]:
    """The budgets to be examined.

    Raises:
        ValueError: The run lacks one, or has none.
    """
    if VANILLA in wanted.budgets:
        raise ValueError(f"--compression {VANILLA}: all tokens are what each budget is compared with; name a budget")
    there = list(dict.fromkeys(row["compression"] for row in rows if row["compression"] != VANILLA))
    if lacking := [name for name in wanted.budgets if name not in there]:
        known = ", ".join(there) or "all tokens only"
        raise ValueError(f"{wanted.folder} has no results of {', '.join(lacking)}; it has {known}")
    if rows and not there:
        more = f"llava eval ... --compression METHOD:TOKENS --output-dir {wanted.folder}"
        raise ValueError(f"{wanted.folder} has results of all tokens only; add a budget with `{more}`")
    return list(wanted.budgets) or [name for name in there if not is_down_sampling(name)] or there


def _columns(wanted: Wanted, table: Table) -> list[Column]:
    """The tasks to be examined.

    Raises:
        ValueError: All tokens have not answered one that is named, or none at all.
    """
    columns = [column for column in table.columns if column.task in table.vanilla.cells]
    there = [column.task for column in columns]
    lacking = [name for name in wanted.tasks if name not in there]
    if lacking or not there:
        reasons = "; ".join(table.notes)
        raise ValueError(
            f"{wanted.folder} has no scores of all tokens for {', '.join(lacking) or 'any task'}"
            f"{'; it has ' + ', '.join(there) if there else ''}{f' ({reasons})' if reasons else ''}"
        )
    return [column for column in columns if not wanted.tasks or column.task in wanted.tasks]


def _asked(wanted: Wanted, table: Table, column: Column) -> _Asked | None:
    """A task with all tokens' answers; None, and a note, if questions or answers cannot be had."""
    loaded = load_column(table, column, wanted.data)
    if loaded is None:
        return None
    row = table.vanilla.cells[column.task].row
    answers = answers_of_row(wanted.folder, row)
    if answers is None:
        table.notes.append(f"{column.heading}: the answers with all tokens are not in {wanted.folder / 'answers'}")
        return None
    task, samples = loaded[0], loaded[1][: row["n"]]
    if changed := _changed(task, column, samples, row, answers):
        table.notes.append(f"{column.heading}: with all tokens, {changed}")
        return None
    limit = row["n"] if row["n"] < len(loaded[1]) else None
    earned = earned_by(task, answers, samples)
    return _Asked(task, column, samples, row, answers, earned, wanted.sizes.of(task, samples), limit)


def _changed(task: Task, column: Column, samples: Sequence[Sample], row: Row, answers: AnswerSet) -> str:
    """That answers or questions are not those that a row was scored on; "" if they are, and for judged tasks."""
    if task.is_judged:
        return ""
    found = task.score(samples, answers.texts).get(column.score)
    if not isinstance(found, float | int):
        return f"its questions, as they are here, give no {column.score}"
    if abs(found - row[column.score]) * column.facts.factor <= TOLERANCE:
        return ""
    show = column.facts.show
    return (
        f"{answers.path} scores {show(found)} and results.json says {show(row[column.score])}: "
        "answers or questions have changed since; run llava eval again"
    )


def _examine_line(
    wanted: Wanted,
    asked: _Asked,
    line: Line,
    budget: Budget,
    rows: Sequence[Row],
    drawn: Draws | None,
    *,
    telling: int,
) -> None:
    """Adds what a budget does to a task, or why that is not known."""
    name = asked.column.task
    cell = line.cells.get(name)
    if cell is None:
        budget.missing[name] = "it has no score under this budget"
        return
    answers = answers_of_row(wanted.folder, cell.row)
    if cell.retention is None:
        budget.missing[name] = "its row cannot be compared with that of all tokens; the notes say why"
    elif answers is None:
        budget.missing[name] = f"its answers are not in {wanted.folder / 'answers' / name}"
    elif changed := _changed(asked.task, asked.column, asked.samples, cell.row, answers):
        budget.missing[name] = changed
    else:
        case = _case(wanted, asked, cell, answers, rows, drawn, telling=telling)
        if case is None:
            budget.missing[name] = "no question has an answer under both, graded where a judge does that"
        else:
            budget.cases[name] = case


def _case(
    wanted: Wanted,
    asked: _Asked,
    cell: Cell,
    answers: AnswerSet,
    rows: Sequence[Row],
    drawn: Draws | None,
    *,
    telling: int,
) -> Case | None:
    """A task under a budget; None if not one question can be compared."""
    task, samples, resamples = asked.task, asked.samples, wanted.resamples
    earned = asked.earned, earned_by(task, answers, samples)
    both = answered_by_both(samples, asked.answers, answers)
    flips = find_flips(both, (asked.answers, answers), earned)
    whole = make_slice("all", "all", both, {flip.sample.sample_id: flip for flip in flips}, earned, resamples)
    if whole is None or cell.retention is None:
        return None
    ends = (None, None) if drawn is None else ends_of(drawn / 100)
    factor = asked.column.facts.factor
    known = {sample.sample_id for sample in samples}
    sides = asked.answers.texts.keys() & known, answers.texts.keys() & known
    case = Case(
        task=task.name,
        score=asked.column.score,
        before=asked.row[asked.column.score],
        after=cell.score / factor,
        retention=Figure(cell.retention / 100, *ends),
        whole=whole,
        slices=all_slices(task, both, flips, earned, resamples, asked.sizes),
        only=(len(sides[0] - sides[1]), len(sides[1] - sides[0])),
        limit=asked.limit,
        telling=telling,
        in_shares=all(value is None or 0 <= value <= 1 for side in earned for value in side.values()),
        flips=flips,
    )
    if asks_yes_or_no(task, samples):
        case.shifts = yes_shifts(task, samples, (asked.answers.texts, answers.texts), resamples)
    row = None if is_down_sampling(cell.row["compression"]) else down_sampling_row(rows, cell.row)
    theirs = None if row is None else read_down_sampling(wanted.folder, task, samples, row)
    if row is not None and theirs is not None and case.in_shares:
        case.down_sampling = beside(row, both, earned, theirs, resamples)
    return case


def _add_means(diagnosis: Diagnosis, table: Table, draws: Mapping[str, Mapping[int, Draws]]) -> None:
    """Mean retention, as the report has it; benchmarks are drawn independently of each other."""
    tasks = diagnosis.mean_tasks
    for place, (line, budget) in enumerate(zip(table.lines[1:], diagnosis.budgets, strict=True), start=1):
        mean = line.mean(tasks)
        drawn = mean_of_draws(draws.get(task, {}).get(place) for task in tasks)
        if mean is not None:
            budget.mean = Figure(mean / 100, *((None, None) if drawn is None else ends_of(drawn / 100)))


def _add_advice(wanted: Wanted, diagnosis: Diagnosis, rows: Sequence[Row]) -> None:
    """The commands that would add the down-sampling rows that lack, one for each number of questions."""
    lacking: dict[int | None, dict[str, list[str]]] = {}
    for budget, case in diagnosis.cases():
        if case.down_sampling is None and case.in_shares and not is_down_sampling(budget.compression):
            named = down_sampling_budget(budget.compression)
            if named is not None and not any(row["compression"] == named and row["task"] == case.task for row in rows):
                lacking.setdefault(case.limit, {}).setdefault(named, []).append(_asked_as(case.task, rows))
    for limit, by_budget in lacking.items():
        tasks = ",".join(dict.fromkeys(task for named in by_budget.values() for task in named))
        budgets = " ".join(f"--compression {name}" for name in by_budget)
        command = f"llava eval --model-path {wanted.model} --tasks {tasks} {budgets} --output-dir {wanted.folder}"
        diagnosis.advice.append(command + (f" --limit {limit}" if limit else ""))


def _asked_as(task: str, rows: Sequence[Row]) -> str:
    """What `--tasks` calls a task: its name, or the path of a file of one's own, as its rows say."""
    own = next((row.get("own_file") for row in rows if row["task"] == task), None)
    return str(own["path"]) if isinstance(own, Mapping) and "path" in own else task
