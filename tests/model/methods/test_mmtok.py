"""MMTok against recorded outputs of its public code."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import get_compressor
from llava.model.multimodal_compressor.mmtok import MMTokOptions, cover_all, coverage, question_keywords, question_words
from llava.model.padding import content_box, padding_patches
from tests.model.methods.greedy_cases import NEAR_TIE, Case, keep, parse, recorded_features, some_features
from tests.model.methods.recorded import FOLDER, Recording

VARIANT = re.compile(r"alpha([\d.]+)_tv([\d.]+)_vv([\d.]+)")
GRID, TILE = (24, 24), 336  # of the recorded padding


def test_every_recorded_case():
    recorded = Recording("mmtok")
    for group in recorded.groups("kept"):
        head, _, variant = group.rpartition("/")
        case = parse(head)
        if case is not None:
            compare_kept(recorded, group, case, variant)
    for group in recorded.groups("selected"):
        head = group.removesuffix("/Qonly")
        case, image, kept = parse(head)
        order = cover_all(coverage(recorded_features(case), MMTokOptions(text=False)), kept)[image]
        is_tie = recorded.get(f"{head}/visual/margin_rel", 1.0) < NEAR_TIE
        recorded.compare(group, np.array_equal(order, recorded[f"{group}/selected"]), near_tie=is_tie)
    for group in recorded.groups("indices"):
        recorded.compare(group, np.array_equal(recorded_border(group), np.sort(recorded[f"{group}/indices"])))
    compare_padded(recorded)
    recorded.finish()


def compare_kept(recorded: Recording, group: str, case: Case, variant: str) -> None:
    """With the public weights, with a weight that leaves the text no say, and with others."""
    features, wanted = recorded_features(case.inputs), recorded[f"{group}/kept"]
    given = VARIANT.fullmatch(variant)
    if given is not None:
        alpha, text, visual = map(float, given.groups())
        options = {"alpha": alpha, "text_temperature": text, "visual_temperature": visual}
        recorded.compare(group, np.array_equal(keep(features, "mmtok", case.kept, **options)[case.image], wanted))
        return
    alpha = float(recorded[f"{group}/alpha"])
    near_tie = recorded[f"{group}/margin_rel"] < NEAR_TIE
    same = np.array_equal(keep(features, "mmtok", case.kept, alpha=alpha)[case.image], wanted)
    if variant == "visual":
        silent = replace(features, question_embeds=None)
        same &= np.array_equal(keep(silent, "mmtok", case.kept, text=False)[case.image], wanted)
    recorded.compare(group, same, near_tie=near_tie)


def recorded_border(group: str) -> np.ndarray:
    """Patches wholly inside the border, or with `_overlap` those that touch it."""
    _, size, touching = re.fullmatch(r"(.*)/(\d+x\d+)(_overlap)?", group).groups()
    width, height = map(int, size.split("x"))
    if touching is None:
        return padding_patches((width, height), GRID, TILE).nonzero().flatten().numpy()
    left, top, right, bottom = content_box((width, height), TILE)
    begin = np.arange(GRID[0]) * (TILE // GRID[0])
    end = begin + TILE // GRID[0]
    rows, columns = (begin < top) | (end > bottom), (begin < left) | (end > right)
    return np.flatnonzero(rows[:, None] | columns)


def compare_padded(recorded: Recording) -> None:
    """Padded patches are never chosen. The recording does not say which inputs these are: one case meets them all."""
    groups = [group for group in recorded.groups("kept") if group.startswith("padded_")]
    inputs = [path.stem.removeprefix("inputs_") for path in sorted(FOLDER.glob("inputs_*.npz"))] if groups else []
    fitting = [case for case in inputs if recorded_features(case).grid == GRID]
    for group in groups:
        width, height, kept = map(int, re.fullmatch(r"padded_(\d+)x(\d+)/K(\d+)", group).groups())
        padding = padding_patches((width, height), GRID, TILE)
        wanted, met = recorded[f"{group}/kept"], []
        for case in fitting:
            features = recorded_features(case)
            features = replace(features, padding=padding.expand(len(features.content), -1))
            if np.array_equal(keep(features, "mmtok", kept)[0], wanted):
                met.append(case)
        recorded.compare(group, bool(met))
        fitting = met or fitting
    assert not groups or len(fitting) == 1, fitting


def test_recorded_questions_lose_the_same_words():
    recorded = json.loads((FOLDER / "mmtok_keywords.json").read_text(encoding="utf-8"))
    assert {question: question_keywords(question) for question in recorded} == recorded


def test_words_of_a_question():
    assert question_words("<image>\nWhat is the color of the car?") == ["color", "of", "car"]
    assert question_words("Is it?") == ["Is", "it?"]
    assert question_words("") == []


def test_padding_is_kept_only_where_nothing_else_is_left():
    features = some_features()
    padding = torch.zeros(len(features.content), 60, dtype=torch.bool)
    padding[:, 20:] = True
    padded = replace(features, padding=padding)
    assert bool((keep(padded, "mmtok", 20) == torch.arange(20)).all())
    assert bool((keep(padded, "mmtok", 23) == torch.arange(23)).all())
    assert bool((keep(replace(features, padding=torch.ones_like(padding)), "mmtok", 3) == torch.arange(3)).all())


def test_a_question_of_several_tiles_is_not_told_from_a_padded_one():
    features = some_features()
    question = features.question_embeds
    embeds = torch.cat([question.embeds, question.embeds[:, :2] * 5], dim=1)
    mask = torch.cat([question.mask, torch.zeros_like(question.mask[:, :2])], dim=1)
    longer = replace(features, question_embeds=replace(question, embeds=embeds, mask=mask))
    assert torch.equal(keep(longer, "mmtok", 16), keep(features, "mmtok", 16))


def test_needs_follow_from_the_options():
    method = get_compressor("mmtok")
    assert method.bind(CompressionConfig("mmtok", 8)).needs == {"padding", "question_embeds"}
    assert method.bind(CompressionConfig("mmtok", 8, options={"text": False})).needs == {"padding"}
    with pytest.raises(ValueError, match="text=false"):
        keep(replace(some_features(), question_embeds=None), "mmtok", 8)


@pytest.mark.parametrize("option", ["alpha", "text_temperature", "visual_temperature"])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(ValueError, match=f"{option} must be above 0"):
        get_compressor("mmtok").options_of(CompressionConfig("mmtok", 8, options={option: 0.0}))
