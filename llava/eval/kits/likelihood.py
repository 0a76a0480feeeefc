"""How likely a model finds given answers: exact, in batches, an image that several answers share encoded once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llava.conversation import conversation_template
from llava.images.source import source_key
from llava.images.store import ImageStore
from llava.inference import Inference, Question
from llava.inference.batch_size import BatchSize, release_memory
from llava.inference.first_logits import NotFiniteError
from llava.prompts.around import count_tokens, longest_prompt, place_images


@dataclass(frozen=True)
class Likelihood:
    """What the model makes of an answer.

    Attributes:
        log_probability: Of all its tokens, the end token included: that the model says this and nothing more.
        num_tokens: How many these are.
        is_greedy: Whether the model would have said just this.
    """

    log_probability: float
    num_tokens: int
    is_greedy: bool

    @property
    def loss(self) -> float:
        """Mean negative log-probability of a token, as in training."""
        return -self.log_probability / self.num_tokens


@dataclass(frozen=True)
class _Scored:
    """An answer in its prompt.

    Attributes:
        index: Which of the call's it is.
        ids: Prompt and answer, each image one -200.
        num_targets: How many of the last ids are the answer's.
        keys: Of the images.
        text: What is asked about them.
        length: Tokens for the language model; with an adaptive budget the most.
    """

    index: int
    ids: list[int]
    num_targets: int
    keys: list[str]
    text: str
    length: int


def likelihoods(
    inference: Inference, answers: Sequence[tuple[Question, str]], *, batch_size: int | None = 8
) -> Iterator[tuple[int, Likelihood]]:
    """Yields how likely each answer is after its question.

    Args:
        inference: The model; its conversation template puts the answer where it has learned to give one.
        answers: Questions with answers. The template has its own space before an answer: an answer's is left out.
        batch_size: Answers a batch; None finds it.

    Yields:
        Index and likelihood, those of a length together.

    Raises:
        ValueError: An answer is empty, or with its prompt longer than the model's `tokenizer_model_max_length`; or the
            model's logits are not finite.
    """
    inference.model.get_model().check_unpruned(
        "rows of the prompt have no logits, so answers cannot be scored; ask for generated answers instead"
    )
    store = ImageStore(Counter(), inference.model.config)  # nothing is released before the call ends
    sources = {source_key(image): image for question, _ in answers for image in question.images}
    waiting = [_prepare(inference, store, number, *answer) for number, answer in enumerate(answers)]
    waiting.sort(key=lambda item: (item.length, item.index))
    size = BatchSize(inference.model, batch_size)
    while waiting:
        batch = waiting[: size.for_next([item.length for item in waiting], 0)]
        found: list[Likelihood] = []
        try:
            missing = [key for item in batch for key in item.keys if key not in store.features]
            for key in dict.fromkeys(missing):
                store.features[key] = inference.see([store.open(key, sources[key])])[0]
            found = _batch(inference, batch, store)
        except (torch.OutOfMemoryError, MemoryError) as error:
            size.halve(len(batch), error)
        if found:
            waiting = waiting[len(batch) :]
            yield from ((item.index, likelihood) for item, likelihood in zip(batch, found, strict=True))
        else:
            release_memory()


def _prepare(inference: Inference, store: ImageStore, number: int, question: Question, answer: str) -> _Scored:
    answer = answer.lstrip()
    if not answer:
        raise ValueError(f"there is no answer to score after {question.text[:80]!r}")
    model = inference.model
    conv = conversation_template(inference.conv_mode).copy()
    conv.append_message(conv.roles[0], place_images(question.text, len(question.images), model.config))
    conv.append_message(conv.roles[1], None)
    prompt = inference.tokenize(conv.get_prompt())
    conv.messages[-1][1] = answer
    whole = inference.tokenize(conv.get_prompt())
    shared = next((place for place, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
    sizes = [store.size(image) for image in question.images]
    length, _ = count_tokens(whole, model.num_visual_tokens(sizes) if sizes else [])
    limit = longest_prompt(model.config)
    if limit is not None and length > limit:
        raise ValueError(f"{question.text[:80]!r} and its answer take {length} tokens, the model reads {limit}")
    keys = [source_key(image) for image in question.images]
    return _Scored(number, whole, len(whole) - shared, keys, question.text, length)


@torch.inference_mode()
def _batch(inference: Inference, batch: Sequence[_Scored], store: ImageStore) -> list[Likelihood]:
    """Likelihoods of some answers; rows start together, so that where a row's answer stands is known."""
    model = inference.model
    ids, mask = _pad_right([item.ids for item in batch], inference.pad_token_id)
    seen = [(item.text, [store.features[key] for key in item.keys]) for item in batch]
    of_rows = [inference.features_for(images, text) for text, images in seen]
    lengths = [
        count_tokens(item.ids, [len(image) for image in own])[0] for item, own in zip(batch, of_rows, strict=True)
    ]
    # A token is predicted one place before its own; only the places at which an answer stands get logits.
    first = min(length - item.num_targets for length, item in zip(lengths, batch, strict=True)) - 1
    places = torch.arange(first, max(lengths) - 1, device=model.device)
    features = [image for own in of_rows for image in own]
    images = {"image_features": features} if features else {}
    output = model(
        input_ids=ids.to(model.device), attention_mask=mask.to(model.device), logits_to_keep=places, **images
    )
    found = []
    for row, (item, length) in enumerate(zip(batch, lengths, strict=True)):
        end = length - 1 - first
        logits = output.logits[row, end - item.num_targets : end].float()  # (targets, vocabulary)
        targets = torch.tensor(item.ids[-item.num_targets :], device=logits.device)
        chosen = logits.log_softmax(dim=-1).gather(1, targets[:, None])
        is_greedy = bool((logits.argmax(dim=-1) == targets).all())
        likelihood = float(chosen.sum())
        if math.isnan(likelihood):
            raise NotFiniteError(inference.name, model.dtype)
        found.append(Likelihood(likelihood, item.num_targets, is_greedy))
    return found


def _pad_right(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """`input_ids` and `attention_mask`, both (B, L), int64, padded after their ends."""
    ids = torch.full((len(rows), max(len(row) for row in rows)), pad_token_id)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    return ids, mask
