"""What is learned is the answers and nothing else: any conversation, any template, tokenizers of every kind."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.data.records import turns_of
from llava.data.templates import encode_spans, get_template
from llava.mm_utils import tokenizer_image_token
from tests.data.tiny_tokenizers import all_kinds

# What closes an answer, in each template's own spelling.
CLOSINGS = {
    "v1": "</s>",
    "plain": "\n",
    "llava_llama_2": " </s>",
    "mistral_instruct": " </s>",
    "mpt": "<|im_end|>",
    "chatml_direct": "<|im_end|>",
    "qwen_1_5": "<|im_end|>",
    "llava_llama_3": "<|eot_id|>",
}
KINDS = ["sentencepiece", "sentencepiece, legacy", "tekken", "qwen 2", "llama 3"]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return all_kinds(tmp_path_factory.mktemp("tokenizers"))


characters = st.one_of(
    st.sampled_from(list(" \n\t\r\n  ::''..01239aeIS[]<>|/")),
    st.sampled_from(list("é\u0301東京ש🙂👩\u200d🚀\u00a0\u3000\ufeff\u2028")),
    st.characters(exclude_categories=["Cs"], exclude_characters="\0▁"),
)
words = st.sampled_from(["a dog", " it's", "USER:", "ASSISTANT:", "\n\n", "  ", "[INST]", "1234567", "naïve café"])
texts = st.lists(st.one_of(characters, words), max_size=8).map("".join)


@st.composite
def records(draw, max_turns=6):
    """Entries of the JSON: questions and answers, images anywhere in either (one, several, none), empty answers."""
    conversation = [[draw(texts) or "?", draw(texts)] for _ in range(draw(st.integers(1, max_turns)))]
    images = draw(st.integers(0, 3))
    for _ in range(images):
        turn, speaker = draw(st.integers(0, len(conversation) - 1)), draw(st.sampled_from([0, 0, 0, 1]))
        text = conversation[turn][speaker]
        place = draw(st.integers(0, len(text)))
        conversation[turn][speaker] = f"{text[:place]}\0{text[place:]}"
    values = [text.replace("\0", "<image>") for pair in conversation for text in pair]
    roles = ["human", "gpt"] * len(conversation)
    messages = [{"from": role, "value": value} for role, value in zip(roles, values, strict=True)]
    return {"conversations": messages, **({"image": [f"{number}.png" for number in range(images)]} if images else {})}


def record(*values, **entries):
    roles = ["human", "gpt"] * len(values)
    messages = [{"from": role, "value": value} for role, value in zip(roles, values, strict=False)]
    return {"conversations": messages, **entries}


def check_targets(entry, version, kind):
    """The learned ids, read back, are the answers with what closes them; all ids together are the prompt."""
    has_image = "image" in entry
    turns = turns_of(entry)
    spans = get_template(version).spans(turns)
    ids, labels = encode_spans(spans, kind.tokenizer, has_image=has_image)
    assert all(label in (IGNORE_INDEX, token) for token, label in zip(ids, labels, strict=True))
    assert ids.count(IMAGE_TOKEN_INDEX) == (len(entry["image"]) if has_image else 0)
    bos = kind.tokenizer.bos_token_id
    assert bos is None or (ids[0], labels[0]) == (bos, IGNORE_INDEX)

    before = " " if version in ("v1", "llava_llama_2", "mistral_instruct") else ""  # it is learned with the answer
    answers = [turn.text for turn in turns[1::2] if turn.text or version == "plain"]
    expected = "".join(before + text + CLOSINGS[version] for text in answers)
    learned = kind.read([label for label in labels if label != IGNORE_INDEX])
    pieces = expected.split("<image>") if has_image else [expected]  # a tokenizer sees each by itself
    expected = "".join(map(kind.normalize, pieces))
    prompt = "".join(span.text for span in spans)
    if kind.puts_spaces:
        assert ids == (tokenizer_image_token(prompt, kind.tokenizer) if has_image else kind.tokenizer(prompt).input_ids)
        if version == "plain" or "<image>" in "".join(answers):  # an answer, or the rest of it, begins a text
            expected, learned = expected.replace(" ", ""), learned.replace(" ", "")
    else:
        read = kind.read([token for token in ids[bos is not None :] if token != IMAGE_TOKEN_INDEX])
        assert read == "".join(map(kind.normalize, prompt.split("<image>") if has_image else [prompt]))
    assert learned == expected


@pytest.mark.parametrize("version", [version for version in CLOSINGS if version != "plain"])
@pytest.mark.parametrize("name", KINDS)
@settings(deadline=None, max_examples=15)
@given(entry=records())
@example(record("<image>?", "a<image>\u0301", image=["0.png", "1.png"]))
@example(record("What?", ""))
@example(record("", "\n\nfoo\n\n", "  ", "\n", "?", " \n "))
@example(record("<image>", "a <image> tag in a text without images"))
@example(record("look: <image>and<image>", "\n<image>", image=["a", "b", "c"]))
@example(record("x", "e\u0301", "ASSISTANT: no", "USER: yes", *["again?", "\n1"] * 20))
def test_what_is_learned_is_the_answers(name, version, kinds, entry):
    if version in ("llava_llama_2", "mistral_instruct") and not entry["conversations"][0]["value"]:
        return  # these templates cannot begin with an empty text
    check_targets(entry, version, kinds[name])


@pytest.mark.parametrize("name", KINDS)
@settings(deadline=None, max_examples=15)
@given(entry=records(max_turns=1))
@example(record("<image>", "\n\n a caption \n\n", image="a"))
def test_what_is_learned_of_captions_is_the_captions(name, kinds, entry):
    if "<image>" in entry["conversations"][0]["value"]:
        check_targets({**entry, "image": list(entry["image"])} if "image" in entry else entry, "plain", kinds[name])


@pytest.mark.parametrize(("name", "version"), [("qwen 2", "qwen_1_5"), ("llama 3", "llava_llama_3")])
def test_a_line_end_is_not_joined_across_the_border(name, version, kinds):
    """The tokenizers have learned to join line ends; the model is asked with the prompt's alone, so it learns so."""
    kind, spans = kinds[name], get_template(version).spans(turns_of(record("What?", "\nfoo")))
    prompt = "".join(span.text for span in spans)
    begin = prompt.rindex("\nfoo")
    asked = kind.tokenizer(prompt[:begin]).input_ids
    assert kind.tokenizer(prompt).input_ids[: len(asked)] != asked
    ids, labels = encode_spans(spans, kind.tokenizer, has_image=False)
    assert ids[: len(asked)] == asked and set(labels[: len(asked)]) == {IGNORE_INDEX}


def test_every_training_template_is_tried():
    trained = set()
    for name in conv_templates:
        try:
            get_template(name)
        except ValueError:
            continue
        trained.add(conv_templates[name].sep_style)
    assert trained == {conv_templates[name].sep_style for name in CLOSINGS}
