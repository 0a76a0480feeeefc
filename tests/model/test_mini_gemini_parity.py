"""Mini-Gemini against recorded outputs of dvlab-research/MGM; VisionZip on it by the released code's rules.

`make test` runs what lies in tests/fixtures, `make parity ORACLE=...` a whole recording; sizes, grids and budgets are
read from it. Weights are random and tiny, in the formats of the published checkpoints; fp32 on CPU. What the recording
cannot tell: no code of VisionZip on Mini-Gemini is public, so its cases are its rules computed plainly.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llava.images.processing import process_images
from llava.inference import Inference
from llava.model.multimodal_compressor import visionzip

FIXTURES = Path(__file__).parents[1] / "fixtures" / "oracle_models"
RECORDS = Path(os.environ.get("ORACLE_MODELS") or FIXTURES) / "mgm"
pytestmark = pytest.mark.skipif(not RECORDS.is_dir(), reason="the records hold no Mini-Gemini")
ORIGINAL = dict(np.load(RECORDS / "original.npz")) if RECORDS.is_dir() else {}
INDICES = sorted(int(name.rpartition("_")[2]) for name in ORIGINAL if name.startswith("features_"))
HD = sorted(int(name.rpartition("_")[2]) for name in ORIGINAL if name.startswith("hd_n_tokens_"))
READINGS = {"zip_patches": "", "zip_cls": ",keep_cls=true"}  # what each needs beside the budget

# Nearer to a tie than this, another order of float operations may choose otherwise; that is no fault.
TOPK_MARGIN, MERGE_MARGIN, GREEDY_MARGIN = 1e-6, 1e-6, 1e-4


def recorded(name: str) -> torch.Tensor:
    return torch.from_numpy(ORIGINAL[name])


def picture(index: int) -> Image.Image:
    with Image.open(RECORDS / f"image_{index}.png") as image:
        return image.convert("RGB")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A copy in which the config names its towers."""
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(RECORDS, root / "mgm")
    for file in root.rglob("config.json"):
        text = file.read_text(encoding="utf-8").replace("@ORACLE@", str(root))
        file.chmod(0o644)
        file.write_text(text, encoding="utf-8")
    return root / "mgm"


def loaded_from(folder: Path) -> Inference:
    return Inference.load(folder, device="cpu", compression=None, dtype=torch.float32)


@pytest.fixture(scope="module")
def plain(root) -> Inference:
    return loaded_from(next(root.glob("tiny-*")))


@pytest.fixture(scope="module")
def hd(root) -> Inference:
    """The same weights with four parts and a view of the whole."""
    folder = shutil.copytree(next(root.glob("tiny-*")), root / "hd")
    (folder / "config.json").chmod(0o644)
    views, side = len(ORIGINAL[f"hd_pixels_strided_{HD[0]}"]), 8 * ORIGINAL[f"hd_aux_pixels_strided_{HD[0]}"].shape[-1]
    grid = math.isqrt(views)
    entries = {"image_grid": grid, "image_global": views > grid**2, "image_size_aux": side}
    entries = json.loads((folder / "config.json").read_text()) | entries | {"tokenizer_model_max_length": 4096}
    (folder / "config.json").write_text(json.dumps(entries))
    return loaded_from(folder)


def pixels_of(inference: Inference, index: int) -> torch.Tensor:
    return process_images([picture(index)], inference.image_processor, inference.model.config)


def same_answer(inference: Inference, pixels: torch.Tensor, case: str, index: int) -> None:
    """Length, logits and greedy ids, of which the recording begins with a BOS that transformers 4.36 puts first."""
    model, ids = inference.model, recorded("input_ids").reshape(1, -1)
    with torch.no_grad():
        logits = model(ids, images=pixels).logits[0]
    assert len(logits) == int(ORIGINAL[f"{case}n_tokens_{index}"][0])
    assert model.num_visual_tokens([picture(index).size]) == [len(logits) - ids.shape[1] + 1]
    expected = recorded(f"{case}logits_last32_{index}")
    torch.testing.assert_close(logits[-len(expected) :], expected, atol=1e-4, rtol=0)
    assert logits.argmax(-1).tolist() == ORIGINAL[f"{case}logits_argmax_{index}"].tolist()
    if ORIGINAL[f"{case}generated_margin_{index}"][0] > GREEDY_MARGIN:
        generated = ORIGINAL[f"{case}generated_{index}"].tolist()[1:]
        options = {"do_sample": False, "max_new_tokens": len(generated)}
        assert model.generate(ids, images=pixels, **options)[0].tolist() == generated


def test_there_are_cases():
    assert INDICES and HD and all(f"{case}_n_tokens_{INDICES[0]}" in ORIGINAL for case in READINGS)


@pytest.mark.parametrize("index", INDICES)
def test_parity_from_image_to_answer(index, plain):
    inner = plain.model.model
    plain.model.set_compression(None)
    pixels = pixels_of(plain, index)
    assert torch.equal(pixels[0, :, ::8, ::8], recorded(f"aux_pixels_strided_{index}"))
    assert torch.equal(pixels[0, :, 300:348, 300:348], recorded(f"aux_pixels_crop_{index}"))
    same_view(inner.seen_tiles(pixels)[0, :, ::3, ::3], recorded(f"pixels_strided_{index}"))
    with torch.no_grad():
        features = inner.read_features(pixels)
        aux_map = inner.mining.tower(pixels)[0]
        projected = inner.multi_modal_projector(features.patches)[0]
    mined = (features.patches - features.source)[0]
    for ours, name, tolerance in (
        (features.source[0], "features", 2e-5),
        (features.content[0, 0], "cls", 2e-5),
        (aux_map[:, ::12, ::12], "aux_features_strided", 5e-6),
        (mined, "mined", 1e-5),
        (projected[:64], "projected", 2e-5),
    ):
        torch.testing.assert_close(ours, recorded(f"{name}_{index}"), atol=tolerance, rtol=0)
    same_answer(plain, pixels, "", index)


def same_view(ours: torch.Tensor, expected: torch.Tensor) -> None:
    """Torch shrinks a picture to the last bit alike only with as many threads as the recording had."""
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("index", HD)
def test_parity_of_hd(index, hd):
    """The whole picture's view stands first; the recording has its pixels last, as MGM's code passes them."""
    pixels = pixels_of(hd, index)
    assert torch.equal(pixels[0, :, ::8, ::8], recorded(f"hd_aux_pixels_strided_{index}"))
    seen = hd.model.model.seen_tiles(pixels)[:, :, ::3, ::3]
    same_view(torch.cat([seen[1:], seen[:1]]), recorded(f"hd_pixels_strided_{index}"))
    same_answer(hd, pixels, "hd_", index)


def near_tie(case: str, index: int) -> bool:
    margins = (ORIGINAL[f"{case}_{kind}_margin_{index}"].min() for kind in ("topk", "merge"))
    return any(found <= least for found, least in zip(margins, (TOPK_MARGIN, MERGE_MARGIN), strict=True))


@pytest.mark.parametrize("case", READINGS)
@pytest.mark.parametrize("index", INDICES)
def test_parity_of_what_visionzip_keeps_and_merges(index, case, plain):
    if near_tie(case, index):
        pytest.skip("so near to a tie that another order of float operations may choose otherwise")
    dominant, contextual = ORIGINAL["budget"].tolist()
    plain.model.set_compression(f"visionzip:{dominant}+{contextual}{READINGS[case]}")
    pixels = pixels_of(plain, index)
    with torch.no_grad():
        kept = plain.model.compress_images(pixels)
        _, features = plain.model.selection(pixels)
    if f"{case}_saliency_{index}" in ORIGINAL:
        torch.testing.assert_close(features.saliency[0], recorded(f"{case}_saliency_{index}"), atol=1e-5, rtol=0)
        torch.testing.assert_close(features.keys[0], recorded(f"{case}_metric_{index}"), atol=1e-4, rtol=0)
    assert features.has_cls == (case == "zip_cls")
    # Rows of the tower, whose CLS token is number 0: patches count from 1.
    assert (kept.positions[0, :dominant] + 1).tolist() == sorted(ORIGINAL[f"{case}_all_indices_{index}"].tolist())
    assert (kept.positions[0, dominant:] + 1).tolist() == ORIGINAL[f"{case}_targets_{index}"].tolist()
    ours = visionzip(
        features.content,
        features.keys[:, int(not features.has_cls) :],
        features.saliency,
        dominant=dominant,
        contextual=contextual,
        has_cls=features.has_cls,
        return_assignment=True,
    )
    others = ORIGINAL[f"{case}_others_{index}"].tolist()
    joined = [int(ours.assignment[0, other - 1]) - dominant for other in others]
    assert joined == ORIGINAL[f"{case}_merge_argmax_{index}"].tolist()
    torch.testing.assert_close(kept.tokens[0], recorded(f"{case}_compressed_{index}"), atol=2e-5, rtol=0)


@pytest.mark.parametrize("case", READINGS)
@pytest.mark.parametrize("index", INDICES)
def test_parity_of_answers_under_visionzip(index, case, plain):
    if near_tie(case, index):
        pytest.skip("so near to a tie that another order of float operations may choose otherwise")
    plain.model.set_compression("visionzip:{}+{}".format(*ORIGINAL["budget"].tolist()) + READINGS[case])
    same_answer(plain, pixels_of(plain, index), f"{case}_", index)


@pytest.mark.parametrize("index", INDICES)
def test_the_other_place_keeps_the_same_dominant_tokens(index, plain):
    """Compress, then mine: recorded too, and not what is done here, for merged tokens would mine one part only."""
    dominant, contextual = ORIGINAL["budget"].tolist()
    plain.model.set_compression(f"visionzip:{dominant}+{contextual}")
    with torch.no_grad():
        ours = plain.model.compress_images(pixels_of(plain, index)).tokens[0]
    other = recorded(f"zip_first_compressed_{index}")
    assert torch.equal(recorded(f"zip_patches_compressed_{index}")[:dominant], other[:dominant])  # to the bit
    torch.testing.assert_close(ours[:dominant], other[:dominant], atol=2e-5, rtol=0)
    assert not torch.allclose(ours[dominant:], other[dominant:], atol=1e-2)


def test_a_batch_is_its_images_one_by_one(plain):
    pixels = torch.cat([pixels_of(plain, index) for index in INDICES])
    for compression in (None, "visionzip:54+10"):
        plain.model.set_compression(compression)
        with torch.no_grad():
            together = plain.model.encode_images(pixels)
            for alone, features in zip(pixels, together, strict=True):
                torch.testing.assert_close(plain.model.encode_images(alone[None])[0], features, atol=1e-5, rtol=1e-5)
