"""These methods in whole models: K tokens an image, the same in any batch and graph, and in order on a canvas."""

from __future__ import annotations

import pytest
import torch

from llava.model.anyres import TileLayout
from llava.model.builder import instantiate
from llava.model.checkpoints.parts import parts_of_checkpoint
from llava.model.configuration import CompressionConfig
from tests.model.tiny import hf_llava, hf_llava_next, random_pixels

WITHOUT_CLS = ["fastervlm:6", "vispruner:12", "vispruner:7,rule=distinct", "holov:6,crops=4", "tome:6", "tome:11"]
WITHOUT_CLS += ["pool:6", "pool:8,kind=bilinear", "pool:4,kind=average", "downsample:6", "downsample:4"]
BUDGETS = [*WITHOUT_CLS, "prumerge:6", "prumerge_plus:6,rule=distinct", "holov:6,crops=16,rule=distinct"]
SIZES = [(50, 40), (90, 20), (28, 28), (30, 80)]


def model_of(hf, folder):
    hf.save_pretrained(folder)
    return instantiate(parts_of_checkpoint(folder), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return {kind: model_of(hf_llava(kind), tmp_path_factory.mktemp(kind)) for kind in ("clip", "siglip")}


@pytest.fixture(scope="module")
def llava_next(tmp_path_factory):
    return model_of(hf_llava_next(), tmp_path_factory.mktemp("next"))


@pytest.mark.parametrize(
    ("kind", "budget"), [("clip", budget) for budget in BUDGETS] + [("siglip", budget) for budget in WITHOUT_CLS]
)
@torch.no_grad()
def test_an_image_has_k_tokens_alike_in_any_batch(llava, kind, budget):
    model, pixels = llava[kind], random_pixels(3, 3, 28, 28)
    model.set_compression(budget)
    together = model.encode_images(pixels)
    assert together.shape[1] == CompressionConfig.parse(budget).num_tokens == model.num_visual_tokens([(28, 28)])[0]
    for index in range(3):
        alone = model.encode_images(pixels[index : index + 1])[0]
        torch.testing.assert_close(alone, together[index], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "budget"), [("clip", "downsample:6"), ("siglip", "downsample:6"), ("clip", "pool:6"), ("clip", "tome:6")]
)
@torch.no_grad()
def test_tower_and_method_are_one_graph(llava, kind, budget):
    model, pixels = llava[kind], random_pixels(3, 3, 28, 28)
    model.set_compression(budget)
    eager = model.encode_images(pixels)
    torch._dynamo.reset()
    model.model.compile_vision(backend="eager")
    try:
        torch.testing.assert_close(model.encode_images(pixels), eager, atol=1e-5, rtol=1e-5)
    finally:
        model.model.compiled_vision = None


@pytest.mark.parametrize("budget", BUDGETS)
@torch.no_grad()
def test_images_of_several_tiles_are_alike_in_any_batch(llava_next, budget):
    llava_next.set_compression(budget)
    layout = TileLayout.from_config(llava_next.config)
    images = [random_pixels(layout.num_tiles(size), 3, 28, 28, seed=sum(size)) for size in SIZES]
    together = llava_next.encode_images(images, SIZES)
    assert [len(tokens) for tokens in together] == llava_next.num_visual_tokens(SIZES)
    for image, size, wanted in zip(images, SIZES, together, strict=True):
        torch.testing.assert_close(llava_next.encode_images([image], [size])[0], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("budget", ["pool:8", "downsample:8"])
@torch.no_grad()
def test_cells_of_several_tiles_are_read_in_the_rows_of_the_canvas(llava_next, budget):
    """2 x 4 cells a tile on a canvas of 2 x 2 tiles: its rows have eight cells, four of each of two tiles."""
    llava_next.set_compression(budget)
    pixels, size = random_pixels(5, 3, 28, 28), (50, 50)
    tiles = torch.cat(llava_next.encode_images([pixels[index : index + 1] for index in range(5)], [(28, 28)] * 5))
    tiles = tiles.unflatten(0, (5, -1))[:, :8]  # without the newline that ends a single tile
    canvas = tiles[1:].unflatten(1, (2, 4)).unflatten(0, (2, 2)).transpose(1, 2).reshape(32, -1)
    packed = llava_next.encode_images([pixels], [size])[0]
    torch.testing.assert_close(packed, torch.cat([tiles[0], canvas]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "budget", ["fastervlm:6", "vispruner:6,rule=distinct", "holov:6,crops=4", "tome:6", "prumerge:6"]
)
@torch.no_grad()
def test_tiles_may_share_an_images_tokens(llava_next, budget):
    llava_next.set_compression(f"{budget},tiles=area")
    layout = TileLayout.from_config(llava_next.config)
    images = [random_pixels(layout.num_tiles(size), 3, 28, 28, seed=sum(size)) for size in SIZES]
    assert [len(tokens) for tokens in llava_next.encode_images(images, SIZES)] == llava_next.num_visual_tokens(SIZES)


@torch.no_grad()
def test_the_token_of_all_others_stands_last_however_tiles_share(llava_next):
    """Tiles without padding share alike, so both ways give one sequence."""
    pixels, size = random_pixels(5, 3, 28, 28), (56, 56)
    llava_next.set_compression("prumerge:6")
    alike = llava_next.encode_images([pixels], [size])[0]
    for budget in ("prumerge:6,tiles=area", "prumerge:4+2,tiles=area"):
        llava_next.set_compression(budget)
        torch.testing.assert_close(llava_next.encode_images([pixels], [size])[0], alike)


@pytest.mark.parametrize("budget", ["vispruner:12", "pool:6", "pool:4,kind=average", "downsample:6"])
def test_shares_that_a_method_cannot_have_are_refused(llava_next, budget):
    with pytest.raises(ValueError, match="use tiles=equal"):
        llava_next.set_compression(f"{budget},tiles=area")
