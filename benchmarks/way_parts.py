"""Methods beside their public ways: matrix, loop and total, all in turn in one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from harness import Measurement, measure
from public_ways import OUR_WAYS as OUR_GREEDY_WAYS
from public_ways import PUBLIC_WAYS as PUBLIC_GREEDY_WAYS
from public_ways import Way
from public_ways_chosen import OUR_WAYS as OUR_OTHER_WAYS
from public_ways_chosen import PUBLIC_WAYS as PUBLIC_OTHER_WAYS
from torch import Tensor

from llava.model.multimodal_compressor import BoundCompressor, VisionFeatures
from llava.model.multimodal_compressor.types import gather_rows

OUR_WAYS = OUR_GREEDY_WAYS | OUR_OTHER_WAYS
PUBLIC_WAYS = PUBLIC_GREEDY_WAYS | PUBLIC_OTHER_WAYS


@dataclass(frozen=True)
class Parts:
    """A method and its public code's way, measured in turn.

    Attributes:
        ours: Matrix, loop, and the whole method at the seam.
        public: Matrix, loop, and both with the rows picked.
    """

    ours: tuple[Measurement, Measurement, Measurement]
    public: tuple[Measurement, Measurement, Measurement]

    def times_as_fast(self, part: int) -> float:
        """The public way's time over ours, median of the rounds; 0: matrix, 1: loop, 2: total."""
        return self.ours[part].times_as_fast_as(self.public[part]).median


def compare_parts(
    features: VisionFeatures, bound: BoundCompressor, device: torch.device, *, warmup: int, repeats: int
) -> Parts | None:
    """Measures a method and its public way; None where there is no such way."""
    name, kept = bound.compressor.name, bound.budget.num_tokens
    if name not in PUBLIC_WAYS:
        return None
    ours, public = OUR_WAYS[name], PUBLIC_WAYS[name]
    our_matrix, public_matrix = ours.matrix(features), public.matrix(features)
    sides: dict[str, Callable[[], object]] = {
        "our matrix": lambda: ours.matrix(features),
        "public matrix": lambda: public.matrix(features),
        "our loop": lambda: ours.loop(our_matrix, kept),
        "public loop": lambda: public.loop(public_matrix, kept),
        "our total": lambda: bound(features).tokens,
        "public total": lambda: _tokens(public, features, kept),
    }
    found = measure(sides, device, warmup=warmup, repeats=repeats, memory=False)
    ours_found = (found["our matrix"], found["our loop"], found["our total"])
    return Parts(ours_found, (found["public matrix"], found["public loop"], found["public total"]))


def _tokens(way: Way, features: VisionFeatures, kept: int) -> Tensor:
    """(B, K, C): what a way gives, its rows picked if it names patches."""
    found = way(features, kept)
    return found if found.is_floating_point() else gather_rows(features.patches, found.sort(dim=1).values)
