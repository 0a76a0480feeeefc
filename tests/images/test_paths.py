"""Names of images that data give: inside a folder as they are written, links or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava.images.paths import path_inside


@pytest.mark.parametrize("name", ["a.jpg", "b/a.jpg", "./b//a.jpg", "b/../a.jpg", "..a.jpg", "b/...", "~/a.jpg"])
def test_relative_names_stay_inside(name: str) -> None:
    assert path_inside("/root", name).is_relative_to("/root")
    assert ".." not in path_inside("root", name).parts


@pytest.mark.parametrize("name", ["../a.jpg", "b/../../a.jpg", "..", "b/../../root/a.jpg", "/a.jpg", "/root2/a.jpg"])
def test_a_name_that_leaves_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"leaves /root|lies outside /root"):
        path_inside("/root", name)


@pytest.mark.parametrize("name", ["", "a\0.jpg", "\ud800.jpg"])
def test_what_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no file name"):
        path_inside("/root", name)


def test_an_absolute_name_inside_is_the_relative_one() -> None:
    assert path_inside("/root", "/root/b/a.jpg") == path_inside("/root", "b/a.jpg") == Path("/root/b/a.jpg")
    assert path_inside("/root/../root/", "//root/x/../b/a.jpg") == Path("/root/../root/b/a.jpg")
    assert path_inside("/", "/anything/a.jpg") == path_inside("/", "//anything/a.jpg") == Path("/anything/a.jpg")


@pytest.mark.parametrize("name", ["/root", "/root/../secret.jpg", ".", "b/.."])
def test_the_folder_itself_and_absolute_names_that_climb_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"lies outside /root|leaves /root"):
        path_inside("/root", name)


def test_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert path_inside("images", str(tmp_path / "images" / "a.jpg")) == Path("images/a.jpg")


def test_links_are_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "disk" / "coco"
    elsewhere.mkdir(parents=True)
    (elsewhere / "a.jpg").write_bytes(b"a")
    root = tmp_path / "root"
    root.mkdir()
    (root / "coco").symlink_to(elsewhere)
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "1"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / "b1").write_bytes(b"b")
    (snapshot / "b.jpg").symlink_to(Path("../../blobs/b1"))
    assert path_inside(root, "coco/a.jpg").read_bytes() == b"a"
    assert path_inside(snapshot, "b.jpg").read_bytes() == b"b"


def test_a_folder_that_is_a_link_is_known_by_both_names(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("real", "link"):
        assert path_inside(tmp_path / "link", str(tmp_path / name / "a.jpg")) == tmp_path / "link" / "a.jpg"
