"""The sides that `benchmarks/vision.py` compares compute the same, for both kinds of towers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from llava import CompressionConfig
from llava.analysis.counting import count
from tests.model.tiny import VISION, sharpen

FILE = Path(__file__).parents[2] / "benchmarks" / "towers.py"


@pytest.fixture(scope="module")
def towers():
    spec = importlib.util.spec_from_file_location("benchmark_towers", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.inference_mode()
def test_the_references_way_and_ours_give_the_same_tokens(towers, kind):
    torch.manual_seed(0)
    tower = towers.Tower.build(kind, torch.device("cpu"), torch.float32, **VISION)
    sharpen(tower.fused)  # the eager one shares the weights
    pixels, budget = tower.pixels(3), CompressionConfig.parse("visionzip:5+2")
    reference = towers.visionzip_way(tower, pixels, budget.dominant, budget.contextual)
    torch.testing.assert_close(towers.our_way(tower, pixels, budget), reference, atol=2e-4, rtol=1e-3)
    assert towers.llava_way(tower, pixels).shape == (3, 16, 24)


@torch.inference_mode()
def test_attention_is_counted_whichever_kernel_computes_it(towers):
    tower = towers.Tower.build("clip", torch.device("cpu"), torch.float32, **VISION)
    pixels = tower.pixels(1)
    fused = count(lambda: tower.fused(pixels))
    assert fused.flops == count(lambda: tower.eager(pixels)).flops
