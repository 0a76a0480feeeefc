"""What the card's template (`card.md.jinja`) is given of a run and of its results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from llava.constants import TUNING_FLAGS
from llava.hub.card.scores import Score, Scores
from llava.hub.run_facts import RunFacts
from llava.hub.staging import VIDEO_PROCESSOR
from llava.results.paper import PaperRow, PaperTable

_ADAPTERS = ("lora_r", "lora_alpha", "lora_dropout", "lora_bias", "bits")
_TRAINING = (
    *("learning_rate", "mm_projector_lr", "lr_scheduler_type", "warmup_steps", "weight_decay", "optim"),
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("global_batch_size", "model_max_length", "bf16", "fp16", "seed", "data_seed", "packing"),
)


def facts_of_run(run: RunFacts) -> dict[str, Any]:
    """What the template takes from a run beside the run itself.

    Returns:
        `training`: rows of setting and value, empty if the run left no `training_args.json`; `data_arguments`: its
        arguments on data; `data_file`: name of its data file, None if not known; `export_notes`: sentences of
        `export.json`; `transformers_class`: what plain transformers loads it with, None in another
        format; `needs_torchvision`: whether plain transformers' processor of it does.
    """
    data = (run.arguments or {}).get("data", {})
    family = run.family if run.format == "hf" else None
    return {
        "training": list(_training_rows(run)),
        "data_arguments": data,
        "data_file": file_name(data["data_path"]) if data.get("data_path") else None,
        "export_notes": list(dict.fromkeys((run.export or {}).get("notes", []))),
        "transformers_class": None if family is None else family.transformers_model,
        "needs_torchvision": run.format == "hf" and (run.folder / VIDEO_PROCESSOR).is_file(),
    }


def facts_of_scores(scores: Scores | None, paper: tuple[PaperTable, PaperRow] | None) -> dict[str, Any]:
    """What the template takes from scores.

    Args:
        scores: None if no results were given.
        paper: The paper's row of the same setting, if it has one.

    Returns:
        `scores`; `score_notes`: what a reader must know of single scores; `score_settings`: pairs of template and dtype
        that were measured with; `only_parts`: whether every score is over a part of its benchmark; `paper`: the table,
        the row, and its retention in percent by column, None if there is nothing to put it beside.
    """
    own = [] if scores is None else scores.own
    figures = None
    if scores is not None and paper is not None:
        table, row = paper
        figures = {"table": table, "row": row, "retention": {} if table.vanilla is None else table.retention(row)}
    return {
        "scores": scores,
        "score_notes": list(dict.fromkeys(f"{score.heading}: {note}" for score in own for note in _notes(score))),
        "score_settings": sorted({f"{score.row.get('conv_mode')}, {score.row.get('dtype')}" for score in own}),
        "only_parts": bool(own) and all(score.row.get("size_note") for score in own),
        "paper": figures,
    }


def file_name(path: str) -> str:
    """The last part of a path of any system; a card does not say where a file lay."""
    kind: type[PurePath] = PureWindowsPath if "\\" in path else PurePosixPath
    return kind(path).name


def _training_rows(run: RunFacts) -> Iterable[tuple[str, str]]:
    if run.arguments is not None:
        yield from _model_rows(run.arguments)
        yield from _flag_rows(run, run.arguments.get("training", {}))
        yield from _outcome_rows(run.state or {})
        yield from _code_rows(run.arguments.get("provenance", {}))
        for plugin in run.arguments.get("plugins", []):
            yield "plug-in", f"`{plugin['name']}` (SHA-256 begins with `{plugin['sha256']}`)"


def _model_rows(arguments: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    model = arguments.get("model", {})
    yield "stage", f"`{arguments.get('stage')}`"
    if arguments.get("recipe"):
        yield "recipe", ", ".join(f"`{file_name(str(name))}`" for name in arguments["recipe"])
    for flag in ("compression", "version", "mm_projector_type"):
        if model.get(flag) is not None:
            yield f"`--{flag}`", f"`{model[flag]}`"
    if model.get("vision_tower"):
        yield "`--vision_tower`", f"`{file_name(model['vision_tower'])}`"


def _flag_rows(run: RunFacts, training: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    limited = training.get("max_steps", -1) > 0
    names = (*_TRAINING, *(_ADAPTERS if run.stage in ("lora", "qlora") else ()))
    names += tuple(name for flag, further in TUNING_FLAGS.items() if training.get(flag) for name in (flag, *further))
    for name in names:
        value = training.get(name)
        if value is None or value is False or name == ("num_train_epochs" if limited else "max_steps"):
            continue
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
        yield f"`--{name}`", f"`{shown}`"


def _outcome_rows(state: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    if "global_step" in state and "max_steps" in state:
        done, asked = state["global_step"], state["max_steps"]
        yield "steps", f"{done}" if done == asked else f"{done} of {asked}: the run was stopped before its end"
    losses = [entry["loss"] for entry in state.get("log_history", []) if "loss" in entry]
    if losses:
        yield "loss, first and last logged", f"{losses[0]:.4f}, {losses[-1]:.4f}"
    held_out = [entry["eval_loss"] for entry in state.get("log_history", []) if "eval_loss" in entry]
    if held_out:
        yield "held-out loss, last", f"{held_out[-1]:.4f}"


def _code_rows(made: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    if made.get("version"):
        yield "llava-visionzip", f"{made['version']}"
    if made.get("commit"):
        yield "commit", f"`{made['commit']}`" + (", with changes that are not in it" if made.get("modified") else "")
    packages = {"python": made.get("python"), **made.get("packages", {})}
    known = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    if known:
        yield "packages", known


def _notes(score: Score) -> Iterable[str]:
    row = score.row
    if row.get("size_note"):
        yield str(row["size_note"])
    counted = {
        "errors": "questions had no answer",
        "bad_rows": "rows of the data were left out",
        "truncated": "prompts were cut at the model's length",
    }
    for name, meaning in counted.items():
        if row.get(name):
            yield f"{len(row[name])} {meaning} (`{score.compression}`)"
    judge = row.get("judge") or {}
    if judge.get("model"):
        yield f"graded by {judge['model']}"
    for each in score.datasets:
        yield f"asked from {each['dataset']} at {each.get('revision', 'an unknown revision')}"
