"""`--help` of `train.py`, without the seconds that importing torch and transformers takes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import Field, fields

from llava.command_line import SHARED_FLAGS, add_shared, command_name
from llava.train.flags import DataArguments, ModelArguments, TrainingFlags
from llava.train.known_flags import RENAMED

_USAGE = "{program} --model_name_or_path MODEL --data_path DATA --output_dir FOLDER [--FLAG VALUE]"
_LAUNCHED = "{program} --recipe NAME [--hardware NAME] [--FLAG VALUE]"
_EPILOG = """Every other flag of transformers' TrainingArguments is taken too: --help_all lists all of them, after some
seconds, and https://huggingface.co/docs/transformers/main_classes/trainer describes them. A flag may be written with
dashes in place of underscores. docs/training.md has whole commands, llava/configs/recipes the settings of the paper."""

# Those of transformers' flags that LLaVA's scripts set, or that most runs need.
COMMON_FLAGS = {
    "output_dir": "Folder of the run: checkpoints, and in the end what was trained.",
    "num_train_epochs": "Passes over the data (default: 3).",
    "max_steps": "Optimizer steps, in place of epochs.",
    "per_device_train_batch_size": "Samples of a process in a batch (default: 8).",
    "per_device_eval_batch_size": "The same when it is evaluated.",
    "learning_rate": "Highest learning rate (default: 5e-5).",
    "lr_scheduler_type": "How it falls: cosine, linear, constant...",
    "warmup_steps": "Steps in which it rises; below 1 a part of all steps.",
    "warmup_ratio": "LLaVA's name for --warmup_steps below 1.",
    "weight_decay": "Of the optimizer (default: 0).",
    "max_grad_norm": "Gradients are clipped to this norm (default: 1).",
    "bf16": "Train in bfloat16.",
    "fp16": "Train in float16.",
    "tf32": "Multiply float32 matrices in TF32, on GPUs that have it.",
    "gradient_checkpointing": "Compute activations anew in the backward pass, to save memory.",
    "deepspeed": "DeepSpeed's config: zero1, zero2, zero2_offload, zero3, zero3_offload, or a file.",
    "dataloader_num_workers": "Processes that prepare batches, for each process that trains (default: 0).",
    "logging_steps": "Steps between two entries of the log.",
    "report_to": "Trackers: none, tensorboard, wandb...",
    "run_name": "The run's name in a tracker.",
    "disable_tqdm": "No progress bars.",
    "eval_strategy": "When the held-out data are evaluated: no, steps or epoch.",
    "evaluation_strategy": "LLaVA's name for --eval_strategy.",
    "eval_steps": "Steps between two evaluations.",
    "save_strategy": "When a checkpoint is written: no, steps, epoch or best.",
    "save_steps": "Steps between two checkpoints.",
    "save_total_limit": "Checkpoints that are kept.",
    "load_best_model_at_end": "The result is the checkpoint that was evaluated best.",
    "resume_from_checkpoint": "Where to go on; by default the last checkpoint in --output_dir.",
    "seed": "Of everything that is drawn (default: 42).",
    "data_seed": "Of the part and the order of the data; by default --seed.",
    "use_cpu": "Train on the CPU though there is an accelerator.",
}


def print_help_if_asked(words: Sequence[str]) -> None:
    """Prints the help and ends the program, if the command line asks for it.

    Args:
        words: Without the program's name.

    Raises:
        SystemExit: Status 0, after the help.
    """
    if {"-h", "--help"} & set(words):
        make_help("llava.train.train").print_help()
        raise SystemExit(0)


def make_help(module: str = "llava.train.train", *, with_launcher: bool = False) -> argparse.ArgumentParser:
    """A parser of this project's flags and the most common ones of transformers, for its help only.

    Args:
        module: That is asked for its help.
        with_launcher: Whether it starts training under a launcher.
    """
    usage = (_LAUNCHED if with_launcher else _USAGE).format(program=command_name(module))
    shown = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(usage=usage, description="Trains a LLaVA.", epilog=_EPILOG, formatter_class=shown)
    if with_launcher:
        add_launch_flags(parser)
    else:
        parser.add_argument("--help_all", action="help", help="list every flag of transformers too")
        add_recipe_flag(parser)
    add_shared(parser, "--plugin")
    for title, kind in (("model", ModelArguments), ("data", DataArguments), ("training", TrainingFlags)):
        group = parser.add_argument_group(title, kind.__doc__)
        for entry in fields(kind):
            _add(group, entry)
    group = parser.add_argument_group("training, of transformers")
    for name, text in COMMON_FLAGS.items():
        group.add_argument(f"--{name}", default=argparse.SUPPRESS, help=text)
    return parser


def add_recipe_flag(parser: argparse.ArgumentParser, folders: str = "recipes or hardware") -> None:
    """Adds `--recipe`; where it is absent the arguments have an empty list. `folders` of the configs have its names."""
    parser.add_argument(
        "--recipe",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME_OR_FILE",
        help=f"Flags by the name of llava/configs/{folders}, or from YAML files; later ones count more.",
    )


def add_plugin_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--plugin` as the other commands have it; in a recipe it may be a list. Without it the list is empty."""
    parser.add_argument("--plugin", nargs="+", action="extend", default=[], help=SHARED_FLAGS["--plugin"]["help"])


def add_launch_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `llava train` that are not training's."""
    add_recipe_flag(parser, "recipes")
    parser.add_argument("--hardware", metavar="NAME_OR_FILE", help="The machine: a name of llava/configs/hardware.")
    parser.add_argument("--launcher", help="deepspeed, torchrun, or python: one process, without DeepSpeed.")
    parser.add_argument("--launcher-args", "--launcher_args", metavar="WORDS", help="More for it, as '--num_gpus 4'.")
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="Print the launcher's command line only.")
    parser.add_argument("--variables", action="store_true", help="Take the variables of scripts/train.sh too.")


def _add(group: argparse._ArgumentGroup, entry: Field[object]) -> None:
    """Lists a flag as transformers' parser does: a truth value may stand alone, and what is true has an opposite."""
    name, text = entry.name, entry.metadata["help"].replace("%", "%%")
    is_truth_value = str(entry.type).startswith("bool")
    default = argparse.SUPPRESS if entry.default is None else entry.default
    others = [old for old, new in RENAMED.items() if new == f"--{name}"]  # as the other commands call it
    group.add_argument(f"--{name}", *others, nargs="?" if is_truth_value else None, default=default, help=text)
    if is_truth_value and entry.default is True:
        group.add_argument(f"--no_{name}", action="store_true", default=argparse.SUPPRESS, help=f"--{name} False")
