"""The vision tower under the names that programs for LLaVA use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llava.model.multimodal_encoder.features import extract_features


@dataclass(frozen=True)
class VisionTowerView:
    """LLaVA's `CLIPVisionTower` as a view of transformers' module: nothing is registered twice.

    Attributes:
        vision_tower: transformers' tower.
        llava_config: The whole model's config.
        image_processor: What makes the tower's pixels.
    """

    vision_tower: nn.Module
    llava_config: Any
    image_processor: Any = None

    @property
    def is_loaded(self) -> bool:
        """Always: a model is loaded with its tower."""
        return True

    def load_model(self, device_map: Any = None) -> None:
        """Does nothing: the tower is loaded."""

    @property
    def vision_tower_name(self) -> str:
        """What LLaVA's config calls the tower; empty for checkpoints of transformers' format."""
        return str(getattr(self.llava_config, "mm_vision_tower", ""))

    @property
    def select_layer(self) -> int:
        """Index into the hidden states."""
        return int(self.llava_config.vision_feature_layer)

    @property
    def select_feature(self) -> str:
        """`patch`, or `cls_patch` if the CLS token is kept."""
        return "cls_patch" if self.llava_config.vision_feature_select_strategy == "full" else "patch"

    @property
    def config(self) -> Any:
        """The tower's config."""
        return self.llava_config.vision_config

    @property
    def dtype(self) -> torch.dtype:
        """Of the tower's weights."""
        return next(self.vision_tower.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Of the tower's weights."""
        return next(self.vision_tower.parameters()).device

    @property
    def hidden_size(self) -> int:
        """Channels of the tower."""
        return int(self.config.hidden_size)

    @property
    def num_patches_per_side(self) -> int:
        """Rows, and columns, of a tile's patches."""
        return int(self.config.image_size // self.config.patch_size)

    @property
    def num_patches(self) -> int:
        """Patches of a tile."""
        return self.num_patches_per_side**2

    def parameters(self) -> Iterator[nn.Parameter]:
        """The tower's weights."""
        return self.vision_tower.parameters()

    def requires_grad_(self, requires_grad: bool = True) -> VisionTowerView:
        """Freezes or frees the tower, as `nn.Module.requires_grad_` does."""
        self.vision_tower.requires_grad_(requires_grad)
        return self

    def to(self, *args: Any, **kwargs: Any) -> VisionTowerView:
        """Moves the tower, as `nn.Module.to` does."""
        self.vision_tower.to(*args, **kwargs)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        """Uncompressed features of the selected layer, in the dtype of the images.

        Args:
            images: (B, 3, H, W), or a list of (3, H, W).

        Returns:
            (B, N, C), or a list of (1, N, C).
        """
        if isinstance(images, list):
            return [self(image.unsqueeze(0)) for image in images]  # type: ignore[misc]
        pixels = images.to(device=self.device, dtype=self.dtype)
        features = extract_features(self.vision_tower, pixels, self.llava_config.vision_feature_layer)
        is_full = self.llava_config.vision_feature_select_strategy == "full"
        return (features.content if is_full else features.patches).to(images.dtype)
