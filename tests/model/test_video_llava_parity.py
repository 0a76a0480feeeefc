"""Video-LLaVA against recorded outputs: its authors' code for the original format, transformers' class for `-hf`.

`make test` runs what lies in tests/fixtures, `make parity` a whole recording; sizes and budgets are read from it.
Weights are random and tiny, in the formats of the published checkpoints; fp32 on CPU.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from llava.images.processing import process_images
from llava.inference import Inference, Question
from llava.model.builder import instantiate
from llava.model.checkpoints.parts import parts_of_checkpoint
from llava.model.multimodal_compressor import visionzip
from llava.model.multimodal_encoder import extract_features
from llava.video import Video, read_clip
from tests.model.oracle_models import RECORDS, copy_with_towers_named, load, record, same_answers, same_choice

FOLDER = RECORDS / "video-llava"
ORIGINAL = record("video-llava", "original.npz")
HF = FOLDER / "tiny-video-llava-7b-hf"
BUDGET = tuple(ORIGINAL["budget"].tolist())
CASES = ("video", "video_spaced", "image", "image_video", "video_image")
HF_CASES = ("video", "image", "image_video")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return copy_with_towers_named("video-llava", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def original(folders):
    """Tokenizer, model and image processor."""
    return load(folders / "tiny-video-llava-7b")


@pytest.fixture(scope="module")
def visuals(original):
    """Pixels of the recorded clip and image, by name."""
    _, model, image_processor = original
    with Image.open(FOLDER / "image.png") as opened:
        image = process_images([opened.convert("RGB")], image_processor, model.config)[0]
    clip = read_clip(FOLDER / "clip", len(list((FOLDER / "clip").glob("*.png"))))
    return {"image": image, "video": image_processor.clip_pixels(clip.frames)}


def given(case: str, visuals) -> list[torch.Tensor]:
    return [visuals[name] for name in case.removeprefix("zip_").removesuffix("_spaced").split("_")]


def same(ours: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    torch.testing.assert_close(ours, torch.from_numpy(expected), atol=tolerance, rtol=0)


def test_pixels(visuals):
    video, image = visuals["video"].transpose(0, 1), visuals["image"]  # (C, T, H, W), as it was recorded
    if "video_pixels_strided" in ORIGINAL:
        same(video[:, :, ::4, ::4], ORIGINAL["video_pixels_strided"], 1e-6)
        same(video[:, [0, 5]], ORIGINAL["video_pixels_frames_0_5"], 1e-6)
    if "image_pixels" in ORIGINAL:
        same(image, ORIGINAL["image_pixels"], 1e-6)
    else:
        same(image[:, ::4, ::4], ORIGINAL["image_pixels_strided"], 1e-6)


def test_pixels_from_the_file_on(original):
    """Decoded, sampled, normalised, resized and cropped, as the original's whole chain did."""
    recorded = record("video-llava", "clip.npz")
    clip = read_clip(FOLDER / "clip.mp4", len(recorded["frame_indices"]))
    assert clip.indices == tuple(recorded["frame_indices"].tolist())
    pixels = original[2].clip_pixels(clip.frames).transpose(0, 1)
    same(pixels[:, :, ::4, ::4], recorded["pixels_strided"], 1e-6)


def test_mirroring_is_off_and_a_seed_gives_it(original, visuals):
    """The recorded draw mirrored nothing; with the other one the tensor was the flipped one."""
    image_processor = original[2]
    assert image_processor.mirror_seed is None and ORIGINAL["flip_true_is_mirror"][0] == 1
    frames = read_clip(FOLDER / "clip", 8).frames
    drawn = set()
    try:
        for seed in range(12):
            image_processor.mirror_seed = seed
            pixels = image_processor.clip_pixels(frames)
            is_mirrored = image_processor.mirrors(frames)
            assert torch.equal(pixels, visuals["video"].flip(-1) if is_mirrored else visuals["video"])
            assert is_mirrored == image_processor.mirrors(frames)
            drawn.add(is_mirrored)
    finally:
        image_processor.mirror_seed = None
    assert drawn == {True, False}


def relative(ours: torch.Tensor, expected: np.ndarray) -> float:
    there = torch.from_numpy(expected)
    return float((ours - there).norm() / there.norm())


def test_tower_features(original, visuals):
    _, model, _ = original
    base, layer = model.model, model.config.vision_feature_layer
    with torch.no_grad():
        video = extract_features(base.clip_tower, visuals["video"], layer).content
        first = extract_features(base.clip_tower, visuals["video"], 1).content
        still = extract_features(base.clip_tower, visuals["video"][:1].expand(len(video), -1, -1, -1), layer).content
        image = extract_features(base.vision_tower, visuals["image"][None], layer)
    if "video_features" in ORIGINAL:
        assert relative(video, ORIGINAL["video_features"]) < 1e-5
    else:
        assert relative(video[[0, 5]], ORIGINAL["video_features_frames_0_5"]) < 1e-5
    assert relative(first[0], ORIGINAL["video_hidden_1_frame0"]) < 1e-5
    assert relative(still[3], ORIGINAL["video_features_still_frame_3"]) < 1e-5
    assert not torch.equal(still[0], still[3])  # positions in time alone
    if "image_hidden_m2" in ORIGINAL:
        assert relative(image.content[0], ORIGINAL["image_hidden_m2"]) < 1e-5
        assert relative(image.patches[0], ORIGINAL["image_features"]) < 1e-5
    model.set_compression(None)
    with torch.no_grad():
        rows = model.encode_images([visuals["video"]])
    assert [len(frame) for frame in rows] == [video.shape[1]] * len(video) == model.num_clip_tokens()
    for frame, expected in zip(rows, ORIGINAL["video_projected"], strict=True):
        same(frame[: len(expected)], expected, 1e-4)


@pytest.mark.parametrize("case", CASES)
def test_answers(case, original, visuals):
    _, model, _ = original
    model.set_compression(None)
    same_answers(model, case, ORIGINAL, given(case, visuals))


@pytest.mark.parametrize("case", [f"zip_{case}" for case in CASES])
def test_answers_under_visionzip(case, original, visuals):
    _, model, _ = original
    model.set_compression("visionzip:{}+{}".format(*BUDGET))
    same_answers(model, case, ORIGINAL, given(case, visuals))


@pytest.mark.parametrize("name", ["video", "image"])
def test_kept_and_merged_tokens(name, original, visuals):
    _, model, _ = original
    tower = model.model.clip_tower if name == "video" else model.model.vision_tower
    pixels = visuals[name] if name == "video" else visuals[name][None]
    with torch.no_grad():
        needs = {"keys", "saliency"}
        features = extract_features(tower, pixels, model.config.vision_feature_layer, needs)
        ours = visionzip(
            features.content,
            features.keys,
            features.saliency,
            dominant=BUDGET[0],
            contextual=BUDGET[1],
            return_assignment=True,
        )
    torch.testing.assert_close(features.saliency, torch.from_numpy(ORIGINAL[f"zip_{name}_saliency"]), atol=1e-5, rtol=0)
    assert same_choice(ours, ORIGINAL, f"zip_{name}", 1, BUDGET) == len(ours.tokens)


def test_prompts_are_tokenised_as_recorded(original):
    """`<image>` once a frame, joined by nothing as the evaluation does, or by spaces as the README does."""
    tokenizer, model, image_processor = original
    inference = Inference(tokenizer, model, image_processor)
    assert inference.conv_mode == "llava_v1"
    text, video = "What is the person doing?", Video(FOLDER / "clip")
    frames = model.model.clip_rules.frames
    if "What is the person doing?" not in tokenizer.decode([i for i in ORIGINAL["video_input_ids"].tolist() if i >= 0]):
        pytest.skip("another question was asked")
    spaced = " ".join(["<image>"] * frames) + "\n" + text
    for case, question in {
        "video": Question(text, (video,)),
        "video_spaced": Question(spaced, (video,)),
    }.items():
        assert inference.tokenize(inference.prompt(question)) == ORIGINAL[f"{case}_input_ids"].tolist()


@pytest.fixture(scope="module")
def hf(folders):
    """The -hf model; its folder has no tokenizer and no image processor."""
    return instantiate(parts_of_checkpoint(folders / HF.name), dtype=torch.float32).eval()


@pytest.mark.skipif(not HF.is_dir(), reason="its files are recorded, and not among the fixtures: make parity")
@pytest.mark.parametrize("case", [*HF_CASES, *(f"zip_{case}" for case in HF_CASES)])
def test_hf_format(case, hf, visuals):
    recorded = record("video-llava", "transformers.npz")
    hf.set_compression("visionzip:{}+{}".format(*recorded["budget"]) if case.startswith("zip_") else None)
    ids = torch.from_numpy(ORIGINAL[f"{case.removeprefix('zip_')}_input_ids"])[None]
    same_answers(hf, case, recorded, given(case, visuals), ids=ids)
    if case == "video":
        with torch.no_grad():
            video = extract_features(hf.model.clip_tower, visuals["video"], -2).content
        assert relative(video, recorded["video_features"]) < 1e-5


@pytest.mark.skipif(not HF.is_dir(), reason="its files are recorded, and not among the fixtures: make parity")
def test_the_hf_format_has_no_time():
    entries = json.loads((HF / "config.json").read_text(encoding="utf-8"))
    assert entries["model_type"] == "video_llava" and "hidden_act" not in entries["vision_config"]
