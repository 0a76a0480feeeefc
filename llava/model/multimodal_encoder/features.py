"""Vision tower -> `VisionFeatures`: hidden states, keys and saliency of one layer, and no attention map.

The towers are transformers' own modules, run layer by layer up to the selected one; what comes after it is never run.
Where their parts are, `TowerKind` says. Shapes: B tiles, N tokens, P patches, H heads, d channels a head, C = H * d.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from inspect import signature
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from llava.kinds.towers import TowerKind, tower_kind
from llava.model.multimodal_compressor.registry import Need
from llava.model.multimodal_compressor.types import VisionFeatures

# Rows of the attention map that exist at a time when a tower has no CLS token.
_QUERY_BLOCK = 128

_OF_ATTENTION: Set[Need] = frozenset({"keys", "saliency", "cls_attention", "last_layer_qk"})


def tower_has_cls(vision_config: Any) -> bool:
    """Whether the tower of this config puts a CLS token first.

    Raises:
        ValueError: The tower is of a kind that is not supported.
    """
    return tower_kind(vision_config).has_cls


def tower_grid(vision_config: Any) -> tuple[int, int]:
    """(h, w) of a tile's patches, before any is encoded.

    Raises:
        ValueError: The tower's image has no whole patch.
    """
    side = int(vision_config.image_size // vision_config.patch_size)
    if side < 1:
        raise ValueError(f"image_size {vision_config.image_size} is less than patch_size {vision_config.patch_size}")
    return side, side


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
    tower: nn.Module,
    pixel_values: Tensor,
    vision_feature_layer: int,
    needs: Set[Need] = frozenset(),
    grid: tuple[int, int] | None = None,
) -> VisionFeatures:
    """Runs a tower up to the selected layer.

    Args:
        tower: transformers' module of a registered kind, such as `CLIPVisionModel`.
        pixel_values: (B, 3, height, width).
        vision_feature_layer: Index into the hidden states, as in transformers' config; LLaVA uses -2.
        needs: What a compressor wants of the tower beside the hidden states; what comes from elsewhere is passed over.
        grid: (h, w) of patches to shrink the pixels to; position embeddings are interpolated as transformers does,
            bicubically, and the CLS token is not returned. None leaves the picture as it is.

    Returns:
        Features of the B tiles.

    Raises:
        ValueError: Something of attention is asked of the embeddings, which no attention made; or the pixels are of
            another size than the tower's, which some towers would take without a word.
    """
    core: Any = getattr(tower, "vision_model", tower)  # transformers before 5.20 nests the tower once more
    kind = tower_kind(core.config)
    layers = attrgetter(kind.layers)(core)
    depth = selected_depth(vision_feature_layer, len(layers))
    if depth == 0 and not needs.isdisjoint(_OF_ATTENTION):
        raise ValueError("vision_feature_layer selects the embeddings, before any attention; compression needs a layer")

    hidden = _into_layers(core, kind, pixel_values, grid)
    found: dict[str, Any] = {}
    for layer in layers[: max(depth - 1, 0)]:
        hidden = layer(hidden, attention_mask=None)
    if depth > 0:
        selected, before = layers[depth - 1], hidden
        if not needs.isdisjoint(_OF_ATTENTION):
            found = _read_attention(kind, selected, before, needs)
        hidden = selected(before, attention_mask=None)
        if "last_layer_qk" in needs:
            is_last = depth == len(layers)
            found["last_layer_qk"] = _last_layer_qk(kind, layers[depth - is_last :], before if is_last else hidden)
    if "digest" in needs:
        found["digest"] = _digest(pixel_values)
    patches = hidden[:, int(kind.has_cls) :]
    has_cls = kind.has_cls and grid is None
    content = hidden if has_cls else patches
    own_grid = tower_grid(core.config)
    found["tile_grid"] = None if grid is None else own_grid
    return VisionFeatures(content, grid or own_grid, has_cls, patches, kind.has_cls, **found)


def saliency_of_layers(tower: nn.Module, pixel_values: Tensor, vision_feature_layers: Sequence[int]) -> list[Tensor]:
    """Saliency of several layers, as `VisionFeatures` has it of one, in a single pass.

    Args:
        tower: As for `extract_features`.
        pixel_values: (B, 3, height, width).
        vision_feature_layers: Indices into the hidden states: -2 is the saliency that LLaVA's compressors read.

    Returns:
        (B, P) each, fp32, in the order of the layers.

    Raises:
        ValueError: There is no such layer, one is that of the embeddings, or the pixels are of another size.
    """
    core: Any = getattr(tower, "vision_model", tower)
    kind = tower_kind(core.config)
    layers = attrgetter(kind.layers)(core)
    depths = [selected_depth(layer, len(layers)) for layer in vision_feature_layers]
    if 0 in depths:
        raise ValueError("layer 0 are the embeddings, before any attention; name a layer of 1.. or -1..")
    hidden = _into_layers(core, kind, pixel_values, None)
    found: dict[int, Tensor] = {}
    for depth, layer in enumerate(layers[: max(depths)], start=1):
        if depth in depths:
            found[depth] = _read_attention(kind, layer, hidden, {"saliency"})["saliency"]
        hidden = layer(hidden, attention_mask=None)
    return [found[depth] for depth in depths]


def _into_layers(core: Any, kind: TowerKind, pixel_values: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """(B, N, C): what the first layer is given."""
    side = core.config.image_size
    if pixel_values.shape[-2:] != (side, side):
        height, width = pixel_values.shape[-2:]
        raise ValueError(
            f"pixels are {height} x {width}, and the tower's image_size is {side}; size and crop_size in "
            "preprocessor_config.json say what the image processor makes"
        )
    hidden = _embed(core, pixel_values, grid)
    if kind.embedding_norm is not None:
        hidden = attrgetter(kind.embedding_norm)(core)(hidden)
    return hidden


def _embed(core: Any, pixel_values: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """(B, N, C): patches with positions, of the picture shrunk to a grid if one is given."""
    if grid is None:
        return core.embeddings(pixel_values)  # type: ignore[no-any-return]
    size = [count * core.config.patch_size for count in grid]
    shrunk = interpolate(pixel_values.float(), size, mode="bicubic", antialias=True).to(pixel_values.dtype)
    if "interpolate_pos_encoding" in signature(core.embeddings.forward).parameters:
        return core.embeddings(shrunk, interpolate_pos_encoding=True)  # type: ignore[no-any-return]
    return core.embeddings(shrunk)  # type: ignore[no-any-return]  # DINOv2 does so by itself


def _read_attention(kind: TowerKind, layer: Any, hidden: Tensor, needs: Set[Need]) -> dict[str, Tensor]:
    """What methods read of a layer, all fp32: keys, mean over heads (B, N, d); attention received (B, P); CLS's row."""
    attention = attrgetter(kind.attention)(layer)
    scale = getattr(attention, kind.attention_scale)
    normed = _attention_input(kind, layer, hidden)
    shape = (*normed.shape[:2], -1, attention.head_dim)
    keys = attention.k_proj(normed).view(shape)  # (B, N, H, d)
    found = {}
    if "keys" in needs:
        found["keys"] = keys.float().mean(dim=2)
    if needs.isdisjoint({"saliency", "cls_attention"}):
        return found
    keys = keys.transpose(1, 2)  # (B, H, N, d)
    queries = normed[:, :1] if kind.has_cls else normed
    queries = attention.q_proj(queries).view(*queries.shape[:2], -1, attention.head_dim).transpose(1, 2)  # (B, H, Q, d)
    if not kind.has_cls:
        found["saliency"] = received_attention(queries, keys, scale)
        return found
    row = _attention(queries, keys, scale)  # (B, H, 1, N)
    if "saliency" in needs:
        found["saliency"] = row.sum(dim=(1, 2))[:, 1:]
    if "cls_attention" in needs:
        found["cls_attention"] = row[:, :, 0, 1:]
    return found


def _last_layer_qk(kind: TowerKind, layers: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys (B, N, C) of the last of some layers; `hidden` is what the first of them is given."""
    for layer in layers[:-1]:
        hidden = layer(hidden, attention_mask=None)
    attention = attrgetter(kind.attention)(layers[-1])
    normed = _attention_input(kind, layers[-1], hidden)
    return attention.q_proj(normed), attention.k_proj(normed)


def _attention_input(kind: TowerKind, layer: Any, hidden: Tensor) -> Tensor:
    """(B, N, C): what queries and keys are made of, of what the layer is given."""
    if kind.layer_input is not None:
        hidden = attrgetter(kind.layer_input)(layer)(hidden)
    return attrgetter(kind.attention_norm)(layer)(hidden)  # type: ignore[no-any-return]


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
