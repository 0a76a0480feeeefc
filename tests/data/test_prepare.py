"""`python -m llava.data.prepare` against a local server."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile

import pytest
from PIL import Image

from llava.data.prepare.catalog import DATASETS, llava_665k
from llava.data.prepare.command import main
from llava.data.prepare.origin import dataset_of
from llava.data.validate import main as validate
from tests.data.http_server import serving

JSON = "llava_v1_5_mix665k.json"


def picture(seed: int, suffix: str = "jpeg", side: int = 24) -> bytes:
    file = io.BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(seed).randbytes(3 * side * side)).save(file, suffix)
    return file.getvalue()


def archive(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return file.getvalue()


ARCHIVES = {
    "coco/train2017.zip": {"train2017/1.jpg": picture(1), "train2017/2.jpg": picture(2)},
    "gqa/images.zip": {"images/3.jpg": picture(3)},
    "textvqa/train_val_images.zip": {"train_images/4.jpg": picture(4)},
    "vg/images.zip": {"VG_100K/5.jpg": picture(5)},
    "vg/images2.zip": {"VG_100K_2/6.jpg": picture(6)},
}
IMAGES = [f"{path.split('/')[0]}/{name}" for path, files in ARCHIVES.items() for name in files]
BOOKS = [f"ocr_vqa/images/{number}.jpg" for number in range(10, 16)]


def record(name=None):
    turns = [{"from": "human", "value": "<image>\nWhat?" if name else "Hi"}, {"from": "gpt", "value": "Ho"}]
    return {"id": name, "conversations": turns, **({"image": name} if name else {})}


@pytest.fixture
def mirror():
    """A server with the layout of a prepared root; one book is gone, one is a placeholder, one is damaged."""
    with serving() as server:
        records = [record(name) for name in (*IMAGES, *BOOKS, None, IMAGES[0])]
        server.put(JSON, json.dumps(records).encode())
        for path, files in ARCHIVES.items():
            server.put(path, archive(files))
        for number, book in enumerate(BOOKS[:3]):
            server.put(book, picture(number, "gif" if number else "jpeg"))
        server.put(BOOKS[3], picture(0, "gif", side=1))
        server.put(BOOKS[4], picture(0)[:300])
        yield server


@pytest.fixture
def prepare(mirror, tmp_path, capsys):
    def prepare(*flags, dataset="llava-665k", base=True):
        settings = ["--root", str(tmp_path / "data"), "--retry-wait", "0.001", "--workers", "3"]
        status = main([dataset, *settings, *(["--base-url", mirror.url] if base else []), *flags])
        return status, *capsys.readouterr()

    prepare.root = tmp_path / "data"
    return prepare


def lock_of(root):
    return json.loads((root / "prepare.lock.json").read_text())["files"]


def test_everything_that_can_be_had_is_there_and_the_rest_is_named(prepare, mirror):
    status, shown, errors = prepare()
    assert status == 1
    for path, files in ARCHIVES.items():
        for name, content in files.items():
            assert (prepare.root / path).parent.joinpath(name).read_bytes() == content
    report = json.loads((prepare.root / "llava_v1_5_mix665k.missing.json").read_text())
    assert report["files"] == {} and list(report["images"]) == BOOKS[3:]
    reasons = list(report["images"].values())
    assert "placeholder of one pixel" in reasons[0]
    assert "no whole image" in reasons[1]
    assert reasons[2] == f"HTTP 404 Not Found ({mirror.url}/{BOOKS[5]})"
    assert "0 files, 3 images" in errors and BOOKS[5] in errors
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines()}
    assert rows["ocr_vqa"] == ["6", "3"] and rows["coco"] == ["3", "0"] and rows["text"] == ["1", "0"]
    lock = lock_of(prepare.root)
    assert set(lock) == {JSON, *ARCHIVES, *BOOKS[:3]}
    assert lock["coco/train2017.zip"]["extracted"] == 2
    assert len(lock[BOOKS[0]]["sha256"]) == 64 and lock[BOOKS[0]]["size"] == len(picture(0))


def test_a_second_run_downloads_only_what_is_missing(prepare, mirror):
    prepare()
    mirror.requests.clear()
    (prepare.root / "coco/train2017/1.jpg").unlink()
    mirror.put(BOOKS[5], picture(9))
    prepare()
    assert {path for method, path, _ in mirror.requests if method == "GET"} == set(BOOKS[3:])
    assert (prepare.root / "coco/train2017/1.jpg").read_bytes() == picture(1)
    assert (prepare.root / BOOKS[5]).is_file()


def test_bad_connections_do_not_matter(prepare, mirror):
    for path in (*ARCHIVES, JSON, *BOOKS[:3]):
        mirror.resources[path].cuts = [100, 50]
        mirror.resources[path].statuses = [503]
    mirror.resources["gqa/images.zip"].ranges = False
    prepare()
    assert all((prepare.root / name).is_file() for name in (*IMAGES, *BOOKS[:3]))


def test_the_reduced_annotations_need_no_more_than_there_is(prepare):
    status, shown, _ = prepare("--drop-missing")
    assert status == 0
    original = json.loads((prepare.root / JSON).read_text())
    reduced = json.loads((prepare.root / "llava_v1_5_mix665k.reduced.json").read_text())
    assert reduced == [entry for entry in original if entry.get("image") not in BOOKS[3:]]
    assert len(original) == len(reduced) + 3
    assert dataset_of(prepare.root / JSON) == "llava-665k"
    assert dataset_of(prepare.root / "llava_v1_5_mix665k.reduced.json") == "llava-665k"
    rows = {line.split()[0]: line.split()[1:] for line in shown[shown.index("kept") - 10 :].splitlines() if line}
    assert rows["ocr_vqa"] == ["3", "3"] and rows["all"] == ["11", "3"]
    for name, expected in (("llava_v1_5_mix665k.reduced.json", 0), (JSON, 1)):
        flags = ["--data-path", str(prepare.root / name), "--image-folder", str(prepare.root), "--workers", "0"]
        assert validate(flags) == expected


def test_another_file_than_recorded_is_an_error(prepare, mirror):
    prepare()
    (prepare.root / "gqa/images.zip").unlink()
    (prepare.root / "gqa/images/3.jpg").unlink()
    changed = bytearray(archive(ARCHIVES["gqa/images.zip"]))
    changed[60] ^= 1
    mirror.put("gqa/images.zip", bytes(changed))
    with pytest.raises(SystemExit, match=r"error: .*gqa/images\.zip: has SHA-256 .*at its first download"):
        prepare()
    assert not (prepare.root / "gqa/images/3.jpg").exists()
    with pytest.raises(SystemExit, match="Delete the file to have it downloaded again, or its entry"):
        prepare()


def test_a_single_image_that_changed_does_not_stop_the_rest(prepare, mirror):
    prepare()
    (prepare.root / BOOKS[1]).unlink()
    mirror.put(BOOKS[1], picture(99))
    mirror.put(BOOKS[5], picture(5))
    prepare()
    images = json.loads((prepare.root / "llava_v1_5_mix665k.missing.json").read_text())["images"]
    assert images[BOOKS[1]].startswith("another image than was recorded in prepare.lock.json")
    assert (prepare.root / BOOKS[5]).is_file() and not (prepare.root / BOOKS[1]).exists()


def test_a_shop_that_does_not_answer_is_not_asked_for_every_image(prepare, mirror):
    names = [f"ocr_vqa/images/{number}.jpg" for number in range(200)]
    mirror.put(JSON, json.dumps([record(name) for name in names]).encode())
    for name in names:
        mirror.put(name, picture(0), statuses=[503] * 9)
    assert prepare("--retries", "0")[0] == 1
    images = json.loads((prepare.root / "llava_v1_5_mix665k.missing.json").read_text())["images"]
    assert list(images) == sorted(names)
    tried = {path for method, path, _ in mirror.requests if path in names}
    assert 30 <= len(tried) < 60
    assert sum(reason.startswith("not tried: 30 images before it") for reason in images.values()) == 200 - len(tried)


def test_a_file_that_changes_on_the_disk_is_noticed(prepare):
    prepare()
    file = prepare.root / "vg/images.zip"
    content = bytearray(file.read_bytes())
    content[50] ^= 1
    status = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert prepare()[0] == 1  # same size and time: not looked at again
    with pytest.raises(SystemExit, match=r"vg/images\.zip: has SHA-256"):
        prepare("--verify")
    os.utime(file)
    with pytest.raises(SystemExit, match=r"vg/images\.zip: has SHA-256"):
        prepare()


def test_a_length_that_is_too_small_is_found_out(prepare, mirror):
    mirror.resources["gqa/images.zip"].claimed = 200
    status, _, errors = prepare()
    assert status == 1
    assert "gqa/images.zip: damaged or not the file: not a whole zip archive" in errors
    assert not (prepare.root / "gqa/images.zip").exists()
    assert (prepare.root / "vg/VG_100K/5.jpg").is_file()
    mirror.resources["gqa/images.zip"].claimed = None
    prepare()
    assert (prepare.root / "gqa/images/3.jpg").is_file()


def test_an_error_page_is_no_annotations(prepare, mirror):
    mirror.put(JSON, b"<html>quota exceeded</html>")
    with pytest.raises(SystemExit, match=rf"{JSON}: damaged or not the file: not JSON"):
        prepare()


def test_an_archive_that_is_gone_costs_only_its_images(prepare, mirror):
    del mirror.resources["coco/train2017.zip"]
    status, _, errors = prepare()
    assert status == 1 and "coco/train2017.zip: HTTP 404 Not Found" in errors
    assert (prepare.root / "vg/VG_100K/5.jpg").is_file()


def test_images_that_were_unpacked_by_hand_are_not_downloaded(prepare, mirror):
    for name, content in ARCHIVES["coco/train2017.zip"].items():
        (prepare.root / "coco" / name).parent.mkdir(parents=True, exist_ok=True)
        (prepare.root / "coco" / name).write_bytes(content)
    prepare()
    assert not mirror.gets("coco/train2017.zip") and mirror.gets("gqa/images.zip")


def test_archives_can_be_deleted_once_unpacked(prepare, mirror):
    prepare("--delete-archives")
    assert not list(prepare.root.rglob("*.zip")) and (prepare.root / "vg/VG_100K_2/6.jpg").is_file()
    mirror.requests.clear()
    prepare("--delete-archives")
    assert not [path for method, path, _ in mirror.requests if path.endswith(".zip") and method == "GET"]


def test_only_some_image_sets(prepare, mirror):
    assert prepare("--only", "coco,vg")[0] == 0
    assert not mirror.gets("gqa/images.zip") and (prepare.root / "vg/VG_100K_2/6.jpg").is_file()
    with pytest.raises(SystemExit, match="--only flickr: llava-665k has coco, gqa, textvqa, vg, ocr_vqa"):
        prepare("--only", "flickr")


def test_a_dry_run_lists_sizes_and_fetches_nothing(prepare, mirror):
    status, shown, _ = prepare("--dry-run")
    assert status == 0 and not prepare.root.exists()
    assert {method for method, _, _ in mirror.requests} == {"HEAD"}
    assert f"{mirror.url}/coco/train2017.zip" in shown and "absent" in shown


def test_ocr_vqas_list_gives_the_urls(prepare, mirror):
    index = {"10": {"imageURL": mirror.put("shop/a.gif", picture(1, "gif"))}, "11": {"imageURL": "file:///etc/passwd"}}
    (prepare.root / "ocr_vqa/images").mkdir(parents=True)
    (prepare.root / "ocr_vqa/images/12.png").write_bytes(picture(2, "png"))
    mirror.put("list", json.dumps(index).encode())
    urls = [f"--url={path}={mirror.url}/{path}" for path in (JSON, *ARCHIVES)]
    prepare(*urls, f"--url=ocr_vqa/dataset.json={mirror.url}/list", base=False)
    assert (prepare.root / BOOKS[0]).read_bytes() == picture(1, "gif")
    assert (prepare.root / BOOKS[2]).read_bytes() == picture(2, "png")
    images = json.loads((prepare.root / "llava_v1_5_mix665k.missing.json").read_text())["images"]
    assert images[BOOKS[1]] == "not an http(s) URL (file:///etc/passwd)"
    assert images[BOOKS[3]] == "ocr_vqa/dataset.json has no URL for it"


def test_a_prepared_root_is_a_mirror_of_the_captions_too(prepare, mirror):
    folder = "LLaVA-Pretrain"
    mirror.put(f"{folder}/blip_laion_cc_sbu_558k.json", json.dumps([record("00001/7.jpg")]).encode())
    mirror.put(f"{folder}/images.zip", archive({"00001/7.jpg": picture(7)}))
    assert prepare(dataset="llava-pretrain")[0] == 0
    assert (prepare.root / folder / "images/00001/7.jpg").read_bytes() == picture(7)


def test_a_full_disk_is_told_beforehand(prepare, mirror, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: os.terminal_size((0, 0)) and type("D", (), {"free": 500}))
    with pytest.raises(SystemExit, match=r"llava-665k .* needs 0\.0 GB in .*but the disk has 0\.0 GB left"):
        prepare()
    assert not mirror.gets("coco/train2017.zip")


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_is_gone_on_with(by, prepare, mirror):
    big = {f"train2017/{number}.jpg": random.Random(number).randbytes(400_000) for number in (1, 2, 3)}
    mirror.put("coco/train2017.zip", archive(big), seconds_a_chunk=0.1)
    command = [sys.executable, "-m", "llava.data.prepare", "llava-665k", "--root", str(prepare.root)]
    process = subprocess.Popen([*command, "--base-url", mirror.url], stderr=subprocess.PIPE, text=True)
    part = prepare.root / "coco/train2017.zip.part"
    while process.poll() is None and not (part.is_file() and part.stat().st_size >= 300_000):
        time.sleep(0.01)
    with pytest.raises(SystemExit, match=r"another .* is at work there"):
        prepare()
    process.send_signal(by)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-by if by == signal.SIGKILL else 128 + by)
    assert by == signal.SIGKILL or "stopped; the same command goes on from here" in errors
    kept = part.stat().st_size
    assert 300_000 <= kept < 1_200_000 and not (prepare.root / "coco/train2017.zip").exists()
    mirror.resources["coco/train2017.zip"].seconds_a_chunk = 0
    prepare()
    assert mirror.gets("coco/train2017.zip")[-1]["Range"] == f"bytes={kept}-"
    assert all((prepare.root / "coco" / name).read_bytes() == content for name, content in big.items())


def test_the_hubs_endpoint_is_followed():
    code = """
from llava.data.prepare.catalog import DATASETS
print(*[file.url for make in DATASETS.values() for file in make().files()])
"""
    environment = {**os.environ, "HF_ENDPOINT": "https://mirror.example"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    urls = done.stdout.split()
    assert "https://mirror.example/datasets/liuhaotian/LLaVA-Instruct-150K/resolve/main/" + JSON in urls
    assert not [url for url in urls if "huggingface.co" in url]


def test_what_there_is_to_prepare(capsys):
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in DATASETS)
    assert "ocr_vqa/ocr_vqa_images_llava_v15.zip" in [file.path for file in llava_665k(ocr_vqa_archive=True).archives]
    with pytest.raises(SystemExit, match=r"--url nothing\.zip=\.\.\.: no such file"):
        main(["llava-665k", "--url", "nothing.zip=http://a"])


def test_a_record_of_another_machine_does_not_stand_for_its_images(prepare, mirror, tmp_path):
    prepare("--delete-archives")
    assert lock_of(prepare.root)["coco/train2017.zip"]["last"] == "train2017/2.jpg"
    record_ = (prepare.root / "prepare.lock.json").read_bytes()
    prepare.root.rename(tmp_path / "first machine")
    prepare.root.mkdir()
    (prepare.root / "prepare.lock.json").write_bytes(record_)
    _, shown, _ = prepare()
    assert all((prepare.root / name).is_file() for name in IMAGES), shown


def test_a_set_that_could_not_be_had_is_no_success(prepare, mirror):
    del mirror.resources["coco/train2017.zip"]
    assert prepare("--drop-missing")[0] == 1
    assert (prepare.root / "llava_v1_5_mix665k.reduced.json").is_file()


def packed(kind: str) -> bytes:
    """An archive with a fault that zipfile does not call a bad archive."""
    long_name, file = "a" * 300, io.BytesIO()
    method = {"deflate": zipfile.ZIP_DEFLATED, "lzma": zipfile.ZIP_LZMA, "bz2": zipfile.ZIP_BZIP2}
    with zipfile.ZipFile(file, "w", method.get(kind, zipfile.ZIP_STORED)) as opened:
        if kind == "file as folder":
            opened.writestr("train2017", b"x")
        opened.writestr(f"train2017/{long_name}.jpg" if kind == "long name" else "train2017/1.jpg", picture(1))
    content = bytearray(file.getvalue())
    if kind in method:
        start = 54 if kind == "lzma" else 45  # behind the header, and behind lzma's own
        content[start : start + 15] = b"\xff" * 15
    if kind == "version":
        content[content.rindex(b"PK\1\2") + 6] = 99
    return bytes(content)


@pytest.mark.parametrize("kind", ["deflate", "lzma", "bz2", "version", "file as folder", "long name"])
def test_an_odd_archive_costs_only_its_images(kind, prepare, mirror):
    mirror.put("coco/train2017.zip", packed(kind))
    status, _, errors = prepare()
    assert status == 1 and "coco/train2017.zip: " in errors
    assert (prepare.root / "vg/VG_100K/5.jpg").is_file() and (prepare.root / BOOKS[0]).is_file()


@pytest.mark.parametrize("files", [[], {"a": 1}, {"a": {}}, {"a": {"size": 1, "sha256": "x", "last": 3}}])
def test_a_record_of_another_form_is_named(files, prepare):
    prepare.root.mkdir()
    (prepare.root / "prepare.lock.json").write_text(json.dumps({"files": files}))
    with pytest.raises(SystemExit, match=r"prepare\.lock\.json is not a record of downloads"):
        prepare()


@pytest.mark.parametrize("name", ["ocr_vqa/images/\ud83d.jpg", f"ocr_vqa/images/{'a' * 300}.jpg", "\ud83d/a.jpg"])
def test_a_name_that_no_file_can_have_is_missing(name, prepare, mirror):
    mirror.put(JSON, json.dumps([record(IMAGES[0]), record(name)]).encode())
    status, _, errors = prepare("--drop-missing")
    assert status == 0 and "1 images" in errors
    report = json.loads((prepare.root / "llava_v1_5_mix665k.missing.json").read_text())
    assert report["images"] == {name: "not there"}
    assert json.loads((prepare.root / "llava_v1_5_mix665k.reduced.json").read_text()) == [record(IMAGES[0])]
