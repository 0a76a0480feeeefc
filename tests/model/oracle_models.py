"""Recorded outputs of other families' originals: where they lie, and what is compared with them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import torch

from llava.model.builder import _small_parts, instantiate
from llava.model.checkpoints.parts import parts_of_checkpoint

FIXTURES = Path(__file__).parents[1] / "fixtures" / "oracle_models"
RECORDS = Path(os.environ.get("ORACLE_MODELS") or FIXTURES)

# Nearer to a tie than this, another order of float operations may choose otherwise; that is no fault.
TOPK_MARGIN, MERGE_MARGIN, GREEDY_MARGIN = 1e-6, 1e-5, 1e-4


def record(*path: str) -> dict[str, np.ndarray]:
    with np.load(RECORDS.joinpath(*path)) as file:
        return dict(file)


def copy_with_towers_named(family: str, root: Path) -> Path:
    """A copy of a family's checkpoints in which the configs name their towers."""
    for folder in sorted(file.parent for file in (RECORDS / family).glob("*/config.json")):
        shutil.copytree(folder, root / family / folder.name)
    for file in root.rglob("config.json"):
        text = file.read_text(encoding="utf-8").replace("@ORACLE@", str(root))
        file.chmod(0o644)
        file.write_text(text, encoding="utf-8")
    return root / family


def load(folder: Path):
    """Tokenizer, model and image processor, in fp32."""
    parts = parts_of_checkpoint(folder)
    model = instantiate(parts, dtype=torch.float32).eval()
    tokenizer, image_processor = _small_parts(parts)
    return tokenizer, model, image_processor


def same_answers(model, case: str, recorded: dict[str, np.ndarray], images, tolerance: float = 1e-4, ids=None) -> None:
    """Logits and greedy ids are those of a case, as far as they were recorded."""
    input_ids = torch.from_numpy(recorded[f"{case.removeprefix('zip_')}_input_ids"])[None] if ids is None else ids
    with torch.no_grad():
        logits = model(input_ids, images=images).logits[0]
    assert len(logits) == int(recorded[f"{case}_n_tokens"][0])
    if f"{case}_logits_last32" in recorded:
        expected = torch.from_numpy(recorded[f"{case}_logits_last32"])
        torch.testing.assert_close(logits[-32:, : expected.shape[1]], expected, atol=tolerance, rtol=0)
    if f"{case}_logits_argmax" in recorded:
        assert logits.argmax(-1).tolist() == recorded[f"{case}_logits_argmax"].tolist()
    if recorded[f"{case}_generated_margin"][0] > GREEDY_MARGIN:
        expected_ids = recorded[f"{case}_generated"].tolist()
        made = model.generate(input_ids, images=images, do_sample=False, max_new_tokens=len(expected_ids))
        assert made[0].tolist() == expected_ids


def same_choice(ours, recorded: dict[str, np.ndarray], case: str, offset: int, budget: tuple[int, int]) -> int:
    """Kept sets, targets and groups of each frame are the recorded ones, for so many frames; `ours` has an assignment.

    Args:
        offset: 1 where recorded indices count a CLS token as 0.
    """
    dominant, _ = budget
    compared = 0
    for frame in range(len(ours.positions)):
        if recorded[f"{case}_topk_margin"][frame] <= TOPK_MARGIN:
            continue
        kept = sorted(index - offset for index in recorded[f"{case}_all_indices"][frame].tolist())
        assert ours.positions[frame, :dominant].tolist() == kept
        if recorded[f"{case}_merge_margin"][frame] <= MERGE_MARGIN:
            continue
        targets = [index - offset for index in recorded[f"{case}_targets"][frame].tolist()]
        assert ours.positions[frame, dominant:].tolist() == targets
        held = ours.assignment[frame] - dominant
        left = [patch for patch in range(len(held)) if held[patch] >= 0 and patch not in targets]
        assert [int(held[patch]) for patch in left] == recorded[f"{case}_merge_argmax"][frame].tolist()
        if f"{case}_compressed" in recorded:
            expected = torch.from_numpy(recorded[f"{case}_compressed"][frame])
            torch.testing.assert_close(ours.tokens[frame], expected, atol=2e-4, rtol=0)
        compared += 1
    return compared
