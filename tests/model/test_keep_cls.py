"""`keep_cls` of a budget: whether the class token reaches a method that keeps it, whatever the family does."""

from __future__ import annotations

import pytest
import torch

from llava.model.builder import instantiate
from llava.model.checkpoints.parts import parts_of_checkpoint
from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import visionzip
from tests.model.tiny import hf_llava, random_pixels


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    found = {}
    for kind in ("clip", "siglip"):
        folder = tmp_path_factory.mktemp(kind)
        hf_llava(kind).save_pretrained(folder)
        found[kind] = instantiate(parts_of_checkpoint(folder), dtype=torch.float32).eval()
    return found


@torch.no_grad()
def test_a_llava_without_its_class_token_keeps_a_patch_more(models):
    model, pixels = models["clip"], random_pixels(2, 3, 28, 28)
    model.set_compression("visionzip:5+2")
    usual = model.compress_images(pixels)
    _, features = model.selection(pixels)
    model.set_compression("visionzip:5+2,keep_cls=true")
    assert torch.equal(model.compress_images(pixels).tokens, usual.tokens)
    model.set_compression("visionzip:5+2,keep_cls=false")
    without = model.compress_images(pixels)
    expected = visionzip(
        features.patches, features.keys[:, 1:], features.saliency, dominant=5, contextual=2, has_cls=False
    )
    assert torch.equal(without.tokens, expected.tokens) and torch.equal(without.positions, expected.positions)
    assert (usual.positions[:, 0] == -1).all() and (without.positions >= 0).all()
    assert model.num_visual_tokens([(28, 28)]) == [7]
    model.set_compression("visionzip:16,keep_cls=false")  # all patches; with the class token there would be one more
    assert model.compress_images(pixels).positions.tolist() == [list(range(16))] * 2
    with pytest.raises(ValueError, match="17"):
        model.set_compression("visionzip:17,keep_cls=false")
    model.set_compression("visionzip:17")


def test_it_is_refused_where_there_is_no_class_token_to_keep(models):
    with pytest.raises(ValueError, match="keep_cls=true asks for a CLS token, and this tower has none"):
        models["siglip"].set_compression("visionzip:5+2,keep_cls=true")
    with pytest.raises(ValueError, match="keep_cls=true asks for a CLS token, and divprune keeps none"):
        models["clip"].set_compression("divprune:5,keep_cls=true")
    models["siglip"].set_compression("visionzip:5+2,keep_cls=false")


def test_it_is_written_and_read_back():
    for text, value in (("visionzip:54+10,keep_cls=false", False), ("visionzip:54+10,keep_cls=true", True)):
        budget = CompressionConfig("visionzip", 54, 10, keep_cls=value)
        assert CompressionConfig.parse(text) == budget and str(budget) == text
        assert CompressionConfig.from_dict(budget.to_dict()) == budget
    usual = CompressionConfig("visionzip", 54, 10)
    assert "keep_cls" not in usual.to_dict() and usual != budget and hash(usual) != hash(budget)
    with pytest.raises(ValueError, match="keep_cls must be true or false, got 1"):
        CompressionConfig.parse("visionzip:54+10,keep_cls=1")
