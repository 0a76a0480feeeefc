"""Chat templates render what the conversation templates do."""

from __future__ import annotations

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from llava.conversation import conv_templates
from llava.prompts.chat_template import chat_template

SAID = ['<image>\nwhat is "this"?', "a {{cat}}\n", "sure?", "yes\\no"]


def messages(texts: list[str]) -> list[dict]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def render(template: str, said: list[dict], open_turn: bool) -> str:
    ((prompt,), _) = render_jinja_template([said], chat_template=template, add_generation_prompt=open_turn)
    return prompt


@pytest.mark.parametrize("name", conv_templates)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_prompt_is_the_conversations(name, count):
    conversation = conv_templates[name].copy()
    for index, text in enumerate(SAID[:count]):
        conversation.append_message(conversation.roles[index % 2], text)
    if count % 2:
        conversation.append_message(conversation.roles[1], None)
    assert render(chat_template(name), messages(SAID[:count]), bool(count % 2)) == conversation.get_prompt()


def test_parts_keep_their_order_and_images_stand_on_their_line():
    image, text = {"type": "image"}, {"type": "text", "text": "what is this?"}
    template = chat_template("vicuna_v1")
    first = render(template, [{"role": "user", "content": [image, text]}], True)
    assert first == render(template, messages(["<image>\nwhat is this?"]), True)
    last = render(template, [{"role": "user", "content": [text, image]}], True)
    assert last == render(template, messages(["what is this?<image>\n"]), True)
    marked = chat_template("vicuna_v1", "<im_start><image><im_end>")
    assert "USER: <im_start><image><im_end>\nwhat" in render(marked, [{"role": "user", "content": [image, text]}], True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vicuna_v1", "Be brief. USER: hi ASSISTANT:"),
        ("mistral_instruct", "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nhi [/INST]"),
        (
            "qwen_1_5",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_a_system_text_of_ones_own(name, expected):
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    assert render(chat_template(name), said, True) == expected


def test_what_no_template_can_say_is_refused():
    with pytest.raises(ValueError, match="'Vicuna'"):
        chat_template("Vicuna")
    with pytest.raises(Exception, match="alternate"):
        render(chat_template("v1"), messages(["a"]) * 2, True)
    with pytest.raises(Exception, match="video"):
        render(chat_template("v1"), [{"role": "user", "content": [{"type": "video"}]}], True)
