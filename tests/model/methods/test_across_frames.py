"""Methods that choose among all frames of a video: against loops in numpy, and by what they promise."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import COMPRESSORS, TileShape, VisionFeatures, get_compressor
from llava.model.multimodal_compressor.clip_share import choose_across
from tests.model.meta_clean import MetaClean
from tests.model.tiny import random_pixels
from tests.model.tiny_video import FRAMES, video_llava

GRID, CHANNELS = (4, 6), 10
PATCHES = GRID[0] * GRID[1]
SHAPE = TileShape(GRID, True, True)
ACROSS = [each.name for each in COMPRESSORS if each.across is not None and each.source.startswith(("this", "a base"))]


def features_of(rows: torch.Tensor, saliency: torch.Tensor | None = None, seed: int = 0) -> VisionFeatures:
    """Frames of the rows (F, P, C), a CLS token before each."""
    if saliency is None:
        saliency = torch.rand(rows.shape[:2], generator=torch.Generator().manual_seed(seed))
    content = torch.cat([torch.full_like(rows[:, :1], 7.0), rows], dim=1)
    return VisionFeatures(content, GRID, True, rows, True, saliency=saliency)


def drawn(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(frames, PATCHES, CHANNELS, generator=torch.Generator().manual_seed(seed))


def chosen(text: str, features: VisionFeatures) -> np.ndarray:
    """(T, P), bool: what is kept of one video."""
    compressor, budget = get_compressor(text.partition(":")[0]), CompressionConfig.parse(text)
    compressor.check(budget, SHAPE)
    index = compressor.across(features, budget, compressor.options_of(budget))
    kept = torch.zeros(features.source.shape[:2], dtype=torch.bool).flatten().scatter(0, index, True)
    assert index.tolist() == sorted(set(index.tolist()))
    return kept.view(features.source.shape[:2]).numpy()


def changes_by_hand(rows: np.ndarray, saliency: np.ndarray, each: int, alpha: float) -> np.ndarray:
    """Novelty times a power of the share of attention, patch by patch; then the best of all, one a frame first."""
    frames, patches, _ = rows.shape
    score = np.zeros((frames, patches))
    for t in range(frames):
        for p in range(patches):
            new = 1.0
            if t:
                now = rows[t, p] - rows[t].mean(axis=0)
                before = rows[t - 1, p] - rows[t - 1].mean(axis=0)
                new = 1 - now @ before / (np.linalg.norm(now) * np.linalg.norm(before))
            score[t, p] = max(new, 1e-3) * (saliency[t, p] / saliency[t].sum()) ** alpha
    kept = np.zeros((frames, patches), dtype=bool)
    for t in range(frames):
        kept[t, np.argmax(score[t])] = True
    ranked = sorted(((score[t, p], t, p) for t in range(frames) for p in range(patches)), reverse=True)
    for _, t, p in ranked:
        if kept.sum() < frames * each:
            kept[t, p] = True
    return kept


@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize(("frames", "each"), [(1, 5), (2, 1), (5, 3), (8, 7), (4, PATCHES)])
def test_changes_is_the_plain_loop(frames, each, alpha):
    for seed in range(6):
        rows = drawn(frames, seed)
        rows[1:] = rows[:-1] * 0.7 + rows[1:] * torch.rand(frames - 1, PATCHES, 1, generator=torch.Generator())
        features = features_of(rows, seed=seed)
        expected = changes_by_hand(rows.double().numpy(), features.saliency.double().numpy(), each, alpha)
        assert np.array_equal(chosen(f"changes:{each},alpha={alpha}", features), expected)


def test_a_still_clip_is_kept_in_its_first_frame():
    one = drawn(1)
    for offset in (torch.zeros(1), torch.randn(8, 1, CHANNELS)):  # the latter: what a tower adds to tell frames apart
        still = features_of(one.expand(8, -1, -1) + offset, torch.rand(1, PATCHES).expand(8, -1))
        numbers = chosen("changes:3", still).sum(axis=1).tolist()
        assert numbers == [17, *[1] * 7]


def test_a_cut_gives_its_tokens_to_the_frame_behind_it():
    first, second = drawn(1, 1), drawn(1, 2)
    cut = features_of(torch.cat([first.expand(5, -1, -1), second.expand(3, -1, -1)]), torch.ones(8, PATCHES))
    numbers = chosen("changes:4", cut).sum(axis=1)
    assert numbers.sum() == 32 and (numbers[[1, 2, 3, 4, 6, 7]] == 1).all() and numbers[0] > 8 and numbers[5] > 8


def test_what_moves_is_kept_where_it_has_come():
    rows = drawn(1).repeat(6, 1, 1)
    thing = torch.randn(CHANNELS) * 3
    places = [0, 4, 9, 14, 19, 23]
    for frame, place in enumerate(places):
        rows[frame, place] = thing
    saliency = torch.ones(6, PATCHES)
    saliency[range(6), places] = 4.0  # as a tower attends to things more than to what is behind them
    kept = chosen("changes:3", features_of(rows, saliency))
    assert all(kept[frame, place] for frame, place in enumerate(places))
    assert kept[1:].sum() < 15 < 18 == kept.sum()


@pytest.mark.parametrize(
    ("text", "frames", "numbers"),
    [
        ("fewer_frames:3", 8, {4: 24}),
        ("fewer_frames:3,every=4", 8, {2: 12, 6: 12}),
        ("fewer_frames:3,every=3", 8, {1: 8, 4: 8, 6: 8}),
        ("fewer_frames:7", 5, {1: 18, 3: 17}),
        ("fewer_frames:5,every=1", 3, {0: 5, 1: 5, 2: 5}),
        ("fewer_frames:24", 2, {0: 24, 1: 24}),
    ],
)
def test_fewer_frames_keeps_some_frames_and_no_others(text, frames, numbers):
    features = features_of(drawn(frames))
    for by in ("uniform", "attention"):
        kept = chosen(f"{text},by={by}", features)
        assert {t: int(row.sum()) for t, row in enumerate(kept) if row.any()} == numbers
        for frame, number in numbers.items():
            if by == "attention":
                best = np.argsort(-features.saliency[frame].numpy())[:number]
            else:
                best = [math.floor((i + 0.5) * PATCHES / number) for i in range(number)]
            assert np.flatnonzero(kept[frame]).tolist() == sorted(best)


@pytest.mark.parametrize("name", ACROSS)
def test_rows_and_numbers_of_clips_of_different_lengths(name):
    """The rows that are kept are the content's, clip after clip; a clip is as alone; no operation leaves the device."""
    parts = [features_of(drawn(frames, frames), seed=frames) for frames in (3, 1, 5)]
    together = VisionFeatures(
        torch.cat([each.content for each in parts]),
        GRID,
        True,
        torch.cat([each.source for each in parts]),
        True,
        saliency=torch.cat([each.saliency for each in parts]),
    )
    bound = get_compressor(name).bind(CompressionConfig(name, 4), SHAPE)
    shared = choose_across(bound, together, (3, 1, 5))
    kept = np.concatenate([chosen(f"{name}:4", each) for each in parts])
    assert torch.equal(shared.tokens, together.source[torch.from_numpy(kept)])
    assert shared.numbers.tolist() == kept.sum(axis=1).tolist()
    rows, splits = shared.per_frame(shared.tokens)
    assert torch.equal(torch.cat([row[: sum(split)] for row, split in zip(rows, splits, strict=True)]), shared.tokens)
    with MetaClean():
        on_meta = replace(
            together,
            content=together.content.to("meta"),
            source=together.source.to("meta"),
            saliency=together.saliency.to("meta"),
        )
        assert choose_across(bound, on_meta, (3, 1, 5)).tokens.shape == (9 * 4, CHANNELS)


@pytest.mark.parametrize(("name", "same"), [("changes", "fastervlm"), ("fewer_frames", "uniform")])
def test_an_image_is_a_video_of_one_frame(name, same):
    features = features_of(drawn(3))
    budget, other = CompressionConfig(name, 5), CompressionConfig(same, 5)
    kept = get_compressor(name)(features, budget).positions
    assert torch.equal(kept, get_compressor(same)(features, other).positions)
    for tile in range(3):
        alone = features_of(features.source[tile : tile + 1], features.saliency[tile : tile + 1])
        assert np.flatnonzero(chosen(f"{name}:5", alone)).tolist() == kept[tile].tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("changes:3,alpha=0", "alpha must be above 0, got 0"),
        ("changes:3,tiles=gain", "tiles=gain needs a method that has an order of selection, and changes has none"),
        ("changes:9,adaptive=gain,threshold=0.1", "adaptive=gain needs a method that has an order of selection"),
        ("changes:25", "dominant=25 is outside 1..24"),
        ("fewer_frames:3,every=0", "every must be 1 or more, got 0"),
        ("fewer_frames:3,every=9", r"one of 9 frames would keep 9 x 3 tokens, and a frame has 24; every= is at most 8"),
        ("fewer_frames:3,by=size", "by='size' must be one of uniform, attention"),
    ],
)
def test_what_is_refused_before_a_video_is_encoded(text, message):
    budget = CompressionConfig.parse(text)
    with pytest.raises(ValueError, match=message):
        get_compressor(budget.method).check(budget, SHAPE)


def test_a_method_that_names_too_few_patches_is_told():
    lazy = replace(get_compressor("changes"), across=lambda features, budget, options: torch.arange(2))
    bound = lazy.bind(CompressionConfig("changes", 4), SHAPE)
    with pytest.raises(RuntimeError, match=r"'changes' named \(2,\) patches of 3 frames .*which is 12 in all"):
        choose_across(bound, features_of(drawn(3)), (3,))


def test_frames_of_a_model_share_their_clips_total():
    """A still clip and one with a cut, beside an image; each frame stands behind its own placeholder."""
    model = copy.deepcopy(video_llava())
    still = random_pixels(1, 3, 28, 28, seed=1).expand(FRAMES, -1, -1, -1)
    cut = torch.cat([still[:2], random_pixels(1, 3, 28, 28, seed=2).expand(2, -1, -1, -1)])
    with torch.no_grad():
        for layer in model.model.video_tower.encoder.layers:
            layer.temporal_embedding.zero_()
            layer.temporal_attn.out_proj.weight.zero_()  # frames see themselves alone
        model.set_compression("changes:5")
        rows = model.encode_images([still, random_pixels(3, 28, 28, seed=3), cut])
    lengths = [len(row) for row in rows]
    assert sum(model.num_clip_tokens()) == sum(lengths[:FRAMES]) == sum(lengths[-FRAMES:]) == 5 * FRAMES
    assert lengths[: FRAMES + 1] == [16, *lengths[1:FRAMES], 5] and lengths[-FRAMES:][1] == lengths[-FRAMES:][3] == 1
    assert lengths[-FRAMES:][2] > 5
