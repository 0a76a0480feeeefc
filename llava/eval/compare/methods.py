"""Methods as `--methods` names them: with options, without a budget; and what a table must say of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llava.model.configuration import CompressionConfig
from llava.model.language_pruning import PRUNERS
from llava.model.multimodal_compressor import COMPRESSORS
from llava.model.multimodal_compressor.registry import TEXT_NEEDS
from llava.model.stages import before_language_model, inside_language_model

VISIONZIP = CompressionConfig.method
"""The method that all others are compared with at the same budget."""

DRAWN = "random"
"""The baseline that is run with several seeds."""

_BASELINES = (DRAWN, "uniform", "pool", "downsample")
_OPTION = re.compile(r"\s*[A-Za-z_][\w.-]*=")
_BUDGET = re.compile(r":[^,|]*")
_OF_A_BUDGET = re.compile(r",(?:seed=\d+|(?:threshold|floor)=[^,|]*)")


@dataclass(frozen=True)
class Method:
    """A method and its options, to be given a budget.

    Attributes:
        name: Of the method; of two stages, that of the last, which gets the budget.
        options: `alpha=1.5,rule=distinct`, or "".
        before: A first stage with a budget of its own, `visionzip:108+20`, or "".
    """

    name: str
    options: str = ""
    before: str = ""

    @classmethod
    def parse(cls, text: str) -> Method:
        """Reads `scope,alpha=1.5` or `visionzip:108+20|METHOD`.

        Raises:
            ValueError: The method is unknown, or it has a budget, which `--budgets` gives.
        """
        before, _, last = text.strip().rpartition("|")
        name, _, options = last.strip().partition(",")
        if ":" in name:
            raise ValueError(f"--methods: {text!r} has a budget; leave it out, --budgets gives it to every method")
        if before:
            CompressionConfig.parse(before)
        if before or COMPRESSORS.find(name) is None:
            if PRUNERS.find(name) is None and not before:
                raise ValueError(f"--methods: there is no {name!r}; there are: {', '.join(all_methods())}")
            PRUNERS.get(name)  # refuses an unknown one
        return cls(name, options, before)

    @property
    def is_inside(self) -> bool:
        """Whether its budget is what layers of the language model read, of all tiles together."""
        return bool(self.before) or COMPRESSORS.find(self.name) is None

    def with_budget(self, tokens: int, tiles: int = 1) -> CompressionConfig:
        """The method at a budget; VisionZip's is split into dominant and contextual as in its paper.

        Args:
            tokens: That a tile is left with.
            tiles: Of an image, which a method inside the language model has all at once.

        Raises:
            ValueError: An option is malformed.
        """
        tokens *= tiles if self.is_inside else 1
        split = CompressionConfig.from_total(tokens, method=self.name)
        amount = f"{split.dominant}+{split.contextual}" if self.name == VISIONZIP and split.contextual else tokens
        text = f"{self.name}:{amount}{',' if self.options else ''}{self.options}"
        found = CompressionConfig.parse(f"{self.before}|{text}" if self.before else text)
        assert found is not None
        return found


def parse_methods(text: str) -> list[Method]:
    """Reads `--methods`: names separated by commas, each followed by its options, or `all`.

    Raises:
        ValueError: There is no name, an option stands before any, or a name is unknown.
    """
    entries: list[str] = []
    for part in text.split(","):
        if _OPTION.match(part) and not entries:
            raise ValueError(f"--methods: option {part.strip()!r} stands before the method that it belongs to")
        if _OPTION.match(part):
            entries[-1] += f",{part.strip()}"
        elif part.strip():
            entries.append(part.strip())
    if not entries:
        raise ValueError(f"--methods {text!r}: give names separated by commas, or 'all'; --baselines needs none")
    named = [name for entry in entries for name in (all_methods() if entry == "all" else [entry])]
    return [Method.parse(name) for name in dict.fromkeys(named)]


def all_methods() -> list[str]:
    """Names of all registered methods, those inside the language model behind the others; plug-ins' too."""
    return [*COMPRESSORS.names(), *PRUNERS.names()]


def baselines() -> list[Method]:
    """What every comparison holds beside VisionZip, as far as it is registered."""
    return [Method(name) for name in _BASELINES if COMPRESSORS.find(name) is not None]


def name_without_budget(budget: CompressionConfig) -> str:
    """`scope,alpha=1.5` of `scope:64,alpha=1.5`: what is the same for all budgets of a method.

    Seeds, and what is calibrated for a budget (threshold and floor), are left out.
    """
    first, bar, last = _OF_A_BUDGET.sub("", str(budget)).rpartition("|")
    return f"{first}{bar}{_BUDGET.sub('', last, count=1)}"


@dataclass(frozen=True)
class Marks:
    """What a table says of a method beside its figures; None where its code is not loaded.

    Attributes:
        multi_turn: Whether it keeps the same tokens whatever is asked, so that an encoded image serves every turn.
        servable: Whether engines can take it: it ends before the language model, with a number of tokens that is known
            beforehand, reads nothing but the image, and leaves attention as it is.
        rule: The rule that was followed where public code and plain reading differ, "" where there is one only.
        text_free: Whether it would read the question by CLIP, and had none.
        source: Paper and public code.
    """

    multi_turn: bool | None = None
    servable: bool | None = None
    rule: str = ""
    text_free: bool = False
    source: str = ""


def marks_of(budget: CompressionConfig, *, has_clip: bool) -> Marks:
    """What is known of the method of a budget.

    Args:
        budget: Of a row.
        has_clip: Whether a CLIP read the questions.
    """
    before, inside = before_language_model(budget), inside_language_model(budget)
    found = None if before is None else COMPRESSORS.find(before.method)
    pruner = None if inside is None else PRUNERS.find(inside.method)
    if (found is None) != (before is None) or (pruner is None) != (inside is None):
        return Marks()
    options = None if found is None or before is None else found.options_of(before)
    wants = frozenset() if found is None else found.wants
    lacking = frozenset() if has_clip else frozenset({"clip_joint"})
    texts = TEXT_NEEDS & ((frozenset() if found is None else found.needs_with(options)) | (wants - lacking))
    return Marks(
        multi_turn=not texts and pruner is None,
        servable=not texts and pruner is None and not budget.restores and (before is None or before.adaptive is None),
        rule=str(getattr(options, "rule", "")),
        text_free="clip_joint" in wants and not has_clip,
        source="; ".join(each.source for each in (found, pruner) if each is not None and each.source),
    )


def lacks_clip(budget: CompressionConfig) -> bool:
    """Whether a method cannot do without a CLIP that reads questions."""
    before = before_language_model(budget)
    found = None if before is None else COMPRESSORS.find(before.method)
    return found is not None and before is not None and "clip_joint" in found.needs_with(found.options_of(before))


def seeds_of(method: Method, seeds: int) -> Sequence[Method]:
    """The method, or one a seed of the baseline that is drawn."""
    if method.name != DRAWN or "seed=" in method.options:
        return [method]
    drawn = [f"{method.options},seed={seed}".lstrip(",") if seed else method.options for seed in range(seeds)]
    return [Method(method.name, options, method.before) for options in drawn]
