"""Files of a checkpoint that are not what they must be: one line, which names file, entry and value; nothing is run."""

from __future__ import annotations

import ast
import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from llava import LlavaForConditionalGeneration, LlavaProcessor, load_pretrained_model
from llava.data.model_rules import rules_of_model
from llava.entry_types import wrong_entry
from llava.hub.export import export
from llava.hub.verify import verify
from llava.model.checkpoints.fingerprint import model_fingerprint
from llava.small_files import CheckpointError, read_json
from llava.train.adapters import add_adapters, save_adapter
from tests.model.folders import TINY

HUGE = 10**400
DEEP = json.loads("[" * 40 + "]" * 40)
LANGUAGE = {
    "hidden_size": ["64", [64], None, -64, 0, HUGE, 64.5, True],
    "num_hidden_layers": ["2", [2], None, -1, 0, 10**7, HUGE],
    "num_attention_heads": ["4", {}, None, 0, -4, 7],
    "vocab_size": [None, [], -1, 0, 10**12, "many"],
    "intermediate_size": [[1], None, 10**15],
    "rms_norm_eps": ["small", None, HUGE, -1.0],
    "max_position_embeddings": ["x", 0, 10**30],
    "eos_token_id": ["</s>", {}, [None]],
    "hidden_act": [5, "", "no-such-function"],
}
LLAVA = {
    **LANGUAGE,
    "mm_vision_select_layer": ["x", None, [-2, -1], 99, -10_000],
    "mm_vision_tower": [5, [], {"a": 1}, None, "a\0b", "\ud800"],
    "mm_projector_type": [5, [], "linear"],
    "mm_vision_select_feature": [5, "cls"],
    "image_aspect_ratio": [3, [], "wide"],
    "image_grid_pinpoints": [5, [[1]], [["a", "b"]], {"a": 1}],
    "mm_use_im_start_end": ["yes", 1],
    "tokenizer_model_max_length": [-1, "long", 0, HUGE],
    "model_type": [None, 5, "gpt2", ["llava"]],
    "rope_theta": ["x", None, HUGE, 0],
}
TRANSFORMERS = {
    **{f"text_config.{name}": values for name, values in LANGUAGE.items() if name not in ("eos_token_id",)},
    "vision_config.hidden_size": ["96", None, 0, 10**9],
    "vision_config.num_hidden_layers": [10**7, -1, "5"],
    "vision_config.image_size": [0, 4, "x", [112, 112], 10**9],
    "vision_config.patch_size": [0, 10**6, None],
    "vision_config.model_type": ["bert", None, 5],
    "vision_config": [5, [], None, "clip"],
    "text_config": [5, [], None, "llama"],
    "vision_feature_layer": ["x", None, [-2, -5], 99],
    "vision_feature_select_strategy": [5, "some"],
    "image_token_index": [-1, "x", None, HUGE],
    "model_type": [None, 5, []],
}
TOKENIZER = {
    "tokenizer_class": [5, []],
    "legacy": ["no", 1],
    "model_max_length": ["long", -1, HUGE],
    "added_tokens_decoder": [[], {"0": 5}, {"x": {}}],
    "chat_template": [5, True],
    "unk_token": ["", 5],
}
PIXELS = {
    "image_mean": [5, [0.5], [None, 1, 2], "grey"],
    "image_std": [[0.0, 0.5, 0.5], {}],
    "size": [-1, {"height": "x"}, {"height": 10**9, "width": 10**9}, []],
    "resample": ["cubic", 99],
    "image_processor_type": [5, "MyImageProcessor"],
}


def changed(folder: Path, file: str, entry: str, value: object) -> None:
    content = json.loads((folder / file).read_text())
    *parents, last = entry.split(".")
    inner = content
    for name in parents:
        inner = inner[name]
    inner[last] = value
    (folder / file).write_text(json.dumps(content))


def refused(door, *arguments) -> str:
    """What a door says: one line, not long, without another library's advice."""
    with pytest.raises(CheckpointError) as raised:
        door(*arguments)
    said = str(raised.value)
    assert "\n" not in said and len(said) < 1200 and "trust_remote_code" not in said and "weights_only" not in said
    return said


def load(folder: Path) -> object:
    return load_pretrained_model(folder, device="cpu")


def table(entries: dict[str, list]) -> list[tuple[str, object]]:
    return [(name, value) for name, values in entries.items() for value in values]


@pytest.fixture
def v15(oracle_dir, tmp_path) -> Path:
    return Path(shutil.copytree(oracle_dir / "tiny-llava-v1.5", tmp_path / "model"))


@pytest.fixture
def hf(tmp_path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def check_table(folder: Path, file: str, entries: dict[str, list], doors) -> int:
    whole = (folder / file).read_text()
    for entry, value in table(entries):
        changed(folder, file, entry, value)
        for door in doors:
            said = refused(door, folder)
            assert str(folder) in said, (entry, value, said)
        (folder / file).write_text(whole)
    return len(table(entries))


@pytest.mark.filterwarnings("ignore")
def test_wrong_values_of_either_config(v15, oracle_dir, tmp_path):
    assert check_table(v15, "config.json", LLAVA, [load]) > 60
    other = Path(shutil.copytree(TINY, tmp_path / "hf"))
    assert check_table(other, "config.json", TRANSFORMERS, [load]) > 60


@pytest.mark.filterwarnings("ignore")
def test_wrong_values_of_tokenizer_and_pixels(v15, tmp_path):
    check_table(v15, "tokenizer_config.json", TOKENIZER, [load, LlavaProcessor.from_pretrained])
    other = Path(shutil.copytree(TINY, tmp_path / "hf"))
    check_table(other, "preprocessor_config.json", PIXELS, [load, LlavaProcessor.from_pretrained])


@pytest.mark.parametrize(
    "door",
    [load, LlavaForConditionalGeneration.from_pretrained, LlavaProcessor.from_pretrained, rules_of_model],
)
def test_every_door_names_file_entry_and_value(door, hf):
    changed(hf, "config.json", "text_config.num_hidden_layers", 10**7)
    said = refused(door, hf)
    assert said == f"{hf}/config.json: text_config.num_hidden_layers is 10000000, and must be a whole number in 1..1000"


@pytest.mark.parametrize("door", [load, LlavaProcessor.from_pretrained, model_fingerprint])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"[1, 2]", "holds a list"),
        (b'{"a": 1', "cut off"),
        (b'{"a": "\xff"}', "not UTF-8: byte 7 is 0xff"),
        (b'{"a": %s}' % (b"9" * 5000), "not valid JSON"),
        (b'{"a": %s1%s}' % (b"[" * 100_000, b"]" * 100_000), "nested too deeply"),
        (json.dumps({"a": DEEP}).encode(), "nested deeper than 32 levels"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git-lfs pointer.*git lfs pull"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_config_that_is_no_object(door, content, message, v15):
    (v15 / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{v15}/config.json.*{message}"):
        door(v15)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (None, "weight_map is None"),
        ([], r"weight_map is \[\]"),
        ({}, "missing or empty"),
        ({"a": 5}, "name of a file"),
        ({"a": "../model.safetensors"}, "name of a file"),
        ({"a": "/etc/passwd"}, "name of a file"),
        ({"a": ".."}, "name of a file"),
        ({"a": "model.safetensors\0"}, "name of a file"),
        ({"a": "other.safetensors"}, "not there: other.safetensors"),
    ],
)
def test_weight_maps(weight_map, message, v15):
    (v15 / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=f"model.safetensors.index.json.*{message}"):
        load(v15)


@pytest.fixture
def adapter(oracle_dir, tmp_path) -> Path:
    _, model, _, _ = load(oracle_dir / "tiny-llava-v1.5")
    add_adapters(model, r=2, alpha=4)
    (tmp_path / "adapter").mkdir()
    save_adapter(model, tmp_path / "adapter", model.state_dict(), base_model=oracle_dir / "tiny-llava-v1.5")
    return tmp_path / "adapter"


@pytest.mark.filterwarnings("ignore")
def test_adapters(adapter, oracle_dir):
    load(adapter)
    values = {
        "r": ["4", None, -1, 0, 10**9, [2]],
        "lora_alpha": ["x", None, HUGE, []],
        "rank_pattern": [[], 5, {"a": "x"}, {"(": 2}],
        "alpha_pattern": [{"a": None}, {"[": 2}],
        "peft_type": [None, 5, "LOHA"],
        "init_lora_weights": [5, "olora"],
        "base_model_name_or_path": [5, [], "no/such/folder", str(adapter), "a\0b"],
    }
    check_table(adapter, "adapter_config.json", values, [load])


def test_a_base_that_is_itself(adapter, oracle_dir, tmp_path):
    changed(adapter, "adapter_config.json", "base_model_name_or_path", str(tmp_path / "second"))
    second = Path(shutil.copytree(adapter, tmp_path / "second"))
    changed(second, "adapter_config.json", "base_model_name_or_path", str(adapter))
    assert "which is the folder itself or goes on it" in refused(load, adapter)
    assert "which is the folder itself or goes on it" in refused(load_pretrained_model, second, second)
    model_fingerprint(adapter)  # ends


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.model", "tokenizer_config.json", "config.json"])
def test_pointers_and_cut_files_are_named(name, v15):
    whole = (v15 / name).read_bytes()
    (v15 / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 13\n")
    for door in (load, lambda folder: export(folder, "hf", folder.parent / "out", progress=False)):
        assert refused(door, v15) == f"{v15 / name}: a git-lfs pointer, not the file itself; run git lfs pull"
    (v15 / name).write_bytes(whole[: len(whole) // 2])
    said = refused(load, v15)
    assert str(v15 / name) in said and "cut off" in said


@pytest.mark.parametrize("name", ["tokenizer.json", "preprocessor_config.json"])
def test_pointers_and_cut_files_of_transformers_format(name, hf):
    whole = (hf / name).read_bytes()
    (hf / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 13\n")
    assert refused(load, hf) == f"{hf / name}: a git-lfs pointer, not the file itself; run git lfs pull"
    (hf / name).write_bytes(whole[: len(whole) // 2])
    said = refused(load, hf)
    assert str(hf / name) in said and "cut off" in said


def test_a_pickle_is_refused_without_advice(v15):
    (v15 / "model.safetensors").unlink()
    (v15 / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert "a pickle runs code for" in refused(load, v15)


# ----- Code of a checkpoint ----------------------------------------------------

CODE = """
from pathlib import Path

Path(__file__).with_name("was-run").touch()
raise SystemExit("the code of the checkpoint was run")
"""
AUTO_MAP = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor"), "evil.Evil")


@pytest.fixture
def yes(monkeypatch) -> io.StringIO:
    """`yes |`: whoever asks is answered."""
    stream = io.StringIO("y\n" * 1000)
    monkeypatch.setattr(sys, "stdin", stream)
    return stream


def assert_nothing_ran(folder: Path, asked: io.StringIO) -> None:
    assert not list(folder.parent.rglob("was-run")) and asked.tell() == 0


@pytest.mark.parametrize("kind", ["llava", "transformers"])
def test_auto_map_with_a_known_kind_is_plain_data(kind, v15, yes, tmp_path):
    folder = v15 if kind == "llava" else Path(shutil.copytree(TINY, tmp_path / "hf"))
    (folder / "evil.py").write_text(CODE)
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        content = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        if content:
            tokenizers = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
            (folder / name).write_text(json.dumps({**content, "auto_map": {**AUTO_MAP, **tokenizers}}))
    changed(folder, "config.json", "fusion_config", {"a": 1})
    changed(folder, "config.json", "attn_implementation", "evil/kernels")
    _, model, _, _ = load(folder)
    LlavaForConditionalGeneration.from_pretrained(folder)
    LlavaProcessor.from_pretrained(folder)
    model.save_pretrained(tmp_path / "saved")
    assert "evil" not in (tmp_path / "saved" / "config.json").read_text()
    if kind == "transformers":
        verify(folder)
    assert_nothing_ran(folder, yes)


def test_a_tower_a_tokenizer_and_a_model_of_unknown_kinds_are_refused(v15, oracle_dir, yes):
    tower = Path(shutil.copytree(oracle_dir / "tiny-clip-vit-l14-336", v15 / "tower"))
    changed(v15, "config.json", "mm_vision_tower", "tower")
    (tower / "evil.py").write_text(CODE)
    changed(tower, "config.json", "auto_map", {"AutoConfig": "evil.Evil"})
    load(v15)
    changed(tower, "config.json", "model_type", "evil")
    assert "model_type 'evil' is none of transformers'; its auto_map names code" in refused(load, v15)
    changed(tower, "config.json", "model_type", "clip_vision_model")
    (v15 / "evil.py").write_text(CODE)
    changed(v15, "tokenizer_config.json", "tokenizer_class", "EvilTokenizer")
    changed(v15, "tokenizer_config.json", "auto_map", {"AutoTokenizer": ["evil.Evil", None]})
    assert f"{v15}: the tokenizer cannot be read: it needs code of the checkpoint" in refused(load, v15)
    assert_nothing_ran(v15, yes)


def is_auto(name: str) -> bool:
    """Whether a name is one of transformers' Auto classes."""
    return name.startswith("Auto") and name[4:5].isupper() and not name.startswith("AutoLlava")


def test_only_one_module_calls_loaders_that_may_run_code():
    """`from_pretrained` and `from_config` of transformers' Auto classes, and its pipelines."""
    root = Path(__file__).resolve().parents[2]
    found = []
    for file in sorted([*(root / "llava").rglob("*.py"), *(root / "scripts").rglob("*.py")]):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            named = isinstance(node, ast.Name) and is_auto(node.id)
            imported = isinstance(node, ast.alias) and is_auto(node.name)
            trusts = isinstance(node, ast.keyword) and node.arg == "trust_remote_code"
            if named or imported or trusts:
                found.append((file.relative_to(root).as_posix(), ast.unparse(node)))
    assert {file for file, _ in found} == {"llava/plain_loading.py"}
    assert {text for _, text in found if "trust" in text} == {"trust_remote_code=False"}


def test_published_configs_pass(oracle_dir):
    """What is known to be right is not refused, nor what a table does not name."""
    for file in [*oracle_dir.rglob("*.json"), *TINY.glob("*.json")]:
        if file.name != "trained.json" and file.name.endswith("config.json"):
            read_json(file)
    assert wrong_entry("config.json", {"of_tomorrow": [1, {"a": None}], "num_key_value_heads": None}) is None
    assert wrong_entry("tokenizer_config.json", {"model_max_length": 1000000000000000019884624838656}) is None
    assert wrong_entry("processor_config.json", {"image_processor": {"size": {"shortest_edge": "x"}}}) is not None
