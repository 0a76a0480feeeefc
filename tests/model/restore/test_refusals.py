"""What does not go with `positions=restore` is refused in one line that says what to do."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from transformers import DynamicCache, StaticCache

from llava.eval.compare.methods import marks_of
from llava.hub.export import export
from llava.hub.staging import MANIFEST
from llava.inference import GenerationOptions, Inference, Question
from llava.model.configuration import CompressionConfig
from llava.model.image_rules import ImageRules
from llava.model.method_list import method_list
from tests.model.language_pruning.tiny_models import load_tiny, samples, save_tiny, together

BIASES = "positions=restore adds a bias to attention inside the language model, and "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def model(folder):
    model = load_tiny(folder)
    model.set_compression("divprune:6,positions=restore")
    return model


def refused(call, reason: str, start: str = BIASES) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(start)}.*{reason}") as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ("visionzip:4+2", "visionzip keeps other things than patches; use divprune, holov"),
        ("coverage:6", "coverage keeps other things than patches; use .* or options by which it chooses"),
        ("tome:6", "tome keeps other things than patches"),
        ("pool:4", "pool keeps other things than patches"),
        ("prumerge:6", "prumerge keeps other things than patches"),
        ("divprune:1", "keep 2 at least"),
        ("divprune:17", "dominant=17 is outside"),
        ("divprune:6,tiles=area", "does not go with tiles=area"),
        ("divprune:6|fastv:3", "fastv drops rows between its layers"),
        ("vispruner:12", "half of the tokens are vispruner's own. compression vispruner:6,.*use rule=distinct"),
    ],
)
def test_budgets(folder, budget, reason):
    first, pipe, then = budget.partition("|")
    full = str(CompressionConfig.parse(f"{first},positions=restore{pipe}{then}"))
    model = load_tiny(folder)
    rules = ImageRules.from_config(model.config)
    for check in (model.set_compression, rules.check):
        with pytest.raises(ValueError, match=f"^compression .*{reason}") as error:
            check(CompressionConfig.parse(full))
        assert "\n" not in str(error.value)


def test_values_of_the_option(folder):
    with pytest.raises(ValueError, match=r"^compression\.positions must be one of counted, restore, got 'kept'"):
        CompressionConfig.parse("divprune:6,positions=kept")
    with pytest.raises(ValueError, match=r"fastv takes one number.* and no merge=, tiles=, positions= or adaptive="):
        load_tiny(folder).set_compression("fastv:9,positions=restore")


def test_the_option_is_kept_where_budgets_are():
    budget = CompressionConfig.parse("divprune:64,rule=distinct,positions=restore")
    assert str(budget) == "divprune:64,positions=restore,rule=distinct"
    assert budget.to_dict()["positions"] == "restore" and CompressionConfig.from_dict(budget.to_dict()) == budget
    plain = CompressionConfig.parse("divprune:64,rule=distinct,positions=counted")
    assert "positions" not in plain.to_dict() and str(plain) == "divprune:64,rule=distinct"
    assert len({budget, plain}) == 2


@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention"])
def test_attention_that_takes_no_bias(folder, attention):
    model = load_tiny(folder)
    model.set_compression("divprune:6,positions=restore")
    model.model.language_model.config._attn_implementation = attention  # what loading with it would set
    reason = f"{attention} takes none; load with attn_implementation='sdpa', --attn-implementation sdpa"
    refused(lambda: model(**together(samples(model)[:1])), reason)
    again = "compression divprune:6,positions=restore: "
    refused(lambda: model.set_compression("divprune:6,positions=restore"), reason, again + BIASES)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_attention_that_does(folder, model, attention):
    other = load_tiny(folder, attn_implementation=attention)
    other.set_compression(model.compression)
    given = together(samples(model))
    torch.testing.assert_close(other(**given).logits, model(**given).logits, rtol=1e-4, atol=1e-4)


def test_models_it_does_not_fit(tmp_path):
    tiled = load_tiny(save_tiny(tmp_path / "next", family="llava_next"))
    start = "compression divprune:6,positions=restore: " + BIASES
    refused(
        lambda: tiled.set_compression("divprune:6,positions=restore"),
        "this model's images have several; use LLaVA-1.5",
        start,
    )
    qwen = load_tiny(save_tiny(tmp_path / "qwen", decoder="qwen2"))
    qwen.set_compression("divprune:6,positions=restore")
    assert qwen(**together(samples(qwen)[:1])).logits.isfinite().all()
    qwen.config.text_config.model_type = qwen.model.language_model.config.model_type = "gpt2"
    refused(lambda: qwen.set_compression("divprune:6,positions=restore"), "this is a gpt2", start)


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"assistant_model": "model"}, "assisted decoding"),
        ({"prompt_lookup_num_tokens": 3}, "prompt lookup"),
        ({"cache_implementation": "static"}, "dynamic one"),
        ({"prefill_chunk_size": 4}, "read as a whole"),
        ({"use_cache": False}, "leave use_cache=False out"),
        ({"output_attentions": True}, "leave output_attentions out"),
        ({"output_hidden_states": True}, "leave output_hidden_states out"),
    ],
)
def test_ways_to_generate(model, option, reason):
    refused(lambda: model.generate(**together(samples(model)[:1]), max_new_tokens=2, **option), reason)


def test_caches(model):
    given = together(samples(model)[:1])
    static = StaticCache(config=model.config.get_text_config(), max_cache_len=100)
    refused(lambda: model.generate(**given, max_new_tokens=2, past_key_values=static), "a static cache")
    refused(lambda: model(**given, past_key_values=static), "a static cache")
    filled = DynamicCache(config=model.config.get_text_config())
    with torch.no_grad():
        output = model(**given, past_key_values=filled)
        refused(lambda: model(torch.tensor([[5, 6]]), past_key_values=output.past_key_values), "the whole conversation")
    refused(lambda: model.generate(**given, max_new_tokens=2, past_key_values=filled), "give the whole conversation")
    refused(lambda: model(torch.tensor([[5]]), past_key_values=filled), "past_key_values of the output")
    model(torch.tensor([[5]]), past_key_values=output.past_key_values)  # what was given back goes on
    refused(lambda: output.past_key_values.batch_repeat_interleave(2), "num_return_sequences")
    refused(lambda: output.past_key_values.batch_select_indices(torch.tensor([0])), "a batch of their own")


def test_features_that_have_lost_their_places(model):
    given = together(samples(model)[:1])
    images = given.pop("images")
    given.pop("image_sizes")
    features = model.encode_each(images)
    reason = "give the list of encode_images as it is"
    refused(lambda: model(**given, image_features=[each + 0 for each in features]), reason)
    refused(lambda: model.generate(**given, image_features=[torch.stack(features)[0]], max_new_tokens=2), reason)
    assert model(**given, image_features=features).logits.isfinite().all()


def test_masks_of_another_form(model):
    given = together(samples(model)[:1])
    restored = model.model.locate_images(torch.full((1, 6), 98), model.encode_each(given["images"]), None)
    assert restored.valid.all()
    wrong, ids, images = torch.ones(1, 1, 6, 6), torch.full((1, 6), 98), model.encode_each(given["images"])
    refused(lambda: model.model.locate_images(ids, images, wrong), r"attention_mask .*\(1, 1, 6, 6\)")


def test_packing(model):
    given = together(samples(model))
    refused(lambda: model(**given, labels=given["input_ids"], packing=True), "leave packing out")


def test_llavas_inner_function(model):
    given = together(samples(model)[:1])
    mask, ids, images = given["attention_mask"], given["input_ids"], given["images"]
    call = model.prepare_inputs_labels_for_multimodal
    refused(lambda: call(ids, None, mask, None, None, images), "embeddings alone do not say where images stand")


def test_compiled_decoding(oracle_dir):
    inference = Inference.load(
        oracle_dir / "tiny-llava-v1.5", device="cpu", compression="divprune:8,positions=restore", compile=True
    )
    question = Question("What is it?", (oracle_dir / "images" / "square.png",))
    refused(lambda: list(inference.ask([question], options=GenerationOptions(max_new_tokens=2))), "--compile out")


def test_what_lists_say_of_it():
    budget = CompressionConfig.parse("divprune:6,positions=restore")
    marks, plain = (marks_of(each, has_clip=False) for each in (budget, CompressionConfig.parse("divprune:6")))
    assert (marks.servable, marks.multi_turn) == (False, True) and plain.servable
    takes = [part.splitlines()[0] for part in method_list().split("\n\n") if "takes positions=restore" in part]
    assert any(line.startswith("divprune") for line in takes)
    assert not any(line.startswith(("visionzip", "fastv", "tome")) for line in takes)


def test_an_exported_checkpoint_says_so(oracle_dir, tmp_path):
    folder = tmp_path / "own"
    shutil.copytree(oracle_dir / "tiny-llava-v1.5", folder, copy_function=shutil.copyfile)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["compression"] = CompressionConfig.parse("divprune:64,positions=restore").to_dict()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    report = export(folder, "hf", tmp_path / "out", progress=False)
    assert any("no serving engine" in note for note in report.notes)
    assert "no serving engine" in (tmp_path / "out" / MANIFEST).read_text(encoding="utf-8")
