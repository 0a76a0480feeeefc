"""Milliseconds and cache of one question under all budgets of a comparison, the budgets taking turns."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from llava.eval.answer_sets import answers_of_row
from llava.eval.answers_key import compression_name
from llava.eval.asked import question_of
from llava.eval.data_place import DataPlace
from llava.eval.latency_row import latency_fields
from llava.eval.results import Row, read_results, write_results
from llava.eval.task_run import RunSettings
from llava.eval.tasks import Sample, Task
from llava.inference import Inference
from llava.inference.latency import compare_latency
from llava.locks import only_one
from llava.model.configuration import CompressionConfig


def time_budgets(
    inference: Inference,
    tasks: Sequence[Task],
    budgets: Sequence[CompressionConfig | None],
    settings: RunSettings,
    *,
    again: bool = False,
) -> None:
    """Measures all budgets in turn on one question and writes the figures into their rows, unless they have them.

    The costs of a budget that follows the picture follow it too. So the question is one at which such budgets keep
    about as many tokens as on average; `timing` in the rows says how many.

    Args:
        inference: The model.
        tasks: Of the first that has a question with an image or a clip that one is asked.
        budgets: What is compared; all tokens among them.
        settings: Of the run; `latency_repeats` says how often, 0 never.
        again: Measure also what the rows say already: they may have come from another machine.
    """
    names = [compression_name(budget) for budget in budgets]
    rows = [row for row in read_results(settings.results_path, settings.fingerprint) if row["compression"] in names]
    found = _question(tasks, settings, rows)
    if not settings.latency_repeats or found is None:
        return
    task, sample, kept = found
    stamp = {
        "budgets": sorted(names),
        "task": task.name,
        "sample": sample.sample_id,
        "repeats": settings.latency_repeats,
        "device": _device_name(inference.model.device),
        "dtype": str(inference.model.dtype),
        **({"adaptive": kept} if kept else {}),
    }
    if not again and all(row.get("timing") == stamp for row in rows):
        return
    costs = compare_latency(inference, question_of(sample), budgets, repeats=settings.latency_repeats)
    fields = {name: latency_fields(cost) | {"timing": stamp} for name, cost in zip(names, costs, strict=True)}
    with only_one(settings.output_dir):
        timed: list[Row] = [row | fields[row["compression"]] for row in rows]
        write_results(settings.results_path, timed, settings.fingerprint)


@dataclass(frozen=True)
class _Adaptive:
    """What an adaptive budget kept: its mean, and the tokens of each question by its id."""

    mean: float
    tokens: Mapping[str, float]

    def distance(self, sample: Sample) -> float:
        """How far a question is from the mean, as a share of it."""
        return abs(self.tokens[sample.sample_id] / self.mean - 1)


def _question(
    tasks: Sequence[Task], settings: RunSettings, rows: Sequence[Row]
) -> tuple[Task, Sample, dict[str, dict[str, float]]] | None:
    """A question about an image or a clip that could be asked under every budget; None without one.

    Returns:
        The task, the question, and for each adaptive budget the tokens that it keeps there and on average.
    """
    place = DataPlace(settings.data_root, settings.source, settings.image_root)
    for task in tasks:
        own = [row for row in rows if row["task"] == task.name]
        failed = {line.partition(": ")[0] for row in own for line in row["errors"]}
        samples = [each for each in place.load(task).samples if each.shows_pictures and each.sample_id not in failed]
        adaptive = _adaptive(settings, own)
        asked = [each for each in samples if all(each.sample_id in kept.tokens for kept in adaptive.values())]
        if asked:
            sample = min(asked, key=lambda each: sum(kept.distance(each) for kept in adaptive.values()))
            said = {
                name: {"tokens": kept.tokens[sample.sample_id], "mean": kept.mean} for name, kept in adaptive.items()
            }
            return task, sample, said
    return None


def _adaptive(settings: RunSettings, rows: Sequence[Row]) -> dict[str, _Adaptive]:
    """The adaptive budgets among the rows of a task, whose answers are there."""
    found = {}
    for row in (row for row in rows if row.get("adaptive") and row["tokens"]):
        answers = answers_of_row(settings.output_dir, row)
        if answers is not None:
            found[row["compression"]] = _Adaptive(row["tokens"], answers.tokens)
    return found


def _device_name(device: Any) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
