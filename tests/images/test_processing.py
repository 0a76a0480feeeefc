"""Pixels, grids and sizes against the oracle and against transformers; decoding against every kind of bad file."""

import contextlib
import json
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlavaConfig, LlavaNextConfig, LlavaNextImageProcessorPil
from transformers.image_processing_utils import select_best_resolution as transformers_best_resolution
from transformers.models.llava_next.modeling_llava_next import unpad_image

from llava.images.processing import (
    ImageDecodeError,
    ImageTooLargeError,
    divide_to_patches,
    expand2square,
    get_anyres_image_grid_shape,
    grid_pinpoints,
    load_image,
    load_image_processor,
    process_anyres_image,
    process_images,
    resize_and_pad_image,
    select_best_resolution,
    to_rgb,
    unpadded_shape,
)

ORACLE = Path(__file__).parents[1] / "fixtures" / "oracle"
MISC = json.loads((ORACLE / "misc.json").read_text())
PINPOINTS = MISC["grid_pinpoints"]
PAD = SimpleNamespace(image_aspect_ratio="pad")
ANYRES = SimpleNamespace(image_aspect_ratio="anyres", image_grid_pinpoints=PINPOINTS)
sides = st.integers(1, 2400)


def oracle_image(name: str) -> PIL.Image.Image:
    return load_image(ORACLE / "images" / f"{name}.png")


@pytest.fixture(scope="module")
def processor():
    return load_image_processor(ORACLE / "tiny-clip-vit-l14-336")


def write_processor(folder: Path, **fields) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(fields))
    return folder


# Pixels


@pytest.mark.parametrize(
    ("key", "name", "config"),
    [
        ("v15_0", "landscape", PAD),
        ("v15_1", "portrait", PAD),
        ("v15_2", "square", PAD),
        ("v16_0", "landscape", ANYRES),
        ("v16_1", "portrait", ANYRES),
        ("v16_2", "wide", ANYRES),
    ],
)
def test_pixels_equal_llavas(key, name, config, processor):
    pixels = process_images([oracle_image(name)], processor, config)[0]
    with np.load(ORACLE / "pixels.npz") as expected:
        np.testing.assert_allclose(pixels.numpy(), expected[key].reshape(pixels.shape), rtol=0, atol=1e-6)


@pytest.mark.parametrize("aspect_ratio", [None, "square"])
def test_square_is_the_processor_alone(aspect_ratio, processor):
    image = oracle_image("landscape")
    pixels = process_images([image, image], processor, SimpleNamespace(image_aspect_ratio=aspect_ratio))
    assert torch.equal(pixels, processor([image, image], return_tensors="pt")["pixel_values"])


def test_equal_shapes_are_stacked_and_others_listed(processor):
    landscape, portrait = oracle_image("landscape"), oracle_image("portrait")
    assert process_images([landscape, portrait], processor, PAD).shape == (2, 3, 336, 336)
    assert process_images([landscape, landscape], processor, ANYRES).shape == (2, 5, 3, 336, 336)
    views = process_images([landscape, portrait], processor, ANYRES)
    assert [tuple(view.shape) for view in views] == [(5, 3, 336, 336), (4, 3, 336, 336)]


def test_any_mode_is_taken(processor):
    colours = oracle_image("small")
    expected = process_images([colours.convert("L").convert("RGB")], processor, PAD)
    assert torch.equal(process_images([colours.convert("L")], processor, PAD), expected)


@pytest.mark.parametrize("name", ["landscape", "portrait", "wide", "small"])
def test_a_llava_hf_next_config_gives_transformers_pixels(name, processor):
    image = oracle_image(name)
    config = LlavaNextConfig(image_grid_pinpoints=[[height, width] for width, height in PINPOINTS])
    theirs = LlavaNextImageProcessorPil(
        size={"shortest_edge": 336},
        crop_size={"height": 336, "width": 336},
        image_grid_pinpoints=config.image_grid_pinpoints,
    )
    pixels = process_images([image], processor, config)
    torch.testing.assert_close(pixels, theirs(image, return_tensors="pt")["pixel_values"], rtol=0, atol=1e-6)


def test_siglip_tiles_have_its_own_size(tmp_path):
    folder = write_processor(tmp_path, image_processor_type="SiglipImageProcessor", size={"height": 28, "width": 28})
    processor = load_image_processor(folder)
    assert process_anyres_image(oracle_image("wide"), processor, [(56, 56), (84, 28)]).shape == (4, 3, 28, 28)
    assert process_images([oracle_image("wide")], processor, PAD).shape == (1, 3, 28, 28)


def test_wrong_requests_are_named(processor):
    image = oracle_image("small")
    with pytest.raises(ValueError, match="'anyres_max'"):
        process_images([image], processor, SimpleNamespace(image_aspect_ratio="anyres_max"))
    with pytest.raises(ValueError, match="image_grid_pinpoints"):
        process_images([image], processor, SimpleNamespace(image_aspect_ratio="anyres"))
    with pytest.raises(ValueError, match="empty"):
        process_images([], processor, PAD)


# Grids and sizes


@pytest.mark.parametrize("pinpoints", [PINPOINTS, str(PINPOINTS)], ids=["list", "text"])
def test_grids_equal_llavas(pinpoints):
    for size, best, grid in MISC["best"]:
        assert select_best_resolution(size, PINPOINTS) == tuple(best)
        assert get_anyres_image_grid_shape(size, pinpoints, 336) == tuple(grid)


def test_unpadded_shapes_equal_llavas():
    for size, expected in MISC["unpad_shapes"]:
        columns, rows = get_anyres_image_grid_shape(size, PINPOINTS, 336)
        assert unpadded_shape(rows * 24, columns * 24, size, "llava") == tuple(expected)


@settings(deadline=None)
@given(width=sides, height=sides)
def test_best_resolution_equals_transformers_in_its_order(width, height):
    theirs = transformers_best_resolution((height, width), [(h, w) for w, h in PINPOINTS])
    assert select_best_resolution((width, height), PINPOINTS) == theirs[::-1]


@settings(deadline=None)
@given(width=sides, height=sides, grid=st.sampled_from([(48, 48), (24, 48), (48, 24), (24, 72), (72, 24)]))
def test_unpadded_shape_equals_transformers(width, height, grid):
    left = unpad_image(torch.zeros(1, *grid), (height, width)).shape[1:]
    assert unpadded_shape(*grid, (width, height), "transformers") == tuple(left)


def test_the_rules_differ_where_the_extent_is_whole():
    assert unpadded_shape(48, 48, (704, 396), "llava") == (26, 48)
    assert unpadded_shape(48, 48, (704, 396), "transformers") == (28, 48)
    with pytest.raises(ValueError, match="'hf'"):
        unpadded_shape(48, 48, (704, 396), "hf")


def test_pinpoints_are_width_first_whatever_the_config():
    expected = [(336, 672), (1008, 336)]
    assert grid_pinpoints(SimpleNamespace(image_grid_pinpoints="[(336, 672), (1008, 336)]")) == expected
    assert grid_pinpoints(LlavaNextConfig(image_grid_pinpoints=[[672, 336], [336, 1008]])) == expected


@pytest.mark.parametrize("pinpoints", [None, [], "(", "[1, 2]", [[1, 2, 3]], "open('x')"])
def test_malformed_pinpoints_are_named(pinpoints):
    with pytest.raises(ValueError, match="image_grid_pinpoints"):
        grid_pinpoints(LlavaConfig(image_grid_pinpoints=pinpoints))


def test_no_resolution_to_choose_from():
    with pytest.raises(ValueError, match="possible_resolutions"):
        select_best_resolution((10, 10), [])


@settings(deadline=None)
@given(width=st.integers(1, 200), height=st.integers(1, 200), target=st.sampled_from([(48, 96), (96, 48), (96, 96)]))
def test_a_padded_image_fills_one_direction_and_is_centred(width, height, target):
    canvas = np.asarray(resize_and_pad_image(PIL.Image.new("RGB", (width, height), (255, 255, 255)), target))
    assert canvas.shape == (target[1], target[0], 3)
    filled = canvas.any(axis=2)
    rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    assert filled.sum() == len(rows) * len(columns), "the image is one rectangle"
    assert len(rows) == target[1] or len(columns) == target[0]
    for kept, whole in ((rows, target[1]), (columns, target[0])):
        assert kept[0] == (whole - len(kept)) // 2


@settings(deadline=None)
@given(columns=st.integers(1, 4), rows=st.integers(1, 4), side=st.integers(1, 9))
def test_tiles_put_together_are_the_image(columns, rows, side):
    pixels = np.random.default_rng(0).integers(0, 256, (rows * side, columns * side, 3), dtype=np.uint8)
    tiles = [np.asarray(tile) for tile in divide_to_patches(PIL.Image.fromarray(pixels), side)]
    assert len(tiles) == rows * columns
    canvas = np.concatenate([np.concatenate(tiles[i * columns : (i + 1) * columns], axis=1) for i in range(rows)])
    assert np.array_equal(canvas, pixels)


@settings(deadline=None)
@given(width=st.integers(1, 40), height=st.integers(1, 40))
def test_a_squared_image_lies_in_the_middle(width, height):
    square = np.asarray(expand2square(PIL.Image.new("L", (width, height), 255), 7))
    side = max(width, height)
    top, left = (side - height) // 2, (side - width) // 2
    expected = np.full((side, side), 7)
    expected[top : top + height, left : left + width] = 255
    assert np.array_equal(square, expected)


# Decoding


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_becomes_rgb(mode, tmp_path):
    source = oracle_image("small")
    if mode == "I;16":
        stored, expected = (
            PIL.Image.fromarray(np.asarray(source.convert("L")).astype(np.uint16) * 257),
            source.convert("L"),
        )
    else:
        stored = expected = source.convert(mode)
    stored.save(tmp_path / "image.png")
    image = load_image(tmp_path / "image.png")
    assert image.mode == "RGB"
    assert np.array_equal(image, expected.convert("RGB"))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs_become_rgb(mode, tmp_path):
    PIL.Image.new("RGB", (20, 10), (40, 90, 200)).convert(mode).save(tmp_path / "image.jpg", quality=95)
    image = load_image(tmp_path / "image.jpg")
    assert (image.mode, image.size) == ("RGB", (20, 10))
    expected = (88, 88, 88) if mode == "L" else (40, 90, 200)  # 0.299 R + 0.587 G + 0.114 B
    assert np.abs(np.asarray(image, dtype=int) - expected).max() <= 4


def test_sixteen_bit_grey_keeps_its_high_byte():
    values = np.array([[0, 255, 256, 0x1234, 0xFFFF]], dtype=np.uint16)
    assert np.asarray(to_rgb(PIL.Image.fromarray(values)))[0, :, 0].tolist() == [0, 0, 1, 0x12, 0xFF]


def test_transparency_is_dropped_and_the_colour_beneath_kept():
    image = PIL.Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert to_rgb(image).getpixel((0, 0)) == (10, 20, 30)


def test_bytes_are_taken(tmp_path):
    path = ORACLE / "images" / "small.png"
    assert load_image(path.read_bytes()).tobytes() == load_image(str(path)).tobytes()
    with pytest.raises(ImageDecodeError, match="7 bytes"):
        load_image(b"nothing")


def test_exif_orientation_is_ignored(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    oracle_image("small").save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg").size == (90, 60)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp", "tiff"])
def test_truncated_files_are_named(suffix, tmp_path):
    path = tmp_path / f"cut.{suffix}"
    oracle_image("landscape").save(path)
    whole = path.read_bytes()
    for length in (0, 4, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageDecodeError, match=f"cut.{suffix}"):
            load_image(path)


@settings(deadline=None)
@given(position=st.integers(0, 2543), value=st.integers(0, 255))
def test_a_damaged_file_is_decoded_or_refused(position, value):
    damaged = bytearray((ORACLE / "images" / "small.png").read_bytes())
    damaged[position] = value
    with contextlib.suppress(ImageDecodeError):
        assert load_image(bytes(damaged)).mode == "RGB"


def test_something_else_is_named(tmp_path):
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    with pytest.raises(ImageDecodeError, match=r"page\.jpg.*not an image"):
        load_image(tmp_path / "page.jpg")
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        load_image(tmp_path / "none.jpg")


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(20_000, 5_000), (100_000, 100_000)])
def test_the_pixel_limit_is_read_from_the_header(size, tmp_path):
    """A PNG that announces a size and holds no pixel: 100 bytes that would become gigabytes."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b""))
    with pytest.raises(ImageTooLargeError, match=r"bomb\.png"):
        load_image(tmp_path / "bomb.png")


def test_the_pixel_limit_can_be_set():
    path = ORACLE / "images" / "small.png"
    assert load_image(path, max_pixels=90 * 60).size == (90, 60)
    with pytest.raises(ImageTooLargeError, match="90x60 pixels"):
        load_image(path, max_pixels=90 * 60 - 1)
    assert load_image(path, max_pixels=None).size == (90, 60)


# Processors

COMMON_FIELDS = {"do_normalize": True, "do_resize": True, "resample": 3}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 56}}, "CLIPImageProcessorPil"),
        ({"image_processor_type": "CLIPImageProcessorFast", "size": {"shortest_edge": 56}}, "CLIPImageProcessorPil"),
        ({"feature_extractor_type": "CLIPFeatureExtractor", "size": 56, "crop_size": 56}, "CLIPImageProcessorPil"),
        (
            {
                "image_processor_type": "LlavaNextImageProcessor",
                "size": {"shortest_edge": 56},
                "image_grid_pinpoints": [[56, 112]],
                "do_pad": True,
            },
            "CLIPImageProcessorPil",
        ),
        ({"image_processor_type": "LlavaImageProcessor", "size": {"shortest_edge": 56}}, "LlavaImageProcessorPil"),
        (
            {"image_processor_type": "SiglipImageProcessor", "size": {"height": 56, "width": 56}},
            "SiglipImageProcessorPil",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_processors_are_the_pillow_ones(fields, name, tmp_path):
    crop = {} if "Siglip" in name else {"crop_size": {"height": 56, "width": 56}, "do_center_crop": True}
    processor = load_image_processor(write_processor(tmp_path, **COMMON_FIELDS, **(crop | fields)))
    assert type(processor).__name__ == name
    assert processor.preprocess(oracle_image("wide"), return_tensors="pt")["pixel_values"].shape == (1, 3, 56, 56)
    processor.save_pretrained(tmp_path / "saved")
    assert type(load_image_processor(tmp_path / "saved")).__name__ == name


def test_the_published_clip_config_equals_the_new_form(processor, tmp_path):
    """openai/clip-vit-large-patch14-336 still has the form of 2022."""
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 336, "crop_size": 336, "do_center_crop": True}
    old |= COMMON_FIELDS | {"image_mean": processor.image_mean, "image_std": processor.image_std}
    image = oracle_image("landscape")
    theirs = load_image_processor(write_processor(tmp_path, **old)).preprocess(image, return_tensors="pt")
    assert torch.equal(theirs["pixel_values"], processor.preprocess(image, return_tensors="pt")["pixel_values"])


def test_other_processors_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'ViTImageProcessor'"):
        load_image_processor(write_processor(tmp_path, image_processor_type="ViTImageProcessor"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="empty"):
        load_image_processor(tmp_path / "empty")


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, -1)])
def test_an_image_without_pixels_has_no_grid(size):
    with pytest.raises(ValueError, match=r"pixels .* has none"):
        select_best_resolution(size, [(336, 672)])
