"""The registry of compressors: where each stands, what it needs, which options it has, which budgets it accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from llava.kinds import Registry
from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.budget_check import check_budget
from llava.model.multimodal_compressor.method_parts import (
    CheckFunction,
    ClipFunction,
    CompressFunction,
    GridFunction,
    Nested,
    OfOptions,
    WordsFunction,
)
from llava.model.multimodal_compressor.options import check_options_class, typed_options
from llava.model.multimodal_compressor.restore import own_share, restore
from llava.model.multimodal_compressor.types import PLACES, CompressedTokens, Place, TileShape, VisionFeatures

Need = Literal[
    "keys",
    "saliency",
    "digest",
    "cls_attention",
    "last_layer_qk",
    "projected",
    "image_index",
    "padding",
    "question_embeds",
    "clip_joint",
]
NEEDS: tuple[Need, ...] = get_args(Need)
CLS_NEEDS: frozenset[Need] = frozenset({"cls_attention", "last_layer_qk"})
TEXT_NEEDS: frozenset[Need] = frozenset({"question_embeds", "clip_joint"})
NeedsOfOptions: TypeAlias = Callable[[Any], Iterable[Need]]

_ROOM = "llava.model.multimodal_compressor"
_GREEDY = ("divprune", "scope", "mmtok", "cdpruner", "coverage")
_CHOSEN_AND_MERGED = ("fastervlm", "vispruner", "prumerge", "holov", "tome", "pooling", "downsample")
_ACROSS_FRAMES = ("changes", "fewer_frames")
COMPRESSORS: Registry[Compressor] = Registry(
    "compression method",
    builtin=tuple(
        f"{_ROOM}.{name}" for name in ("baselines", "visionzip", *_GREEDY, *_CHOSEN_AND_MERGED, *_ACROSS_FRAMES)
    ),
)


# ----- What a compressor is ----------------------------------------------------


@dataclass(frozen=True)
class Compressor:
    """A registered compressor.

    Attributes:
        name: What `CompressionConfig.method` calls it.
        function: Maps the features of B tiles and the budget of one, and its options if it has any, to
            `budget.num_tokens` tokens a tile.
        needs: The optional fields of `VisionFeatures` that it reads; a tower computes no others.
        keeps_cls: Whether the CLS token, where the tower has one, is among the kept tokens and counts as one.
        options: A frozen dataclass of its options; its `__post_init__` refuses what is out of range.
        own_check: Refuses budgets that the tower could fill and the method cannot.
        places: Where it can stand, the best place first.
        grid: At the place `pixels`, the (h, w) of the patches that the picture is shrunk to.
        words: With the need `question_embeds`: the parts of a question that are embedded, each by itself.
        source: The paper, and the commit of the public code that it was compared with.
        wants: Further fields that it reads where they can be had.
        needs_of: What it needs beside `needs`, by its options.
        chooses: Whether all that it keeps are patches as they are, or, by its options, whether that is so; only then
            `positions=restore` can merge the others.
        nested: Its order of selection; None without one.
        across: How it chooses among all frames of a video at once; None: in each frame by itself.
    """

    name: str
    function: CompressFunction
    needs: frozenset[Need]
    keeps_cls: bool
    options: type[Any] | None = None
    own_check: CheckFunction | None = None
    places: tuple[Place, ...] = ("tower",)
    grid: GridFunction | None = None
    words: WordsFunction | None = None
    source: str = ""
    wants: frozenset[Need] = frozenset()
    needs_of: NeedsOfOptions | None = None
    chooses: bool | OfOptions = False
    nested: Nested | None = None
    across: ClipFunction | None = None

    def needs_with(self, options: Any) -> frozenset[Need]:
        """All that it needs under these options, typed as `options_of` gives them."""
        return self.needs if self.needs_of is None else self.needs | frozenset(self.needs_of(options))

    def can_restore(self, options: Any) -> bool:
        """Whether it can have `positions=restore` under these options: see `chooses`."""
        return self.chooses if isinstance(self.chooses, bool) else self.chooses(options)

    def place(self, tile: TileShape) -> Place:
        """Where it stands in a model: at the model's usual place if it can, else at the first that both have.

        Raises:
            ValueError: There is none.
        """
        if tile.places[0] in self.places:
            return tile.places[0]
        common = [place for place in self.places if place in tile.places]
        if not common:
            raise ValueError(
                f"compression method {self.name!r} stands at {' or '.join(self.places)}, and the model offers "
                f"{', '.join(tile.places)}"
            )
        return common[0]

    def num_tokens(self, budget: CompressionConfig, tile: TileShape) -> int:
        """Rows of a tile after compression: the budget's, and a CLS token that is kept on top of it."""
        return self._filled(budget, tile).num_tokens

    def _filled(self, budget: CompressionConfig, tile: TileShape) -> CompressionConfig:
        """The budget with a CLS token that does not count."""
        on_top = self.keeps_cls and tile.with_cls(budget.keep_cls).keep_cls and not tile.cls_counts
        return replace(budget, dominant=budget.dominant + 1) if on_top else budget

    def check(self, budget: CompressionConfig, tile: TileShape) -> None:
        """Refuses a budget before any image is encoded.

        Raises:
            ValueError: The model has no place for the method or lacks what it needs; the budget does not fit the tower
                (with the allowed range); an option is unknown or out of range; or the method itself cannot have it.
        """
        place, tile = self.place(tile), tile.with_cls(budget.keep_cls)
        needs = self.needs_with(self.options_of(budget))
        if budget.keep_cls and not (self.keeps_cls and tile.saliency_has_cls):
            lacks = f"{self.name} keeps none" if tile.saliency_has_cls else "this tower has none"
            raise ValueError(f"compression {budget}: keep_cls=true asks for a CLS token, and {lacks}")
        if not tile.saliency_has_cls and not needs.isdisjoint(CLS_NEEDS):
            raise ValueError(
                f"compression {budget}: {self.name} reads the attention of a CLS token, and this tower has none"
            )
        num_cls = int(tile.keep_cls and self.keeps_cls and place == "tower")
        check_budget(self._filled(budget, tile), tile.num_patches, num_cls)
        if budget.tiles != "equal" and "image_index" in needs:
            raise ValueError(
                f"compression {budget}: {self.name} looks at all tiles of an image at once; use tiles=equal"
            )
        if budget.adaptive is not None or budget.tiles == "gain":
            self._check_nested(budget, needs)
        if budget.restores:
            self._check_restoring(budget, tile)
        elif self.own_check is not None:
            self.own_check(budget, tile)

    def _check_nested(self, budget: CompressionConfig, needs: frozenset[Need]) -> None:
        """Refuses numbers of tokens that come from the picture where the method cannot have them."""
        asked = "tiles=gain" if budget.adaptive is None else f"adaptive={budget.adaptive.rule}"
        if self.nested is None:
            able = ", ".join(each.name for each in COMPRESSORS if each.nested is not None)
            raise ValueError(
                f"compression {budget}: {asked} needs a method that has an order of selection, and {self.name} has "
                f"none; these have: {able}"
            )
        if not needs.isdisjoint(TEXT_NEEDS):
            raise ValueError(
                f"compression {budget}: {asked} goes by the picture, and {self.name} chooses by the question; say "
                "text=false if it has that option"
            )

    def _check_restoring(self, budget: CompressionConfig, tile: TileShape) -> None:
        """Refuses RESTORE's merging on top of a method that merges, or where there is no whole projected tile."""
        place = self.place(tile)
        if not self.can_restore(self.options_of(budget)):
            raise ValueError(
                f"compression {budget}: positions=restore merges what a method that only chooses leaves over, and "
                f"{self.name} keeps other things than patches; use divprune, holov, scope or the like, or options by "
                "which it chooses"
            )
        if place not in ("tower", "projected") or budget.tiles != "equal":
            reason = f"tiles={budget.tiles}" if budget.tiles != "equal" else f"the place {place!r}"
            raise ValueError(f"compression {budget}: positions=restore does not go with {reason}")
        own = own_share(budget)
        if self.own_check is not None:
            try:
                self.own_check(own, tile)
            except ValueError as error:
                raise ValueError(f"compression {budget}: half of the tokens are {self.name}'s own. {error}") from error

    def options_of(self, budget: CompressionConfig) -> Any:
        """The options that a budget sets, typed; None if the method has none.

        Raises:
            ValueError: An option is unknown, of another type, or out of range.
        """
        return typed_options(self.name, self.options, budget)

    def bind(self, budget: CompressionConfig, tile: TileShape | None = None) -> BoundCompressor:
        """The compressor with its budget and typed options; made outside of compiled graphs.

        Args:
            budget: Of one tile.
            tile: Of the model; None where no CLS token is kept on top of the budget, and the place is the method's
                own first.
        """
        if tile is None:
            return BoundCompressor(self, budget, self.options_of(budget), self.places[0], None)
        place, tile = self.place(tile), tile.with_cls(budget.keep_cls)
        grid = self.grid(budget, tile) if place == "pixels" and self.grid is not None else None
        return BoundCompressor(self, self._filled(budget, tile), self.options_of(budget), place, grid, tile.keep_cls)

    def __call__(self, features: VisionFeatures, budget: CompressionConfig) -> CompressedTokens:
        """Compresses B tiles; see `BoundCompressor`."""
        return self.bind(budget)(features)


@dataclass(frozen=True)
class BoundCompressor:
    """A compressor that knows what to keep.

    Attributes:
        compressor: The method.
        budget: Of one tile, with a CLS token that is kept on top of what was asked for.
        options: Typed; None if the method has none.
        place: Where it stands.
        grid: (h, w) of the patches that the picture is shrunk to; None elsewhere than at `pixels`.
        keep_cls: Whether it is given the CLS token, where the tower has one.
    """

    compressor: Compressor
    budget: CompressionConfig
    options: Any
    place: Place
    grid: tuple[int, int] | None
    keep_cls: bool = True

    @property
    def is_late(self) -> bool:
        """Whether it chooses among the projector's rows, or for one question: after what can be kept of an image."""
        texts = TEXT_NEEDS & (self.needs | self.compressor.wants)
        return self.place in ("projected", "pooled") or "projected" in self.needs or bool(texts)

    @property
    def needs(self) -> frozenset[Need]:
        """What the method must have of the features."""
        needs, adaptive = self.compressor.needs_with(self.options), self.budget.adaptive
        if adaptive is not None and adaptive.rule == "attention":
            needs |= {"saliency"}
        return needs | {"projected"} if self.budget.restores else needs

    @property
    def gives_projected(self) -> bool:
        """Whether what is kept are rows of the projector, which is then done with."""
        return self.place in ("projected", "pooled") or self.budget.restores

    @property
    def is_uneven(self) -> bool:
        """Whether the picture says how many tokens a tile keeps: tiles then go through `compress_adaptively`."""
        return self.budget.adaptive is not None or self.budget.tiles == "gain"

    def __call__(self, features: VisionFeatures) -> CompressedTokens:
        """Compresses B tiles to K = `budget.num_tokens` tokens each.

        Raises:
            RuntimeError: The function returned another number of tokens than its budget says.
        """
        if self.budget.restores:
            assert features.projected is not None
            chosen = self._compress(features, own_share(self.budget)).positions
            return restore(features.projected, chosen, self.budget.num_tokens)
        return self._compress(features, self.budget)

    def _compress(self, features: VisionFeatures, budget: CompressionConfig) -> CompressedTokens:
        """What the method itself makes of a budget."""
        function = self.compressor.function
        compressed = function(features, budget) if self.options is None else function(features, budget, self.options)
        if compressed.tokens.shape[1] != budget.num_tokens:
            raise RuntimeError(
                f"compressor {self.compressor.name!r} returned {compressed.tokens.shape[1]} tokens for the budget "
                f"{budget}, which is {budget.num_tokens}; placeholders are sized before the image is encoded, so K "
                "must follow from the budget alone"
            )
        return compressed


# ----- Registering and looking up ----------------------------------------------


def register_compressor(
    name: str,
    *,
    needs: Iterable[Need] = (),
    keeps_cls: bool = False,
    options: type[Any] | None = None,
    check: CheckFunction | None = None,
    places: Iterable[Place] = ("tower",),
    grid: GridFunction | None = None,
    words: WordsFunction | None = None,
    source: str = "",
    wants: Iterable[Need] = (),
    needs_of: NeedsOfOptions | None = None,
    chooses: bool | OfOptions = False,
    nested: Nested | None = None,
    across: ClipFunction | None = None,
) -> Callable[[CompressFunction], CompressFunction]:
    """Decorator that makes a function available as `compression="name:K"`.

    Args:
        name: Must be free.
        needs: Optional fields of `VisionFeatures` that the function reads.
        keeps_cls: Whether the tower's CLS token is one of the kept tokens.
        options: A frozen dataclass; the function then takes one as its third argument.
        check: Raises ValueError for a budget that the method cannot have; called when a model is loaded.
        places: Where the method can stand, the best place first; it stands at the model's usual place if that is
            among them.
        grid: Must be given for the place `pixels`: the rows and columns of patches to shrink the picture to.
        words: What of a question is embedded, each by itself; by default the whole question as one text.
        source: The paper, and the public code that it was compared with, for lists.
        wants: Fields that the function reads where they can be had: `clip_joint` without a CLIP text tower is None.
        needs_of: What the function needs beside `needs` under some options.
        chooses: Whether all that it keeps are patches as they are, named by `positions`, or a function that says so of
            typed options; then the method can have `positions=restore`.
        nested: The order in which the method chooses, for `adaptive=` and `tiles=gain`.
        across: Chooses among all frames of a video, which share its total; images go to the function itself.

    Raises:
        ValueError: The name is taken, a need or a place is unknown, `grid` and `pixels` do not go together, or
            `options` is no dataclass or has a key that all share.
    """
    check_options_class(name, options)
    wanted, also, stands = frozenset(needs), frozenset(wants), tuple(places)
    unknown = (wanted | also) - set(NEEDS)
    if unknown:
        raise ValueError(f"compressor {name!r} needs {', '.join(sorted(unknown))}; there are {', '.join(NEEDS)}")
    if not stands or not set(stands) <= set(PLACES):
        raise ValueError(f"compressor {name!r}: places={stands!r} must be some of {', '.join(PLACES)}")
    if ("pixels" in stands) != (grid is not None):
        raise ValueError(f"compressor {name!r}: grid belongs to the place 'pixels', and places={stands!r}")

    def register(function: CompressFunction) -> CompressFunction:
        how = (options, check, stands, grid, words, source, also, needs_of, chooses, nested, across)
        entry = Compressor(name, function, wanted, keeps_cls, *how)
        COMPRESSORS.register(name, entry, depth=2)
        return function

    return register


def get_compressor(name: str) -> Compressor:
    """The compressor of that name.

    Raises:
        ValueError: There is none; the message lists those there are.
    """
    return COMPRESSORS.get(name)


def compressor_of(budget: CompressionConfig) -> Compressor:
    """The compressor that a budget asks for.

    Raises:
        ValueError: It is not registered; the message names the plug-in that it came from, where that is known.
    """
    found = COMPRESSORS.find(budget.method)
    if found is None and budget.plugin:
        raise ValueError(
            f"unknown compression method {budget.method!r}: it comes from the plug-in {budget.plugin}; give it with "
            "--plugin, or in LLAVA_PLUGINS"
        )
    return COMPRESSORS.get(budget.method) if found is None else found


def available_compressors() -> list[str]:
    """Names of all registered compressors."""
    return COMPRESSORS.names()
