"""Which checkpoints of a run are whole, and where it goes on."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava.train.run_key import difference_from

logger = logging.getLogger(__name__)

_STATE_NAME = "trainer_state.json"  # the trainer writes it after all else
_SEAL_NAME = "files.json"
_DEEPSPEED_MARK = "latest"  # DeepSpeed's note of the newest step in the folder


class CheckpointWriteError(OSError):
    """A checkpoint could not be written; the message says where, why, and what to do."""


def seal(folder: Path) -> None:
    """Notes the size of every file of a checkpoint, once all of them are on disk.

    A checkpoint counts as whole if it is sealed, its files have these sizes, and the trainer's state, which is
    written after the seal, can be read.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in files if path.name not in (_SEAL_NAME, _STATE_NAME)]
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    with (folder / _SEAL_NAME).open("w", encoding="utf-8") as file:
        file.write(json.dumps(sizes, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())


def unseal(folder: Path) -> None:
    """Takes the marks of a whole checkpoint off a folder that is about to be written again."""
    for name in (_STATE_NAME, _SEAL_NAME):
        (folder / name).unlink(missing_ok=True)


def why_not_whole(folder: Path) -> str | None:
    """What a checkpoint lacks; None if it is whole."""
    try:
        sizes = json.loads((folder / _SEAL_NAME).read_text(encoding="utf-8"))
        json.loads((folder / _STATE_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        return f"it has no {Path(error.filename).name}"
    except ValueError as error:
        return f"it is cut short: {error}"
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file():
            return f"it has no {name}"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    return None


def check_space(folder: Path, needed: int) -> None:
    """Compares the free space of a disk with what a run will write.

    Raises:
        CheckpointWriteError: It does not suffice.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointWriteError(
            f"the disk of --output_dir {folder} has {free / 1e9:.1f} GB free, a checkpoint and the result may take "
            f"{needed / 1e9:.1f} GB; free some or choose another"
        )


def checkpoint_to_resume(output_dir: str | Path, asked: str | None, key: Mapping[str, Any]) -> str | None:
    """Where to go on.

    Args:
        output_dir: Of the run.
        asked: `--resume_from_checkpoint`: a folder; `auto` or nothing for the last whole checkpoint of `output_dir`,
            as LLaVA does; `none` to start anew.
        key: Of the run, from `run_key`: the checkpoint must be of the same run.

    Raises:
        ValueError: The folder is no whole checkpoint, or the checkpoint is of another run.
    """
    if asked is not None and asked.lower() in ("none", "false"):
        return None
    if asked is None or asked.lower() in ("auto", "true"):
        found = _last_checkpoint(Path(output_dir), key)
        if found is None:
            return None
    else:
        found = Path(asked)
        lack = why_not_whole(found)
        if lack is not None:
            raise ValueError(f"--resume_from_checkpoint {asked} is no whole checkpoint: {lack}")
    difference = difference_from(found, key)
    if difference is not None:
        raise ValueError(
            f"{found} is of another run ({difference}); choose another --output_dir, "
            "or start anew with --resume_from_checkpoint none"
        )
    logger.info("resuming from %s", found)
    return str(found)


def check_processes(checkpoint: str | Path, processes: int, zero_stage: int | None) -> None:
    """Sees before anything is loaded whether DeepSpeed can go on from a checkpoint: each process reads its own part.

    Args:
        checkpoint: Whole, of the same run.
        processes: Of this run.
        zero_stage: Of this run; None without DeepSpeed.

    Raises:
        ValueError: It was written by another number of processes, or with another ZeRO stage, or only one of the two
            runs is under DeepSpeed.
    """
    folder = Path(checkpoint)
    anew = "or begin anew with --resume_from_checkpoint none"
    is_deepspeeds = (folder / _DEEPSPEED_MARK).is_file()
    if is_deepspeeds != (zero_stage is not None):
        written, advice = ("under", "give --deepspeed") if is_deepspeeds else ("without", "drop --deepspeed")
        raise ValueError(f"{folder} was written {written} DeepSpeed; {advice} as it was then, {anew}")
    if zero_stage is None:
        return
    parts = len(list(folder.glob("global_step*/*_optim_states.pt")))  # none where no ZeRO stage splits the optimizer
    if parts not in (0, processes):
        raise ValueError(
            f"{folder} was written by {parts} process(es) under DeepSpeed, and this run has {processes}: each reads "
            f"the part that it wrote. Start {parts}, {anew}"
        )
    is_stage_3 = any(folder.glob("global_step*/zero_pp_rank_*_model_states.pt"))
    if is_stage_3 != (zero_stage == 3):
        was = "ZeRO-3" if is_stage_3 else "a lower stage than ZeRO-3"
        raise ValueError(
            f"{folder} was written under {was}, and this run is under ZeRO-{zero_stage}; change it, {anew}"
        )


def steps_done(checkpoint: str | Path) -> tuple[int, int]:
    """How many optimizer steps a checkpoint has behind it, and how many its run was to have."""
    state = json.loads((Path(checkpoint) / _STATE_NAME).read_text(encoding="utf-8"))
    return int(state["global_step"]), int(state["max_steps"])


def checkpoint_of_result(last: str | Path, *, wants_best: bool) -> Path:
    """The checkpoint of a finished run that its result is made of.

    Args:
        last: The last one of the run.
        wants_best: `--load_best_model_at_end`. The best one lies beside the last, wherever the run was moved since.

    Raises:
        ValueError: The best one is gone, or not whole.
    """
    last = Path(last)
    best = json.loads((last / _STATE_NAME).read_text(encoding="utf-8")).get("best_model_checkpoint")
    if not wants_best or best is None:
        return last
    found = last.with_name(Path(best).name)
    lack = why_not_whole(found)
    if lack is not None:
        raise ValueError(
            f"the run in {last.parent} is complete, and its result is that of {found}, of which nothing can be made "
            f"again: {lack}. Put it back, or take the last one with --load_best_model_at_end False"
        )
    return found


def _last_checkpoint(output_dir: Path, key: Mapping[str, Any]) -> Path | None:
    """The last whole one of this run; of another run, if there is none of this one."""
    of_another_run = None
    numbered = [path for path in output_dir.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    for path in sorted(numbered, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        lack = why_not_whole(path)
        if lack is not None:
            logger.warning("%s is not whole and is left aside: %s", path, lack)
        elif difference_from(path, key) is None:
            return path
        else:
            of_another_run = of_another_run or path
    return of_another_run
