"""The registry of compressors: what each needs from the tower, and which budgets it accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.types import CompressedTokens, VisionFeatures

Need = Literal["keys", "saliency", "digest"]
CompressFunction: TypeAlias = Callable[[VisionFeatures, CompressionConfig], CompressedTokens]


@dataclass(frozen=True)
class Compressor:
    """A registered compressor.

    Attributes:
        name: What `CompressionConfig.method` calls it.
        function: Maps the features of B tiles and the budget of one to `budget.num_tokens` tokens a tile.
        needs: The optional fields of `VisionFeatures` that it reads; a tower computes no others.
        keeps_cls: Whether the CLS token, where the tower has one, is among the kept tokens and counts as one.
    """

    name: str
    function: CompressFunction
    needs: frozenset[Need]
    keeps_cls: bool

    def check(self, budget: CompressionConfig, num_patches: int, has_cls: bool) -> None:
        """Raises ValueError with the allowed range if the budget does not fit the tower."""
        check_budget(budget, num_patches, int(has_cls and self.keeps_cls))

    def __call__(self, features: VisionFeatures, budget: CompressionConfig) -> CompressedTokens:
        """Compresses B tiles to K = `budget.num_tokens` tokens each.

        Raises:
            RuntimeError: The function returned another number of tokens than its budget says.
        """
        compressed = self.function(features, budget)
        if compressed.tokens.shape[1] != budget.num_tokens:
            raise RuntimeError(
                f"compressor {self.name!r} returned {compressed.tokens.shape[1]} tokens for the budget {budget}, "
                f"which is {budget.num_tokens}; placeholders are sized before the image is encoded, so K must follow "
                "from the budget alone"
            )
        return compressed


_COMPRESSORS: dict[str, Compressor] = {}


def register_compressor(
    name: str, *, needs: Iterable[Need] = (), keeps_cls: bool = False
) -> Callable[[CompressFunction], CompressFunction]:
    """Decorator that makes a function available as `compression="name:K"`.

    Args:
        name: Must be free.
        needs: Optional fields of `VisionFeatures` that the function reads: `keys`, `saliency`, `digest`.
        keeps_cls: Whether the tower's CLS token is one of the kept tokens.

    Raises:
        ValueError: The name is taken, or a need is unknown.
    """
    wanted = frozenset(needs)
    unknown = wanted - {"keys", "saliency", "digest"}
    if unknown:
        raise ValueError(f"compressor {name!r} needs {', '.join(sorted(unknown))}; towers give keys, saliency, digest")

    def register(function: CompressFunction) -> CompressFunction:
        if name in _COMPRESSORS:
            raise ValueError(f"a compressor named {name!r} is registered already")
        _COMPRESSORS[name] = Compressor(name, function, wanted, keeps_cls)
        return function

    return register


def get_compressor(name: str) -> Compressor:
    """The compressor of that name.

    Raises:
        ValueError: There is none; the message lists those there are.
    """
    try:
        return _COMPRESSORS[name]
    except KeyError:
        raise ValueError(
            f"unknown compression method {name!r}; registered: {', '.join(available_compressors())}. A compressor from "
            "outside this package must be imported before the model is loaded"
        ) from None


def available_compressors() -> list[str]:
    """Names of all registered compressors."""
    return sorted(_COMPRESSORS)


def check_budget(budget: CompressionConfig, num_patches: int, num_cls: int) -> None:
    """Refuses a budget that a tile cannot fill.

    Args:
        budget: Of one tile.
        num_patches: P.
        num_cls: 1 if a CLS token is kept and counts as dominant, else 0.

    Raises:
        ValueError: With the allowed range, and for LLaVA-NeXT's totals the budget that was probably meant.
    """
    most = num_patches + num_cls
    cls_note = " (one of them the CLS token)" if num_cls else ""
    hint = (
        ". A budget holds for each tile: the totals of an image with five tiles (640 / 320 / 160) are "
        "CompressionConfig.from_total(640, tiles=5) and so on"
    )
    if budget.dominant > most:
        raise ValueError(
            f"compression {budget}: dominant={budget.dominant} is outside 1..{most}: "
            f"the tower gives {most} tokens a tile{cls_note}{hint}"
        )
    if budget.num_tokens > most:
        raise ValueError(
            f"compression {budget}: contextual={budget.contextual} is outside 0..{most - budget.dominant}: dominant="
            f"{budget.dominant} leaves {most - budget.dominant} of the tower's {most} tokens a tile to merge{hint}"
        )
