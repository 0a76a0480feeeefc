"""Patches of the border that makes a picture square, and how they reach a compressor."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from llava.images.processing import expand2square
from llava.model.builder import instantiate
from llava.model.checkpoints.parts import parts_of_checkpoint
from llava.model.padding import content_box, padding_patches
from llava.model.tile_facts import tile_facts
from tests.model.tiny import hf_llava, random_pixels


@pytest.mark.parametrize("size", [(640, 427), (300, 900), (500, 500), (1200, 380), (337, 336), (3, 1000), (27, 384)])
@pytest.mark.parametrize(("grid", "tile"), [((24, 24), 336), ((27, 27), 384), ((16, 16), 224)])
def test_padded_patches_show_nothing_of_the_picture(size, grid, tile):
    """LLaVA's own padding, then nearest pixels of the resized square."""
    square = expand2square(Image.new("L", size, 255), 0).resize((tile, tile), Image.Resampling.NEAREST)
    patch = tile // grid[0]
    pixels = torch.tensor(list(square.getdata())).view(tile, tile)[: patch * grid[0], : patch * grid[1]]
    patches = pixels.unfold(0, patch, patch).unfold(1, patch, patch)  # (h, w, patch, patch)
    assert torch.equal(padding_patches(size, grid, tile), (patches == 0).all(dim=(2, 3)).flatten())


def test_the_box_of_a_picture():
    assert content_box((640, 427), 336) == (0, 56, 336, 280)
    assert content_box((500, 500), 336) == (0, 0, 336, 336)


def make_config(aspect_ratio: str) -> SimpleNamespace:
    vision = SimpleNamespace(image_size=28, patch_size=7)
    return SimpleNamespace(model_type="llava", image_aspect_ratio=aspect_ratio, vision_config=vision)


def test_facts_of_tiles_tell_padding_where_pictures_are_padded():
    device, wide, needs = torch.device("cpu"), [(40, 20), (28, 28)], {"padding"}
    found = tile_facts(make_config("pad"), needs, 2, None, wide, device)["padding"]
    rows = torch.tensor([True, False, False, True]).repeat_interleave(4)
    assert torch.equal(found, torch.stack([rows, torch.zeros(16, dtype=torch.bool)]))
    assert not tile_facts(make_config("square"), needs, 2, None, wide, device)["padding"].any()
    assert not tile_facts(make_config("pad"), needs, 2, None, None, device)["padding"].any()
    assert "padding" not in tile_facts(make_config("pad"), set(), 2, None, wide, device)


@pytest.mark.parametrize("budget", ["mmtok:8,text=false", "coverage:8,strength=0"])
@torch.no_grad()
def test_sizes_reach_the_compressor_from_a_batch_and_from_a_list(tmp_path, budget):
    hf_llava().save_pretrained(tmp_path)
    model = instantiate(parts_of_checkpoint(tmp_path), dtype=torch.float32).eval()
    model.config.image_aspect_ratio = "pad"
    pixels, sizes = random_pixels(2, 3, 28, 28), [(40, 20), (28, 28)]
    whole = model.encode_images(pixels)
    model.set_compression(budget)
    batch, one_by_one = model.encode_images(pixels, sizes), model.encode_images(list(pixels), sizes)
    assert all(torch.equal(a, b) for a, b in zip(batch, one_by_one, strict=True))
    torch.testing.assert_close(batch[0], whole[0, 4:12])  # the two rows of patches that show something
    assert not torch.equal(batch[1], whole[1, 4:12])
    unsized = model.encode_images(pixels)
    assert torch.equal(unsized[1], batch[1]) and not torch.equal(unsized[0], batch[0])
