"""`--to hf`: plain transformers loads the folder, computes our logits and gives our answers."""

from __future__ import annotations

import pytest
import torch

from llava.hub.export import export
from tests.hub.checkpoints import edit_json, llava_checkpoint, ours, plain

BUDGET = {"method": "visionzip", "dominant": 54, "contextual": 10, "merge": "reference", "seed": 0}


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "image"),
    [
        ("v1.5", "landscape"),
        ("next mistral outside sharded", "small"),
        pytest.param("v1.5 mistral", "small", marks=slow),
        pytest.param("next", "landscape", marks=slow),
    ],
)
def test_plain_transformers_answers_as_we_do_uncompressed(kind, image, oracle_dir, tmp_path):
    source = llava_checkpoint(oracle_dir, tmp_path / "source", kind)
    edit_json(source / "config.json", compression=BUDGET)
    report = export(source, "hf", tmp_path / "exported", progress=False)
    assert report.added_rows == (700, 704) and report.compression == "visionzip:54+10"
    assert any("off its training condition" in note for note in report.notes)
    picture = oracle_dir / "images" / f"{image}.png"
    logits, new, prompt = plain(tmp_path / "exported", picture)
    expected_logits, expected_new, expected_prompt = ours(source, picture)
    assert (new, prompt) == (expected_new, expected_prompt)
    torch.testing.assert_close(logits[:, :700], expected_logits, atol=1e-5, rtol=0)
    assert bool((logits[:, 700:].amax(-1) <= logits[:, :700].amax(-1)).all())  # an added row is never the best
    again_logits, again_new, _ = ours(tmp_path / "exported", picture)
    assert again_new == expected_new
    torch.testing.assert_close(again_logits[:, :700], expected_logits, atol=1e-6, rtol=0)


def test_a_method_inside_the_language_model_is_said_to_be_passed_over(oracle_dir, tmp_path):
    source = llava_checkpoint(oracle_dir, tmp_path / "source", "v1.5")
    edit_json(source / "config.json", compression={**BUDGET, "method": "fastv", "dominant": 400, "contextual": 0})
    with pytest.raises(ValueError, match="layer=2: numbers of layers"):
        export(source, "hf", tmp_path / "exported", progress=False)
    edit_json(
        source / "config.json",
        compression={**BUDGET, "method": "fastv", "dominant": 400, "contextual": 0, "options": {"layer": 1}},
    )
    report = export(source, "hf", tmp_path / "exported", progress=False)
    adaptive = {"rule": "attention", "threshold": 0.2, "floor": 1}
    edit_json(source / "config.json", compression={**BUDGET, "adaptive": adaptive})
    notes = export(source, "hf", tmp_path / "of the picture", progress=False).notes
    assert any(": at most 64 visual tokens a tile" in note for note in notes)
    assert any("says fastv:400,layer=1" in note and "read every visual token" in note for note in report.notes)
