"""Tasks x budgets -> answers on disk and a row of results each. The loaded model is shared by all budgets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm import tqdm

from llava.eval.answers import AnswerFile
from llava.eval.results import Row, identity, read_results, write_results
from llava.eval.run_key import RunKey, compression_file_name, compression_name, prompts_fingerprint
from llava.eval.tasks import LoadedTask, Sample, Task, TaskDataError
from llava.inference import GenerationOptions, Inference, Question
from llava.latency import measure_latency
from llava.model.configuration import CompressionConfig

_TIMINGS = ("vision_ms", "prefill_ms", "seconds", "encodes_saved")


@dataclass(frozen=True)
class RunSettings:
    """What a run needs beside model, tasks and budgets.

    Attributes:
        output_dir: Where `answers/` and `results.json` go.
        fingerprint: Fingerprint of the model's files (`model_fingerprint`).
        data_root: Folder of the tasks' files; by default each task's own.
        batch_size: Questions a batch.
        limit: Only the first so many samples of each task; answers of more samples on disk are kept.
        latency_repeats: Runs that the medians vision_ms and prefill_ms stand on; 0 measures neither.
        progress: Whether a progress bar is shown.
    """

    output_dir: Path
    fingerprint: str
    data_root: Path | None = None
    batch_size: int = 8
    limit: int | None = None
    latency_repeats: int = 11
    progress: bool = True

    @property
    def results_path(self) -> Path:
        """Where the rows go."""
        return self.output_dir / "results.json"


@dataclass
class TaskResult:
    """A row of results, and what each sample earned (0 to 1), for paired comparisons."""

    row: Row
    earned: dict[str, float] = field(default_factory=dict)


def evaluate(
    inference: Inference,
    tasks: Sequence[Task],
    compressions: Sequence[CompressionConfig | None],
    settings: RunSettings,
) -> list[TaskResult]:
    """Runs every task under every budget, and writes `results.json` after each.

    Args:
        inference: The model; its compression is set to each budget in turn and put back at the end.
        tasks: The tasks.
        compressions: The budgets; None is vanilla. Retention is told where vanilla is among the results.
        settings: Where and how.

    Returns:
        A result per task and budget, in this order.

    Raises:
        TaskDataError: A task's files are missing, or not one of its images can be read.
        RunKeyMismatch: The output folder holds answers or results that were made otherwise.
        ValueError: `results.json` in the output folder is something else.
    """
    read_results(settings.results_path, settings.fingerprint)  # a file that cannot be added to is told now
    before = inference.model.compression
    results: list[TaskResult] = []
    rows: list[Row] = []
    try:
        for task in tasks:
            loaded = task.load(settings.data_root or task.default_data_root)
            for compression in compressions:
                inference.model.set_compression(compression)
                result = _TaskRun(inference, task, loaded, compression, settings).run()
                results.append(result)
                rows = write_results(settings.results_path, [result.row], settings.fingerprint)
    finally:
        inference.model.set_compression(before)
    with_retention = {identity(row): row for row in rows}
    for result in results:
        result.row = with_retention[identity(result.row)]
    return results


@dataclass(frozen=True)
class _TaskRun:
    """One task under one budget."""

    inference: Inference
    task: Task
    loaded: LoadedTask
    compression: CompressionConfig | None
    settings: RunSettings

    @property
    def name(self) -> str:
        return compression_name(self.compression)

    @property
    def options(self) -> GenerationOptions:
        return GenerationOptions(max_new_tokens=self.task.max_new_tokens)

    def run(self) -> TaskResult:
        samples = self.loaded.samples[: self.settings.limit]
        path = (
            self.settings.output_dir / "answers" / self.task.name / f"{compression_file_name(self.compression)}.jsonl"
        )
        key = self._key()
        answers = AnswerFile(path, key)
        todo = [sample for sample in samples if sample.sample_id not in answers.answers]
        start = time.perf_counter()
        errors = self._answer(todo, answers) if todo else {}
        seconds = time.perf_counter() - start
        if samples and len(errors) == len(samples):
            first = next(iter(errors.values()))
            raise TaskDataError(
                f"{self.task.name}: not one of {len(samples)} questions could be asked, the first is {first}; "
                "are the images where --data-root (or LLAVA_EVAL_DATA) says?"
            )

        rows = {s.sample_id: answers.answers[s.sample_id] for s in samples if s.sample_id in answers.answers}
        texts = {sample_id: row["text"] for sample_id, row in rows.items()}
        visual_tokens = [row["visual_tokens"] for row in rows.values()]
        row: Row = {
            "task": self.task.name,
            "method": self.compression.method if self.compression else "none",
            "compression": self.name,
            "tokens": _exact_or_mean(visual_tokens),
            **self.task.score(samples, texts),
            "n": len(samples),
            "prompts": key.prompts,
            "conv_mode": key.conv_mode,
            "dtype": key.dtype,
            "generation": key.generation,
            "errors": list(errors.values()),
            "bad_rows": self.loaded.bad_rows,
            "truncated": [sample_id for sample_id, answer in rows.items() if answer.get("truncated")],
            "seconds": round(seconds, 3),
            "encodes_saved": self.inference.usage.encodes_saved if todo else 0,
        }
        row |= self._timings([s for s in samples if s.sample_id in texts], row, fresh=bool(todo))
        earned = {s.sample_id: self.task.is_correct(s, texts.get(s.sample_id, "")) for s in samples}
        return TaskResult(row, earned)

    def _answer(self, todo: Sequence[Sample], answers: AnswerFile) -> dict[str, str]:
        """Asks, appending answers as they come; returns the samples that cannot be read, with the reason."""
        errors: dict[str, str] = {}
        stream = self.inference.ask(
            [_question(sample) for sample in todo],
            batch_size=self.settings.batch_size,
            options=self.options,
            skip_errors=True,
        )
        label = f"{self.task.name} {self.name}"
        with answers:
            for answer in tqdm(stream, total=len(todo), desc=label, unit="q", disable=not self.settings.progress):
                sample = todo[answer.index]
                if answer.error is None:
                    more = {"answer": sample.answer, "visual_tokens": answer.visual_tokens}
                    more |= {"truncated": True} if answer.truncated else {}
                    answers.append(sample.sample_id, answer.text, **more)
                else:
                    errors[sample.sample_id] = f"{sample.sample_id}: {answer.error}"
                    tqdm.write(f"{label}: no answer to {errors[sample.sample_id]}")
        answers.finish([sample.sample_id for sample in self.loaded.samples])
        return errors

    def _timings(self, readable: Sequence[Sample], row: Row, fresh: bool) -> Row:
        """Latency of the first sample with an image; the earlier row's figures if nothing was answered now."""
        if not fresh:
            earlier = {identity(r): r for r in read_results(self.settings.results_path, self.settings.fingerprint)}
            known = earlier.get(identity(row), {})
            kept = {name: known[name] for name in _TIMINGS if name in known}
            if "vision_ms" in kept or not self.settings.latency_repeats:
                return kept
        sample = next((sample for sample in readable if sample.images), None)
        if not self.settings.latency_repeats or sample is None:
            return {}
        latency = measure_latency(self.inference, _question(sample), repeats=self.settings.latency_repeats)
        return {"vision_ms": round(latency.vision_ms, 3), "prefill_ms": round(latency.prefill_ms, 3)}

    def _key(self) -> RunKey:
        return RunKey(
            task=self.task.name,
            model=self.settings.fingerprint,
            compression=self.compression.to_dict() if self.compression else None,
            conv_mode=self.inference.conv_mode,
            prompts=prompts_fingerprint(self.loaded.samples),
            generation=asdict(self.options),
            dtype=str(self.inference.model.dtype),
        )


def _question(sample: Sample) -> Question:
    return Question(sample.prompt, tuple(sample.images))


def _exact_or_mean(counts: Sequence[int]) -> int | float:
    """Visual tokens a question: the number if all have the same, else the mean."""
    if len(set(counts)) <= 1:
        return counts[0] if counts else 0
    return sum(counts) / len(counts)
