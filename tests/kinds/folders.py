"""Tiny language models and towers as their publishers save them: config, weights, tokenizer, image processor."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from tests.model.tiny import TEXT, VISION, sharpen, vision_config

TINY = Path(__file__).resolve().parents[2] / "playground" / "tiny" / "model"
ENDS = {"qwen2": "<|im_end|>", "qwen3": "<|im_end|>", "llama3": "<|eot_id|>"}
SIDE = {"shortest_edge": 28}
CROP = {"height": 28, "width": 28}
# What the published files of DINOv2 and ViT call the attention's parts, and those of ViT the others too.
ATTENTION = {
    ".attention.q_proj.": ".attention.attention.query.",
    ".attention.k_proj.": ".attention.attention.key.",
    ".attention.v_proj.": ".attention.attention.value.",
    ".attention.o_proj.": ".attention.output.dense.",
}
PUBLISHED = {
    "dinov2": ATTENTION,
    "vit": ATTENTION
    | {".mlp.fc1.": ".intermediate.dense.", ".mlp.fc2.": ".output.dense.", "layers.": "encoder.layer."},
}


def save_language_model(kind: str, folder: Path) -> Path:
    """A Llama, Llama 3, Mistral, Qwen2 or Qwen3 with its vocabulary, and the embedded model's byte-level tokenizer."""
    torch.manual_seed(0)
    sizes = {**TEXT, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    if kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**{**sizes, "vocab_size": 600}, tie_word_embeddings=True))
    elif kind == "mistral":
        model = MistralForCausalLM(MistralConfig(**{**sizes, "vocab_size": 600}, sliding_window=None))
    elif kind == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**{**sizes, "vocab_size": 600}, head_dim=8))
    else:
        model = LlamaForCausalLM(LlamaConfig(**{**sizes, "vocab_size": 128_256 if kind == "llama3" else 600}))
    sharpen(model).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    if kind in ENDS:
        tokenizer.add_special_tokens({"eos_token": ENDS[kind]})
    tokenizer.save_pretrained(folder)
    return folder


def save_tower(kind: str, folder: Path) -> Path:
    """A CLIP, DINOv2 or ViT of 4 x 4 patches."""
    torch.manual_seed(1)
    if kind == "clip":
        sharpen(CLIPVisionModel(vision_config())).save_pretrained(folder)
        CLIPImageProcessorPil(size=SIDE, crop_size=CROP).save_pretrained(folder)
        return folder
    if kind == "vit":
        sharpen(ViTModel(ViTConfig(**VISION))).save_pretrained(folder)
        ViTImageProcessorPil(size=CROP).save_pretrained(folder)
    else:
        sizes = {name: value for name, value in VISION.items() if name != "intermediate_size"}
        sharpen(Dinov2Model(Dinov2Config(**sizes, mlp_ratio=2))).save_pretrained(folder)
        BitImageProcessorPil(size=SIDE, crop_size=CROP).save_pretrained(folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for new, old in PUBLISHED[kind].items():
        tensors = {name.replace(new, old): value for name, value in tensors.items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return folder
