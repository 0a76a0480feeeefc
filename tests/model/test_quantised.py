"""8-bit and 4-bit loading quantise the language model, and leave tower, projector and head in full precision."""

from __future__ import annotations

import bitsandbytes
import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from llava.model.builder import _quantization, instantiate
from llava.model.checkpoints.parts import parts_of_checkpoint
from llava.model.families.mini_gemini.model import MiniGeminiConfig, MiniGeminiForConditionalGeneration
from tests.model.tiny import IMAGE_TOKEN, TEXT, VISION, random_pixels, sharpen, vision_config


@pytest.mark.parametrize(("bits", "kind"), [(8, bitsandbytes.nn.Linear8bitLt), (4, bitsandbytes.nn.Linear4bit)])
def test_quantised_layers_are_where_they_should_be(bits, kind, tmp_path):
    torch.manual_seed(0)
    text = LlamaConfig(**{**TEXT, "hidden_size": 64, "intermediate_size": 128})  # blocks of 64 must divide the widths
    config = LlavaConfig(vision_config=vision_config(), text_config=text, image_token_index=IMAGE_TOKEN)
    sharpen(LlavaForConditionalGeneration(config)).save_pretrained(tmp_path)
    model = instantiate(
        parts_of_checkpoint(tmp_path),
        dtype=torch.float32,
        device_map={"": "cpu"},
        quantization=_quantization(bits == 8, bits == 4, torch.float32),
    ).eval()
    inner = model.model
    assert all(type(layer.mlp.up_proj) is kind for layer in inner.language_model.layers)
    for full in (inner.vision_tower.encoder.layers[0].mlp.fc1, inner.multi_modal_projector.linear_1, model.lm_head):
        assert type(full) is nn.Linear
    model.set_compression("visionzip:5+2")
    ids = torch.tensor([[1, 30, -200, 40]])
    new = model.generate(ids, images=random_pixels(1, 3, 28, 28), max_new_tokens=3, do_sample=False)
    assert new.shape[1] <= 3


@pytest.mark.parametrize("bits", [8, 4])
def test_a_family_says_what_else_stays_whole(bits, tmp_path):
    text = LlamaConfig(**{**TEXT, "hidden_size": 64, "intermediate_size": 128})
    torch.manual_seed(0)
    config = MiniGeminiConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=text,
        image_token_index=IMAGE_TOKEN,
        aux_config={"hidden_sizes": [4, 8, 12], "depths": [1, 2, 1]},
        image_size_aux=64,
    )
    whole = sharpen(MiniGeminiForConditionalGeneration(config)).eval()
    whole.save_pretrained(tmp_path)
    quantization = _quantization(bits == 8, bits == 4, torch.float32)
    parts = parts_of_checkpoint(tmp_path)
    model = instantiate(parts, dtype=torch.float32, device_map={"": "cpu"}, quantization=quantization).eval()
    packed = {name for name, weight in model.named_parameters() if not weight.is_floating_point()}
    expected = {name for name in packed if name.startswith("model.language_model.layers.")}
    assert packed == expected and len(packed) == 7 * text.num_hidden_layers
    ids, pixels = torch.tensor([[1, 30, -200, 40]]), random_pixels(1, 3, 64, 64)
    for each in (whole, model):
        each.set_compression("visionzip:5+2")
    with torch.no_grad():
        assert torch.equal(model.encode_images(pixels), whole.encode_images(pixels))
    assert model.generate(ids, images=pixels, max_new_tokens=3, do_sample=False).shape[1] <= 3
