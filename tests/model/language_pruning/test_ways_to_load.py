"""Pruners in models that are quantised or spread over devices, and pruners of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from llava.kinds import load_plugins
from llava.model.builder import _quantization, instantiate
from llava.model.checkpoints.parts import parts_of_checkpoint
from llava.model.configuration import CompressionConfig
from llava.model.language_pruning import PRUNERS
from llava.model.stages import pruner_of
from tests.model.language_pruning.tiny_models import LAYERS, load_tiny, samples, save_tiny, together
from tests.model.tiny import IMAGE_TOKEN, TEXT, sharpen, vision_config

BUDGETS = ["fastv:9", "pyramiddrop:9", "sparsevlm:9", "sparsevlm:9,version=2"]
GREEDY = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
PLUGIN = Path(__file__).parents[2] / "fixtures" / "plugins" / "first_rows.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("llava"))


def answers(model, parts) -> list[list[list[int]]]:
    found = []
    for budget in BUDGETS:
        model.set_compression(budget)
        found.append(model.generate(**together(parts), **GREEDY).tolist())
    return found


def test_weights_that_are_brought_in_when_a_module_is_called(folder):
    """As device maps do it: scores call a layer's projections by themselves, and those have hooks of their own."""
    plain = load_tiny(folder)
    wanted = answers(plain, samples(plain))
    offloaded = load_tiny(folder)
    cpu_offload(offloaded, execution_device=torch.device("cpu"))
    assert {p.device.type for p in offloaded.model.language_model.parameters()} == {"meta"}
    assert answers(offloaded, samples(offloaded)) == wanted


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_weights(bits, tmp_path):
    torch.manual_seed(0)
    sizes = {**TEXT, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": LAYERS}
    config = LlavaConfig(vision_config=vision_config(), text_config=LlamaConfig(**sizes), image_token_index=IMAGE_TOKEN)
    sharpen(LlavaForConditionalGeneration(config)).save_pretrained(tmp_path)
    options = {"device_map": {"": "cpu"}, "quantization": _quantization(bits == 8, bits == 4, torch.float32)}
    model = instantiate(parts_of_checkpoint(tmp_path), dtype=torch.float32, **options).eval()
    parts = samples(model)
    for budget, together_ in zip(BUDGETS, answers(model, parts), strict=True):
        model.set_compression(budget)
        alone = [model.generate(**together([part]), **GREEDY)[0].tolist() for part in parts]
        assert alone == together_, budget


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(folder, dtype):
    model = instantiate(parts_of_checkpoint(folder), dtype=dtype).eval()
    for budget in BUDGETS:
        model.set_compression(budget)
        with torch.no_grad():
            logits = model(**together(samples(model))).logits
        assert logits.dtype == dtype and bool(torch.isfinite(logits).all())


def test_a_pruner_of_ones_own(folder, tmp_path):
    load_plugins([str(PLUGIN)])
    model = load_tiny(folder)
    model.set_compression("visionzip:8+2|first_rows:4,layer=2")
    with torch.no_grad():
        cache = model(**together(samples(model)[:1]), use_cache=True).past_key_values
    text = len(samples(model)[0][0]) - 1
    assert cache.lengths == [text + rows for rows in [10, 10, 1, 1, 1, 1]]
    assert model.compression.then.plugin == str(PRUNERS.plugin_name("first_rows"))
    model.save_pretrained(tmp_path)
    assert load_tiny(tmp_path).compression == model.compression
    with pytest.raises(ValueError, match="layer must be at least 1, got 0"):
        model.set_compression("first_rows:4,layer=0")
    gone = CompressionConfig("gone", 4, plugin="elsewhere")
    with pytest.raises(ValueError, match="unknown method 'gone' inside the language model: it comes from the plug-in"):
        pruner_of(gone)
