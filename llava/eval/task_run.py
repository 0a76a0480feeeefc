"""One task under one budget: ask what has no answer yet, score, and make the row of results.

What one question is called on its way:

- a *row* (or line) of the benchmark's file, as its publisher wrote it;
- a `Sample`, which a task's `load` makes of it: id, the user's text (`prompt`), images, reference answer;
- a `Question`, the text and images of a sample, which is all that `Inference.ask` takes;
- the *prompt* proper, the question in its conversation template (`Inference.prompt`), then its token ids
  (`llava.inference.order.Prepared`), then these with the features of its images (`llava.inference.generation.Prompt`);
- an `Answer`, and its line in `answers/<task>/<compression>.jsonl`.

A *row* of results.json (`Row`) is about a task and a budget, not about a question.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from tqdm import tqdm

from llava.eval.answers import AnswerFile, AnswerRow, AnswerStore
from llava.eval.answers_key import (
    AnswersKey,
    compression_file_name,
    compression_name,
    prompts_fingerprint,
    references_fingerprint,
    rounded_type,
    used_plugins,
    weights_of,
)
from llava.eval.asked import question_of
from llava.eval.in_flight import InFlight
from llava.eval.latency_row import LATENCY_FIELDS, latency_fields
from llava.eval.parallel import Workers
from llava.eval.results import Row, identity, read_results
from llava.eval.sources.parquet_source import ParquetSource
from llava.eval.tasks import LoadedTask, Sample, Scores, Task, TaskDataError
from llava.eval.tasks.own_file import ROW_FIELD
from llava.inference import Answer, GenerationOptions, Inference
from llava.inference.latency import measure_latency
from llava.locks import InUseError, only_one
from llava.model.configuration import CompressionConfig
from llava.model.stages import methods_of
from llava.results.rows import main_value, token_counts
from llava.results.task_facts import FIELD

_ERRORS_SHOWN = 10  # while it runs; results.json has them all


class LostAnswersError(Exception):
    """Another process's answers are not where they should be."""


@dataclass(frozen=True)
class RunSettings:
    """What a run needs beside model, tasks and budgets.

    Attributes:
        output_dir: Where `answers/` and `results.json` go.
        fingerprint: Fingerprint of the model's files (`model_fingerprint`).
        data_root: Folder of the tasks' files; by default each task's own.
        batch_size: Questions a batch; None finds as many as the memory takes.
        limit: Only the first so many samples of each task; answers of more samples on disk are kept.
        latency_repeats: Runs that the medians vision_ms and prefill_ms stand on; 0 measures neither.
        progress: Whether a progress bar is shown.
        workers: This process among those that share the work.
        source: Where tasks that it has are taken from, instead of `data_root`.
        image_root: Where images may lie that are outside the tasks' folder.
        tuned_for: The compression that the model's weights were tuned under, "" for none; None where nobody has looked.
    """

    output_dir: Path
    fingerprint: str
    data_root: Path | None = None
    batch_size: int | None = 8
    limit: int | None = None
    latency_repeats: int = 11
    progress: bool = True
    workers: Workers = field(default_factory=Workers)
    source: ParquetSource | None = None
    image_root: Path | None = None
    tuned_for: str | None = None

    @property
    def results_path(self) -> Path:
        """Where the rows go."""
        return self.output_dir / "results.json"


@dataclass
class TaskResult:
    """A row of results, and what each sample earned (0 to 1), for paired comparisons."""

    row: Row
    earned: dict[str, float] = field(default_factory=dict)


@dataclass
class Effort:
    """What a process has done for a task: how many it asked, which it could not, and the cost."""

    asked: int = 0
    errors: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    encodes_saved: int = 0
    images_from_store: int = 0


@dataclass(frozen=True)
class TaskRun:
    """One task under one budget; the model has the budget set.

    Attributes:
        data_root: Folder that the samples are from.
        data: Datasets and revisions that the samples are from; None for local files.
    """

    inference: Inference
    task: Task
    loaded: LoadedTask
    compression: CompressionConfig | None
    settings: RunSettings
    data_root: Path | None = None
    data: list[dict[str, str]] | None = None

    @property
    def name(self) -> str:
        """Task and budget in messages."""
        return f"{self.task.name} {compression_name(self.compression)}"

    @property
    def samples(self) -> list[Sample]:
        """The samples that count."""
        return self.loaded.samples[: self.settings.limit]

    @property
    def options(self) -> GenerationOptions:
        """How answers are made."""
        return GenerationOptions(max_new_tokens=self.task.max_new_tokens)

    def run(self) -> TaskResult | None:
        """Answers and scores.

        Returns:
            The result; None from a process that leaves it to another.

        Raises:
            TaskDataError: Not one question could be asked.
            LostAnswersError: Answers of another process are not in the output folder.
            AnswersKeyMismatch: The answers on disk were made otherwise.
            InUseError: Another process is answering this.
        """
        workers = self.settings.workers
        file_name = f"{compression_file_name(self.compression)}.jsonl"
        store = AnswerStore(self.settings.output_dir / "answers" / self.task.name / file_name, self._key)
        order = [sample.sample_id for sample in self.loaded.samples]
        known: dict[str, AnswerRow] = {}
        if workers.is_first:
            if workers.waits and store.shards:
                store.merge(order)  # what an earlier run has left, perhaps of another number of processes
            known, _ = store.known()
        # The first one's: read later, the files may have what another process has answered since.
        known = workers.gather(known)[0]
        todo = workers.share(self.samples, known)
        efforts = workers.gather(self._answer(todo, known, store))
        self._check_asked(known, efforts)
        if not workers.is_first:
            return None
        with only_one(self.settings.output_dir):
            answers, errors = store.known()
            for effort in efforts:
                errors |= effort.errors
            missing = [s.sample_id for s in self.samples if s.sample_id not in answers and s.sample_id not in errors]
            if missing and not workers.waits:
                tqdm.write(f"{self.name}: {len(missing)} of {len(self.samples)} questions are not answered yet")
                return None
            if missing:
                raise LostAnswersError(
                    f"{self.name}: {len(missing)} answers of other processes are not in {store.path.parent}; "
                    "--output-dir must be on a disk that all machines share"
                )
            if store.shards or any(effort.asked for effort in efforts):
                try:
                    store.merge(order, keep_errors=not workers.waits)
                except InUseError:
                    if workers.waits:
                        raise
                    tqdm.write(f"{self.name}: another process is still answering; it will merge")
                    return None
            return self._result(answers, {key: errors[key] for key in order if key in errors}, efforts)

    def _answer(self, todo: Sequence[Sample], known: dict[str, AnswerRow], store: AnswerStore) -> Effort:
        """Asks, appending answers as they come."""
        effort = Effort(asked=len(todo))
        if not todo:
            return effort
        workers = self.settings.workers
        is_alone = workers.waits and workers.count == 1
        file = AnswerFile(store.path, store.key) if is_alone else store.shard(workers.rank, workers.count)
        start = time.perf_counter()
        flight = InFlight(file.path.with_suffix(".asking"))
        done = sum(sample.sample_id in known for sample in self.samples) if is_alone else 0
        progress = tqdm(
            self._ask(todo, flight, effort),
            total=done + len(todo),
            initial=done,
            desc=self.name if workers.count == 1 else f"{self.name} ({workers.rank + 1} of {workers.count})",
            unit="q",
            smoothing=0.05,
            disable=not self.settings.progress,
        )
        with file, flight:
            for sample, answer in progress:
                if answer.error is None:
                    more = {"answer": sample.answer, "visual_tokens": answer.visual_tokens}
                    more |= {"truncated": True} if answer.truncated else {}
                    more |= {"frames": answer.frames} if answer.frames else {}
                    file.append(sample.sample_id, answer.text, **more)
                else:
                    effort.errors[sample.sample_id] = f"{sample.sample_id}: {answer.error}"
                    if len(effort.errors) <= _ERRORS_SHOWN:
                        tqdm.write(f"{self.name}: no answer to {effort.errors[sample.sample_id]}")
                    if not workers.waits:  # others learn of it from the shard only
                        file.append_error(sample.sample_id, effort.errors[sample.sample_id])
        effort.seconds = time.perf_counter() - start
        return effort

    def _ask(self, todo: Sequence[Sample], flight: InFlight, effort: Effort) -> Iterator[tuple[Sample, Answer]]:
        """Asks all but the questions at which earlier runs have died again and again; suspects last, each alone."""
        fresh = [sample for sample in todo if sample.sample_id not in flight.deaths]
        suspects = [[sample] for sample in todo if sample.sample_id in flight.deaths.keys() - flight.given_up]

        def begin(part: Sequence[Sample]) -> Callable[[Sequence[int]], None]:
            return lambda indices: flight.begin([part[index].sample_id for index in indices])

        for part in (fresh, *suspects):
            stream = self.inference.ask(
                [question_of(sample) for sample in part],
                batch_size=self.settings.batch_size,
                options=self.options,
                skip_errors=True,
                on_begin=begin(part),
            )
            for answer in stream:
                yield part[answer.index], answer
            usage = self.inference.usage
            effort.encodes_saved += usage.encodes_saved
            effort.images_from_store += usage.images_from_store
            if usage.images_encoded and self.inference.stored_images() is not None:
                tqdm.write(f"{self.name}: {usage.images_encoded} images are not in the store, and were encoded")
        for sample in todo:
            if sample.sample_id in flight.given_up:
                yield sample, Answer(0, "", error=flight.reason)

    def _check_asked(self, known: dict[str, AnswerRow], efforts: Sequence[Effort]) -> None:
        """Raises if all that was asked failed and nothing else is known; all processes of a group decide the same."""
        asked = sum(effort.asked for effort in efforts)
        errors = [reason for effort in efforts for reason in effort.errors.values()]
        if asked and not known and len(errors) == asked:
            flag = "--data-root (or LLAVA_EVAL_DATA)" if self.task.own_file is None else "--image-root"
            raise TaskDataError(
                f"{self.task.name}: not one of {asked} questions could be asked, the first is {errors[0]}; "
                f"are the images where {flag} says?"
            )

    def _result(self, answers: dict[str, AnswerRow], errors: dict[str, str], efforts: Sequence[Effort]) -> TaskResult:
        """Scores what there is; a sample without an answer counts as its benchmark counts it."""
        samples = self.samples
        errors = {s.sample_id: errors[s.sample_id] for s in samples if s.sample_id in errors}
        rows = {s.sample_id: answers[s.sample_id] for s in samples if s.sample_id in answers}
        texts = {sample_id: row["text"] for sample_id, row in rows.items()}
        key, seam = self._key, self.inference.model.model
        row: Row = {
            "task": self.task.name,
            "method": methods_of(self.compression),
            "compression": compression_name(self.compression),
            **token_counts([row["visual_tokens"] for row in rows.values()]),
            "adaptive": self.compression is not None and self.compression.adaptive is not None,
            "main_score": self.task.main_score,
            FIELD: self.task.facts().to_json(),
            **self._scores(samples, texts),
            "n": len(samples),
            "prompts": key.prompts,
            "references": references_fingerprint(samples),
            "conv_mode": key.conv_mode,
            "dtype": key.dtype,
            "generation": key.generation,
            "exact": key.exact,
            "clip_text": key.clip_text,
            "image_store": key.image_store,
            "text_free": seam.is_text_free(self.compression),
            "multi_turn_safe": seam.is_multi_turn_safe(self.compression),
            "tuned_for": self.settings.tuned_for,
            "data_root": None if self.data_root is None else str(self.data_root),
            "data": self.data,
            "errors": list(errors.values()),
            "bad_rows": self.loaded.bad_rows,
            "size_note": self.task.size_note(self.loaded.samples),
            "release": self.task.facts().release(len(self.loaded.samples)),
            "rules": self.task.rules,
            "truncated": [sample_id for sample_id, answer in rows.items() if answer.get("truncated")],
            "submission": self._write_submission(texts),
        }
        if self.task.own_file is not None:
            row[ROW_FIELD] = dict(self.task.own_file)
        try:
            self.task.facts().check(f"{self.task.name}: {self.task.main_score}", main_value(row))
        except ValueError as error:
            raise TaskDataError(str(error)) from None
        row |= self._cost(row, samples, efforts)
        return TaskResult(row, self.task.earned(samples, texts))

    def _scores(self, samples: Sequence[Sample], texts: dict[str, str]) -> Scores:
        """What the task's `score` returns.

        Raises:
            TaskDataError: It lacks the main score, and the task's answers are public.
        """
        scores = self.task.score(samples, texts)
        name = self.task.main_score
        if self.task.has_answers and not self.task.is_judged and main_value({"main_score": name} | scores) is None:
            given = ", ".join(f"{key}: {value!r:.40}" for key, value in scores.items()) or "nothing"
            raise TaskDataError(
                f"{self.task.name}: score() of {type(self.task).__name__} returned no {name!r} that is a finite "
                f"number; it returned {given}"
            )
        return scores

    def _write_submission(self, texts: dict[str, str]) -> str | None:
        """Writes the file for the benchmark's server once all is answered; its path below the output folder."""
        if self.settings.limit is not None:
            return None
        folder = self.settings.output_dir / "submissions" / compression_file_name(self.compression)
        try:
            path = self.task.write_submission(self.samples, texts, folder)
        except (LookupError, TypeError, ValueError) as error:  # answers or files of the server's lack
            tqdm.write(f"{self.name}: no submission is written: {error}")
            return None
        return None if path is None else str(path.relative_to(self.settings.output_dir))

    def _cost(self, row: Row, samples: Sequence[Sample], efforts: Sequence[Effort]) -> Row:
        """Seconds, passes saved, latency; those of the earlier row, and its grades, if nothing was answered now."""
        answered = sum(effort.asked - len(effort.errors) for effort in efforts)
        cost: Row = {
            "seconds": round(max(effort.seconds for effort in efforts), 3),
            "answered": answered,  # in these seconds: an earlier run may have answered others
            "encodes_saved": sum(effort.encodes_saved for effort in efforts),
            "images_from_store": sum(effort.images_from_store for effort in efforts),
        }
        if not answered:
            rows = read_results(self.settings.results_path, self.settings.fingerprint)
            earlier = next((known for known in rows if identity(known) == identity(row)), {})
            kept = [*cost, *LATENCY_FIELDS]
            kept += [name for name in earlier if name not in row] if self.task.is_judged else []
            cost |= {name: earlier[name] for name in kept if name in earlier}
        failed = {line.partition(": ")[0] for line in row["errors"]}
        sample = next((each for each in samples if each.shows_pictures and each.sample_id not in failed), None)
        if "vision_ms" in cost or not self.settings.latency_repeats or sample is None:
            return cost
        latency = measure_latency(self.inference, question_of(sample), repeats=self.settings.latency_repeats)
        return cost | latency_fields(latency)

    @cached_property
    def _key(self) -> AnswersKey:
        return AnswersKey(
            task=self.task.name,
            model=self.settings.fingerprint,
            compression=self.compression.to_dict() if self.compression else None,
            conv_mode=self.inference.conv_mode,
            prompts=prompts_fingerprint(self.loaded.samples),
            generation=asdict(self.options),
            dtype=weights_of(self.inference.model),
            data="local" if self.data is None else self.data,
            plugins=used_plugins(
                self.task.name, self.compression, self.inference.conv_mode, self.inference.model.config
            ),
            exact=self.inference.exact,
            clip_text=self.inference.model.model.clip_fingerprint(self.compression),
            image_store=rounded_type(self.inference),
        )
