"""From a checkpoint to a table: the tiny LLaVA asked, tuned and measured with all its visual tokens and with few.

Every step is skipped when its result is there and its inputs have not changed, so an interrupted run goes on.
`scripts/quickstart.sh` makes the environment and calls this.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from table import Row, mean_earned, print_table, report_table, rows_of

if TYPE_CHECKING:
    from llava.eval.report.table import Table
    from llava.inference import Answer, Inference
    from llava.model.configuration import CompressionConfig

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
FRACTIONS = (0.50, 0.25, 0.10)
TUNED_FRACTIONS = (0.10,)
RANDOM_SEEDS = (0, 1, 2)
# A model of 128 channels wants larger steps than a 7B model, and more of them.
TUNING = {"EPOCHS": "3", "LR": "1e-3", "GLOBAL_BATCH": "32", "BATCH": "32", "WARMUP": "0.03"}
TUNING |= {"SEED": "42", "VERSION": "v1", "ASPECT": "pad", "MAX_LENGTH": "512", "BF16": "False", "CPU": "True"}
TUNING |= {"CHECKPOINTING": "False", "WORKERS": "0", "SCHEDULER": "cosine", "WEIGHT_DECAY": "0."}
TUNING |= {"SAVE_STEPS": "250", "SAVE_LIMIT": "1", "LOG_STEPS": "10", "REPORT_TO": "none"}
TUNING |= {"LAUNCHER": "python", "LAUNCHER_ARGS": "", "DEEPSPEED_CONFIG": ""}  # one process, without DeepSpeed
TUNING |= dict.fromkeys(("RECIPE", "HARDWARE", "SIZE", "TOKENS", "LLM", "TOWER", "PROJECTOR", "EVAL_DATA"), "")
TUNING |= dict.fromkeys(("COMPRESSION_SCHEDULE", "COMPRESSION_START", "COMPRESSION_SHARE", "COMPRESSION_DRAW"), "")
TUNING |= dict.fromkeys(("DISTILL_FROM", "DISTILL_WEIGHT", "DISTILL_TEMPERATURE", "DISTILL_TEACHER"), "")
TUNING |= {"FP16": "", "DRY_RUN": ""}  # an empty variable is one that is not set
KINDS_SHOWN = ("which", "where", "colour")


@dataclass(frozen=True)
class Settings:
    """What the command line says.

    Attributes:
        model: The tiny checkpoint.
        data: Folder of `make_data.py`'s output.
        out: Where everything goes.
        questions: Held-out questions a row of the table.
        pope: Held-out yes/no questions.
        fraction: Share of the conversations that the projector is tuned on.
        batch_size: Questions a batch.
        crowded: Questions about crowded scenes, where methods differ more.
    """

    model: Path
    data: Path
    out: Path
    questions: int
    pope: int
    fraction: float
    batch_size: int
    crowded: int


@dataclass(frozen=True)
class Measured:
    """An output folder of the evaluation.

    Attributes:
        folder: Where answers and results are.
        earned: What each question of tiny_vqa earned, by budget, for each seed.
    """

    folder: Path
    earned: dict[str, list[dict[str, float]]] = field(default_factory=dict)


def main() -> int:
    """Runs all steps; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=HERE / "model")
    parser.add_argument("--data", type=Path, default=HERE / "data")
    parser.add_argument("--out", type=Path, default=HERE / "out")
    parser.add_argument("--questions", type=int, default=2000, help="held-out questions a row (default 2000)")
    parser.add_argument("--pope", type=int, default=500, help="held-out yes/no questions a row (default 500)")
    parser.add_argument("--fraction", type=float, default=0.1, help="share of the conversations tuned on (default 0.1)")
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--crowded", type=int, default=300, help="questions about crowded scenes (default 300)")
    given = vars(parser.parse_args())
    for name in ("questions", "pope", "batch_size", "crowded"):
        if given[name] < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {given[name]}")
    if not 0 < given["fraction"] <= 1:
        parser.error(f"--fraction must be above 0 and at most 1, got {given['fraction']}")
    if not (given["model"] / "config.json").is_file():
        parser.error(f"--model {given['model']}: there is no config.json in it; name a LLaVA checkpoint's folder")
    settings = Settings(
        **{name: value.resolve() if isinstance(value, Path) else value for name, value in given.items()}
    )
    # Two busy-waiting threads slow a tiny model many times over; must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    start = time.perf_counter()
    settings.out.mkdir(parents=True, exist_ok=True)
    announce("1/7 data", f"scenes of handwritten digits in {shown(settings.data)}")
    make_data(settings)

    from llava.inference import Inference

    inference = Inference.load(settings.model, device="cpu", torch_dtype="float32", compression="none")
    budgets = [budget(inference, fraction) for fraction in FRACTIONS]
    announce("2/7 ask", "one question with ever fewer visual tokens")
    ask_one_question(inference, settings, budgets)
    announce("3/7 measure", f"{settings.questions} held-out questions, training-free")
    measured = measure(inference, settings, budgets)
    announce("4/7 tune", "the projector alone, with scripts/v1_5/visionzip_tune.sh")
    tuned = {b: tune(settings, b) for b in (budget(inference, fraction) for fraction in TUNED_FRACTIONS)}
    announce("5/7 measure", "the same questions with the tuned projector")
    measured_tuned = [measure_tuned(settings, compression, projector) for compression, projector in tuned.items()]
    announce("6/7 report", f"in {shown(settings.out)}")
    table = report_table(measured.folder, [each.folder for each in measured_tuned], settings.data)
    earned: dict[tuple[Path, str], dict[str, float]] = {}
    for each in (measured, *measured_tuned):
        earned |= {(each.folder, budget): mean_earned(seeds) for budget, seeds in each.earned.items()}
    rows = rows_of(table, earned, pictures(settings))
    add_latency(inference, settings, rows)
    write_results(settings, rows)
    report(inference, settings, budgets, table, rows)
    print_table(rows)
    announce("7/7 crowded", "the other world, where methods differ: playground/crowded")
    show_crowded(settings)
    print(f"\n{shown(settings.out / 'report.html')}   ({time.perf_counter() - start:.0f} s)")
    return 0


# --- steps -----------------------------------------------------------------------------------------------------------


def make_data(settings: Settings) -> None:
    """Paints the scenes; `make_data.py` itself knows whether they are there."""
    run([sys.executable, str(HERE / "make_data.py"), "--output", str(settings.data)], {})


def ask_one_question(inference: Inference, settings: Settings, budgets: Sequence[CompressionConfig]) -> None:
    """Prints the answers to one question with all tokens and under each budget."""
    row = shown_questions(settings)[0]
    print(f"{row['image']}: {row['text']}   (truth: {row['answer']})")
    for compression in (None, *budgets):
        inference.model.set_compression(compression)
        answer = answer_briefly(inference, row["text"], settings.data / "images" / row["image"])
        share = answer.visual_tokens / inference.model.num_patches
        print(f"  {answer.visual_tokens:>4} visual tokens ({share:>4.0%}): {answer.text}")
    inference.model.set_compression(None)


def measure(inference: Inference, settings: Settings, budgets: Sequence[CompressionConfig]) -> Measured:
    """Vanilla, VisionZip, an even grid and, three times over, random."""
    from llava.model.configuration import CompressionConfig

    rivals = [CompressionConfig("uniform", b.num_tokens, 0) for b in budgets]
    rivals += [CompressionConfig("random", b.num_tokens, 0, seed=seed) for b in budgets for seed in RANDOM_SEEDS]
    measured = Measured(settings.out / "eval" / run_name(settings, settings.model) / "model")
    evaluate_task("tiny_vqa", inference, settings, [None, *budgets, *rivals], measured)
    evaluate_task("tiny_pope", inference, settings, [None, *budgets], measured)
    return measured


def tune(settings: Settings, compression: CompressionConfig) -> Path:
    """Tunes the projector under a budget with the project's own script; returns the folder that it leaves."""
    folder = settings.out / f"tuned-{compression.dominant}+{compression.contextual}"
    started, finished = folder / ".made_from", folder / ".finished"
    environment = tuning_environment(settings, compression, folder)
    inputs = [
        settings.model / "config.json",
        *sorted(settings.model.glob("*.safetensors")),
        settings.data / "train.json",
    ]
    key = fingerprint(inputs, extra=json.dumps(environment, sort_keys=True))
    if not started.exists() or started.read_text() != key:
        shutil.rmtree(folder, ignore_errors=True)  # the script would go on from checkpoints of another tuning
        folder.mkdir(parents=True)
        started.write_text(key)
    if finished.exists():
        print(f"already there: {shown(folder)}")
        return folder
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # the script calls python by name
    run(["bash", str(REPOSITORY / "scripts/v1_5/visionzip_tune.sh")], environment | {"PATH": path})
    finished.touch()
    return folder


def measure_tuned(settings: Settings, compression: CompressionConfig, projector: Path) -> Measured:
    """The tuned projector under the budget that it was tuned for."""
    from llava.inference import Inference

    inference = Inference.load(projector, settings.model, device="cpu", torch_dtype="float32", compression=compression)
    measured = Measured(settings.out / "eval" / run_name(settings, projector, settings.model) / "tuned")
    for task in ("tiny_vqa", "tiny_pope"):
        evaluate_task(task, inference, settings, [compression], measured)
    return measured


def report(
    inference: Inference, settings: Settings, budgets: Sequence[CompressionConfig], table: Table, rows: Sequence[Row]
) -> None:
    """The evaluation's report.md and report.csv; pictures of what is kept, the curve and the table."""
    from page import write_page

    from llava.analysis.kept_tokens.draw import Scene
    from llava.analysis.kept_tokens.find import find_kept_tokens
    from llava.eval.report.files import to_csv, to_markdown

    (settings.out / "report.md").write_text(to_markdown(table), encoding="utf-8")
    (settings.out / "report.csv").write_text(to_csv(table), encoding="utf-8")
    scenes = []
    for question in shown_questions(settings):
        image = settings.data / "images" / question["image"]
        panels = []
        for compression in budgets:
            inference.model.set_compression(compression)
            kept = find_kept_tokens(inference, image, compression)
            panels.append((kept, answer_briefly(inference, question["text"], image).text))
        scenes.append(Scene(question["text"], question["answer"], tuple(panels)))
    inference.model.set_compression(None)
    notes = (
        f"{rows[0]['n']} held-out questions about scenes of real handwritten digits. random: mean of "
        f"{len(RANDOM_SEEDS)} seeds; uniform: an even grid. Green: patches kept; orange: merged tokens, with the "
        "number of tokens in each. Bars: 95 % intervals of a paired bootstrap over the pictures."
    )
    write_page(settings.out, table, rows, scenes, notes)


def show_crowded(settings: Settings) -> None:
    """The table of the committed answers, and some questions asked now."""
    command = [sys.executable, "-m", "playground.crowded.show", "--questions", str(settings.crowded)]
    run([*command, "--out", str(settings.out / "crowded")], {})


# --- the results -----------------------------------------------------------------------------------------------------


def add_latency(inference: Inference, settings: Settings, rows: Sequence[Row]) -> None:
    """Milliseconds of one question, all budgets measured in turns; tuning changes weights and no shape."""
    from llava.inference import Question
    from llava.inference.latency import compare_latency

    forms = [row["compression"] for row in rows]
    asked = shown_questions(settings)[0]
    question = Question(asked["text"], (settings.data / "images" / asked["image"],))
    budgets = list(dict.fromkeys(forms))
    costs = dict(zip(budgets, compare_latency(inference, question, budgets), strict=True))
    for row, form in zip(rows, forms, strict=True):
        row |= {"vision_ms": round(costs[form].vision_ms, 3), "prefill_ms": round(costs[form].prefill_ms, 3)}


def write_results(settings: Settings, rows: Sequence[Row]) -> None:
    """`quickstart.json`, whole or not at all; the evaluation's own `results.json` are below `eval/`."""
    from llava.eval.results import package_versions

    run_facts = {"model": shown(settings.model), "versions": package_versions(), "device": "cpu", "dtype": "float32"}
    path = settings.out / "quickstart.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"run": run_facts, "rows": list(rows)}, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)


# --- small helpers ---------------------------------------------------------------------------------------------------


def budget(inference: Inference, fraction: float) -> CompressionConfig:
    """VisionZip's budget for a fraction of the patches, split between dominant and contextual as in the paper."""
    from llava.model.configuration import CompressionConfig

    return CompressionConfig.from_total(round(fraction * inference.model.num_patches))


def answer_briefly(inference: Inference, text: str, image: Path) -> Answer:
    """A greedy answer of few words."""
    from llava.inference import GenerationOptions

    return inference.ask_one(text, image, options=GenerationOptions(max_new_tokens=16))


def evaluate_task(
    name: str,
    inference: Inference,
    settings: Settings,
    compressions: Sequence[CompressionConfig | None],
    measured: Measured,
) -> None:
    """Runs the evaluation's own runner, which writes answers and results into the folder."""
    from llava.eval.answers_key import without_seed
    from llava.eval.runner import RunSettings, evaluate
    from llava.eval.tasks import get_task
    from llava.model.checkpoints.fingerprint import model_fingerprint

    run_settings = RunSettings(
        output_dir=measured.folder,
        fingerprint=model_fingerprint(settings.model) + measured.folder.parent.name,
        data_root=settings.data,
        batch_size=settings.batch_size,
        limit=settings.questions if name == "tiny_vqa" else settings.pope,
        latency_repeats=0,
    )
    for result in evaluate(inference, [get_task(name)], compressions, run_settings):
        if name == "tiny_vqa":
            measured.earned.setdefault(without_seed(result.row["compression"]), []).append(result.earned)


def tuning_environment(settings: Settings, compression: CompressionConfig, folder: Path) -> dict[str, str]:
    """Every variable of the tuning script, so that none of the user's environment reaches it."""
    return {
        "CKPT": str(settings.model),
        "DATA": str(settings.data / "train.json"),
        "IMAGES": str(settings.data / "images"),
        "OUTPUT": str(folder),
        "COMPRESSION": str(compression),
        "FRACTION": str(settings.fraction),
    } | TUNING


def pictures(settings: Settings) -> dict[str, str]:
    """The picture of each held-out question, by the question's id."""
    rows = json.loads((settings.data / "eval_vqa.json").read_text())
    return {str(row["question_id"]): row["image"] for row in rows}


def shown_questions(settings: Settings) -> list[dict[str, Any]]:
    """The first held-out question of each kind in KINDS_SHOWN."""
    rows = json.loads((settings.data / "eval_vqa.json").read_text())
    return [next(row for row in rows if row["kind"] == kind) for kind in KINDS_SHOWN]


def run_name(settings: Settings, *models: Path) -> str:
    """A folder's name for answers: another model, other questions or another number of them get another folder."""
    files = [path for model in models for path in (model / "config.json", *sorted(model.glob("*.safetensors")))]
    files += [settings.data / "eval_vqa.json", settings.data / "eval_pope.json"]
    return fingerprint(files, extra=f"{settings.questions} {settings.pope}")


def fingerprint(files: Sequence[Path], extra: str = "") -> str:
    """A short hash of files' contents."""
    digest = hashlib.sha256(extra.encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def run(command: Sequence[str], environment: dict[str, str]) -> None:
    """Runs a command, its output shown; ends with its message if it fails."""
    done = subprocess.run(command, env=os.environ | environment, cwd=REPOSITORY, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with exit status {done.returncode}; mend it and run again to go on")


def announce(step: str, text: str) -> None:
    """The heading of a step."""
    print(f"\n== {step}: {text}", flush=True)


def shown(path: Path) -> str:
    """A path as short as it can be told."""
    return os.path.relpath(path)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the same command goes on from here")
