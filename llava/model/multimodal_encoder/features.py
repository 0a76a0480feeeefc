"""Vision tower -> `VisionFeatures`: hidden states, keys and saliency of one layer, and no attention map.

The towers are transformers' own modules, run layer by layer up to the selected one; what comes after it is never run.
Where their parts are, `TowerKind` says. Shapes: B tiles, N tokens, P patches, H heads, d channels a head, C = H * d.
"""

from __future__ import annotations

from collections.abc import Set
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from llava.kinds.towers import TowerKind, tower_kind
from llava.model.multimodal_compressor.registry import Need
from llava.model.multimodal_compressor.types import TileShape, VisionFeatures

# Rows of the attention map that exist at a time when a tower has no CLS token.
_QUERY_BLOCK = 128


def tower_has_cls(vision_config: Any) -> bool:
    """Whether the tower of this config puts a CLS token first.

    Raises:
        ValueError: The tower is of a kind that is not supported.
    """
    return tower_kind(vision_config).has_cls


def tile_shape(vision_config: Any) -> TileShape:
    """What is known of the tower's tiles before any is encoded.

    Raises:
        ValueError: The tower is of a kind that is not supported, or its image has no whole patch.
    """
    has_cls = tower_has_cls(vision_config)
    side = int(vision_config.image_size // vision_config.patch_size)
    if side < 1:
        raise ValueError(f"image_size {vision_config.image_size} is less than patch_size {vision_config.patch_size}")
    return TileShape((side, side), has_cls)


def selected_depth(vision_feature_layer: int, num_layers: int) -> int:
    """How many encoder layers must run so that `hidden_states[vision_feature_layer]` is known.

    Args:
        vision_feature_layer: Index into the hidden states, of which there are `num_layers + 1`, embeddings first.
        num_layers: Encoder layers of the tower.

    Raises:
        ValueError: There is no such hidden state.
    """
    if not -num_layers - 1 <= vision_feature_layer <= num_layers:
        raise ValueError(
            f"vision_feature_layer {vision_feature_layer} is outside {-num_layers - 1}..{num_layers}: "
            f"the vision tower has {num_layers} layers"
        )
    return vision_feature_layer % (num_layers + 1)


def extract_features(
    tower: nn.Module, pixel_values: Tensor, vision_feature_layer: int, needs: Set[Need] = frozenset()
) -> VisionFeatures:
    """Runs a tower up to the selected layer.

    Args:
        tower: transformers' module of a registered kind, such as `CLIPVisionModel`.
        pixel_values: (B, 3, height, width).
        vision_feature_layer: Index into the hidden states, as in transformers' config; LLaVA uses -2.
        needs: What a compressor wants beside the hidden states: `keys`, `saliency`, `digest`.

    Returns:
        Features of the B tiles.

    Raises:
        ValueError: Keys or saliency are asked of the embeddings, which no attention made; or the pixels are of another
            size than the tower's, which some towers would take without a word.
    """
    core: Any = getattr(tower, "vision_model", tower)  # transformers before 5.20 nests the tower once more
    kind = tower_kind(core.config)
    layers = attrgetter(kind.layers)(core)
    depth = selected_depth(vision_feature_layer, len(layers))
    if depth == 0 and not needs.isdisjoint({"keys", "saliency"}):
        raise ValueError("vision_feature_layer selects the embeddings, before any attention; compression needs a layer")

    side = core.config.image_size
    if pixel_values.shape[-2:] != (side, side):
        height, width = pixel_values.shape[-2:]
        raise ValueError(
            f"pixels are {height} x {width}, and the tower's image_size is {side}; size and crop_size in "
            "preprocessor_config.json say what the image processor makes"
        )
    hidden = core.embeddings(pixel_values)  # (B, N, C)
    if kind.embedding_norm is not None:
        hidden = attrgetter(kind.embedding_norm)(core)(hidden)
    keys = saliency = None
    for layer in layers[: max(depth - 1, 0)]:
        hidden = layer(hidden, attention_mask=None)
    if depth > 0:
        last = layers[depth - 1]
        if not needs.isdisjoint({"keys", "saliency"}):
            keys, saliency = _keys_and_saliency(kind, last, hidden)
        hidden = last(hidden, attention_mask=None)

    digest = _digest(pixel_values) if "digest" in needs else None
    return VisionFeatures(hidden, tile_shape(core.config).grid, kind.has_cls, keys, saliency, digest)


def _keys_and_saliency(kind: TowerKind, layer: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """What VisionZip reads of a layer: keys, mean over heads (B, N, d), and attention received (B, P), both fp32."""
    attention = attrgetter(kind.attention)(layer)
    scale = getattr(attention, kind.attention_scale)
    normed = attrgetter(kind.attention_norm)(layer)(hidden)
    shape = (*normed.shape[:2], -1, attention.head_dim)
    keys = attention.k_proj(normed).view(shape)  # (B, N, H, d)
    mean_keys = keys.float().mean(dim=2)
    keys = keys.transpose(1, 2)  # (B, H, N, d)
    queries = normed[:, :1] if kind.has_cls else normed
    queries = attention.q_proj(queries).view(*queries.shape[:2], -1, attention.head_dim).transpose(1, 2)  # (B, H, Q, d)
    if kind.has_cls:
        return mean_keys, _attention(queries, keys, scale).sum(dim=(1, 2))[:, 1:]
    return mean_keys, received_attention(queries, keys, scale)


def _attention(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """(B, H, Q, N), fp32: softmax(q k^T) of the given rows."""
    return torch.softmax((queries @ keys.transpose(-1, -2)) * scale, dim=-1, dtype=torch.float32)


def received_attention(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """Attention that each token receives, averaged over all queries and heads (VisionZip, appendix A.2).

    The map is made in blocks of queries and summed at once, so that B * H * 128 * N values exist at a time.

    Args:
        queries: (B, H, N, d).
        keys: (B, H, N, d).
        scale: What the products are multiplied by before the softmax.

    Returns:
        (B, N), fp32.
    """
    batch, heads, num_tokens, _ = queries.shape
    received = torch.zeros(batch, num_tokens, dtype=torch.float32, device=queries.device)
    for block in queries.split(_QUERY_BLOCK, dim=2):
        received = received + _attention(block, keys, scale).sum(dim=(1, 2))
    return received / (heads * num_tokens)


def _digest(pixel_values: Tensor) -> Tensor:
    """(B,), int64: a hash of each tile's pixels; sums of integers are exact, so it is the same in any batch."""
    bits = pixel_values.detach().float().flatten(1).view(torch.int32).to(torch.int64)
    weights = torch.arange(1, bits.shape[1] + 1, device=bits.device) * 0x9E3779B1
    return (bits * weights).sum(dim=1)
