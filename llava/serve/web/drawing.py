"""What the page draws over a picture: its tiles in place, the token that holds each patch, and where the tower looks.

Plain numbers and texts; `stage.js` makes an SVG of them.
"""

from __future__ import annotations

import base64
import io
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from llava.images.tile_pixels import shown_pixels
from llava.inference import Inference
from llava.model.any_budget import CLS, ReadImage, bind, kept_under, read_image, reads_questions
from llava.model.anyres import TileLayout
from llava.model.multimodal_compressor import CompressedTokens
from llava.serve.web.choice import Choice
from llava.serve.web.methods import HAND

_GAP = 0.06  # of a tile's side, between the whole picture and its grid
_SMALL = 200  # pixels of a side up to which a tile is sent without loss
_LEVELS = 255
_THUMBNAIL = 112


@dataclass(frozen=True)
class ShownPicture:
    """A visitor's picture.

    Attributes:
        image: What the tower has read of it.
        tiles: Of each tile its picture as a `data:` URL, and its place in tiles: `x`, `y`.
        encode_seconds: What the tower took.
    """

    image: ReadImage
    tiles: tuple[dict[str, Any], ...]
    encode_seconds: float


def show_picture(inference: Inference, picture: Image.Image) -> ShownPicture:
    """Sends a picture through the tower, once.

    Args:
        inference: The model.
        picture: RGB.
    """
    pixels = inference.preprocess([picture])
    start = time.perf_counter()
    image = read_image(inference.model, pixels, picture.size)
    if inference.model.device.type == "cuda":
        torch.cuda.synchronize(inference.model.device)
    taken = time.perf_counter() - start
    tiles = inference.model.model.seen_tiles(pixels[0] if pixels[0].ndim == 4 else pixels[:1])
    layout = TileLayout.from_config(inference.model.config)
    rows, columns = layout.grid_shape(picture.size) if len(tiles) > 1 else (0, 1)
    has_whole = len(tiles) > rows * columns
    side = layout.patches_per_side * inference.model.config.vision_config.patch_size  # what the tower looks at
    drawn = []
    for number, tile in enumerate(tiles):
        row, column = divmod(number - has_whole, columns)
        is_whole = has_whole and number == 0
        place = {"x": 0, "y": 0} if is_whole else {"x": has_whole * (1 + _GAP) + column, "y": row}
        whole = _as_seen(tile, inference.image_processor).crop((0, 0, side, side))
        drawn.append({**place, "picture": _data_url(whole)})
    return ShownPicture(image, tuple(drawn), taken)


def draw(inference: Inference, shown: ShownPicture, choice: Choice, view: str, question: str) -> dict[str, Any]:
    """What `stage.js` is given.

    Args:
        inference: The model.
        shown: The picture.
        choice: Of the pane; what is picked by hand the page knows itself.
        view: `kept`, `attention` or `picture`.
        question: For methods that read it.

    Raises:
        ValueError: The model cannot have that choice.
    """
    model, features = inference.model, shown.image.features
    rows, columns = features.grid
    heat = features.saliency
    assert heat is not None  # `read_image` asks for it
    levels = (heat / heat.max().clamp(min=1e-12) * _LEVELS).round().int().tolist()
    drawing: dict[str, Any] = {
        "view": view,
        "by": "the CLS token" if features.saliency_has_cls else "all patches, on average",
        "rows": rows,
        "columns": columns,
        "tiles": [{**tile, "heat": heat} for tile, heat in zip(shown.tiles, levels, strict=True)],
        "hasCls": bool(model.model.tile_shape.keep_cls and features.has_cls),
        "byHand": choice.method == HAND,
        "note": f"The tower took {shown.encode_seconds * 1000:.0f} ms, once.",
    }
    if choice.method == HAND:
        return drawing
    bound = bind(model, choice.budget)
    if bound is None:
        drawing["note"] = f"{_everything(inference, shown)} {drawing['note']}"
    elif reads_questions(model, bound) and not question.strip():
        drawing["note"] = f"{choice.method} chooses by the question: ask one, and what it keeps is shown."
    else:
        kept = kept_under(model, shown.image, bound, question)
        drawing["kept"] = [_tokens_of(kept, tile) for tile in range(shown.image.num_tiles)]
    return drawing


def _everything(inference: Inference, shown: ShownPicture) -> str:
    """What the language model gets of a picture without compression, in words."""
    layout, tiles, size = TileLayout.from_config(inference.model.config), shown.image.num_tiles, shown.image.size
    if tiles == 1 or layout.merge_type != "spatial_unpad":
        return "Every patch is kept."
    total = layout.num_tokens(tiles, size, None)
    is_shrunk = total != replace(layout, most_tiles=None).num_tokens(tiles, size, None)
    shrunk = f", and it is shrunk to about {layout.most_tiles} tiles" if is_shrunk else ""
    return (
        f"{total} tokens of {tiles * layout.patches_per_side**2} patches: of the grid the border is left out{shrunk}; "
        "each of its rows ends with one more token."
    )


def start_of_picks(inference: Inference, shown: ShownPicture, choice: Choice, question: str) -> list[list[int]]:
    """A method's choice as picks: the patches at which its tokens stand, merged ones too, and the CLS token if kept.

    Raises:
        ValueError: The model cannot have that choice.
    """
    bound = bind(inference.model, choice.budget)
    if bound is None:
        patches = list(range(inference.model.num_patches))
        return [patches for _ in range(shown.image.num_tiles)]
    kept = kept_under(inference.model, shown.image, bound, question)
    has_cls = bool(inference.model.model.tile_shape.keep_cls)
    places = zip(kept.positions.tolist(), kept.sizes.tolist(), strict=True)
    return [
        sorted({at for at, size in zip(*tile, strict=True) if at > CLS or (size > 0 and has_cls)}) for tile in places
    ]


def _tokens_of(kept: CompressedTokens, tile: int) -> dict[str, Any]:
    """Of one tile: where each token stands, how many tokens it holds, which are merged; and who holds each patch."""
    assert kept.assignment is not None  # `kept_under` fills it in
    sizes = kept.sizes[tile].tolist()
    return {
        "at": kept.positions[tile].tolist(),
        "sizes": sizes,
        "merged": [int(number >= kept.num_dominant or size > 1) for number, size in enumerate(sizes)],
        "holder": kept.assignment[tile].tolist(),
    }


def _as_seen(tile: Tensor, processor: Any) -> Image.Image:
    """What a tile (3, H, W) is to the tower."""
    return Image.fromarray((shown_pixels(tile, processor) * 255).round().astype("uint8"))


def thumbnail(picture: Image.Image) -> str:
    """A small copy of a picture as a `data:` URL."""
    small = picture.copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return _data_url(small)


def _data_url(image: Image.Image) -> str:
    kind, options = ("png", {}) if image.width <= _SMALL else ("jpeg", {"quality": 88})
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
