"""What a tower tells a compressor: equal to attention maps, without ever making them; one graph; no-CLS towers."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPVisionModel, SiglipVisionModel

from llava.model.builder import instantiate
from llava.model.checkpoints.parts import parts_of_checkpoint
from llava.model.configuration import CompressionConfig
from llava.model.llava_arch import LlavaForConditionalGeneration
from llava.model.multimodal_compressor import get_compressor
from llava.model.multimodal_encoder import extract_features, received_attention
from tests.model.tiny import hf_llava, random_ids, random_pixels, sharpen, vision_config

TOWERS = {"clip": CLIPVisionModel, "siglip": SiglipVisionModel}
REST_OF_THE_GRAPHS = [("siglip", "visionzip"), ("clip", "random"), ("siglip", "random"), ("clip", "uniform")]
BOTH = frozenset({"keys", "saliency"})


def tower(kind: str, attention: str = "sdpa", **changes):
    torch.manual_seed(0)
    config = vision_config(kind, **changes)
    config._attn_implementation = attention
    return sharpen(TOWERS[kind](config))


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("layer", [-1, -2, -3, 2])
def test_features_equal_transformers_attention_maps(kind, layer):
    eager = tower(kind, "eager")
    pixels = random_pixels(3, 3, 28, 28)
    with torch.no_grad():
        theirs = eager(pixels, output_attentions=True, output_hidden_states=True)
        ours = extract_features(tower(kind), pixels, layer, BOTH)
    torch.testing.assert_close(ours.content, theirs.hidden_states[layer], atol=2e-4, rtol=1e-3)
    maps = theirs.attentions[layer if layer < 0 else layer - 1]  # (B, H, N, N)
    expected = maps[:, :, 0, 1:].sum(1) if kind == "clip" else maps.mean(dim=(1, 2))
    torch.testing.assert_close(ours.saliency, expected, atol=1e-5, rtol=1e-3)
    assert ours.has_cls == (kind == "clip") and ours.grid == (4, 4)
    assert ours.keys.shape == (3, 16 + ours.has_cls, 12)


def test_received_attention_is_summed_in_blocks_and_the_map_never_whole():
    """729 queries as SigLIP-so400m-384 has: equal to the map's mean, with a fraction of the map's memory."""
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(2, 4, 729, 8, generator=generator) for _ in range(2))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    with Watch():
        got = received_attention(queries, keys, 0.3)
    expected = torch.softmax(queries @ keys.transpose(-1, -2) * 0.3, dim=-1).mean(dim=(1, 2))
    torch.testing.assert_close(got, expected, atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(got.sum(dim=1), torch.ones(2))
    assert largest <= 2 * 4 * 128 * 729 < 2 * 4 * 729 * 729


def test_layers_after_the_selected_one_are_not_run():
    clip = tower("clip")
    ran = []
    for index, layer in enumerate(clip.encoder.layers):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    extract_features(clip, random_pixels(1, 3, 28, 28), -2, BOTH)
    assert ran == [0, 1, 2]


@pytest.mark.parametrize("layer", [-6, 5])
def test_a_layer_that_is_not_there_is_named(layer):
    with pytest.raises(ValueError, match=rf"vision_feature_layer {layer} is outside -5\.\.4"):
        extract_features(tower("clip"), random_pixels(1, 3, 28, 28), layer)


def test_the_embeddings_have_no_attention():
    with pytest.raises(ValueError, match="before any attention"):
        extract_features(tower("clip"), random_pixels(1, 3, 28, 28), 0, BOTH)


@pytest.mark.parametrize("compression", ["visionzip:6+3", "visionzip:16", "visionzip:1+4", "random:5", "uniform:5"])
def test_siglip_answers_under_every_compression(compression, tmp_path):
    hf_llava("siglip").save_pretrained(tmp_path)
    model = instantiate(parts_of_checkpoint(tmp_path), dtype=torch.float32).eval()
    model.set_compression(compression)
    pixels = random_pixels(2, 3, 28, 28)
    kept = model.compress_images(pixels)
    assert kept.tokens.shape == (2, CompressionConfig.parse(compression).num_tokens, 24)
    assert int(kept.positions.min()) >= 0  # no CLS
    ids = random_ids(1, 6)
    ids[0, 2] = -200
    assert model.generate(ids, images=pixels[:1], max_new_tokens=3, do_sample=False).shape[1] <= 3
    with pytest.raises(ValueError, match=r"dominant=17 is outside 1\.\.16"):
        model.set_compression("visionzip:17")


def test_siglip_with_the_default_strategy_would_lose_a_patch():
    config = hf_llava("siglip").config
    config.vision_feature_select_strategy = "default"
    from llava.model.llava_config import LlavaConfig

    with pytest.raises(ValueError, match="set it to 'full'"):
        LlavaForConditionalGeneration(LlavaConfig.from_dict(config.to_dict()))


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("clip", "visionzip"),
        *(pytest.param(kind, method, marks=pytest.mark.slow) for kind, method in REST_OF_THE_GRAPHS),
    ],
)
def test_tower_and_compressor_are_one_graph(kind, method):
    """No break and no recompilation for other pixels: nothing depends on the data or waits for it."""
    module, compressor = tower(kind), get_compressor(method)
    budget = CompressionConfig(method, 6, 3)

    def compress(pixels: torch.Tensor):
        kept = compressor(extract_features(module, pixels, -2, compressor.needs), budget)
        return kept.tokens, kept.positions, kept.sizes

    graph = torch.compile(compress, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for seed in range(2):
            pixels = random_pixels(2, 3, 28, 28, seed=seed)
            for got, expected in zip(graph(pixels), compress(pixels), strict=True):
                torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TOWERS)
def test_tower_and_compressor_compile_to_machine_code(kind):
    module, compressor = tower(kind), get_compressor("visionzip")
    budget = CompressionConfig("visionzip", 6, 3)

    def compress(pixels: torch.Tensor):
        return compressor(extract_features(module, pixels, -2, compressor.needs), budget).tokens

    pixels = random_pixels(2, 3, 28, 28)
    with torch.no_grad():
        got = torch.compile(compress, fullgraph=True)(pixels)
        torch.testing.assert_close(got, compress(pixels), atol=1e-4, rtol=1e-3)
