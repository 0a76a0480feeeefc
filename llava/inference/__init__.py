"""Questions become answers: the one way that evaluation, chat and scripts ask a model.

The names below are resolved on first use, for `--help` of a command must not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava.inference.inference import Inference
    from llava.inference.question import Answer, GenerationOptions, Question, Usage

__all__ = ["Answer", "GenerationOptions", "Inference", "Question", "Usage"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"llava.inference.{'inference' if name == 'Inference' else 'question'}"), name)
    raise AttributeError(f"module 'llava.inference' has no attribute {name!r}")
