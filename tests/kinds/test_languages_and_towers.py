"""A LLaVA of a Qwen2, a Llama 3, a DINOv2: one descriptor each, and built, asked, saved, exported and verified."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import Dinov2Config, Dinov2Model

from llava.hub.export import export
from llava.hub.verify import verify
from llava.inference import Inference
from llava.kinds import load_plugins
from llava.kinds.languages import LANGUAGES, find_language
from llava.kinds.towers import TOWERS
from llava.model.builder import build_from_parts, load_pretrained_model
from llava.model.checkpoints.files import CheckpointError
from llava.model.checkpoints.names import LLAVA_NAMES, to_file_names, tower_root
from llava.model.flops import tower_flops
from llava.model.multimodal_encoder import extract_features
from llava.train.train import train
from tests.kinds.folders import save_language_model, save_tower
from tests.model.folders import image
from tests.model.tiny import VISION, random_pixels

PAIRS = [("qwen2", "clip"), ("llama3", "clip"), ("llama", "dinov2"), ("qwen3", "vit")]
PLUGINS = [str(Path(__file__).parents[1] / "fixtures" / "plugins" / f"own_{name}.py") for name in ("tower", "language")]
TEMPLATES = {"qwen2": "qwen_1_5", "qwen3": "qwen_1_5", "llama3": "llava_llama_3", "llama": "vicuna_v1"}
LLAVA_HAS_NONE = {
    ("qwen2", "clip"): "language model 'qwen2'",
    ("llama3", "clip"): "language model 'llama3'",
    ("llama", "dinov2"): "vision_config.model_type 'dinov2'",
    ("qwen3", "vit"): "language model 'qwen3'",
}


def build(folder, language, tower):
    """A LLaVA of both, and where it is saved; Qwen3 and ViT are known by plug-ins only."""
    load_plugins(PLUGINS if tower == "vit" else [])
    llm, vision = save_language_model(language, folder / "llm"), save_tower(tower, folder / "tower")
    parts = build_from_parts(llm, vision, compression="visionzip:5+2")
    for part in parts:
        part.save_pretrained(folder / "llava")
    return folder / "llava", parts


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: "+".join(pair))
def built(request, tmp_path_factory):
    return request.param, *build(tmp_path_factory.mktemp("parts"), *request.param)


def test_it_is_asked_in_its_own_template_before_and_after_it_is_saved(built):
    (language, _), folder, (tokenizer, model, image_processor) = built
    answers = []
    for inference in (Inference(tokenizer, model, image_processor), Inference.load(folder, device="cpu")):
        assert inference.conv_mode == TEMPLATES[language]
        assert str(inference.model.compression) == "visionzip:5+2"
        answer = inference.ask_one("What is this?", image())
        assert answer.visual_tokens == 7 and answer.token_ids
        answers.append(answer.token_ids)
    assert answers[0] == answers[1]


def test_it_is_exported_to_transformers_and_verified_there(built, tmp_path):
    _, folder, _ = built
    export(folder, to="hf", output=tmp_path / "release")
    report = verify(tmp_path / "release")
    assert all(check.ok is not False for check in report.checks), report


def test_haotian_lius_llava_has_none_and_the_export_says_so(built, tmp_path):
    pair, folder, _ = built
    with pytest.raises(CheckpointError, match=f"{LLAVA_HAS_NONE[pair]}.*haotian-liu/LLaVA knows no such model"):
        export(folder, to="llava", output=tmp_path / "release")
    assert not (tmp_path / "release").exists()


@pytest.mark.slow
def test_it_is_trained_a_step_with_a_cache_of_its_tokens(built, tmp_path):
    (language, _), folder, _ = built
    oracle = Path(__file__).parents[1] / "fixtures" / "oracle"
    flags = {
        "model_name_or_path": folder,
        "stage": "projector",
        "data_path": oracle / "train_tiny.json",
        "max_steps": 1,
    }
    flags |= {"version": TEMPLATES[language], "image_folder": oracle / "images", "output_dir": tmp_path / "run"}
    flags |= {"feature_cache": tmp_path / "cache", "save_strategy": "no", "report_to": "none", "use_cpu": True}
    train([word for name, value in flags.items() for word in (f"--{name}", str(value))])
    inference = Inference.load(tmp_path / "run", device="cpu")
    assert inference.conv_mode == TEMPLATES[language] and inference.ask_one("What is this?", image()).token_ids


@pytest.mark.parametrize("changes", [{}, {"use_swiglu_ffn": True}])
def test_operations_of_dinov2_are_counted(changes):
    sizes = {name: value for name, value in VISION.items() if name != "intermediate_size"}
    tower = Dinov2Model(Dinov2Config(**sizes, mlp_ratio=2, **changes)).eval()
    tower.set_attn_implementation("eager")
    config = SimpleNamespace(vision_config=tower.config, vision_feature_layer=-2)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        extract_features(tower, random_pixels(1, 3, 28, 28), -2)
    assert counter.get_total_flops() == tower_flops(config)


def test_dinov2_is_read_as_transformers_computes_it(tmp_path):
    torch.manual_seed(0)
    tower = Dinov2Model.from_pretrained(save_tower("dinov2", tmp_path)).eval()
    tower.set_attn_implementation("eager")
    pixels = random_pixels(2, 3, 28, 28)
    with torch.no_grad():
        whole = tower(pixels, output_hidden_states=True, output_attentions=True)
        found = extract_features(tower, pixels, -2, {"saliency", "keys"})
    torch.testing.assert_close(found.content, whole.hidden_states[-2])
    received = whole.attentions[-2][:, :, 0, 1:].sum(dim=1)  # CLS to patches, over heads
    torch.testing.assert_close(found.saliency, received)
    assert found.grid == (4, 4) and found.has_cls


def test_pixels_of_another_size_than_the_towers_are_refused(tmp_path):
    tower = Dinov2Model.from_pretrained(save_tower("dinov2", tmp_path)).eval()
    assert tower(random_pixels(1, 3, 14, 14)).last_hidden_state.shape[1] == 5  # it would take them
    with pytest.raises(ValueError, match=r"pixels are 14 x 14, .* image_size is 28; .*preprocessor_config\.json"):
        extract_features(tower, random_pixels(1, 3, 14, 14), -2)


def test_an_unknown_language_model_or_tower_is_named_with_those_there_are(tmp_path):
    llm, vision = save_language_model("llama", tmp_path / "llm"), save_tower("clip", tmp_path / "tower")
    file = llm / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "gpt2"}))
    with pytest.raises(
        CheckpointError, match="'gpt2' is not a supported language model; there are llama, mistral, qwen2"
    ):
        build_from_parts(llm, vision)


def test_every_kind_says_what_it_is():
    assert {"llama", "llama3", "mistral", "mpt", "qwen2", "yi"} <= set(LANGUAGES.names())
    assert {"clip_vision_model", "siglip_vision_model", "dinov2"} <= set(TOWERS.names())
    for kind in LANGUAGES:
        assert kind.llava_class is None or kind.is_supported
        assert find_language(type("Config", (), {"model_type": kind.model_type, "vocab_size": _size(kind)})()) == kind


def _size(kind) -> int:
    return kind.vocabularies.start + 1 if kind.vocabularies else 1


def test_a_qwen2_of_llavas_format_loads(tmp_path):
    folder, (_, model, _) = build(tmp_path, "qwen2", "clip")
    state = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}  # tied
    target = tmp_path / "llava-qwen"
    target.mkdir()
    save_file(to_file_names(state, LLAVA_NAMES, tower_root(state)), target / "model.safetensors")
    entries = json.loads((folder / "config.json").read_text())["text_config"]
    entries |= {"model_type": "llava_qwen", "tie_word_embeddings": True, "mm_vision_tower": str(tmp_path / "tower")}
    entries |= {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "image_aspect_ratio": "pad"}
    (target / "config.json").write_text(json.dumps(entries))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (target / name).write_bytes((folder / name).read_bytes())
    loaded = load_pretrained_model(target, device="cpu")[1]
    assert loaded.config.text_config.model_type == "qwen2"
    ids, pixels = torch.tensor([[5, 7, -200, 9]]), random_pixels(1, 3, 28, 28)
    model.set_compression(None)
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids, images=pixels).logits, model.eval()(ids, images=pixels).logits)
