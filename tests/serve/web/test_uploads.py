"""Uploads: only pictures that were sent, within bounds; no path, no address, no format that runs a program."""

from __future__ import annotations

import zlib

import pytest

from llava.images.decoding import UnreadableImageError
from llava.serve.web.uploads import read_upload
from tests.serve.web.conftest import LIMITS, SCENE, data_url, picture_file


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_picture_is_opened(kind: str) -> None:
    picture = read_upload(data_url(picture_file((64, 48), kind)), "a", LIMITS, None)
    assert (picture.size, picture.mode) == ((64, 48), "RGB")


@pytest.mark.parametrize(
    "data",
    [
        str(SCENE),
        f"file://{SCENE}",
        "http://127.0.0.1/a.png",
        "data:image/png,abc",
        {"path": str(SCENE)},
        None,
        3,
        b"x",
    ],
)
def test_paths_and_addresses_are_refused(data: object) -> None:
    with pytest.raises(UnreadableImageError, match=r"^a\.png: only an uploaded picture"):
        read_upload(data, "a.png", LIMITS, None)


def test_bounds_and_damage_are_told_in_a_line_that_names_the_file() -> None:
    large, wide = bytes(LIMITS.upload_bytes + 3), picture_file((1000, 401))
    broken = picture_file((64, 48))[:-30]
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"
    for content, reason in (
        (large, "0 MB; make the file smaller"),
        (wide, "1000x401 pixels are more than the limit of 400000"),
        (b"hello", "not a picture; send one of JPEG, PNG"),
        (zlib.compress(b"x" * 1000), "not a picture"),
        (broken, "cannot read image a.png: .*cannot be decoded"),
        (postscript, "not a picture"),
    ):
        with pytest.raises(UnreadableImageError, match=reason) as told:
            read_upload(data_url(content), "a.png", LIMITS, None)
        assert "a.png" in str(told.value) and "\n" not in str(told.value)
    with pytest.raises(UnreadableImageError, match="damaged"):
        read_upload("data:image/png;base64,@@@", "a.png", LIMITS, None)
