"""A tokenizer's own chat template becomes a conversation template: the prompts that it writes, and no others."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from llava.conversation import TEMPLATES as REGISTERED
from llava.conversation import conv_templates, conversation_template
from llava.data.templates import Turn, get_template
from llava.prompts.around import stop_string
from llava.prompts.chat_template import chat_template
from llava.prompts.own_template import conv_mode_for, read_off
from tests.model.folders import TINY

# In the manner of Gemma, of Qwen with its default system text, of Zephyr.
TEMPLATES = {
    "gemma": "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else "
    "m['role']) + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    "qwen": "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "zephyr": "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
}
SPACED = (  # Mistral's manner: a space that belongs to no marker
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
UNKNOWN = SimpleNamespace(model_type="llama", vocab_size=100_000)  # neither Vicuna, Yi nor Llama 3
CHAT = [("user", "What is this?"), ("assistant", "A cat."), ("user", "What colour?")]


@pytest.fixture(autouse=True)
def forget():
    """What a tokenizer brings is known in no other test."""
    before = set(conv_templates)
    yield
    for name in set(conv_templates) - before:
        del conv_templates[name], REGISTERED._entries[name]


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY)


def messages(*turns):
    return [{"role": role, "content": text} for role, text in turns]


def without_bos(text: str, tokenizer) -> str:
    """The tokenizer writes it itself."""
    return text.removeprefix(tokenizer.bos_token)


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts_are_those_of_the_tokenizer(name, tokenizer):
    tokenizer.chat_template = TEMPLATES[name]
    conv = read_off(tokenizer).copy()
    for number, (_, text) in enumerate(CHAT):
        conv.append_message(conv.roles[number % 2], text)
    conv.append_message(conv.roles[1], None)
    expected = tokenizer.apply_chat_template(messages(*CHAT), tokenize=False, add_generation_prompt=True)
    assert conv.get_prompt() == without_bos(expected, tokenizer)


def test_it_is_taken_where_none_is_known_and_said(tokenizer, caplog):
    tokenizer.chat_template = TEMPLATES["gemma"]
    with caplog.at_level(logging.WARNING):
        mode = conv_mode_for(UNKNOWN, tokenizer)
    assert "the tokenizer's own chat_template is used; --conv-mode names another" in caplog.text
    assert mode.startswith("tokenizer-") and conversation_template(mode).roles[1] == "<start_of_turn>model\n"
    assert conv_mode_for(UNKNOWN, tokenizer) == mode  # and again
    assert conv_mode_for(SimpleNamespace(model_type="qwen2"), tokenizer, "tokenizer") == mode  # asked for by hand
    assert conv_mode_for(SimpleNamespace(model_type="qwen2", conv_mode=mode), tokenizer) == mode  # written by training
    assert stop_string(mode, tokenizer) == "<end_of_turn>"
    said = get_template(mode).spans([Turn("human", "What?"), Turn("gpt", "This.")])
    assert [span.text for span in said if span.is_answer] == ["This.<end_of_turn>\n"]


def test_it_is_written_as_a_chat_template_for_images(tokenizer):
    tokenizer.chat_template = TEMPLATES["zephyr"]
    expected = tokenizer.apply_chat_template(messages(*CHAT), tokenize=False, add_generation_prompt=True)
    written = chat_template(conv_mode_for(UNKNOWN, tokenizer))
    ours = tokenizer.apply_chat_template(
        messages(*CHAT), chat_template=written, tokenize=False, add_generation_prompt=True
    )
    assert ours == expected


def test_a_known_template_comes_first(tokenizer):
    tokenizer.chat_template = TEMPLATES["gemma"]
    assert conv_mode_for(SimpleNamespace(model_type="qwen2"), tokenizer) == "qwen_1_5"
    llama_3 = SimpleNamespace(model_type="llama", vocab_size=128_256)  # lmms-lab/llama3-llava-next-8b
    assert conv_mode_for(llama_3, tokenizer) == "llava_llama_3"
    assert conv_mode_for(SimpleNamespace(model_type="llama", vocab_size=128_320), tokenizer) == "llava_llama_3"  # -hf
    assert conv_mode_for(UNKNOWN, tokenizer, "vicuna_v1") == "vicuna_v1"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "The tokenizer has no chat_template of its own either"),
        ("{{ raise_exception('no roles') }}", "cannot be rendered: no roles"),
        ("{{ messages | length }}", "writes turns in ways that are not known here"),
        (SPACED, "writes turns in ways that are not known here"),
        ("{{ messages[0]['content'] }}{% if messages | length > 1 %}changed{% endif %}", "in ways that are not known"),
    ],
)
def test_one_that_cannot_be_used_is_an_error_that_names_the_way_out(template, message, tokenizer):
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=f"no template is known for model_type='llama'.*--conv-mode.*{message}"):
        conv_mode_for(UNKNOWN, tokenizer)
