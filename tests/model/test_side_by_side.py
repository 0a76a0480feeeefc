"""Nothing is global: each model has its own budget, changed without a reload; a CLIP of the user's own is untouched."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPVisionModel, LlavaForConditionalGeneration

from llava.model.builder import load_pretrained_model
from tests.model.tiny import hf_llava, random_pixels, sharpen, vision_config


def test_two_budgets_and_a_clip_of_the_users_own(oracle_dir):
    own_clip = sharpen(CLIPVisionModel(vision_config()))
    own_llava = hf_llava()
    pixels, big = random_pixels(2, 3, 28, 28), random_pixels(1, 3, 336, 336)
    with torch.no_grad():
        before = own_clip(pixels).last_hidden_state
        before_llava = own_llava.get_image_features(pixels, return_dict=True).pooler_output
        folder = oracle_dir / "tiny-llava-v1.5"
        _, few, _, _ = load_pretrained_model(folder, device="cpu", compression="visionzip:54+10")
        _, many, _, _ = load_pretrained_model(folder, device="cpu", compression="visionzip:162+30")
        _, vanilla, _, _ = load_pretrained_model(folder, device="cpu")
        for _ in range(2):
            assert [len(model.encode_images(big)[0]) for model in (few, many, vanilla)] == [64, 192, 576]
        assert torch.equal(own_clip(pixels).last_hidden_state, before)
        after_llava = own_llava.get_image_features(pixels, return_dict=True).pooler_output
    assert all(torch.equal(a, b) for a, b in zip(after_llava, before_llava, strict=True))
    assert type(own_llava) is LlavaForConditionalGeneration


def test_set_compression_without_a_reload(oracle_dir):
    _, model, _, _ = load_pretrained_model(oracle_dir / "tiny-llava-v1.5", device="cpu")
    big = random_pixels(1, 3, 336, 336)
    with torch.no_grad():
        vanilla = model.encode_images(big)[0]
        model.set_compression("visionzip:54+10")
        assert model.config.compression["dominant"] == 54
        compressed = model.encode_images(big)[0]
        model.set_compression({"method": "visionzip", "dominant": 54, "contextual": 10, "merge": "mean"})
        averaged = model.encode_images(big)[0]
        assert torch.equal(averaged[:54], compressed[:54]) and not torch.equal(averaged[54:], compressed[54:])
        model.set_compression("visionzip:577")  # contextual=0: everything is kept, CLS in front
        assert torch.equal(model.encode_images(big)[0][1:], vanilla)
        with pytest.raises(ValueError, match="outside"):
            model.set_compression("visionzip:577+1")
        assert str(model.compression) == "visionzip:577"  # a refused change changes nothing
        model.set_compression(None)
        assert model.compression is None and torch.equal(model.encode_images(big)[0], vanilla)
    with pytest.raises(ValueError, match="no compression"):
        model.compress_images(big)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_nearly_the_same_tokens(oracle_dir, dtype, record_property):
    """bf16 and fp16 run end to end; the share of kept tokens that fp32 keeps too is reported."""
    pixels = random_pixels(4, 3, 336, 336)
    kept, folder = {}, oracle_dir / "tiny-llava-v1.5"
    for each in (torch.float32, dtype):
        _, model, _, _ = load_pretrained_model(folder, device="cpu", compression="visionzip:54+10", torch_dtype=each)
        assert model.dtype == each
        with torch.no_grad():
            kept[each] = model.compress_images(pixels).positions[:, :54]
        ids = torch.tensor([[1, 300, -200, 400]])
        assert model.generate(ids, images=pixels[:1], max_new_tokens=2, do_sample=False).shape[1] <= 2  # fp32 pixels
    overlap = [len(set(a.tolist()) & set(b.tolist())) for a, b in zip(kept[torch.float32], kept[dtype], strict=True)]
    record_property("kept of 54 as in fp32", overlap)
    print(f"{dtype}: {overlap} of 54 kept tokens are those of fp32")
    assert min(overlap) >= 45
