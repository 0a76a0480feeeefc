"""Images prepared ahead by worker processes: the same answers and errors, and no process left behind."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from llava.images.processing import load_image_processor, process_images
from llava.images.source import UnreadableImageError
from llava.images.workers import ImageFeed, join_pixels, number_of_workers, share_out
from llava.inference import Answer, GenerationOptions, Inference, Question

CPU = torch.device("cpu")
PAD = SimpleNamespace(image_aspect_ratio="pad")
TAKING, ONCE = multiprocessing.Event(), multiprocessing.Semaphore(0)
ANYRES = SimpleNamespace(image_aspect_ratio="anyres", image_grid_pinpoints=[[336, 672], [672, 336], [672, 672]])


def picture(number: int) -> Image.Image:
    levels = np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def encoded(number: int) -> bytes:
    file = io.BytesIO()
    picture(number).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def processor(oracle_dir: Path) -> object:
    return load_image_processor(oracle_dir / "tiny-clip-vit-l14-336")


def ask(inference: Inference, questions: Sequence[Question]) -> list[Answer]:
    options = GenerationOptions(max_new_tokens=2)
    return sorted(inference.ask(questions, batch_size=3, options=options, skip_errors=True), key=lambda a: a.index)


@pytest.mark.parametrize("name", ["tiny-llava-v1.5", pytest.param("tiny-llava-v1.6-next", marks=pytest.mark.slow)])
def test_answers_are_the_same_with_workers_and_without(
    name: str, oracle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths, bytes and pictures in memory, one shared, one of each unreadable."""
    picture(0).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(encoded(1)[:200])
    images = [tmp_path / "good.png", encoded(2), tmp_path / "good.png", encoded(3)[:300], tmp_path / "bad.png"]
    images += [picture(number) for number in range(4, 9)]
    questions = [Question(f"What is number {number}?", (image,)) for number, image in enumerate(images)]
    alone = Inference.load(oracle_dir / name, device="cpu", compression="visionzip:54+10", image_workers=0)
    helped = Inference(alone.tokenizer, alone.model, alone.image_processor, image_workers=2)
    expected = ask(alone, questions)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    announced: list[int] = []
    looked = ImageFeed.look_ahead
    monkeypatch.setattr(ImageFeed, "look_ahead", lambda feed, count: announced.append(count) or looked(feed, count))
    shared = Mock(wraps=share_out)
    monkeypatch.setattr("llava.images.workers.share_out", shared)
    assert ask(helped, questions) == expected
    assert shared.call_args.args[:2] == (2, 3) and announced and sum(announced) == 7  # a batch is 3
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn that sampled answers would miss
    assert [bool(answer.error) for answer in expected] == [number in (3, 4) for number in range(10)]
    assert helped.usage.images_encoded == alone.usage.images_encoded == 7
    with pytest.raises(UnreadableImageError, match=r"bad\.png"):
        list(helped.ask(questions[:3] + questions[4:], batch_size=10))
    assert not multiprocessing.active_children()


def test_a_call_that_is_not_finished_leaves_no_process(processor: object) -> None:
    with ImageFeed({str(n): encoded(n) for n in range(40)}, processor, PAD, CPU, workers=2) as feed:
        feed.take(["0"])
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_taken_in_any_order_and_again(processor: object, workers: int) -> None:
    sources = {str(number): encoded(number) for number in range(8)}
    with ImageFeed(sources, processor, PAD, CPU, workers) as feed:
        for key in ("3", "0", "7", "0"):
            (image,) = feed.take([key])
            assert image.key == key and image.size == picture(int(key)).size
            assert torch.equal(image.pixels, process_images([picture(int(key))], processor, PAD))


class InWorkers:
    """An image processor that does something else first, in worker processes only."""

    image_mean = (0.5, 0.5, 0.5)

    def __init__(self, action: Any) -> None:
        self.home = os.getpid()
        self.action = action

    def preprocess(self, images: Sequence[Image.Image], **_: Any) -> dict[str, torch.Tensor]:
        if os.getpid() != self.home:
            self.action()
        return {"pixel_values": torch.zeros(len(images), 3, 4, 4)}


def fail() -> None:
    raise MemoryError("in a worker")


def interrupt() -> None:
    """As Ctrl-C does while the parent waits."""
    TAKING.wait(20)
    time.sleep(0.3)
    if ONCE.acquire(block=False):
        os.kill(os.getppid(), signal.SIGINT)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    "action, kind, ahead",
    [
        (fail, MemoryError, False),
        (fail, MemoryError, True),
        (interrupt, KeyboardInterrupt, False),
        (interrupt, KeyboardInterrupt, True),
    ],
)
def test_an_error_leaves_no_process_while_it_is_held(action: Any, kind: type[BaseException], ahead: bool) -> None:
    sources = {str(number): picture(number) for number in range(8)}
    TAKING.clear()
    while ONCE.acquire(block=False):
        pass
    with pytest.raises(kind) as held, ImageFeed(sources, InWorkers(action), PAD, CPU, workers=2) as feed:
        if ahead:
            feed.look_ahead(8)
        ONCE.release()
        TAKING.set()
        feed.take(["0"])
    assert held.value.__traceback__ is not None
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("ahead", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_where_a_worker_is_killed_images_are_prepared_here(ahead: bool) -> None:
    """The image that it died of then ends this process, or not, while the question that needs it is asked."""
    sources = {str(number): picture(number) for number in range(8)}
    with (
        pytest.warns(UserWarning, match="a process that prepares images has ended, this one goes on alone: DataLoader"),
        ImageFeed(sources, InWorkers(die), PAD, CPU, workers=2) as feed,
    ):
        if ahead:
            feed.look_ahead(8)
        try:
            taken = feed.take(list(sources))
        except RuntimeError as error:  # PyTorch interrupts whatever is done at the time
            assert feed.go_on_alone(error)
            taken = feed.take(list(sources))
        assert [image.key for image in taken] == list(sources)
    assert not multiprocessing.active_children()


def divide() -> None:
    raise ZeroDivisionError("in a worker")


def test_what_an_image_raises_is_told_of_it_alone() -> None:
    sources = {str(number): picture(number) for number in range(8)}
    with ImageFeed(sources, InWorkers(divide), PAD, CPU, workers=2) as feed:
        images = feed.take(["0", "1"])
    assert [image.pixels for image in images] == [None, None]
    assert "cannot prepare image" in images[0].error and "ZeroDivisionError('in a worker')" in images[0].error


def test_images_that_are_taken_again_do_not_bring_all_others(processor: object) -> None:
    """As after a batch that was too large for the memory."""
    keys = [str(number) for number in range(40)]
    with ImageFeed({key: encoded(int(key)) for key in keys}, processor, PAD, CPU, workers=2) as feed:
        feed.take(keys[:8])
        again = feed.take(keys[:4])
        assert [image.key for image in again] == keys[:4] and len(feed._waiting) == 0
        assert len(multiprocessing.active_children()) == 2
        assert [image.key for image in feed.take(keys[8:])] == keys[8:]


def count_and_wait(made: Any, gate: Any) -> None:
    with made.get_lock():
        made.value += 1
    gate.wait(20)


def test_workers_make_a_batch_ahead_and_nobody_waits_for_the_next() -> None:
    made, gate = multiprocessing.Value("i", 0), multiprocessing.Event()
    keys = [str(number) for number in range(40)]
    processor = InWorkers(partial(count_and_wait, made, gate))
    with ImageFeed({key: picture(0) for key in keys}, processor, PAD, CPU, workers=2, ahead=12) as feed:
        feed.look_ahead(6)
        assert feed._copying is not None and not feed._copying.done()  # else it would have waited for the gate
        threading.Timer(0.3, gate.set).start()
        assert [image.key for image in feed.take(keys[:1])] == keys[:1]
        assert list(feed._waiting) == keys[1:6] and not any(i.pixels.is_shared() for i in feed._waiting.values())
        deadline = time.monotonic() + 20
        while made.value < 6 + 12 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert made.value == 6 + 12
        assert [image.key for image in feed.take(keys[1:8])] == keys[1:8] and not feed._waiting
        feed.look_ahead(4)
        first = feed._copying
        feed.look_ahead(8)  # before anything is taken, as if a batch had no images
        assert feed._copying is first  # or what it ran into would be lost
        first.result()
        assert list(feed._waiting) == keys[8:12]


def test_leaving_does_not_wait_for_all_that_was_announced() -> None:
    made, gate = multiprocessing.Value("i", 0), multiprocessing.Event()
    keys = [str(number) for number in range(40)]
    feed = ImageFeed(dict.fromkeys(keys, picture(0)), InWorkers(partial(count_and_wait, made, gate)), PAD, CPU, 2)
    end = feed._thread.shutdown

    def open_gate_and_end() -> None:
        gate.set()
        end()

    feed._thread.shutdown = open_gate_and_end
    with feed:
        feed.look_ahead(40)
    assert len(feed._coming) >= 39  # one at most, if the thread had come as far as to wait for it
    assert not feed._waiting and not multiprocessing.active_children()


def fail_once() -> None:
    if ONCE.acquire(block=False):
        raise MemoryError("in a worker")


@pytest.mark.parametrize("times", [1, 40])
def test_after_an_error_of_a_worker_images_are_prepared_here(times: int) -> None:
    """As where the memory was too small: the caller asks again, for fewer."""
    while ONCE.acquire(block=False):
        pass
    for _ in range(times):
        ONCE.release()
    keys = [str(number) for number in range(40)]
    with ImageFeed(dict.fromkeys(keys, picture(0)), InWorkers(fail_once), PAD, CPU, workers=2) as feed:
        with pytest.raises(MemoryError, match="in a worker"):
            feed.take(keys[:20])
        for key in keys:
            assert [image.key for image in feed.take([key])] == [key]
        assert not feed._waiting


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of an iterator that is half made
def test_workers_that_have_begun_end_if_not_all_can(monkeypatch: pytest.MonkeyPatch) -> None:
    begin, begun = multiprocessing.Process.start, []

    def interrupted(process: Any) -> None:
        if begun:
            raise KeyboardInterrupt
        begin(process)
        begun.append(process)

    monkeypatch.setattr(multiprocessing.Process, "start", interrupted)
    with pytest.raises(KeyboardInterrupt) as held:
        ImageFeed({str(number): picture(number) for number in range(8)}, InWorkers(fail), PAD, CPU, workers=2)
    assert held.value.__traceback__ is not None
    begun[0].join(20)
    assert not begun[0].is_alive()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_what_is_ready_fits_into_shared_memory(processor: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert share_out(8, 64, None) == (8, 8) and share_out(8, 64, 1000) == (8, 8) and share_out(3, 8, None) == (3, 3)
    assert share_out(8, 64, 20) == (8, 2) and share_out(8, 64, 4) == (4, 1) and share_out(4, 2, None) == (4, 1)
    assert share_out(8, 64, 0) == (0, 0) and share_out(0, 64, None) == (0, 0)
    shared = SimpleNamespace(f_bavail=64, f_frsize=2**20)  # Docker's
    monkeypatch.setattr("llava.images.workers.os.statvfs", lambda folder: shared)
    sources = {str(number): encoded(number) for number in range(40)}
    for config, children in ((PAD, 8), (ANYRES, 4)):  # 1.4 MB and 6.8 MB an image
        with ImageFeed(sources, processor, config, CPU, workers=8, ahead=64):
            assert len(multiprocessing.active_children()) == children
    shared.f_bavail = 1
    with ImageFeed(sources, processor, PAD, CPU, workers=8) as feed:
        assert not multiprocessing.active_children() and feed.take(["3"])[0].key == "3"


@pytest.mark.parametrize("config", [PAD, ANYRES])
def test_joined_pixels_are_those_of_all_images_together(processor: object, config: SimpleNamespace) -> None:
    wide = picture(1).resize((300, 100))
    for images in ([picture(0)], [picture(0), picture(0)], [picture(0), wide]):
        whole = process_images(images, processor, config)
        joined = join_pixels([process_images([image], processor, config) for image in images])
        assert type(joined) is type(whole) and len(joined) == len(whole)
        assert all(torch.equal(one, other) for one, other in zip(joined, whole, strict=True))


def test_the_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert number_of_workers(None, CPU, 16) == 0 and number_of_workers(3, CPU) == 3
    assert [number_of_workers(None, gpu, cores) for cores in (1, 2, 6, 9, 64)] == [0, 1, 5, 8, 8]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert [number_of_workers(None, gpu, cores) for cores in (4, 16)] == [0, 3]
    with pytest.raises(ValueError, match="image_workers must be 0 or more, got -1"):
        number_of_workers(-1, CPU)


@pytest.mark.slow
def test_workers_end_with_a_process_that_is_killed(oracle_dir: Path) -> None:
    program = (
        "import sys, time, multiprocessing, torch\n"
        "from types import SimpleNamespace\n"
        "from llava.images.processing import load_image_processor\n"
        "from llava.images.workers import ImageFeed\n"
        "processor = load_image_processor(sys.argv[1])\n"
        "sources = {str(n): sys.argv[2] for n in range(40)}\n"
        "config = SimpleNamespace(image_aspect_ratio='pad')\n"
        "feed = ImageFeed(sources, processor, config, torch.device('cpu'), 2)\n"
        "feed.take(['0'])\n"
        "print(*[child.pid for child in multiprocessing.active_children()], flush=True)\n"
        "time.sleep(60)\n"
    )
    folder = oracle_dir / "tiny-clip-vit-l14-336"
    command = [sys.executable, "-c", program, str(folder), str(oracle_dir / "images" / "small.png")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(is_running, pids))


def is_running(pid: int) -> bool:
    """Whether a process still does something; one that nobody has waited for does not."""
    try:
        os.kill(pid, 0)
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
