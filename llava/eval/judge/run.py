"""A judged task's answers -> grades on disk, and scores in the rows of results.json."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llava.eval.answer_sets import AnswerSet, find_answers, made_alike
from llava.eval.data_place import DataPlace
from llava.eval.judge.cache import JudgeCache, cache_key
from llava.eval.judge.client import JudgeClient, JudgeError, JudgeRefused, Message
from llava.eval.results import Row, identity, read_results, with_retention, write_json
from llava.eval.tasks import JudgedTask, Sample
from llava.eval.whole_files import json_lines, read_json_lines, write_whole
from llava.locks import only_one
from llava.plain_files import read_utf8
from llava.results.rows import read_content
from llava.results.task_facts import facts_of

READING = "official"
"""How grades are counted, as rows say it: what the benchmark's own tool counts. Rows of version 0.1.0 say nothing."""

_GIVE_UP = 8  # questions without any reply, after which the endpoint is taken to be down


class UngradedError(ValueError):
    """A task, or a budget of it, has no score; other tasks may have one. The message says why."""


@dataclass(frozen=True)
class Grade:
    """What came of one question to the judge.

    Attributes:
        value: What counts; None if nothing does.
        is_read: Whether a reply held it.
        served: The models that replied.
        reason: Why no reply held one, or "".
    """

    value: Any | None
    is_read: bool
    served: frozenset[str]
    reason: str = ""


@dataclass
class Grades:
    """What a judge gave.

    Attributes:
        values: By sample, one a run of the judge; None is missing.
        read: The same without those that no reply held.
        missing: A line for each that is missing: sample, run, reason.
        unread: A line for each that counts although no reply held it.
        served: What the server said that its model is.
    """

    values: dict[str, list[Any | None]]
    read: dict[str, list[Any | None]]
    missing: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    served: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Judge:
    """Who grades, and how often.

    Attributes:
        client: The endpoint.
        cache: Where replies are looked up and kept.
        runs: Gradings of each answer.
        concurrency: Questions at a time.
        again: Whether a reply of an earlier run that holds no grade is asked for again.
    """

    client: JudgeClient
    cache: JudgeCache
    runs: int = 1
    concurrency: int = 4
    again: bool = False

    def grade(self, task: JudgedTask, sample: Sample, text: str, run: int) -> Grade:
        """Has one answer graded once: asked until a reply holds a grade, as often as the benchmark's tool asks.

        Raises:
            JudgeRefused: The endpoint answers no question.
        """
        served: set[str] = set()
        question = task.grading_prompt(sample, text)
        last = ""
        for attempt, temperature in enumerate(task.judge_temperatures):
            prompt = question + (task.retry_suffix if attempt else "")
            request = self.client.request(_messages(task.system_prompt, prompt), task.judge_max_tokens, temperature)
            try:
                reply = self.cache.reply(
                    cache_key(request, run, attempt),
                    partial(self.client.ask, request),
                    (lambda known: task.read_grade(known.text) is not None) if self.again else None,
                )
            except JudgeError as error:
                return Grade(None, False, frozenset(served), str(error))
            served.add(reply.model)
            grade = task.read_grade(reply.text)
            if grade is not None:
                return Grade(grade, True, frozenset(served))
            last = reply.text
        reason = f"no grade in {last[:80]!r} (replies: {len(task.judge_temperatures)})"
        return Grade(task.unread_grade, False, frozenset(served), reason)


def grade_answers(
    task: JudgedTask, samples: Sequence[Sample], texts: Mapping[str, str], judge: Judge, label: str = ""
) -> Grades:
    """Lets a judge grade answers, several at a time.

    Args:
        task: The benchmark.
        samples: What counts.
        texts: The model's answers by sample id; one that is not there is graded as an empty one.
        judge: Who grades.
        label: What the progress bar is called.

    Raises:
        JudgeRefused: The endpoint answers no question, or not one of the first eight.
    """
    values, read = ({sample.sample_id: [None] * judge.runs for sample in samples} for _ in range(2))
    grades = Grades(dict(values), dict(read))
    jobs = [(sample, run) for run in range(judge.runs) for sample in samples]

    def grade(job: tuple[Sample, int]) -> Grade:
        return judge.grade(task, job[0], texts.get(job[0].sample_id, ""), job[1])

    executor = ThreadPoolExecutor(judge.concurrency, thread_name_prefix="judge")
    try:
        found = tqdm(executor.map(grade, jobs), total=len(jobs), desc=label or task.name, unit="grade")
        for (sample, run), given in zip(jobs, found, strict=True):
            grades.values[sample.sample_id][run] = given.value
            grades.read[sample.sample_id][run] = given.value if given.is_read else None
            grades.served |= given.served
            if not given.is_read:
                lines = grades.missing if given.value is None else grades.unread
                lines.append(f"{sample.sample_id}, run {run + 1}: {given.reason}")
            if len(grades.missing) == _GIVE_UP and not grades.served:
                raise JudgeRefused(f"the first {_GIVE_UP} questions got no reply; {grades.missing[-1]}")
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
    return grades


def answered_tasks(output_dir: Path) -> list[str]:
    """Names of the judged tasks that an output folder has rows of.

    Raises:
        ValueError: It has no results at all.
    """
    path = output_dir / "results.json"
    rows = read_results(path)
    if not rows:
        raise ValueError(f"{path} does not exist or has no rows; run python -m llava.eval --output-dir {output_dir}")
    return sorted({row["task"] for row in rows if facts_of(row).judged})


def judge_task(task: JudgedTask, output_dir: Path, judge: Judge, data: DataPlace) -> tuple[list[Row], list[str]]:
    """Grades all budgets of a task in an output folder, and writes scores, judge and grades there.

    Args:
        task: The benchmark.
        output_dir: Where `results.json` and `answers/` are; the grades go to `grades/<task>/<compression>.jsonl`.
        judge: Who grades.
        data: Where the benchmark's files are.

    Returns:
        The rows of results.json that have scores now; and a line for each budget that has none, because not one of a
        run's grades could be read.

    Raises:
        JudgeRefused: The endpoint answers no question.
        TaskDataError: The benchmark's files are missing.
        UngradedError: There are no answers to grade.
    """
    path = output_dir / "results.json"
    rows = sorted((row for row in read_results(path) if row["task"] == task.name), key=lambda row: row["n"])
    sets = find_answers(output_dir, task.name)
    pairs = [(row, answers) for row in rows for answers in sets if made_alike(row, answers)]
    if not pairs:
        raise UngradedError(f"{output_dir} has no answers of {task.name}; run python -m llava.eval --tasks {task.name}")
    samples = data.load(task, pairs[-1][0].get("data_root")).samples
    judged: list[Row] = []
    failures = []
    for row, answers in pairs:
        try:
            judged.append(_judge_row(task, row, answers, samples[: row["n"]], judge))
        except UngradedError as error:
            failures.append(str(error))
    judged = with_retention(judged)
    if judged:
        _write_rows(path, judged)
    return judged, failures


def _judge_row(task: JudgedTask, row: Row, answers: AnswerSet, samples: Sequence[Sample], judge: Judge) -> Row:
    label = f"{task.name} {row['compression']}"
    grades = grade_answers(task, samples, answers.texts, judge, label)
    for run in range(judge.runs):
        if not any(values[run] is not None for values in grades.read.values()):
            first = [*grades.missing, *grades.unread][0]
            raise UngradedError(f"{label}: not one answer was graded in run {run + 1}, the first is {first}")
    by_run = [
        task.score_grades(samples, {key: [values[run]] for key, values in grades.values.items()})[task.main_score]
        for run in range(judge.runs)
    ]
    scores = [score for score in by_run if isinstance(score, float)]
    for score in scores:
        task.facts().check(f"{task.name}: {task.main_score}", score)
    about = {
        "model": judge.client.model,
        "served": sorted(grades.served),
        "url": judge.client.shown_url,
        "extra": dict(judge.client.extra),
        "runs": judge.runs,
        "scores": scores,
        "std": statistics.pstdev(scores),
        "reading": READING,
        "missing": grades.missing,
        "unread": grades.unread,
    }
    path = answers.path.parents[2] / "grades" / task.name / answers.path.name
    lines = [{"question_id": key, "grades": values} for key, values in grades.values.items()]
    write_whole(path, json_lines([{"judge": about}, *lines]))
    return row | task.score_grades(samples, grades.values) | _strict_score(task, samples, grades) | {"judge": about}


def _strict_score(task: JudgedTask, samples: Sequence[Sample], grades: Grades) -> Row:
    """The main score over those grades alone that a reply held and that are on the scale, as `strict_score`.

    It stands beside what the official tool counts; nothing where it cannot differ, or there is no such grade.
    """
    strict = {
        key: [None if value is None or not task.is_on_scale(value) else value for value in values]
        for key, values in grades.read.items()
    }
    if task.unread_grade is None or not any(value is not None for values in strict.values() for value in values):
        return {}
    return {f"strict_{task.main_score}": task.score_grades(samples, strict)[task.main_score]}


def read_grades(output_dir: Path, task: str, file_name: str) -> dict[str, list[Any | None]]:
    """Grades that `judge_task` wrote, by sample; none if there is no such file.

    Raises:
        ValueError: The file is something else.
    """
    path = output_dir / "grades" / task / file_name
    if not path.exists():
        return {}
    try:
        rows = read_json_lines(read_utf8(path))[1:]
        if not all(isinstance(row["grades"], list) for row in rows):
            raise TypeError("grades that are no list")
        return {row["question_id"]: row["grades"] for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a file of grades ({error}); move it away") from None


def _messages(system_prompt: str, prompt: str) -> list[Message]:
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, {"role": "user", "content": prompt}]


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Puts judged rows in the place of those that they came from; all else in the file stays as it is."""
    judged = {identity(row): row for row in rows}
    with only_one(path.parent):
        content = read_content(path)
        content["rows"] = [judged.get(identity(row), row) for row in content["rows"]]
        write_json(path, content)
