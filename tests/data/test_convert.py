"""Conversations of other programs: named where training meets them, and brought into LLaVA's form by one command."""

from __future__ import annotations

import json

import pytest

from llava.data.convert import main
from llava.data.foreign import Options, looks_foreign, to_llava
from llava.data.records import read_records
from llava.data.templates import get_template
from llava.data.validate import main as validate

V1 = get_template("v1")
ASKED = {"from": "human", "value": "<image>\nWhat?"}
TURNS = [ASKED, {"from": "gpt", "value": "Red."}]
LLAVA = {"id": "1", "image": "a.png", "conversations": TURNS}
USER, ASSISTANT = {"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "Red."}
IMAGE, TEXT = {"type": "image"}, {"type": "text", "text": "What?"}


def part(kind: str, **entries) -> dict:
    return {"type": kind, **entries}


FOREIGN = {
    "ms-swift": {"id": "1", "messages": [USER, ASSISTANT], "images": ["a.png"]},
    "LLaMA-Factory": {"id": "1", "conversations": TURNS, "images": ["a.png"]},
    "user and assistant": {
        "id": "1",
        "image": "a.png",
        "conversations": [{**TURNS[0], "from": "user"}, {**TURNS[1], "from": "assistant"}],
    },
    "TRL": {
        "id": "1",
        "messages": [{"role": "user", "content": [IMAGE, TEXT]}, {**ASSISTANT, "content": [part("text", text="Red.")]}],
        "images": [{"path": "a.png", "bytes": None}],
    },
    "OpenAI": {
        "id": "1",
        "messages": [
            {"role": "user", "content": [part("image_url", image_url={"url": "file://a.png"}), TEXT]},
            ASSISTANT,
        ],
    },
    "Qwen": {"id": "1", "messages": [{"role": "user", "content": [part("image", image="a.png"), TEXT]}, ASSISTANT]},
}


@pytest.fixture
def convert(tmp_path, capsys):
    def convert(entries: list, *flags: str, name: str = "theirs.json") -> list:
        text = "\n".join(map(json.dumps, entries)) if name.endswith("l") else json.dumps(entries)
        (tmp_path / name).write_text(text)
        assert main([str(tmp_path / name), "--output", str(tmp_path / "ours.json"), *flags]) == 0
        return json.loads((tmp_path / "ours.json").read_text())

    return convert


@pytest.mark.parametrize("form", FOREIGN)
def test_each_form_becomes_llavas(form, convert, tmp_path):
    (tmp_path / "theirs.json").write_text(json.dumps([FOREIGN[form]]))
    with pytest.raises(ValueError, match=r"entry 0 \(id '1'\): .*`llava convert DATA --output NEW\.json`") as caught:
        read_records(tmp_path / "theirs.json", V1)
    assert "python -m llava.data.convert" in str(caught.value) and "\n" not in str(caught.value)
    assert convert([FOREIGN[form]]) == convert([FOREIGN[form]], name="theirs.jsonl") == [LLAVA]
    assert read_records(tmp_path / "ours.json", V1) == [LLAVA]


def test_llavas_own_form_stays_as_it_is(convert, oracle_dir):
    several = {"image": ["a.png", "b.png"], "conversations": [{**ASKED, "value": "<image> or <image>?"}, TURNS[1]]}
    text_only = {"id": 7, "conversations": [{**ASKED, "value": "Hi"}, TURNS[1]], "data_source": "mine"}
    entries = [LLAVA, several, text_only, *json.loads((oracle_dir / "train_tiny.json").read_text())]
    assert convert(entries) == entries


@pytest.mark.parametrize(
    "entry",
    [
        {"messages": [{"role": "system", "content": "Be brief."}, USER, ASSISTANT], "images": ["a.png"]},
        {"conversations": [{"from": "system", "value": "Be brief."}, *TURNS], "image": "a.png"},
        {"conversations": TURNS, "system": "Be brief.", "images": ["a.png"]},
    ],
)
def test_a_system_text_goes_in_front_of_the_first_question_or_out(entry, convert, tmp_path):
    (found,) = convert([entry])
    turns = read_records(tmp_path / "ours.json", V1)
    assert found == turns[0] and found["image"] == "a.png"
    assert found["conversations"][0]["value"] == "Be brief.\n<image>\nWhat?"  # training puts one image in front
    (dropped,) = convert([entry], "--system", "drop")
    assert dropped["conversations"] == TURNS


def test_images_inside_and_beside_the_text_come_in_order(convert):
    content = [IMAGE, part("text", text="<image> or"), part("image", image="own.png"), part("text", text="?")]
    entry = {"messages": [{"role": "user", "content": content}, ASSISTANT], "images": ["a.png", "b.png"]}
    (found,) = convert([entry])
    assert found["image"] == ["a.png", "b.png", "own.png"]
    assert found["conversations"][0]["value"] == "<image>\n<image> or\n<image>\n?"


def test_an_image_without_a_placeholder_is_put_in_front_by_a_flag(convert, tmp_path, capsys):
    entry = {**LLAVA, "conversations": [{"from": "human", "value": "What?"}, TURNS[1]]}
    (tmp_path / "theirs.json").write_text(json.dumps([entry]))
    advice = (
        r"0 <image> in the conversation for 1 image\(s\); `llava convert DATA --image-first --output NEW\.json` puts"
    )
    with pytest.raises(ValueError, match=advice):
        read_records(tmp_path / "theirs.json", V1)
    with pytest.raises(SystemExit, match="--image-first"):
        convert([entry])
    assert convert([entry], "--image-first") == [LLAVA]
    two = {**entry, "image": ["a.png", "b.png"]}
    assert convert([two], "--image-first")[0]["conversations"][0]["value"] == "<image>\n<image>\nWhat?"


WITHOUT_ID = {"image": "a.png", "conversations": TURNS}
BAD = {
    "a turn of 'tool' has no place": {"messages": [USER, {"role": "tool", "content": "x"}], "images": ["a.png"]},
    "a turn calls a tool": {"messages": [USER, {**ASSISTANT, "tool_calls": [{}]}], "images": ["a.png"]},
    "`videos` have no place": {"messages": [USER, ASSISTANT], "videos": ["a.mp4"]},
    "image 'https://x/a.png' is no file": {"messages": [USER, ASSISTANT], "images": ["https://x/a.png"]},
    "image 'data:image/png;base64,AA' is no file": {
        "messages": [{"role": "user", "content": [part("image_url", image_url="data:image/png;base64,AA")]}, ASSISTANT]
    },
    "image None is no file": {"messages": [USER, ASSISTANT], "images": [{"bytes": "AA", "path": None}]},
    "a part of a turn is neither": {"messages": [{"role": "user", "content": [part("video")]}, ASSISTANT]},
    "no list `messages` or `conversations`, but instruction, output": {"instruction": "Hi", "output": "Ho"},
    "there are both `conversations` and `messages`": {"conversations": TURNS, "messages": [USER]},
    "a system turn stands behind": {"messages": [USER, {"role": "system", "content": "x"}], "images": ["a.png"]},
    "human and gpt must take turns": {"messages": [USER, USER], "images": ["a.png", "b.png"]},
    "2 <image> in the conversation for 1 image": {"messages": [USER, ASSISTANT, USER], "images": ["a.png"]},
    "image '../a.png' leaves": {"messages": [USER, ASSISTANT], "images": ["../a.png"]},
    "an entry must be an object": ["no", "object"],
    "a turn must be an object": {"messages": ["Hi"]},
    "the text of a turn is 3": {"messages": [{"role": "user", "content": 3}]},
    "a turn has `loss` False": {"messages": [USER, {**ASSISTANT, "loss": False}], "images": ["a.png"]},
    "a turn has `weight` 0": {**WITHOUT_ID, "conversations": [ASKED, {**TURNS[1], "weight": 0}]},
    "a turn has `reasoning_content`": {
        "messages": [USER, {**ASSISTANT, "reasoning_content": "Hm."}],
        "images": ["a.png"],
    },
    "`label` is false: the answer is a bad one": {"messages": [USER, ASSISTANT], "images": ["a.png"], "label": False},
    "`tools` have no place": {"messages": [USER, ASSISTANT], "images": ["a.png"], "tools": "[{}]"},
    "`objects` have no place": {
        "messages": [USER, ASSISTANT],
        "images": ["a.png"],
        "objects": {"bbox": []},
    },
    "`system` is no text, but ['Be brief.']": {**WITHOUT_ID, "system": ["Be brief."]},
    "the texts hold <image>, and the entry names no image": {"messages": [USER, ASSISTANT]},
    "the texts hold <image>, and the entry names no": {**WITHOUT_ID, "image": ""},
    "image 'HTTPS://x/a.png' is no file": {**WITHOUT_ID, "image": "HTTPS://x/a.png"},
    "image 's3://x/a.png' is no file": {**WITHOUT_ID, "image": "s3://x/a.png"},
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_converted_is_named(message, convert, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        convert([LLAVA, BAD[message]])
    said = caught.value.code
    assert said.startswith(f"error: {tmp_path / 'theirs.json'}, entry 1 (id None): ") and message in said
    assert "\n" not in said and said.endswith("--skip-bad leaves such entries out")
    assert not (tmp_path / "ours.json").exists()
    assert convert([LLAVA, BAD[message]], "--skip-bad") == [LLAVA]
    assert message in capsys.readouterr().err


def test_wrong_files_are_told(convert, tmp_path):
    (tmp_path / "theirs.json").write_text(json.dumps([LLAVA]))
    (tmp_path / "cut.jsonl").write_text('{"id": ')
    (tmp_path / "no_utf8.json").write_bytes(b'[{"id": "\xff"}]')
    out = str(tmp_path / "ours.json")
    for words, message in (
        ([str(tmp_path / "theirs.json"), "--output", str(tmp_path / "theirs.json")], "would overwrite the data"),
        ([str(tmp_path / "gone.json"), "--output", out], "gone.json is not a file"),
        ([str(tmp_path / "cut.jsonl"), "--output", out], "line 1 .*not valid JSON"),
        ([str(tmp_path / "no_utf8.json"), "--output", out], r"no_utf8\.json is not valid JSON: 'utf-8' codec"),
        ([str(tmp_path), "--output", out], "is a table"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(words)


def test_validation_names_the_command_too(tmp_path, capsys):
    (tmp_path / "theirs.json").write_text(json.dumps([FOREIGN["ms-swift"], FOREIGN["LLaMA-Factory"]]))
    words = ["--data-path", str(tmp_path / "theirs.json"), "--image-folder", str(tmp_path), "--workers", "0"]
    assert validate(words) == 1
    shown = capsys.readouterr().out
    assert "schema: 2; the first: entry 0" in shown and "llava convert DATA" in shown


@pytest.mark.parametrize(
    ("entry", "options", "message"),
    [
        ({"messages": [USER, {**ASSISTANT, "content": ""}], "images": ["a.png"]}, Options(), "an answer is empty"),
        ({"messages": [USER, {**ASSISTANT, "content": None}], "images": ["a.png"]}, Options(), "an answer is empty"),
        (
            {"messages": [{"role": "system", "content": "See <image>"}, USER, ASSISTANT], "images": ["a", "b"]},
            Options(drop_system=True),
            "the system text that is to be left out holds an image",
        ),
    ],
)
def test_what_would_be_lost_is_refused(entry, options, message):
    with pytest.raises(ValueError, match=message):
        to_llava(entry, options)


def test_a_url_of_a_file_is_a_path():
    entry = {"messages": [USER, ASSISTANT], "images": ["file:///d/my%20x.png"]}
    assert to_llava(entry, Options())["image"] == "/d/my x.png"


@pytest.mark.parametrize(
    "entry", [{"prompt": "a", "images": ["a"]}, {"query": "a"}, {"instruction": "a", "images": []}]
)
def test_the_hint_stands_only_where_the_command_helps(entry):
    assert not looks_foreign(entry)
    assert looks_foreign({"messages": [USER, ASSISTANT]}) and looks_foreign({"images": ["a"], "conversations": []})


def test_what_other_programs_say_of_a_turn_and_means_nothing_here_is_read(convert):
    turns = [{"role": "developer", "content": "Be brief."}, {**USER, "loss": False}, {**ASSISTANT, "loss": True}]
    (found,) = convert([{"messages": turns, "images": ["a.png"], "label": True, "tools": "", "objects": {}}])
    assert [turn["value"] for turn in found["conversations"]] == ["Be brief.\n<image>\nWhat?", "Red."]
    assert looks_foreign({"conversations": [{"from": "human", "content": "Hi"}]})


def test_in_an_entry_of_ones_own_without_images_the_placeholder_is_text(convert):
    entry = {"conversations": [{"from": "human", "value": "What does <image> mean?"}, TURNS[1]]}
    assert convert([entry]) == [entry]


def test_where_it_is_written(tmp_path):
    (tmp_path / "theirs.json").write_text(json.dumps([LLAVA]))
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit, match="folder is there already, and is no file"):
        main([str(tmp_path / "theirs.json"), "--output", str(tmp_path / "folder")])
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "link.json").symlink_to("folder/real.json")
    assert main([str(tmp_path / "theirs.json"), "--output", str(tmp_path / "link.json")]) == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "folder" / "real.json").read_text()) == [LLAVA]


def test_lines_under_a_name_of_a_list_are_named(tmp_path):
    (tmp_path / "theirs.json").write_text(f"{json.dumps(LLAVA)}\n{json.dumps(LLAVA)}\n")
    with pytest.raises(ValueError, match=r"Extra data.*give it a name that ends in \.jsonl"):
        read_records(tmp_path / "theirs.json", V1)
