"""Unpacking archives: nothing leaves the folder, and damage is named."""

import zipfile

import pytest

from llava.data.prepare.archive import ArchiveError, extract_zip
from tests.data.test_prepare import archive


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:evil"])
def test_nothing_is_unpacked_outside(name, tmp_path):
    (tmp_path / "a.zip").write_bytes(archive({"good": b"1", name: b"2"}))
    with pytest.raises(ArchiveError, match="refused"):
        extract_zip(tmp_path / "a.zip", tmp_path / "out", progress=lambda count: None)
    assert not (tmp_path / "out").exists()


def test_nothing_is_unpacked_through_links(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr(link, "/etc")
    with pytest.raises(ArchiveError, match="is a link: refused"):
        extract_zip(tmp_path / "a.zip", tmp_path / "out", progress=lambda count: None)
    (tmp_path / "b.zip").write_bytes(archive({"sub/file": b"1"}))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path)
    with pytest.raises(ArchiveError, match=r"sub is a link that leaves .*refused"):
        extract_zip(tmp_path / "b.zip", tmp_path / "out", progress=lambda count: None)


def test_a_damaged_member_is_named(tmp_path):
    content = bytearray(archive({"a": b"x" * 100}))
    content[60] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"a\.zip is damaged \(Bad CRC-32 for file 'a'\); delete it"):
        extract_zip(tmp_path / "a.zip", tmp_path / "out", progress=lambda count: None)
    assert not (tmp_path / "out/a").exists()
