"""Floating-point operations of a training step, a prompt and an answer, from the model's shape and the real lengths.

Two operations a multiply-accumulate. Counted are matrix products: projections (grouped keys and values as such), the
three matrices of a gated FFN, attention of each sample under its causal mask, the head at the targets, the tower as
deep as it is run, the projector, adapters. Not counted: look-ups, norms, activations, rotations, softmax, the
compressor (under one percent of its tower), and what gradient checkpointing computes a second time.

Backward, a matrix costs once more for the gradient of its input, where one flows, and once more for its own, where it
is trained. In projector tuning the language model is frozen, yet gradients flow through all of it: the images stand at
its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from llava.kinds.families import family_of
from llava.kinds.towers import tower_kind
from llava.model.multimodal_encoder import selected_depth
from llava.model.projector_types import projector_depth, projector_type

# Tokens of all layers, or of each: a method inside the language model lets deeper layers read fewer. Its own choice of
# rows is not counted, as a compressor is not: a layer's keys a stage at most.
Lengths: TypeAlias = int | Sequence[int]


@dataclass(frozen=True)
class Trained:
    """What a stage trains.

    Attributes:
        projector: The projector.
        language_model: All matrices of the language model, its head included.
        adapter_parameters: Of LoRA's matrices in the language model; 0 without.
    """

    projector: bool = True
    language_model: bool = False
    adapter_parameters: int = 0

    @classmethod
    def of(cls, model: Any) -> Trained:
        """What of a model, as it is, requires a gradient."""
        inner = model.model
        adapters = [p for name, p in inner.language_model.named_parameters() if "lora_" in name]
        ids = {id(parameter) for parameter in adapters}
        own = [p for p in inner.language_model.layers.parameters() if id(p) not in ids]
        matrices = [p for p in own if len(getattr(p, "ds_shape", p.shape)) > 1]  # ZeRO-3 keeps shapes aside
        return cls(
            projector=any(p.requires_grad for p in inner.multi_modal_projector.parameters()),
            language_model=any(p.requires_grad for p in matrices),
            adapter_parameters=sum(getattr(p, "ds_numel", p.numel()) for p in adapters),
        )


@dataclass(frozen=True)
class Work:
    """What a step is given.

    Attributes:
        lengths: Tokens of each sample in the language model, visual ones included, padding not.
        targets: Targets of all samples.
        visual_tokens: Tokens that the projector sees.
        tiles: Tiles that the tower sees; 0 where their tokens come from a cache.
    """

    lengths: Sequence[int]
    targets: int
    visual_tokens: int = 0
    tiles: int = 0


@dataclass(frozen=True)
class Flops:
    """Of a step."""

    forward: int
    backward: int

    @property
    def total(self) -> int:
        """Both."""
        return self.forward + self.backward


def step_flops(config: Any, work: Work, trained: Trained) -> Flops:
    """Operations of a step.

    Args:
        config: Of a LLaVA model.
        work: What the step is given.
        trained: What it trains.
    """
    projector = _projector(config, work.visual_tokens)
    matrices = sum(work.lengths) * 2 * layer_parameters(config.text_config) * config.text_config.num_hidden_layers
    matrices += work.targets * 2 * config.text_config.hidden_size * config.text_config.vocab_size
    attention = sum(causal_attention_flops(config.text_config, length) for length in work.lengths)
    adapters = sum(work.lengths) * 2 * trained.adapter_parameters
    forward = sum(projector) + matrices + attention + adapters + towers_flops(config, work.tiles)

    backward = 0
    through_images = trained.projector and work.visual_tokens > 0
    if through_images or trained.language_model or trained.adapter_parameters:
        backward += matrices + 2 * attention  # gradients of inputs; attention's two products have two inputs each
    if trained.language_model:
        backward += matrices
    if trained.adapter_parameters:
        backward += 2 * adapters
    if trained.projector:
        backward += sum(projector) + projector[1]  # the first layer's input, of the tower, needs no gradient
    return Flops(forward, backward)


def vision_flops(config: Any, tiles: int, tokens: int, patches: int | None = None) -> int:
    """Tower and projector of an image.

    Args:
        config: Of a LLaVA model.
        tiles: Of the image.
        tokens: That the projector sees, of all tiles.
        patches: That the tower sees of a tile, for methods that shrink the picture; by default the tower's own.
    """
    return towers_flops(config, tiles, patches) + sum(_projector(config, tokens))


def towers_flops(config: Any, tiles: int, patches: int | None = None) -> int:
    """All that is run of images before the projector: the tower, and what a family has beside it.

    Args:
        config: Of a LLaVA model.
        tiles: Of all images.
        patches: As for `vision_flops`.
    """
    family = family_of(config)
    pictures = -(-tiles // family.picture(config).tiles)
    return tiles * tower_flops(config, patches) + pictures * family.more_flops(config)


def prefill_flops(config: Any, length: Lengths) -> int:
    """The language model over a prompt; the head at the last token only.

    Args:
        config: Of a LLaVA model.
        length: Tokens of the prompt, visual ones included, or those that each layer reads.
    """
    text, head = config.text_config, 2 * config.text_config.hidden_size * config.text_config.vocab_size
    pairs = sum(each * (each + 1) // 2 for each in _per_layer(text, length))
    return head + 2 * layer_parameters(text) * sum(_per_layer(text, length)) + 4 * _query_width(text) * pairs


def decode_flops(config: Any, length: Lengths) -> int:
    """The language model over one more token.

    Args:
        config: Of a LLaVA model.
        length: Tokens before it, or those that each layer holds.
    """
    text = config.text_config
    return prefill_flops(config, 1) + 4 * _query_width(text) * sum(_per_layer(text, length))


def kv_bytes(config: Any, length: Lengths, element_size: int) -> int:
    """Keys and values of a prompt in all layers.

    Args:
        config: Of a LLaVA model.
        length: Tokens, visual ones included, or those that each layer holds.
        element_size: Bytes of a number: 2 in half precision.
    """
    text = config.text_config
    heads = text.num_attention_heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    return 2 * (_query_width(text) // heads) * key_heads * sum(_per_layer(text, length)) * element_size


def _per_layer(text_config: Any, length: Lengths) -> Sequence[int]:
    return [length] * text_config.num_hidden_layers if isinstance(length, int) else length


def decoder_parameters(config: Any) -> int:
    """Weights that a decode step reads: the matrices of all layers, and the head."""
    text = config.text_config
    return text.num_hidden_layers * layer_parameters(text) + text.hidden_size * text.vocab_size


def layer_parameters(text_config: Any) -> int:
    """Weights of the matrices of a decoder layer."""
    width = text_config.hidden_size
    heads = text_config.num_attention_heads
    head_dim = getattr(text_config, "head_dim", None) or width // heads
    key_heads = getattr(text_config, "num_key_value_heads", None) or heads
    return 2 * width * head_dim * (heads + key_heads) + 3 * width * text_config.intermediate_size


def causal_attention_flops(text_config: Any, length: int) -> int:
    """The products of queries with keys and of weights with values in all layers, each token seeing those before it."""
    pairs = length * (length + 1) // 2
    return text_config.num_hidden_layers * 4 * _query_width(text_config) * pairs


def _query_width(text_config: Any) -> int:
    """Channels of the queries of all heads."""
    heads: int = text_config.num_attention_heads
    return heads * (getattr(text_config, "head_dim", None) or text_config.hidden_size // heads)


def tower_flops(config: Any, patches: int | None = None) -> int:
    """One tile through the tower, up to the selected layer.

    Args:
        config: Of a LLaVA model.
        patches: Of the tile; by default the tower's own number.
    """
    vision = config.vision_config
    width = vision.hidden_size
    patches = (vision.image_size // vision.patch_size) ** 2 if patches is None else patches
    kind = tower_kind(vision)
    tokens = patches + int(kind.has_cls)
    depth = selected_depth(config.vision_feature_layer, vision.num_hidden_layers)
    layer = tokens * 2 * (4 * width**2 + kind.mlp_weights(vision)) + 4 * tokens**2 * width
    return patches * 2 * 3 * vision.patch_size**2 * width + depth * layer


def _projector(config: Any, tokens: int) -> tuple[int, int]:
    """Its first layer and the others, forward."""
    width, depth = config.text_config.hidden_size, projector_depth(projector_type(config))
    first = tokens * 2 * config.vision_config.hidden_size * width
    return first * min(depth, 1), tokens * 2 * width**2 * max(depth - 1, 0)


def paper_flops(config: Any, length: int) -> int:
    """What VisionZip's paper plots for a prompt of `length` tokens, to redraw its curve; use it for nothing else.

    It counts multiply-accumulates, queries and keys of full heads over all pairs, and an FFN of two matrices. For
    Llama-7B that is 2.57 times too little of the layers' matrices, and as much as is computed of attention; so
    `prefill_flops` is 2.52 times as much at 638 tokens and 2.36 times at 2990.
    """
    text = config.text_config
    width, inner = text.hidden_size, text.intermediate_size
    layer = 4 * length * width**2 + 2 * length**2 * width + 2 * length * width * inner
    return int(text.num_hidden_layers * layer)
