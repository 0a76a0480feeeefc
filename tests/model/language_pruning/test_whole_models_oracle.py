"""A LLaVA around a recorded Llama answers as the public code does, through `generate`, in batches of unlike prompts."""

from __future__ import annotations

import copy
import math
from functools import cache

import pytest
import torch
from transformers import LlavaConfig

from llava.model.configuration import CompressionConfig
from llava.model.language_pruning import PRUNERS
from llava.model.llava_arch import LlavaForConditionalGeneration
from llava.model.llava_config import LlavaConfig as OwnConfig
from tests.model.language_pruning.traced import Prompt, llama_of, same_answer
from tests.model.methods.recorded import Recording
from tests.model.tiny import vision_config


@cache
def llava_around(llama):
    """Its tower is never asked: the recorded rows of images are given as features."""
    config = LlavaConfig(vision_config=vision_config(), text_config=copy.deepcopy(llama.config), image_token_index=0)
    model = LlavaForConditionalGeneration(OwnConfig.from_dict(config.to_dict()))
    model.model.language_model.load_state_dict(llama.model.state_dict())
    model.lm_head.load_state_dict(llama.lm_head.state_dict())
    return model.eval()


def settings(name: str) -> dict[str, list[tuple[str, str]]]:
    """Options of a method -> recorded cases that have them, and what their answer is called."""
    recording, found = Recording(name), {}
    if name == "fastv":
        for case in recording.groups("ratio_r"):
            layer = case.split("/K")[1].split("_")[0]
            options = f"layer={layer},ratio={float(recording[f'{case}/ratio_r'])}"
            found.setdefault(options, []).append((case, "generated_kv"))
    else:
        for case in recording.groups("generated"):
            layers, ratios = (part.lstrip("layerstio").replace("-", "/") for part in case.split("/")[1].split("_"))
            many = "" if "/" in layers else "/"
            found.setdefault(f"layers={layers}{many},ratios={ratios}{many}", []).append((case, "generated"))
    return found


@pytest.mark.parametrize("name", ["fastv", "pyramiddrop"])
def test_batches_of_recorded_prompts(name):
    recording, wrong, together = Recording(name), [], 0
    for options, cases in settings(name).items():
        by_model = {}
        for case, answer in cases:
            by_model.setdefault(llama_of(recording, case.split("/")[0]), []).append((case, answer))
        for llama, own in by_model.items():
            together = max(together, len(own))
            model = llava_around(llama)
            model.set_compression(with_its_mean(f"{name}:1,{options}", model))
            prompts = [Prompt.of(recording, case.split("/")[0], llama) for case, _ in own]
            output = model.generate(
                **as_a_batch(recording, own, prompts),
                max_new_tokens=12,
                do_sample=False,
                eos_token_id=None,
                output_logits=True,
                return_dict_in_generate=True,
            )
            for row, (case, answer) in enumerate(own):
                logits = torch.stack([step[row] for step in output.logits])
                if not same_answer(output.sequences[row].tolist(), logits, recording, f"{case}/{answer}"):
                    wrong.append(case)
    assert not wrong and together > 1


def with_its_mean(text: str, model) -> str:
    """The budget with the number that a model of this depth demands; images have 16 rows in this tower's reckoning."""
    budget = CompressionConfig.parse(text)
    bound = PRUNERS.get(budget.method).bind(budget, model.config.text_config.num_hidden_layers)
    return text.replace(":1,", f":{math.floor(bound.schedule(16).mean_rows + 0.5)},", 1)


def as_a_batch(recording: Recording, cases, prompts: list[Prompt]):
    rows = []
    for case, _ in cases:
        prefix, suffix = (
            torch.from_numpy(recording[f"{case.split('/')[0]}/{part}_ids"]) for part in ("prefix", "suffix")
        )
        rows.append(torch.cat([prefix, torch.tensor([-200]), suffix]))
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(rows, batch_first=True, padding_side="left"),
        "attention_mask": pad([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left"),
        "image_features": [prompt.embeds[0, prompt.image] for prompt in prompts],
    }
