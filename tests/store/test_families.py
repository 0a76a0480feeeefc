"""Stores of Mini-Gemini, whose model makes tiles of a picture and has a second tower; videos among stored images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from llava.encoded.errors import StoreError, StoreMismatchError
from llava.encoded.made_with import ModelFacts
from llava.encoded.store import open_store
from llava.images.processing import process_images
from llava.inference import GenerationOptions, Inference, Question
from llava.store.command import main
from llava.train.cache_features import check_stage
from llava.video import Video
from tests.model.oracle_models import FIXTURES, copy_with_towers_named, load

SHORT = GenerationOptions(max_new_tokens=4)
HD = {"image_grid": 2, "image_global": True, "image_size_aux": 1536, "tokenizer_model_max_length": 4096}
MINI = "tiny-mgm-7b"


@pytest.fixture(scope="module", params=[1, 5], ids=["plain", "hd"])
def views(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def folder(views: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference's tiny Mini-Gemini; of five views as the HD ones are."""
    root = tmp_path_factory.mktemp("models")
    place = copy_with_towers_named("mgm", root) / MINI
    shutil.copytree(FIXTURES / "mgm" / "OpenAI", root / "mgm" / "OpenAI")
    if views > 1:
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps(config | HD))
    return place


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("images")
    for index in (0, 1):
        shutil.copy(FIXTURES / "mgm" / f"image_{index}.png", place)
    return place


def build(model: Path, images: Path, output: Path, budget: str, *more: str):
    words = ["build", "--model-path", str(model), "--device", "cpu", "--compression", budget, "--images", str(images)]
    assert main([*words, "--output", str(output), *more]) == 0
    return open_store(output)


CASES = [("tower", "visionzip:20+4"), ("tower", "visionzip:20+4,keep_cls=true"), ("projected", "visionzip:20+4")]
NESTED = [("tower", "scope:24", "--nested")]


@pytest.mark.parametrize("case", [*CASES, *NESTED], ids=lambda case: " ".join(case))
def test_a_mini_gemini_answers_from_a_store(case, views, folder, images, tmp_path):
    stage, budget, *more = case
    store = build(folder, images, tmp_path / "store", budget, "--stage", stage, *more)
    live = Inference.load(folder, device="cpu", compression=budget)
    stored = Inference.load(folder, device="cpu", compression=budget, image_store=store)
    if more:
        for each in (live, stored):
            each.model.set_compression("scope:9")
    files = sorted(images.iterdir())
    opened = live.open(files)
    pixels = process_images(opened, live.image_processor, live.model.config)
    with torch.inference_mode():
        expected = live.model.encode_each(pixels, [image.size for image in opened])
    for file, found, rows in zip(files, stored.look_at(files), expected, strict=True):
        assert store[file].entry.tiles == views
        assert found.features is not None
        torch.testing.assert_close(found.features[0], rows, rtol=1e-5, atol=1e-5)
    asked = [Question("What is this?", (file,)) for file in files]
    answers = [{each.index: each.token_ids for each in one.ask(asked, options=SHORT)} for one in (live, stored)]
    assert answers[0] == answers[1] and stored.usage.images_encoded == 0 and stored.usage.images_from_store == 2


def test_a_nested_store_of_several_views_ends_at_the_tower(views, folder, images, tmp_path, capsys):
    words = ["build", "--model-path", str(folder), "--device", "cpu", "--compression", "scope:24", "--nested"]
    words += ["--images", str(images), "--output", str(tmp_path / "store")]
    if views == 1:
        assert main(words) == 0
        return
    with pytest.raises(SystemExit, match="take --stage tower"):
        main(words)


@pytest.mark.parametrize("stage", ["tower", "projected"])
def test_all_that_makes_its_rows_is_known_to_the_store(stage, views, folder):
    inference = Inference.load(folder, device="cpu", compression="visionzip:20+4")
    model = inference.model.model

    def parts() -> dict[str, object]:
        return ModelFacts(model, inference.image_processor, model.config).parts(stage)

    before = parts()
    assert before.get("own tiles") == (views if views > 1 else None)
    for part in (model.mining, model.vision_tower):
        weight = next(each for each in part.parameters() if each.dim() > 1)
        with torch.no_grad():
            weight.add_(1)
        changed = {name for name, value in parts().items() if value != before[name]}
        assert changed == {"other weights" if part is model.mining else "tower"}
        with torch.no_grad():
            weight.sub_(1)
        before = parts()
    model.set_compression("visionzip:20+4,keep_cls=true")
    assert {name for name, value in parts().items() if value != before[name]} == {"compression"}


def test_a_store_of_the_other_views_is_refused(views, folder, images, tmp_path):
    store = build(folder, images, tmp_path / "store", "visionzip:20+4")
    config = json.loads((folder / "config.json").read_text())
    other = shutil.copytree(folder, tmp_path / MINI)
    changed = {"image_global": False} if views > 1 else {"image_size_aux": 1536}
    (other / "config.json").write_text(json.dumps(config | changed))
    wrong = Inference.load(other, device="cpu", compression="visionzip:20+4", image_store=store)
    with pytest.raises(StoreMismatchError, match="own tiles is 5" if views > 1 else "image processor is"):
        wrong.look_at(sorted(images.iterdir()))


@pytest.mark.parametrize("part", ["vision_tower", "mining"])
def test_a_cache_needs_both_towers_frozen(part, views, folder):
    _, model, _ = load(folder)
    module: nn.Module = getattr(model.model, part)
    check_stage(model.model.requires_grad_(False), [])
    module.requires_grad_(True)
    with pytest.raises(StoreError, match="trains the vision tower"):
        check_stage(model.model, [])


def test_a_video_stands_among_stored_images(images, tmp_path):
    folder = copy_with_towers_named("video-llava", tmp_path) / "tiny-video-llava-7b"
    store = build(folder, images, tmp_path / "store", "visionzip:14+3")
    live = Inference.load(folder, device="cpu", compression="visionzip:14+3")
    stored = Inference.load(folder, device="cpu", compression="visionzip:14+3", image_store=store)
    clip, files = Video(FIXTURES / "video-llava" / "clip.mp4"), sorted(images.iterdir())
    asked = [Question("Is <image> in <video>?", (files[0], clip)), Question("What is this?", (files[1],))]
    asked.append(Question("What happens?", (clip,)))
    for batch_size in (1, 3):
        answers = [
            {each.index: (each.token_ids, each.visual_tokens, each.frames) for each in answered}
            for answered in (one.ask(asked, batch_size=batch_size, options=SHORT) for one in (live, stored))
        ]
        assert answers[0] == answers[1]
        assert stored.usage.images_from_store == 2
    seen = stored.look_at([files[0], clip])
    assert [len(image.frames) for image in seen] == [0, 8]
    weight = next(stored.model.model.video_tower.parameters())
    facts = ModelFacts(stored.model.model, stored.image_processor, stored.model.config)
    before = facts.parts("projected")
    with torch.no_grad():
        weight.add_(1)
    again = ModelFacts(stored.model.model, stored.image_processor, stored.model.config).parts("projected")
    assert again == before, "no image goes through the tower for videos"
