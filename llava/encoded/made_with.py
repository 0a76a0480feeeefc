"""What the rows of an image depend on besides its file: weights, config, budget, and how pixels are made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from llava.constants import DEFAULT_MAX_PIXELS
from llava.encoded.errors import StoreError
from llava.encoded.layout import Stage
from llava.images.rules import turns_photos
from llava.model.anyres import TileLayout
from llava.model.multimodal_encoder import selected_depth
from llava.model.stages import before_language_model
from llava.model.used_plugins import records_of, vision_plugins

_TOWER_ENTRIES = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
)
_PROJECTOR_ENTRIES = ("projector_hidden_act", "mm_projector_type", "multimodal_projector_bias")
_NEWLINE = "image_newline"
_APART = (
    *("vision_tower.", "multi_modal_projector.", "language_model.", "clip_text.", "question_reader."),
    "video_tower.",  # no image goes through it
)


@dataclass(frozen=True)
class ModelFacts:
    """A loaded model, as far as its images depend on it. Weights are hashed once, when they are first asked for.

    Attributes:
        model: `VisionSeam`; its compression may change.
        image_processor: Makes the pixels.
        image_config: Says how images become pixels; the model's config, or one with its entries.
        max_pixels: The limit to images.
    """

    model: Any
    image_processor: Any
    image_config: Any
    max_pixels: int | None = DEFAULT_MAX_PIXELS

    def parts(self, stage: Stage) -> dict[str, Any]:
        """All of it by name, ready for JSON; to be asked under the autocast of what follows.

        Args:
            stage: `tower` leaves out the projector.

        Raises:
            StoreError: Weights are not in memory.
        """
        model, config = self.model, self.image_config
        weight = next(model.vision_tower.parameters())
        budget = before_language_model(model.compression)
        vision, plugins = model.config.vision_config, records_of(vision_plugins(model.config, budget))
        parts: dict[str, Any] = {
            "stage": stage,
            "tower": self._tower(reads_all=self._reads_last_layer),
            "tower config": {name: getattr(vision, name, None) for name in _TOWER_ENTRIES},
            "layer": model.config.vision_feature_layer,
            "select feature": model.config.vision_feature_select_strategy,
            "compression": None if budget is None else budget.to_dict(),
            "dtype": str(weight.dtype).removeprefix("torch."),
            "autocast": torch.is_autocast_enabled(weight.device.type),
            "image processor": self.image_processor.to_dict(),
            "image_aspect_ratio": getattr(config, "image_aspect_ratio", None),
            "pinpoints": [list(pair) for pair in TileLayout.from_config(config).pinpoints],
            "max pixels": self.max_pixels,
        }
        if stage == "projected":
            parts |= {
                "projector": self._projector,
                "projector config": {name: getattr(model.config, name, None) for name in _PROJECTOR_ENTRIES},
                "sequence": asdict(TileLayout.from_config(model.config)),
            }
            if model.reads_questions:
                parts["reads the question"] = True
        more: dict[str, Any] = {
            "other weights": self._others(stage),
            "own tiles": model.picture.tiles if model.picture.tiles > 1 else None,
            "photos": "turned by EXIF" if turns_photos(config) else None,
            "plugins": plugins,
        }
        return parts | {name: value for name, value in more.items() if value}

    @property
    def _reads_last_layer(self) -> bool:
        bound = self.model.bound_compressor
        return bound is not None and "last_layer_qk" in bound.needs

    def _tower(self, *, reads_all: bool) -> str:
        return self._whole_tower if reads_all else self._run_tower

    @cached_property
    def _whole_tower(self) -> str:
        return _hash_of(self.model.vision_tower.named_parameters())

    @cached_property
    def _run_tower(self) -> str:
        """Of the weights that are run; the layers behind the selected one are not."""
        config = self.model.config
        depth = selected_depth(config.vision_feature_layer, config.vision_config.num_hidden_layers)
        return _hash_of(
            (name, weight)
            for name, weight in self.model.vision_tower.named_parameters()
            if not ("post_layernorm" in name or name.startswith("head.") or _layer(name) >= depth)
        )

    @cached_property
    def _projector(self) -> str:
        return _hash_of(self.model.multi_modal_projector.named_parameters())

    def _others(self, stage: Stage) -> str:
        """Of what a family has beside tower and projector; a newline between rows is put in behind the projector."""
        found = [(name, weight) for name, weight in self._own_weights if stage == "projected" or name != _NEWLINE]
        return _hash_of(found) if found else ""

    @cached_property
    def _own_weights(self) -> list[tuple[str, nn.Parameter]]:
        return [each for each in self.model.named_parameters() if not each[0].startswith(_APART)]


def _layer(name: str) -> int:
    """The encoder layer that a weight belongs to; -1 for none."""
    number = name.partition("encoder.layers.")[2].partition(".")[0]
    return int(number) if number else -1


def _hash_of(weights: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(weights, key=lambda named: named[0]):
        if weight.is_meta:
            raise StoreError(f"{name} is offloaded, and a store knows a model by its weights; load it on one device")
        digest.update(f"{name.removeprefix('vision_model.')} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
