"""`llava cost` against torch's count, public numbers of weights, the paper's measurements and a benchmark's record."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llava.analysis.cost.command import main
from llava.analysis.cost.prompt_cost import (
    Workload,
    count_weights,
    paper_ladder,
    prompt_costs,
    usual_image_size,
)
from llava.constants import IMAGE_TOKEN_INDEX
from llava.inference.latency import PromptBatch
from llava.kinds.families import family_of
from llava.model.builder import instantiate
from llava.model.checkpoints.parts import parts_of_checkpoint
from llava.model.configuration import CompressionConfig
from llava.model.device_peaks import DEVICE_PEAKS, device_peak
from llava.model.flops import causal_attention_flops
from llava.model.published_models import PUBLISHED_MODELS, published_model
from tests.model.tiny import hf_llava, hf_llava_next, hf_llava_onevision, random_ids, random_pixels

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "benchmarks" / "results" / "cpu" / "cost.json"
TEXT_TOKENS = 9

# VisionZip, arXiv 2412.04467: Table 4 (prefill on POPE) and Tables 6 and 16 (memory on ScienceQA), one A800-80G.
PAPER_PREFILL_MS = {("llava-next-7b", None): 218, ("llava-next-7b", "visionzip:27+5"): 27.8}
PAPER_MEMORY_MB = {
    ("llava-next-7b", None, 16): 18_952,
    ("llava-next-13b", None, 16): 36_721,
    ("llava-next-13b", "visionzip:54+10", 16): 28_810,
    ("llava-next-13b", "visionzip:54+10", 8): 16_632,
    ("llava-next-13b", "visionzip:54+10", 4): 10_176,
}


@pytest.mark.parametrize(
    ("name", "language_model"),
    [  # as their publishers count them: Vicuna is a Llama 2
        ("llava-1.5-7b", 6_738_415_616),
        ("llava-1.5-13b", 13_015_864_320),
        ("llava-next-mistral-7b", 7_241_732_096),
        ("llava-next-34b", 34_388_917_248),
    ],
)
def test_published_models_have_their_public_numbers_of_weights(name, language_model):
    weights = count_weights(PUBLISHED_MODELS[name].config())
    assert (weights.tower, weights.language_model) == (303_507_456, language_model)
    if name == "llava-1.5-7b":  # llava-hf's file has 64 rows more in the embeddings and in the head
        assert weights.total + 2 * 64 * 4096 == 7_063_427_072


@pytest.mark.parametrize(
    ("name", "language_model"),
    [  # as Qwen counts them, the smallest's embeddings once
        ("llava-onevision-0.5b", 494_032_768),
        ("llava-onevision-7b", 7_615_616_512),
        ("llava-onevision-72b", 72_706_203_648),
    ],
)
def test_onevision_has_its_public_numbers_of_weights(name, language_model):
    config = PUBLISHED_MODELS[name].config()
    weights = count_weights(config)
    width, inner = 1152, 4304
    layer = 4 * (width + 1) * width + (width + 1) * inner + (inner + 1) * width + 4 * width
    head = layer - 2 * width + width  # the pooling head: attention and MLP like a layer's, one norm, one query
    assert weights.tower == 428_225_600 - layer - head  # SigLIP so400m/14-384 as it is published
    assert weights.language_model == language_model
    # 768 x 768: a base view, and 54 rows with a newline each; 2304 x 2304 is shrunk to 9 tiles' patches, 81 rows
    [small], [large] = (prompt_costs(config, [None], Workload(size)) for size in ((768, 768), (2304, 2304)))
    assert (small.visual_tokens, large.visual_tokens) == (729 + 54 * 55, 729 + 81 * 82)


def test_several_images_of_one_prompt_are_counted_as_they_are_read(tmp_path):
    """LLaVA-OneVision cuts a lone image into tiles, and none of several."""
    hf_llava_onevision().save_pretrained(tmp_path)
    model = instantiate(parts_of_checkpoint(tmp_path), dtype=torch.float32, attn_implementation="eager").eval()
    [cost] = prompt_costs(model.config, [None], Workload((56, 28), images=2, text_tokens=TEXT_TOKENS))
    ids = random_ids(1, TEXT_TOKENS + 2)
    ids[0, [3, 5]] = IMAGE_TOKEN_INDEX
    prompt = PromptBatch(ids, random_pixels(2, 1, 3, 28, 28), [(56, 28)] * 2)
    with torch.no_grad(), FlopCounterMode(display=False) as vision:
        features = prompt.encode(model)
    assert vision.get_total_flops() == cost.vision_flops
    assert cost.visual_tokens == sum(map(len, features)) == 34
    cache = prompt.prefill(model, features).past_key_values
    assert cache.get_seq_length() == cost.prompt_tokens
    with pytest.raises(ValueError, match=r"18 visual tokens: an image of 56x28 has 1\.\.17"):
        prompt_costs(model.config, [18], Workload((56, 28), images=2))


def test_a_model_is_known_by_its_names():
    seven = PUBLISHED_MODELS["llava-next-7b"]
    for name in ("llava-next-7b", "next-7b", "liuhaotian/llava-v1.6-vicuna-7b", "llava-hf/llava-v1.6-vicuna-7b-hf"):
        assert published_model(name) is seven
    assert published_model("my/llava-next-7b") is None


def cost_of(name, budget=None, **work):
    config = PUBLISHED_MODELS[name].config()
    budget = None if budget is None else CompressionConfig.parse(budget)
    [cost] = prompt_costs(config, [budget], Workload(usual_image_size(config), **work), [device_peak("A800")])
    return cost


def test_what_the_paper_measured_is_above_the_least_that_is_counted():
    for (name, budget), measured in PAPER_PREFILL_MS.items():
        assert measured / 5 < cost_of(name, budget).floors[0].prefill_ms < measured
    for (name, budget, bits), measured in PAPER_MEMORY_MB.items():
        cost = cost_of(name, budget, bits=bits)
        assert 0.65 * measured < (cost.weight_bytes + cost.kv_bytes) / 2**20 < measured


def test_figures_are_those_that_the_benchmarks_recorded():
    rows = {(row["model"], row["tokens"]): row for row in json.loads(RECORD.read_text())["rows"]}
    for name in ("llava-1.5-7b", "llava-next-13b"):
        config = PUBLISHED_MODELS[name].config()
        work = Workload(usual_image_size(config))
        for cost in prompt_costs(config, paper_ladder(config), work, [device_peak("NVIDIA H200")]):
            tokens = 2880 if cost.visual_tokens == 2928 else int(cost.visual_tokens)  # 48 newlines
            row = rows[PUBLISHED_MODELS[name].name, tokens]
            assert (cost.prompt_tokens, cost.vision_flops / 1e12) == (row["prompt"], row["vision TFLOP"])
            assert (cost.prefill_flops / 1e12, cost.kv_bytes / 2**20) == (row["prefill TFLOP"], row["KV MiB"])
            assert cost.paper_flops / 1e12 == row["paper's TFLOP"]
            assert cost.floors[0].prefill_ms == pytest.approx(row["least on H200, ms"])


@pytest.fixture(scope="module", params=["llava", "siglip", "llava_next", "llava_onevision"])
def model(request, tmp_path_factory):
    kinds = {"llava": hf_llava, "siglip": lambda: hf_llava("siglip"), "llava_next": hf_llava_next}
    kinds["llava_onevision"] = lambda: hf_llava_onevision(bound=1)  # its canvas of two tiles shrinks
    path = tmp_path_factory.mktemp(request.param)
    kinds[request.param]().save_pretrained(path)
    # torch counts eager attention's products as they are; it does not know the CPU's fused kernel.
    loaded = instantiate(parts_of_checkpoint(path), dtype=torch.float32, attn_implementation="eager")
    return loaded.eval().requires_grad_(False)


@pytest.mark.parametrize("budget", [None, "downsample:4", "visionzip:5+2", "visionzip:5+4|fastv:8,layer=1"])
def test_operations_and_cache_are_those_of_a_run(model, budget):
    """Vision where choosing costs nothing; prefill and cache everywhere."""
    tiles = 2 if family_of(model.config).is_tiled else 1
    size = (28 * tiles, 28)
    if budget is not None and tiles > 1:
        before, _, inside = budget.partition("|")  # inside a Mistral nothing can be dropped; the mean fits one tile
        budget = f"{before}|fastv:24,layer=1" if inside and model.config.model_type == "llava_onevision" else before
    model.set_compression(budget)
    [cost] = prompt_costs(model.config, [model.compression], Workload(size, text_tokens=TEXT_TOKENS))
    count = 1 + tiles if tiles > 1 else 1
    pixels = random_pixels(count, 3, 28, 28)
    ids = random_ids(1, TEXT_TOKENS + 1)
    ids[0, 3] = IMAGE_TOKEN_INDEX
    prompt = PromptBatch(ids, [pixels if tiles > 1 else pixels[0]], [size])
    with torch.no_grad(), FlopCounterMode(display=False) as vision:
        features = prompt.encode(model)
    assert cost.prompt_tokens == TEXT_TOKENS + len(features[0])
    if budget is None or budget.startswith("downsample"):
        assert vision.get_total_flops() == cost.vision_flops
    else:
        assert cost.vision_flops < vision.get_total_flops()
    if budget is not None and "|" in budget:  # its choosing is not counted; see tests/model/language_pruning
        rows = model.get_model().rows_per_layer(len(features[0]))
        assert cost.visual_tokens == sum(rows) / len(rows) < len(features[0])
        cache = prompt.prefill(model, features).past_key_values
    else:
        with torch.no_grad(), FlopCounterMode(display=False) as prefill:
            cache = prompt.prefill(model, features).past_key_values
        text, length = model.config.text_config, cost.prompt_tokens
        pairs = text.num_hidden_layers * 4 * text.hidden_size * length**2  # eager attention computes masked ones too
        beyond = pairs - causal_attention_flops(text, length)
        assert prefill.get_total_flops() == cost.prefill_flops + beyond
    held = sum(part.numel() for layer in cache.layers for part in (layer.keys, layer.values))
    assert 2 * held == cost.kv_bytes
    assert count_weights(model.config).total == sum(weight.numel() for weight in model.parameters())


def test_batches_images_and_plain_numbers_of_tokens_add_up():
    one, two = cost_of("llava-1.5-7b", "visionzip:54+10"), cost_of("llava-1.5-7b", "visionzip:54+10", images=2)
    many = cost_of("llava-1.5-7b", "visionzip:54+10", batch=8)
    assert (two.visual_tokens, two.prompt_tokens, two.vision_flops) == (128, 62 + 128, 2 * one.vision_flops)
    assert (many.kv_bytes, many.prefill_flops) == (8 * one.kv_bytes, 8 * one.prefill_flops)
    assert (one.floors[0].prefill_bound, many.floors[0].prefill_bound) == ("memory", "operations")
    assert one.floors[0].decode_ms < many.floors[0].decode_ms < 1.1 * one.floors[0].decode_ms
    config = PUBLISHED_MODELS["llava-1.5-7b"].config()
    [plain] = prompt_costs(config, [64], Workload((336, 336)))
    assert (plain.budget, plain.prefill_flops) == ("64 tokens", one.prefill_flops)


def test_the_papers_formula_follows_what_each_layer_reads():
    """FastV's paper, whose formula it is: K layers at the whole length, the rest at what is left."""
    [cost] = prompt_costs(
        PUBLISHED_MODELS["llava-1.5-7b"].config(), [CompressionConfig.parse("fastv:192")], Workload((336, 336))
    )
    width, inner, whole = 4096, 11008, 62 + 576
    left = 62 + round((32 * cost.visual_tokens - 2 * 576) / 30)

    def layer(n: int) -> int:
        return 4 * n * width**2 + 2 * n**2 * width + 2 * n * width * inner

    assert cost.paper_flops == 2 * layer(whole) + 30 * layer(left)


def test_every_gpu_has_a_source_and_its_own_entry():
    for peak in DEVICE_PEAKS:
        assert device_peak(f"NVIDIA {peak.name}") is peak and peak.sheet and peak.tflops > 0 and peak.terabytes > 0
    assert device_peak("NVIDIA A100 80GB PCIe").terabytes == 1.935  # type: ignore[union-attr]
    assert device_peak("NVIDIA A100-SXM4-80GB").terabytes == 2.039  # type: ignore[union-attr]


def test_the_command_prints_text_markdown_and_json_and_draws(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    words = ["--model-path", "llava-1.5-7b", "--gpu", "A100", "--gpu", "Mine=100/1"]
    assert main([*words, "--picture", str(tmp_path / "new" / "cost.svg")]) == 0
    text = capsys.readouterr().out
    assert "Least ms on A100 (312 TFLOP/s, 2.039 TB/s; NVIDIA A100 Tensor Core GPU data sheet):" in text
    assert "Least times are lower bounds" in text and "Least ms on Mine (100 TFLOP/s, 1 TB/s; as given):" in text
    drawn = (tmp_path / "new" / "cost.svg").read_text()
    assert all(
        label in drawn for label in ("LLaVA-1.5-7B", "the paper's formula", "least ms to the first token", "Mine")
    )
    assert main([*words, "--markdown", "--compression", "none", "--tokens", "64"]) == 0
    assert "| none        | 576    | 638    | 0.39         | 8.37          | 1          |" in capsys.readouterr().out
    assert main(["--model-path", "llava-1.5-7b", "--tokens", "64", "--markdown"]) == 0
    assert re.search(r"64 tokens +\| 64 +\| 126 +\| 0.369 +\| 1.64 +\| 5.12 +\|", capsys.readouterr().out)
    assert main([*words, "--json", "--tokens", "64", "--picture", str(tmp_path / "b.pdf")]) == 0
    told = json.loads(capsys.readouterr().out)
    [cost] = told["models"][0]["costs"]
    assert cost["budget"] == "64 tokens" and cost["floors"][1]["kind"] == "lower bound"
    assert [device["sheet"] for device in told["devices"]] == ["NVIDIA A100 Tensor Core GPU data sheet", "as given"]


def test_a_checkpoint_needs_no_weights(oracle_dir, tmp_path, capsys):
    """A folder with nothing but config.json, and the tower's beside it."""
    raw = json.loads((oracle_dir / "tiny-llava-v1.5" / "config.json").read_text())
    (tmp_path / "tower").mkdir()
    tower = (oracle_dir / "tiny-clip-vit-l14-336" / "config.json").read_text()
    (tmp_path / "tower" / "config.json").write_text(tower)
    (tmp_path / "config.json").write_text(json.dumps(raw | {"mm_vision_tower": "tower"}))
    assert main(["--model-path", str(tmp_path), "--compression", "visionzip:54+10"]) == 0
    assert "visionzip:54+10" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "H9000"], "'H9000' is not known; there are B200, .*or give NAME=TFLOPS/TBPS"),
        (["--gpu", "RTX 4090 Laptop"], "'RTX 4090 Laptop' is not known"),
        (["--image-size", "672"], "'672' is no size in pixels; write width x height as 672x672"),
        (["--tokens", "9999"], "9999 visual tokens: an image of 336x336 has 1..576"),
        (["--compression", "visionzip:600+10"], "dominant=600 is outside 1..577"),
        (["--picture", "cost.jpg"], "cost.jpg: a picture's name ends in .svg, .pdf, .png"),
        (["--bits", "3"], "invalid choice: 3"),
        (["--model-path", "llava-7b"], "--model-path llava-7b: there is no such folder; known .* llava-1.5-7b, "),
    ],
)
def test_mistakes_are_named(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--model-path", "llava-1.5-7b", *words])
    said = f"{end.value.code}{capsys.readouterr().err}"
    assert "Traceback" not in said

    assert re.search(message, said), said


def test_known_gpus_are_listed_without_a_model(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--list-gpus"])
    assert end.value.code == 0
    assert "NVIDIA H200 Tensor Core GPU data sheet" in capsys.readouterr().out


def test_the_page_has_the_figures_that_the_command_prints():
    page = (ROOT / "docs" / "analysis.md").read_text(encoding="utf-8")
    names = {model.name: model for model in PUBLISHED_MODELS.values()}
    rows = re.findall(r"^\| (LLaVA-\S+)? ?\| (none|visionzip:\S+) \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) == 10
    name, a100 = "", device_peak("A100")
    for model, budget, cells in rows:
        name = model or name
        config = names[name].config()
        compression = CompressionConfig.parse(budget)
        [cost] = prompt_costs(config, [compression], Workload(usual_image_size(config)), [a100])
        [floor] = cost.floors
        figures = (
            f"{cost.prefill_flops / 1e12:.3g}",
            f"{cost.paper_flops / 1e12:.3g}",
            f"{cost.kv_bytes / 2**20:,.0f}",
        )
        memory = f"{(cost.weight_bytes + cost.kv_bytes) / 2**30:.1f}"
        assert cells.split(" | ") == [*figures, memory, f"{floor.first_token_ms:.3g}", f"{floor.decode_ms:.3g}"], name
    for (name, budget), measured in PAPER_PREFILL_MS.items():
        assert f"| {cost_of(name, budget).floors[0].prefill_ms:.3g} ms | {measured} ms |" in page
    for (name, budget, bits), measured in PAPER_MEMORY_MB.items():
        cost = cost_of(name, budget, bits=bits)
        assert f"| {(cost.weight_bytes + cost.kv_bytes) / 2**20:,.0f} MiB | {measured:,} MB |" in page
