"""Long use: no memory, open file or thread is left over by 800 questions or 120 turns of a chat."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from llava.inference import GenerationOptions, Inference, Question
from llava.serve.chat import Chat

SHORT = GenerationOptions(max_new_tokens=2)
MEMORY = 48 * 2**20  # the pixels of all images, were they kept, would be three times as much

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc"),
]


@pytest.fixture(scope="module")
def inference(oracle_dir: Path) -> Inference:
    return Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu", compression="visionzip:54+10")


def held() -> tuple[int, int, int]:
    """Resident bytes, open files and threads of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def check(step: Callable[[int], object], warm_up: int, steps: int) -> None:
    """Compares what is held after the first steps, which fill caches, with what is held after all of them."""
    for number in range(warm_up):
        step(number)
    before = held()
    for number in range(warm_up, steps):
        step(number)
    after = held()
    assert after[0] - before[0] < MEMORY, (before, after)
    assert after[1] <= before[1] and after[2] <= before[2], (before, after)


def test_800_questions_leave_nothing_behind(inference: Inference, tmp_path: Path) -> None:
    for number in range(160):
        Image.effect_noise((672, 672), 20 + number).convert("RGB").save(tmp_path / f"{number}.bmp")

    def ask(window: int) -> None:
        asked = [Question(f"What is {n}?", (tmp_path / f"{n // 5}.bmp",)) for n in range(window * 40, window * 40 + 40)]
        assert len(list(inference.ask(asked, batch_size=8, options=SHORT))) == 40

    check(ask, warm_up=5, steps=20)


def test_120_turns_leave_nothing_behind(inference: Inference, oracle_dir: Path) -> None:
    chat = Chat(inference, [oracle_dir / "images" / "square.png"])

    def say(turn: int) -> None:
        if turn % 30 == 0:
            chat.restart()  # a conversation itself may grow
        chat.say(f"What is {turn}?", options=SHORT)

    check(say, warm_up=31, steps=121)
