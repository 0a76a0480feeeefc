"""Prompts against those of LLaVA, and the manners of a conversation."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava.conversation import Conversation, SeparatorStyle, conv_templates, default_conv_mode, default_conversation

ORACLE = Path(__file__).parent / "fixtures" / "oracle"
PROMPTS = json.loads((ORACLE / "misc.json").read_text())["prompts"]
QUESTION, ANSWER, AGAIN = "<image>\nwhat is this?", "a cat", "sure?"


def converse(name: str, *texts: str | None) -> Conversation:
    conversation = conv_templates[name].copy()
    for i, text in enumerate(texts):
        conversation.append_message(conversation.roles[i % 2], text)
    return conversation


def test_the_templates_are_llavas():
    assert conv_templates.keys() == {*PROMPTS, "llava_llama_3", "qwen_1_5"}


def test_prompts_of_llava_nexts_language_models():
    """The chat templates that meta-llama/Meta-Llama-3-8B-Instruct and Qwen/Qwen1.5-7B-Chat publish, written out."""
    system = conv_templates["llava_llama_2"].system
    assert converse("llava_llama_3", QUESTION, ANSWER, AGAIN, None).get_prompt() == (
        f"<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>"
        f"<|start_header_id|>user<|end_header_id|>\n\n{QUESTION}<|eot_id|>"
        f"<|start_header_id|>assistant<|end_header_id|>\n\n{ANSWER}<|eot_id|>"
        f"<|start_header_id|>user<|end_header_id|>\n\n{AGAIN}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert converse("qwen_1_5", QUESTION, ANSWER, AGAIN, None).get_prompt() == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n{ANSWER}<|im_end|>\n"
        f"<|im_start|>user\n{AGAIN}<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("name", [name for name, prompt in PROMPTS.items() if prompt is not None])
def test_prompt_equals_llavas(name):
    assert converse(name, QUESTION, ANSWER, AGAIN, None).get_prompt() == PROMPTS[name]


@pytest.mark.parametrize("name", [name for name, prompt in PROMPTS.items() if prompt is None])
def test_prompt_where_llava_fails(name):
    """LLaVA's plain templates have no separator for the answer; the only one they have closes both."""
    assert converse(name, QUESTION, ANSWER, AGAIN, None).get_prompt() == f"{QUESTION}\n{ANSWER}\n{AGAIN}\n"
    assert converse(name, "<image>", None).get_prompt() == "<image>\n"


@pytest.mark.parametrize("name", conv_templates)
@settings(deadline=None)
@given(texts=st.lists(st.text(min_size=1), min_size=1, max_size=6), is_open=st.booleans())
def test_spans_make_up_the_prompt_and_mark_the_answers(name, texts, is_open):
    conversation = converse(name, *texts, *([None] if is_open and len(texts) % 2 else []))
    spans = conversation.spans()
    assert "".join(span.text for span in spans) == conversation.get_prompt()
    answers = [span.text for span in spans if span.is_answer][conversation.offset // 2 :]
    assert len(answers) == len(texts) // 2
    for text, answer in zip(texts[1::2], answers, strict=True):
        assert answer.startswith(text)
        assert len(answer) > len(text), "an answer is learned with what closes it"


def test_a_template_is_shared_and_its_copies_are_not():
    with pytest.raises(TypeError, match="copy"):
        default_conversation.append_message("USER", "hi")
    one, other = default_conversation.copy(), default_conversation.copy()
    one.append_message(one.roles[0], "hi")
    assert not other.messages
    assert not conv_templates["v1"].messages


def test_llama_2_wants_the_user_first():
    with pytest.raises(ValueError, match="first message"):
        converse("llama_2", None).get_prompt()
    conversation = conv_templates["mistral_instruct"].copy()
    conversation.append_message(conversation.roles[1], "hi")
    with pytest.raises(ValueError, match="USER"):
        conversation.get_prompt()


def test_an_image_given_with_the_question_goes_before_it():
    image = PIL.Image.new("RGB", (8, 4))
    conversation = converse("llava_v0", ("what is <image> this?", image, "Default"), None)
    assert conversation.get_prompt().endswith("###Human: <image>\nwhat is  this?###Assistant:")
    tagged = converse("v0_mmtag", ("what is this?", image, "Default"), None)
    assert tagged.get_prompt().endswith(
        "###Human: <Image><image></Image>###Assistant: Received.###Human: what is this?###Assistant:"
    )


def test_a_conversation_can_be_written_as_json():
    conversation = converse("v1", ("<image>\nlook", PIL.Image.new("RGB", (4, 4)), "Default"), "a box", "sure?", None)
    assert json.loads(json.dumps(conversation.dict()))["messages"][0] == ["USER", "<image>\nlook"]


def test_a_template_of_ones_own():
    mine = Conversation("Be brief.", ("Q", "A"), (), 0, SeparatorStyle.TWO, "\n", "\n\n").copy()
    for role, text in (("Q", "2+2?"), ("A", "4"), ("Q", "3+3?"), ("A", None)):
        mine.append_message(role, text)
    assert mine.get_prompt() == "Be brief.\nQ: 2+2?\nA: 4\n\nQ: 3+3?\nA:"


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"model_type": "llava_llama", "vocab_size": 32_000}, "vicuna_v1"),
        ({"model_type": "llava", "vocab_size": 32_000}, "vicuna_v1"),
        ({"model_type": "llava_llama", "vocab_size": 64_000}, "chatml_direct"),
        ({"model_type": "llava_mistral", "vocab_size": 32_000}, "mistral_instruct"),
        ({"model_type": "llava_mpt", "vocab_size": 50_432}, "mpt"),
        ({"model_type": "llava_llama", "vocab_size": 32_000, "conv_mode": "llava_llama_2"}, "llava_llama_2"),
        ({"text_config": SimpleNamespace(model_type="llama", vocab_size=64_064)}, "chatml_direct"),
        ({"text_config": SimpleNamespace(model_type="mistral", vocab_size=32_064)}, "mistral_instruct"),
        ({"text_config": SimpleNamespace(model_type="llama", vocab_size=128_320)}, "llava_llama_3"),
        ({"model_type": "qwen2", "vocab_size": 151_936}, "qwen_1_5"),
        ({"model_type": "llava_qwen", "vocab_size": 152_064}, "qwen_1_5"),
    ],
)
def test_default_conv_mode_follows_the_config(entries, expected):
    assert default_conv_mode(SimpleNamespace(**entries)) == expected


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"text_config": SimpleNamespace(model_type="llama", vocab_size=100_000)}, "100000"),
        ({"model_type": "gemma", "vocab_size": 256_000}, "gemma"),
        ({"model_type": "llava_llama", "vocab_size": 32_000, "conv_mode": "v9"}, "'v9'"),
    ],
)
def test_default_conv_mode_does_not_guess(entries, named):
    with pytest.raises(ValueError, match=named):
        default_conv_mode(SimpleNamespace(**entries))


def test_templates_import_without_torch():
    program = "import sys, llava.conversation; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])
