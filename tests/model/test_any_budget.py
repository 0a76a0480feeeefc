"""An image that is read once gives under any budget what the model gives under it, and picks are rows of the tower."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from llava.inference import Inference
from llava.model.any_budget import CLS, bind, kept_under, picked_tokens, read_image, tokens_under
from llava.model.multimodal_compressor import COMPRESSORS
from tests.model.meta_clean import MetaClean
from tests.model.own_methods import OWN_METHODS

QUESTION = "What is to the left of the cat?"
BUDGETS = [
    "none",
    "visionzip:54+10",
    "visionzip:9+3,merge=mean",
    "visionzip:1",
    "divprune:20,rule=reference",
    "pool:36",
]
BUDGETS += ["visionzip:20,tiles=area", "visionzip:20,tiles=gain"]


@pytest.fixture(scope="module", params=["tiny-llava-v1.5", "tiny-llava-v1.6-next"])
def inference(request: pytest.FixtureRequest, oracle_dir: Path) -> Inference:
    return Inference.load(oracle_dir / request.param, device="cpu", compression="none")


@pytest.fixture(scope="module")
def picture(oracle_dir: Path) -> Image.Image:
    with Image.open(oracle_dir / "images" / "landscape.png") as file:
        return file.convert("RGB")


@pytest.fixture(scope="module")
def seen(inference: Inference, picture: Image.Image):
    return read_image(inference.model, inference.preprocess([picture]), picture.size)


def budgets(inference: Inference) -> list[str]:
    """One budget of every method that stands behind the tower, and some with options."""
    tile = inference.model.model.tile_shape
    plain = [name for name in OWN_METHODS if COMPRESSORS.get(name).place(tile) != "pixels"]
    found = [f"{name}:36" for name in plain if name != "visionzip"]
    assert {"random:36", "tome:36", "mmtok:36", "prumerge:36", "holov:36", "pool:36"} <= set(found)
    return sorted({*found, *BUDGETS})


@torch.inference_mode()
def test_every_method_gives_what_the_model_gives_and_the_tower_runs_once(inference, picture, seen) -> None:
    model, pixels = inference.model, inference.preprocess([picture])
    runs: list[int] = []
    handle = model.model.vision_tower.register_forward_hook(lambda *_: runs.append(1))
    layers = [module for name, module in model.model.vision_tower.named_modules() if name.endswith("layers.0")]
    handles = [handle, layers[0].register_forward_hook(lambda *_: runs.append(1))]
    found = {text: tokens_under(model, seen, bind(model, text), QUESTION) for text in budgets(inference)}
    assert not runs and model.compression is None
    for each in handles:
        each.remove()
    try:
        for text, tokens in found.items():
            model.set_compression(text)
            [expected] = model.encode_each(pixels, [picture.size], [QUESTION])
            torch.testing.assert_close(tokens, expected, atol=0, rtol=0, msg=lambda told, text=text: f"{text}: {told}")
    finally:
        model.set_compression(None)


def test_the_kept_patches_are_those_of_the_model_and_every_merged_patch_has_its_token(inference, picture, seen) -> None:
    model, pixels = inference.model, inference.preprocess([picture])
    try:
        for text in ("visionzip:9+3", "divprune:20", "tome:36", "mmtok:36"):
            kept = kept_under(model, seen, bind(model, text), QUESTION)
            model.set_compression(text)
            expected = model.compress_images(pixels, [picture.size], [QUESTION])
            assert torch.equal(kept.positions, expected.positions) and torch.equal(kept.sizes, expected.sizes)
            for held, positions, sizes in zip(kept.assignment, kept.positions, kept.sizes, strict=True):
                counted = torch.bincount(held[held >= 0], minlength=len(sizes))
                patches = positions >= 0
                assert torch.equal(counted[patches], sizes[patches]), text
                assert torch.equal(held[positions[patches]], torch.arange(len(sizes))[patches]), text
    finally:
        model.set_compression(None)


def test_following_marked_rows_finds_what_visionzip_itself_says(inference, seen) -> None:
    from llava.model.multimodal_compressor import visionzip

    features = seen.features
    own = visionzip(
        features.content, features.keys, features.saliency, dominant=9, contextual=3, return_assignment=True
    ).assignment
    assert torch.equal(kept_under(inference.model, seen, bind(inference.model, "visionzip:9+3")).assignment, own)


@torch.inference_mode()
def test_picks_that_a_method_made_give_what_the_method_gives(inference, seen) -> None:
    """The order over the tiles of a grid and the CLS token's place are then the method's."""
    model = inference.model
    for text in ("visionzip:12", "divprune:12"):
        bound = bind(model, text)
        picks = kept_under(model, seen, bound).positions.tolist()
        assert (CLS in picks[0]) == text.startswith("visionzip")
        shuffled = [list(reversed(tile)) for tile in picks]
        torch.testing.assert_close(
            picked_tokens(model, seen, shuffled), tokens_under(model, seen, bound), atol=0, rtol=0
        )


@torch.inference_mode()
def test_picks_are_the_towers_rows_one_by_one(inference, picture, seen) -> None:
    """Against transformers' tower and projector, called by hand; uneven over the tiles, some without any pick."""
    model, tiles = inference.model, inference.preprocess([picture]).flatten(0, -4)
    picks: list[list[int]] = [[5, CLS, 17], [], [3], [8, 2], [CLS]][: len(tiles)]
    picks += [[] for _ in range(len(tiles) - len(picks))]
    tower = model.model.vision_tower(tiles, output_hidden_states=True).hidden_states[model.config.vision_feature_layer]
    rows = model.model.multi_modal_projector(tower)
    found = picked_tokens(model, seen, picks)
    newline = [] if len(found) == sum(map(len, picks)) else [model.model.image_newline]
    base = [rows[0, place + 1] for place in (CLS, 5, 17)]
    grid = []
    if len(tiles) > 1:
        side = round(model.num_patches**0.5)
        across = model.model.config.image_grid_pinpoints and _columns(model, picture.size)
        at = [
            ((t - 1) // across * side + p // side, (t - 1) % across * side + p % side, t, p)
            for t, tile in enumerate(picks)
            if t
            for p in tile
            if p != CLS
        ]
        grid = [rows[t, p + 1] for _, _, t, p in sorted(at)]
        grid += [rows[t, 0] for t, tile in enumerate(picks) if t and CLS in tile]
    torch.testing.assert_close(found, torch.stack([*base, *grid, *newline]), atol=1e-5, rtol=1e-5)


def _columns(model, size) -> int:
    from llava.model.anyres import TileLayout

    return TileLayout.from_config(model.config).grid_shape(size)[1]


@pytest.mark.parametrize(
    ("first", "reason"), [([], "no patch is picked"), ([576], "patches 0 to 575, and patch 576"), ([-2], "patch -2")]
)
def test_impossible_picks_are_refused(inference, seen, first, reason) -> None:
    rest: list[list[int]] = [[]] * (seen.num_tiles - 1)
    with pytest.raises(ValueError, match=reason):
        picked_tokens(inference.model, seen, [first, *rest])
    with pytest.raises(ValueError, match=f"{seen.num_tiles + 1} tiles, and the picture has {seen.num_tiles}"):
        picked_tokens(inference.model, seen, [[1], [1], *rest])


@pytest.mark.parametrize(
    "text",
    [
        "downsample:36",
        "fastv:64",
        "visionzip:54+10|fastv:64",
        "divprune:20,positions=restore",
        "visionzip:700",
        "nothing:3",
    ],
)
def test_budgets_that_need_more_than_the_towers_rows_are_refused(inference, text) -> None:
    with pytest.raises(ValueError, match="compression"):
        bind(inference.model, text)


def test_on_meta_nothing_waits_and_nothing_mixes(inference, seen) -> None:
    from dataclasses import fields, replace

    meta = {f.name: getattr(seen.features, f.name) for f in fields(seen.features)}
    meta = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in meta.items() if k != "last_layer_qk"}
    from llava.model.multimodal_compressor.following import following

    features = type(seen.features)(**meta)
    with MetaClean():
        kept = following(bind(inference.model, "visionzip:9+3"))(replace(features))
    assert kept.assignment.shape == features.patches.shape[:2] and kept.assignment.is_meta
