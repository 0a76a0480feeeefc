"""Vision tower and compression: LLaVA's way, the released VisionZip's way, and ours, on a real-sized CLIP.

    python benchmarks/vision.py --batch 8 --json vision.json

Weights are random; CLIP ViT-L/14-336 has the real size. Shapes: B images, H heads, N = 577 tokens, R left over,
M contextual, C channels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from harness import machine, markdown, measure, write_json
from torch import Tensor
from torch.nn.functional import normalize, one_hot
from transformers import CLIPVisionConfig, CLIPVisionModel

from llava import CompressionConfig
from llava.model.multimodal_compressor import get_compressor
from llava.model.multimodal_encoder import extract_features

LAYER = -2
CLIP_L_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}


def llava_way(tower: CLIPVisionModel, pixels: Tensor) -> Tensor:
    """The tower as LLaVA runs it: all layers, all hidden states kept, one of them used. (B, N - 1, C)."""
    return tower(pixels, output_hidden_states=True).hidden_states[LAYER][:, 1:]


def visionzip_way(tower: CLIPVisionModel, pixels: Tensor, dominant: int, contextual: int) -> Tensor:
    """The released VisionZip's way: all layers, eager, the attention maps of all of them kept. (B, K, C)."""
    keys: list[Tensor] = []
    layer = getattr(tower, "vision_model", tower).encoder.layers[LAYER]
    hook = layer.self_attn.k_proj.register_forward_hook(lambda _module, _inputs, output: keys.append(output))
    output = tower(pixels, output_hidden_states=True, output_attentions=True)
    hook.remove()
    hidden, attention = output.hidden_states[LAYER], output.attentions[LAYER]  # (B, N, C), (B, H, N, N)
    batch, num_tokens, channels = hidden.shape
    heads = attention.shape[1]
    metric = keys[0].view(batch, num_tokens, heads, -1).mean(dim=2)  # (B, N, d)

    top = attention[:, :, 0, 1:].sum(dim=1).topk(dominant - 1, dim=1).indices + 1
    left = torch.ones(batch, num_tokens, dtype=torch.bool, device=hidden.device)
    left[:, 0] = False
    left.scatter_(1, top, False)
    kept_tokens = hidden[~left].view(batch, dominant, channels)
    hidden, metric = hidden[left].view(batch, -1, channels), metric[left].view(batch, num_tokens - dominant, -1)

    metric = normalize(metric, dim=-1)
    target = torch.arange(0, hidden.shape[1], max(1, hidden.shape[1] // contextual), device=hidden.device)[:contextual]
    other = torch.ones(hidden.shape[1], dtype=torch.bool, device=hidden.device)
    other[target] = False
    group = (metric[:, other] @ metric[:, target].transpose(1, 2)).argmax(dim=2)
    member = one_hot(group, contextual).to(hidden.dtype)  # (B, R - M, M)
    mean = member.transpose(1, 2) @ hidden[:, other] / member.sum(dim=1).clamp(min=1).unsqueeze(-1)
    return torch.cat([kept_tokens, hidden[:, target] + mean], dim=1)


def our_way(tower: CLIPVisionModel, pixels: Tensor, budget: CompressionConfig) -> Tensor:
    """This package's. (B, K, C)."""
    compressor = get_compressor(budget.method)
    return compressor(extract_features(tower, pixels, LAYER, compressor.needs), budget).tokens


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Vision tower and compression, three ways.")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--compression", type=CompressionConfig.parse, default="visionzip:54+10")
    parser.add_argument("--device", type=torch.device, default=torch.accelerator.current_accelerator() or "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="float32 on CPU, else bfloat16")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    budget = args.compression
    if budget is None or budget.method != "visionzip" or not budget.contextual:
        parser.error(f"--compression {budget or 'none'}: the sides are compared under visionzip:dominant+contextual")
    if args.batch < 1 or args.warmup < 0 or args.repeats < 2:
        parser.error("--batch must be at least 1, --warmup at least 0 and --repeats at least 2")
    name = args.dtype or ("float32" if args.device.type == "cpu" else "bfloat16")

    torch.manual_seed(0)
    fused = CLIPVisionModel(CLIPVisionConfig(**CLIP_L_336, attn_implementation="sdpa"))
    fused = fused.to(args.device, getattr(torch, name)).eval()
    with torch.device("meta"):
        eager = CLIPVisionModel(CLIPVisionConfig(**CLIP_L_336, attn_implementation="eager"))
    eager.load_state_dict(fused.state_dict(keep_vars=True), assign=True)
    for (path, buffer), (_, own) in zip(fused.named_buffers(), eager.named_buffers(), strict=True):
        assert own.shape == buffer.shape
        eager.get_submodule(path.rpartition(".")[0]).register_buffer(path.rpartition(".")[2], buffer, persistent=False)
    pixels = torch.randn(args.batch, 3, 336, 336).to(fused.device, fused.dtype)

    sides: dict[str, Callable[[], Tensor]] = {
        "vanilla": lambda: llava_way(fused, pixels),
        "reference": lambda: visionzip_way(eager.eval(), pixels, budget.dominant, budget.contextual),
        "ours": lambda: our_way(fused, pixels, budget),
    }
    with torch.inference_mode():
        if name == "float32":
            torch.testing.assert_close(sides["ours"](), sides["reference"](), atol=1e-3, rtol=1e-3)
        found = measure(sides, args.device, warmup=args.warmup, repeats=args.repeats)

    ours, reference, vanilla = found["ours"], found["reference"], found["vanilla"]
    ratios: dict[str, float | None] = {
        "time_ratio_vs_reference": reference.median_ms / ours.median_ms,
        "time_ratio_vs_vanilla": vanilla.median_ms / ours.median_ms,
        "memory_ratio_vs_reference": reference.peak_mib / ours.peak_mib
        if reference.peak_mib and ours.peak_mib
        else None,
    }
    setting = {"tower": "CLIP ViT-L/14-336", "batch": args.batch, "dtype": name, "compression": str(budget)}
    print(f"{setting} on {machine(args.device)}\n\n{markdown(found)}\n")
    print("\n".join(f"{key}: {'-' if value is None else f'{value:.2f}'}" for key, value in ratios.items()))
    if args.json:
        write_json(args.json, found, **setting, **ratios, machine=machine(args.device))


if __name__ == "__main__":
    main()
