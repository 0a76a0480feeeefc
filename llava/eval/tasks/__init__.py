"""Benchmarks, one file each. A task knows its files, its prompt and its score; it never sees a model."""

from __future__ import annotations

# Each module registers its tasks when it is imported.
from llava.eval.tasks import (  # noqa: F401
    gqa,
    llava_bench,
    mmbench,
    mme,
    mmmu,
    mmvet,
    pope,
    scienceqa,
    seed_bench,
    textvqa,
    vizwiz,
    vqav2,
)
from llava.eval.tasks.base import (
    EmbeddedImage,
    LoadedTask,
    Sample,
    Scores,
    Task,
    TaskDataError,
    available_tasks,
    get_task,
    register_task,
)
from llava.eval.tasks.judged import JudgedTask
from llava.eval.tasks.tiny_pope import TinyPope
from llava.eval.tasks.tiny_vqa import TinyVqa

__all__ = [
    "EmbeddedImage",
    "JudgedTask",
    "LoadedTask",
    "Sample",
    "Scores",
    "Task",
    "TaskDataError",
    "TinyPope",
    "TinyVqa",
    "available_tasks",
    "get_task",
    "register_task",
]
