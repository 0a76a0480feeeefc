"""Mini-Gemini as a user meets it: asked, tuned, saved, exported or refused; from a checkpoint as MGM publishes them."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load, load_file, save_file

from llava.analysis.cost.command import main as cost
from llava.analysis.kept_tokens.find import find_kept_tokens
from llava.hub.card.make_card import make_card
from llava.hub.export import export
from llava.hub.publish.checks import find_problems
from llava.hub.publish.release_files import list_files
from llava.hub.verify import verify
from llava.inference import GenerationOptions, Inference, Question
from llava.model.auto import AutoLlava, AutoLlavaProcessor
from llava.model.checkpoints.files import CheckpointError
from llava.model.checkpoints.fingerprint import model_fingerprint
from llava.model.configuration import CompressionConfig
from llava.model.families.mini_gemini import CLIP, CONVNEXT, HUB_NAMES
from llava.serve.chat import Chat
from llava.serve.web.drawing import show_picture
from llava.train.train import train
from tests.hub.checkpoints import edit_json
from tests.hub.hub_server import READER, Repository, serving

RECORDS = Path(__file__).parents[1] / "fixtures" / "oracle_models" / "mgm"
CLIP_PATH, CONVNEXT_PATH = HUB_NAMES
SHORT = GenerationOptions(max_new_tokens=4)
BUDGET = "visionzip:54+10"
HD = {"image_grid": 2, "image_global": True, "image_size_aux": 1536, "tokenizer_model_max_length": 4096}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The recorded checkpoint, with the names that the first published configs have."""
    root = tmp_path_factory.mktemp("mgm")
    shutil.copytree(RECORDS, root, dirs_exist_ok=True)
    names = {"mm_vision_tower": str(root / "OpenAI" / Path(CLIP_PATH).name), "model_type": "mini_gemini"}
    names |= {"mm_vision_tower_aux": str(root / "OpenAI" / Path(CONVNEXT_PATH).name)}
    edit_json(root / "tiny-mgm-7b" / "config.json", **names, architectures=["MiniGeminiLlamaForCausalLM"])
    return root / "tiny-mgm-7b"


@pytest.fixture(scope="module")
def inference(folder) -> Inference:
    return Inference.load(folder, device="cpu", compression=BUDGET)


@pytest.fixture(scope="module")
def hd(folder) -> Inference:
    made = shutil.copytree(folder, folder.parent / "hd")
    edit_json(made / "config.json", **HD)
    return Inference.load(made, device="cpu", compression=BUDGET)


def picture(index: int) -> Image.Image:
    with Image.open(RECORDS / f"image_{index}.png") as image:
        return image.convert("RGB")


# ---- asked ----


def test_it_is_asked_as_vicuna_and_a_batch_is_its_questions(inference):
    assert inference.conv_mode == "vicuna_v1"
    questions = [Question("What is this?", (picture(0),)), Question("And these?", (picture(1), picture(0)))]
    asked = inference.ask([*questions, Question("Hello.")], batch_size=3, options=SHORT)
    together = {answer.index: answer for answer in asked}
    assert [together[index].visual_tokens for index in range(3)] == [64, 128, 0]
    for index, question in enumerate(questions):
        alone = inference.ask_one(question.text, *question.images, options=SHORT)
        assert alone.token_ids == together[index].token_ids


def test_a_chat_and_a_processor_answer_as_it_is_asked(inference, folder):
    text = inference.ask_one("What is this?", picture(0), options=SHORT).text
    chat = Chat(inference, [picture(0)])
    assert chat.say("What is this?", options=SHORT) == text
    chat.say("And?", options=SHORT)
    assert len(chat.messages) == 2
    processor = AutoLlavaProcessor.from_pretrained(folder, compression=BUDGET)
    assert type(processor).__name__ == "MiniGeminiProcessor"
    inputs = processor(text=inference.prompt(Question("What is this?", (picture(0),))), images=picture(0))
    inputs = inputs.convert_to_tensors("pt")
    assert inputs["pixel_values"].shape == (1, 3, 768, 768)
    new = inference.model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert tuple(new.tolist()) == inference.ask_one("What is this?", picture(0), options=SHORT).token_ids


def test_a_picture_of_kept_tokens_shows_what_clip_saw(inference, hd):
    for model, tiles in ((inference, 1), (hd, 5)):
        kept = find_kept_tokens(model, picture(0), BUDGET)
        assert kept.picture.shape[:2] in ((336, 336), (768, 768)) and kept.grid == (24, 24)
        assert len(kept.dominant) == 54 and len(kept.contextual) == 10 and not kept.keeps_cls
        assert len(show_picture(model, picture(0)).tiles) == tiles
    assert find_kept_tokens(inference, picture(0), f"{BUDGET},keep_cls=true").keeps_cls


# ---- where its towers come from ----


def without_second_tower(folder: Path, place: Path) -> Path:
    """The checkpoint in one file, its ConvNeXt left out."""
    made = shutil.copytree(folder, place)
    (made / "model.safetensors.index.json").unlink()
    (shard,) = made.glob("model-*.safetensors")
    state = {name: value for name, value in load_file(shard).items() if ".vision_tower_aux." not in name}
    shard.unlink()
    save_file(state, made / "model.safetensors")
    return made


def as_bin(weights: bytes) -> bytes:
    """The same tensors as torch saves them."""
    file = io.BytesIO()
    torch.save(load(weights), file)
    return file.getvalue()


LOADED = """
import sys
from safetensors.torch import save_file
from llava import AutoLlava
model = AutoLlava.from_pretrained(sys.argv[1])
save_file({name: value.contiguous() for name, value in model.state_dict().items()}, sys.argv[2])
print(model.config.mm_vision_tower, model.config.mm_vision_tower_aux)
"""


def test_its_authors_paths_mean_repositories_on_the_hub(folder, inference, tmp_path):
    """A local server stands for the Hub, with the two towers on it."""
    made = without_second_tower(folder, tmp_path / "model")
    edit_json(made / "config.json", mm_vision_tower=CLIP_PATH, mm_vision_tower_aux=f"./{CONVNEXT_PATH}")
    with serving() as hub:
        for name, path in ((CLIP, CLIP_PATH), (CONVNEXT, CONVNEXT_PATH)):
            files = {file.name: file.read_bytes() for file in (RECORDS / path.removeprefix("model_zoo/")).iterdir()}
            if weights := files.pop("open_clip_model.safetensors", None):  # published as a .bin
                files["open_clip_pytorch_model.bin"] = as_bin(weights)
            hub.repositories[name] = Repository(private=False, branches={"main": files})
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_TOKEN": READER}
        environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        asked = [sys.executable, "-c", LOADED, str(made), str(tmp_path / "state.safetensors")]
        done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False, timeout=300)
        fetched = hub.asked("GET", "resolve")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [CLIP, CONVNEXT]
    assert f"mm_vision_tower {CLIP_PATH} is a path of its authors; {CLIP} of the Hub is taken for it" in done.stderr
    assert f"{CONVNEXT} of the Hub is taken for it" in done.stderr
    own, found = inference.model.state_dict(), load_file(tmp_path / "state.safetensors")
    assert own.keys() == found.keys() and all(torch.equal(own[name], found[name].float()) for name in own)
    assert any("open_clip_pytorch_model.bin" in path for path in fetched)


def test_the_second_tower_is_read_from_its_own_folder(folder, inference, tmp_path):
    made = without_second_tower(folder, tmp_path / "model")
    again = AutoLlava.from_pretrained(made)
    own, found = inference.model.state_dict(), again.state_dict()
    assert all(torch.equal(own[name], found[name].float()) for name in own)
    edit_json(made / "config.json", mm_vision_tower_aux=str(tmp_path))
    with pytest.raises(CheckpointError, match=r"there is none of open_clip_model.safetensors, open_clip_pytorch_model"):
        AutoLlava.from_pretrained(made)
    edit_json(made / "config.json", mm_vision_tower_aux=str(tmp_path / "gone"))
    with pytest.raises(CheckpointError, match=r"config.json: mm_vision_tower_aux: .*gone: there is no such folder"):
        AutoLlava.from_pretrained(made)


def test_a_damaged_second_tower_is_named(folder, tmp_path):
    made = without_second_tower(folder, tmp_path / "model")
    state = load_file(made / "model.safetensors")
    state["model.vision_tower_aux.vision_stages.1.blocks.0.conv_dw.weight"] = torch.zeros(16, 1, 7, 7)
    save_file(state, made / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"the second tower is no whole ConvNeXt; it has the stages .1."):
        AutoLlava.from_pretrained(made)
    made = shutil.copytree(folder, tmp_path / "lacks")
    (shard,) = made.glob("model-*.safetensors")
    state = load_file(shard)
    del state["model.vlm_uni_query_projector.1.weight"]
    save_file(state, shard)
    with pytest.raises(CheckpointError, match=r"missing tensors .1.: model.mining.query.1.weight"):
        AutoLlava.from_pretrained(made)


def test_a_block_far_behind_the_others_makes_no_deep_tower(folder, tmp_path):
    made = shutil.copytree(folder, tmp_path / "model")
    (shard,) = made.glob("model-*.safetensors")
    state = load_file(shard)
    stage = "model.vision_tower_aux.vision_stages.1.blocks"
    state[f"{stage}.999999.conv_dw.weight"] = state[f"{stage}.0.conv_dw.weight"].clone()
    save_file(state, shard)
    with pytest.raises(CheckpointError, match=r"no whole ConvNeXt; its stage 1 has the blocks .0, 999999."):
        AutoLlava.from_pretrained(made)


def test_answers_are_told_apart_by_both_towers(folder, tmp_path):
    """By their files, wherever they lie; and its authors' paths are followed as in loading."""
    made = without_second_tower(folder, tmp_path / "model")
    second = shutil.copytree(folder.parent / "OpenAI" / Path(CONVNEXT_PATH).name, tmp_path / "second")
    edit_json(made / "config.json", mm_vision_tower_aux=str(second))
    first = model_fingerprint(made)
    assert model_fingerprint(made) == first
    (second / "open_clip_model.safetensors").write_bytes(b"9999")
    assert model_fingerprint(made) != first
    edit_json(made / "config.json", mm_vision_tower=CLIP_PATH)
    with pytest.raises(CheckpointError, match=rf"mm_vision_tower: {CLIP}: there is no such folder, and the Hub"):
        model_fingerprint(made)


# ---- saved and exported ----


def test_what_it_is_exported_to_and_what_not(folder, tmp_path):
    with pytest.raises(CheckpointError, match="plain transformers has no class for a Mini-Gemini"):
        export(folder, "hf", tmp_path / "hf", progress=False)
    with pytest.raises(CheckpointError, match=r"family 'Mini-Gemini'.*haotian-liu/LLaVA knows no such model"):
        export(folder, "llava", tmp_path / "llava", progress=False)
    export(folder, "projector", tmp_path / "projector", progress=False)
    own, again = AutoLlava.from_pretrained(folder), Inference.load(tmp_path / "projector", folder, device="cpu").model
    assert torch.equal(own.model.mm_projector.linear_1.weight, again.model.mm_projector.linear_1.weight.to(own.dtype))
    assert type(again).__name__ == "MiniGeminiForConditionalGeneration"


@pytest.fixture(scope="module")
def saved(inference, tmp_path_factory) -> Path:
    """As this package saves it, with its processor."""
    place = tmp_path_factory.mktemp("saved") / "mgm"
    inference.model.save_pretrained(place)
    AutoLlavaProcessor.for_model(inference.model, inference.tokenizer).save_pretrained(place)
    return place


def test_what_is_saved_has_a_card_and_passes_verify(inference, saved):
    card = make_card(saved, sample_image=RECORDS / "image_0.png", sample_question="What is this?").read_text()
    assert "for 64 visual tokens an image instead of 576" in card
    assert "Plain transformers has no class of it." in card and "--to hf" not in card
    assert "The original LLaVA (haotian-liu/LLaVA) knows no such model." in card
    report = verify(saved)
    assert all(check.ok for check in report.checks if check.name != "files"), str(report)
    assert f"MiniGeminiForConditionalGeneration, compression {BUDGET} switched on by itself" in str(report)
    assert "transformers" not in {check.name for check in report.checks}
    again = Inference.load(saved, device="cpu")
    expected = inference.ask_one("What is this?", picture(0), options=SHORT)
    assert again.ask_one("What is this?", picture(0), options=SHORT).token_ids == expected.token_ids


def test_a_card_of_its_own_format_names_the_code_that_reads_it(folder, tmp_path):
    made = shutil.copytree(folder, tmp_path / "model")
    edit_json(made / "config.json", compression=CompressionConfig.parse(BUDGET).to_dict(), **HD)
    card = make_card(made).read_text(encoding="utf-8")
    assert "for 64 visual tokens a tile (" in card and "--to hf" not in card
    assert "these files are for the code of dvlab-research/MGM, which takes all visual tokens." in card
    edit_json(made / "config.json", mm_vision_tower=CLIP_PATH)
    assert not any("mm_vision_tower" in problem for problem in find_problems(made, list_files(made)))


def test_cost_knows_it_by_name_and_by_its_files(folder, capsys):
    assert cost(["--model-path", "mgm-7b", "YanweiLi/MGM-7B-HD", str(folder), "--json"]) == 0
    seven, hd, tiny = json.loads(capsys.readouterr().out)["models"]
    assert [each["costs"][0]["visual_tokens"] for each in (seven, hd, tiny)] == [576, 2880, 576]
    # Vicuna-7B, CLIP, ConvNeXt-L without its last norm, and three layers of the mining.
    assert seven["weights"] == hd["weights"] and seven["weights"]["total"] == 7_266_093_504
    assert hd["costs"][0]["vision_flops"] > 4 * seven["costs"][0]["vision_flops"]


# ---- tuned ----


def flags_for(folder: Path, place: Path, **more) -> list[str]:
    """Some steps of projector tuning."""
    said = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "Noise."}]
    rows = [{"id": str(index), "image": f"image_{index}.png", "conversations": said} for index in (0, 1)]
    place.mkdir(exist_ok=True)
    (place / "data.json").write_text(json.dumps(rows))
    flags = {"model_name_or_path": folder, "stage": "projector", "compression": BUDGET, "max_steps": 3}
    flags |= {"data_path": place / "data.json", "image_folder": RECORDS, "use_cpu": True, "report_to": "none"}
    flags |= {"per_device_train_batch_size": 2, "learning_rate": "1e-2", "seed": 0, "logging_steps": 1}
    flags |= {"output_dir": place / "run", "disable_tqdm": True, "save_strategy": "no", **more}
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "hd"])
def test_its_projector_is_tuned(kind, folder, hd, tmp_path):
    """Alone: both towers and the mining stay as they are; and from cached features as from pictures."""
    base = folder if kind == "plain" else Path(hd.name)
    before = Inference.load(base, device="cpu", compression=BUDGET)
    trainer = train(flags_for(base, tmp_path))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    changed = {
        name
        for name, value in trainer.model.state_dict().items()
        if not torch.equal(value.float(), before.model.state_dict()[name].float())
    }
    assert changed and all(name.startswith("model.multi_modal_projector.") for name in changed)
    tuned = Inference.load(tmp_path / "run", device="cpu")
    assert (tuned.conv_mode, str(tuned.model.compression)) == ("vicuna_v1", BUDGET)
    views = 1 if kind == "plain" else 5
    assert tuned.ask_one("What is this?", picture(0), options=SHORT).visual_tokens == 64 * views
    cached = train(flags_for(base, tmp_path / "again", feature_cache=tmp_path / "cache"))
    again = [entry["loss"] for entry in cached.state.log_history if "loss" in entry]
    assert again == pytest.approx(losses, abs=1e-5)
