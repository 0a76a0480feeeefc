"""Several processes on one evaluation: images stay together, the answers end in the same bytes as of one process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

from llava.eval.answers import AnswerStore
from llava.eval.command import main
from llava.eval.parallel import Chunk, Merge, Workers, split
from llava.eval.runner import RunSettings, evaluate
from llava.eval.task_run import LostAnswersError
from llava.eval.tasks import Sample, get_task
from llava.inference import Inference
from llava.locks import open_alone
from llava.model.configuration import CompressionConfig
from llava.model.own_device import own_device
from tests.eval import layout

BUDGET = CompressionConfig("visionzip", 54, 10)
TASK = "tiny_pope"


@pytest.fixture(scope="module")
def inference(oracle_dir: Path) -> Inference:
    return Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu")


def settings(output_dir: Path, data_root: Path, workers: Workers | None = None, **more: Any) -> RunSettings:
    defaults: dict[str, Any] = {"fingerprint": "model", "latency_repeats": 0, "progress": False}
    return RunSettings(output_dir, data_root=data_root, workers=workers or Workers(), **(defaults | more))


def answers_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.jsonl")}


@pytest.fixture(scope="module")
def whole(inference: Inference, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """What one process gives."""
    folder = tmp_path_factory.mktemp("whole")
    [result] = evaluate(inference, [get_task(TASK)], [BUDGET], settings(folder, tiny_data))
    return folder, result.row


def samples_of(*images: str) -> list[Sample]:
    return [Sample(str(number), "?", (Path(name),) if name else (), "") for number, name in enumerate(images)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_are_whole_even_and_keep_images_together(count: int) -> None:
    samples = samples_of(*(["a"] * 5 + ["b", "c"] * 4 + [""] * 6 + ["d"] * 2))
    parts = split(samples, count)
    assert sorted((s.sample_id for part in parts for s in part), key=int) == [s.sample_id for s in samples]
    assert len(parts) == count and parts == split(samples, count)
    owners = [{image for s in part for image in s.images} for part in parts]
    assert all(not (one & other) for i, one in enumerate(owners) for other in owners[:i])
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 5, "no more than the largest group of questions"
    assert all([int(s.sample_id) for s in part] == sorted(int(s.sample_id) for s in part) for part in parts)


def test_the_last_chunk_merges_and_scores(
    inference: Inference, tiny_data: Path, tmp_path: Path, whole: tuple[Path, dict]
) -> None:
    task = get_task(TASK)
    ended = [
        evaluate(inference, [task], [BUDGET], settings(tmp_path, tiny_data, Chunk(index, 3))) for index in (2, 0, 1)
    ]
    assert [len(results) for results in ended] == [0, 0, 1]
    assert answers_in(tmp_path) == answers_in(whole[0])
    row = ended[-1][0].row
    apart = ("seconds", "answered", "encodes_saved")
    assert {k: v for k, v in row.items() if k not in apart} == {k: v for k, v in whole[1].items() if k not in apart}


def test_chunks_of_another_number_go_on_and_merging_asks_nothing(
    inference: Inference, tiny_data: Path, tmp_path: Path, whole: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = get_task(TASK)
    asked: list[int] = []
    ask = Inference.ask

    def counted(self: Inference, questions: list[Any], **options: Any) -> Any:
        asked.append(len(questions))
        return ask(self, questions, **options)

    monkeypatch.setattr(Inference, "ask", counted)
    evaluate(inference, [task], [BUDGET], settings(tmp_path, tiny_data, Chunk(0, 5)))
    assert not evaluate(inference, [task], [BUDGET], settings(tmp_path, tiny_data, Merge(0, 5)))
    for index in range(2):
        evaluate(inference, [task], [BUDGET], settings(tmp_path, tiny_data, Chunk(index, 2)))
    assert sum(asked) == 10, "no question is asked twice"
    [merged] = evaluate(inference, [task], [BUDGET], settings(tmp_path, tiny_data, Merge(0, 2)))
    assert sum(asked) == 10 and merged.row["n"] == 10
    assert answers_in(tmp_path) == answers_in(whole[0])


def test_a_chunk_leaves_merging_to_one_that_is_still_answering(
    inference: Inference, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = get_task(TASK)
    evaluate(inference, [task], [BUDGET], settings(tmp_path, tiny_data, Chunk(1, 2)))
    [path] = tmp_path.rglob("1-of-2.jsonl")
    with open_alone(path):
        assert not evaluate(inference, [task], [BUDGET], settings(tmp_path, tiny_data, Chunk(0, 2)))
        assert "another process is still answering; it will merge" in capsys.readouterr().out
    [result] = evaluate(inference, [task], [BUDGET], settings(tmp_path, tiny_data, Merge(0, 2)))
    assert result.row["n"] == 10


def test_a_process_alone_takes_up_what_chunks_have_left(
    inference: Inference, tiny_data: Path, tmp_path: Path, whole: tuple[Path, dict]
) -> None:
    evaluate(inference, [get_task(TASK)], [BUDGET], settings(tmp_path, tiny_data, Chunk(1, 2)))
    assert [path.name for path in tmp_path.rglob("*.jsonl")] == ["1-of-2.jsonl"]
    evaluate(inference, [get_task(TASK)], [BUDGET], settings(tmp_path, tiny_data))
    assert answers_in(tmp_path) == answers_in(whole[0])


def test_a_chunks_bad_image_is_in_the_merged_row(inference: Inference, tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    (data / "images" / "eval_1.png").write_bytes(b"no picture")
    for workers in (Chunk(0, 2), Chunk(1, 2), Merge(0, 2)):
        results = evaluate(inference, [get_task("tiny_pope")], [BUDGET], settings(tmp_path / "out", data, workers))
    assert len(results[0].row["errors"]) == 2 and all("eval_1.png" in line for line in results[0].row["errors"])
    shutil.copy(tiny_data / "images" / "eval_1.png", data / "images" / "eval_1.png")
    [mended] = [
        result
        for index in range(2)
        for result in evaluate(
            inference, [get_task("tiny_pope")], [BUDGET], settings(tmp_path / "out", data, Chunk(index, 2))
        )
        if not result.row["errors"]
    ][-1:]
    assert mended.row["n"] == 10 and not list(tmp_path.rglob("*.shards"))


class Threads(Workers):
    """Processes of a group, played by threads."""

    barrier = threading.Barrier(2, timeout=60)
    said: ClassVar[dict[int, Any]] = {}

    def gather(self, value: Any) -> list[Any]:
        self.said[self.rank] = value
        self.barrier.wait()
        values = [self.said[rank] for rank in range(self.count)]
        self.barrier.wait()
        return values


def test_a_late_process_shares_out_what_the_first_does(
    oracle_dir: Path, tiny_data: Path, tmp_path: Path, whole: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a fast one has answered by then is still among what is shared out."""
    known = AnswerStore.known

    def late(store: AnswerStore) -> Any:
        if threading.current_thread().name.endswith("_1"):
            deadline = time.monotonic() + 20
            while not store.shards and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.5)
        return known(store)

    monkeypatch.setattr(AnswerStore, "known", late)

    def answer(rank: int) -> Any:
        own = Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu")
        return evaluate(own, [get_task(TASK)], [BUDGET], settings(tmp_path, tiny_data, Threads(rank, 2), batch_size=1))

    with ThreadPoolExecutor(2, thread_name_prefix="rank") as executor:
        results = list(executor.map(answer, range(2)))
    assert [len(one) for one in results] == [1, 0]
    assert answers_in(tmp_path) == answers_in(whole[0])


class ElsewhereToo(Workers):
    """The first of two processes; the other, on a machine whose disk is not shared, does its half there."""

    def gather(self, value: Any) -> list[Any]:
        return [value, value]


def test_answers_on_a_disk_that_is_not_shared_are_missed(inference: Inference, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        LostAnswersError, match=r"answers of other processes are not in .*a disk that all machines share"
    ):
        evaluate(inference, [get_task(TASK)], [BUDGET], settings(tmp_path, tiny_data, ElsewhereToo(0, 2)))
    assert not (tmp_path / "results.json").exists()


def test_exit_statuses_of_chunks(
    oracle_dir: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = command(oracle_dir, tiny_data, tmp_path, "--limit", "4", "--num-chunks", "2")
    assert main([*flags, "--chunk-idx", "1"]) == 0
    assert "nothing is scored yet" in capsys.readouterr().err
    assert main([*flags, "--merge"]) == 1, "half is missing"
    assert "questions are not answered yet" in capsys.readouterr().out
    assert main([*flags, "--chunk-idx", "0"]) == 0
    assert "written: " in capsys.readouterr().out
    before = (tmp_path / "results.json").read_bytes()
    assert main([*flags, "--merge"]) == 0 and (tmp_path / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--chunk-idx", "0"], "go with --num-chunks"),
        (["--num-chunks", "2"], "needs --chunk-idx, or --merge"),
        (["--num-chunks", "2", "--chunk-idx", "0", "--merge"], "and not both"),
        (["--num-chunks", "2", "--chunk-idx", "2"], "--chunk-idx must be below --num-chunks, got 2 of 2"),
    ],
)
def test_wrong_chunks_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        main(["--model-path", "m", "--tasks", TASK, "--output-dir", str(tmp_path), *flags])
    assert message in capsys.readouterr().err


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert own_device(None) is None, "no launcher"
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert [own_device(named) for named in (None, "cuda", "cuda:0", "cpu")] == ["cuda:2", "cuda:2", "cuda:0", "cpu"]


def command(oracle_dir: Path, data: Path, out: Path, *more: str) -> list[str]:
    flags = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--tasks", "tiny_vqa,tiny_pope", "--device", "cpu"]
    flags += ["--compression", "none", "--compression", "visionzip:54+10", "--latency-repeats", "0"]
    return [*flags, "--data-root", str(data), "--output-dir", str(out), "--batch-size", "2", *more]


def torchrun(processes: int) -> list[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    return [*launcher, "--master_addr", "127.0.0.1", "--master_port", str(port), "-m", "llava.eval"]


@pytest.mark.slow
def test_torchrun_killed_and_rerun_with_another_number_of_processes(
    oracle_dir: Path, tiny_data: Path, tmp_path: Path
) -> None:
    one, several = tmp_path / "one", tmp_path / "several"
    flags = command(oracle_dir, tiny_data, several)
    running = subprocess.Popen([*torchrun(2), *flags], start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while len(list(several.rglob("?-of-2.jsonl"))) < 2 and time.monotonic() < deadline:
            assert running.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    left = answers_in(several)
    assert any("shards" in name for name in left) and not (several / "results.json").exists()
    said = subprocess.run([*torchrun(3), *flags], check=True, capture_output=True, text=True).stdout
    assert main(command(oracle_dir, tiny_data, one)) == 0
    assert answers_in(several) == answers_in(one)
    rows, expected = (json.loads((folder / "results.json").read_text())["rows"] for folder in (several, one))
    for row in (*rows, *expected):
        row.pop("plugins", None)  # those that other tests of this process have loaded
        for name in ("seconds", "encodes_saved"):
            row.pop(name)
    assert rows == expected
    assert Counter(line.split("|")[1].strip() for line in said.splitlines() if line.startswith("| tiny")) == {
        "tiny_vqa": 2,
        "tiny_pope": 2,
    }


@pytest.mark.slow
def test_all_goes_on_for_every_process_where_images_are_missing(
    oracle_dir: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """One process finding no image must not leave the other waiting in the next task or budget."""
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    layout.write_pope(data, [{"question_id": 0, "image": "a.png", "text": "Is it?", "label": "yes"}])
    flags = command(oracle_dir, data, tmp_path / "out", "--limit", "2")
    flags[flags.index("--tasks") + 1] = "all"
    said = subprocess.run([*torchrun(2), *flags], capture_output=True, text=True, timeout=300, check=True).stdout
    assert "not run: pope: not one of 2 questions could be asked" in said and "not run: gqa: " in said
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [(row["task"], row["method"]) for row in rows] == [
        (task, method) for task in ("tiny_pope", "tiny_vqa") for method in ("none", "visionzip")
    ]


@pytest.mark.slow
def test_every_process_reports_a_failure(oracle_dir: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [*torchrun(2), *command(oracle_dir, tmp_path / "nowhere", tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode != 0 and "nowhere" in result.stderr
