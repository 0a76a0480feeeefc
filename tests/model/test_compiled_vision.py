"""Tower, compressor and projector as one compiled graph: the same features, whole graphs, and few of them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from llava.inference import Inference
from llava.model.anyres import TileLayout
from llava.model.builder import instantiate
from llava.model.checkpoints.parts import parts_of_checkpoint
from llava.model.compiled_vision import BUCKETS, bucket_for
from tests.model.tiny import hf_llava, hf_llava_next, random_pixels

TINY = Path(__file__).parents[2] / "playground" / "tiny" / "model"
SIZES = [(50, 40), (90, 20), (28, 28), (30, 80)]


def loaded(made, folder):
    made.save_pretrained(folder)
    return instantiate(parts_of_checkpoint(folder), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """Of one layer, which is traced sooner."""
    return loaded(hf_llava(vision_feature_layer=1), tmp_path_factory.mktemp("llava"))


def compiled(model, counter):
    """A copy whose graphs are traced whole and counted, and then run as they are."""
    twin = copy.deepcopy(model)
    twin.compile_vision(counter)
    return twin


def assert_same(got, expected, atol=1e-5):
    assert [len(image) for image in got] == [len(image) for image in expected]
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_numbers_of_tiles_share_graphs_and_nothing_breaks_them(llava):
    """`fullgraph` raises at a break; the counter sees every graph that is made."""
    counter = CompileCounter()
    twin = compiled(llava, counter)
    llava.set_compression("visionzip:5+2")
    twin.set_compression("visionzip:5+2")
    for count in (1, 6, 7, 8, 1, 9):
        pixels = random_pixels(count, 3, 28, 28, seed=count)
        assert_same(twin.encode_images(pixels), llava.encode_images(pixels))
    assert [size for size, _ in twin.model.compiled_vision.graphs] == [1, 8, 12]
    assert counter.frame_count == 3


@pytest.mark.slow
@torch.no_grad()
def test_another_compression_is_another_graph_and_the_first_is_kept(llava):
    counter = CompileCounter()
    twin, pixels = compiled(llava, counter), random_pixels(2, 3, 28, 28)
    for budget in ("visionzip:5+2", None, "random:6", "visionzip:5+2"):
        llava.set_compression(budget)
        twin.set_compression(budget)
        assert_same(twin.encode_images(pixels), llava.encode_images(pixels))
    assert counter.frame_count == 3


@torch.no_grad()
def test_tiles_of_several_images_are_one_pass_and_one_graph(tmp_path):
    model, counter = loaded(hf_llava_next(vision_feature_layer=1), tmp_path), CompileCounter()
    twin = compiled(model, counter)
    layout = TileLayout.from_config(model.config)
    model.set_compression("visionzip:5+2")
    twin.set_compression("visionzip:5+2")
    for sizes in (SIZES, SIZES[::-1]):
        tiles = [random_pixels(layout.num_tiles(size), 3, 28, 28, seed=n) for n, size in enumerate(sizes)]
        assert_same(twin.encode_images(tiles, sizes), model.encode_images(tiles, sizes))
    assert counter.frame_count == 1


def test_gradients_take_the_eager_way(llava):
    counter = CompileCounter()
    twin = compiled(llava, counter)
    twin.set_compression("visionzip:5+2")
    sum(image.sum() for image in twin.encode_images(random_pixels(2, 3, 28, 28))).backward()
    assert counter.frame_count == 0
    assert twin.model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0


@pytest.mark.slow
def test_more_tiles_than_the_largest_graph_takes_are_several_passes(llava, monkeypatch):
    monkeypatch.setattr("llava.model.compiled_vision.BUCKETS", (1, 2))
    counter = CompileCounter()
    twin, pixels = compiled(llava, counter), random_pixels(5, 3, 28, 28)
    llava.set_compression("uniform:3")
    twin.set_compression("uniform:3")
    with torch.no_grad():
        assert_same(twin.encode_images(pixels), llava.encode_images(pixels))
    assert counter.frame_count == 2


def test_a_bucket_wastes_a_third_at_most():
    assert all(bucket_for(count) >= count for count in range(1, BUCKETS[-1] + 1))
    assert max(bucket_for(count) / count for count in range(1, BUCKETS[-1] + 1)) <= 1.5
    assert bucket_for(1000) == BUCKETS[-1]


def test_offloaded_weights_are_refused(llava):
    twin = copy.deepcopy(llava)
    twin.model.multi_modal_projector.to("meta")
    with pytest.raises(ValueError, match="whole on one device, they are on cpu, meta"):
        twin.compile_vision()


@pytest.mark.slow
def test_machine_code_gives_the_same_features():
    """The loader's flag and the real compiler."""
    plain, fast = (Inference.load(TINY, device="cpu", compile=compile).model for compile in (False, True))
    side = plain.config.vision_config.image_size
    pixels = random_pixels(3, 3, side, side)
    for budget in (None, "visionzip:41+8"):
        plain.set_compression(budget)
        fast.set_compression(budget)
        with torch.no_grad():
            assert_same(fast.encode_images(pixels), plain.encode_images(pixels))
            assert budget is None or torch.equal(
                fast.model.compiled_vision(fast.model, pixels, fast.model.bound_compressor)[1],
                plain.compress_images(pixels).positions,
            )
    assert len(fast.model.compiled_vision.graphs) == 2
