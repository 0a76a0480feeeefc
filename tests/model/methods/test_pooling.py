"""Pooling against torch's own functions as recorded; the grids that K tokens make."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from llava.model.multimodal_compressor.cells import best_grid, centres
from llava.model.multimodal_compressor.pooling import pool, pool_squares
from tests.model.methods.chosen_cases import compress, is_refused, random_features, recorded_features
from tests.model.methods.recorded import Recording


def test_every_recorded_case():
    recorded = Recording("pooling")
    for group in recorded.groups("tokens"):
        case, kind, first, second = re.fullmatch(r"(.+)/(avg|adaptive|bilinear)(\d+)(?:x(\d+))?", group).groups()
        features = recorded_features(case)
        grid = features.grid
        name = "average" if kind == "avg" else kind
        cells = (grid[0] // int(first), grid[1] // int(first)) if kind == "avg" else (int(first), int(second))
        wanted = recorded[f"{group}/tokens"]
        patches = features.patches[:1]
        found = pool_squares(patches, grid, int(first)) if kind == "avg" else pool(patches, grid, cells, name)
        recorded.compare(group, found.shape == wanted.shape and np.allclose(found, wanted, atol=1e-5))
        number = cells[0] * cells[1]
        if kind == "avg":  # the smallest squares that give as many cells
            smaller = [(grid[0] // side) * (grid[1] // side) for side in range(1, int(first))]
            is_chosen = number not in smaller
        else:
            is_chosen = best_grid(number, grid) == cells
        if is_chosen and not is_refused(features, "pool", number, kind=name):
            torch.testing.assert_close(compress(features, "pool", number, kind=name).tokens[:1], found)
    recorded.finish()


@pytest.mark.parametrize(
    ("count", "grid", "cells"),
    [
        (192, (24, 24), (12, 16)),
        (128, (24, 24), (8, 16)),
        (64, (24, 24), (8, 8)),
        (576, (24, 24), (24, 24)),
        (60, (6, 10), (6, 10)),
        (10, (6, 10), (2, 5)),
        (98, (14, 14), (7, 14)),
    ],
)
def test_the_grid_is_nearest_to_the_tiles_aspect_and_wider_of_two(count, grid, cells):
    assert best_grid(count, grid) == cells


@pytest.mark.parametrize("method", ["pool", "downsample"])
def test_long_grids_are_refused_and_the_nearest_below_is_named(method):
    tile = random_features(1, (24, 24), channels=2)
    assert is_refused(tile, method, 65).endswith(
        "65 tokens are at best a grid of 5 x 13, longer than 2:1; the nearest number below is 64"
    )
    for count in (192, 128, 64, 32, 1, 2, 576):
        assert not is_refused(tile, method, count)


def test_squares_give_few_numbers():
    tile = random_features(1, (24, 24), channels=2)
    for count in (576, 144, 64, 36, 16, 9, 4, 1):
        assert not is_refused(tile, "pool", count, kind="average")
    assert "nearest number that some give is 64" in is_refused(tile, "pool", 128, kind="average")


def test_positions_are_centres_in_raster_order():
    cells, device = (3, 4), torch.device("cpu")
    assert centres(cells, (6, 8), device).tolist() == [9, 11, 13, 15, 25, 27, 29, 31, 41, 43, 45, 47]
    assert centres((6, 8), (6, 8), device).tolist() == list(range(48))
    found = compress(random_features(2, (6, 8)), "pool", 12)
    assert found.positions[1].tolist() == centres(cells, (6, 8), device).tolist() and found.num_dominant == 12


def test_all_patches_stay_themselves():
    features = random_features(2, (6, 8))
    for kind in ("adaptive", "average", "bilinear"):
        torch.testing.assert_close(compress(features, "pool", 48, kind=kind).tokens, features.patches)
