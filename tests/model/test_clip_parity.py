"""Videos of LLaVA-OneVision and LLaVA-NeXT-Video against records of LLaVA-NeXT's code and of transformers' classes.

`make test` runs what lies in tests/fixtures, `make parity` a whole recording; sizes and budgets are read from it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import CLIPImageProcessorPil

from llava.images.processing import load_image_processor
from llava.images.tile_pixels import tile_pixels
from llava.model.builder import instantiate
from llava.model.checkpoints.parts import parts_of_checkpoint
from llava.model.clips import ClipPixels
from llava.model.multimodal_compressor import visionzip
from llava.model.multimodal_encoder import extract_features
from llava.video import read_clip
from tests.model.oracle_models import RECORDS, copy_with_towers_named, record, same_answers, same_choice

ORIGINAL = record("onevision", "original.npz")
FORMATS = {"original": "tiny-llava-onevision-qwen2", "transformers": "tiny-llava-onevision-qwen2-hf"}
NEXT = record("next-video", "transformers.npz")


def frames_of(family: str) -> list:
    folder = RECORDS / family / "clip"
    return read_clip(folder, len(list(folder.glob("*.png")))).pictures


def ids_of(recorded) -> torch.Tensor:
    return torch.from_numpy(recorded["input_ids"])[None]


def near(ours: torch.Tensor, expected, tolerance: float) -> None:
    torch.testing.assert_close(ours, torch.from_numpy(expected), atol=tolerance, rtol=0)


@pytest.fixture(scope="module")
def onevision(tmp_path_factory):
    """Models of both formats, and the pixels of the recorded frames."""
    root = copy_with_towers_named("onevision", tmp_path_factory.mktemp("onevision"))
    made = {}
    for name, folder in FORMATS.items():
        parts = parts_of_checkpoint(root / folder)
        made[name] = instantiate(parts, dtype=torch.float32).eval()
        made["pixels"] = tile_pixels(frames_of("onevision"), load_image_processor(parts.processor_folder))
    return made


def chosen(features, budget, **changes):
    """What VisionZip keeps, with its groups."""
    dominant, contextual = budget
    return visionzip(
        features.content,
        features.keys,
        features.saliency,
        dominant=dominant,
        contextual=contextual,
        return_assignment=True,
        **changes,
    )


def test_onevision_pixels_features_and_pooling(onevision):
    model, pixels = onevision["original"], onevision["pixels"]
    model.set_compression(None)
    near(pixels[:, :, ::8, ::8], ORIGINAL["video_pixels_strided"], 0)
    with torch.no_grad():
        features = extract_features(model.model.vision_tower, pixels, model.config.vision_feature_layer)
        (rows,) = model.encode_images([ClipPixels(pixels)])
    if "video_features" in ORIGINAL:
        near(features.content[:1], ORIGINAL["video_features"], 2e-4)  # values up to 25
    expected = ORIGINAL["video_pooled_projected"]
    near(rows[: expected.shape[0] * expected.shape[1]].unflatten(0, expected.shape[:2]), expected, 1e-4)
    assert model.num_clip_tokens(len(pixels)) == [len(rows)] and len(rows) % len(pixels) == 1


@pytest.mark.parametrize("name", FORMATS)
def test_onevision_answers_about_a_video(name, onevision):
    model, recorded = onevision[name], ORIGINAL if name == "original" else record("onevision", "transformers.npz")
    model.set_compression(None)
    same_answers(model, "video", recorded, [ClipPixels(onevision["pixels"])], ids=ids_of(ORIGINAL))


def test_onevision_under_visionzip_chooses_among_pooled_patches(onevision):
    """HoliTom's rule: features behind the projector, keys and saliency, pooled alike; then so many of each frame."""
    model, pixels = onevision["original"], onevision["pixels"]
    budget = tuple(ORIGINAL["video_budget"].tolist())
    model.set_compression("visionzip:{}+{}".format(*budget))
    bound = model.model.bound_for_clips
    assert bound.place == "pooled"
    with torch.no_grad():
        features = model.model._read_frames(pixels, bound, [len(pixels)])
    near(features.saliency, ORIGINAL["zip_video_saliency"], 1e-5)
    near(features.keys, ORIGINAL["zip_video_metric"], 1e-4)
    ours = chosen(features, budget, has_cls=False)
    assert same_choice(ours, ORIGINAL, "zip_video", 0, budget) == len(pixels)
    same_answers(model, "zip_video", ORIGINAL, [ClipPixels(pixels)], ids=ids_of(ORIGINAL))


@pytest.fixture(scope="module")
def next_video(tmp_path_factory):
    root = copy_with_towers_named("next-video", tmp_path_factory.mktemp("next"))
    (folder,) = [each for each in root.iterdir() if each.name.endswith("-hf")]
    model = instantiate(parts_of_checkpoint(folder), dtype=torch.float32).eval()
    side = model.config.vision_config.image_size
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return model, tile_pixels(frames_of("next-video"), processor)


def test_next_video_pixels_features_and_pooling(next_video):
    model, pixels = next_video
    model.set_compression(None)
    if "pixels_strided" in NEXT:
        near(pixels[:, :, ::6, ::6], NEXT["pixels_strided"], 1e-6)
    with torch.no_grad():
        features = extract_features(model.model.vision_tower, pixels, model.config.vision_feature_layer)
        pooled = model.model.arrange_frames(features)
        (rows,) = model.encode_images([ClipPixels(pixels)])
    if "features" in NEXT:
        near(features.content, NEXT["features"], 1e-4)
    near(pooled.content, NEXT["pooled"], 1e-4)
    if "projected" in NEXT:
        near(rows[: len(NEXT["projected"])], NEXT["projected"], 1e-4)
    assert model.num_clip_tokens(len(pixels)) == [len(rows)] == [len(pixels) * pooled.content.shape[1]]


def test_next_video_answers(next_video):
    model, pixels = next_video
    model.set_compression(None)
    same_answers(model, "video", NEXT, [ClipPixels(pixels)], ids=ids_of(NEXT))


def test_next_video_under_visionzip(next_video):
    model, pixels = next_video
    budget = tuple(NEXT["budget"].tolist())
    model.set_compression("visionzip:{}+{}".format(*budget))
    with torch.no_grad():
        features = model.model._read_frames(pixels, model.model.bound_for_clips, [len(pixels)])
        whole = extract_features(model.model.vision_tower, pixels, -2, {"keys", "saliency"})
    near(features.saliency, NEXT["zip_pooled_saliency"], 1e-5)
    patches = replace(features, keys=features.keys[:, 1:])
    assert same_choice(chosen(patches, budget, has_cls=False), NEXT, "zip_pooled", 0, budget) == len(pixels)
    if "zip_unpooled_all_indices" in NEXT:
        assert same_choice(chosen(whole, budget), NEXT, "zip_unpooled", 1, budget) == len(pixels)
    same_answers(model, "zip_pooled", NEXT, [ClipPixels(pixels)], ids=ids_of(NEXT))
