"""Variants of the reference's checkpoints, and what each loader makes of a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from llava.conversation import conv_templates, default_conv_mode
from llava.mm_utils import tokenizer_image_token
from llava.model.builder import load_pretrained_model

QUESTION = "What is shown in this image?"
NAMES = {"v1.5": "tiny-llava-v1.5", "next": "tiny-llava-v1.6-next"}


def edit_json(file: Path, **entries) -> None:
    config = {**json.loads(file.read_text()), **entries}
    file.write_text(json.dumps({name: value for name, value in config.items() if entries.get(name, 0) is not None}))


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, by the names in its files."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        tensors |= load_file(file)
    return tensors


def assert_same_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


def llava_checkpoint(oracle: Path, folder: Path, kind: str) -> Path:
    """A LLaVA-format checkpoint: `v1.5` or `next`, and after it `mistral`, `inside` or `outside`, `half`, `sharded`."""
    base, *changes = kind.split()
    shutil.copytree(oracle / NAMES[base], folder)
    state = load_file(folder / "model.safetensors")
    tower = load_file(oracle / "tiny-clip-vit-l14-336" / "model.safetensors")
    prefix = "model.vision_tower.vision_tower."
    if "mistral" in changes:
        architecture = {"model_type": "llava_mistral", "architectures": ["LlavaMistralForCausalLM"]}
        edit_json(folder / "config.json", **architecture, rope_scaling=None, sliding_window=64)
    if "inside" in changes:
        state |= {f"{prefix}{name}": value for name, value in tower.items()}
        edit_json(folder / "config.json", unfreeze_mm_vision_tower=True)
    if "outside" in changes:
        state = {name: value for name, value in state.items() if not name.startswith(prefix)}
        edit_json(folder / "config.json", unfreeze_mm_vision_tower=None)
    if "half" in changes:
        state = {name: value.to(torch.float16) for name, value in state.items()}
        edit_json(folder / "config.json", torch_dtype="float16")
    (folder / "model.safetensors").unlink()
    if "sharded" in changes:
        names = list(state)
        shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
        for file, part in shards.items():
            save_file({name: state[name] for name in part}, folder / file, metadata={"format": "pt"})
        where = {name: file for file, part in shards.items() for name in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    else:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def messages(question: str = QUESTION) -> list[dict]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]


@torch.no_grad()
def ours(folder: Path, image: Path, new_tokens: int = 8, **options) -> tuple[Tensor, list[int], list[int]]:
    """Logits over the whole sequence, new ids, and the prompt's ids, in this package and LLaVA's convention."""
    options = {"compression": None, "device": "cpu", **options}
    tokenizer, model, image_processor, _ = load_pretrained_model(folder, **options)
    from llava.mm_utils import process_images

    conv = conv_templates[default_conv_mode(model.config)].copy()
    conv.append_message(conv.roles[0], f"<image>\n{QUESTION}")
    conv.append_message(conv.roles[1], None)
    picture = Image.open(image).convert("RGB")
    pixels = process_images([picture], image_processor, model.config)
    ids = tokenizer_image_token(conv.get_prompt(), tokenizer, return_tensors="pt")[None]
    given = {"images": pixels, "image_sizes": [picture.size]}
    logits = model(input_ids=ids, **given).logits[0]
    new = model.generate(ids, **given, do_sample=False, max_new_tokens=new_tokens, min_new_tokens=new_tokens)
    return logits, new[0].tolist(), [token for token in ids[0].tolist() if token >= 0]


@torch.no_grad()
def plain(folder: Path, image: Path, new_tokens: int = 8) -> tuple[Tensor, list[int], list[int]]:
    """The same with nothing but transformers; the image token is left out of the prompt's ids."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    model, loading = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32", output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), loading
    assert type(model).__module__.startswith("transformers.") and AutoConfig.from_pretrained(folder).compression
    prompt = processor.apply_chat_template(messages(), add_generation_prompt=True)
    inputs = processor(images=Image.open(image).convert("RGB"), text=prompt, return_tensors="pt")
    logits = model(**inputs).logits[0]
    new = model.generate(**inputs, do_sample=False, max_new_tokens=new_tokens, min_new_tokens=new_tokens)
    ids = inputs["input_ids"][0].tolist()
    image_token = model.config.image_token_id
    return logits, new[0, len(ids) :].tolist(), [token for token in ids if token != image_token]
