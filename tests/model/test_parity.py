"""Every recorded case of the reference, from the image file to the generated ids.

`make test` runs the cases in tests/fixtures, `make parity ORACLE=...` all of them. The reference is haotian-liu/LLaVA
1.2.2.post1 with the released VisionZip code, fp32 on CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llava.images.processing import process_images
from llava.model.builder import load_pretrained_model
from llava.model.multimodal_compressor import visionzip
from llava.model.multimodal_encoder import extract_features
from tests.conftest import ORACLE

CHECKPOINTS = {"v15": "tiny-llava-v1.5", "v16": "tiny-llava-v1.6-next"}
FILES = {(640, 427): "landscape", (300, 900): "portrait", (500, 500): "square", (1200, 380): "wide", (90, 60): "small"}
TOLERANCE = {"eager": 1e-5, "sdpa": 5e-5}

# Nearer to a tie than this, another order of float operations may choose otherwise; that is no fault.
TOPK_MARGIN, MERGE_MARGIN = 1e-6, 1e-5


@dataclass(frozen=True)
class Case:
    """One recording, with the settings that its name says."""

    file: Path

    @property
    def words(self) -> list[str]:
        return self.file.stem.split("_")

    @property
    def budget(self) -> tuple[int, int] | None:
        return (int(self.words[2]), int(self.words[3])) if self.words[1] == "visionzip" else None

    @property
    def overrides(self) -> dict[str, str]:
        last = self.words[-1]
        if last in ("flat", "spatial"):
            return {"mm_patch_merge_type": last}
        return {"image_aspect_ratio": "pad"} if last == "pad" else {}


CASES = [Case(file) for file in sorted(ORACLE.glob("v1[56]_*.npz"))]


def load(oracle_dir: Path, case: Case, attention: str = "sdpa"):
    compression = None if case.budget is None else "visionzip:{}+{}".format(*case.budget)
    folder = oracle_dir / CHECKPOINTS[case.words[0]]
    return load_pretrained_model(
        folder,
        device="cpu",
        compression=compression,
        attn_implementation=attention,
        overwrite_config=case.overrides,
    )


def pixels_of(oracle_dir: Path, size: tuple[int, int], image_processor, config) -> torch.Tensor:
    with Image.open(oracle_dir / "images" / f"{FILES[size]}.png") as image:
        return process_images([image.convert("RGB")], image_processor, config)


def test_there_are_cases():
    assert {case.words[0] for case in CASES} == {"v15", "v16"}
    assert {case.words[1] for case in CASES} == {"vanilla", "visionzip"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.file.stem)
def test_parity_from_image_to_answer(case: Case, oracle_dir: Path):
    recorded = np.load(case.file)
    _, model, image_processor, _ = load(oracle_dir, case)
    input_ids = torch.from_numpy(recorded["input_ids"]).reshape(1, -1)
    for index, size in enumerate(map(tuple, recorded["image_sizes"].tolist())):
        pixels = pixels_of(oracle_dir, size, image_processor, model.config)
        if f"pixels_{index}" in recorded:
            expected = torch.from_numpy(recorded[f"pixels_{index}"])
            torch.testing.assert_close(pixels.reshape(expected.shape), expected, atol=1e-6, rtol=0)
        with torch.no_grad():
            logits = model(input_ids, images=pixels, image_sizes=[size]).logits[0]
        num_tokens = int(recorded[f"n_tokens_{index}"])
        assert len(logits) == num_tokens
        assert model.num_visual_tokens([size]) == [num_tokens - (input_ids.shape[1] - 1)]
        tail = torch.from_numpy(recorded[f"logits_last32_{index}"])
        torch.testing.assert_close(logits[-32:], tail, atol=1e-4, rtol=0)
        assert torch.equal(logits.argmax(-1), torch.from_numpy(recorded[f"logits_argmax_{index}"]).reshape(-1))
        generated = model.generate(
            input_ids, images=pixels, image_sizes=[size], do_sample=False, max_new_tokens=12, use_cache=True
        )
        assert generated[0].tolist() == recorded[f"generated_{index}"].reshape(-1)[1:].tolist()  # [0]: 4.37's BOS


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", [case for case in CASES if case.budget], ids=lambda case: case.file.stem)
def test_parity_of_kept_and_merged_tokens(case: Case, attention: str, oracle_dir: Path):
    recorded = np.load(case.file)
    _, model, image_processor, _ = load(oracle_dir, case, attention)
    dominant, contextual = case.budget
    compared = 0
    for index, size in enumerate(map(tuple, recorded["image_sizes"].tolist())):
        pixels = pixels_of(oracle_dir, size, image_processor, model.config).flatten(0, -4)
        with torch.no_grad():
            features = extract_features(model.model.vision_tower, pixels, -2, {"keys", "saliency"})
            ours = visionzip(
                features.content,
                features.keys,
                features.saliency,
                dominant=dominant,
                contextual=contextual,
                return_assignment=True,
            )
        kept = np.sort(recorded[f"all_indices_{index}"].reshape(len(pixels), dominant), axis=1) - 1  # CLS is -1
        groups = recorded[f"merge_argmax_{index}"].reshape(len(pixels), -1)
        compressed = recorded[f"compressed_{index}"].reshape(len(pixels), dominant + contextual, -1)
        for tile in range(len(pixels)):
            if recorded[f"topk_margin_{index}"].reshape(-1)[tile] <= TOPK_MARGIN:
                continue
            assert ours.positions[tile, :dominant].tolist() == kept[tile].tolist()
            if recorded[f"merge_margin_{index}"].reshape(-1)[tile] <= MERGE_MARGIN:
                continue
            held = ours.assignment[tile] - dominant
            left = [patch for patch in range(len(held)) if held[patch] >= 0]
            targets = set(left[:: max(1, len(left) // contextual)][:contextual])
            assert ours.positions[tile, dominant:].tolist() == sorted(targets)
            assert [int(held[patch]) for patch in left if patch not in targets] == groups[tile].tolist()
            error = np.abs(ours.tokens[tile].numpy() - compressed[tile]).max()
            assert error < TOLERANCE[attention]
            compared += 1
    assert compared > 0
