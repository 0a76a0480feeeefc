"""Entries and tensors of a checkpoint that loaded without a word, hung, or were blamed on something else."""

from __future__ import annotations

import json
import logging
import shutil
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llava import LlavaProcessor, load_pretrained_model
from llava.inference import Inference
from llava.model.checkpoints.files import read_tensors
from llava.model.checkpoints.patterns import wrong_pattern
from tests.model.folders import TINY
from tests.model.test_hostile_checkpoints import changed, load, refused


@pytest.fixture
def hf(tmp_path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "model"))


@pytest.fixture(scope="module")
def loaded():
    return load_pretrained_model(TINY, device="cpu")


@pytest.fixture
def saved(loaded, tmp_path) -> Path:
    """A processor that was saved alone."""
    LlavaProcessor.for_model(loaded[1], loaded[0]).save_pretrained(tmp_path / "processor")
    return tmp_path / "processor"


# ----- Templates and rules of a processor --------------------------------------


@pytest.mark.parametrize("file", ["processor_config.json", "chat_template.json"])
def test_templates_by_name(file, saved):
    (saved / "chat_template.jinja").unlink(missing_ok=True)
    if file not in {each.name for each in saved.iterdir()}:
        (saved / file).write_text("{}")
    for several in (
        {"default": "D", "tool": "T"},
        [{"name": "tool", "template": "T"}, {"name": "default", "template": "D"}],
    ):
        changed(saved, file, "chat_template", several)
        assert LlavaProcessor.from_pretrained(saved).chat_template == "D"
    for wrong in (5, {"tool": "T"}, [{"name": "tool", "template": "T"}], ["D"], {"default": 5}):
        changed(saved, file, "chat_template", wrong)
        said = refused(LlavaProcessor.from_pretrained, saved)
        assert file in said and "chat_template" in said


def test_a_template_that_is_no_text_of_unicode(hf):
    (hf / "chat_template.jinja").write_bytes(b"\xff\xfe{{ messages }}")
    for door in (load, LlavaProcessor.from_pretrained):
        assert "chat_template.jinja: not UTF-8: byte 0" in refused(door, hf)


@pytest.mark.parametrize(
    ("entry", "values"),
    [
        ("drops_cls", [None, 0, [], {}, "no"]),
        ("has_cls", [None, 1]),
        ("aspect_ratio", ["x", -1, []]),
        ("family", [[], None, "bert"]),
        ("layout", [None, 5]),
        ("layout.rule", ["x", None]),
        ("layout.merge_type", ["x", 1]),
        ("layout.tile_size", ["112", 0]),
    ],
)
def test_rules_of_images(entry, values, saved):
    whole = (saved / "processor_config.json").read_text()
    for value in values:
        changed(saved, "processor_config.json", f"image_rules.{entry}", value)
        said = refused(LlavaProcessor.from_pretrained, saved)
        last = entry.rpartition(".")[2]
        assert "processor_config.json" in said and (last in said or str(value) in said), said
        (saved / "processor_config.json").write_text(whole)


def test_a_processor_without_its_image_processor(saved):
    changed(saved, "processor_config.json", "image_processor", None)
    assert "processor_config.json" in refused(LlavaProcessor.from_pretrained, saved)


# ----- Tensors -----------------------------------------------------------------


def test_a_bin_that_was_compressed_again(tmp_path):
    state = {"a": torch.arange(1000.0).view(10, 100), "b": torch.ones(3, dtype=torch.bfloat16)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    with (
        zipfile.ZipFile(tmp_path / "pytorch_model.bin") as given,
        zipfile.ZipFile(tmp_path / "mm_projector.bin", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in given.namelist():
            packed.writestr(name, given.read(name))
    found = read_tensors([tmp_path / "mm_projector.bin"])
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({1: torch.ones(2)}, "1 names a tensor"),
        ({"a": torch.ones(2).to_sparse()}, "a is a tensor of torch.sparse_coo"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "a is a tensor of torch.complex64"),
        ({"state_dict": {"a": torch.ones(2)}}, "state_dict is a dict"),
        ([torch.ones(2)], "holds a list"),
        ({"a": torch.ones(2), "epoch": 3}, "epoch is a int"),
    ],
)
def test_what_a_bin_must_not_hold(content, said, tmp_path):
    for old in (False, True):
        torch.save(content, tmp_path / "x.bin", _use_new_zipfile_serialization=not old)
        message = refused(read_tensors, [tmp_path / "x.bin"])
        assert said in message and "x.bin" in message and "cut off" not in message


def test_a_dtype_that_no_model_has(tmp_path):
    save_file({"a": torch.ones(2, dtype=torch.complex64)}, tmp_path / "x.safetensors")
    assert "a is of dtype C64" in refused(read_tensors, [tmp_path / "x.safetensors"])


# ----- config.json -------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("return_dict", False),
        ("text_config.return_dict", False),
        ("text_config.layer_types", ["x"]),
        ("is_encoder_decoder", True),
        ("text_config.is_encoder_decoder", True),
        ("torch_dtype", "nn"),
        ("dtype", "int8"),
        ("quantization_config", {"load_in_4bit": True}),
        ("quantization_config", {"load_in_4bit": "x"}),
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_threshold": "x"}),
        ("compression", {}),
        ("compression", {"method": "visionzip"}),
    ],
)
def test_entries_of_a_config(entry, value, hf):
    changed(hf, "config.json", entry, value)
    said = refused(load, hf)
    assert str(hf) in said and "config.json" in said and entry in said


def test_a_config_of_transformers_without_its_tower(hf):
    content = json.loads((hf / "config.json").read_text())
    del content["vision_config"]
    (hf / "config.json").write_text(json.dumps({**content, "mm_vision_tower": "x", "mm_projector_type": "mlp2x_gelu"}))
    assert "vision_config is missing" in refused(load, hf)


# ----- generation_config.json --------------------------------------------------


def test_only_known_settings_of_generation_are_obeyed(hf, caplog):
    ids = torch.tensor([[1, 30, 40]])
    expected = load_pretrained_model(hf, device="cpu")[1].generate(ids, max_new_tokens=4, min_new_tokens=1)
    others = {
        "return_dict_in_generate": True,
        "guidance_scale": 3.0,
        "is_assistant": "x",
        "forced_bos_token_id": 99999,
        "constraints": ["x"],
        "dola_layers": "low",
        "penalty_alpha": 0.6,
        "prompt_lookup_num_tokens": 3,
    }
    content = json.loads((hf / "generation_config.json").read_text())
    off = {"num_return_sequences": 1, "diversity_penalty": 0.0, "output_scores": False}
    (hf / "generation_config.json").write_text(
        json.dumps({**content, **others, **off, "top_k": 4, "min_new_tokens": 1})
    )
    with caplog.at_level(logging.WARNING):
        model = load_pretrained_model(hf, device="cpu")[1]
    told = [record.message for record in caplog.records if "generation_config.json" in record.message]
    assert len(told) == 1 and all(name in told[0] for name in others) and not any(name in told[0] for name in off)
    assert torch.equal(model.generate(ids, max_new_tokens=4), expected) and model.generation_config.min_new_tokens == 1
    for entry, value in (("top_p", 2.0), ("min_new_tokens", "x"), ("no_repeat_ngram_size", -1), ("use_cache", 5)):
        changed(hf, "generation_config.json", entry, value)
        assert f"generation_config.json: {entry} is" in refused(load, hf)
        changed(hf, "generation_config.json", entry, None)


# ----- Adapters ----------------------------------------------------------------


def test_patterns_that_hang_or_are_none():
    begun = time.monotonic()
    for pattern in ("(([a-z_.0-9]+)+)+X", "(", "a" * 501, "(a|aa)+b", "(a?){20}X", ".*" * 9 + "X", r"(?:(?:\w|\.)*)*X"):
        for entry in ("rank_pattern", "alpha_pattern"):
            assert f"{entry}: " in str(wrong_pattern({entry: {pattern: 4}})), pattern
    assert "target_modules" in str(wrong_pattern({"target_modules": "(a+)+X"}))
    assert time.monotonic() - begun < 1
    known = [
        r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:k_proj|v_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:mlp)\.up)",
        r"^(?!.*vision_tower).*(?:q_proj|k_proj)$",
        r"model\.layers\.(?:1|2|10)\.self_attn\.[qk]_proj",
    ]
    for pattern in known:
        assert wrong_pattern({"target_modules": pattern, "rank_pattern": {pattern: 2}}) is None, pattern


def test_a_device_that_holds_no_values():
    with pytest.raises(ValueError, match="device 'meta' holds no values"):
        Inference.load(TINY, device="meta")
