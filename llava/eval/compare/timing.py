"""Milliseconds and cache of one question under all budgets of a comparison, the budgets taking turns."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import torch

from llava.eval.answers_key import compression_name
from llava.eval.data_place import DataPlace
from llava.eval.latency_row import latency_fields
from llava.eval.results import Row, read_results, write_results
from llava.eval.task_run import RunSettings, question_of
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

    Args:
        inference: The model.
        tasks: Whose first question with an image is asked.
        budgets: What is compared; all tokens among them.
        settings: Of the run; `latency_repeats` says how often, 0 never.
        again: Measure also what the rows say already: they may have come from another machine.
    """
    names = [compression_name(budget) for budget in budgets]
    rows = [row for row in read_results(settings.results_path, settings.fingerprint) if row["compression"] in names]
    found = _first_question(tasks, settings, rows)
    if not settings.latency_repeats or found is None:
        return
    task, sample = found
    stamp = {
        "budgets": sorted(names),
        "task": task.name,
        "sample": sample.sample_id,
        "repeats": settings.latency_repeats,
        "device": _device_name(inference.model.device),
        "dtype": str(inference.model.dtype),
    }
    if not again and all(row.get("timing") == stamp for row in rows):
        return
    costs = compare_latency(inference, question_of(sample), budgets, repeats=settings.latency_repeats)
    fields = {name: latency_fields(cost) | {"timing": stamp} for name, cost in zip(names, costs, strict=True)}
    with only_one(settings.output_dir):
        timed: list[Row] = [row | fields[row["compression"]] for row in rows]
        write_results(settings.results_path, timed, settings.fingerprint)


def _first_question(tasks: Sequence[Task], settings: RunSettings, rows: Sequence[Row]) -> tuple[Task, Sample] | None:
    """The first question about an image that could be asked under every budget; None without one."""
    place = DataPlace(settings.data_root, settings.source, settings.image_root)
    for task in tasks:
        failed = {line.partition(": ")[0] for row in rows if row["task"] == task.name for line in row["errors"]}
        samples = (sample for sample in place.load(task).samples if sample.images and sample.sample_id not in failed)
        sample = next(samples, None)
        if sample is not None:
            return task, sample
    return None


def _device_name(device: Any) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
