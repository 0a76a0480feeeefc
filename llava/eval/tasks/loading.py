"""Loads a task and checks what came, so that a mistake in a task of one's own is named before anything is asked."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava.eval.tasks.base import EmbeddedImage, LoadedTask, Sample, Task, TaskDataError
from llava.images.paths import path_inside
from llava.prompts.around import check_text, place_images


def load_task(task: Task, data_root: Path, image_root: Path | None = None) -> LoadedTask:
    """A task's samples, checked; those that cannot be asked or written are left out and named among the bad rows.

    Args:
        task: The benchmark.
        data_root: The folder of its files. Its images lie in it, too, as their names are written; links in it may lead
            elsewhere.
        image_root: Where else images may lie.

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
    roots = [data_root] if image_root is None else [data_root, image_root]
    reasons = {sample.sample_id: reason for sample in loaded.samples if (reason := _cannot_be_asked(sample, roots))}
    if len(reasons) == len(loaded.samples):
        raise TaskDataError(f"{task.name}: not one sample can be asked, the first is {next(iter(reasons.values()))}")
    usable = [sample for sample in loaded.samples if sample.sample_id not in reasons]
    return LoadedTask(usable, [*loaded.bad_rows, *(f"{task.name} {reason}" for reason in reasons.values())])


def _cannot_be_asked(sample: Sample, roots: Sequence[Path]) -> str | None:
    """Why a sample cannot be asked or written, None if it can: placeholders without images, files of others..."""
    try:
        for file in (*sample.images, sample.video):
            if isinstance(file, Path):
                _check_inside(file, roots, "video" if file is sample.video else "image")
        texts = (sample.sample_id, sample.answer, sample.group, sample.image_names)
        for text in (*texts, json.dumps(dict(sample.details), ensure_ascii=False, default=repr)):
            check_text(text)
        place_images(sample.prompt, len(sample.images), None)
    except (TypeError, ValueError) as error:
        return f"sample {sample.sample_id!r}: {error}"
    return None


def _check_inside(file: Path, roots: Sequence[Path], what: str) -> None:
    """Raises ValueError for a path that is in none of the roots, as it is written."""
    written = os.path.normpath(file.absolute())
    if any(written.startswith(f"{root.absolute()}{os.sep}") for root in roots):
        return
    for root in reversed(roots):  # so that the first one is named
        try:
            path_inside(root, written)
            return
        except ValueError as error:
            reason = error
    raise ValueError(f"{what} {reason}; --image-root names a folder of {what}s outside of --data-root")


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
    video: Any = sample.video
    if video is not None and not isinstance(video, Path):
        return f"(id {sample.sample_id!r}): video is {video!r:.80}; it must be a Path"
    return None
