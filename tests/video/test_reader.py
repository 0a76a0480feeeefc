"""Videos of every kind become the frames that a family's rule names, and those that cannot be read say why."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from llava.video import Limits, UnreadableVideoError, Video, choose_frames, read_clip
from tests.video.files import CODECS, HEIGHT, WIDTH, picture, write_song, write_sound, write_video

FIXTURES = Path(__file__).parents[1] / "fixtures" / "oracle_models"
RECORDS = Path(os.environ.get("ORACLE_MODELS") or FIXTURES) / "video-llava"


def levels(clip) -> list[int]:
    """Which frames these are, by their grey: the bottom right corner."""
    return [round(float(frame[-4:, -4:].mean()) / 10) for frame in clip.frames]


def test_frames_of_the_recorded_clip_are_decords():
    with np.load(RECORDS / "clip.npz") as file:
        recorded = dict(file)
    clip = read_clip(RECORDS / "clip.mp4", 8)
    assert clip.indices == tuple(recorded["frame_indices"].tolist())
    assert clip.num_frames == int(recorded["num_frames"][0])
    assert np.array_equal(clip.frames[:, ::3, ::3], recorded["decord_frames_strided"])
    assert np.allclose(clip.frames.mean(axis=(1, 2, 3)), recorded["frame_means"], atol=1e-9)


@pytest.mark.parametrize(
    ("available", "wanted", "rule", "expected"),
    [
        (20, 8, "linspace", (0, 2, 5, 8, 10, 13, 16, 19)),
        (20, 8, "arange", (0, 2, 5, 7, 10, 12, 15, 17)),
        (1, 4, "linspace", (0, 0, 0, 0)),
        (1, 4, "arange", (0, 0, 0, 0)),
        (3, 8, "linspace", (0, 0, 0, 0, 1, 1, 1, 2)),
        (10, 3, "arange", (0, 3, 6)),
        (5, 1, "linspace", (0,)),
    ],
)
def test_rules(available, wanted, rule, expected):
    assert choose_frames(available, wanted, rule) == expected


@pytest.mark.parametrize("rule", ["linspace", "arange"])
def test_rules_give_as_many_frames_as_asked_for(rule):
    for available in range(1, 60):
        for wanted in range(1, 40):
            chosen = choose_frames(available, wanted, rule)
            assert len(chosen) == wanted and list(chosen) == sorted(chosen) and chosen[-1] < available


def test_rules_refuse_what_cannot_be():
    with pytest.raises(ValueError, match="must be at least 1"):
        choose_frames(0, 8)
    with pytest.raises(ValueError, match="none of linspace, arange"):
        choose_frames(5, 8, "every")


@pytest.mark.parametrize("suffix", CODECS)
def test_every_container(suffix, tmp_path):
    path = write_video(tmp_path / f"clip{suffix}")
    clip = read_clip(path, 4)
    assert (clip.indices, clip.num_frames, clip.size) == ((0, 3, 6, 9), 10, (WIDTH, HEIGHT))
    assert levels(clip) == [0, 3, 6, 9]
    assert np.array_equal(read_clip(path.read_bytes(), 4).frames, clip.frames)
    assert np.array_equal(np.asarray(clip.pictures[2]), clip.frames[2])


def test_a_wrong_number_of_frames_in_the_header_is_found_out(tmp_path):
    """AVI's header says 10 where fewer are there: they are counted, so the last one that is there is seen."""
    path = write_video(tmp_path / "clip.avi")
    content = path.read_bytes()
    end = [place for place in range(len(content)) if content.startswith(b"00dc", place)]
    (tmp_path / "cut.avi").write_bytes(content[: end[7]])
    with av.open(str(tmp_path / "cut.avi")) as container:
        assert container.streams.video[0].frames == 10
        count = sum(1 for _ in container.decode(video=0))
    clip = read_clip(tmp_path / "cut.avi", 3)
    assert 5 <= count < 8 and clip.num_frames == count
    assert list(clip.indices) == levels(clip) == [0, (count - 1) // 2, count - 1]


def test_a_video_of_one_frame_is_shown_again(tmp_path):
    clip = read_clip(write_video(tmp_path / "one.mp4", 1), 8)
    assert clip.indices == (0,) * 8 and clip.num_frames == 1 and levels(clip) == [0] * 8


def test_a_variable_rate_counts_frames_not_seconds(tmp_path):
    path = write_video(tmp_path / "variable.mkv", 6, times=[0, 1, 2, 3, 4, 400])
    clip = read_clip(path, 3)
    assert clip.indices == (0, 2, 5) and levels(clip) == [0, 2, 5]


@pytest.mark.parametrize(("rotation", "white"), [(90, "bottom left"), (180, "bottom right"), (-90, "top right")])
def test_frames_are_turned_upright(rotation, white, tmp_path):
    """The white corner is at the top left as stored; a rotation counts counterclockwise."""
    clip = read_clip(write_video(tmp_path / "turned.mp4", 3, rotation=rotation), 2)
    assert clip.size == ((HEIGHT, WIDTH) if abs(rotation) == 90 else (WIDTH, HEIGHT))
    frame = clip.frames[1]
    corners = {"top left": frame[2, 2], "top right": frame[2, -3], "bottom left": frame[-3, 2]}
    corners["bottom right"] = frame[-3, -3]
    assert max(corners, key=lambda name: int(corners[name].sum())) == white


def test_a_telephones_portrait_is_upright(tmp_path):
    """The matrix that telephones write: a quarter turn clockwise, so the top left corner comes to the top right."""
    content = write_video(tmp_path / "clip.mp4", 2).read_bytes()
    place = content.index(b"tkhd") + 4 + 40
    matrix = np.array([0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    clip = read_clip(content[:place] + matrix + content[place + len(matrix) :], 1)
    assert clip.size == (HEIGHT, WIDTH) and clip.frames[0, 2, -3].min() > 200 > clip.frames[0, 2, 2].max()


def test_sound_beside_the_picture_is_passed_over(tmp_path):
    assert read_clip(write_video(tmp_path / "clip.mp4", 5, sound=True), 2).indices == (0, 4)


def test_a_folder_of_frames_is_read_by_its_numbers(tmp_path):
    for number in range(12):
        Image.fromarray(picture(number)).save(tmp_path / f"frame_{number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    clip = read_clip(tmp_path, 4)
    assert clip.indices == (0, 3, 7, 11) and levels(clip) == [0, 3, 7, 11]
    assert np.array_equal(clip.frames[1], picture(3))


def test_arrays_and_pictures(tmp_path):
    array = np.stack([picture(number) for number in range(6)])
    clip = read_clip(array, 3)
    assert clip.indices == (0, 2, 5) and np.array_equal(clip.frames, array[[0, 2, 5]])
    pictures = read_clip([Image.fromarray(frame) for frame in array], 3)
    assert np.array_equal(pictures.frames, clip.frames)


def broken_files(folder: Path) -> dict[str, tuple[Path, str]]:
    good, longer = (write_video(folder / "good.mp4", count).read_bytes() for count in (10, 24))
    files = {
        "empty": (b"", "cannot be decoded"),
        "text": (b"this is no video\n" * 50, "cannot be decoded"),
        "cut off": (good[: len(good) // 2], "cannot read video"),
        "cut before its index": (longer[: len(longer) // 2], "it has no video, and no sound either; is it cut off?"),
        "header alone": (good[:64], "cannot be decoded"),
        "playlist": (b"#EXTM3U\n#EXTINF:1,\ngood.mp4\n#EXT-X-ENDLIST\n", "cannot be decoded"),
        "list": (b"ffconcat version 1.0\nfile good.mp4\n", "cannot be decoded"),
    }
    made = {}
    for name, (content, message) in files.items():
        path = folder / f"{name}.mp4"
        path.write_bytes(content)
        made[name] = path, message
    made["audio only"] = write_sound(folder / "sound.mp4"), "it has no video, only audio"
    made["a song with a cover"] = write_song(folder / "song.mp4"), "it has no video, only a cover, audio"
    made["missing"] = folder / "nowhere.mp4", "No such file"
    (folder / "frames").mkdir()
    made["an empty folder"] = folder / "frames", "the folder has no frames"
    (folder / "bad_frames").mkdir()
    (folder / "bad_frames" / "1.png").write_bytes(b"no picture")
    made["a damaged frame"] = folder / "bad_frames", "1.png"
    (folder / "sizes").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "sizes" / "1.png")
    Image.new("RGB", (8, 9)).save(folder / "sizes" / "2.png")
    made["frames of two sizes"] = folder / "sizes", "frame 1 is 8x9 pixels and frame 0 is 8x8"
    os.mkfifo(folder / "pipe.mp4")
    made["a pipe"] = folder / "pipe.mp4", "a pipe, a socket or a device"
    return made


def test_what_cannot_be_read_says_why_and_names_the_file(tmp_path):
    for case, (path, message) in broken_files(tmp_path).items():
        with pytest.raises(UnreadableVideoError) as raised:
            read_clip(path, 4)
        text = str(raised.value)
        assert message in text and path.name in text and "\n" not in text, (case, text)


def test_what_is_no_video_at_all():
    for given, message in (
        (np.zeros((2, 4, 4, 3), np.float32), "must be uint8 of shape"),
        (np.zeros((4, 4, 3), np.uint8), "must be uint8 of shape"),
        (np.zeros((0, 4, 4, 3), np.uint8), "it has no frames"),
        (np.zeros((1, 0, 4, 3), np.uint8), "its frames are 4x0 pixels"),
        ([], "it has no frames"),
        (["a.png"], "frame 0 is a str"),
        ("", "cannot read video '': it has no name"),
        ("https://", "cannot download video 'https://': it names no server"),
        (7, "must be uint8 of shape"),
    ):
        with pytest.raises(UnreadableVideoError, match=message):
            read_clip(given)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(pixels=100), "48x32 pixels a frame are more than the limit of 100"),
        (Limits(frames=9), "more frames than the limit of 9"),
        (Limits(seconds=-1.0), "frames are decoded after -1 seconds, which is the limit"),
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_bounds_of_files(suffix, limits, message, tmp_path):
    with pytest.raises(UnreadableVideoError, match=message):
        read_clip(write_video(tmp_path / f"clip{suffix}"), 4, limits=limits)


def test_bounds_of_folders_and_arrays(tmp_path):
    for number in range(3):
        Image.fromarray(picture(number)).save(tmp_path / f"{number}.png")
    array = np.stack([picture(number) for number in range(3)])
    for source in (tmp_path, array, [Image.fromarray(frame) for frame in array]):
        with pytest.raises(UnreadableVideoError, match="3 frames, more than the limit of 2"):
            read_clip(source, 2, limits=Limits(frames=2))
        with pytest.raises(UnreadableVideoError, match="48x32"):
            read_clip(source, 2, limits=Limits(pixels=100))


def test_without_pyav_a_file_says_what_to_install_and_a_folder_works(tmp_path):
    write_video(tmp_path / "clip.mp4", 1)
    (tmp_path / "frames").mkdir()
    Image.fromarray(picture(1)).save(tmp_path / "frames" / "1.png")
    code = f"""
import sys
sys.modules["av"] = None
from llava.video import UnreadableVideoError, read_clip
assert read_clip({str(tmp_path / "frames")!r}, 2).indices == (0, 0)
try:
    read_clip({str(tmp_path / "clip.mp4")!r})
except UnreadableVideoError as error:
    assert "pip install 'llava-visionzip[video]'" in str(error), error
else:
    raise AssertionError("it was read")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_videos_have_names_and_keys():
    video = Video("clip.mp4", 4)
    assert Video("https://me:secret@site.org/clip.mp4").name == "https://site.org/clip.mp4"
    assert video.name == "clip.mp4" and video.key == Video(Path("clip.mp4"), 4).key != Video("clip.mp4").key
    content = io.BytesIO(b"abc").read()
    assert Video(content).key == Video(bytes(content)).key and "3 bytes" in Video(content).name
    for frames in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            Video("clip.mp4", frames)
    with pytest.raises(TypeError, match="whole number"):
        Video("clip.mp4", 2.5)
