"""An export is whole or not there, refuses what it cannot write right, and says which file and entry is at fault."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llava.hub import staging
from llava.hub.export import export, main
from llava.hub.formats.shards import parse_size, plan_shards, write_safetensors, write_shards
from llava.hub.formats.vocabulary import add_image_token, drop_image_token, mean_row
from llava.hub.manifest import damaged_files
from llava.hub.refresh import main as refresh
from llava.model.builder import load_pretrained_model
from llava.model.checkpoints.files import CheckpointError
from llava.model.checkpoints.stored_tensor import StoredTensor
from llava.model.multimodal_projector import save_projector
from llava.prompts.tokenization import load_tokenizer
from tests.conftest import FIXTURES
from tests.hub.checkpoints import assert_same_tensors, edit_json, llava_checkpoint, tensors_of


@pytest.fixture
def source(oracle_dir, tmp_path):
    return llava_checkpoint(oracle_dir, tmp_path / "in" / "source", "v1.5")


def test_files_are_what_the_safetensors_library_writes(tmp_path):
    tensors = {
        "half": torch.randn(3, 5).half(),
        "brain": torch.randn(7).bfloat16(),
        "single": torch.randn(2, 2),
        "scalar": torch.tensor(3.0),
        "ids": torch.arange(4),
        "empty": torch.zeros(0, 4),
        "sliced": torch.randn(4, 6)[:, ::2],
    }
    stored = {name: StoredTensor.of(value) for name, value in tensors.items()}
    write_safetensors(tmp_path / "ours.safetensors", stored)
    assert_same_tensors(load_file(tmp_path / "ours.safetensors"), tensors)
    with safe_open(tmp_path / "ours.safetensors", framework="pt") as reader:
        assert reader.metadata() == {"format": "pt"}
    grown = stored["half"].with_rows(torch.ones(2, 5))
    cut = grown.first_rows(4)
    write_safetensors(tmp_path / "changed.safetensors", {"grown": grown, "cut": cut})
    expected = torch.cat([tensors["half"], torch.ones(2, 5).half()])
    assert_same_tensors(load_file(tmp_path / "changed.safetensors"), {"grown": expected, "cut": expected[:4]})
    with pytest.raises(ValueError, match="complex64"):
        write_safetensors(tmp_path / "no.safetensors", {"c": StoredTensor.of(torch.zeros(2, dtype=torch.complex64))})


@pytest.mark.parametrize("to", ["hf", "llava", "projector"])
def test_a_tensor_that_is_not_finite_ends_the_export_in_a_line(source, tmp_path, to, capsys):
    for file in source.glob("*.safetensors"):
        tensors = load_file(file)
        for name in tensors:
            if "mm_projector.2.weight" in name:
                tensors[name][1, 2] = torch.inf
        save_file(tensors, file, {"format": "pt"})
    with pytest.raises(SystemExit, match=r"^error: \S+\.safetensors: \S+ holds numbers that are not finite"):
        main([str(source), "--to", to, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_shards_keep_their_limit_and_transformers_reads_them(source, tmp_path):
    export(source, "hf", tmp_path / "one", progress=False)
    export(source, "hf", tmp_path / "many", max_shard_size="600KB", progress=False)
    assert_same_tensors(tensors_of(tmp_path / "many"), tensors_of(tmp_path / "one"))
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    files = sorted(tmp_path.glob("many/model-*.safetensors"))
    assert len(files) > 2 and {file.name for file in files} == set(index["weight_map"].values())
    for file in files:
        state = load_file(file)
        assert len(state) == 1 or sum(value.nbytes for value in state.values()) <= 600_000
        assert {index["weight_map"][name] for name in state} == {file.name}
    assert parse_size("5GB") == 5 * 10**9 and parse_size("1MiB") == 2**20 and parse_size(7) == 7
    for wrong in ("5 apples", "-1", "0GB"):
        with pytest.raises(ValueError, match="max_shard_size"):
            parse_size(wrong)
    tensors = {name: StoredTensor.of(torch.zeros(10)) for name in "abc"}
    assert [list(shard) for shard in plan_shards(tensors, 1).values()] == [["a"], ["b"], ["c"]]
    assert write_shards(tmp_path, plan_shards(tensors, 10**6), lambda _: None).keys() == {"model.safetensors"}


def test_added_rows_are_the_mean_of_the_others():
    rows = torch.randn(700, 64)
    assert torch.equal(mean_row(rows), rows.double().mean(0).float())
    torch.testing.assert_close(mean_row(rows[:3].half()).float(), rows[:3].half().float().mean(0), atol=1e-3, rtol=0)


def test_a_vocabulary_with_room_gets_no_rows():
    """Of a vocabulary larger than its tokenizer the image token takes the first free row, and gives it back."""
    config = SimpleNamespace(text_config=SimpleNamespace(vocab_size=704), image_token_id=704, pad_token_id=0)
    tokenizer = load_tokenizer(FIXTURES / "tiny-llava-v1.5")
    tensors = {"lm_head.weight": StoredTensor.of(torch.randn(704, 8))}
    assert add_image_token(tensors, config, tokenizer) is None and tensors["lm_head.weight"].shape == (704, 8)
    assert (config.image_token_id, config.pad_token_id, config.text_config.vocab_size) == (700, 701, 704)
    assert drop_image_token(tensors, config, tokenizer) is None and tensors["lm_head.weight"].shape == (704, 8)


@pytest.mark.parametrize("moment", ["reading", "writing"])
def test_an_export_that_fails_leaves_nothing(source, tmp_path, moment):
    file = source / "model.safetensors"
    state = load_file(file)
    if moment == "reading":
        state["lm_head.weight"] = state["lm_head.weight"][:5].clone()
    else:
        state["model.norm.weight"] = state["model.norm.weight"].to(torch.float8_e4m3fn)
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lm_head\.weight|float8"):
        export(source, "hf", tmp_path / "out" / "exported", progress=False)
    assert not any((tmp_path / "out").iterdir())


def test_an_output_is_not_overwritten_unasked(source, tmp_path):
    output = tmp_path / "exported"
    output.mkdir()
    (output / "thesis.tex").write_text("years of work")
    for overwrite, message in ((False, "exists already"), (True, "was not made by an export")):
        with pytest.raises(ValueError, match=message):
            export(source, "hf", output, overwrite=overwrite, progress=False)
    assert (output / "thesis.tex").read_text() == "years of work"
    (output / "thesis.tex").unlink()
    export(source, "hf", output, progress=False)
    with pytest.raises(ValueError, match="exists already"):
        export(source, "hf", output, progress=False)
    (output / "README.md").write_text("# Mine")
    (output / "card_sample.png").write_bytes(b"a picture")
    (output / "figure.png").write_bytes(b"a figure")
    with pytest.raises(ValueError, match=r"--overwrite would remove figure\.png, which no export has written"):
        export(source, "llava", output, overwrite=True, progress=False)
    assert (output / "figure.png").read_bytes() == b"a figure"
    (output / "figure.png").unlink()
    export(source, "llava", output, overwrite=True, vision_tower="openai/clip", progress=False)
    assert not (output / "preprocessor_config.json").exists() and (output / "tokenizer.model").exists()
    assert (output / "README.md").read_text() == "# Mine" and (output / "card_sample.png").read_bytes() == b"a picture"
    assert damaged_files(output) == []
    assert {path.name for path in tmp_path.iterdir()} == {"in", "exported"}
    for inside in (source, source.parent):
        with pytest.raises(ValueError, match="holds what is exported"):
            export(source, "hf", inside, overwrite=True, progress=False)


def test_a_full_disk_is_noticed_before_anything_is_written(source, tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "_SPARE_BYTES", 10**18)  # no disk has that much room
    with pytest.raises(ValueError, match=r"the disk has .* GB free, the export needs 1000000000\.0 GB"):
        export(source, "hf", tmp_path / "exported", progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_what_is_refused(source, oracle_dir, tmp_path):
    cases = [
        ("hf", {"quantization_config": {"quant_method": "bitsandbytes"}}, r"quantization_config \(bitsandbytes\)"),
        ("hf", {"mm_use_im_start_end": True}, "<im_start>, <im_end>, but the vocabulary of 700 rows has none"),
        ("llava", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_parameters of type 'yarn'"),
        ("llava", {"head_dim": 32}, "another shape"),
    ]
    original = (source / "config.json").read_text()
    for to, entries, message in cases:
        edit_json(source / "config.json", **entries)
        with pytest.raises(CheckpointError, match=message):
            export(source, to, tmp_path / "exported", progress=False)
        (source / "config.json").write_text(original)
    (source / "tokenizer.model").rename(source / "kept.model")
    with pytest.raises(CheckpointError, match="tokenizer"):
        export(source, "llava", tmp_path / "exported", progress=False)
    tiles = llava_checkpoint(oracle_dir, tmp_path / "tiles", "next")
    edit_json(tiles / "config.json", mm_patch_merge_type="spatial")
    with pytest.raises(CheckpointError, match=r"mm_patch_merge_type 'spatial' .* use --to llava"):
        export(tiles, "hf", tmp_path / "exported", progress=False)
    with pytest.raises(SystemExit, match=r"error: .*nowhere: there is no such folder"):
        main([str(tmp_path / "nowhere"), "--to", "hf", "--output", str(tmp_path / "exported")])
    assert not (tmp_path / "exported").exists()


def test_hashes_follow_the_files(source, tmp_path, capsys):
    export(source, "hf", tmp_path / "exported", progress=False)
    assert damaged_files(tmp_path / "exported") == []
    edit_json(tmp_path / "exported" / "config.json", note="changed")
    assert len(damaged_files(tmp_path / "exported")) == 1
    refresh([str(tmp_path / "exported")])
    assert "config.json has" in capsys.readouterr().out
    assert damaged_files(tmp_path / "exported") == []
    recorded = (tmp_path / "exported" / "export.json").read_text()
    assert str(tmp_path) not in recorded
    (tmp_path / "exported" / "config.json").unlink()
    with pytest.raises(SystemExit, match=r"config\.json is missing, which export\.json lists"):
        refresh([str(tmp_path / "exported")])


@pytest.mark.slow
def test_projector_alone(source, tmp_path):
    _, model, _, _ = load_pretrained_model(source, device="cpu", compression="visionzip:54+10")
    with torch.no_grad():
        model.model.multi_modal_projector.linear_1.weight.add_(1.0)
    save_projector(model, tmp_path / "run", base_model="org/base")
    expected = load_file(tmp_path / "run" / "mm_projector.safetensors")
    report = export(tmp_path / "run", "projector", tmp_path / "out", legacy=True, vision_tower="openai/clip")
    assert report.compression == "visionzip:54+10"
    assert_same_tensors(load_file(tmp_path / "out" / "mm_projector.safetensors"), expected)
    assert_same_tensors(torch.load(tmp_path / "out" / "mm_projector.bin", weights_only=True), expected)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "llava_llama" and config["base_model_name_or_path"] == "org/base"
    assert config["mm_hidden_size"] == 64 and config["hidden_size"] == 64
    again = load_pretrained_model(tmp_path / "out", source, device="cpu")[1]
    assert str(again.compression) == "visionzip:54+10"
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    export(source, "projector", tmp_path / "of-whole", model_base="org/base", progress=False)
    whole = load_file(tmp_path / "of-whole" / "mm_projector.safetensors")
    state = tensors_of(source)
    assert_same_tensors(whole, {name: state[name] for name in state if "mm_projector" in name})


@pytest.mark.slow
@pytest.mark.parametrize("to", ["hf", "llava"])
def test_a_projector_is_put_on_its_base(to, source, tmp_path):
    _, model, _, _ = load_pretrained_model(source, device="cpu", compression="visionzip:54+10")
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.bias.add_(1.0)
    save_projector(model, tmp_path / "run")
    report = export(tmp_path / "run", to, tmp_path / "llava-out", model_base=source, progress=False)
    assert report.compression == "visionzip:54+10"
    again = load_pretrained_model(tmp_path / "llava-out", device="cpu")[1]
    assert str(again.compression) == "visionzip:54+10"
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name][: len(value)], value), name


def test_adapters_are_merged_tensor_by_tensor_to_the_bits_of_loading(oracle_dir, tmp_path):
    source = llava_checkpoint(oracle_dir, tmp_path / "source", "v1.5 half")
    layers = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
    state = tensors_of(source)
    factors = {}
    for layer in layers:
        out, width = state[f"{layer}.weight"].shape
        factors[f"base_model.model.{layer}.lora_A.weight"] = torch.randn(4, width)
        factors[f"base_model.model.{layer}.lora_B.weight"] = torch.randn(out, 4)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file(factors, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "org/elsewhere"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    report = export(adapter, "llava", tmp_path / "llava-merged", model_base=source, vision_tower="openai/clip")
    assert "model-00001" not in str(report.files)
    merged = tensors_of(tmp_path / "llava-merged")
    expected = load_pretrained_model(adapter, source, device="cpu", torch_dtype="auto")[1].state_dict()
    assert merged.keys() == state.keys()
    for name, value in merged.items():
        layer = name.removesuffix(".weight")
        inner = name.replace("model.", "model.language_model.", 1)
        assert torch.equal(value, expected[inner] if layer in layers else state[name]), name
    assert not torch.equal(merged[f"{layers[0]}.weight"], state[f"{layers[0]}.weight"])
