import json
import os
import pickle
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFile

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.data.collator import Collator
from llava.data.dataset import LlavaDataset, SampleError, Skipped, TrainingSample, read_records
from llava.data.presence import check_images_exist
from llava.data.templates import get_template
from llava.images.processing import load_image_processor, process_images
from llava.prompts.tokenization import load_tokenizer

VISUAL = 576
V1 = get_template("v1")


class PadConfig:
    image_aspect_ratio = "pad"


class SquareConfig:
    image_aspect_ratio = "square"


@pytest.fixture(scope="module")
def make(oracle_dir):
    tokenizer = load_tokenizer(oracle_dir / "tiny-llava-v1.5")
    processor = load_image_processor(oracle_dir / "tiny-clip-vit-l14-336")

    def make(records, *, version="v1", folder=oracle_dir / "images", max_length=2048, config=PadConfig):
        return LlavaDataset(
            records,
            tokenizer=tokenizer,
            template=get_template(version),
            image_processor=processor,
            image_config=config(),
            image_folder=folder,
            count_visual_tokens=lambda sizes: [VISUAL] * len(sizes),
            max_length=max_length,
        )

    return make


def _record(question="<image>\nWhat?", answer="Red.", **entries):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "s", "conversations": turns, **entries}


def test_samples_equal_the_reference(make, oracle_dir):
    expected = json.loads((oracle_dir / "train_tokens.json").read_text())
    dataset = make(read_records(oracle_dir / "train_tiny.json", V1))
    for sample, wanted in zip((dataset[i] for i in range(3)), expected["v1"], strict=True):
        assert sample.input_ids.tolist() == wanted["input_ids"]
        assert sample.labels.tolist() == wanted["labels"]
    assert dataset.modality_lengths == expected["v1_modality_lengths"]
    image = Image.open(oracle_dir / "images" / "landscape.png")
    assert dataset[0].image_sizes == [image.size]
    assert torch.equal(dataset[0].images[0], process_images([image], dataset.image_processor, PadConfig())[0])
    assert dataset[2].images == []


def test_captions_equal_the_reference(make, oracle_dir):
    expected = json.loads((oracle_dir / "train_tokens.json").read_text())
    dataset = make(read_records(oracle_dir / "pretrain_tiny.json", get_template("plain")), version="plain")
    for index, wanted in enumerate(expected["plain"]):
        assert dataset[index].input_ids.tolist() == wanted["input_ids"]
        assert dataset[index].labels.tolist() == wanted["labels"]
    assert dataset.modality_lengths == expected["plain_modality_lengths"]


def test_jsonl_is_read_like_json(tmp_path):
    records = [_record(image="a.png"), _record("Hi", "Ho")]
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    assert read_records(tmp_path / "a.json", V1) == read_records(tmp_path / "a.jsonl", V1) == records
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())  # as Windows' editors do
        assert read_records(tmp_path / name, V1) == records


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"id": "x"}, "entry 1 \\(id 'x'\\): not an object with a list `conversations`"),
        ({"id": "x", "conversations": []}, "no turn from 'gpt'"),
        ({"id": "x", "conversations": [{"from": "gpt", "value": "hi"}]}, "no turn from 'gpt' after one from 'human'"),
        ({"conversations": [{"from": "human", "value": "a"}] * 2}, "turn 1 is from 'human'; human and gpt must take"),
        ({"conversations": [{"from": "robot", "value": "hi"}]}, "'from': 'human' or 'gpt'"),
        (_record(image="/etc/passwd"), "'/etc/passwd' lies outside .*; it must be a path inside --image_folder"),
        (_record(image="a/../../b.png"), "'a/../../b.png' leaves .*; it must be a path inside"),
        (_record(image="a\0b.png"), "must be a path inside"),
        (_record(image=""), "image '' is no file name; it must be a path inside"),
        (_record(image=["a.png", 3]), "image 3 is no file name; it must be a path inside"),
        (_record(image="\ud83d/a.png"), r"image '\\ud83d/a\.png' is no file name: .* it must be a path inside"),
        (_record("Hi \ud83d"), "half of a surrogate pair"),
        (_record("Hi", "Ho \udc00"), "half of a surrogate pair"),
        (_record("no tag", image="a.png"), "0 <image> in the conversation for 1 image"),
        (_record(answer="<image>", image="a.png"), "2 <image> in the conversation for 1 image"),
        (_record("<image> <image> <image>", image=["a.png", "b.png"]), "3 <image> in the conversation for 2 image"),
    ],
)
def test_a_wrong_entry_is_named(record, message, tmp_path):
    (tmp_path / "d.json").write_text(json.dumps([_record(image="a.png"), record]))
    with pytest.raises(ValueError, match=message):
        read_records(tmp_path / "d.json", V1)


def test_entries_are_checked_against_the_template(tmp_path):
    (tmp_path / "d.json").write_text(json.dumps([_record(image="a.png"), _record("Hi", "Ho")]))
    assert len(read_records(tmp_path / "d.json", V1)) == 2
    with pytest.raises(ValueError, match=r"entry 1 .*the plain template needs an image"):
        read_records(tmp_path / "d.json", get_template("plain"))


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085"])
def test_jsonl_lines_end_at_newlines_only(separator, tmp_path):
    records = [_record("Hi", f"one{separator}two"), _record("Hi", "Ho")]
    text = "\n\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    assert read_records(tmp_path / "a.jsonl", V1) == records
    for added, message in (
        ("{", r"a\.jsonl is not valid JSON: line 4: .*column"),
        ("[" * 99_999, r"a\.jsonl is not valid JSON: line 4: .*recursion"),
        ("{}", r"a\.jsonl, line 4 \(id None"),
    ):
        (tmp_path / "a.jsonl").write_text(f"{text}\n{added}", encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_records(tmp_path / "a.jsonl", V1)


def test_files_that_are_no_data_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^/.*none\.json is not a file"):
        read_records(tmp_path / "none.json", V1)
    (tmp_path / "deep.json").write_text("[" * 99_999)
    with pytest.raises(ValueError, match=r"deep\.json is not valid JSON: .*recursion"):
        read_records(tmp_path / "deep.json", V1)
    (tmp_path / "broken.json").write_text("[{")
    with pytest.raises(ValueError, match=r"broken\.json is not valid JSON"):
        read_records(tmp_path / "broken.json", V1)


def test_only_undecodable_images_are_skipped(make, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:200])
    dataset = make([_record(image="text.png"), _record(image="cut.jpg"), _record(image="gone.png")], folder=tmp_path)
    assert dataset[0] == Skipped("undecodable image", str(tmp_path / "text.png"))
    assert dataset[1] == Skipped("undecodable image", str(tmp_path / "cut.jpg"))
    with pytest.raises(SampleError, match=r"gone\.png of sample 's' does not exist"):
        dataset[2]


def test_a_decompression_bomb_is_skipped_by_its_header(make, tmp_path, monkeypatch):
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr)), b"\0\0\0\0IDAT" + b"\0" * 4]
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels were decoded"))
    assert make([_record(image="bomb.png")], folder=tmp_path)[0] == Skipped("image too large", f"{tmp_path}/bomb.png")
    dataset = make([_record(image="a.png")], folder=tmp_path)
    dataset.max_pixels = 199
    assert dataset[0] == Skipped("image too large", str(tmp_path / "a.png"))


def test_a_folder_is_no_image(make, tmp_path):
    (tmp_path / "a.png").mkdir()
    (tmp_path / "b.png").touch()
    for name in ("a.png", "b.png/c.png"):
        with pytest.raises(SampleError, match=rf"{name} of sample 's' does not exist") as caught:
            make([_record(image=name)], folder=tmp_path)[0]
    assert caught.value.kind == pickle.loads(pickle.dumps(caught.value)).kind == "missing image"


@pytest.mark.parametrize("layout", ["a linked folder", "the Hub's cache"])
def test_links_are_followed_wherever_they_lead(layout, make, tmp_path):
    """People link data sets into one folder, and the Hub's cache consists of links."""
    elsewhere, folder = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    elsewhere.mkdir()
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(elsewhere / "a.png")
    if layout == "a linked folder":
        (folder / "coco").symlink_to(elsewhere)
    else:
        (folder / "coco").mkdir()
        (folder / "coco" / "a.png").symlink_to(Path("../../../blobs/a.png"))
    for name in ("coco/a.png", str(folder / "coco" / "a.png")):
        dataset = make([_record(image=name)], folder=folder)
        check_images_exist(dataset, is_quiet=True)
        assert isinstance(dataset[0], TrainingSample)


def test_absolute_paths_inside_the_folder_are_taken_and_under_a_root_of_all_any(make, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "images").mkdir()
    name = str(tmp_path / "a.png")
    (tmp_path / "d.json").write_text(json.dumps([_record(image=name)]))
    for folder in (tmp_path, "/"):
        records = read_records(tmp_path / "d.json", V1, folder)
        assert isinstance(make(records, folder=folder)[0], TrainingSample)
    with pytest.raises(ValueError, match=r"a\.png' lies outside .*images; it must be a path inside --image_folder"):
        read_records(tmp_path / "d.json", V1, tmp_path / "images")
    with pytest.raises(SampleError, match=r"a\.png' lies outside .*images"):
        make([_record(image=name)], folder=tmp_path / "images")[0]


ODD_NAMES = ("a b.png", "größe.png", "100%.png", "q?x=1#h.png", 'it\'s "q".png', "-dash,comma.png", "b[1]*.png")
ODD_NAMES += ("~home.png", "new\nline.png", "http:colon.png", ".hidden", "UPPER.PNG", "back\\slash.png", "a;b&c$d.png")


def test_odd_file_names(make, tmp_path):
    if os.name == "nt":
        pytest.skip("Windows has no such names")
    folder = tmp_path / "bilder für's netz"
    folder.mkdir()
    for number, name in enumerate(ODD_NAMES):
        Image.new("RGB", (30 + number, 30), "red").save(folder / name, format="PNG")
    (tmp_path / "ä b.json").write_text(json.dumps([_record(image=name) for name in ODD_NAMES]))
    dataset = make(read_records(tmp_path / "ä b.json", V1), folder=folder)
    check_images_exist(dataset, is_quiet=True)
    assert [dataset[index].image_sizes for index in range(len(dataset))] == [
        [(30 + number, 30)] for number in range(len(ODD_NAMES))
    ]


def test_images_need_a_folder(make):
    with pytest.raises(ValueError, match="--image_folder must be given"):
        make([_record(image="a.png")], folder=None)
    assert isinstance(make([_record("Hi")], folder=None)[0], TrainingSample)


def test_truncation_counts_visual_tokens_and_drops_what_has_no_target(make):
    record = _record(answer="a dog is a dog. " * 20, image="small.png")
    whole = make([record])[0]
    length = len(whole.input_ids) - 1 + VISUAL
    cut = make([record], max_length=length - 5)[0]
    assert torch.equal(cut.input_ids, whole.input_ids[:-5])
    assert torch.equal(cut.labels, whole.labels[:-5])
    assert make([record], max_length=VISUAL)[0] == Skipped("no targets", "s")


def test_an_image_behind_the_cut_goes_with_its_placeholder(make):
    first = _record("<image>\nOne?", "Yes.")["conversations"]
    second = _record("And <image>?", "No.")["conversations"]
    record = {"id": "two", "image": ["small.png", "square.png"], "conversations": first + second}
    whole = make([record])[0]
    assert len(whole.images) == 2
    behind_the_answer = int((whole.input_ids == IMAGE_TOKEN_INDEX).nonzero()[1])
    cut = make([record], max_length=behind_the_answer - 1 + VISUAL)[0]
    assert len(cut.images) == len(cut.image_sizes) == 1
    assert int((cut.input_ids == IMAGE_TOKEN_INDEX).sum()) == 1


def test_a_sample_that_does_not_fit_the_template_is_named(make):
    with pytest.raises(SampleError, match=r"sample 's' \(entry 0\): 0 <image> in the conversation for 1"):
        make([_record("no tag", image="small.png")])[0]


def test_a_conversation_opened_by_the_assistant_loses_its_opening(make):
    record = _record("Hi")
    opened = {**record, "conversations": [{"from": "gpt", "value": "Welcome."}, *record["conversations"]]}
    assert torch.equal(make([opened])[0].input_ids, make([record])[0].input_ids)


def _sample(length, *shapes):
    ids = torch.arange(1, length + 1)
    return TrainingSample(ids, ids.clone(), [torch.zeros(shape) for shape in shapes], [(4, 3)] * len(shapes))


def test_batches_are_padded_by_length():
    batch = Collator(pad_token_id=1)([_sample(3, (3, 2, 2)), _sample(1), _sample(2, (3, 2, 2))])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [1, 1, 1], [1, 2, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert batch["labels"][1].tolist() == [1, IGNORE_INDEX, IGNORE_INDEX]
    assert batch["images"].shape == (2, 3, 2, 2)
    assert batch["image_sizes"] == [(4, 3), (4, 3)]
    assert batch["skipped"] == []


def test_images_of_several_shapes_stay_a_list():
    batch = Collator()([_sample(1, (5, 3, 2, 2)), _sample(1, (3, 3, 2, 2))])
    assert [image.shape[0] for image in batch["images"]] == [5, 3]


def test_text_only_batches_have_no_images():
    assert "images" not in Collator()([_sample(2), _sample(1)])


def test_skipped_samples_leave_the_batch_and_an_empty_batch_teaches_nothing():
    skipped = Skipped("no targets", "a")
    batch = Collator()([_sample(2), skipped])
    assert batch["input_ids"].shape == (1, 2)
    assert batch["skipped"] == [("no targets", "a")]
    cut = Skipped("undecodable image", "a.parquet, row 3", "<0 bytes>: not an image")
    assert Collator()([_sample(2), cut])["skipped"] == [(cut.reason, cut.name)]  # `bad_images.txt` lists names
    assert cut.message == "a.parquet, row 3: <0 bytes>: not an image"
    empty = Collator()([skipped, skipped])
    assert empty["labels"].tolist() == [[IGNORE_INDEX]]
    assert empty["attention_mask"].tolist() == [[1]]


def test_a_path_that_no_disk_takes_is_named(make, tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name, kind in (("a" * 300 + ".png", "missing image"), ("loop.png", "missing image")):
        with pytest.raises(SampleError, match=name) as caught:
            make([_record(image=name)], folder=tmp_path)[0]
        assert caught.value.kind == kind
        with pytest.raises(SampleError, match=name):
            check_images_exist(make([_record(image=name)], folder=tmp_path), is_quiet=True)


def test_a_long_thin_image_is_too_large_for_its_square(make, tmp_path):
    for side in (9459, 9460):  # 9459 ** 2 is the last square below the limit
        Image.new("L", (1, side)).save(tmp_path / f"{side}.png")
    dataset = make([_record(image="9459.png"), _record(image="9460.png")], folder=tmp_path)
    assert not isinstance(dataset.example(0), Skipped)
    assert dataset[1] == Skipped("image too large", str(tmp_path / "9460.png"))
    for config in (SquareConfig, object):  # the processor scales the shorter side to its own
        assert make([_record(image="9459.png")], folder=tmp_path, config=config)[0] == Skipped(
            "image too large", str(tmp_path / "9459.png")
        )


def test_an_aspect_ratio_that_cannot_be_had_is_told_at_once(make):
    class Typo:
        image_aspect_ratio = "padd"

    class NoTiles:
        image_aspect_ratio = "anyres"

    with pytest.raises(ValueError, match="--image_aspect_ratio: image_aspect_ratio='padd' is unknown; choose pad"):
        make([_record("Hi")], config=Typo)
    with pytest.raises(ValueError, match="--image_aspect_ratio: the model config has no `image_grid_pinpoints`"):
        make([_record("Hi")], config=NoTiles)


def test_an_entry_without_words_has_a_length(make):
    dataset = make([_record("", ""), _record("", "", image="small.png"), _record("a b", "c")])
    assert dataset.modality_lengths == [-1, 1, -3]


def test_a_separator_that_is_no_token_is_warned_of(make, recwarn):
    make([_record("Hi")])
    make([_record("Hi")], version="plain")
    assert not recwarn
    with pytest.warns(UserWarning, match=r"'<\|im_end\|>', which closes an answer, is no token of this tokenizer"):
        make([_record("Hi")], version="mpt")
