"""The greedy methods in whole models: what they keep are rows of the uncompressed image, in any batch."""

from __future__ import annotations

import pytest
import torch

from llava.model.anyres import TileLayout
from llava.model.builder import instantiate
from llava.model.checkpoints.parts import parts_of_checkpoint
from tests.model.tiny import hf_llava, hf_llava_next, random_pixels

BUDGETS = [
    "divprune:6",
    "divprune:6,rule=distinct",
    "scope:6,alpha=1.5",
    "mmtok:6,text=false",
    "cdpruner:6",
    "coverage:6,strength=0",
]
MERGING = ["coverage:6", "coverage:6,tiles=area,mean=sizes,least=0.2"]
SIZES = [(50, 40), (90, 20), (28, 28), (30, 80)]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def llava(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    hf_llava(request.param).save_pretrained(folder)
    return instantiate(parts_of_checkpoint(folder), dtype=torch.float32).eval()


@pytest.mark.parametrize("budget", BUDGETS)
@torch.no_grad()
def test_kept_rows_are_rows_of_the_whole_image(llava, budget):
    pixels = random_pixels(3, 3, 28, 28)
    llava.set_compression(None)
    whole = llava.encode_images(pixels)
    llava.set_compression(budget)
    kept = llava.encode_images(pixels)
    where = llava.compress_images(pixels).positions
    rows = torch.arange(3).unsqueeze(1)
    torch.testing.assert_close(kept, whole[rows, where], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("budget", [*BUDGETS, *MERGING])
@torch.no_grad()
def test_images_of_several_tiles_are_compressed_alike_in_any_batch(tmp_path, budget):
    hf_llava_next().save_pretrained(tmp_path)
    model = instantiate(parts_of_checkpoint(tmp_path), dtype=torch.float32).eval()
    model.set_compression(budget)
    layout = TileLayout.from_config(model.config)
    images = [random_pixels(layout.num_tiles(size), 3, 28, 28, seed=sum(size)) for size in SIZES]
    together = model.encode_images(images, SIZES)
    for image, size, wanted in zip(images, SIZES, together, strict=True):
        torch.testing.assert_close(model.encode_images([image], [size])[0], wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_budgets_above_the_projectors_width_are_refused_by_the_model(llava):
    llava.set_compression("cdpruner:16")
    llava.config.text_config.hidden_size, width = 8, llava.config.text_config.hidden_size
    try:
        with pytest.raises(ValueError, match="rule=distinct"):
            llava.set_compression("cdpruner:16")
    finally:
        llava.config.text_config.hidden_size = width
