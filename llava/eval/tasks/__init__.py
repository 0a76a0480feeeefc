"""Benchmarks, one file each. A task knows its files, its prompt and its score; it never sees a model."""

from __future__ import annotations

from llava.eval.tasks.base import LoadedTask, Sample, Task, TaskDataError, available_tasks, get_task, register_task
from llava.eval.tasks.tiny_pope import TinyPope
from llava.eval.tasks.tiny_vqa import TinyVqa

__all__ = [
    "LoadedTask",
    "Sample",
    "Task",
    "TaskDataError",
    "TinyPope",
    "TinyVqa",
    "available_tasks",
    "get_task",
    "register_task",
]
