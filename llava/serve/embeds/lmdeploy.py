"""What LMDeploy's TurboMind takes: ids, rows, and the ranges of ids in whose place they stand. Read off 0.14."""

from __future__ import annotations

from typing import Any

from llava.serve.embeds.question import EmbeddedQuestion

_PLACEHOLDER = 0  # what LMDeploy itself takes where there is no padding; its embedding is looked up, then overwritten


def turbomind_inputs(question: EmbeddedQuestion) -> dict[str, Any]:
    """Keyword arguments of `TurboMindInstance.async_stream_infer`; images may differ in rows.

    Ids tell one image from another by length only, so the engine's prefix cache must be off, as it is by default.

    Returns:
        `input_ids`, each image at its whole length; `input_embeddings`, (K_i, D) of each; `input_embedding_ranges`,
        [begin, end) of each among the ids.
    """
    return {
        "input_ids": question.opened_ids(_PLACEHOLDER),
        "input_embeddings": list(question.features),
        "input_embedding_ranges": [list(each) for each in question.ranges()],
    }
