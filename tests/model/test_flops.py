"""The operations that are counted by formula are those that torch counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llava.constants import IMAGE_TOKEN_INDEX
from llava.inference.latency import PromptBatch
from llava.model.builder import instantiate
from llava.model.checkpoints.parts import parts_of_checkpoint
from llava.model.flops import (
    Trained,
    Work,
    causal_attention_flops,
    decode_flops,
    decoder_parameters,
    kv_bytes,
    layer_parameters,
    paper_flops,
    prefill_flops,
    step_flops,
    vision_flops,
)
from tests.model.tiny import hf_llava, hf_llava_next, random_ids, random_pixels

IMAGE_TOKENS, TEXT_TOKENS = 16, 9
TRAINING_SPEED = Path(__file__).resolve().parents[2] / "docs" / "training_speed.md"


@pytest.fixture(scope="module", params=["llava", "siglip", "llava_next"])
def folder(request, tmp_path_factory):
    kinds = {"llava": hf_llava, "siglip": lambda: hf_llava("siglip"), "llava_next": hf_llava_next}
    path = tmp_path_factory.mktemp(request.param)
    kinds[request.param]().save_pretrained(path)
    return path


@pytest.fixture
def model(folder):
    # torch counts eager attention's products as they are; it does not know the CPU's fused kernel.
    model = instantiate(parts_of_checkpoint(folder), dtype=torch.float32, attn_implementation="eager")
    return model.eval().requires_grad_(False)


def counted(model, batch) -> tuple[int, int]:
    """Forward and backward operations by torch."""
    with FlopCounterMode(display=False) as counter:
        loss = model(**batch, loss_only=True).loss
        forward = counter.get_total_flops()
        loss.backward()
    return forward, counter.get_total_flops() - forward


def batch_and_work(model, *, with_image: bool = True):
    ids = random_ids(1, TEXT_TOKENS + with_image)
    batch = {"input_ids": ids, "labels": ids.clone()}
    batch["labels"][:, :5] = -100
    if not with_image:
        return batch, Work([TEXT_TOKENS], 4)
    ids[0, 3] = IMAGE_TOKEN_INDEX
    newline = int(model.config.model_type == "llava_next")
    batch |= {"images": [random_pixels(1, 3, 28, 28)], "image_sizes": [(28, 28)]}
    return batch, Work([TEXT_TOKENS + IMAGE_TOKENS + newline], 5, IMAGE_TOKENS, 1)


def beyond_mask(model, work) -> int:
    """What eager attention computes forward of pairs that are masked, and so are not counted."""
    text, length = model.config.text_config, work.lengths[0]
    return text.num_hidden_layers * 4 * text.hidden_size * length**2 - causal_attention_flops(text, length)


@pytest.mark.parametrize("stage", ["projector", "finetune", "language model"])
def test_a_step_equals_torchs_count(model, stage):
    if stage != "language model":
        model.model.multi_modal_projector.requires_grad_(True)
    if stage != "projector":
        model.model.language_model.requires_grad_(True)
        model.lm_head.requires_grad_(True)
    trained = Trained.of(model)
    assert trained == Trained(stage != "language model", stage != "projector")
    batch, work = batch_and_work(model)
    ours = step_flops(model.config, work, trained)

    beyond = beyond_mask(model, work)
    forward, backward = counted(model, batch)
    assert forward == ours.forward + beyond
    assert backward == ours.backward + 2 * beyond


@torch.no_grad()
def test_prompt_and_answer_equal_torchs_count_and_the_cache(model):
    """Vision, prefill with the head at one place, a decode step; bytes of weights and of the real cache."""
    prompt = PromptBatch(random_ids(1, TEXT_TOKENS + 1), [random_pixels(1, 3, 28, 28)], [(28, 28)])
    prompt.input_ids[0, 3] = IMAGE_TOKEN_INDEX
    length = TEXT_TOKENS + IMAGE_TOKENS + int(model.config.model_type == "llava_next")
    with FlopCounterMode(display=False) as vision:
        features = prompt.encode(model)
    assert vision.get_total_flops() == vision_flops(model.config, 1, IMAGE_TOKENS)
    with FlopCounterMode(display=False) as prefill:
        cache = prompt.prefill(model, features).past_key_values
    beyond = beyond_mask(model, Work([length], 1))
    assert prefill.get_total_flops() == prefill_flops(model.config, length) + beyond
    assert sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values)) == kv_bytes(
        model.config, length, 4
    )
    with FlopCounterMode(display=False) as decode:
        model(random_ids(1, 1), past_key_values=cache, use_cache=True)
    assert decode.get_total_flops() == decode_flops(model.config, length)
    read = [*model.model.language_model.layers.parameters(), model.lm_head.weight]
    assert decoder_parameters(model.config) == sum(p.numel() for p in read if p.dim() > 1)


def test_text_only_batches_flow_back_only_where_the_language_model_is_trained(model):
    batch, work = batch_and_work(model, with_image=False)
    assert step_flops(model.config, work, Trained()).backward == 0
    model.lm_head.requires_grad_(True)
    model.model.language_model.requires_grad_(True)
    ours = step_flops(model.config, work, Trained.of(model))
    forward, backward = counted(model, batch)
    beyond = beyond_mask(model, work)
    assert (forward, backward) == (ours.forward + beyond, ours.backward + 2 * beyond)


def test_adapters(model):
    """LoRA: twice its parameters a token forward, twice that backward, and the language model's activations only."""
    from peft import LoraConfig, inject_adapter_in_model

    model.model.multi_modal_projector.requires_grad_(True)
    inject_adapter_in_model(LoraConfig(r=4, target_modules=["q_proj", "down_proj"]), model.model.language_model)
    trained = Trained.of(model)
    width, inner, layers = 32, 48, 2
    assert trained == Trained(True, False, layers * 4 * (width + width + inner + width))
    batch, work = batch_and_work(model)
    ours = step_flops(model.config, work, trained)
    without = step_flops(model.config, work, Trained())
    model.zero_grad()
    forward, backward = counted(model, batch)
    added = work.lengths[0] * 2 * trained.adapter_parameters
    assert (ours.forward - without.forward, ours.backward - without.backward) == (added, 2 * added)
    beyond = beyond_mask(model, work)
    assert (forward, backward) == (ours.forward + beyond, ours.backward + 2 * beyond)


def test_llama_7b_and_the_papers_count():
    from transformers import LlamaConfig, LlavaConfig

    config = LlavaConfig(text_config=LlamaConfig())  # the defaults are Llama-7B's
    assert layer_parameters(config.text_config) == 202_375_168
    # All 6,738,415,616 weights of Llama-7B but its 65 norms.
    assert 32 * 202_375_168 + 2 * 32_000 * 4096 == 6_738_415_616 - 65 * 4096
    ours = 2 * layer_parameters(config.text_config) * 32 * 100
    assert ours / (paper_flops(config, 100) - 2 * 100**2 * 4096 * 32) == pytest.approx(2.57, abs=0.005)
    for length, times in ((638, 2.52), (2990, 2.36)):
        assert prefill_flops(config, length) / paper_flops(config, length) == pytest.approx(times, abs=0.005)
        assert f"{times} times" in TRAINING_SPEED.read_text(encoding="utf-8")
