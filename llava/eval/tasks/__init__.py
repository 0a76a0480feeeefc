"""Benchmarks, one file each. A task knows its files, its prompt and its score; it never sees a model.

The first look-up imports the files; docs/add_a_task.md shows one of a user's own.
"""

from __future__ import annotations

from llava.eval.tasks.base import (
    TASKS,
    EmbeddedImage,
    Grades,
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
from llava.results.task_facts import POINTS, SHARE

__all__ = [
    "POINTS",
    "SHARE",
    "TASKS",
    "EmbeddedImage",
    "Grades",
    "JudgedTask",
    "LoadedTask",
    "Sample",
    "Scores",
    "Task",
    "TaskDataError",
    "available_tasks",
    "get_task",
    "register_task",
]
