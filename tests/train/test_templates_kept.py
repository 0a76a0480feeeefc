"""The template that a model is trained in is the one that it is asked in: by default, by `--version`, in every form."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest

from llava.conversation import conv_templates
from llava.data.validate import main as validate
from llava.hub.export import main as export
from llava.inference import Inference
from llava.model.merge import main as merge
from llava.train.arguments import parse_arguments
from llava.train.run import prepare, train
from llava.train.template import own_template

TINY = Path(__file__).parents[2] / "playground" / "tiny" / "model"


def tiny(folder: Path, *, language: str = "llama", **entries) -> Path:
    """The embedded model with another name of its language model, and further entries of its config."""
    shutil.copytree(TINY, folder)
    config = json.loads((TINY / "config.json").read_text())
    config["text_config"]["model_type"] = language
    (folder / "config.json").write_text(json.dumps({**config, **entries}))
    return folder


def without_version(words: list[str]) -> list[str]:
    at = words.index("--version")
    return words[:at] + words[at + 2 :]


def asked_in(folder: Path) -> str:
    return Inference.load(folder, device="cpu").conv_mode


@pytest.fixture
def short(flags):
    """Flags of a run of one step, without `--version` unless it is given."""

    def short(**changes) -> list[str]:
        words = flags(max_steps=1, **changes)
        return words if "version" in changes else without_version(words)

    return short


@pytest.mark.parametrize("stage", ["projector", "finetune", "lora"])
def test_without_version_a_mistral_is_trained_in_what_it_is_asked_in(stage, short, tmp_path):
    model = tiny(tmp_path / "model", language="mistral")
    assert asked_in(model) == "mistral_instruct"
    trainer = train(short(model_name_or_path=model, stage=stage))
    assert trainer.train_dataset.template.conversation is conv_templates["mistral_instruct"]
    out = tmp_path / "out"
    assert asked_in(out) == "mistral_instruct"
    assert "conv_mode" not in json.loads((out / "config.json").read_text())
    assert json.loads((out / "training_args.json").read_text())["model"]["version"] == "mistral_instruct"


@pytest.mark.parametrize("stage", ["projector", "finetune", "lora"])
def test_version_travels_with_the_result_and_into_the_next_training(stage, short, tmp_path):
    out, merged = tmp_path / "out", tmp_path / "merged"
    train(short(stage=stage, version="llava_llama_2"))
    assert asked_in(out) == "llava_llama_2"
    merge(["--model-path", str(out), "--output-dir", str(merged)])
    for made, form in ((tmp_path / "hf", "hf"), (tmp_path / "llava", "llava")):
        arguments = [str(out), "--to", form, "--output-dir", str(made)]
        export(arguments + (["--vision-tower", "openai/clip"] if form == "llava" else []))
        assert json.loads((made / "config.json").read_text())["conv_mode"] == "llava_llama_2"
    assert asked_in(merged) == asked_in(tmp_path / "hf") == "llava_llama_2"
    assert own_template(str(out)) == own_template(str(merged)) == "llava_llama_2"
    assert own_template(str(tmp_path / "llava")) == "llava_llama_2"
    again = prepare(parse_arguments(short(model_name_or_path=out, output_dir=tmp_path / "again", stage="projector")))
    assert again.trainer.train_dataset.template.conversation is conv_templates["llava_llama_2"]


def test_a_chain_of_stages_keeps_template_and_tokenizer(flags, oracle_dir, tmp_path):
    """Projector, language model, adapters, merged, and then LLaVA's format, which needs tokenizer.model."""
    base, tower = oracle_dir / "tiny-llava-v1.5", str(oracle_dir / "tiny-clip-vit-l14-336")
    folders = [base, tmp_path / "projector", tmp_path / "finetune", tmp_path / "lora"]
    for before, folder in itertools.pairwise(folders):
        words = flags(
            model_name_or_path=before, output_dir=folder, stage=folder.name, version="llava_llama_2", max_steps=1
        )
        train(words if before == base else without_version(words))
        assert asked_in(folder) == "llava_llama_2"
    validate_words = ["--data-path", oracle_dir / "train_tiny.json", "--image-folder", oracle_dir / "images"]
    words = flags(model_name_or_path=tmp_path / "projector", output_dir=tmp_path / "lora-2", stage="lora", max_steps=1)
    train(without_version(words))
    assert validate([str(word) for word in [*validate_words, "--workers", 0, "--model-path", tmp_path / "lora-2"]]) == 0
    merge(["--model-path", str(tmp_path / "lora"), "--output-dir", str(tmp_path / "merged")])
    for folder in (tmp_path / "finetune", tmp_path / "lora", tmp_path / "merged", tmp_path / "lora-2"):
        target = tmp_path / f"{folder.name}-llava"
        export([str(folder), "--to", "llava", "--output-dir", str(target), "--vision-tower", tower])
        assert (target / "tokenizer.model").read_bytes() == (base / "tokenizer.model").read_bytes()
        assert asked_in(target) == "llava_llama_2"


def test_a_part_without_a_template_of_its_own_has_that_of_its_base(short, tmp_path):
    model = tiny(tmp_path / "model", conv_mode="llava_llama_2")
    train(short(model_name_or_path=model, stage="projector", output_dir=tmp_path / "part"))
    config = tmp_path / "part" / "config.json"
    entries = json.loads(config.read_text())
    assert entries.pop("conv_mode") == "llava_llama_2"
    config.write_text(json.dumps(entries))  # as LLaVA's own runs leave it
    assert own_template(str(tmp_path / "part")) == asked_in(tmp_path / "part") == "llava_llama_2"


def test_a_language_model_gives_its_usual_template(oracle_dir):
    assert own_template(str(oracle_dir / "origtrain" / "vicuna-tiny")) == "vicuna_v1"
    assert own_template(str(oracle_dir / "tiny-llava-v1.5")) == "vicuna_v1"


def test_names_of_one_template_are_one_run(short, tmp_path):
    saving = {"model_name_or_path": TINY, "stage": "projector", "save_strategy": "steps", "save_steps": 1}
    train(short(**saving, version="v1"))
    assert prepare(parse_arguments(short(**saving))).checkpoint is not None


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"conv_mode": "v0"},
            r"model is asked with v0, which is not trained: --version 'v0' is not a training",
        ),
        ({"conv_mode": "mine"}, r"config\.json: conv_mode: no conversation template 'mine'"),
    ],
)
def test_a_template_that_cannot_be_trained_is_told(entries, message, short, tmp_path):
    model = tiny(tmp_path / "model", **entries)
    with pytest.raises(ValueError, match=message):
        train(short(model_name_or_path=model))


def test_validation_holds_the_data_against_the_models_own_template(tmp_path, oracle_dir, capsys):
    model = tiny(tmp_path / "model", language="mistral")
    report = tmp_path / "report.json"
    words = ["--data-path", oracle_dir / "train_tiny.json", "--image-folder", oracle_dir / "images", "--workers", 0]
    validate([str(word) for word in [*words, "--model-path", model, "--report", report]])
    assert json.loads(report.read_text())["options"]["version"] == "mistral_instruct"


def test_a_tokenizers_own_template_travels_with_a_projector(short, tmp_path):
    """The projector's folder names the template and has no tokenizer; that of its base is read."""
    model = tiny(tmp_path / "model")
    turns = "{% for m in messages %}{{ '[' + m['role'] + '] ' + m['content'] + '[end]\n' }}{% endfor %}"
    opening = "{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
    (model / "chat_template.jinja").write_text(turns + opening)
    train(short(model_name_or_path=model, stage="projector", version="tokenizer", output_dir=tmp_path / "part"))
    named = json.loads((tmp_path / "part" / "config.json").read_text())["conv_mode"]
    assert named.startswith("tokenizer-")
    assert own_template(str(tmp_path / "part")) == asked_in(tmp_path / "part") == named
