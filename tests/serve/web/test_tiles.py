"""Pictures in tiles: each tile stands where it was cut, and budgets, picks and answers are the model's own."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llava.inference import GenerationOptions, Inference
from llava.serve.web.events import Demo
from llava.serve.web.limits import Limits
from llava.serve.web.methods import ALL, HAND
from tests.model.folders import IMAGES, copy_recorded_onevision
from tests.serve.web.conftest import data_url, sent

LANDSCAPE = IMAGES / "landscape.png"
WHAT, KEPT, BRIEF = "What is this?", "Kept patches", GenerationOptions(6)


@pytest.fixture(scope="module", params=["next", "onevision"])
def demo(request: pytest.FixtureRequest, oracle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """LLaVA-NeXT of 24 x 24 patches a tile; LLaVA-OneVision of 27 x 27, which leave 6 pixels of 384 over."""
    made = request.param == "onevision"
    folder = copy_recorded_onevision(tmp_path_factory.mktemp("ov")) if made else oracle_dir / "tiny-llava-v1.6-next"
    return Demo(Inference.load(folder, device="cpu"), Limits(), [], BRIEF)


@pytest.fixture
def drawing(demo: Demo) -> dict[str, Any]:
    shown = demo.upload("one", {"data": data_url(LANDSCAPE.read_bytes())}, {"A": sent("visionzip", 20, 3)}, KEPT)
    assert shown.notice == ""
    return shown.stages["A"]


@pytest.fixture
def tower_runs(demo: Demo) -> Iterator[list[int]]:
    runs: list[int] = []
    handle = demo.inference.model.model.vision_tower.embeddings.register_forward_hook(lambda *_: runs.append(1))
    yield runs
    handle.remove()


def picture_of(tile: dict[str, Any]) -> np.ndarray:
    content = base64.b64decode(tile["picture"].partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=float)


def test_each_tile_stands_where_it_was_cut(demo: Demo, drawing: dict[str, Any]) -> None:
    """Against the picture that Pillow lays on the grid's canvas; a tile in another place differs by far more."""
    side = demo.inference.model.config.vision_config.image_size
    seen = side // 14 * 14
    whole, *grid = drawing["tiles"]
    assert (whole["x"], whole["y"]) == (0, 0) and len({(tile["x"], tile["y"]) for tile in grid}) == len(grid) > 1
    left = min(tile["x"] for tile in grid)
    assert left > 1, "beside the whole picture"
    columns, rows = (1 + round(max(tile[axis] for tile in grid) - first) for axis, first in (("x", left), ("y", 0)))
    picture = Image.open(LANDSCAPE).convert("RGB")
    scale = min(columns * side / picture.width, rows * side / picture.height)
    size = min(columns * side, round(picture.width * scale)), min(rows * side, round(picture.height * scale))
    canvas = Image.new("RGB", (columns * side, rows * side))
    canvas.paste(picture.resize(size, Image.BICUBIC), ((canvas.width - size[0]) // 2, (canvas.height - size[1]) // 2))
    expected = np.asarray(canvas, dtype=float)
    for tile in grid:
        x, y = round(tile["x"] - left) * side, tile["y"] * side
        assert np.abs(picture_of(tile) - expected[y : y + seen, x : x + seen]).mean() < 4
    squeezed = np.asarray(picture.resize((side, side), Image.BICUBIC), dtype=float)[:seen, :seen]
    assert np.abs(picture_of(whole) - squeezed).mean() < 4
    assert np.abs(picture_of(grid[0]) - picture_of(grid[-1])).mean() > 12
    assert all(
        len(tile["heat"]) == drawing["rows"] * drawing["columns"] == (side // 14) ** 2 for tile in drawing["tiles"]
    )


def test_every_tile_has_its_tokens(demo: Demo, drawing: dict[str, Any]) -> None:
    has_cls = demo.inference.model.model.tile_shape.saliency_has_cls
    assert drawing["hasCls"] is has_cls and len(drawing["kept"]) == len(drawing["tiles"])
    for kept in drawing["kept"]:
        assert len(kept["at"]) == 20 and sum(kept["merged"]) == 3 and (-1 in kept["at"]) is has_cls
    assert len({tuple(kept["at"]) for kept in drawing["kept"]}) > 1


def test_answers_are_the_models_own_and_the_tower_runs_once(demo: Demo, tower_runs: list[int]) -> None:
    picture, model = Image.open(LANDSCAPE).convert("RGB"), demo.inference.model
    demo.upload("two", {"data": data_url(LANDSCAPE.read_bytes())}, {"A": sent(ALL)}, KEPT)
    assert len(tower_runs) == 1
    picks = demo.begin_picks("two", sent("divprune", 20, 0), WHAT)
    chosen = {"none": sent(ALL), "visionzip:17+3": sent("visionzip"), "divprune:20": sent(HAND, picks=picks)}
    for budget, first in chosen.items():
        *_, shown = demo.ask("two", WHAT, {"A": first})
        assert len(tower_runs) == 1
        demo.restart("two")
        try:
            model.set_compression(budget)
            expected = demo.inference.ask_one(WHAT, picture, options=BRIEF)
        finally:
            model.set_compression(None)
        tower_runs.pop()
        assert expected.text in shown.talks["A"] and f"<b>{expected.visual_tokens} (" in shown.talks["A"], budget


def test_all_tokens_says_what_becomes_of_the_patches(demo: Demo, drawing: dict[str, Any]) -> None:
    """Of a grid the border goes, newlines come, and OneVision shrinks what is larger than its bound."""
    everything = demo.redraw("one", {"A": sent(ALL)}, KEPT, "").stages["A"]
    [total] = demo.inference.model.num_visual_tokens([Image.open(LANDSCAPE).size])
    patches = len(drawing["tiles"]) * drawing["rows"] * drawing["columns"]
    assert everything["note"].startswith(f"{total} tokens of {patches} patches: of the grid the border is left out")
    assert "shrunk" not in everything["note"]
    large = Image.new("RGB", (384 * 6, 384 * 6), "navy")
    file = io.BytesIO()
    large.save(file, "PNG")
    if demo.inference.model.model.tile_shape.saliency_has_cls:
        return  # a NeXT has no such grid
    shown = demo.upload("large", {"data": data_url(file.getvalue())}, {"A": sent(ALL)}, KEPT)
    assert "shrunk to about 9 tiles" in shown.stages["A"]["note"] and len(shown.stages["A"]["tiles"]) == 37
