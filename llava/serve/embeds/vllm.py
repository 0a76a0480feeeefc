"""What vLLM takes: `image_embeds` for its LLaVA, `prompt_embeds` for the language model alone.

Read off vLLM 0.33. Its LLaVA-1.5, NeXT and OneVision take image_embeds as (images, K, D) with one K: the schema is
`("bn", "ifs", "hs")`, without `ifs` among the dynamic dimensions. Images are batched across requests, so two requests
of different K that come at the same time fail too. `prompt_embeds` knows no such rule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.inference.question import GenerationOptions
from llava.serve.embeds.plain_transformers import prompt_rows
from llava.serve.embeds.question import EmbeddedQuestion
from llava.serve.embeds.wire import WireFormat, to_base64


class UnequalRowsError(ValueError):
    """Images have different numbers of rows, and vLLM's LLaVA takes one number."""

    def __init__(self, rows: Sequence[int]) -> None:
        """Says why, and both ways out.

        Args:
            rows: The numbers that were met.
        """
        told = ", ".join(map(str, sorted(set(rows))))
        super().__init__(
            f"images have {told} rows, and LLaVA's image_embeds in vLLM (up to 0.33) take one number: its schema "
            "(bn, ifs, hs) has no dynamic ifs, and it batches images across requests. Either give every image the same "
            "number (a fixed --compression, and no tiles), or send vLLM's prompt_embeds, where numbers may differ"
        )


def check_equal_rows(questions: Iterable[EmbeddedQuestion]) -> int | None:
    """The one number of rows of all images; None without any.

    Args:
        questions: All that one server may be asked at the same time, as far as they are known.

    Raises:
        UnequalRowsError: There are several.
    """
    rows = [number for question in questions for number in question.rows]
    if len(set(rows)) > 1:
        raise UnequalRowsError(rows)
    return rows[0] if rows else None


def chat_request(
    question: EmbeddedQuestion,
    model: str,
    *,
    form: WireFormat = "npy",
    options: GenerationOptions | None = None,
) -> dict[str, Any]:
    """The body of `POST /v1/chat/completions`, images as `image_embeds`; for `vllm serve ... --enable-mm-embeds`.

    Args:
        question: What is asked. Its prompt is made by the server, by the chat template of an exported checkpoint.
        model: The name under which the model is served.
        form: Of each image's (K, D); vLLM reads either.
        options: Of the answer; greedy by default.

    Raises:
        UnequalRowsError: Its images have different numbers of rows.
        ValueError: The text behind an image does not begin a line, as the template makes it; or see `to_base64`.
    """
    check_equal_rows([question])
    words = question.words.split(DEFAULT_IMAGE_TOKEN)
    content = _texts(words[:1])
    for features, text in zip(question.features, words[1:], strict=True):
        if not text.startswith("\n"):
            raise ValueError(
                f"behind {DEFAULT_IMAGE_TOKEN} stands {text[:40]!r}, and the server's template begins a line there; do "
                "so too, or send prompt_embeds, which carry the prompt as it is"
            )
        encoded = to_base64(features, form)
        uuid = hashlib.sha256(encoded.encode()).hexdigest()  # by which vLLM knows equal images again
        content += [{"type": "image_embeds", "image_embeds": encoded, "uuid": uuid}, *_texts([text[1:]])]
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "add_special_tokens": question.begins_with_bos,  # by default vLLM trusts the template to write BOS
        **_sampling(question, options),
    }


def offline_prompts(questions: Sequence[EmbeddedQuestion]) -> list[dict[str, Any]]:
    """For `vllm.LLM(..., enable_mm_embeds=True, limit_mm_per_prompt={"image": 0}).generate`.

    The ids have one image token an image; vLLM puts K in its place.

    Args:
        questions: All of one call.

    Raises:
        UnequalRowsError: Images have different numbers of rows.
    """
    check_equal_rows(questions)
    return [
        {
            "prompt_token_ids": [question.image_token_id if each < 0 else each for each in question.ids],
            "multi_modal_data": {"image": list(question.features)},
        }
        for question in questions
    ]


def prompt_embeds_request(
    question: EmbeddedQuestion, language_model: Any, model: str, *, options: GenerationOptions | None = None
) -> dict[str, Any]:
    """The body of `POST /v1/completions` with the whole prompt as `prompt_embeds`; no template is applied to it.

    For `vllm serve TEXT_MODEL --enable-prompt-embeds`, where `save_text_model` has written TEXT_MODEL. vLLM's chat API
    takes such parts among text too; but there the server tokenises what stands behind an image, and not as LLaVA does.

    Args:
        question: What is asked; its images may differ in rows.
        language_model: Whose embeddings stand for the text: as for `prompt_rows`.
        model: The name under which the language model is served.
        options: Of the answer; greedy by default.
    """
    rows = prompt_rows(question, language_model)
    return {"model": model, "prompt_embeds": to_base64(rows, "torch"), **_sampling(question, options)}


def _texts(texts: Iterable[str]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text} for text in texts if text]


def _sampling(question: EmbeddedQuestion, options: GenerationOptions | None) -> dict[str, Any]:
    """How the server is to answer, in its own words."""
    options = options or GenerationOptions()
    if options.num_beams > 1:
        raise ValueError("num_beams: a request to vLLM has no beams; leave it out")
    found: dict[str, Any] = {"max_tokens": options.max_new_tokens, "temperature": options.temperature}
    if options.temperature > 0 and options.top_p is not None:
        found["top_p"] = options.top_p
    return found if question.stop is None else {**found, "stop": [question.stop]}
