"""The grid of a comparison: which budgets are run, and which pairs the methods themselves refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava.eval.compare.methods import VISIONZIP, Method, baselines, lacks_clip, name_without_budget, seeds_of
from llava.json_text import parse_json
from llava.model.configuration import CompressionConfig
from llava.model.image_rules import ImageRules
from llava.model.multimodal_compressor import compressor_of
from llava.model.stages import before_language_model, inside_language_model, pruner_of
from llava.plain_files import read_utf8

NEXT_TILES = 5
"""Tiles over which papers count LLaVA-NeXT's tokens: a base tile and a 2 x 2 grid."""


@dataclass(frozen=True)
class Refused:
    """A pair that is left out.

    Attributes:
        method: Its name and options.
        tokens: Of a tile.
        reason: What the method says.
    """

    method: str
    tokens: int
    reason: str


@dataclass
class Grid:
    """What is to be compared.

    Attributes:
        budgets: Tokens a tile, in the order of the flag.
        tokens: Tokens a tile of the grid, by the budget in its short form; seeds of one method beside each other. Of
            an adaptive budget it is the mean that it was calibrated for.
        configs: What is run, all tokens first.
        refused: Pairs that are left out.
    """

    budgets: tuple[int, ...]
    tokens: dict[str, int] = field(default_factory=dict)
    configs: list[CompressionConfig | None] = field(default_factory=lambda: [None])
    refused: list[Refused] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The grid for people: a line a budget, then what is left out."""
        shown = [f"  {budget or 'none'}" for budget in self.configs]
        left = [f"  {pair.method} at {pair.tokens}: {pair.reason}" for pair in self.refused]
        return [f"{len(shown)} budgets of each task:", *shown, *(["left out:", *left] if left else [])]


def make_grid(
    methods: Sequence[Method],
    budgets: Sequence[int],
    config: Any,
    *,
    seeds: int,
    has_clip: bool = False,
    compiled: bool = False,
    alone: bool = False,
) -> Grid:
    """Puts every method at every budget, the baselines and VisionZip among them, and asks each whether it can.

    Args:
        methods: Beside the baselines.
        budgets: Tokens a tile.
        config: Of the model.
        seeds: Of the random baseline.
        has_clip: Whether a CLIP is at hand that reads questions.
        compiled: Whether `--compile` is given.
        alone: Nothing but the methods, neither VisionZip nor the baselines where they are not named.

    Raises:
        ValueError: An option of a method is malformed.
    """
    rules = ImageRules.from_config(config)
    tiles = NEXT_TILES if rules.is_tiled else rules.layout.own_tiles
    every = list(dict.fromkeys(methods if alone else [Method(VISIONZIP), *baselines(), *methods]))
    grid = Grid(tuple(budgets))
    for tokens in budgets:
        for method in (drawn for each in every for drawn in seeds_of(each, seeds)):
            budget = method.with_budget(tokens, tiles)
            _check_options(budget)
            reason = _refusal(budget, rules, config.text_config, has_clip)
            if reason is None and compiled and method.is_inside:
                reason = "--compile does not go with a method inside the language model"
            if reason is None and compiled and budget.restores:
                reason = "--compile does not go with positions=restore"
            if reason is None and str(budget) not in grid.tokens:
                grid.tokens[str(budget)] = tokens
                grid.configs.append(budget)
            elif reason is not None:
                name, said = name_without_budget(budget), _without_names(reason, budget)
                grid.refused.append(Refused(name, tokens, said))
    grid.refused = list({(pair.method, pair.tokens): pair for pair in grid.refused}.values())  # seeds alike
    return grid


def add_calibrated(grid: Grid, files: Sequence[Path], config: Any) -> None:
    """Puts adaptive budgets where fixed ones of the same mean stand.

    Args:
        grid: Changed in place.
        files: Of `llava calibrate --output`.
        config: Of the model.

    Raises:
        ValueError: A file holds no such budget, its mean is none of the grid's, the model cannot have it, or it would
            stand where another one stands.
        OSError: A file cannot be read.
    """
    for file in files:
        content = parse_json(read_utf8(file))
        entries = content if isinstance(content, dict) else {}
        wanted, text = entries.get("wanted_mean"), entries.get("compression")
        budget = CompressionConfig.parse(text) if isinstance(text, str) else None
        if budget is None or budget.adaptive is None or isinstance(wanted, bool) or not isinstance(wanted, int):
            raise ValueError(f"--calibrated {file}: it is not what `llava calibrate --output` writes")
        if wanted not in grid.budgets:
            shown = ",".join(map(str, grid.budgets))
            raise ValueError(f"--calibrated {file}: its mean of {wanted} tokens a tile is none of the budgets {shown}")
        ImageRules.from_config(config).check(budget, config.text_config)
        if str(budget) in grid.tokens:
            continue
        name = name_without_budget(budget)
        taken = [each for each in grid.configs if each is not None and name_without_budget(each) == name]
        for other in (each for each in taken if grid.tokens[str(each)] == wanted):
            raise ValueError(
                f"--calibrated {file}: {budget} and {other} are both {name} at a mean of {wanted}; compare them apart"
            )
        grid.tokens[str(budget)] = wanted
        grid.configs.append(budget)


def budgets_of(budgets: str | None, total: str | None, config: Any) -> list[int]:
    """Tokens a tile, as `--budgets` or `--total` gives them.

    Args:
        budgets: Numbers separated by commas, each of a tile.
        total: The same of an image of five tiles.
        config: Of the model.

    Raises:
        ValueError: A number is none, not positive, or no multiple of five tiles; or the model has no tiles.
    """
    flag, text = ("--budgets", budgets) if budgets is not None else ("--total", total or "")
    try:
        given = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"{flag} {text!r}: give whole numbers separated by commas, as in 192,128,64") from None
    if not given or min(given) < 1:
        raise ValueError(f"{flag} {text!r}: give numbers of tokens, 1 or more each")
    if flag == "--total":
        if not ImageRules.from_config(config).is_tiled:
            raise ValueError("--total counts the tokens of an image of five tiles, and this model has one; --budgets")
        given = [CompressionConfig.from_total(number, tiles=NEXT_TILES).num_tokens for number in given]
    return list(dict.fromkeys(given))


def _check_options(budget: CompressionConfig) -> None:
    """Refuses options that no budget could have, so that a misspelt one does not leave its method out in silence.

    Raises:
        ValueError: An option is unknown, of another type, or out of range.
    """
    before, inside = before_language_model(budget), inside_language_model(budget)
    if before is not None:
        compressor_of(before).options_of(before)
    if inside is not None:
        pruner_of(inside).options_of(inside)


def _without_names(reason: str, budget: CompressionConfig) -> str:
    """What a method says, without the budget, or the part of it, that it is about."""
    for part in (budget, before_language_model(budget), inside_language_model(budget)):
        reason = reason.removeprefix(f"compression {part}: ")
    return reason


def _refusal(budget: CompressionConfig, rules: ImageRules, text_config: Any, has_clip: bool) -> str | None:
    """Why a pair cannot be; None if it can."""
    try:
        rules.check(budget, text_config)
    except ValueError as error:
        return str(error)
    if lacks_clip(budget) and not has_clip:
        return "it reads the question by CLIP's text tower: give --clip-text"
    return None
