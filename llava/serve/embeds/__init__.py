"""Encoded, compressed and projected images, written as serving engines take them.

    question = embed_question(inference, "What is this?", "cat.jpg")
    vllm.chat_request(question, "llava")          # for `curl -d @-` to a vLLM server

`embed_question` encodes, or reads a store; `embed_from_store` reads a store without any weights. A module for each
engine writes what it takes: `vllm`, `lmdeploy`, `plain_transformers`. Engines themselves are not imported.

The names below are resolved on first use, for `--help` must not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava.serve.embeds.question import EmbeddedQuestion
    from llava.serve.embeds.sources import embed_from_store, embed_question
    from llava.serve.embeds.text_model import save_text_model
    from llava.serve.embeds.vllm import UnequalRowsError

__all__ = ["EmbeddedQuestion", "UnequalRowsError", "embed_from_store", "embed_question", "save_text_model"]

_HOME_OF = {
    "EmbeddedQuestion": "question",
    "UnequalRowsError": "vllm",
    "embed_from_store": "sources",
    "embed_question": "sources",
    "save_text_model": "text_model",
}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"llava.serve.embeds.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'llava.serve.embeds' has no attribute {name!r}")
