"""Loads a task and checks what came, so that a mistake in a task of one's own is named before anything is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llava.eval.tasks.base import EmbeddedImage, LoadedTask, Sample, Task, TaskDataError


def load_task(task: Task, data_root: Path) -> LoadedTask:
    """A task's samples, checked.

    Raises:
        TaskDataError: The task's files are missing, it has no samples, or one of them is not what it should be; the
            message names the task and the sample.
    """
    loaded: Any = task.load(data_root)
    if not isinstance(loaded, LoadedTask):
        raise TaskDataError(f"{task.name}: load() returned a {type(loaded).__name__}; it must return a LoadedTask")
    if not loaded.samples:
        raise TaskDataError(f"{task.name}: load() found no sample in {data_root}")
    places: dict[str, int] = {}
    for number, sample in enumerate(loaded.samples):
        if problem := _problem(sample):
            raise TaskDataError(f"{task.name}: sample {number}: {problem}")
        earlier = places.setdefault(sample.sample_id, number)
        if earlier != number:
            raise TaskDataError(
                f"{task.name}: sample {number}: sample_id {sample.sample_id!r} is that of sample {earlier} too; ids "
                "must be unique within a task"
            )
    return loaded


def _problem(sample: Any) -> str | None:
    """What is wrong with a sample, None if nothing is."""
    if not isinstance(sample, Sample):
        return f"it is a {type(sample).__name__}, not a Sample"
    for name in ("sample_id", "prompt", "answer", "group"):
        value = getattr(sample, name)
        if not isinstance(value, str):
            return f"{name} is {value!r:.80}, which is not text"
    images: Any = sample.images
    if not isinstance(images, tuple | list) or not all(isinstance(image, Path | EmbeddedImage) for image in images):
        return f"(id {sample.sample_id!r}): images is {images!r:.80}; it must be a tuple of Path or EmbeddedImage"
    return None
