"""Labels equal LLaVA's, token by token."""

import json

import pytest

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import Span, conv_templates
from llava.data.records import images_of, turns_of
from llava.data.templates import (
    ConversationTemplate,
    PlainTemplate,
    Turn,
    encode_spans,
    get_template,
    move_images_to_front,
)
from llava.mm_utils import tokenizer_image_token
from llava.prompts.tokenization import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(oracle_dir):
    return load_tokenizer(oracle_dir / "tiny-llava-v1.5")


@pytest.fixture(scope="module")
def legacy_tokenizer(oracle_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("legacy")
    for file in (oracle_dir / "tiny-llava-v1.5").glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "legacy": True}))
    return load_tokenizer(folder)


def _encode(record, version, tokenizer):
    turns = turns_of(record)
    num_images = len(images_of(record))
    if num_images:
        turns = move_images_to_front(turns, num_images)
    return encode_spans(get_template(version).spans(turns), tokenizer, has_image=num_images > 0)


@pytest.mark.parametrize(
    ("key", "version", "data"),
    [
        ("v1", "v1", "train_tiny.json"),
        ("v1_legacy_true", "v1", "train_tiny.json"),
        ("plain", "plain", "pretrain_tiny.json"),
    ],
)
def test_ids_and_labels_equal_the_reference(key, version, data, oracle_dir, request):
    tokenizer = request.getfixturevalue("legacy_tokenizer" if key == "v1_legacy_true" else "tokenizer")
    expected = json.loads((oracle_dir / "train_tokens.json").read_text())[key]
    records = json.loads((oracle_dir / data).read_text())
    assert len(records) == len(expected)
    for record, wanted in zip(records, expected, strict=True):
        ids, labels = _encode(record, version, tokenizer)
        assert ids == wanted["input_ids"]
        assert labels == wanted["labels"]


ANSWERS = ["Red.", "a dog", " two  spaces ", "naïve café 東京 🙂", "line\nbreak", "USER: quoted ASSISTANT: text"]


@pytest.mark.parametrize("version", ["v1", "llava_llama_2", "mpt"])
def test_what_is_learned_is_the_answers(version, tokenizer):
    turns = [turn for answer in ANSWERS for turn in (Turn("human", "What is it?"), Turn("gpt", answer))]
    turns[0] = Turn("human", "<image>\nWhat is it?")
    template = get_template(version)
    spans = template.spans(turns)
    ids, labels = encode_spans(spans, tokenizer, has_image=True)
    prompt = "".join(span.text for span in spans)

    conversation = conv_templates[version].copy()
    conversation.messages = [[conversation.roles[i % 2], turn.text] for i, turn in enumerate(turns)]
    assert prompt == conversation.get_prompt()
    assert ids == tokenizer_image_token(prompt, tokenizer)

    targets = [span.text for span in spans if span.is_answer]
    assert [text.strip() for text in targets] == [
        f"{answer}{_closing(version, conversation)}".strip() for answer in ANSWERS
    ]
    runs, previous = [], False
    for label in labels:
        if label != IGNORE_INDEX:
            if not previous:
                runs.append([])
            runs[-1].append(label)
        previous = label != IGNORE_INDEX
    assert [tokenizer.decode(run).strip() for run in runs] == [text.strip() for text in targets]


def _closing(version, conversation):
    return {"v1": conversation.sep2, "llava_llama_2": f" {conversation.sep2}", "mpt": conversation.sep}[version]


def test_an_empty_answer_teaches_nothing(tokenizer):
    spans = get_template("v1").spans([Turn("human", "What?"), Turn("gpt", "")])
    _, labels = encode_spans(spans, tokenizer, has_image=False)
    assert set(labels) == {IGNORE_INDEX}


def test_text_only_samples_keep_a_literal_image_tag(tokenizer):
    spans = [Span("the tag <image> in HTML", True)]
    ids, _ = encode_spans(spans, tokenizer, has_image=False)
    assert IMAGE_TOKEN_INDEX not in ids
    assert ids == tokenizer(spans[0].text).input_ids


def test_one_image_moves_to_the_front_and_several_stay():
    assert move_images_to_front([Turn("human", "Look at <image> here")], 1)[0].text == "<image>\nLook at  here"
    text = "First <image>, then <image>."
    assert move_images_to_front([Turn("human", text)], 2)[0].text == text
    with pytest.raises(ValueError, match="0 <image> in the conversation for 1"):
        move_images_to_front([Turn("human", "no picture")], 1)


def test_templates_are_found_by_name():
    assert isinstance(get_template("plain"), PlainTemplate)
    assert isinstance(get_template("v1"), ConversationTemplate)
    with pytest.raises(ValueError, match=r"--version 'v9' is not a training template; known: .*plain.*v1"):
        get_template("v9")


def test_plain_takes_a_question_and_an_answer():
    with pytest.raises(ValueError, match="one question and one answer"):
        get_template("plain").spans([Turn("human", "<image>")])
    with pytest.raises(ValueError, match="needs an image"):
        get_template("plain").spans([Turn("human", "hi"), Turn("gpt", "ho")])


def test_speakers_must_take_turns():
    with pytest.raises(ValueError, match="turn 1 is from 'human'"):
        get_template("v1").spans([Turn("human", "a"), Turn("human", "b")])


def test_tagged_images_are_not_trained_on():
    with pytest.raises(ValueError, match="--version v1_mmtag is for inference: training does not put its tags"):
        get_template("v1_mmtag")
    with pytest.raises(ValueError, match="known: ") as caught:
        get_template("v9")
    assert "mmtag" not in str(caught.value)
