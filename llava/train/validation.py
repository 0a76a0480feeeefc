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
from llava.data.records import Record, StoredImage, images_of
from llava.eval.asked import question_of
from llava.eval.tasks import EmbeddedImage, Sample
from llava.eval.tasks.own_rows import MAX_ANSWER_TOKENS, earned_by, sample_of_row
from llava.inference import Inference
from llava.inference.first_logits import NotFiniteError
from llava.inference.question import GenerationOptions


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
    """How many first questions the model answers as the data do, by the rules of `llava eval --tasks my.json`.

    Args:
        inference: Around the model, with the template of the run.
        records: Some of those of `dataset`.
        dataset: What is held out; it finds the images.
        accelerator: Of the trainer; each process answers its share.
        batch_size: Questions of a process at a time.

    Returns:
        `accuracy`, of all of `records` (what cannot be asked counts as a wrong answer); `questions`.
    """
    own = range(accelerator.process_index, len(records), accelerator.num_processes)
    samples = [sample for number in own if (sample := _sample_of(records[number], number, dataset)) is not None]
    options = GenerationOptions(max_new_tokens=MAX_ANSWER_TOKENS)
    right = 0.0
    with suppress(NotFiniteError):  # of a run that diverges, and ends by its own rule; others wait in `reduce`
        questions = [question_of(sample) for sample in samples]
        for said in inference.ask(questions, batch_size=batch_size, options=options, skip_errors=True):
            right += earned_by(samples[said.index], said.text) if said.error is None else 0.0
    found = torch.tensor([right, float(len(own))], device=accelerator.device)
    right_in_all, count = accelerator.reduce(found, reduction="sum").tolist()
    return {"accuracy": right_in_all / max(count, 1), "questions": count}


def _sample_of(record: Record, number: int, dataset: LlavaDataset) -> Sample | None:
    """The first question of a record; None if it cannot be asked or has no answer."""
    images = [
        EmbeddedImage(image.read() or b"", image.name) if isinstance(image, StoredImage) else dataset.path_of(image)
        for image in images_of(record)
    ]
    try:
        return sample_of_row(record, number, images=images)
    except ValueError:  # it can be learned from all the same
        return None
