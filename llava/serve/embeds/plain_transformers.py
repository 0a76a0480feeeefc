"""What models of plain transformers take, without a class of this package: features beside the ids, or embeddings.

`LlavaForConditionalGeneration` and its kin of an exported checkpoint (`llava export --to hf`) take either.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from llava.serve.embeds.question import EmbeddedQuestion


def encoder_outputs(question: EmbeddedQuestion) -> dict[str, Any]:
    """Keyword arguments of `forward` and `generate`; images may differ in rows.

    Returns:
        `input_ids` (1, L) with an image token for every row, `attention_mask` (1, L), and `mm_encoder_outputs`, whose
        image entry holds (K_i, D) of each image as `pooler_output`; without images none.
    """
    ids = torch.tensor([question.opened_ids()])
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if question.features:
        outputs: Any = BaseModelOutputWithPooling(pooler_output=list(question.features))  # type: ignore[arg-type]
        inputs["mm_encoder_outputs"] = {"image": outputs}
    return inputs


def input_embeddings(question: EmbeddedQuestion, language_model: Any) -> dict[str, Tensor]:
    """Keyword arguments of `forward` and `generate` of the model, or of its language model alone.

    Args:
        question: Its images may differ in rows.
        language_model: As for `prompt_rows`.

    Returns:
        `inputs_embeds` (1, L, D) and `attention_mask` (1, L).
    """
    rows = prompt_rows(question, language_model)
    return {"inputs_embeds": rows.unsqueeze(0), "attention_mask": torch.ones(1, len(rows), dtype=torch.int64)}


@torch.no_grad()
def prompt_rows(question: EmbeddedQuestion, language_model: Any) -> Tensor:
    """(L, D): embeddings of the whole prompt, the images' rows in their places, on the CPU, in the type of the rows.

    Args:
        question: What is asked.
        language_model: Any model with the token embedding.
    """
    embedding = language_model.get_input_embeddings()
    ids = torch.tensor(question.opened_ids(0), device=embedding.weight.device)
    dtype = question.features[0].dtype if question.features else embedding.weight.dtype
    rows: Tensor = embedding(ids).to("cpu", dtype)
    for features, (begin, end) in zip(question.features, question.ranges(), strict=True):
        rows[begin:end] = features
    return rows
