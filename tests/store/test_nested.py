"""One store for every K: rows in the order of choice, given back in the method's own."""

from __future__ import annotations

import pytest
import torch

from llava.encoded.errors import StoreMismatchError
from llava.images.processing import process_images
from llava.inference import GenerationOptions, Inference, Question
from tests.store.conftest import MODEL

CASES = [
    ("scope", "", "projected"),
    ("scope", "", "tower"),
    ("fastervlm", "", "tower"),
    ("coverage", ",strength=0.0", "projected"),
    ("mmtok", ",text=false", "projected"),
]


@pytest.mark.parametrize(("method", "options", "stage"), CASES, ids=[f"{case[0]}-{case[2]}" for case in CASES])
def test_every_smaller_budget_is_served_exactly(method, options, stage, build, files, tmp_path):
    store = build(tmp_path / "store", f"{method}:40{options}", "--nested", "--stage", stage)
    live = Inference.load(MODEL, device="cpu", compression=f"{method}:40{options}")
    stored = Inference.load(MODEL, device="cpu", compression=f"{method}:40{options}", image_store=store)
    images = live.open(files)
    pixels = process_images(images, live.image_processor, live.model.config)
    sizes = [image.size for image in images]
    asked = [Question("Which digit is it?", (file,)) for file in files]
    how = GenerationOptions(max_new_tokens=4)
    for number in (40, 39, 17, 5, 1):
        for each in (live, stored):
            each.model.set_compression(f"{method}:{number}{options}")
        with torch.inference_mode():
            expected = live.model.encode_each(pixels, sizes)
            kept = live.model.compress_images(pixels, sizes).positions
        found = stored.look_at(files)
        for file, ours, theirs, where in zip(files, found, expected, kept, strict=True):
            assert sorted(store[file].positions[:number].tolist()) == where.tolist()
            assert ours.features is not None
            (rows,) = ours.features
            assert rows.shape == theirs.shape
            assert (rows - theirs).norm() <= 1e-5 * theirs.norm(), "the order of the picture, too"
        answers = [{each.index: each.token_ids for each in one.ask(asked, options=how)} for one in (live, stored)]
        assert answers[0] == answers[1] and stored.usage.images_encoded == 0
    for budget, told in (
        (f"{method}:41{options}", f"compression is {method}:40"),
        ("random:20", "this model's is random:20"),
    ):
        stored.model.set_compression(budget)
        with pytest.raises(StoreMismatchError, match=told):
            stored.look_at(files)


def test_other_options_are_another_method(build, files, tmp_path):
    store = build(tmp_path / "store", "scope:20", "--nested")
    other = Inference.load(MODEL, device="cpu", compression="scope:10,alpha=2.0", image_store=store)
    with pytest.raises(StoreMismatchError, match=r"compression is scope:20, this model's is scope:10,alpha=2"):
        other.look_at(files)
    assert build(tmp_path / "store", "scope:12", "--nested").layout.tokens == 20, "a smaller budget adds to it"
