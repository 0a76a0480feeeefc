"""Several processes on one evaluation: who answers what, and how they wait for each other.

`torchrun` and `accelerate launch` start processes that know of each other (`Together`). LLaVA's `--num-chunks` and
`--chunk-idx` are processes that do not (`Chunk`): each writes its shard, and whoever finds that all is answered merges.
"""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from llava.eval.tasks import Sample
from llava.images.source import source_key

_LONGEST_WAIT = timedelta(days=7)  # a process may be done long before another


@dataclass(frozen=True)
class Workers:
    """One process alone.

    Attributes:
        rank: Which process this is.
        count: How many there are.
        waits: Whether the others are waited for, so that a task ends for all at the same time.
        must_score: Whether ending without a score is a failure.
    """

    waits: ClassVar[bool] = True
    must_score: ClassVar[bool] = True
    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process merges, scores and writes results."""
        return self.rank == 0

    def share(self, samples: Sequence[Sample], known: Container[str]) -> list[Sample]:
        """What this process is to ask: its part of the samples that have no answer yet."""
        return split([sample for sample in samples if sample.sample_id not in known], self.count)[self.rank]

    def gather(self, value: Any) -> list[Any]:
        """What every process says; returns once all have."""
        return [value]


class Together(Workers):
    """Processes of a group, on any number of machines that share the disk of the output."""

    def gather(self, value: Any) -> list[Any]:
        """What every process says, by rank; returns once all have."""
        import torch.distributed

        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values


class Chunk(Workers):
    """One of several processes that do not know of each other."""

    waits = False
    must_score = False

    @property
    def is_first(self) -> bool:
        """Each may be the one that merges."""
        return True

    def share(self, samples: Sequence[Sample], known: Container[str]) -> list[Sample]:
        """Its part of all samples, whatever the others have done, less what is answered."""
        return [sample for sample in split(samples, self.count)[self.rank] if sample.sample_id not in known]


class Merge(Chunk):
    """Asks nothing: for chunks that have been answered."""

    must_score = True

    def share(self, samples: Sequence[Sample], known: Container[str]) -> list[Sample]:
        """Nothing."""
        return []


def split(samples: Sequence[Sample], count: int) -> list[list[Sample]]:
    """Parts of about the same size; questions about one image or clip stay together, as it is encoded once.

    Args:
        samples: The samples.
        count: How many parts; some are empty if there are fewer images and clips.

    Returns:
        The parts, each in the order of the samples; the same for every process.
    """
    if count == 1:
        return [list(samples)]
    groups: dict[str, list[int]] = {}
    for number, sample in enumerate(samples):
        bare = f"text:{number}" if sample.video is None else str(sample.video)
        key = source_key(sample.images[0]) if sample.images else bare
        groups.setdefault(key, []).append(number)
    parts: list[list[int]] = [[] for _ in range(count)]
    for group in groups.values():
        min(parts, key=len).extend(group)
    return [[samples[number] for number in sorted(part)] for part in parts]


def join_group() -> Workers:
    """The group that torchrun or accelerate has started this process in; alone if there is none."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Workers()
    import torch.distributed

    torch.distributed.init_process_group("gloo", timeout=_LONGEST_WAIT)
    return Together(torch.distributed.get_rank(), count)


def leave_group() -> None:
    """Ends this process's part in a group, if it is in one."""
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
