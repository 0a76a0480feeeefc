"""Programs written against haotian-liu/LLaVA drive this package: the calls of two kits' wrappers, in their order.

What is replayed is which names are imported and what is called with which keywords by lmms-eval 0.7's `llava` model and
VLMEvalKit's `LLaVA` (as of August 2026). CUDA stands where the CPU stands here. Both give pixels in half precision, so
the answers they are compared with are made of such pixels, too.
"""

from __future__ import annotations

import importlib
import json
import shutil
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import Conversation, SeparatorStyle, conv_templates
from llava.inference import GenerationOptions, Inference, Question
from llava.mm_utils import (
    KeywordsStoppingCriteria,
    get_model_name_from_path,
    process_images,
    tokenizer_image_token,
)
from llava.model.builder import load_pretrained_model

NEW_TOKENS = 8
KINDS = ["tiny-llava-v1.5", pytest.param("tiny-llava-v1.6-next", marks=pytest.mark.slow)]


class HalfPixels(Inference):
    """Images in half precision, whatever the model has."""

    def preprocess(self, images: Sequence[Any]) -> Tensor | list[Tensor]:
        pixels = super().preprocess(images)
        half = [image.half().to(image.dtype) for image in pixels]
        return half if isinstance(pixels, list) else torch.stack(half)


def texts(inference: Inference, questions: list[Question]) -> list[str]:
    answers = inference.ask(questions, batch_size=1, options=GenerationOptions(max_new_tokens=NEW_TOKENS))
    return [answer.text for answer in sorted(answers, key=lambda answer: answer.index)]


def with_budget(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint with a budget in its config: the wrappers have no argument for one."""
    shutil.copytree(checkpoint, folder)
    file = folder / "config.json"
    budget = {"method": "visionzip", "dominant": 54, "contextual": 10}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"compression": budget}))
    return folder


class LmmsEvalLlava:
    """lmms-eval's `llava`: how it loads, batches, generates and scores, with `device=cpu,device_map=auto`."""

    def __init__(self, pretrained: str) -> None:
        self.tokenizer, self.model, self.image_processor, self.max_length = load_pretrained_model(
            pretrained,
            None,
            get_model_name_from_path(pretrained),
            device_map="auto",
            multimodal=True,
            attn_implementation="sdpa",
        )
        self.config = self.model.config
        self.model.eval()
        self.model.tie_weights()

    def pixels(self, images: list[Image.Image]) -> Any:
        tensor = process_images(images, self.image_processor, self.config)
        if type(tensor) is list:
            return [image.to(dtype=torch.float16, device="cpu") for image in tensor]
        return tensor.to(dtype=torch.float16, device="cpu")

    def pad(self, rows: list[Tensor], value: int) -> Tensor:
        left = self.tokenizer.padding_side == "left"
        rows = [torch.flip(row, [0]) for row in rows] if left else rows
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
        return torch.flip(padded, [1]) if left else padded

    def generate(self, contexts: list[str], visuals: list[list[Image.Image]]) -> list[str]:
        flat = [image for images in visuals for image in images]
        pixels = self.pixels(flat) if flat else None
        prompts = []
        for images, context in zip(visuals, contexts, strict=True):
            conv = conv_templates["vicuna_v1"].copy()
            conv.append_message(conv.roles[0], " ".join([DEFAULT_IMAGE_TOKEN] * len(images)) + "\n" + context)
            conv.append_message(conv.roles[1], None)
            prompts.append(conv.get_prompt())
        rows = [tokenizer_image_token(text, self.tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt") for text in prompts]
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        input_ids = self.pad(rows, pad).to("cpu")
        output = self.model.generate(
            input_ids,
            attention_mask=input_ids.ne(pad).to("cpu"),
            pad_token_id=pad,
            images=pixels,
            image_sizes=[image.size for image in flat],
            do_sample=False,
            temperature=0,
            top_p=0,  # as in its pope_adv
            num_beams=1,
            max_new_tokens=NEW_TOKENS,
            use_cache=True,
        )
        return self.tokenizer.batch_decode(output, skip_special_tokens=True)


@pytest.mark.parametrize("kind", KINDS)
def test_lmms_evals_llava(oracle_dir: Path, tmp_path: Path, kind: str) -> None:
    checkpoint = with_budget(oracle_dir / kind, tmp_path / kind)
    wrapper = LmmsEvalLlava(str(checkpoint))
    assert str(wrapper.model.compression) == "visionzip:54+10", "what the config says, as nothing else is asked"
    pictures = [Image.open(oracle_dir / "images" / f"{name}.png").convert("RGB") for name in ("small", "square")]
    contexts = ["What is this?", "Which of the two words is longer, this or that?"]
    answers = wrapper.generate(contexts, [[picture] for picture in pictures])
    inference = HalfPixels(wrapper.tokenizer, wrapper.model, wrapper.image_processor, conv_mode="vicuna_v1")
    questions = [Question(text, (picture,)) for text, picture in zip(contexts, pictures, strict=True)]
    assert [answer.strip() for answer in answers] == texts(inference, questions)
    assert all(answers)


def test_lmms_evals_word_for_plain_images(oracle_dir: Path) -> None:
    """Some of its tasks set `image_aspect_ratio: original` on a config that has no such entry, as llava-hf's do."""
    wrapper = LmmsEvalLlava(str(oracle_dir / "tiny-llava-v1.5"))
    picture = Image.open(oracle_dir / "images" / "wide.png").convert("RGB")
    wrapper.config.image_aspect_ratio = "original"
    plain = wrapper.image_processor.preprocess([picture], return_tensors="pt")["pixel_values"]
    assert torch.equal(process_images([picture], wrapper.image_processor, wrapper.config), plain)
    assert wrapper.generate(["What is this?"], [[picture]])


@pytest.mark.parametrize("compressed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_vlmevalkits_llava(oracle_dir: Path, tmp_path: Path, compressed: bool) -> None:
    names = importlib.import_module("llava.mm_utils")
    assert names.KeywordsStoppingCriteria is KeywordsStoppingCriteria
    checkpoint = oracle_dir / "tiny-llava-v1.5"
    checkpoint = with_budget(checkpoint, tmp_path / "budget") if compressed else checkpoint
    tokenizer, model, image_processor, context_len = load_pretrained_model(
        model_path=str(checkpoint),
        model_base=None,
        model_name=get_model_name_from_path(str(checkpoint)),
        device_map="cpu",
    )
    assert context_len > 0
    kwargs = {"do_sample": False, "temperature": 0, "max_new_tokens": NEW_TOKENS, "top_p": None, "num_beams": 1}
    system = (
        "A chat between a curious human and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the human's questions. "
    )

    def generate(content: str, paths: list[Path]) -> str:
        images = [Image.open(path).convert("RGB") for path in paths]
        settings = Namespace()
        settings.image_aspect_ratio = "pad"
        pixels = process_images(images, image_processor, settings).to("cpu", dtype=torch.float16) if images else None
        prompt = system + "USER: " + content + " ASSISTANT: "
        input_ids = tokenizer_image_token(prompt, tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt").unsqueeze(0)
        stopping = KeywordsStoppingCriteria(["</s>"], tokenizer, input_ids)
        with torch.inference_mode():
            output = model.generate(input_ids, images=pixels, stopping_criteria=[stopping], use_cache=True, **kwargs)
        return str(tokenizer.batch_decode(output, skip_special_tokens=True)[0].strip())

    paths = [oracle_dir / "images" / f"{name}.png" for name in ("small", "landscape")]
    contents = [(" <image> What is this?", paths[:1]), (" <image>  <image> Which?", paths), ("Hello.", [])]
    conv_templates["vlmevalkit"] = Conversation(  # docs/kits.md
        system + "USER: ", ("", ""), (), 0, sep_style=SeparatorStyle.PLAIN, sep=" ASSISTANT: "
    )
    try:
        inference = HalfPixels(tokenizer, model, image_processor, conv_mode="vlmevalkit")
        expected = texts(inference, [Question(text, tuple(images)) for text, images in contents])
    finally:
        del conv_templates["vlmevalkit"]
    assert [generate(text, images) for text, images in contents] == expected
    assert all(expected)
