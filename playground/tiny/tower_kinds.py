"""The kinds of tower that can be trained on the scenes, with the heads that exist only meanwhile.

VisionZip reads the attention of layer -2. In the CLIP tower that layer's CLS token alone has to tell the scene, and so
looks at the digits. The SigLIP tower has no CLS token: as in SigLIP, a head after the last layer pools the patches by
attention, and only that has to tell the scene; nothing asks patches of layer -2 to look at digits.

Shape legend: B scenes, T kept patches, C channels, Q = 4 quadrants.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from scenes import COLOURS, GRID, QUADRANTS
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from playground.pretraining.small_tower import place_codes

DIGITS = 11
TINTS = len(COLOURS) + 1


class TowerWithHeads(nn.Module):
    """A tower, the heads that tell the scene, and one that tells what a patch shows."""

    has_cls: ClassVar[bool]

    def __init__(self, tower: nn.Module, width: int, num_views: int) -> None:
        super().__init__()
        self.tower: Any = tower
        scene = len(QUADRANTS) * (DIGITS + TINTS)
        heads = (nn.Sequential(nn.LayerNorm(width), nn.Linear(width, scene)) for _ in range(num_views))
        self.scene_heads = nn.ModuleList(heads)
        self.patch_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, DIGITS + TINTS + 2 * GRID))
        codes = place_codes(width, GRID)
        with torch.no_grad():
            self.tower.embeddings.position_embedding.weight.copy_(codes if self.has_cls else codes[1:])

    def layers(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs of layer -2 and of the last layer, of the same shape as the embeddings."""
        outputs = []
        for layer in self.tower.encoder.layers:
            hidden = layer(hidden, None)
            outputs.append(hidden)
        return outputs[-2], outputs[-1]

    @abstractmethod
    def forward(self, pixels: Tensor, kept: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs the tower on some patches only.

        Args:
            pixels: (B, 3, 112, 112), normalised.
            kept: (B, T) indices of the patches to run.

        Returns:
            What each patch of layer -2 shows, (B, T, digits + tints + rows + columns) logits, and by name what tells
            the scene, (B, Q * (digits + tints)) logits each.
        """


class ClipWithHeads(TowerWithHeads):
    """CLIP: the CLS tokens of layer -2 and of the last layer tell the scene."""

    has_cls = True

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(CLIPVisionModel(config), config.hidden_size, 2)
        self.tower.post_layernorm.requires_grad_(False)

    def forward(self, pixels: Tensor, kept: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See the base class."""
        hidden = self.tower.embeddings(pixels)
        index = torch.cat([kept.new_zeros(len(kept), 1), kept + 1], 1)
        hidden = hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))
        middle, last = self.layers(self.tower.pre_layrnorm(hidden))
        first, second = self.scene_heads
        return self.patch_head(middle[:, 1:]), {"cls_middle": first(middle[:, 0]), "cls_last": second(last[:, 0])}


class SiglipWithHeads(TowerWithHeads):
    """SigLIP: what its own head pools of the last layer's patches tells the scene."""

    has_cls = False

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__(SiglipVisionModel(config), config.hidden_size, 1)

    def forward(self, pixels: Tensor, kept: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See the base class."""
        hidden = self.tower.embeddings(pixels)
        hidden = hidden.gather(1, kept[..., None].expand(-1, -1, hidden.shape[-1]))
        middle, last = self.layers(hidden)
        pooled = self.tower.head(self.tower.post_layernorm(last))
        return self.patch_head(middle), {"pooled": self.scene_heads[0](pooled)}
