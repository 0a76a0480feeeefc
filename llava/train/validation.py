"""What a model in training does on data that it does not learn from: its loss, and whether it answers right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from llava.data.collator import Collator
from llava.data.dataset import LlavaDataset, TrainingSample
from llava.data.records import Record, StoredImage, images_of, turns_of
from llava.inference import Inference
from llava.inference.first_logits import NotFiniteError
from llava.inference.question import GenerationOptions, Question

MAX_ANSWER_TOKENS = 64


def validation_loss(
    dataset: LlavaDataset,
    collator: Collator,
    loss_sum: Callable[[dict[str, Any]], Tensor],
    accelerator: Any,
    batch_size: int,
) -> dict[str, float]:
    """The mean loss over all target tokens of a data set, each process taking its share.

    Args:
        dataset: What is held out.
        collator: As in training.
        loss_sum: Batch -> summed loss of its targets, ().
        accelerator: Of the trainer.
        batch_size: Samples of a process at a time.

    Returns:
        `loss`, not a number without any target; `samples`, those that count; `skipped_samples`.
    """
    world, rank = accelerator.num_processes, accelerator.process_index
    totals = torch.zeros(4, dtype=torch.float64)  # loss, targets, samples, skipped
    batches = range(0, len(dataset), batch_size * world)  # alike on all processes: under ZeRO-3 they run in step
    for start in tqdm(batches, desc="validation", disable=rank != 0, leave=False):
        own = range(start + rank, min(start + batch_size * world, len(dataset)), world)
        samples = [dataset[index] for index in own]
        kept = [sample for sample in samples if isinstance(sample, TrainingSample)]
        batch = collator(samples)
        batch.pop("skipped")
        loss = loss_sum(batch)  # also of a batch that came out empty: its one row has no target and adds zero
        targets = sum(int((sample.labels[1:] >= 0).sum()) for sample in kept)
        totals += torch.tensor([float(loss), targets, len(kept), len(samples) - len(kept)], dtype=torch.float64)
    device_totals = totals.float() if accelerator.device.type == "mps" else totals
    loss, targets, count, skipped = accelerator.reduce(device_totals.to(accelerator.device), reduction="sum").tolist()
    return {"loss": loss / targets if targets else math.nan, "samples": count, "skipped_samples": skipped}


def answer_accuracy(
    inference: Inference,
    records: Sequence[Record],
    dataset: LlavaDataset,
    accelerator: Any,
    batch_size: int,
) -> dict[str, float]:
    """How many first questions the model answers as the data do, letter case and a final point aside.

    Args:
        inference: Around the model, with the template of the run.
        records: Some of those of `dataset`.
        dataset: What is held out; it finds the images.
        accelerator: Of the trainer; each process answers its share.
        batch_size: Questions of a process at a time.

    Returns:
        `accuracy`, of all of `records` (an image that cannot be read counts as a wrong answer); `questions`.
    """
    own = records[accelerator.process_index :: accelerator.num_processes]
    questions, expected = [], []
    for record in own:
        question, answer = turns_of(record)[:2]
        images = [
            image.read() or b"" if isinstance(image, StoredImage) else str(dataset.path_of(image))
            for image in images_of(record)
        ]
        questions.append(Question(question.text, tuple(images)))
        expected.append(answer.text)
    options = GenerationOptions(max_new_tokens=MAX_ANSWER_TOKENS)
    right = 0
    with suppress(NotFiniteError):  # of a run that diverges, and ends by its own rule; others wait in `reduce`
        for said in inference.ask(questions, batch_size=batch_size, options=options, skip_errors=True):
            right += said.error is None and _normalised(said.text) == _normalised(expected[said.index])
    found = torch.tensor([float(right), float(len(own))], device=accelerator.device)
    right_in_all, count = accelerator.reduce(found, reduction="sum").tolist()
    return {"accuracy": right_in_all / max(count, 1), "questions": count}


def _normalised(text: str) -> str:
    return text.strip().removesuffix(".").strip().casefold()
