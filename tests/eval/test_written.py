"""Prompts of several turns, and system texts in place of a template's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llava.conversation import conversation_template
from llava.inference import Question
from llava.inference.written import with_system, written
from llava.prompts.own_template import read_off

CONFIG = SimpleNamespace(mm_use_im_start_end=False)
TURNS = Question("And now?", ("a.png", "b.png"), (("<image>\nWhat?", "A cat."),), "Be brief.")

# The published chat templates of these models, with this conversation in them.
EXPECTED = {
    "v1": "Be brief. USER: <image>\nWhat? ASSISTANT: A cat.</s>USER: <image>\nAnd now? ASSISTANT:",
    "llava_llama_2": "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n<image>\nWhat? [/INST] A cat. </s><s>[INST] <image>\n"
    "And now? [/INST]",
    "mistral_instruct": "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n<image>\nWhat? [/INST] A cat. </s>[INST] <image>\n"
    "And now? [/INST]",
    "qwen_1_5": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<image>\nWhat?<|im_end|>\n"
    "<|im_start|>assistant\nA cat.<|im_end|>\n<|im_start|>user\n<image>\nAnd now?<|im_end|>\n<|im_start|>assistant\n",
    "llava_llama_3": "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nA cat.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n<image>\nAnd now?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
}


@pytest.mark.parametrize("mode", EXPECTED)
def test_a_conversation_is_written_as_the_model_knows_it(mode: str) -> None:
    assert written(TURNS, mode, CONFIG) == EXPECTED[mode]


def test_a_single_turn_is_as_it_was() -> None:
    prompt = written(Question("What?", ("a.png",)), "v1", CONFIG)
    assert prompt == f"{conversation_template('v1').system} USER: <image>\nWhat? ASSISTANT:"


def test_images_must_be_those_of_their_turns() -> None:
    with pytest.raises(ValueError, match="the turns before the question name 1 <image>, and 0 images are given"):
        written(Question("And now?", (), (("<image>\nWhat?", "A cat."),)), "v1", CONFIG)
    with pytest.raises(ValueError, match="an answer cannot name <image>"):
        written(Question("And now?", ("a.png",), (("What?", "<image>"),)), "v1", CONFIG)
    with pytest.raises(ValueError, match="a system text cannot name <image>"):
        written(Question("What?", ("a.png",), system="<image>"), "v1", CONFIG)


class Own:
    """A tokenizer with a chat template of ChatML's kind, rendered by jinja as transformers does."""

    bos_token = None
    chat_template = (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )

    def apply_chat_template(self, messages: Any, tokenize: bool, add_generation_prompt: bool) -> str:
        from jinja2 import Template

        template = Template(self.chat_template, keep_trailing_newline=True)
        return template.render(messages=messages, add_generation_prompt=add_generation_prompt)


def test_a_template_of_a_tokenizer_takes_a_system_text_as_it_would_itself() -> None:
    own = Own()
    conv = with_system(read_off(own).copy(), "Be brief.")
    conv.append_message(conv.roles[0], "What?")
    conv.append_message(conv.roles[1], None)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}]
    assert conv.get_prompt() == own.apply_chat_template(messages, False, True)


def test_a_template_without_a_place_for_it_refuses_a_system_text() -> None:
    with pytest.raises(ValueError, match="no place for a system text"):
        written(Question("What?", system="Be brief."), "plain", CONFIG)
