"""What compression asks of a machine, counted: the numbers may fall, and grow only by a deliberate change.

After such a change: `python -m tests.model.test_counts` writes the new ones.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    DynamicCache,
    LlamaConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from llava import CompressionConfig
from llava.analysis.counting import Counts, count
from llava.constants import IMAGE_TOKEN_INDEX
from llava.inference.generation import Generator, Prompt
from llava.inference.prefix import PrefixStore
from llava.model.llava_arch import LlavaForConditionalGeneration, LlavaNextForConditionalGeneration
from llava.model.llava_config import LlavaConfig, LlavaNextConfig
from llava.model.multimodal_compressor import QuestionEmbeds, VisionFeatures, get_compressor
from llava.model.multimodal_encoder import extract_features

RECORD = Path(__file__).with_name("counts.json")
BUDGETS = ("visionzip:54+10", "visionzip:162+30", "random:64", "uniform:64")
METHODS = (
    "cdpruner",
    "coverage",
    "divprune",
    "fastervlm",
    "holov",
    "mmtok",
    "pool",
    "prumerge",
    "scope",
    "tome",
    "vispruner",
)
BATCH, PATCHES, CHANNELS, KEY_CHANNELS, WORDS = 8, 576, 1024, 64, 16


def make_features(**more: Any) -> VisionFeatures:
    """What CLIP ViT-L/14-336 tells of `BATCH` tiles, and more by name."""
    content = torch.randn(BATCH, PATCHES + 1, CHANNELS)
    return VisionFeatures(
        content=content,
        grid=(24, 24),
        has_cls=True,
        source=content[:, 1:],
        saliency_has_cls=True,
        keys=torch.randn(BATCH, PATCHES + 1, KEY_CHANNELS),
        saliency=torch.rand(BATCH, PATCHES),
        **more,
    )


def count_compressor(budget: str) -> Counts:
    """The compressor alone, at the real shapes of CLIP ViT-L/14-336."""
    features = make_features(digest=torch.arange(BATCH))
    config = CompressionConfig.parse(budget)
    compressor = get_compressor(config.method)
    return count(lambda: compressor(features, config).tokens)


def count_method(name: str) -> Counts:
    """One of the other methods, 64 tokens a tile, as an accelerator runs it: the whole batch at once."""
    with torch.device("meta"):
        rows = torch.randn(BATCH, PATCHES + 1, CHANNELS)
        features = make_features(
            last_layer_qk=(torch.randn_like(rows), torch.randn_like(rows)),
            projected=rows[:, 1:],
            image_index=torch.arange(BATCH),
            padding=torch.zeros(BATCH, PATCHES, dtype=torch.bool),
            question_embeds=QuestionEmbeds(
                torch.randn(BATCH, WORDS, CHANNELS), torch.ones(BATCH, WORDS, dtype=torch.bool)
            ),
        )
        config = CompressionConfig(name, 64)
        return count(lambda: get_compressor(name)(features, config).tokens)


def count_tower(budget: str | None) -> Counts:
    """A narrow tower of three layers with the real number of patches, and what stands behind it."""
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "num_hidden_layers": 3}
    tower = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=336, patch_size=14, attn_implementation="sdpa")).eval()
    pixels = torch.randn(2, 3, 336, 336)
    if budget is None:
        return count(lambda: extract_features(tower, pixels, -2).content)
    config = CompressionConfig.parse(budget)
    compressor = get_compressor(config.method)
    return count(lambda: compressor(extract_features(tower, pixels, -2, compressor.needs), config).tokens)


def count_siglip(budget: str | None) -> Counts:
    """The same of a narrow SigLIP, with the patches of so400m/14-384 and no class token."""
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "num_hidden_layers": 3}
    config = SiglipVisionConfig(**sizes, image_size=384, patch_size=14, vision_use_head=False)
    tower, pixels = (
        SiglipVisionModel._from_config(config, attn_implementation="sdpa").eval(),
        torch.randn(2, 3, 384, 384),
    )
    if budget is None:
        return count(lambda: extract_features(tower, pixels, -1).content)
    parsed = CompressionConfig.parse(budget)
    compressor = get_compressor(parsed.method)
    return count(lambda: compressor(extract_features(tower, pixels, -1, compressor.needs), parsed).tokens)


def make_next() -> LlavaNextForConditionalGeneration:
    """LLaVA-NeXT-7B at its real widths, of a few layers, without memory."""
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 3}
    text = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 2}
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**vision, image_size=336, patch_size=14),
        text_config=LlamaConfig(**text, vocab_size=32000),
        vision_feature_layer=-2,
    )
    config.image_aspect_ratio = "anyres"
    with torch.device("meta"):
        model = LlavaNextForConditionalGeneration._from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    model.set_compression("visionzip:27+5")
    return model.eval()


def count_model() -> dict[str, Counts]:
    """Four images of five tiles, prefill with 160 visual tokens, a decoding step."""
    model = make_next()
    tiles = [torch.randn(5, 3, 336, 336, dtype=torch.bfloat16, device="meta") for _ in range(4)]

    def embeds(batch: int, length: int) -> torch.Tensor:
        return torch.empty(batch, length, 4096, dtype=torch.bfloat16, device="meta")

    cache = DynamicCache(config=model.config.text_config)
    model.model(inputs_embeds=embeds(8, 222), past_key_values=cache)
    return {
        "next vision, 4 images": count(lambda: model.encode_images(tiles, [(672, 672)] * 4)),
        "next prefill, 8 prompts": count(lambda: model(inputs_embeds=embeds(8, 222), logits_to_keep=1)),
        "next decoding step, 8 prompts": count(
            lambda: model(inputs_embeds=embeds(8, 1), past_key_values=cache, logits_to_keep=1)
        ),
    }


def count_questions(share: bool) -> Counts:
    """Eight questions about one image, of 35 + 64 + 27 tokens, each answered with two."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=336, patch_size=14),
        text_config=LlamaConfig(**sizes, vocab_size=100),
        vision_feature_layer=-2,
    )
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    prefix, features = (*range(3, 38), IMAGE_TOKEN_INDEX), [torch.randn(64, 64)]
    prompts = [Prompt([*prefix, *range(40 + n, 67 + n)], features, (prefix, ("image",))) for n in range(8)]
    options = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False}

    def work() -> torch.Tensor:
        store = PrefixStore(Counter(prompt.prefix for prompt in prompts if prompt.prefix)) if share else None
        return Generator(model, pad_token_id=0).generate(prompts, store, **options)

    return count(work)


@torch.inference_mode()
def all_counts() -> dict[str, Counts]:
    torch.manual_seed(0)
    found = {f"compressor {budget}": count_compressor(budget) for budget in BUDGETS}
    found |= {f"compressor {name}:64, on an accelerator": count_method(name) for name in METHODS}
    found |= count_model()
    found |= {f"8 questions about an image, {how}": count_questions(how == "shared") for how in ("shared", "whole")}
    budgets = (None, "visionzip:54+10")
    found |= {f"tower {budget or 'none'}": count_tower(budget) for budget in budgets}
    return found | {f"siglip {budget or 'none'}": count_siglip(budget) for budget in budgets}


def test_nothing_has_grown() -> None:
    recorded = json.loads(RECORD.read_text())
    if recorded["torch"] != torch.__version__.split("+")[0]:
        pytest.skip(f"recorded with torch {recorded['torch']}, whose operators another version may split otherwise")
    found = all_counts()
    assert set(found) == set(recorded["counts"])
    for name, counts in found.items():
        for unit, value in asdict(counts).items():
            assert bool(value) == bool(recorded["counts"][name][unit]), f"{name}: {unit} is {value}: is it counted?"
            assert value <= recorded["counts"][name][unit], f"{name}: {unit} was {recorded['counts'][name][unit]}"


def test_the_compressor_costs_little_beside_its_tower() -> None:
    with torch.inference_mode():
        vanilla, compressed = count_tower(None), count_tower("visionzip:54+10")
    assert compressed.flops < 1.05 * vanilla.flops  # of a tower that is 16 times narrower than the real one
    # No attention map is ever made: one of a layer would be B * H * N * N floats.
    assert compressed.peak_bytes - vanilla.peak_bytes < 2 * 4 * 577 * 577 * 4 / 4


def test_a_shared_image_costs_its_prefix_once() -> None:
    shared, whole = count_questions(share=True), count_questions(share=False)
    # 99 of 126 tokens are the prefix: one of it and eight ends against eight prompts, and two decoding steps in both.
    assert shared.flops < 0.4 * whole.flops


def test_counts_are_what_the_work_is() -> None:
    a = torch.randn(1000, 1000)

    def work() -> torch.Tensor:
        product = a @ a  # reads 4 MB once, writes 4 MB
        shifted = product + 1  # reads 4 MB, writes 4 MB
        del product
        shifted.view(-1)[:10].add_(1)  # reads and writes 40 bytes
        return shifted

    assert count(work) == Counts(kernels=3, flops=2 * 1000**3, bytes_moved=16_000_080, peak_bytes=8_000_000)


if __name__ == "__main__":
    told = {"torch": torch.__version__.split("+")[0], "counts": {n: asdict(c) for n, c in all_counts().items()}}
    RECORD.write_text(json.dumps(told, indent=1) + "\n")
