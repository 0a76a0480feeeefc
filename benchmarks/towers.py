"""Vision towers of real size with random weights, and three ways to run them: LLaVA's, the released VisionZip's, ours.

Shapes: B images, H heads, N tokens (CLS first where the tower has one), R left over, M contextual, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from llava import CompressionConfig
from llava.model.families.video_llava.tower import LanguageBindVideoConfig, LanguageBindVideoModel
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
LANGUAGEBIND_VIDEO = {**CLIP_L_336, "image_size": 224, "hidden_act": "gelu", "num_frames": 8}
SIGLIP_SO400M_384 = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,  # LLaVAs on SigLIP leave the pooling head out
}
# Kind -> published name, sizes, and the classes of config and model.
_KINDS: dict[str, tuple[str, dict[str, Any], Any, Any]] = {
    "clip": ("CLIP ViT-L/14-336", CLIP_L_336, CLIPVisionConfig, CLIPVisionModel),
    "siglip": ("SigLIP-so400m/14-384", SIGLIP_SO400M_384, SiglipVisionConfig, SiglipVisionModel),
    "video": ("LanguageBind-Video/14-224", LANGUAGEBIND_VIDEO, LanguageBindVideoConfig, LanguageBindVideoModel),
}


@dataclass(frozen=True)
class Tower:
    """One set of weights under two kinds of attention.

    Attributes:
        title: Its published name.
        fused: Runs torch's fused attention.
        eager: The same weights; makes attention maps.
        has_cls: Whether token 0 is a CLS token.
    """

    title: str
    fused: nn.Module
    eager: nn.Module
    has_cls: bool

    @classmethod
    def build(cls, kind: str, device: torch.device, dtype: torch.dtype, **changes: Any) -> Tower:
        """Makes a tower.

        Args:
            kind: `clip`, `siglip` or `video`, whose images are frames, whole clips of them.
            device: Where it is to stand.
            dtype: Of its weights.
            **changes: Entries of its config that differ from the published ones.
        """
        title, published, config_class, model_class = _KINDS[kind]
        sizes = {**published, **changes}
        fused = model_class(config_class(**sizes, attn_implementation="sdpa")).to(device, dtype).eval()
        with torch.device("meta"):
            eager = model_class(config_class(**sizes, attn_implementation="eager")).eval()
        eager.load_state_dict(fused.state_dict(keep_vars=True), assign=True)
        for path, buffer in fused.named_buffers():
            parent, _, name = path.rpartition(".")
            eager.get_submodule(parent).register_buffer(name, buffer, persistent=False)
        return cls(title, fused, eager, kind != "siglip")

    def pixels(self, batch: int) -> Tensor:
        """Noise, (B, 3, height, width)."""
        side = self.config.image_size
        return torch.randn(batch, 3, side, side).to(next(self.fused.parameters()))

    @property
    def config(self) -> Any:
        """The tower's config."""
        return self.fused.config


def llava_way(tower: Tower, pixels: Tensor) -> Tensor:
    """The tower as LLaVA runs it: all layers, all hidden states kept, one of them used. (B, patches, C)."""
    hidden: Tensor = tower.fused(pixels, output_hidden_states=True).hidden_states[LAYER]
    return hidden[:, int(tower.has_cls) :]


def visionzip_way(tower: Tower, pixels: Tensor, dominant: int, contextual: int) -> Tensor:
    """The released VisionZip's way: all layers, eager, the attention maps of all of them kept. (B, K, C).

    It was released for CLIP; for a tower without CLS this is the same way, with the score of the paper's appendix A.2.
    """
    keys: list[Tensor] = []
    core: Any = getattr(tower.eager, "vision_model", tower.eager)
    layer = core.encoder.layers[LAYER]
    hook = layer.self_attn.k_proj.register_forward_hook(lambda _module, _inputs, output: keys.append(output))
    output = tower.eager(pixels, output_hidden_states=True, output_attentions=True)
    hook.remove()
    hidden = output.hidden_states[LAYER]  # (B, N, C)
    batch, num_tokens, channels = hidden.shape
    maps = [each for each in output.attentions if each.shape[-1] == num_tokens]  # not those over the frames of a clip
    attention = maps[LAYER]  # (B, H, N, N)
    metric = keys[0].view(batch, num_tokens, attention.shape[1], -1).mean(dim=2)  # (B, N, d)

    left = torch.ones(batch, num_tokens, dtype=torch.bool, device=hidden.device)
    if tower.has_cls:
        top = attention[:, :, 0, 1:].sum(dim=1).topk(dominant - 1, dim=1).indices + 1
        left[:, 0] = False
    else:
        top = attention.mean(dim=(1, 2)).topk(dominant, dim=1).indices
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


def our_way(tower: Tower, pixels: Tensor, budget: CompressionConfig) -> Tensor:
    """This package's. (B, K, C)."""
    compressor = get_compressor(budget.method)
    return compressor(extract_features(tower.fused, pixels, LAYER, compressor.needs), budget).tokens
