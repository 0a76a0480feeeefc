"""Looked-up pixels against those that transformers' processors compute, bit by bit."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import CLIPImageProcessorPil, LlavaImageProcessorPil, SiglipImageProcessorPil

from llava.images.tile_pixels import tile_pixels

SQUARE = {"height": 28, "width": 28}
CLIP = {"size": {"shortest_edge": 28}, "crop_size": SQUARE}


def picture(width: int, height: int, seed: int = 0, mode: str = "RGB") -> PIL.Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(levels).convert(mode)


def every_level() -> PIL.Image.Image:
    return PIL.Image.fromarray(np.resize(np.arange(256, dtype=np.uint8), (28, 28))).convert("RGB")


def assert_equal(tiles, processor):
    theirs = processor.preprocess(tiles, return_tensors="pt")["pixel_values"]
    assert torch.equal(tile_pixels(tiles, processor), theirs)


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(**CLIP),
        CLIPImageProcessorPil(**CLIP, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], rescale_factor=0.003),
        LlavaImageProcessorPil(**CLIP, do_pad=True),
        SiglipImageProcessorPil(size=SQUARE),
    ],
)
def test_squares_of_any_size_are_equal_bit_by_bit(processor, monkeypatch):
    tiles = [every_level(), picture(28, 28), picture(90, 90), picture(17, 17)]
    assert_equal(tiles, processor)
    monkeypatch.setattr(type(processor), "preprocess", None)
    assert tile_pixels(tiles, processor).shape == (4, 3, 28, 28)  # without asking the processor


@pytest.mark.parametrize(
    ("fields", "tile"),
    [
        ({}, picture(40, 28)),
        ({"do_normalize": False}, picture(28, 28)),
        ({"do_resize": False, "do_center_crop": False}, picture(28, 28)),
        ({"crop_size": {"height": 14, "width": 28}}, picture(28, 28)),
        ({"size": {"shortest_edge": 40}}, picture(50, 50)),
    ],
)
def test_whatever_else_is_left_to_the_processor(fields, tile):
    assert_equal([tile], CLIPImageProcessorPil(**{**CLIP, **fields}))


def test_one_mean_for_all_channels_is_left_to_the_processor():
    assert_equal([every_level()], CLIPImageProcessorPil(**CLIP, image_mean=0.5, image_std=0.25))


def test_no_picture_is_left_to_the_processor():
    assert_equal([], CLIPImageProcessorPil(**CLIP))


def test_other_modes_are_left_to_the_processor():
    assert_equal([picture(28, 28, mode="L")], CLIPImageProcessorPil(**CLIP))
