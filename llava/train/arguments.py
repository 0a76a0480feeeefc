"""The flags of `train.py`, read: LLaVA's, transformers' and this project's own, from the command line and recipes."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
import transformers
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils import is_torch_tf32_available

from llava.command_line import load_named_plugins
from llava.kinds import plugin_records
from llava.train.bounds import check_values
from llava.train.code_version import code_version
from llava.train.flags import DataArguments, ModelArguments, TrainingFlags
from llava.train.fraction import data_of_fraction, is_same_data
from llava.train.help import add_plugin_flag, add_recipe_flag
from llava.train.known_flags import RENAMED, unknown_key
from llava.train.recipe import find_deepspeed_config, read_recipe
from llava.train.stages import Stage, stage_of
from llava.train.tuning import check_tuning_flags

logger = logging.getLogger(__name__)


@dataclass
class TrainingArguments(TrainingFlags, transformers.TrainingArguments):
    """transformers' arguments and LLaVA's additions to them."""

    record: dict[str, Any] = field(default_factory=dict, init=False, repr=False)  # what trackers get besides the flags

    def __post_init__(self) -> None:
        check_values(self)
        _check_adapters(self)
        check_tuning_flags(self)
        _check_device(self)
        if self.mm_vision_tower_lr is not None:
            logger.warning("--mm_vision_tower_lr has no effect: the vision tower is frozen")
        if self.tf32 and not is_torch_tf32_available():
            logger.warning("--tf32 True has no effect: this machine has no GPU with TF32")
            self.tf32: bool | None = None
        if self.model_max_length < 1:
            raise ValueError(f"--model_max_length {self.model_max_length} leaves nothing of a sample")
        if self.label_smoothing_factor:
            raise ValueError("--label_smoothing_factor is not supported: only the logits of targets are computed")
        if self.global_batch_size is not None:
            steps = accumulation_steps(
                self.global_batch_size, self.per_device_train_batch_size, int(os.environ.get("WORLD_SIZE", "1"))
            )
            if self.gradient_accumulation_steps not in (1, steps):
                raise ValueError(
                    f"--gradient_accumulation_steps {self.gradient_accumulation_steps} contradicts --global_batch_size "
                    f"{self.global_batch_size}, which takes {steps}; change the latter"
                )
            self.gradient_accumulation_steps = steps
        named = self.deepspeed
        if isinstance(named, str) and not named.startswith("{"):
            self.deepspeed: Any = str(find_deepspeed_config(named))
        super().__post_init__()
        self.deepspeed = named  # the record of a run holds no path of its machine

    def to_dict(self) -> dict[str, Any]:
        """As transformers', with `record`; trackers store it as the config of the run."""
        return {**super().to_dict(), **self.record}


def _check_adapters(given: TrainingArguments) -> None:
    known = {"bits": (4, 8, 16), "lora_bias": ("none", "all", "lora_only"), "quant_type": ("nf4", "fp4")}
    for name, choices in known.items():
        if getattr(given, name) not in choices:
            raise ValueError(f"--{name} {getattr(given, name)} is none of {', '.join(map(str, choices))}")
    if given.lora_r < 1:
        raise ValueError(f"--lora_r {given.lora_r}: a rank is at least 1")
    if not 0 <= given.lora_dropout < 1:
        raise ValueError(f"--lora_dropout {given.lora_dropout} is not in [0, 1)")


def _check_device(given: TrainingArguments) -> None:
    """Says what to do where half precision is asked of a machine without an accelerator."""
    half = "fp16" if given.fp16 else "bf16" if given.bf16 else None
    if half is not None and not given.use_cpu and not torch.accelerator.is_available():
        raise ValueError(
            f"--{half} True: torch finds no GPU on this machine; to train on the CPU give --use_cpu True "
            f"--{half} False (to the scripts: CPU=True {half.upper()}=False)"
        )


def accumulation_steps(global_batch_size: int, per_device: int, num_processes: int) -> int:
    """How often gradients are accumulated so that a step sees `global_batch_size` samples.

    Raises:
        ValueError: It does not divide evenly.
    """
    at_once = per_device * num_processes
    if global_batch_size < 1 or global_batch_size % at_once:
        raise ValueError(
            f"--global_batch_size {global_batch_size} is not a multiple of {at_once} "
            f"(--per_device_train_batch_size {per_device} on {num_processes} process(es))"
        )
    return global_batch_size // at_once


_CLASSES = (ModelArguments, DataArguments, TrainingArguments)


@dataclass(frozen=True)
class Arguments:
    """All of them."""

    model: ModelArguments
    data: DataArguments
    training: TrainingArguments
    recipe: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what the user should know of how the flags were read
    plugins: tuple[str, ...] = ()  # as they were named

    @property
    def stage(self) -> Stage:
        """The stage that the flags ask for.

        Raises:
            ValueError: They contradict each other.
        """
        return stage_of(
            self.model.stage,
            tune_mm_mlp_adapter=self.model.tune_mm_mlp_adapter,
            freeze_mm_mlp_adapter=self.training.freeze_mm_mlp_adapter,
            freeze_backbone=self.model.freeze_backbone,
            lora_enable=self.training.lora_enable,
            bits=self.training.bits,
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON: what was asked for, secrets masked."""
        record = self.record()
        training = {name: value for name, value in self.training.to_dict().items() if name not in record}
        return {**record, "training": training}

    def record(self) -> dict[str, Any]:
        """What a run is besides its training flags: stage, recipe, model, data, and the code it was made with."""
        plugins = plugin_records()
        return {
            "stage": self.stage.name,
            "recipe": list(self.recipe),
            "model": asdict(self.model),
            "data": asdict(self.data),
            "provenance": code_version(),
            **({"plugins": plugins} if plugins else {}),
        }


_HAS_ACTIVATION_CHECKPOINTING = any(
    entry.name == "activation_checkpointing" for entry in fields(transformers.TrainingArguments)
)
_RENAMED = dict(RENAMED)
if _HAS_ACTIVATION_CHECKPOINTING:
    _RENAMED["--gradient_checkpointing"] = "--activation_checkpointing"


def translate_flags(argv: Sequence[str]) -> list[str]:
    """Writes flags of LLaVA's time in the words of transformers 5; what has no meaning today is dropped with a warning.

    Args:
        argv: Without the program's name.
    """
    translated: list[str] = []
    dropping = False
    for word in argv:
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            if not dropping:
                translated.append(word)
            continue
        name = name.replace("-", "_").replace("__", "--", 1)
        dropping = name in _RENAMED and _RENAMED[name] is None
        if dropping:
            logger.warning("%s is ignored: transformers 5 has no such setting", name)
            continue
        translated.append(f"{_RENAMED.get(name) or name}{equals}{value}")
    return translated


def parse_arguments(argv: Sequence[str] | None = None) -> Arguments:
    """Reads the command line, and the recipes that it names; what it says itself counts more.

    Args:
        argv: Without the program's name; by default this process's.

    Raises:
        SystemExit: A flag is unknown, or a plug-in cannot be loaded.
        ValueError: A value is impossible; names the flag, and the recipe's line if it stands in one.
    """
    parser = transformers.HfArgumentParser(_CLASSES, allow_abbrev=False)
    add_recipe_flag(parser)
    add_plugin_flag(parser)
    parser.add_argument("--help_all", action="help", help="list these; --help lists the most common ones at once")
    words = translate_flags(sys.argv[1:] if argv is None else argv)
    recipe = _named_in(words).recipe
    given = words
    words = [*recipe_flags(recipe), *given]
    plugins = _named_in(words).plugin
    load_named_plugins(plugins)
    model, data, training, _ = parser.parse_args_into_dataclasses(words)
    notes = [] if _gives(given, "--data_fraction") else _use_all_of_other_data(data, recipe)
    if data.eval_data_path is not None and training.eval_strategy == IntervalStrategy.NO:
        training.eval_strategy, training.do_eval = IntervalStrategy.EPOCH, True
    _check_best(data, training)
    arguments = Arguments(model, data, training, tuple(recipe), tuple(notes), tuple(plugins))
    training.record = arguments.record()
    return arguments


def _check_best(data: DataArguments, training: TrainingArguments) -> None:
    """Looks whether the best checkpoint can be told; transformers finds out at the first evaluation, hours later.

    Raises:
        ValueError: Nothing is measured, or not what `--metric_for_best_model` names.
    """
    wants_best = training.load_best_model_at_end or training.save_strategy == SaveStrategy.BEST
    if not wants_best:
        return
    if data.eval_data_path is None:
        raise ValueError("the best checkpoint is told by held-out data; give --eval_data_path")
    known = ["loss", *(["accuracy"] if data.eval_generate else [])]
    if (training.metric_for_best_model or "loss").removeprefix("eval_") not in known:
        raise ValueError(
            f"--metric_for_best_model {training.metric_for_best_model} is not measured; there is "
            f"{' and '.join(known)}" + ("" if data.eval_generate else ", and with --eval_generate accuracy")
        )


def _gives(words: Sequence[str], flag: str) -> bool:
    return any(word.partition("=")[0] == flag for word in words)


def _use_all_of_other_data(data: DataArguments, recipe: Sequence[str]) -> list[str]:
    """Drops the recipe's fraction if it is meant for other data than those that are named; says so."""
    meant = data_of_fraction([setting for file in recipe for setting in read_recipe(file)])
    if meant is None or data.data_fraction == 1 or is_same_data(data.data_path, meant):
        return []
    fraction, data.data_fraction = data.data_fraction, 1.0
    return [
        f"the recipe's data_fraction {fraction:g} is meant for {meant}; of {data.data_path} all samples are used "
        f"(--data_fraction or FRACTION draws a part)"
    ]


def _named_in(words: Sequence[str]) -> argparse.Namespace:
    """What is needed before the other flags are read: recipes give flags, plug-ins what flags may name."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_recipe_flag(parser)
    add_plugin_flag(parser)
    return parser.parse_known_args(words)[0]


def recipe_flags(files: Sequence[str]) -> list[str]:
    """The flags that recipes set, each checked by itself so that an error names file and line."""
    parser = transformers.HfArgumentParser(_CLASSES, allow_abbrev=False, exit_on_error=False)
    add_plugin_flag(parser)
    known = ["plugin", *(entry.name for one in _CLASSES for entry in fields(one) if entry.init)]
    flags: dict[str, list[str]] = {}
    for setting in (setting for file in files for setting in read_recipe(file)):
        words = translate_flags([f"--{setting.key}", *setting.values])
        if not words:
            continue
        if words[0].removeprefix("--") not in known:
            raise ValueError(unknown_key(setting, known))
        try:
            _, left_over = parser.parse_known_args(words)
        except (argparse.ArgumentError, argparse.ArgumentTypeError) as error:
            reason = getattr(error, "message", error)
            raise ValueError(f"{setting.where}: {setting.key}: {reason}") from error
        if left_over:
            raise ValueError(f"{setting.where}: {setting.key} takes one value, not {len(setting.values)}")
        flags[words[0]] = words
    return [word for words in flags.values() for word in words]
