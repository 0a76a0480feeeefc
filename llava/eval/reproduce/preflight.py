"""What is looked at before anything is downloaded. It needs no package: it runs before they are installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from llava.eval.reproduce.plan import JUDGED, Plan, read_terms

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy", "PIL", "sentencepiece")
_HALF = 2  # bytes of a weight
_GIB = 2**30
_WORKING_GIB = 2.0  # beside the weights: cache and activations of one question; an allowance, not a measurement

Status = Literal["ok", "note", "fails"]


@dataclass(frozen=True)
class Check:
    """What was looked at, and what was found."""

    name: str
    status: Status
    text: str

    def __str__(self) -> str:
        return f"  {self.name:9} {'' if self.status == 'ok' else f'{self.status.upper()}: '}{self.text}"


@dataclass(frozen=True)
class Gpu:
    """A GPU, as nvidia-smi lists it, its memory in GiB."""

    name: str
    total: float
    free: float


@dataclass(frozen=True)
class DataState:
    """What is known of the benchmarks' files.

    Attributes:
        missing: Benchmarks that are not here, or not whole.
        archive_bytes: Of their files, as far as the publishers say.
        unknown: Files whose size is not known.
        questions: Of each benchmark that is here.
    """

    missing: Sequence[str]
    archive_bytes: int = 0
    unknown: Sequence[str] = ()
    questions: Mapping[str, int] = field(default_factory=dict)


def lacking_packages() -> list[str]:
    """Packages that an evaluation needs and that are not installed."""
    return [name for name in _PACKAGES if find_spec(name) is None]


def preflight(plan: Plan, found: Sequence[Gpu], data: DataState | None, *, will_install: bool = False) -> list[Check]:
    """All checks, in order.

    Args:
        plan: What is to be done.
        found: The GPUs.
        data: What is here of the benchmarks; None where it cannot be looked at, for packages lack.
        will_install: Whether packages that lack are installed next.
    """
    checks = [_packages(lacking_packages(), will_install), _gpu(plan, found)]
    checks += [_model(variable, name, plan) for variable, name in _checkpoints(plan).items()]
    return [*checks, *_data(plan, data), *_terms(plan), _judge(plan), _time(plan, data)]


def _packages(lacking: Sequence[str], will_install: bool) -> Check:
    if not lacking:
        return Check("packages", "ok", "all there")
    how = "scripts/setup.sh installs them" if will_install else "run bash scripts/setup.sh"
    return Check("packages", "note" if will_install else "fails", f"{', '.join(lacking)} lack; {how}")


def _gpu(plan: Plan, found: Sequence[Gpu]) -> Check:
    if plan.device == "cpu":
        return Check("GPU", "note", "DEVICE=cpu: none is used; a whole table takes very long")
    if not found:
        return Check("GPU", "fails", "nvidia-smi lists none; DEVICE=cpu does without, slowly")
    sizes = {name: _weights_gib(name, plan) for name in _checkpoints(plan).values()}
    if unknown := [name for name, size in sizes.items() if size is None]:
        return Check("GPU", "ok", f"{_shown(found)}; the size of {' and '.join(unknown)} is not known")
    weights = sum(size or 0.0 for size in sizes.values())
    need, used = weights + _WORKING_GIB, found[: plan.processes]
    short = len(used) < plan.processes or any(gpu.free < need for gpu in used)
    text = (
        f"{_shown(used)}; needed: {plan.processes} with {weights:.1f} GiB of weights and {_WORKING_GIB:g} to work with"
    )
    return Check("GPU", "fails" if short else "ok", text)


def _shown(found: Sequence[Gpu]) -> str:
    return ", ".join(f"{gpu.name} with {gpu.free:.1f} of {gpu.total:.1f} GiB free" for gpu in found)


def gpus() -> list[Gpu]:
    """Those that this process may use, as nvidia-smi lists them; none where it is not there."""
    query = ["nvidia-smi", "--query-gpu=index,name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()
        cells = [[cell.strip() for cell in line.split(",")] for line in lines if line.strip()]
        visible = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each.strip()]
        return [
            Gpu(name, float(total) / 1024, float(free) / 1024)
            for index, name, total, free in cells
            if not visible or index in visible or not all(each.isdigit() for each in visible)
        ]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def _checkpoints(plan: Plan) -> dict[str, str]:
    """What is loaded, by the variable that names it: MODEL, and BASE where it goes on one."""
    return {"MODEL": plan.model} | ({"BASE": plan.base} if plan.base else {})


def _weights_gib(name: str, plan: Plan) -> float | None:
    """GiB of a checkpoint's weights in half precision; None where they are not known."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        files = [file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin")]
        return sum(file.stat().st_size for file in files) / _GIB
    return plan.recipe.parameters * _HALF / _GIB if name == plan.recipe.model else None


def _model(variable: str, name: str, plan: Plan) -> Check:
    """Whether a checkpoint is here, or there is room for it."""
    folder, size = Path(name).expanduser(), _weights_gib(name, plan)
    if folder.is_dir():
        if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
            return Check("model", "fails", f"{variable}={name}: the folder has no config.json")
        return Check("model", "ok", f"{name}, {size or 0.0:.2f} GiB here")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        return Check("model", "fails", f"{variable}={name}: there is no such folder")
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "hub")
    if (cache.expanduser() / f"models--{name.replace('/', '--')}").is_dir():
        return Check("model", "ok", f"{name}, in {cache}; what lacks of it is downloaded")
    if size is None:
        return Check("model", "note", f"{name} is downloaded from the Hub to {cache}; its size is not known")
    return _with_room("model", f"{name}: {size:.1f} GiB are downloaded from the Hub", cache.expanduser(), size)


def _data(plan: Plan, data: DataState | None) -> Iterator[Check]:
    """What is here of the benchmarks, and what the rest needs of the disk."""
    if data is None:
        yield Check("data", "note", "not looked at: packages lack")
        return
    here = [task for task in plan.tasks if task not in data.missing]
    if here:
        yield Check("data", "ok", f"here in {plan.data}: {', '.join(here)}")
    if data.missing:
        yield Check("data", "note", f"to be downloaded to {plan.data}: {', '.join(data.missing)}")
    if data.unknown:
        yield Check("disk", "note", f"sizes that are not known: {', '.join(data.unknown)}")
    size = data.archive_bytes / _GIB
    if size or not data.missing:  # an archive, and what is unpacked of it
        text = f"{size:.1f} GiB of archives, and as much unpacked" if size else "nothing to be downloaded"
        yield _with_room("disk", text, plan.data, 2 * size)


def _with_room(name: str, text: str, folder: Path, need: float) -> Check:
    """Whether the disk of a folder has so many GiB."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free / _GIB
    return Check(name, "ok" if free >= need else "fails", f"{text}; {free:.1f} GiB are free at {there}")


def _terms(plan: Plan) -> Iterator[Check]:
    """Licences and terms; whoever goes on accepts them."""
    terms = read_terms()
    named = [(name, terms["models"].get(name)) for name in _checkpoints(plan).values()]
    named += [(task, terms["tasks"].get(task)) for task in plan.tasks]
    for name, found in named:
        said = f"{found[0]}; to be accepted at {found[1]}" if found else "not listed here; whoever gave it says"
        yield Check("terms", "ok", f"{name}: {said}")


def _judge(plan: Plan) -> Check:
    judged = [task for task in plan.tasks if task in JUDGED]
    if not judged:
        return Check("judge", "ok", "not needed")
    if plan.judge_url:
        return Check("judge", "ok", f"{plan.judge_model} grades {', '.join(judged)}; its replies may cost money")
    return Check("judge", "note", f"none: {', '.join(judged)} stay without a score; give JUDGE_URL and JUDGE_MODEL")


def _time(plan: Plan, data: DataState | None) -> Check:
    found = estimate(plan, {} if data is None else data.questions)
    if found is None:
        how = "the pilot measures it once model and data are here" if plan.pilot else "PILOT=0 measures nothing"
        return Check("time", "note", f"not known: {how}")
    return Check("time", "ok", found)


def estimate(plan: Plan, questions: Mapping[str, int]) -> str | None:
    """How long all questions take, from the measured seconds of the pilot; None before it.

    Args:
        plan: What is to be done.
        questions: Of each benchmark.
    """
    try:
        rows = json.loads((plan.output / "pilot" / "results.json").read_text(encoding="utf-8"))["rows"]
        timed = {row["task"]: row for row in rows if row["answered"]}
        a_question = {task: timed[task]["seconds"] / timed[task]["answered"] for task in plan.tasks}
        sizes = {task: min(questions[task], plan.limit or questions[task]) for task in plan.tasks}
        asked = sum(timed[task]["answered"] for task in plan.tasks)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    runs = len(plan.budgets) + 1
    hours = runs * sum(a_question[task] * sizes[task] for task in plan.tasks) / 3600
    return (
        f"about {hours:.2f} h for {sum(sizes.values())} questions under {runs} budgets, loading left out; measured on "
        f"this machine: {asked} questions of the pilot, with all tokens, by one evaluation"
    )
