"""Under a pruner a batch gives, prompt by prompt, what batch 1 gives: any padding side, images of any lengths."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flash_attention_mask

from llava.model.flops import kv_bytes, prefill_flops
from llava.model.language_pruning import ImageRows, PrunedCache
from tests.model.language_pruning.tiny_models import LAYERS, load_tiny, samples, save_tiny, together

MODELS = [("llava", "llama"), ("llava", "qwen2"), ("llava_next", "llama")]
BUDGETS = {  # of images of 16 rows, and of 36 to 70; pyramiddrop:20 prunes these behind different layers
    "llava": ["fastv:9", "pyramiddrop:9", "sparsevlm:9", "sparsevlm:7,version=2,layers=2/4", "visionzip:8+2|fastv:6"],
    "llava_next": ["fastv:34,layer=1", "pyramiddrop:20", "sparsevlm:40", "visionzip:8+2|sparsevlm:20"],
}
OPTIONS = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
OPTIONS |= {"output_logits": True, "return_dict_in_generate": True}


@pytest.fixture(scope="module", params=MODELS, ids="-".join)
def model(request, tmp_path_factory):
    family, decoder = request.param
    return load_tiny(save_tiny(tmp_path_factory.mktemp(family), family, decoder))


def budgets(model) -> list[str]:
    return BUDGETS[model.config.model_type]


def test_answers_of_a_batch(model):
    for budget in budgets(model):
        model.set_compression(budget)
        parts = samples(model)
        batch = model.generate(**together(parts), **OPTIONS)
        assert isinstance(batch.past_key_values, PrunedCache)
        for number, part in enumerate(parts):
            alone = model.generate(**together([part]), **OPTIONS)
            assert alone.sequences[0].tolist() == batch.sequences[number].tolist(), (budget, number)
            logits = torch.stack([step[number] for step in batch.logits])
            torch.testing.assert_close(torch.cat(alone.logits), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_a_padded_batch(model, side):
    """What is left of each prompt stands on the side on which it was, and gives the same logits."""
    with torch.no_grad():
        for budget in budgets(model):
            model.set_compression(budget)
            parts = samples(model)
            batch = model(**together(parts, side)).logits
            for number, part in enumerate(parts):
                alone = model(**together([part])).logits[0]
                length = len(alone)
                found = batch[number, :length] if side == "right" else batch[number, -length:]
                torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


def test_several_samples_of_a_prompt(model):
    """`num_return_sequences` repeats prompts, and where their images stand."""
    model.set_compression(budgets(model)[0])
    given = {**OPTIONS, "num_return_sequences": 2, "do_sample": True, "top_k": 1}
    repeated = model.generate(**together(samples(model)), **given).sequences
    once = model.generate(**together(samples(model)), **OPTIONS).sequences
    assert repeated.tolist() == once.repeat_interleave(2, dim=0).tolist()


def test_the_other_convention(model):
    """Ids with an image token for every row and `pixel_values` give what LLaVA's `images=` gives."""
    model.set_compression(budgets(model)[0])
    ids, images, sizes = samples(model)[0]
    rows = model.num_visual_tokens(sizes)[0]
    place = int((ids == -200).nonzero())
    token = torch.full((rows,), model.config.image_token_id)
    expanded = torch.cat([ids[:place], token, ids[place + 1 :]])[None]
    tiled = model.config.model_type == "llava_next"
    given = {"pixel_values": images[0][None] if tiled else images[0], "attention_mask": torch.ones_like(expanded)}
    given |= {"image_sizes": torch.tensor([sizes[0][::-1]])} if tiled else {}
    found = model.generate(expanded, **given, **OPTIONS).sequences[:, expanded.shape[1] :]
    assert found.tolist() == model.generate(**together([samples(model)[0]]), **OPTIONS).sequences.tolist()


def test_text_that_is_cached_before_the_image(model):
    """A cache of what stands before the image, in transformers' convention, changes nothing."""
    ids, images, sizes = samples(model)[3]
    place = int((ids == -200).nonzero())
    tiled = model.config.model_type == "llava_next"
    given = {"pixel_values": images[0][None] if tiled else images[0]}
    given |= {"image_sizes": torch.tensor([sizes[0][::-1]])} if tiled else {}
    for budget in budgets(model):
        model.set_compression(budget)
        token = torch.full((model.num_visual_tokens(sizes)[0],), model.config.image_token_id)
        rest = torch.cat([token, ids[place + 1 :]])[None]
        with torch.no_grad():
            cache = model(ids[None, :place], use_cache=True).past_key_values
            mask = torch.ones(1, place + rest.shape[1], dtype=torch.int64)
            found = model(rest, attention_mask=mask, past_key_values=cache, logits_to_keep=1, **given)
            whole = model(**together([(ids, images, sizes)]), logits_to_keep=1, use_cache=True)
        torch.testing.assert_close(found.logits, whole.logits, rtol=1e-5, atol=1e-5)
        assert found.past_key_values.lengths == whole.past_key_values.lengths


def test_what_is_counted_is_what_is_kept(model):
    """Cache lengths, bytes and operations are those of the schedule, which is what tables print."""
    model.set_attn_implementation("eager")
    text = model.config.text_config
    for budget in budgets(model):
        model.set_compression(budget)
        ids, images, sizes = part = samples(model)[0]
        rows = model.model.rows_per_layer(model.num_visual_tokens(sizes)[0])
        lengths = [len(ids) - 1 + count for count in rows]
        with torch.no_grad():
            features = model.encode_each(images, sizes)
            with FlopCounterMode(display=False) as counter:
                given = {"image_features": features, "logits_to_keep": 1, "use_cache": True}
                cache = model(input_ids=part[0][None], **given).past_key_values
        assert cache.lengths == lengths
        assert cache.held_bytes == kv_bytes(model.config, lengths, 4)
        chosen = 0
        if "fastv" in budget:  # the last row's queries, and their products with the keys of a layer
            width = text.hidden_size
            chosen = 2 * width * width + 2 * width * lengths[0]
            beyond = eager_attention_beyond_causal(text, lengths)
            assert counter.get_total_flops() == prefill_flops(model.config, lengths) + chosen + beyond
    model.set_attn_implementation("sdpa")


def eager_attention_beyond_causal(text, lengths) -> int:
    """torch counts every pair; half of them are masked."""
    return sum(4 * text.hidden_size * (n * n - n * (n + 1) // 2) for n in lengths)


def test_each_image_of_a_prompt_has_the_budget(model):
    """Two images lose rows each by its own length, and the text behind both asks."""
    ids, images, sizes = samples(model)[2]
    for budget in budgets(model):
        model.set_compression(budget)
        rows = [model.model.rows_per_layer(count) for count in model.num_visual_tokens(sizes)]
        with torch.no_grad():
            cache = model(**together([(ids, images, sizes)]), use_cache=True).past_key_values
        assert cache.lengths == [len(ids) - 2 + first + second for first, second in zip(*rows, strict=True)]


def test_where_images_stand():
    """Numbers within a prompt, lengths and text behind, of a batch that is padded on the right."""
    rows = torch.tensor([[-1, 0, 1, -1, 2, -1, -1], [3, 4, 5, -1, -1, -1, -1], [-1, -1, -1, -1, -1, -1, -1]])
    mask = torch.tensor([[1] * 6 + [0], [1] * 4 + [0] * 3, [1] * 7])
    found = ImageRows.locate(rows, mask, [2, 1, 3])
    assert found.owner.tolist() == [[-1, 0, 0, -1, 1, -1, -1], [0, 0, 0, -1, -1, -1, -1], [-1] * 7]
    assert (found.counts, found.lengths, found.after) == (((2, 1), (3,), ()), (6, 4, 7), 1)
    assert found.right_padded and found.has_padding
    assert found.repeated(6).counts == ((2, 1), (2, 1), (3,), (3,), (), ())


def test_hidden_rows_of_an_image_are_none_of_it(model):
    """A mask may hide some rows of an image, as in experiments with patches: no other row is lost for it."""
    ids, images, sizes = samples(model)[0]
    place = int((ids == -200).nonzero())
    tiled = model.config.model_type == "llava_next"
    given = {"pixel_values": images[0][None] if tiled else images[0]}
    given |= {"image_sizes": torch.tensor([sizes[0][::-1]])} if tiled else {}
    for budget in budgets(model):
        model.set_compression(budget)
        rows = model.num_visual_tokens(sizes)[0]
        token = torch.full((rows,), model.config.image_token_id)
        expanded = torch.cat([ids[:place], token, ids[place + 1 :]])[None]
        mask = torch.ones_like(expanded)
        mask[0, place + 2] = 0
        with torch.no_grad():
            cache = model(expanded, attention_mask=mask, use_cache=True, **given).past_key_values
        text, left = len(ids) - 1, model.model.rows_per_layer(rows - 1)
        assert cache.lengths[-1] == text + left[-1]
        valid = cache.segments[-1].valid
        assert valid is None or valid.all()
    with pytest.raises(ValueError, match=r"needs it as \(prompts, tokens\)"):
        model(expanded, attention_mask=mask[:, None, None], **given)


def test_images_alone_and_images_that_are_cut_away(model):
    """A prompt of nothing but an image has no question; one that is cut before its image has no rows to drop."""
    ids, images, sizes = samples(model)[0]
    alone = (torch.tensor([-200]), images, sizes)
    for budget in budgets(model):
        model.set_compression(budget)
        with torch.no_grad():
            assert torch.isfinite(model(**together([alone])).logits).all()
        for limit, part in ((1, (ids, images, sizes)), (9, (ids, images, sizes))):
            model.config.tokenizer_model_max_length = limit
            with torch.no_grad():
                logits = model(**together([part])).logits
            assert 0 < logits.shape[1] <= limit and torch.isfinite(logits).all()
            model.config.tokenizer_model_max_length = None


def test_no_layer_makes_an_attention_map(model, monkeypatch):
    """Layers run under PyTorch's attention; only the rows that are asked for are computed apart."""
    calls = []

    def spy(module, query, *args, **kwargs):
        calls.append(query.shape[2])
        return sdpa_attention_forward(module, query, *args, **kwargs)

    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", spy)
    model.set_compression(budgets(model)[0])
    with torch.no_grad():
        model(**together([samples(model)[0]]))
    assert len([count for count in calls if count > 1]) >= LAYERS


def test_kernels_of_flash_attention_are_told_the_same(model):
    """A stand-in for a kernel that takes a mask of rows (B, keys) or none, and takes gaps in positions for packing."""

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):
        assert kwargs.get("position_ids") is None
        batch, _, count, _ = query.shape
        keys = torch.arange(key.shape[2])
        causal = keys <= keys[-count:, None]
        valid = torch.ones(batch, key.shape[2], dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        seen = causal[None, None] & valid[:, None, None]
        seen = seen | ~seen.any(dim=3, keepdim=True)  # padding sees anything; nobody sees it
        output = scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling, enable_gqa=True)
        return output.transpose(1, 2).contiguous(), None

    AttentionInterface.register("stand_in", attend)
    AttentionMaskInterface.register("stand_in", flash_attention_mask)
    parts = samples(model)
    for budget in budgets(model):
        model.set_compression(budget)
        wanted = model.generate(**together(parts), **OPTIONS)
        model.set_attn_implementation({"text_config": "stand_in"})
        found = model.generate(**together(parts), **OPTIONS)
        model.set_attn_implementation({"text_config": "sdpa"})
        assert found.sequences.tolist() == wanted.sequences.tolist()
        torch.testing.assert_close(torch.stack(found.logits), torch.stack(wanted.logits), rtol=1e-5, atol=1e-5)


def test_nothing_changes_without_one(model):
    """A method before the language model, or none, leaves the way to the language model as it was."""
    for budget in (None, "visionzip:5+2"):
        model.set_compression(budget)
        output = model.generate(**together(samples(model)), **OPTIONS)
        assert not isinstance(output.past_key_values, PrunedCache)


def test_a_budget_of_all_rows_is_the_whole_model(model):
    """FastV with nothing to drop equals the plain language model."""
    parts = samples(model)[:1]
    with torch.no_grad():
        model.set_compression(None)
        plain = model(**together(parts)).logits
        rows = max(model.num_visual_tokens(parts[0][2])[0], 88 if model.config.model_type == "llava_next" else 0)
        for name in ("fastv", "pyramiddrop", "sparsevlm"):
            model.set_compression(f"{name}:{rows}")
            torch.testing.assert_close(model(**together(parts)).logits, plain, rtol=1e-5, atol=1e-5)
