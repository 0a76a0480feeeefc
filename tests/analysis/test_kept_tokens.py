"""`llava kept-tokens`: what is told, what is drawn, and which token a merged patch is said to be in."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from llava.analysis.kept_tokens.command import main
from llava.analysis.kept_tokens.draw import Scene, draw_kept_tokens, draw_scenes
from llava.analysis.kept_tokens.find import KeptTokens, find_kept_tokens
from llava.inference import Inference
from llava.model.multimodal_compressor.visionzip import visionzip
from llava.model.multimodal_encoder import extract_features


def test_scenes_are_drawn_beside_what_is_kept() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    kept = KeptTokens(np.full((16, 16, 3), 0.5), (4, 4), (0, 5), {10: 3}, keeps_cls=True)
    assert kept.caption() == "4 tokens: CLS + 2 patches + 1 merged"
    figure = Figure()
    draw_scenes(
        figure, [Scene("which digit?", "5", ((kept, "5"), (kept, "x" * 50))), Scene("who?", "me", ((kept, "I"),))]
    )
    titles = [axes.get_title() for axes in figure.axes]
    first = ["which digit?\n5", f"{kept.caption()}\nanswer: 5", f"{kept.caption()}\nanswer: {'x' * 33}..."]
    assert titles == [*first, "who?\nme", f"{kept.caption()}\nanswer: I", ""]
    shown = figure.axes[1].images[0].get_array()
    assert shown[0, 0, 0] == 0.5 and shown[0, 4, 0] == pytest.approx(0.5 * 0.22), "what is not kept is dimmed"


def test_kept_tokens_are_told_and_drawn(oracle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--device", "cpu"]
    image = ["--image-file", str(oracle_dir / "images" / "square.png"), "--output", str(tmp_path / "new" / "kept.png")]
    budgets = ["visionzip:54+10", "random:5", "coverage:6", "coverage:6,strength=0", "divprune:6,positions=restore"]
    assert main([*model, *image, *(part for budget in budgets for part in ("--compression", budget))]) == 0
    said = capsys.readouterr().out
    assert (
        "visionzip:54+10: 64 tokens: CLS + 53 patches + 10 merged" in said and "random:5: 5 tokens: 5 patches" in said
    )
    assert "coverage:6,strength=0: 6 tokens: 6 patches" in said
    for budget in ("coverage:6", "divprune:6,positions=restore"):
        assert re.search(rf"^{budget}: 6 tokens: \d patches \+ \d merged$", said, re.MULTILINE), said
    assert (tmp_path / "new" / "kept.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match="error: without compression every patch is kept: name a budget"):
        main([*model, *image, "--compression", "none"])
    with pytest.raises(SystemExit, match=r"error: fastv:500\S* drops tokens inside the language model; what is shown"):
        main([*model, *image, "--compression", "fastv:500,layer=1"])


def test_a_merged_patch_is_in_the_token_that_visionzip_puts_it_into(oracle_dir: Path) -> None:
    inference = Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu")
    image = inference.open([oracle_dir / "images" / "square.png"])
    found = find_kept_tokens(inference, image[0], "visionzip:54+10")
    core = inference.model.model
    features = extract_features(core.vision_tower, inference.preprocess(image), -2, {"keys", "saliency"})
    own = visionzip(
        features.content, features.keys, features.saliency, dominant=54, contextual=10, return_assignment=True
    )
    assert found.holders == tuple(own.positions[0][row].item() for row in own.assignment[0].tolist())
    assert all(found.holders.count(place) == size for place, size in found.contextual.items())
    assert all(found.holders[place] == place for place in found.dominant)


def test_merged_patches_have_the_colour_of_their_token_and_dropped_ones_are_dark() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    holders = (0, 1, 1, 14, 14, -1, *[-1] * 8, 14, -1)
    kept = KeptTokens(np.full((16, 16, 3), 0.5), (4, 4), (0,), {1: 2, 14: 3}, keeps_cls=False, holders=holders)
    axes = Figure().subplots()
    draw_kept_tokens(axes, kept, tinted=True)
    seen = axes.images[0].get_array()[::4, ::4].reshape(16, 3)  # a pixel of each patch
    assert np.allclose(seen[0], 0.5) and np.allclose(seen[5], 0.5 * 0.22)
    assert np.allclose(seen[1], seen[2]) and np.allclose(seen[3], seen[14]) and not np.allclose(seen[1], seen[3])
    outlined = {patch.get_edgecolor()[:3] for patch in axes.patches}
    assert len(axes.patches) == 3 and len(outlined) == 3
    assert [text.get_text() for text in axes.texts] == ["2", "3"]


def test_several_images_make_rows_and_the_numbers_are_json(
    oracle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    images = [str(oracle_dir / "images" / name) for name in ("square.png", "wide.png")]
    words = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--device", "cpu", "--image-file", *images]
    words += ["--compression", "visionzip:54+10", "--compression", "uniform:9"]
    words += ["--output", str(tmp_path / "kept.svg"), "--json", str(tmp_path / "kept.json")]
    assert main(words) == 0
    assert "wide.png: uniform:9: 9 tokens: 9 patches" in capsys.readouterr().out
    drawn = (tmp_path / "kept.svg").read_text()
    assert drawn.count(">visionzip:54+10<") == drawn.count(">uniform:9<") == 2
    told = json.loads((tmp_path / "kept.json").read_text())
    assert [(entry["image"], entry["compression"]) for entry in told] == [
        (name, budget) for name in ("square.png", "wide.png") for budget in ("visionzip:54+10", "uniform:9")
    ]
    assert len(told[0]["held_by"]) == 576 and len(told[0]["merged"]) == 10 and told[0]["keeps_cls"]
    assert told[1]["held_by"].count(-1) == 576 - 9 and told[1]["merged"] == []


def test_a_picture_needs_a_known_ending_and_matplotlib(
    oracle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--model-path", "nowhere", "--image-file", str(oracle_dir / "images" / "square.png")]
    with pytest.raises(SystemExit, match=r"kept.jpg: a picture's name ends in \.svg, \.pdf, \.png"):
        main([*words, "--output", str(tmp_path / "kept.jpg")])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match=re.escape("pictures need matplotlib: pip install llava-visionzip[demo]")):
        main([*words, "--output", str(tmp_path / "kept.png")])
