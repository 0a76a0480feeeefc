"""Tasks x budgets -> answers on disk and a row of results each. The loaded model is shared by all budgets."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from llava.eval.asked import as_seen, sees_video
from llava.eval.data_place import DataPlace
from llava.eval.results import identity, read_results, write_results
from llava.eval.task_run import RunSettings, TaskResult, TaskRun
from llava.eval.tasks import Sample, Task, TaskDataError
from llava.eval.tasks.video_files import missing_note, missing_videos
from llava.inference import Inference
from llava.locks import only_one
from llava.model.configuration import CompressionConfig

__all__ = ["RunSettings", "TaskResult", "evaluate"]


def evaluate(
    inference: Inference,
    tasks: Sequence[Task],
    compressions: Sequence[CompressionConfig | None],
    settings: RunSettings,
    *,
    left_out: dict[str, str] | None = None,
) -> list[TaskResult]:
    """Runs every task under every budget, and writes `results.json` after each.

    Args:
        inference: The model; its compression is set to each budget in turn and put back at the end.
        tasks: The tasks.
        compressions: The budgets; None is vanilla. Rows have a retention where vanilla is among the results.
        settings: Where and how.
        left_out: Where it is given, a task whose data are missing is noted here, with the reason, and the others go on.

    Returns:
        A result per task and budget, in this order; only of those that this process is to score.

    Raises:
        TaskDataError: A task's files are missing, or not one of its images can be read; or it asks about videos, which
            the model does not take, or of which none is there.
        AnswersKeyMismatch: The output folder holds answers or results that were made otherwise.
        InUseError: Another process is answering one of the tasks there.
        ValueError: `results.json` in the output folder is something else.
    """
    read_results(settings.results_path, settings.fingerprint)  # fails now if the file cannot be added to
    before = inference.model.compression
    results: list[TaskResult] = []
    try:
        for task in tasks:
            try:
                results += _run_task(inference, task, compressions, settings)
            except TaskDataError as error:
                if left_out is None:
                    raise
                left_out[task.name] = str(error).removeprefix(f"{task.name}: ")
    finally:
        inference.model.set_compression(before)
    if results:
        with_retention = {identity(row): row for row in read_results(settings.results_path, settings.fingerprint)}
        for result in results:
            result.row = with_retention[identity(result.row)]
    return results


def _run_task(
    inference: Inference, task: Task, compressions: Sequence[CompressionConfig | None], settings: RunSettings
) -> list[TaskResult]:
    loaded, root, data = DataPlace(settings.data_root, settings.source, settings.image_root).locate(task)
    missing = _missing_videos(inference, task, loaded.samples[: settings.limit], settings.workers.is_first)
    loaded = as_seen(loaded, inference.model.config)
    results = []
    for compression in compressions:
        inference.model.set_compression(compression)
        result = TaskRun(inference, task, loaded, compression, settings, root, data).run()
        if result is not None:
            if missing:
                result.row["missing_videos"] = missing
            results.append(result)
            with only_one(settings.output_dir):
                write_results(settings.results_path, [result.row], settings.fingerprint)
    return results


def _missing_videos(inference: Inference, task: Task, samples: Sequence[Sample], says_it: bool) -> list[str]:
    """The videos that are not there, after a line that names them.

    Raises:
        TaskDataError: The model takes no video, or none is there.
    """
    videos = {str(sample.video) for sample in samples if sample.video is not None}
    if videos and not sees_video(inference.model.config):
        raise TaskDataError(f"{task.name}: it asks about videos, and {inference.name} takes images only")
    missing = missing_videos(samples)
    if videos and len(videos) == len(missing):
        raise TaskDataError(
            f"{task.name}: not one of {len(videos)} videos is there, the first is {missing[0]}; "
            f"`llava prepare-eval {task.name}` says where they are had"
        )
    note = missing_note(task.name, samples, missing)
    if note is not None and says_it:
        tqdm.write(note)
    return missing
