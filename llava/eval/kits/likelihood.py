"""How likely a model finds given answers: exact, in batches, an image that several answers share encoded once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX
from llava.conversation import conversation_template
from llava.images.store import ImageStore, image_keys
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
        length: Tokens for the language model.
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
    config = inference.model.config
    sources = {
        key: source
        for question, _ in answers
        for key, source in zip(image_keys(question.images, config), question.images, strict=True)
    }
    beside = {key for question, _ in answers if len(question.images) > 1 for key in image_keys(question.images, config)}
    waiting = [_prepare(inference, store, number, *answer) for number, answer in enumerate(answers)]
    waiting.sort(key=lambda item: (item.length, item.index))
    size = BatchSize(inference.model, batch_size)
    while waiting:
        batch = waiting[: size.for_next([item.length for item in waiting], 0)]
        found: list[Likelihood] = []
        try:
            missing = [key for item in batch for key in item.keys if key not in store.features]
            for key in dict.fromkeys(missing):
                store.features[key] = inference.see([store.open(key, sources[key])], beside_others=key in beside)[0]
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
    keys = image_keys(question.images, model.config)
    sizes = [store.size(*each) for each in zip(keys, question.images, strict=True)]
    length, _ = count_tokens(whole, model.num_visual_tokens(sizes, of_one_prompt=True) if sizes else [])
    limit = longest_prompt(model.config)
    if limit is not None and length > limit:
        raise ValueError(f"{question.text[:80]!r} and its answer take {length} tokens, the model reads {limit}")
    return _Scored(number, whole, len(whole) - shared, keys, question.text, length)


@torch.inference_mode()
def _batch(inference: Inference, batch: Sequence[_Scored], store: ImageStore) -> list[Likelihood]:
    """Likelihoods of some answers, from the logits that these alone get."""
    model = inference.model
    ids, mask = _pad_right([item.ids for item in batch], inference.pad_token_id)
    labels = torch.full_like(ids, IGNORE_INDEX)
    for row, item in enumerate(batch):
        answer = slice(len(item.ids) - item.num_targets, len(item.ids))
        labels[row, answer] = ids[row, answer]
    seen = [(item.text, [store.features[key] for key in item.keys]) for item in batch]
    features = [each for text, images in seen for each in inference.features_for(images, text)]
    images = {"image_features": features} if features else {}
    given = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    output = model(**{name: each.to(model.device) for name, each in given.items()}, target_logits=True, **images)
    found = []
    for item, logits in zip(batch, output.logits.split([item.num_targets for item in batch]), strict=True):
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
