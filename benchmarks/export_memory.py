"""Memory of an export: a random checkpoint with the layers of LLaVA-1.5-13B, as many as make the size asked for.

    python benchmarks/export_memory.py --gigabytes 7 --work /path/with/room [--lora]

Prints the size, the seconds, and the highest anonymous memory (`RssAnon`, what the process has allocated, as against
pages of the mapped source that the kernel may drop at any time) of `python -m llava.hub.export`. Linux only. What was
made is removed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from report import Cell, Goal, Report
from torch import Tensor

from llava.hub.formats.shards import plan_shards, write_safetensors, write_shards
from llava.model.checkpoints.stored_tensor import StoredTensor

HIDDEN, INTERMEDIATE, HEADS, VOCABULARY = 5120, 13824, 40, 32_000
SHARD = 5 * 10**9
_VALUES = 2**24  # random numbers that are repeated until a tensor is full
_RANK = 128  # of the adapters of LLaVA's own LoRA runs
ROOT = Path(__file__).resolve().parents[1]
FILES = ROOT / "tests" / "fixtures" / "oracle"


def stored(*shape: int) -> StoredTensor:
    """A tensor of random bf16 numbers that is made when it is written."""

    def pieces() -> list[Tensor]:
        count = torch.Size(shape).numel()
        numbers = torch.randn(min(count, _VALUES), generator=torch.Generator().manual_seed(count)).mul_(0.02).bfloat16()
        return [numbers[: min(_VALUES, count - start)] for start in range(0, count, _VALUES)]

    return StoredTensor(shape, torch.bfloat16, pieces)


def linear_layers(layer: int) -> Iterator[tuple[str, int, int]]:
    """Name, outputs and inputs of the matrices of a layer."""
    root = f"model.layers.{layer}"
    for name in "qkvo":
        yield f"{root}.self_attn.{name}_proj", HIDDEN, HIDDEN
    yield f"{root}.mlp.gate_proj", INTERMEDIATE, HIDDEN
    yield f"{root}.mlp.up_proj", INTERMEDIATE, HIDDEN
    yield f"{root}.mlp.down_proj", HIDDEN, INTERMEDIATE


def make_tower(folder: Path) -> None:
    """A random CLIP ViT-L/14-336."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    shape = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    config = CLIPVisionConfig(**shape, image_size=336, patch_size=14, projection_dim=768, dtype="bfloat16")
    CLIPVisionModel(config).to(torch.bfloat16).save_pretrained(folder)
    shutil.copy(FILES / "tiny-clip-vit-l14-336" / "preprocessor_config.json", folder)


def make_checkpoint(folder: Path, tower: Path, num_bytes: int) -> int:
    """A LLaVA-format checkpoint of at least so many bytes beside its tower, and a layer; returns how many."""
    tensors = {
        "model.embed_tokens.weight": stored(VOCABULARY, HIDDEN),
        "lm_head.weight": stored(VOCABULARY, HIDDEN),
        "model.norm.weight": stored(HIDDEN),
        "model.mm_projector.0.weight": stored(HIDDEN, 1024),
        "model.mm_projector.0.bias": stored(HIDDEN),
        "model.mm_projector.2.weight": stored(HIDDEN, HIDDEN),
        "model.mm_projector.2.bias": stored(HIDDEN),
    }
    layers = 0
    while layers < 1 or sum(tensor.num_bytes for tensor in tensors.values()) < num_bytes:
        tensors |= {f"{name}.weight": stored(out, width) for name, out, width in linear_layers(layers)}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layers}.{norm}.weight"] = stored(HIDDEN)
        layers += 1
    source = FILES / "tiny-llava-v1.5"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": layers}
    config |= {"num_attention_heads": HEADS, "num_key_value_heads": HEADS, "vocab_size": VOCABULARY}
    config |= {"mm_hidden_size": 1024, "mm_vision_tower": str(tower), "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_shards(folder, plan_shards(tensors, SHARD), lambda _: None)
    return layers


def make_adapter(folder: Path, base: Path, layers: int) -> None:
    """LoRA on every matrix of the language model."""
    folder.mkdir()
    tensors = {}
    for layer in range(layers):
        for name, out, width in linear_layers(layer):
            tensors[f"base_model.model.{name}.lora_A.weight"] = stored(_RANK, width)
            tensors[f"base_model.model.{name}.lora_B.weight"] = stored(out, _RANK)
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    config = {"peft_type": "LORA", "r": _RANK, "lora_alpha": 2 * _RANK, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def measured(command: list[str]) -> tuple[float, int]:
    """Runs a program; returns its seconds and its highest anonymous memory in bytes."""
    start, highest = time.perf_counter(), 0
    process = subprocess.Popen(command)
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        except FileNotFoundError:
            break
        sizes = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")]
        highest = max([highest, *sizes])
        time.sleep(0.02)
    if process.wait():
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - start, highest


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures the memory of an export.")
    parser.add_argument("--gigabytes", type=float, default=7, help="least size of the checkpoint (default 7)")
    parser.add_argument("--work", type=Path, required=True, help="folder with room for twice as much; must not exist")
    parser.add_argument("--lora", action="store_true", help="export LoRA adapters on the checkpoint, merged")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    work: Path = arguments.work.absolute()
    work.mkdir(parents=True)
    try:
        source = work / "llava-random"
        make_tower(work / "clip")
        layers = make_checkpoint(source, work / "clip", int(arguments.gigabytes * 1e9))
        if arguments.lora:
            make_adapter(work / "lora", source, layers)
            source = work / "lora"
        command = [sys.executable, "-m", "llava.hub.export", str(source), "--to", "hf", "--output", str(work / "hf")]
        seconds, highest = measured(command)
        files = list((work / "hf").glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
    finally:
        shutil.rmtree(work)
    row: dict[str, Cell] = {
        "export": "LoRA merged" if arguments.lora else "whole",
        "GB": size / 1e9,
        "files": len(files),
        "layers": layers,
        "seconds": seconds,
        "anonymous memory at most, GB": highest / 1e9,
        "share of a 5 GB file": highest / SHARD,
    }
    Report(
        "export_memory",
        "Memory of an export",
        torch.device("cpu"),
        {"layers": "as in LLaVA-1.5-13B, bf16, random weights"},
        [row],
        {"share_of_a_shard": highest / SHARD},
        [Goal(f"Export, {row['export']}: anonymous memory over one 5 GB file", highest / SHARD, at_most=1)],
    ).tell(arguments.json)


if __name__ == "__main__":
    main()
