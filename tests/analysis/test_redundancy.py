"""`llava redundancy`: closed forms, what VisionZip keeps by its definition, and the command from end to end."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil, SiglipVisionModel

from llava.analysis.redundancy.command import main
from llava.analysis.redundancy.measure import budget_ladder, depths_of, measure
from llava.analysis.redundancy.spread import spread_of
from llava.images.folders import image_files
from llava.images.source import open_image
from llava.locks import open_alone
from llava.model.tower_alone import load_tower
from tests.kinds.folders import CROP, SIDE, save_tower
from tests.model.tiny import hf_llava_next, sharpen, vision_config


def test_even_and_single_attention_have_their_closed_forms():
    even = spread_of(np.full((3, 64), 1 / 64, dtype=np.float32))
    assert even.entropy.mean == pytest.approx(np.log(64)) and even.effective_patches.mean == pytest.approx(64)
    assert even.top[16].mean == pytest.approx(0.25) and even.top[64].mean == pytest.approx(1)
    assert (even.for_half.mean, even.for_nearly_all.mean) == (32, 58)
    single = spread_of(np.eye(64, dtype=np.float32)[:4])
    assert single.effective_patches.mean == pytest.approx(1) and single.entropy.mean == pytest.approx(0)
    assert single.top[1].mean == 1 and single.for_nearly_all.mean == 1
    # One patch of 64 has all: 64 times an even spread; the others are in the lowest bin.
    assert single.share_of_patches[0] == pytest.approx(63 / 64)
    assert single.share_of_attention[single.edges.index(64.0)] == pytest.approx(1)


def test_two_values_are_counted_where_they_are():
    shares = np.array([[0.5, 0.25, 0.125, 0.125]] * 2, dtype=np.float32)
    spread = spread_of(shares)
    assert sum(spread.share_of_patches) == pytest.approx(1) and sum(spread.share_of_attention) == pytest.approx(1)
    assert spread.share_of_attention[spread.edges.index(2.0)] == pytest.approx(0.5)
    assert spread.share_of_patches[spread.edges.index(0.5)] == pytest.approx(0.5)
    assert spread.entropy.mean == pytest.approx(1.75 * np.log(2)) and [spread.top[k].mean for k in (1, 2)] == [
        0.5,
        0.75,
    ]


def save_pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        pixels = generator.integers(0, 255, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    root = tmp_path_factory.mktemp("towers")
    torch.manual_seed(0)
    sharpen(SiglipVisionModel(vision_config("siglip", image_size=42))).save_pretrained(root / "siglip")
    SiglipImageProcessorPil(size={"height": 42, "width": 42}).save_pretrained(root / "siglip")
    return save_tower("clip", root / "clip"), root / "siglip", save_pictures(root / "pictures", 9)


def test_visionzip_keeps_the_top_k_and_others_what_they_happen_to(towers):
    clip, siglip, pictures = towers
    for path, of_cls in ((clip, 1), (siglip, 0)):
        tower = load_tower(path)
        budgets = budget_ladder(tower, ["visionzip", "random", "uniform", "fastervlm" if of_cls else "visionzip"], [6])
        files = list(image_files([pictures]))
        layers = depths_of(tower, [1, -1])
        assert layers == (1, 3, 4)
        found = measure(tower, files, layers, budgets, batch_size=4, show=2)
        assert all(shares.shape == (9, tower.tile_shape.num_patches) for shares in found.shares.values())
        np.testing.assert_allclose(found.shares[3].sum(axis=1), 1, rtol=1e-5)
        kept = {budget.method: mass for budget, mass in found.kept.items()}
        descending = -np.sort(-found.shares[3].astype(np.float64), axis=1)
        # visionzip:5+1: CLS counts as one of the five
        np.testing.assert_allclose(kept["visionzip"], descending[:, : 5 - of_cls].sum(axis=1), rtol=1e-6)
        if of_cls:
            np.testing.assert_allclose(kept["fastervlm"], descending[:, :6].sum(axis=1), rtol=1e-6)
        for method in ("random", "uniform"):  # six patches, whichever they are
            assert (kept[method] <= descending[:, :6].sum(axis=1)).all()
            assert (kept[method] >= descending[:, -6:].sum(axis=1)).all()
        alone = measure(tower, files[4:5], layers, budgets, batch_size=1, show=2)
        np.testing.assert_allclose(alone.shares[1][0], found.shares[1][4], atol=1e-6)
        assert len(found.pictures) == 2 and found.pictures[0].shape == (tower.config.image_size,) * 2 + (3,)


def test_towers_stand_side_by_side_in_figures_and_numbers(towers, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    clip, siglip, pictures = towers
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "broken.png").write_bytes(b"no picture")
    words = ["--vision-tower", str(clip), str(siglip), "--name", "CLIP $a", "SigLIP", "--layers=all", "--device", "cpu"]
    words += ["--images", str(pictures), str(tmp_path / "more"), "--output-dir", str(tmp_path / "out")]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "CLIP $a: the CLS token's attention, 4 x 4 patches, 9 images" in said.out
    assert "SigLIP: attention received from all patches, 6 x 6 patches, 9 images" in said.out
    assert len(re.findall("left out: cannot read image .*broken.png", said.err)) == 2  # by either tower
    told = json.loads((tmp_path / "out" / "redundancy.json").read_text())
    assert len(told["images"]) == 10 and [tower["name"] for tower in told["towers"]] == ["CLIP $a", "SigLIP"]
    for tower, patches in zip(told["towers"], (16, 36), strict=True):
        assert list(tower["spread"]) == ["1", "2", "3", "4"] and tower["selected_layer"] == 3
        top = tower["spread"]["3"]["top"]
        assert top[str(patches)]["mean"] == pytest.approx(1) and tower["spread"]["3"]["tiles"] == 9
        assert {entry["compression"].partition(":")[0] for entry in tower["kept"]} == {"visionzip", "uniform", "random"}
        most = [entry for entry in tower["kept"] if entry["compression"].startswith("visionzip")][-1]
        dominant = int(re.match(r"visionzip:(\d+)", most["compression"])[1]) - (patches == 16)
        assert most["attention"]["mean"] == pytest.approx(top[str(dominant)]["mean"], rel=1e-5)
    for name in ("attention_maps", "spread"):
        drawn = (tmp_path / "out" / f"{name}.svg").read_text()
        assert "SigLIP" in drawn and "CLIP $a" in drawn and "<dc:date>" not in drawn
        assert (tmp_path / "out" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    maps = (tmp_path / "out" / "attention_maps.svg").read_text()
    assert all(f"layer {layer} of 4" in maps for layer in (1, 2, 3, 4))


def test_a_llava_gives_its_tower_and_images_are_drawn_by_seed(oracle_dir, towers, tmp_path, capsys):
    words = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--images", str(towers[2]), "--limit", "2"]
    words += ["--methods", "visionzip", "--budgets", "64", "--no-picture", "--device", "cpu"]
    assert main([*words, "--output-dir", str(tmp_path / "a")]) == 0
    assert "visionzip:54+10: " in capsys.readouterr().out
    assert main([*words, "--seed", "1", "--output-dir", str(tmp_path / "b")]) == 0
    first, second = (json.loads((tmp_path / name / "redundancy.json").read_text()) for name in "ab")
    assert len(first["images"]) == 2 and first["images"] != second["images"]
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["redundancy.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers", "9"], "vision_feature_layer 9 is outside -5..4"),
        (["--layers", "0"], "layer 0 are the embeddings, before any attention; name a layer of 1..4"),
        (["--layers", "x"], "'x': write numbers as 4,12,-1, or all"),
        (["--methods", "nonsense"], "unknown compression method 'nonsense'"),
        (["--methods", "cdpruner"], "cdpruner:1: this method reads more than a vision tower gives"),
        (
            ["--methods", "downsample", "--budgets", "4"],
            "downsample:4: this method reads more than a vision tower gives",
        ),
        (["--budgets", "99"], "dominant=84 is outside 1..17"),
        (["--formats", "jpg"], "--formats: 'jpg' is none of svg, pdf, png"),
        (["--name", "a", "b"], "--name: 2 names for 1 towers"),
        (["--images", "nowhere"], "--images nowhere: there is no such file or folder"),
        (["--vision-tower", "./nowhere"], "nowhere: there is no such folder"),
    ],
)
def test_mistakes_are_named_before_the_work(words, message, towers, tmp_path, capsys):
    clip, _, pictures = towers
    given = ["--vision-tower", str(clip), "--images", str(pictures), "--output-dir", str(tmp_path / "out"), *words]
    with pytest.raises(SystemExit) as end:
        main(given)
    assert message in f"{end.value.code}{capsys.readouterr().err}"
    assert not (tmp_path / "out").exists()


def test_without_matplotlib_the_numbers_can_be_had(towers, tmp_path, monkeypatch, capsys):
    clip, _, pictures = towers
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    words = ["--vision-tower", str(clip), "--images", str(pictures), "--output-dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=re.escape("pictures need matplotlib: pip install llava-visionzip[demo]")):
        main(words)
    assert main([*words, "--no-picture"]) == 0


def test_of_an_image_in_tiles_the_whole_picture_is_measured(towers, tmp_path):
    """LLaVA-NeXT's base tile: the picture squeezed into a square, as its tower takes it."""
    hf_llava_next().save_pretrained(tmp_path)
    CLIPImageProcessorPil(size=SIDE, crop_size=CROP).save_pretrained(tmp_path)
    tower = load_tower(tmp_path)
    found = measure(tower, list(image_files([towers[2]]))[:2], depths_of(tower, []), [], batch_size=2, show=1)
    picture = Image.open(towers[2] / "0.png").resize((28, 28))
    np.testing.assert_allclose(found.pictures[0], np.asarray(picture) / 255, atol=1e-6)
    assert found.shares[found.selected].shape == (2, 16) and not found.kept


def test_a_file_in_place_of_the_folder_is_named(towers, tmp_path):
    (tmp_path / "out").write_text("")
    words = ["--vision-tower", str(towers[0]), "--images", str(towers[2]), "--output-dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="out: is a file; name a folder"):
        main(words)


def test_a_folder_without_images_says_so(towers, tmp_path):
    (tmp_path / "empty").mkdir()
    words = ["--vision-tower", str(towers[0]), "--output-dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="there is no image"):
        main([*words, "--images", str(tmp_path / "empty"), "--no-picture"])
    (tmp_path / "empty" / "a.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match=r"no image could be read: cannot read image .*a\.png"):
        main([*words, "--images", str(tmp_path / "empty"), "--no-picture"])


def test_a_stopped_run_goes_on_with_what_it_lacks(towers, tmp_path, monkeypatch, capsys):
    opened = []

    def opening(file, rules):
        opened.append(file.name)
        if file.name == stops_at:
            os.kill(os.getpid(), signal.SIGINT)
        return open_image(file, rules)

    monkeypatch.setattr("llava.analysis.redundancy.measure.open_image", opening)
    stops_at, out = "", tmp_path / "out"
    words = ["--vision-tower", str(towers[0]), "--images", str(towers[2]), "--batch-size", "2", "--show", "1"]
    words += ["--layers=all", "--no-picture", "--device", "cpu", "--output-dir"]
    assert main([*words, str(tmp_path / "once")]) == 0
    assert opened == [f"{number}.png" for number in range(9)] + ["0.png"]  # the last to show it

    opened.clear()
    stops_at = "5.png"
    with pytest.raises(SystemExit) as end:
        main([*words, str(out)])
    assert end.value.code == 130
    assert capsys.readouterr().err.endswith("stopped; the same command goes on from here\n")
    assert sorted(file.name for file in out.iterdir()) == ["unfinished"]
    _, second = sorted((out / "unfinished").glob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns)
    second.write_bytes(second.read_bytes()[:-9])  # as a disk that was full leaves it
    os.utime(towers[2] / "8.png")

    opened.clear()
    stops_at = ""
    assert main([*words, str(out)]) == 0
    assert opened == [f"{number}.png" for number in range(2, 9)] + ["0.png"]
    assert [file.name for file in out.iterdir()] == ["redundancy.json"]
    assert (out / "redundancy.json").read_bytes() == (tmp_path / "once" / "redundancy.json").read_bytes()


def test_what_is_measured_otherwise_is_measured_again(towers, tmp_path):
    clip, siglip, pictures = towers
    files = list(image_files([pictures]))[:2]
    for path, layers, methods in ((clip, [], ["random"]), (clip, [1], ["random"]), (clip, [], []), (siglip, [], [])):
        tower = load_tower(path)
        budgets = budget_ladder(tower, methods, [6]) if methods else []
        before = len(list(tmp_path.glob("*.safetensors")))
        measure(tower, files, depths_of(tower, layers), budgets, batch_size=2, show=0, folder=tmp_path)
        assert len(list(tmp_path.glob("*.safetensors"))) == before + 1


def test_a_second_process_is_kept_out(towers, tmp_path):
    words = ["--vision-tower", str(towers[0]), "--images", str(towers[2]), "--output-dir", str(tmp_path)]
    with (
        open_alone(tmp_path / "unfinished" / "lock"),
        pytest.raises(SystemExit, match="another process measures"),
    ):
        main([*words, "--no-picture"])
    assert main([*words, "--no-picture"]) == 0
