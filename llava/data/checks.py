"""Every entry of a data file held against what training will do with it, by training's own code."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset

from llava.constants import IGNORE_INDEX
from llava.data.dataset import LlavaDataset, SampleError, Skipped
from llava.data.records import Problem, problem_of
from llava.data.templates import PromptTemplate

ImageSize = tuple[int, int]
_CHUNK = 64


@dataclass(frozen=True)
class Checked:
    """What was found of an entry.

    Attributes:
        index: Which one.
        problem: What keeps it from being trained on; the first, if there are several.
        num_tokens: Visual tokens included, before it is cut; None if that is not known.
        num_targets: Tokens that are learned, after it is cut.
        sizes: (w, h) of its images.
    """

    index: int
    problem: Problem | None
    num_tokens: int | None = None
    num_targets: int = 0
    sizes: tuple[ImageSize, ...] = ()


class Checks(Dataset[Checked]):
    """The check of one entry at a time."""

    def __init__(self, dataset: LlavaDataset, entries: Sequence[Any], template: PromptTemplate) -> None:
        """Keeps what is needed.

        Args:
            dataset: Of the same entries; without a tokenizer (None) only form and images are checked.
            entries: As read, valid or not.
            template: What the conversations must fit.
        """
        self.dataset = dataset
        self.entries = entries
        self.template = template

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Checked:
        record = self.entries[index]
        problem = problem_of(record, self.template, self.dataset.image_folder or "")
        if problem is not None:
            return Checked(index, problem)
        try:
            if self.dataset.tokenizer is None:
                found = self.dataset.load_images(record)
                if isinstance(found, Skipped):
                    return Checked(index, Problem(found.reason, found.message))
                return Checked(index, None, sizes=tuple(image.size for image in found))
            example = self.dataset.example(index)
        except SampleError as error:
            return Checked(index, Problem(error.kind, str(error)))
        if isinstance(example, Skipped):
            return Checked(index, Problem(example.reason, example.message))
        num_targets = sum(label != IGNORE_INDEX for label in example.labels)
        sizes = tuple(image.size for image in example.images)
        return Checked(index, None, example.num_tokens, num_targets, sizes)


def check_all(checks: Checks, num_workers: int) -> Iterator[Checked]:
    """Checks every entry, in order.

    Args:
        checks: What to check.
        num_workers: Processes; 0 for this one alone, as on systems that cannot fork.
    """
    can_fork = "fork" in multiprocessing.get_all_start_methods()
    workers = num_workers if can_fork else 0  # the entries are shared, not sent
    loader = DataLoader(
        checks,  # type: ignore[arg-type]
        batch_size=_CHUNK,
        num_workers=workers,
        collate_fn=list,
        multiprocessing_context="fork" if workers else None,
    )
    for chunk in loader:
        yield from chunk
