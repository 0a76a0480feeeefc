"""LanguageBind's video tower as transformers' CLIP with three modules more a layer; frames stand in the batch axis.

Shapes: B clips of T frames, N tokens a frame (CLS first), C channels.
Source: PKU-YuanGroup/LanguageBind (MIT), as Video-LLaVA (Lin et al., EMNLP 2024) uses it: time attention, no time MLP.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPEncoderLayer


class LanguageBindVideoConfig(CLIPVisionConfig):
    """A CLIP tower's config, and the frames of a clip."""

    model_type = "languagebind_video_vision_model"
    num_frames: int = 8


class TemporalLayer(CLIPEncoderLayer):
    """CLIP's layer behind attention over the frames of a clip, at each place by itself."""

    def __init__(self, config: LanguageBindVideoConfig) -> None:
        super().__init__(config)
        self.num_frames = config.num_frames
        self.temporal_embedding = nn.Parameter(torch.zeros(1, config.num_frames, config.hidden_size))
        self.temporal_layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.temporal_attn = CLIPAttention(config)

    def mix_frames(self, hidden_states: Tensor) -> Tensor:
        """What CLIP's own part of the layer is given: positions in time are added, and stay in the residual stream.

        Args:
            hidden_states: (B * T, N, C), the frames of a clip one after the other.

        Returns:
            (B * T, N, C).

        Raises:
            ValueError: The frames are not whole clips.
        """
        frames, tokens, _ = hidden_states.shape
        if frames % self.num_frames:
            raise ValueError(f"{frames} frames are not whole clips: the video tower takes {self.num_frames} each")
        by_place = hidden_states.unflatten(0, (-1, self.num_frames)).transpose(1, 2).flatten(0, 1)  # (B * N, T, C)
        by_place = by_place + self.temporal_embedding
        attended, _ = self.temporal_attn(self.temporal_layer_norm1(by_place))
        by_place = by_place + attended
        return by_place.unflatten(0, (-1, tokens)).transpose(1, 2).flatten(0, 1)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """The whole layer: (B * T, N, C) to the same."""
        return super().forward(self.mix_frames(hidden_states), attention_mask, **kwargs)


class LanguageBindVideoModel(CLIPVisionModel):
    """The tower."""

    config_class = LanguageBindVideoConfig
    _no_split_modules = ("TemporalLayer", "CLIPVisionEmbeddings")

    def __init__(self, config: LanguageBindVideoConfig) -> None:
        super().__init__(config)
        core: Any = getattr(self, "vision_model", self)  # transformers before 5.20 nests the tower once more
        core.encoder.layers = nn.ModuleList(TemporalLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()


__all__ = ["LanguageBindVideoConfig", "LanguageBindVideoModel", "TemporalLayer"]
