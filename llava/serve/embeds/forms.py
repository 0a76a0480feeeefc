"""The forms in which `llava embeds` writes a question; each says what it is for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """What a file is to be.

    Attributes:
        name: Of `--for`.
        help: Which engine takes it.
        is_request: Whether it is the body of a request to a server; else a safetensors file.
        needs_weights: Whether the text's embeddings are in it, which only a loaded model has.
        takes_unequal: Whether images may differ in rows.
    """

    name: str
    help: str
    is_request: bool = True
    needs_weights: bool = False
    takes_unequal: bool = True


FORMS: tuple[Form, ...] = (
    Form("vllm-image-embeds", "vLLM's LLaVA, --enable-mm-embeds: POST /v1/chat/completions", takes_unequal=False),
    Form(
        "vllm-prompt-embeds",
        "vLLM's language model, --enable-prompt-embeds: POST /v1/completions",
        needs_weights=True,
    ),
    Form("vllm-offline", "vllm.LLM: prompt_token_ids and images", is_request=False, takes_unequal=False),
    Form("lmdeploy", "TurboMind: input_ids, input_embeddings and their ranges", is_request=False),
    Form("transformers", "plain transformers: input_ids and mm_encoder_outputs", is_request=False),
    Form("transformers-inputs-embeds", "plain transformers: inputs_embeds", is_request=False, needs_weights=True),
)


def form_named(name: str) -> Form:
    """The form of that name."""
    return next(form for form in FORMS if form.name == name)
