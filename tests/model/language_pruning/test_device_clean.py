"""Pruners make every tensor on the device of the rows, and wait for none: they run where no tensor holds a value."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from llava.model.configuration import CompressionConfig
from llava.model.language_pruning import PRUNERS, ImageRows
from llava.model.language_pruning.decoder_loop import read_on, read_pruned
from tests.model.meta_clean import MetaClean
from tests.model.tiny import TEXT

LAYERS, ROWS, LENGTH = 6, 24, 40
BUDGETS = ["fastv:12", "pyramiddrop:14", "sparsevlm:14", "sparsevlm:14,noise=1e-06,seed=3", "sparsevlm:14,version=2"]


@pytest.fixture(scope="module")
def decoder():
    with torch.device("meta"):
        # Eager attention makes its mask without looking at values, which PyTorch's own does to spare it.
        return LlamaForCausalLM(LlamaConfig(**{**TEXT, "num_hidden_layers": LAYERS}, attn_implementation="eager")).model


def located(counts: tuple[tuple[int, ...], ...], lengths: tuple[int, ...], right_padded: bool = False) -> ImageRows:
    """As `ImageRows.locate` would find them, which fetches the counts once a batch."""
    owner = torch.empty(len(counts), LENGTH, dtype=torch.int64, device="meta")
    return ImageRows(owner, counts, lengths, 9, right_padded)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize(
    ("counts", "lengths", "held"),
    [
        (((ROWS,), (ROWS,)), (LENGTH, LENGTH), 0),
        (((ROWS,), (ROWS,)), (LENGTH, LENGTH), 5),
        (((ROWS,), (16, 5), ()), (LENGTH, LENGTH - 3, 12), 0),
    ],
    ids=["equal", "behind a prefix", "ragged"],
)
def test_prompts_and_answers(decoder, budget, counts, lengths, held):
    config = CompressionConfig.parse(budget)
    bound = PRUNERS.get(config.method).bind(config, LAYERS)
    batch = len(counts)
    cache = DynamicCache(config=decoder.config)
    with torch.inference_mode(), MetaClean():
        if held:
            embeds = torch.empty(batch, held, TEXT["hidden_size"], device="meta")
            decoder(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
        embeds = torch.empty(batch, LENGTH, TEXT["hidden_size"], device="meta")
        mask = None
        if min(lengths) < LENGTH:
            mask = torch.ones(batch, LENGTH, dtype=torch.int64, device="meta")
        hidden, pruned = read_pruned(decoder, bound, embeds, located(counts, lengths), mask, None, cache)
        after = read_on(decoder, torch.empty(batch, 1, TEXT["hidden_size"], device="meta"), pruned)
    assert {hidden.device.type, after.device.type} == {"meta"} and after.shape == (batch, 1, TEXT["hidden_size"])
    left = [bound.schedule(count).rows_per_layer for prompt in counts for count in prompt]
    if held or len(set(lengths)) == 1:
        wanted = [held + LENGTH - ROWS + count + 1 for count in left[0]]
        assert pruned.lengths == wanted and hidden.shape[1] == wanted[-1] - 1 - held


def test_padding_behind_the_prompts(decoder):
    bound = PRUNERS.get("fastv").bind(CompressionConfig("fastv", 12), LAYERS)
    embeds = torch.empty(2, LENGTH, TEXT["hidden_size"], device="meta")
    mask = torch.ones(2, LENGTH, dtype=torch.int64, device="meta")
    images = located(((ROWS,), (10,)), (LENGTH, LENGTH - 6), right_padded=True)
    with torch.inference_mode(), MetaClean():
        hidden, _ = read_pruned(decoder, bound, embeds, images, mask, None, DynamicCache(config=decoder.config))
    assert hidden.shape == (2, max(LENGTH - ROWS + bound.schedule(ROWS).stages[-1].rows, LENGTH - 6), hidden.shape[2])


def test_the_mode_would_find_a_stray(decoder):
    with pytest.raises(AssertionError, match="mixes devices"), MetaClean():
        torch.empty(2, 3, device="meta").gather(1, torch.zeros(2, 1, dtype=torch.int64))
