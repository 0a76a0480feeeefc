"""LLaVA-OneVision against recorded outputs: LLaVA-NeXT's code for the LLaVA format, transformers' class for `-hf`.

`make test` runs what lies in tests/fixtures, `make parity ORACLE=...` a whole recording; sizes, grids and budgets are
read from it. Weights are random and tiny, in the formats of the published checkpoints; fp32 on CPU.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llava.images.processing import load_image_processor, process_images
from llava.model.builder import instantiate
from llava.model.checkpoints.parts import parts_of_checkpoint
from llava.model.multimodal_compressor import visionzip

FIXTURES = Path(__file__).parents[1] / "fixtures" / "oracle_models"
RECORDS = Path(os.environ.get("ORACLE_MODELS") or FIXTURES) / "onevision"
FORMATS = {"original": "tiny-llava-onevision-qwen2", "transformers": "tiny-llava-onevision-qwen2-hf"}
LOGITS = {"original": 1e-4, "transformers": 1e-5}
INDICES = sorted(int(file.stem.removeprefix("image_")) for file in RECORDS.glob("image_*.png"))

# Nearer to a tie than this, another order of float operations may choose otherwise; that is no fault.
TOPK_MARGIN, MERGE_MARGIN, GREEDY_MARGIN = 1e-6, 1e-5, 1e-4


def record(name: str) -> dict[str, np.ndarray]:
    with np.load(RECORDS / f"{name}.npz") as file:
        return dict(file)


ORIGINAL = record("original")
LONG = 4000  # tokens; a longer prompt takes long
CASES = [
    pytest.param(index, marks=pytest.mark.slow if ORIGINAL[f"image_{index}_n_tokens"][0] > LONG else ())
    for index in INDICES
]
ZIPPED = [index for index in INDICES if f"zip_all_indices_{index}" in ORIGINAL]
HF = json.loads((RECORDS / FORMATS["transformers"] / "config.json").read_text(encoding="utf-8"))
GREEDY = {"do_sample": False, "eos_token_id": HF["text_config"]["eos_token_id"]}  # the recordings end at no other token
IDS = torch.from_numpy(ORIGINAL["input_ids"]).reshape(1, -1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """A copy in which the configs name their tower."""
    root = tmp_path_factory.mktemp("models")
    for folder in sorted(file.parent for file in RECORDS.glob("*/config.json")):
        shutil.copytree(folder, root / "onevision" / folder.name)
    for file in root.rglob("config.json"):
        text = file.read_text(encoding="utf-8").replace("@ORACLE@", str(root))
        file.chmod(0o644)
        file.write_text(text, encoding="utf-8")
    return root / "onevision"


@pytest.fixture(scope="module")
def loaded(folders):
    """Model and image processor of both formats."""
    made = {}
    for name, folder in FORMATS.items():
        parts = parts_of_checkpoint(folders / folder)
        model = instantiate(parts, dtype=torch.float32).eval()
        made[name] = model, load_image_processor(parts.processor_folder)
    return made


def opened(index: int) -> Image.Image:
    with Image.open(RECORDS / f"image_{index}.png") as image:
        return image.convert("RGB")


def same_from(ours, recorded: dict[str, np.ndarray], case: str, tolerance: float, generate) -> None:
    """Logits (L, vocabulary) and what `generate()` gives are those of a case."""
    expected = torch.from_numpy(recorded[f"{case}_logits_last32"])
    assert len(ours) == int(recorded[f"{case}_n_tokens"][0])
    torch.testing.assert_close(ours[-32:, : expected.shape[1]], expected, atol=tolerance, rtol=0)
    if f"{case}_logits_argmax" in recorded:
        assert ours.argmax(-1).tolist() == recorded[f"{case}_logits_argmax"].tolist()
    if recorded[f"{case}_generated_margin"][0] > GREEDY_MARGIN:
        assert generate() == recorded[f"{case}_generated"].tolist()


def test_there_are_cases():
    assert len(INDICES) >= 2 and ZIPPED


@pytest.mark.parametrize("index", CASES)
@pytest.mark.parametrize("name", FORMATS)
def test_parity_from_image_to_answer(name, index, loaded):
    model, image_processor = loaded[name]
    recorded, image = record(name), opened(index)
    model.set_compression(None)
    pixels = process_images([image], image_processor, model.config)
    expected = torch.from_numpy(ORIGINAL[f"pixels_strided_{index}"])
    assert torch.equal(pixels[0][: len(expected), :, ::8, ::8], expected)
    columns, rows = ORIGINAL[f"grid_{index}"].tolist()
    assert pixels.shape[1] == 1 + columns * rows
    with torch.no_grad():
        logits = model(IDS, images=pixels, image_sizes=[image.size]).logits[0]

    def generate():
        options = GREEDY | {"max_new_tokens": len(recorded[f"image_{index}_generated"])}
        return model.generate(IDS, images=pixels, image_sizes=[image.size], **options)[0].tolist()

    same_from(logits, recorded, f"image_{index}", LOGITS[name], generate)
    assert model.num_visual_tokens([image.size]) == [len(logits) - (IDS.shape[1] - 1)]


@pytest.mark.parametrize("index", [index for index in INDICES if f"inputs_embeds_mid_{index}" in ORIGINAL])
def test_the_canvas_behind_the_base_view(index, loaded):
    """Unpadded, a newline a row: the first rows of it, as the language model reads them."""
    model, image_processor = loaded["original"]
    model.set_compression(None)
    expected = torch.from_numpy(ORIGINAL[f"inputs_embeds_mid_{index}"])
    pixels = process_images([opened(index)], image_processor, model.config)
    with torch.no_grad():
        rows = model.encode_images(pixels, [opened(index).size])[0]
    canvas = rows[model.num_patches : model.num_patches + len(expected)]
    torch.testing.assert_close(canvas, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("index", ZIPPED)
def test_parity_of_tower_and_of_kept_and_merged_tokens(index, loaded):
    model, image_processor = loaded["original"]
    dominant, contextual = ORIGINAL["budget"].tolist()
    model.set_compression(f"visionzip:{dominant}+{contextual}")
    pixels = process_images([opened(index)], image_processor, model.config)
    with torch.no_grad():
        _, features = model.selection(pixels, [opened(index).size])
        ours = visionzip(
            features.content,
            features.keys,
            features.saliency,
            dominant=dominant,
            contextual=contextual,
            has_cls=False,
            return_assignment=True,
        )
        kept = model.compress_images(pixels, [opened(index).size])
    assert torch.equal(kept.positions, ours.positions) and torch.equal(kept.tokens, ours.tokens)
    if f"features_{index}" in ORIGINAL:
        expected = torch.from_numpy(ORIGINAL[f"features_{index}"])
        torch.testing.assert_close(features.content[: len(expected)], expected, atol=2e-4, rtol=0)  # values up to 25
    compressed, compared = ORIGINAL[f"zip_compressed_{index}"], 0
    for tile in range(len(pixels[0])):
        if ORIGINAL[f"zip_topk_margin_{index}"][tile] <= TOPK_MARGIN:
            continue
        expected = sorted(ORIGINAL[f"zip_all_indices_{index}"][tile].tolist())
        assert ours.positions[tile, :dominant].tolist() == expected
        if ORIGINAL[f"zip_merge_margin_{index}"][tile] <= MERGE_MARGIN:
            continue
        held = ours.assignment[tile] - dominant
        left = [patch for patch in range(len(held)) if held[patch] >= 0]
        targets = ORIGINAL[f"zip_targets_{index}"][tile].tolist()
        assert ours.positions[tile, dominant:].tolist() == targets
        joined = [int(held[patch]) for patch in left if patch not in targets]
        assert joined == ORIGINAL[f"zip_merge_argmax_{index}"][tile].tolist()
        if tile < len(compressed):
            assert np.abs(ours.tokens[tile].numpy() - compressed[tile]).max() < 2e-4
        compared += 1
    assert compared > 0


@pytest.mark.parametrize("index", ZIPPED)
def test_parity_of_answers_under_visionzip(index, loaded):
    margins = (ORIGINAL[f"zip_topk_margin_{index}"], ORIGINAL[f"zip_merge_margin_{index}"])
    if margins[0].min() <= TOPK_MARGIN or margins[1].min() <= 1e-6:
        pytest.skip("a tile is so near to a tie that another order of float operations may choose otherwise")
    model, image_processor = loaded["original"]
    model.set_compression("visionzip:{}+{}".format(*ORIGINAL["budget"]))
    pixels, size = process_images([opened(index)], image_processor, model.config), [opened(index).size]
    with torch.no_grad():
        logits = model(IDS, images=pixels, image_sizes=size).logits[0]

    def generate():
        options = GREEDY | {"max_new_tokens": len(ORIGINAL[f"zip_{index}_generated"])}
        return model.generate(IDS, images=pixels, image_sizes=size, **options)[0].tolist()

    same_from(logits, ORIGINAL, f"zip_{index}", 1e-4, generate)
    assert model.num_visual_tokens(size) == [len(logits) - (IDS.shape[1] - 1)]
