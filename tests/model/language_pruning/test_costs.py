"""What a choice costs beside what it saves, at the shapes of LLaVA-1.5-7B, counted where no tensor holds a value."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from llava.analysis.counting import count
from llava.model.configuration import CompressionConfig
from llava.model.flops import prefill_flops
from llava.model.language_pruning import PRUNERS, ImageRows
from llava.model.language_pruning.decoder_loop import read_pruned

TEXT, ROWS = 62, 576
BUDGETS = ["fastv:64", "pyramiddrop:64", "pyramiddrop:192", "sparsevlm:128", "sparsevlm:128,version=2"]


@pytest.fixture(scope="module")
def model():
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(vocab_size=32_064)).eval()


@pytest.mark.parametrize("budget", BUDGETS)
def test_choosing_costs_little(model, budget):
    config = CompressionConfig.parse(budget)
    bound = PRUNERS.get(config.method).bind(config, model.config.num_hidden_layers)
    owner = torch.empty(1, TEXT + ROWS, dtype=torch.int64, device="meta")
    images = ImageRows(owner, ((ROWS,),), (TEXT + ROWS,), 27)
    embeds = torch.empty(1, TEXT + ROWS, model.config.hidden_size, device="meta")
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        pruned = count(lambda: read_pruned(model.model, bound, embeds, images, None, None, cache)[0])
        plain = count(lambda: model.model(inputs_embeds=embeds).last_hidden_state)
    schedule = bound.schedule(ROWS)
    lengths = [TEXT + rows for rows in schedule.rows_per_layer]
    shape = SimpleNamespace(text_config=model.config)
    head = 2 * model.config.hidden_size * model.config.vocab_size
    beyond = sum(4 * model.config.hidden_size * (n * n - n * (n + 1) // 2) for n in lengths)  # torch counts every pair
    chosen = pruned.flops - (prefill_flops(shape, lengths) - head + beyond)
    # PyramidDrop makes the keys of the next layer for all rows, and then again for those that are left.
    assert 0 < chosen < (0.025 if config.method == "pyramiddrop" else 0.01) * pruned.flops
    assert pruned.kernels < plain.kernels + 180 * len(schedule.stages)
    saved = pruned.flops / plain.flops
    assert saved < 1.05 * (config.num_tokens + TEXT) / (ROWS + TEXT)


def test_what_reads_budgets_imports_no_language_model():
    """Who prepares data, or counts tokens, need not wait seconds for code that computes."""
    code = "import sys, llava.model.image_rules as r; from llava.model.language_pruning import PRUNERS; PRUNERS.names()"
    code += "; assert 'transformers.modeling_utils' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
