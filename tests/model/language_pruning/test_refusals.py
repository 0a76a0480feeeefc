"""What does not go with a method inside the language model is refused in one line that says what to do."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, StaticCache

from llava.model.checkpoints.files import CheckpointError
from llava.model.image_rules import ImageRules
from llava.model.stages import before_language_model, inside_language_model
from tests.model.language_pruning.tiny_models import load_tiny, samples, save_tiny, together
from tests.model.tiny import hf_llava_next

PRUNES = "fastv prunes inside the language model, and "


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    model = load_tiny(save_tiny(tmp_path_factory.mktemp("llava")))
    model.set_compression("fastv:9")
    return model


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ({"num_beams": 2}, "beams"),
        ({"assistant_model": "model"}, "assisted decoding"),
        ({"prompt_lookup_num_tokens": 3}, "prompt lookup"),
        ({"cache_implementation": "static"}, "only a dynamic cache"),
        ({"prefill_chunk_size": 4}, "pruned as a whole"),
        ({"use_cache": False}, "pruned once, and a cache keeps what is left"),
        ({"output_attentions": True}, "layers read different rows"),
        ({"output_hidden_states": True}, "layers read different rows"),
    ],
)
def test_ways_to_generate(model, option, named):
    with pytest.raises(ValueError, match=f"^{PRUNES}.*{named}") as refused:
        model.generate(**together(samples(model)[:1]), max_new_tokens=2, **option)
    assert "\n" not in str(refused.value)


def test_caches(model):
    static = StaticCache(config=model.config.get_text_config(), max_cache_len=100)
    given = together(samples(model)[:1])
    with pytest.raises(ValueError, match=f"^{PRUNES}a static cache"):
        model.generate(**given, max_new_tokens=2, past_key_values=static)
    with pytest.raises(ValueError, match=f"^{PRUNES}a static cache"):
        model(**given, past_key_values=static)
    filled = DynamicCache(config=model.config.get_text_config())
    model.generate(**given, max_new_tokens=2, past_key_values=filled)
    with pytest.raises(ValueError, match=f"^{PRUNES}what it keeps of an image depends on the question"):
        model.generate(**given, max_new_tokens=2, past_key_values=filled)


def test_a_cache_that_a_pruned_prompt_has_filled(model):
    """What the caller gave holds other rows in each layer; only what the model gives back knows which."""
    for fill in (model, lambda **given: model.generate(**given, max_new_tokens=2)):
        filled = DynamicCache(config=model.config.get_text_config())
        with torch.no_grad():
            fill(**together(samples(model)[:1]), past_key_values=filled)
            for ids in ([[5]], [[5, 6]]):
                with pytest.raises(ValueError, match=r"^the method of this cache prunes .* depends on the question"):
                    model(input_ids=torch.tensor(ids), past_key_values=filled)


def test_caches_of_text_alone_are_as_without_one(model):
    static = StaticCache(config=model.config.get_text_config(), max_cache_len=20)
    with torch.no_grad():
        model(input_ids=torch.tensor([[5, 6, 7]]), past_key_values=static)
        found = model(
            input_ids=torch.tensor([[8]]), past_key_values=static, attention_mask=torch.ones(1, 4, dtype=torch.int64)
        )
        whole = model(input_ids=torch.tensor([[5, 6, 7, 8]]))
    torch.testing.assert_close(found.logits[:, -1], whole.logits[:, -1], rtol=1e-5, atol=1e-5)


def test_what_layers_give(model):
    """Neither the config nor a step of the answer gets round the refusal, and no rows are named by their places."""
    given = together(samples(model)[:1])
    text = model.config.text_config
    with torch.no_grad():
        cache = model(**given, use_cache=True).past_key_values
        step = {"input_ids": torch.tensor([[5]]), "past_key_values": cache}
        for name in ("output_hidden_states", "output_attentions"):
            with pytest.raises(ValueError, match=f"layers read different rows; leave {name} out"):
                model(**step, **{name: True})
        text.output_hidden_states = True
        with pytest.raises(ValueError, match=f"^{PRUNES}layers read different rows"):
            model(**given)
        text.output_hidden_states = False
        with pytest.raises(ValueError, match=f"^{PRUNES}rows change their places"):
            model(**given, logits_to_keep=torch.tensor([0, 1]))


def test_the_cache_of_a_pruned_prompt_takes_one_token_at_a_time(model):
    with torch.no_grad():
        cache = model(**together(samples(model)[:1]), use_cache=True).past_key_values
        with pytest.raises(ValueError, match="depends on the question"):
            model(input_ids=torch.tensor([[5, 6]]), past_key_values=cache)
        one = torch.tensor([0])
        changes = (cache.reorder_cache, cache.batch_select_indices, lambda _: cache.batch_repeat_interleave(2))
        for change in changes:
            with pytest.raises(ValueError, match="pruned"):
                change(one)


def test_training_and_losses(model):
    given = together(samples(model)[:1])
    for more in ({"labels": given["input_ids"].clone()}, {"packing": True}):
        with pytest.raises(ValueError, match=f"^{PRUNES}rows of the prompt have no logits"):
            model(**given, **more)
    with pytest.raises(ValueError, match=f"^{PRUNES}no gradient flows"):
        model.train()(**given)
    model.eval()


def test_llavas_inner_function(model):
    given = together(samples(model)[:1])
    with pytest.raises(ValueError, match=f"^{PRUNES}embeddings alone do not say where images stand"):
        model.prepare_inputs_labels_for_multimodal(
            given["input_ids"], None, None, None, None, given["images"], given["image_sizes"]
        )


def test_other_language_models_are_refused_by_name(tmp_path):
    """Before a weight is read, with the name of the folder, and of what fits."""
    hf_llava_next().save_pretrained(tmp_path / "mistral")
    mistral = load_tiny(tmp_path / "mistral")
    wanted = "fastv runs inside the language model, which must be one of llama, qwen2; this is a mistral"
    with pytest.raises(ValueError, match=wanted):
        mistral.set_compression("fastv:30,layer=1")
    assert mistral.compression is None
    model = hf_llava_next(compression={"method": "fastv", "dominant": 30, "options": {"layer": 1}})
    model.save_pretrained(tmp_path / "stored")
    with pytest.raises(CheckpointError, match=f"stored: config.json: compression.*{wanted}"):
        load_tiny(tmp_path / "stored")


def test_sliding_windows_are_refused(tmp_path):
    model = load_tiny(save_tiny(tmp_path, decoder="qwen2"))
    model.config.text_config.layer_types = ["full_attention"] * 5 + ["sliding_attention"]
    with pytest.raises(ValueError, match="does not go with layers that have a sliding window"):
        model.set_compression("fastv:9")


@pytest.mark.parametrize(
    ("compression", "named"),
    [
        ("fastv:2", r"in 6\.\.16 for an image of 16 rows, pruned after 2 of 6 layers; got 2"),
        ("visionzip:8+2|fastv:11", r"in 4\.\.10 for an image of 10 rows"),
        (
            "visionzip:8+2|uniform:5",
            "uniform stands before the language model.*there are: fastv",
        ),
        ("fastv:9|visionzip:5", "fastv is inside the language model, and nothing follows it"),
        ("visionzip:8+2|nothing:5", "unknown method inside the language model 'nothing'; there are: fastv"),
        ("nothing:5|fastv:9", "unknown compression method 'nothing'"),
        (
            "fastvv:9",
            "unknown compression method 'fastvv'; there are: .*visionzip.*Inside the language model there",
        ),
        ("visionzip:80|fastv:9", "dominant=80 is outside"),
    ],
)
def test_combinations(model, compression, named):
    before = model.compression
    with pytest.raises(ValueError, match=named) as refused:
        model.set_compression(compression)
    assert "\n" not in str(refused.value) and model.compression == before


def test_which_part_stands_where(model):
    """With a method inside the language model alone, all visual tokens reach it."""
    rules = ImageRules.from_config(model.config)
    for text, tokens in {"fastv:9": 16, "visionzip:8+2|fastv:6": 10, "visionzip:8+2": 10}.items():
        model.set_compression(text)
        budget = model.compression
        assert model.num_visual_tokens([(50, 40)]) == [tokens] == [model.model.tokens_per_tile]
        assert (
            rules.num_tokens((50, 40), budget) == tokens
            and len(model.encode_images(torch.zeros(1, 3, 28, 28))[0]) == tokens
        )
        before, inside = before_language_model(budget), inside_language_model(budget)
        assert (before is None) == (model.model.bound_compressor is None) == ("visionzip" not in text)
        assert (inside is None) == (model.model.bound_pruner is None) == ("fastv" not in text)
    model.set_compression("fastv:9")


def test_it_is_kept_in_a_checkpoint(model, tmp_path):
    model.set_compression("visionzip:8+2|fastv:6,layer=1")
    model.save_pretrained(tmp_path)
    again = load_tiny(tmp_path)
    assert again.compression == model.compression and str(again.compression) == "visionzip:8+2|fastv:6,layer=1"
    model.set_compression("fastv:9")
