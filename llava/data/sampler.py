"""Batches of similar length and one modality, in LLaVA's order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Generator
from torch.utils.data import Sampler


class LengthGroupedSampler(Sampler[int]):
    """Shuffles, then sorts within megabatches, so that the ranks of a step get similar lengths.

    With `by_modality`, image and text-only samples do not share a megabatch (but for the last of each).
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, num_batches: int, *, by_modality: bool, seed: int = 0
    ) -> None:
        """Keeps the lengths.

        Args:
            lengths: Of every sample; with `by_modality`, negative for text-only ones.
            batch_size: Of one process and one accumulation step.
            num_batches: Batches in an optimizer step: processes times accumulation steps.
            by_modality: Keep the modalities apart.
            seed: Of the shuffle; the epoch is added to it.

        Raises:
            ValueError: A sample has no length.
        """
        if any(length == 0 for length in lengths):
            raise ValueError("a sample without words cannot be grouped by length; remove it, or do not group")
        self.lengths = list(lengths)
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.by_modality = by_modality
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch's order; called by the trainer, also when it resumes."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if self.by_modality:
            return iter(modality_grouped_indices(self.lengths, self.batch_size, self.num_batches, generator))
        lengths = [abs(length) for length in self.lengths]
        return iter(length_grouped_indices(lengths, self.batch_size, self.num_batches, generator))


def length_grouped_indices(
    lengths: Sequence[int], batch_size: int, num_batches: int, generator: Generator | None = None
) -> list[int]:
    """A random order in which every `batch_size * num_batches` indices are dealt into batches of similar total length.

    Args:
        lengths: All of one sign.
        batch_size: Indices in a batch.
        num_batches: Batches in a megabatch.
        generator: Of the shuffle; torch's own if not given.
    """
    order = torch.randperm(len(lengths), generator=generator).tolist()
    grouped: list[int] = []
    for megabatch in _chunks(order, batch_size * num_batches):
        megabatch.sort(key=lambda index: lengths[index], reverse=True)
        for batch in _deal(megabatch, lengths, num_batches):
            grouped.extend(batch)
    return grouped


def modality_grouped_indices(
    lengths: Sequence[int], batch_size: int, num_batches: int, generator: Generator | None = None
) -> list[int]:
    """As `length_grouped_indices`, each modality by itself and their megabatches shuffled.

    Args:
        lengths: Negative for text-only samples.
        batch_size: Indices in a batch.
        num_batches: Batches in a megabatch.
        generator: Of the shuffles; torch's own if not given.
    """
    with_image = [index for index, length in enumerate(lengths) if length > 0]
    text_only = [index for index, length in enumerate(lengths) if length < 0]
    if not with_image or not text_only:
        return length_grouped_indices([abs(length) for length in lengths], batch_size, num_batches, generator)
    megabatches: list[list[int]] = []
    rest: list[int] = []
    for indices in (with_image, text_only):
        own = length_grouped_indices([abs(lengths[i]) for i in indices], batch_size, num_batches, generator)
        chunks = _chunks([indices[i] for i in own], batch_size * num_batches)
        megabatches += chunks[:-1]
        rest += chunks[-1]
    order = torch.randperm(len(megabatches), generator=generator).tolist()
    return [index for number in order for index in megabatches[number]] + sorted(rest)


def _chunks(items: list[int], size: int) -> list[list[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _deal(indices: list[int], lengths: Sequence[int], num_batches: int) -> list[list[int]]:
    """Deals indices, longest first, each to the shortest batch that has room; an odd number in turn."""
    if len(indices) % num_batches:
        return [indices[start::num_batches] for start in range(num_batches)]
    room = len(indices) // num_batches
    batches: list[list[int]] = [[] for _ in range(num_batches)]
    totals = [0] * num_batches
    for index in indices:
        open_batches = [number for number in range(num_batches) if len(batches[number]) < room]
        shortest = min(open_batches, key=lambda number: totals[number])
        batches[shortest].append(index)
        totals[shortest] += lengths[index]
    return batches
