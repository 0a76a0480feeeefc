"""`llava train`: trains a recipe on this machine, under the launcher that starts a process for each GPU.

Recipe and machine are names of `llava/configs`, or files. Flags of training may follow, and count most.
`scripts/train.sh` has variables for the same.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import load_named_plugins
from llava.train.help import add_launch_flags, add_plugin_flag, make_help

if TYPE_CHECKING:
    from llava.train.recipe import Setting

_MODULE = "llava.train.train_mem"


@dataclass(frozen=True)
class _Launcher:
    """A program that starts the processes of a run.

    Attributes:
        module_flag: Says that a module's name follows.
        machine: Of `llava/configs/hardware`, where none is named.
        words: Handed to it where the user names none.
    """

    module_flag: str
    machine: str
    words: tuple[str, ...] = ()


_LAUNCHERS = {
    "deepspeed": _Launcher("--module", "8x80gb"),
    "torchrun": _Launcher("-m", "8x80gb", ("--standalone", "--nproc_per_node", "gpu")),
    "python": _Launcher("-m", "1x80gb"),  # one process, without DeepSpeed
}

# The variables of scripts/train.sh that stand for flags of the launch.
LAUNCH_VARIABLES = ("RECIPE", "HARDWARE", "LAUNCHER", "LAUNCHER_ARGS", "DRY_RUN")
# Its others, and the flags of training that they stand for.
VARIABLES: Mapping[str, tuple[str, ...]] = {
    "DEEPSPEED_CONFIG": ("deepspeed",),
    "CKPT": ("model_name_or_path",),
    "LLM": ("model_name_or_path",),
    "TOWER": ("vision_tower",),
    "PROJECTOR": ("pretrain_mm_mlp_adapter",),
    "COMPRESSION": ("compression",),
    "COMPRESSION_SCHEDULE": ("compression_schedule",),
    "COMPRESSION_START": ("compression_start",),
    "COMPRESSION_SHARE": ("compression_share",),
    "COMPRESSION_DRAW": ("compression_draw",),
    "DISTILL_FROM": ("distill_from",),
    "DISTILL_WEIGHT": ("distill_weight",),
    "DISTILL_TEMPERATURE": ("distill_temperature",),
    "DISTILL_TEACHER": ("distill_teacher",),
    "VERSION": ("version",),
    "DATA": ("data_path",),
    "IMAGES": ("image_folder",),
    "ASPECT": ("image_aspect_ratio",),
    "FRACTION": ("data_fraction",),
    "SEED": ("seed", "data_seed"),
    "EVAL_DATA": ("eval_data_path",),
    "OUTPUT": ("output_dir",),
    "EPOCHS": ("num_train_epochs",),
    "GLOBAL_BATCH": ("global_batch_size",),
    "BATCH": ("per_device_train_batch_size",),
    "LR": ("learning_rate",),
    "SCHEDULER": ("lr_scheduler_type",),
    "WARMUP": ("warmup_ratio",),
    "WEIGHT_DECAY": ("weight_decay",),
    "MAX_LENGTH": ("model_max_length",),
    "BF16": ("bf16",),
    "FP16": ("fp16",),
    "CPU": ("use_cpu",),
    "CHECKPOINTING": ("gradient_checkpointing",),
    "WORKERS": ("dataloader_num_workers",),
    "SAVE_STEPS": ("save_steps",),
    "SAVE_LIMIT": ("save_total_limit",),
    "LOG_STEPS": ("logging_steps",),
    "REPORT_TO": ("report_to",),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Hands this process over to the launcher, or prints its command line.

    Raises:
        SystemExit: Status 1 with a line that says what is wrong, 2 for wrong flags.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(words):
        make_help("llava.train.launch", with_launcher=True).print_help()
        raise SystemExit(0)
    try:
        command, is_dry = read_command(words, os.environ)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    if is_dry:
        print(shlex.join(command))
        return
    program = _program(command[0])
    os.execv(program, [program, *command[1:]])


def read_command(words: Sequence[str], variables: Mapping[str, str]) -> tuple[list[str], bool]:
    """The launcher's command line that flags, and with `--variables` the environment, ask for.

    Args:
        words: Without the program's name.
        variables: The environment; an empty variable asks for nothing.

    Returns:
        The command, and whether it is only to be shown.

    Raises:
        ValueError: The launcher is unknown, a recipe or the machine cannot be read, or no model is named.
        SystemExit: A plug-in cannot be loaded.
    """
    parser = argparse.ArgumentParser(prog="llava train", add_help=False, allow_abbrev=False)
    add_launch_flags(parser)
    own, flags = parser.parse_known_args(words)
    known = {*LAUNCH_VARIABLES, *VARIABLES} if own.variables else ()
    given = {name: value for name, value in variables.items() if name in known and value}
    recipes = own.recipe or ([given["RECIPE"]] if "RECIPE" in given else [])
    if own.variables and not recipes:
        raise ValueError("RECIPE: name a file of llava/configs/recipes, as in RECIPE=llava-v1.5-7b-finetune")
    name = own.launcher or given.get("LAUNCHER") or "deepspeed"
    if name not in _LAUNCHERS:
        raise ValueError(f"--launcher or LAUNCHER must be deepspeed, torchrun or python, not {name!r}")
    launcher = _LAUNCHERS[name]
    hardware = own.hardware or given.get("HARDWARE") or (launcher.machine if recipes else None)
    machine = [hardware] if hardware else []
    flags = [*_flags_of(given, recipes), *flags]
    _check(recipes, machine, flags)
    more = _split(own.launcher_args or given.get("LAUNCHER_ARGS") or "") or launcher.words
    start = [name, *more, launcher.module_flag, _MODULE]
    command = [*start, *(["--recipe", *recipes, *machine] if recipes or machine else []), *flags]
    return command, own.dry_run or given.get("DRY_RUN", "0") != "0"


def _check(recipes: Sequence[str], machine: Sequence[str], flags: Sequence[str]) -> None:
    """Finds the mistakes that show without transformers, so that they are reported once and not by every process.

    Raises:
        ValueError: A recipe, the machine or DeepSpeed's config cannot be read, or no model is named.
        SystemExit: A plug-in cannot be loaded.
    """
    from llava.train.recipe import find_deepspeed_config, read_named

    settings = [setting for file in recipes for setting in read_named(file, "--recipe")]
    settings += [setting for file in machine for setting in read_named(file, "--hardware")]
    _check_names(settings, flags)
    named = {*(f"--{setting.key}" for setting in settings), *(word.partition("=")[0] for word in flags)}
    if not {name.replace("-", "_") for name in named} & {"__model_name_or_path", "__model_path", "__help_all"}:
        raise ValueError(
            "--model_name_or_path must be given: a LLaVA checkpoint or a language model; or a recipe that names one, "
            "as in --recipe llava-v1.5-7b-finetune"
        )
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_plugin_flag(parser)
    parser.add_argument("--deepspeed")
    own = parser.parse_known_args(flags)[0]
    of_recipes = {setting.key: setting.values for setting in settings}  # of each flag the last
    config = own.deepspeed or next(iter(of_recipes.get("deepspeed", ())), None)
    if config is not None and not config.startswith("{"):
        find_deepspeed_config(config)
    load_named_plugins([*of_recipes.get("plugin", ()), *own.plugin])


def _check_names(settings: Sequence[Setting], flags: Sequence[str]) -> None:
    """Refuses keys and flags that training does not have.

    Raises:
        ValueError: Names the first of them, and the nearest right one.
    """
    from llava.train.known_flags import plain_name, unknown_flag, unknown_key

    wrong = [(setting.key, unknown_key(setting)) for setting in settings]
    wrong += [(plain_name(word), unknown_flag(word)) for word in flags if word.startswith("--")]
    for name, message in wrong:
        if message is not None and not _is_in_newer_transformers(name):
            raise ValueError(message)


def _is_in_newer_transformers(name: str) -> bool:
    """Asks a transformers that is newer than the list of its flags, which takes seconds."""
    from llava.train.known_flags import WRITTEN_FOR

    found = tuple(int(number) for number in re.findall(r"\d+", version("transformers"))[:2])
    if found <= WRITTEN_FOR:
        return False
    from transformers import TrainingArguments

    return any(entry.name == name.replace("-", "_") for entry in fields(TrainingArguments))


def _split(launcher_args: str) -> list[str]:
    try:
        return shlex.split(launcher_args)
    except ValueError as error:
        raise ValueError(f"--launcher-args or LAUNCHER_ARGS: {launcher_args!r}: {error}") from error


def _flags_of(given: Mapping[str, str], recipes: Sequence[str]) -> list[str]:
    """The flags of training that variables stand for."""
    values = {name: given[name] for name in VARIABLES if name in given}
    tuning = [name for name in values if name.startswith(("COMPRESSION", "DISTILL"))]
    if tuning:  # what is not the recipe's is trained in a folder of its own
        words = [values[each] if each == "COMPRESSION" else f"{each.lower()}-{values[each]}" for each in tuning]
        name = "-".join([Path(recipes[0]).name.removesuffix(".yaml"), *words])
        values.setdefault("OUTPUT", "checkpoints/" + re.sub(r"[^\w.-]+", "-", name))
    pairs = [(f"--{flag}", values[name]) for name in VARIABLES if name in values for flag in VARIABLES[name]]
    return [word for pair in pairs for word in pair]


def _program(launcher: str) -> str:
    """The launcher's file: that of this environment, which need not be activated, else one on the path.

    Raises:
        SystemExit: There is none.
    """
    if launcher == "python":
        return sys.executable
    found = shutil.which(launcher, path=str(Path(sys.executable).parent)) or shutil.which(launcher)
    if found is None:
        raise SystemExit(
            f"error: {launcher} is not installed; install the extra `train`, or give --launcher python for one process"
        )
    return found


if __name__ == "__main__":
    main()
