"""Mini-Gemini's config and models: LLaVA-1.5 whose tower's patches have mined a larger picture before they go on."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from llava.model.families.mini_gemini.mining import PatchInfoMining, clip_views, pictures_at_once
from llava.model.families.mini_gemini.picture import check_picture
from llava.model.families.mini_gemini.sizes import CONVNEXT_L, check_sizes
from llava.model.llava_arch import LlavaForConditionalGeneration, LlavaModel
from llava.model.llava_config import LlavaConfig
from llava.model.multimodal_compressor import VisionFeatures
from llava.model.multimodal_compressor.registry import Need
from llava.model.offloading import like_weights


class MiniGeminiConfig(LlavaConfig):
    """A Mini-Gemini, in a format of transformers' kind; transformers itself has no class of it.

    Attributes:
        aux_config: `hidden_sizes` and `depths` of its ConvNeXt; by default the published one's.
        image_size_aux: Pixels of a side of the picture that the ConvNeXt sees.
        image_grid: Parts of a side that CLIP sees as views of their own.
        image_global: Whether CLIP sees the whole before its parts.
    """

    model_type = "mgm"
    aux_config: dict | None = None  # type: ignore[type-arg]
    image_size_aux: int = 768
    image_grid: int = 1
    image_global: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Takes the published ConvNeXt's sizes where none are given."""
        super().__post_init__(**kwargs)
        self.aux_config = dict(self.aux_config or CONVNEXT_L)


class MiniGeminiModel(LlavaModel):
    """Mini-Gemini without its language-modelling head."""

    config_class = MiniGeminiConfig
    _no_split_modules: ClassVar[list[str]] = ["PatchInfoMining"]  # whole on one device; those of the towers come beside

    def __init__(self, config: MiniGeminiConfig) -> None:
        """Makes a LLaVA-1.5, and the second tower beside it.

        Raises:
            ValueError: No second tower can be made.
        """
        super().__init__(config)
        sizes = config.aux_config or CONVNEXT_L
        check_sizes(sizes)
        self.mining = PatchInfoMining(config.vision_config.hidden_size, sizes)

    def check_vision_config(self) -> None:
        """As LLaVA-1.5's; and the larger picture must be one that can be shared out.

        Raises:
            ValueError: A field has a value that is not supported.
        """
        super().check_vision_config()
        config = self.config
        check_picture(config.image_size_aux, config.image_grid, config.image_global, config.vision_config)

    @property
    def vision_parts(self) -> dict[str, nn.Module]:
        """The tower, and the second tower with what mines its map."""
        return {**super().vision_parts, "second tower": self.mining}

    @property
    def most_pictures(self) -> int:
        """As many as the maps of are held at a time."""
        return pictures_at_once(self.config.image_size_aux)

    def read_features(
        self, pixel_values: Tensor, needs: Set[Need] = frozenset(), grid: tuple[int, int] | None = None
    ) -> VisionFeatures:
        """CLIP's rows of each view, the patches with what they have mined; `source` is as CLIP gave it.

        Args:
            pixel_values: (B, 3, S, S), S the config's `image_size_aux`.
            needs: As for `extract_features`.
            grid: Must be None.

        Returns:
            Features of the B * V views, with CLIP's CLS token in front.

        Raises:
            ValueError: The pictures are of another size.
        """
        side = self.config.image_size_aux
        if pixel_values.shape[-2:] != (side, side):
            height, width = pixel_values.shape[-2:]
            raise ValueError(
                f"pixels are {height} x {width}, and the model's image_size_aux is {side}: give the larger picture; "
                "the one that CLIP sees is made of it"
            )
        features = super().read_features(self.seen_tiles(pixel_values), needs, grid)
        larger = like_weights(pixel_values, self.mining, cast=True)
        found = self.mining(like_weights(features.source, self.mining), larger, self.config.image_grid)
        patches = features.source + found.to(features.source)
        content = torch.cat([features.content[:, :1], patches], dim=1) if features.has_cls else patches
        return replace(features, content=content)

    def seen_tiles(self, pixel_values: Tensor) -> Tensor:
        """The views that CLIP is given of larger pictures, (B * V, 3, h, w)."""
        grid, side = self.config.image_grid, self.config.vision_config.image_size
        return clip_views(pixel_values, side, grid, has_whole=grid > 1 and self.config.image_global)


class MiniGeminiForConditionalGeneration(LlavaForConditionalGeneration):
    """Mini-Gemini; saved files are of this package's format `mgm`, with `compression` in config.json."""

    config_class = MiniGeminiConfig
    base_model_class: ClassVar[type[MiniGeminiModel]] = MiniGeminiModel


__all__ = ["MiniGeminiConfig", "MiniGeminiForConditionalGeneration", "MiniGeminiModel"]
