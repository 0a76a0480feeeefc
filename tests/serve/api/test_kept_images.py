"""Images that need not be encoded again: of a bounded memory, and of a store."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llava.inference import GenerationOptions, Inference, Question
from llava.inference.feature_cache import FeatureCache
from llava.inference.seen_images import SeenImage
from llava.store.command import main as store
from tests.serve.api.conftest import BUDGET, Start, asked, picture

SHORT = GenerationOptions(4)


def image(floats: int) -> SeenImage:
    """A view of something larger, as images of one batch are."""
    return SeenImage((1, 1), (torch.zeros(10 * floats)[:floats].unsqueeze(1),))


def test_the_memory_is_bounded_and_lets_go_of_what_was_not_asked_for() -> None:
    cache = FeatureCache(400)
    cache.add("b", {"bytes:1": image(40), "bytes:2": image(40)})
    assert cache.held_bytes == 320 and set(cache.find("b", ["bytes:1"])) == {"bytes:1"}
    cache.add("b", {"bytes:3": image(40)})
    assert set(cache.find("b", ["bytes:1", "bytes:2", "bytes:3"])) == {"bytes:1", "bytes:3"}
    assert cache.held_bytes == 320 and (cache.hits, cache.misses) == (3, 1)
    assert not cache.find("another budget", ["bytes:1"])
    cache.add("b", {"bytes:4": image(101)})
    assert not cache.find("b", ["bytes:4"]) and cache.held_bytes == 320, "what is larger than all of it is not kept"
    kept = cache.find("b", ["bytes:3"])["bytes:3"].features
    assert kept is not None and kept[0].untyped_storage().nbytes() == 160, "nothing else is kept with it"


def test_a_path_is_not_kept_for_it_may_hold_another_image_by_then() -> None:
    cache = FeatureCache(400)
    cache.add("b", {"path:a.png": image(4), "beside others:bytes:1": image(4)})
    assert set(cache.find("b", ["path:a.png", "beside others:bytes:1"])) == {"beside others:bytes:1"}


@pytest.mark.parametrize("budget", [BUDGET, "divprune:64,positions=restore", "mmtok:64", "none"])
def test_what_is_kept_is_answered_about_as_what_is_encoded(budget: str, alone: Inference) -> None:
    alone.model.set_compression(None if budget == "none" else budget)
    questions = [Question(text, (picture(number),)) for number in range(3) for text in ("What?", "And where?")]
    fresh = sorted(alone.ask(questions, options=SHORT), key=lambda answer: answer.index)
    alone.feature_cache = FeatureCache(2**26)
    try:
        for encoded in (3, 0):
            again = sorted(alone.ask(questions, options=SHORT), key=lambda answer: answer.index)
            assert again == fresh and alone.usage.images_encoded == encoded
    finally:
        alone.feature_cache = None


def test_a_store_is_read_by_the_content_of_what_is_sent(
    start: Start, alone: Inference, oracle_dir: Path, tmp_path: Path
) -> None:
    images, built = tmp_path / "images", tmp_path / "store"
    images.mkdir()
    (images / "a.png").write_bytes(picture(50))
    model = str(oracle_dir / "tiny-llava-v1.5")
    words = ["--model-path", model, "--images", str(images), "--output", str(built), "--compression", BUDGET]
    assert store(["build", *words, "--device", "cpu"]) == 0
    inference = Inference.load(model, device="cpu", compression=BUDGET, image_store=built)
    running = start(inference=inference, prepares=False)
    said = running.client.chat.completions.create(**asked("What is this?", picture(50)))
    alone.model.set_compression(BUDGET)
    expected = alone.ask_one("What is this?", picture(50), options=GenerationOptions(8)).text
    assert said.choices[0].message.content == expected
    assert running.count("llava_images_from_store_total") == 1 and running.count("llava_images_encoded_total") == 0
    running.client.chat.completions.create(**asked("What is this?", picture(51)))
    assert running.count("llava_images_encoded_total") == 1, "an image that is not there is encoded"
    refused = running.post(asked("What is this?", picture(50), model="tiny@visionzip:20+4"))
    assert refused.status_code == 400 and "visionzip:20+4" in refused.json()["error"]["message"]
