"""Tuning under compression, from its flags: the budget of each step, and the model as its own teacher."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from llava.model.configuration import CompressionConfig
from llava.model.image_rules import ImageRules
from llava.model.stages import inside_language_model
from llava.train.budgets import BudgetPlan, MostVisualTokens, compressed_to, make_plan, parse_draw
from llava.train.distillation import Teacher
from llava.train.flags import TrainingFlags
from llava.train.stages import Stage

logger = logging.getLogger(__name__)

_CHOICES = {"compression_schedule": (None, "linear", "cosine", "steps"), "distill_teacher": ("start", "current")}


@dataclass(frozen=True)
class Tuning:
    """What the flags ask for beyond a fixed budget.

    Attributes:
        plan: The budget of each step; None where it is the model's own throughout.
        teacher: None without distillation.
        most_tokens: How many tokens an image takes at most, in any step and with the teacher; samples are cut by that.
    """

    plan: BudgetPlan | None
    teacher: Teacher | None
    most_tokens: MostVisualTokens


def check_tuning_flags(given: Any) -> None:
    """Looks at the flags by themselves, before a model is read.

    Args:
        given: `TrainingArguments`.

    Raises:
        ValueError: A value is unknown or malformed, or would have no effect, or graphs are to be compiled.
    """
    for name, choices in _CHOICES.items():
        if getattr(given, name) not in choices:
            known = ", ".join(filter(None, choices))
            raise ValueError(f"--{name} {getattr(given, name)} is none of {known}")
    for name, flag in given.idle_tuning_flags():
        raise ValueError(f"--{name} {getattr(given, name)} has no effect without --{flag}; give that too, or drop it")
    if given.compression_draw is not None:
        parse_draw(given.compression_draw)
    _teacher_budget(given)
    compiles = given.torch_compile or given.torch_compile_backend or given.torch_compile_mode
    for name in given.tuning_flags() if compiles else ():
        raise ValueError(f"--torch_compile is for one number of tokens, and --{name} asks for several; drop one")


def make_tuning(given: Any, model: Any, stage: Stage, *, is_new_projector: bool, from_cache: bool) -> Tuning | None:
    """What the flags ask for of a model; None without any. The result's config is told the range it serves.

    Args:
        given: Of `TrainingArguments`.
        model: As it will be trained, under its final compression, before a checkpoint of the run is read.
        stage: What is trained.
        is_new_projector: It has learned nothing yet.
        from_cache: `--feature_cache` is given.

    Raises:
        ValueError: The flags fit neither each other nor the model; names them.
    """
    if hasattr(model.config, "compression_range"):  # of an earlier tuning
        del model.config.compression_range
    flags = given.tuning_flags()
    if not flags:
        return None
    if from_cache:
        raise ValueError(
            f"--feature_cache holds the tokens of one budget, and --{next(iter(flags))} asks for several; drop one"
        )
    rules, final = ImageRules.from_config(model.config), model.compression
    plan = make_plan(given, final, rules, given.seed)
    if plan is not None and plan.tuned_for is not None:
        model.config.compression_range = plan.tuned_for.to_dict()
    budgets = [final] if plan is None else [rung.budget for rung in plan.rungs]
    seen = _largest(budgets)
    teacher = None
    if given.distills:
        teacher = _make_teacher(given, model, stage, rules, budgets, is_new_projector=is_new_projector)
        seen = (*seen, teacher.budget)
    _tell(plan, teacher, final)
    return Tuning(plan, teacher, MostVisualTokens(rules, tuple(dict.fromkeys(seen))))


def _teacher_budget(given: TrainingFlags) -> CompressionConfig | None:
    try:
        return None if given.distill_from is None else CompressionConfig.parse(given.distill_from)
    except ValueError as error:
        raise ValueError(f"--distill_from {given.distill_from}: {error}") from error


def _make_teacher(
    given: TrainingFlags,
    model: Any,
    stage: Stage,
    rules: ImageRules,
    budgets: list[CompressionConfig | None],
    *,
    is_new_projector: bool,
) -> Teacher:
    """The teacher; `budgets` are the student's."""
    budget, flag = _teacher_budget(given), f"--distill_from {given.distill_from}"
    if is_new_projector:
        raise ValueError(f"{flag}: a projector that has learned nothing is no teacher; train it first without one")
    from_start = given.distill_teacher == "start"
    if from_start and not stage.saves_projector_only:
        raise ValueError(
            f"--distill_teacher start keeps the projector that the run begins with, and --stage {stage.name} changes "
            "more than that; give --distill_teacher current"
        )
    if inside_language_model(budget) is not None:
        raise ValueError(f"{flag}: a teacher keeps its rows inside the language model; name what is before | only")
    if budget is not None and budget.adaptive is not None:
        raise ValueError(
            f"{flag}: an adaptive teacher may see fewer tokens than the run; name a fixed budget or none, all tokens"
        )
    if budget is not None and budget.restores and given.packing:
        raise ValueError(f"{flag}: positions=restore does not go with --packing; drop one")
    try:
        with compressed_to(model, budget):
            reads_questions = model.model.reads_questions
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from error
    if reads_questions:
        raise ValueError(f"{flag} chooses by the question, and in training there is none; choose another")
    most = max(budgets, key=lambda each: rules.most_rows(each))
    if not _serves(rules, budget, most) or set(budgets) == {budget}:
        raise ValueError(
            f"{flag} is not less compressed than the run, which has up to {rules.most_rows(most)} visual tokens "
            f"({most or 'all'}); name more, or none for all tokens"
        )
    return Teacher(model, budget, given.distill_weight, given.distill_temperature, from_start=from_start)


def _serves(rules: ImageRules, budget: CompressionConfig | None, most: CompressionConfig | None) -> bool:
    return budget is None or rules.most_rows(budget) >= rules.most_rows(most)


def _largest(budgets: list[CompressionConfig | None]) -> tuple[CompressionConfig | None, ...]:
    """Those that can have an image's most tokens: all tokens are not always more, for padding is left out of them."""
    compressed = [budget for budget in budgets if budget is not None]
    found = {max(compressed, key=lambda budget: budget.num_tokens)} if compressed else set()
    return (*found, *([None] if None in budgets else []))


def _tell(plan: BudgetPlan | None, teacher: Teacher | None, final: CompressionConfig | None) -> None:
    if plan is not None:
        rungs = plan.rungs
        logger.info(
            "steps have %d to %d visual tokens a tile; evaluations and the result are under %s",
            rungs[0].tokens,
            rungs[-1].tokens,
            final,
        )
    if teacher is not None:
        logger.info("the teacher sees images under %s", teacher.budget or "no compression")
