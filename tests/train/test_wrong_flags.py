"""Wrong values of training's flags and wrong recipes: one line that names flag or key, and nothing written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import transformers

from llava.train.arguments import parse_arguments
from llava.train.known_flags import KNOWN, OF_TRANSFORMERS
from llava.train.launch import main as launch
from llava.train.run import main

RECIPE = "llava-v1.5-7b-finetune"


def told(words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What the command says, as a line."""
    monkeypatch.setattr("sys.argv", ["train.py", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert isinstance(caught.value.code, str) and "\n" not in caught.value.code
    return caught.value.code


@pytest.mark.parametrize(
    ("flag", "value", "reason"),
    [
        ("learning_rate", "nan", "nan is no finite number"),
        ("learning_rate", "inf", "inf is no finite number"),
        ("learning_rate", "0", "0.0 must be above 0"),
        ("mm_projector_lr", "-1", "-1.0 must be at least 0"),
        ("weight_decay", "nan", "nan is no finite number"),
        ("max_grad_norm", "-1", "-1.0 must be at least 0"),
        ("adam_epsilon", "nan", "nan is no finite number"),
        ("num_train_epochs", "0", "0.0 must be above 0"),
        ("max_steps", "0", "0 must be at least 1"),
        ("per_device_train_batch_size", "0", "0 must be at least 1"),
        ("per_device_eval_batch_size", "-1", "-1 must be at least 1"),
        ("gradient_accumulation_steps", "0", "0 must be at least 1"),
        ("global_batch_size", "0", "0 must be at least 1"),
        ("logging_steps", "0", "0.0 must be above 0"),
        ("save_steps", "-1", "-1.0 must be above 0"),
        ("save_total_limit", "0", "0 must be at least 1"),
        ("dataloader_num_workers", "-1", "-1 must be at least 0"),
        ("warmup_ratio", "-0.1", "-0.1 must be at least 0"),
        ("seed", "-1", "-1 must be at least 0"),
        ("data_seed", str(2**32), "4294967296 must be at most 4294967295"),
        ("data_fraction", "nan", "nan is no finite number"),
        ("data_fraction", "0", "0.0 must be above 0"),
        ("data_fraction", "1.5", "1.5 must be at most 1"),
        ("max_bad_fraction", "nan", "nan is no finite number"),
        ("lora_alpha", "0", "0 must be at least 1"),
        ("lora_dropout", "nan", "nan is no finite number"),
        ("peak_tflops", "0", "0.0 must be above 0"),
        ("compression_share", "0", "0.0 must be above 0"),
        ("compression_share", "1.5", "1.5 must be at most 1"),
        ("compression_share", "0.25", "0.25 has no effect without --compression_schedule; give that too, or drop it"),
        ("compression_schedule", "sine", "sine is none of linear, cosine, steps"),
        ("compression_start", "98", "98 has no effect without --compression_schedule"),
        ("compression_draw", "98-20", "98-20 is no range of totals from few to many"),
        ("compression_draw", "54+10", "compression '54+10' is not of the form METHOD:DOMINANT+CONTEXTUAL"),
        ("distill_from", "all", "compression 'all' is not of the form"),
        ("distill_weight", "0.5", "0.5 has no effect without --distill_from"),
        ("distill_weight", "-0.5", "-0.5 must be at least 0"),
        ("distill_weight", "nan", "nan is no finite number"),
        ("distill_temperature", "0", "0.0 must be above 0"),
        ("distill_teacher", "another", "another is none of start, current"),
        ("distill_teacher", "current", "current has no effect without --distill_from"),
        ("model_name_or_path", "a\0b", r"'a\x00b' holds a NUL"),
        ("data_path", "a\0b", r"'a\x00b' holds a NUL"),
        ("image_folder", "a\0b", r"'a\x00b' holds a NUL"),
        ("feature_cache", "a\0b", r"'a\x00b' holds a NUL"),
        ("output_dir", "a\0b", r"'a\x00b' holds a NUL"),
        ("run_name", "a\0b", r"'a\x00b' holds a NUL"),
        ("deepspeed", "a\0b", r"'a\x00b' holds a NUL"),
    ],
)
def test_a_wrong_value_is_named(flag, value, reason, flags, tmp_path, monkeypatch):
    given = [*flags(), f"--{flag}", value]
    said = told(given, monkeypatch)
    assert said.startswith(f"error: --{flag.replace('warmup_ratio', 'warmup_steps')} ") and reason in said
    assert not (tmp_path / "out").exists()


def test_the_defaults_are_possible(flags):
    parse_arguments(flags())


@pytest.mark.parametrize("flag", ["feature_cache", "data_cache", "output_dir", "image_folder"])
def test_a_file_in_place_of_a_folder_is_told(flag, flags, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    said = told(flags(**{flag: tmp_path / "file"}), monkeypatch)
    assert said.startswith(f"error: --{flag} {tmp_path / 'file'} is ")
    assert "not a folder" in said and (tmp_path / "file").read_text() == ""


def test_a_missing_image_folder_is_told(flags, tmp_path, monkeypatch):
    said = told(flags(image_folder=tmp_path / "gone"), monkeypatch)
    assert said == f"error: --image_folder {tmp_path / 'gone'} is not a folder"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"eval_data_path": None}, "the best checkpoint is told by held-out data; give --eval_data_path"),
        ({"metric_for_best_model": "rouge"}, "--metric_for_best_model rouge is not measured; there is loss, and with"),
        ({"metric_for_best_model": "eval_accuracy"}, "--metric_for_best_model eval_accuracy is not measured"),
        ({"metric_for_best_model": "eval_loss"}, ""),
        ({"metric_for_best_model": "accuracy", "eval_generate": 2}, ""),
        ({}, ""),
    ],
)
def test_what_tells_the_best_checkpoint_is_measured(changes, reason, flags, oracle_dir, monkeypatch):
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    given = {"stage": "projector", **best, "eval_data_path": oracle_dir / "train_tiny.json", **changes}
    words = flags(**{name: value for name, value in given.items() if value is not None})
    if reason:
        assert told(words, monkeypatch).startswith(f"error: {reason}")
    else:
        parse_arguments(words)


@pytest.mark.parametrize("stage", ["projector", "finetune"])
@pytest.mark.parametrize("output", ["model", "a link to it", "base", "tower", "adapter"])
def test_a_run_does_not_write_into_what_it_reads(output, stage, flags, oracle_dir, tmp_path, monkeypatch):
    model = Path(shutil.copytree(oracle_dir / "tiny-llava-v1.5", tmp_path / "model"))
    part = tmp_path / "part"
    part.mkdir()
    (part / "config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    (part / "mm_projector.safetensors").write_bytes(b"")
    (tmp_path / "link").symlink_to(model)
    tower = json.loads((model / "config.json").read_text())["mm_vision_tower"]
    changes = {
        "model": {"model_name_or_path": model, "output_dir": model},
        "a link to it": {"model_name_or_path": model, "output_dir": tmp_path / "link"},
        "base": {"model_name_or_path": part, "output_dir": model},
        "tower": {"model_name_or_path": model, "output_dir": tower},
        "adapter": {"pretrain_mm_mlp_adapter": part / "mm_projector.safetensors", "output_dir": part},
    }[output]
    folder = Path(changes["output_dir"])
    before = {file: file.read_bytes() for file in folder.iterdir()}
    said = told(flags(stage=stage, max_steps=1, **changes), monkeypatch)
    assert said.startswith(f"error: --output_dir {folder} is a folder that is read (")
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize(("text", "reason"), [("{", "is not valid JSON"), ("[]", "holds no JSON object")])
def test_a_damaged_deepspeed_config_is_told(text, reason, flags, tmp_path, monkeypatch):
    (tmp_path / "zero.json").write_text(text)
    said = told(flags(deepspeed=tmp_path / "zero.json"), monkeypatch)
    assert said.startswith(f"error: --deepspeed {tmp_path / 'zero.json'} ") and reason in said


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_feature_cache_is_told(text, flags, tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "manifest.json").write_text(text)
    said = told(flags(stage="projector", max_steps=1, feature_cache=tmp_path / "cache"), monkeypatch)
    assert said.startswith(f"error: --feature_cache {tmp_path / 'cache'}: manifest.json is damaged")


def test_a_feature_cache_of_an_earlier_version_is_named_and_not_filled(flags, tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "key.json").write_text("{}")
    said = told(flags(stage="projector", max_steps=1, feature_cache=tmp_path / "cache"), monkeypatch)
    assert said.startswith(f"error: --feature_cache {tmp_path / 'cache'}: a cache of vision tokens in the form of an ")
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["key.json"]


# ---- recipes and flags, before anything is launched ----


@pytest.mark.parametrize(
    ("words", "recipe", "reason"),
    [
        (["--recipe", "{recipe}"], "lerning_rate: 1", "r.yaml:2: lerning_rate is no flag of train.py; did you mean"),
        (["--recipe", "{recipe}"], "per-device-train-batchsize: 1", "did you mean per_device_train_batch_size?"),
        (["--recipe", "{recipe}"], "recipe: other", "r.yaml:2: recipe is no flag of train.py"),
        (["--recipe", RECIPE, "--hardware", "{machine}"], "bf61: True", "m.yaml:1: bf61 is no flag of train.py; did"),
        (["--recipe", RECIPE, "--lerning-rate", "1"], "", "--lerning_rate is no flag of training; did you mean --"),
        (["--recipe", RECIPE, "--no_bf61"], "", "--no_bf61 is no flag of training"),
        (["--recipe", RECIPE, "--xyzzy=1"], "", "--xyzzy is no flag of training; --help lists them"),
    ],
)
def test_a_misspelt_key_is_told_before_the_launcher_starts(words, recipe, reason, tmp_path):
    (tmp_path / "r.yaml").write_text(f"extends: {RECIPE}\n{recipe}\n")
    (tmp_path / "m.yaml").write_text(f"{recipe}\n")
    names = {"{recipe}": str(tmp_path / "r.yaml"), "{machine}": str(tmp_path / "m.yaml")}
    with pytest.raises(SystemExit) as caught:
        launch([*(names.get(word, word) for word in words), "--dry-run"])
    assert caught.value.code.startswith("error: ") and reason in caught.value.code
    assert "\n" not in caught.value.code


def test_it_is_told_at_once_and_without_transformers(tmp_path):
    program = """
import sys
from llava.train.launch import main
try:
    main(["--recipe", "llava-v1.5-7b-finetune", "--lerning_rate", "1", "--dry-run"])
except SystemExit as end:
    print(end.code)
assert not {"torch", "transformers"} & set(sys.modules)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0 and "did you mean --learning_rate?" in done.stdout, done.stderr


def test_right_flags_in_every_spelling_are_launched(capsys):
    launch(
        ["--recipe", RECIPE, "--dry-run", "--no_tf32", "--no-bf16", "--warmup-ratio=0.1", "--evaluation_strategy", "no"]
    )
    assert "llava.train.train_mem" in capsys.readouterr().out


def test_the_list_of_transformers_flags_is_whole():
    there = {entry.name for entry in fields(transformers.TrainingArguments) if entry.init}
    assert there <= OF_TRANSFORMERS <= KNOWN
