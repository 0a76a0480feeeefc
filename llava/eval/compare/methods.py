"""Methods as `--methods` names them: with options, without a budget; and what a table must say of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import COMPRESSORS, Compressor
from llava.model.multimodal_compressor.registry import TEXT_NEEDS

VISIONZIP = CompressionConfig.method
"""The method that all others are compared with at the same budget."""

DRAWN = "random"
"""The baseline that is run with several seeds."""

_BASELINES = (DRAWN, "uniform", "avg_pool", "downsample")
_OPTION = re.compile(r"\s*[A-Za-z_][\w.-]*=")
_BUDGET = re.compile(r":[^,|]*")


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
        else:
            COMPRESSORS.get(name)  # refuses an unknown one
        return cls(name, options, before)

    def with_budget(self, tokens: int) -> CompressionConfig:
        """The method at a budget; VisionZip's is split into dominant and contextual as in its paper.

        Args:
            tokens: That a tile is left with.

        Raises:
            ValueError: An option is malformed.
        """
        split = CompressionConfig.from_total(tokens, method=self.name)
        amount = f"{split.dominant}+{split.contextual}" if self.name == VISIONZIP and split.contextual else tokens
        text = f"{self.name}:{amount}{',' if self.options else ''}{self.options}"
        found = CompressionConfig.parse(f"{self.before}|{text}" if self.before else text)
        assert found is not None
        return found


def parse_methods(text: str) -> list[Method]:
    """Reads `--methods`: names separated by commas, each followed by its options, or `all`.

    Raises:
        ValueError: An option stands before any name, or a name is unknown.
    """
    entries: list[str] = []
    for part in text.split(","):
        if _OPTION.match(part) and not entries:
            raise ValueError(f"--methods: option {part.strip()!r} stands before the method that it belongs to")
        if _OPTION.match(part):
            entries[-1] += f",{part.strip()}"
        elif part.strip():
            entries.append(part.strip())
    named = [name for entry in entries for name in (all_methods() if entry == "all" else [entry])]
    return [Method.parse(name) for name in dict.fromkeys(named)]


def all_methods() -> list[str]:
    """Names of all registered methods; plug-ins' too."""
    return COMPRESSORS.names()


def baselines() -> list[Method]:
    """What every comparison holds beside VisionZip, as far as it is registered."""
    return [Method(name) for name in _BASELINES if COMPRESSORS.find(name) is not None]


def name_without_budget(budget: CompressionConfig) -> str:
    """`scope,alpha=1.5` of `scope:64,alpha=1.5`: what is the same for all budgets of a method, its seeds left out."""
    first, bar, last = re.sub(r",seed=\d+", "", str(budget)).rpartition("|")
    return f"{first}{bar}{_BUDGET.sub('', last, count=1)}"


@dataclass(frozen=True)
class Marks:
    """What a table says of a method beside its figures; None where its code is not loaded.

    Attributes:
        multi_turn: Whether it keeps the same tokens whatever is asked, so that an encoded image serves every turn.
        servable: Whether engines can take it: it ends before the language model, with a number of tokens that is known
            beforehand.
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
    found = COMPRESSORS.find(budget.method)
    if found is None:
        return Marks()
    lacking = frozenset() if has_clip else frozenset({"clip_joint"})
    texts = TEXT_NEEDS & (found.needs_with(found.options_of(budget)) | (found.wants - lacking))
    return Marks(
        multi_turn=not texts,
        servable=budget.then is None,
        rule=str(getattr(found.options_of(budget), "rule", "")),
        text_free="clip_joint" in found.wants and not has_clip,
        source=found.source,
    )


def lacks_clip(budget: CompressionConfig) -> bool:
    """Whether a method cannot do without a CLIP that reads questions."""
    found: Compressor | None = COMPRESSORS.find(budget.method)
    return found is not None and "clip_joint" in found.needs_with(found.options_of(budget))


def seeds_of(method: Method, seeds: int) -> Sequence[Method]:
    """The method, or one a seed of the baseline that is drawn."""
    if method.name != DRAWN or "seed=" in method.options:
        return [method]
    drawn = [f"{method.options},seed={seed}".lstrip(",") if seed else method.options for seed in range(seeds)]
    return [Method(method.name, options, method.before) for options in drawn]
