"""Every kind of checkpoint loads, and every broken one ends in one error that names what is wrong."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava.model.builder import build_from_parts, load_pretrained_model
from llava.model.checkpoints.files import CheckpointError
from llava.model.multimodal_projector import save_projector
from tests.model.tiny import hf_llava


def edit_config(folder: Path, **entries) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for name, value in entries.items():
        if value is None:
            config.pop(name, None)
        else:
            config[name] = value
    file.write_text(json.dumps(config))


def edit_weights(folder: Path, change) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def v15(oracle_dir, tmp_path) -> Path:
    """A copy of the LLaVA-1.5 checkpoint, to be broken."""
    return Path(shutil.copytree(oracle_dir / "tiny-llava-v1.5", tmp_path / "model"))


@pytest.fixture(scope="module")
def expected(oracle_dir) -> dict[str, torch.Tensor]:
    _, model, _, _ = load_pretrained_model(oracle_dir / "tiny-llava-v1.5", device="cpu")
    return model.state_dict()


def assert_same(model, expected) -> None:
    state = model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_load_returns_what_llava_returns(oracle_dir):
    loaded = load_pretrained_model(
        str(oracle_dir / "tiny-llava-v1.5"), None, "llava-v1.5-7b", False, False, "auto", "cpu", False
    )
    tokenizer, model, image_processor, context_len = loaded
    assert tokenizer("a").input_ids[0] == 1 and image_processor.crop_size["height"] == 336
    assert context_len == 4096 and not model.training
    tower = model.get_vision_tower()
    assert tower.is_loaded and tower.image_processor is image_processor
    assert (tower.num_patches, tower.num_patches_per_side, tower.hidden_size) == (576, 24, 64)
    assert tower(torch.zeros(1, 3, 336, 336)).shape == (1, 576, 64)
    assert tower([torch.zeros(3, 336, 336)])[0].shape == (1, 576, 64)
    assert (tower.select_layer, tower.select_feature) == (-2, "patch") and tower.vision_tower_name
    assert model.get_model().get_vision_tower().hidden_size == 64
    assert model.get_model().mm_projector is model.model.multi_modal_projector
    assert (model.config.hidden_size, model.config.vocab_size, model.config.num_hidden_layers) == (64, 700, 2)
    assert model.config.mm_use_im_start_end is False and model.config.image_aspect_ratio == "pad"
    assert not any("mm_projector" in name for name in model.state_dict())  # nothing is registered twice


def test_vision_weights_inside_or_beside(oracle_dir, v15, expected):
    tower = load_file(oracle_dir / "tiny-clip-vit-l14-336" / "model.safetensors")

    def put_inside(state):
        state.update({f"model.vision_tower.vision_tower.{name}": value + 1 for name, value in tower.items()})

    edit_weights(v15, put_inside)
    configs = v15 / "configs-alone"  # all that is needed of a tower whose weights are in the checkpoint
    shutil.copytree(oracle_dir / "tiny-clip-vit-l14-336", configs, ignore=shutil.ignore_patterns("*.safetensors"))
    edit_config(v15, mm_vision_tower="configs-alone")
    _, model, _, _ = load_pretrained_model(v15, device="cpu")
    name = "model.vision_tower.embeddings.class_embedding"
    torch.testing.assert_close(model.state_dict()[name], expected[name] + 1)


@pytest.mark.parametrize("kind", ["sharded safetensors", "one bin", "sharded bins"])
def test_weight_files_of_every_kind(v15, expected, kind):
    state = load_file(v15 / "model.safetensors")
    (v15 / "model.safetensors").unlink()
    names = sorted(state)
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    if kind == "one bin":
        torch.save(state, v15 / "pytorch_model.bin")
    else:
        stem, suffix = ("model", "safetensors") if "safetensors" in kind else ("pytorch_model", "bin")
        weight_map = {}
        for index, half in enumerate(halves, 1):
            shard = f"{stem}-0000{index}-of-00002.{suffix}"
            part = {name: state[name] for name in half}
            save_file(part, v15 / shard) if suffix == "safetensors" else torch.save(part, v15 / shard)
            weight_map.update(dict.fromkeys(half, shard))
        (v15 / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    _, model, _, _ = load_pretrained_model(v15, device="cpu")
    assert_same(model, expected)


def test_old_model_types_and_buffers_load(v15, expected):
    """The first LLaVA-1.5 folders say `model_type: llava`, and old ones hold buffers that are made anew today."""
    edit_config(v15, model_type="llava")
    edit_weights(
        v15,
        lambda state: state.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)}),
    )
    _, model, _, _ = load_pretrained_model(v15, device="cpu")
    assert_same(model, expected)


def test_a_tower_from_a_whole_clip_checkpoint(oracle_dir, v15, expected, tmp_path):
    """openai's repositories hold text and vision together; only the tower is taken, here from beside the model."""
    whole = Path(shutil.copytree(oracle_dir / "tiny-clip-vit-l14-336", v15 / "clip"))
    vision = json.loads((whole / "config.json").read_text())
    (whole / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": vision, "text_config": {}}))
    state = load_file(whole / "model.safetensors")
    state.update({"text_model.final_layer_norm.bias": torch.zeros(4), "logit_scale": torch.zeros(())})
    save_file(state, whole / "model.safetensors")
    edit_config(v15, mm_vision_tower="clip")
    _, model, _, _ = load_pretrained_model(v15, device="cpu")
    assert_same(model, expected)


def test_a_projector_alone_on_its_base(oracle_dir, tmp_path):
    base = oracle_dir / "tiny-llava-v1.5"
    _, model, _, _ = load_pretrained_model(base, device="cpu", compression="visionzip:54+10")
    with torch.no_grad():
        for parameter in model.model.multi_modal_projector.parameters():
            parameter.add_(1.0)
    save_projector(model, tmp_path / "tuned", base_model=base)
    files = {file.name for file in (tmp_path / "tuned").iterdir()}
    assert files == {"mm_projector.safetensors", "config.json"}
    assert "model.mm_projector.0.weight" in load_file(tmp_path / "tuned" / "mm_projector.safetensors")
    for model_base in (base, None):  # the config names its base
        _, again, _, _ = load_pretrained_model(tmp_path / "tuned", model_base, device="cpu")
        assert_same(again, model.state_dict())
        assert str(again.compression) == "visionzip:54+10"
    _, vanilla, _, _ = load_pretrained_model(tmp_path / "tuned", base, device="cpu", compression=None)
    assert vanilla.compression is None


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_llavas_own_projector_on_a_language_model(oracle_dir, v15, expected, tmp_path, prefix):
    """liuhaotian's pre-trained projectors: `mm_projector.bin`, LLaVA's config, and Vicuna as the base."""
    vicuna = tmp_path / "vicuna"
    shutil.copytree(v15, vicuna)
    edit_config(vicuna, model_type="llama", mm_vision_tower=None, mm_projector_type=None)
    edit_weights(vicuna, lambda state: [state.pop(name) for name in list(state) if "mm_projector" in name])
    state = load_file(v15 / "model.safetensors")
    (v15 / "model.safetensors").unlink()
    projector = {prefix + name: value for name, value in state.items() if "mm_projector" in name}
    torch.save(projector, v15 / "mm_projector.bin")
    _, model, _, _ = load_pretrained_model(v15, vicuna, device="cpu")
    assert_same(model, expected)


def test_our_own_projector_on_a_language_model(oracle_dir, v15, tmp_path):
    """What the align stage leaves goes back onto the language model and the tower that it was made with."""
    edit_config(v15, model_type="llama", mm_vision_tower=None, mm_projector_type=None)
    edit_weights(v15, lambda state: [state.pop(name) for name in list(state) if "mm_projector" in name])
    for anyres in (False, True):
        options = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [(336, 672)]} if anyres else {}
        _, model, _ = build_from_parts(
            v15, oracle_dir / "tiny-clip-vit-l14-336", compression="visionzip:54+10", **options
        )
        save_projector(model, tmp_path / f"align-{anyres}", base_model=v15)
        if anyres:  # a newline starts at random; it is no part of the projector
            model = load_pretrained_model(tmp_path / "align-True", device="cpu")[1]
            assert model.config.image_grid_pinpoints == [[672, 336]]
            continue
        for model_base in (v15, None):
            again = load_pretrained_model(tmp_path / "align-False", model_base, device="cpu")[1]
            assert str(again.compression) == "visionzip:54+10"
            assert_same(again, model.state_dict())


def test_build_from_parts_starts_a_projector(oracle_dir, v15):
    edit_config(v15, model_type="llama", mm_vision_tower=None, mm_projector_type=None)
    edit_weights(v15, lambda state: [state.pop(name) for name in list(state) if "mm_projector" in name])
    tower = oracle_dir / "tiny-clip-vit-l14-336"
    _, model, _ = build_from_parts(v15, tower, compression="visionzip:54+10")
    assert model.training and str(model.compression) == "visionzip:54+10"
    projector = model.model.multi_modal_projector
    assert 0 < float(projector.linear_1.weight.detach().std()) < 1
    anyres = build_from_parts(
        v15, tower, mm_patch_merge_type="spatial_unpad", image_aspect_ratio="anyres", image_grid_pinpoints=[(336, 672)]
    )[1]
    assert type(anyres).__name__ == "LlavaNextForConditionalGeneration"
    assert anyres.config.image_grid_pinpoints == [[672, 336]]  # transformers' order, (h, w)


def test_build_from_parts_with_siglip(v15, tmp_path):
    """A tower without CLS: nothing is dropped from it, and every patch may be dominant."""
    from transformers import SiglipImageProcessor, SiglipVisionModel

    from tests.model.tiny import random_pixels, vision_config

    SiglipVisionModel(vision_config("siglip")).save_pretrained(tmp_path / "siglip")
    SiglipImageProcessor(size={"height": 28, "width": 28}).save_pretrained(tmp_path / "siglip")
    edit_config(v15, model_type="llama", mm_vision_tower=None, mm_projector_type=None)
    edit_weights(v15, lambda state: [state.pop(name) for name in list(state) if "mm_projector" in name])
    _, model, image_processor = build_from_parts(v15, tmp_path / "siglip", compression="visionzip:16")
    assert model.config.vision_feature_select_strategy == "full" and image_processor.size["height"] == 28
    pixels = random_pixels(1, 3, 28, 28)
    with torch.no_grad():
        kept = model.encode_images(pixels)[0]
        model.set_compression(None)
        torch.testing.assert_close(kept, model.encode_images(pixels)[0])


def rename(old: str, new: str):
    def change(state):
        state[new] = state.pop(old)

    return change


BROKEN_WEIGHTS = {
    "missing": (lambda state: state.pop("model.norm.weight"), r"missing tensors \(1\): model\.language_model\.norm"),
    "unexpected": (
        lambda state: state.update({"model.mm_resampler.weight": torch.zeros(2)}),
        r"unexpected tensors \(1\): model\.language_model\.mm_resampler\.weight",
    ),
    "renamed": (rename("lm_head.weight", "head.weight"), r"missing.*lm_head\.weight.*unexpected.*head\.weight"),
    "misshapen": (
        lambda state: state.update({"lm_head.weight": torch.zeros(3, 64)}),
        r"lm_head\.weight is \(3, 64\), the config says \(700, 64\)",
    ),
    "int8": (
        lambda state: state.update({"lm_head.weight": state["lm_head.weight"].to(torch.int8)}),
        r"a quantised dtype, and no quantization_config \(1\): lm_head\.weight is torch\.int8",
    ),
    "float8": (
        lambda state: state.update({"model.norm.weight": state["model.norm.weight"].to(torch.float8_e4m3fn)}),
        r"no quantization_config \(1\): model\.language_model\.norm\.weight is torch\.float8_e4m3fn",
    ),
}


@pytest.mark.parametrize("fault", BROKEN_WEIGHTS)
def test_broken_weights_are_named(v15, fault):
    change, message = BROKEN_WEIGHTS[fault]
    edit_weights(v15, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_pretrained_model(v15, device="cpu")
    assert str(v15) in str(caught.value)


BROKEN_CONFIGS = {
    "model_type": ({"model_type": "llava_mpt"}, "model_type 'llava_mpt' is not supported"),
    "not a llava": ({"mm_vision_tower": None, "mm_projector_type": None}, "is not a LLaVA"),
    "projector": ({"mm_projector_type": "mlp2x_relu"}, "mm_projector_type 'mlp2x_relu' is not supported"),
    "Mini-Gemini": (
        {"mm_vision_tower_aux": "openclip"},
        "this is a Mini-Gemini, which is not supported",
    ),
    "Video-LLaVA": (
        {"mm_vision_tower": None, "mm_video_tower": "x"},
        "mm_image_tower is None, and must name a tower of LanguageBind",
    ),
    "language": ({"model_type": "llava_gemma"}, r"'llava_gemma' is not supported.*docs/add_a_language_model\.md"),
    "feature": ({"mm_vision_select_feature": "cls"}, "mm_vision_select_feature 'cls'"),
    "tower": ({"mm_vision_tower": "./nowhere"}, "nowhere: there is no such folder"),
    "no tower": ({"mm_vision_tower": None}, "mm_vision_tower is missing"),
    "merge": ({"mm_patch_merge_type": "spatial_maxpool"}, "mm_patch_merge_type 'spatial_maxpool'"),
    "layer": ({"mm_vision_select_layer": -40}, r"vision_feature_layer -40 is outside -25\.\.24"),
    "pinpoints": ({"image_aspect_ratio": "anyres", "image_grid_pinpoints": "(1x1)"}, "image_grid_pinpoints"),
    "compression": ({"compression": {"method": "zip", "dominant": 54}}, "unknown compression method 'zip'"),
}


@pytest.mark.parametrize("fault", BROKEN_CONFIGS)
def test_broken_configs_are_named(v15, fault):
    entries, message = BROKEN_CONFIGS[fault]
    edit_config(v15, **entries)
    with pytest.raises(ValueError, match=message):
        load_pretrained_model(v15, device="cpu")


def test_missing_files_are_named(v15, tmp_path):
    with pytest.raises(CheckpointError, match="there is no such folder"):
        load_pretrained_model(tmp_path / "nowhere", device="cpu")
    with pytest.raises(CheckpointError, match=r"there is no config\.json"):
        load_pretrained_model(tmp_path, device="cpu")
    for no_repository in ("nowhere", "a/b/c", "./a/b"):
        with pytest.raises(CheckpointError, match="there is no such folder"):
            load_pretrained_model(no_repository, device="cpu")
    (v15 / "model.safetensors").rename(v15 / "weights.safetensors")
    with pytest.raises(CheckpointError, match="there are no weights"):
        load_pretrained_model(v15, device="cpu")
    (v15 / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"names shards that are not there: model-1\.safetensors"):
        load_pretrained_model(v15, device="cpu")
    (v15 / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_pretrained_model(v15, device="cpu")


def test_damaged_and_pickled_files_are_refused(v15):
    whole = (v15 / "model.safetensors").read_bytes()
    (v15 / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read as tensors"):
        load_pretrained_model(v15, device="cpu")
    (v15 / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Path("pickled")}, v15 / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be read as tensors"):
        load_pretrained_model(v15, device="cpu")


def test_a_projector_without_its_base_asks_for_it(oracle_dir, tmp_path):
    _, model, _, _ = load_pretrained_model(oracle_dir / "tiny-llava-v1.5", device="cpu")
    save_projector(model, tmp_path)
    with pytest.raises(CheckpointError, match="give the model it was tuned on as model_base"):
        load_pretrained_model(tmp_path, device="cpu")


def test_keywords(oracle_dir):
    folder = oracle_dir / "tiny-llava-v1.5"
    with pytest.raises(TypeError, match="unexpected keyword argument 'visionzip'"):
        load_pretrained_model(folder, device="cpu", visionzip=True)
    with pytest.raises(ValueError, match="the config has no entry 'rope_scale'"):
        load_pretrained_model(folder, device="cpu", overwrite_config={"rope_scale": 2})
    with pytest.raises(ValueError, match="mm_patch_merge_type 'spatial_unpad' needs tiles"):
        load_pretrained_model(folder, device="cpu", overwrite_config={"mm_patch_merge_type": "spatial_unpad"})
    rms = load_pretrained_model(folder, device="cpu", overwrite_config={"rms_norm_eps": 1e-3})[1]
    assert rms.model.language_model.norm.variance_epsilon == 1e-3
    with pytest.raises(ValueError, match="dtype 'half16' is no dtype"):
        load_pretrained_model(folder, device="cpu", torch_dtype="half16")
    assert load_pretrained_model(folder, device="cpu", torch_dtype="bfloat16")[1].dtype == torch.bfloat16
    with pytest.warns(UserWarning, match="customized_config is ignored"):
        load_pretrained_model(folder, device="cpu", customized_config={})
    with pytest.warns(UserWarning, match="multimodal=False is ignored"):
        load_pretrained_model(folder, device="cpu", multimodal=False)
    with pytest.raises(ValueError, match=r"dominant=600 is outside 1\.\.577"):
        load_pretrained_model(folder, device="cpu", compression="visionzip:600+10")
    with pytest.raises(ValueError, match="load_8bit and load_4bit exclude each other"):
        load_pretrained_model(folder, device="cpu", load_8bit=True, load_4bit=True)


def test_from_pretrained_of_the_wrong_class_is_refused(tmp_path):
    from llava.model import LlavaNextForConditionalGeneration

    hf_llava().save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError,
        match=r"holds a LLaVA-1.5 \(llava\), which LlavaForConditionalGeneration loads",
    ):
        LlavaNextForConditionalGeneration.from_pretrained(tmp_path)


def test_threads_that_load_at_once_leave_transformers_as_it_was(v15):
    from transformers import PreTrainedModel

    before = PreTrainedModel.tie_weights
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: load_pretrained_model(v15, device="cpu"), range(6)))
    assert PreTrainedModel.tie_weights is before
