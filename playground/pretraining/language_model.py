"""Makes a small language model: a Llama tokenizer of its own, and a Llama pre-trained on text alone.

The text is LLaVA's `vicuna_v1` conversation, in which a scene is told in words where the picture will stand; the words
of a phrase ("red 7 northwest") are said at once, their embeddings added up in one position. So the model brings what
Vicuna brings to LLaVA: it knows the template and how to answer about something described.
"""

from __future__ import annotations

import json
import math
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer

from playground.pretraining.plan import Lesson
from playground.pretraining.resume import load_state, save_state

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
IMAGE_TOKEN = "<image>"
TAIL = "Answer the question using a single word or phrase."


@dataclass(frozen=True)
class Talk:
    """A scene told in phrases, and what is asked and answered about it."""

    phrases: list[str]
    pairs: list[tuple[str, str]]


Composer = Callable[[np.random.Generator, int, Lesson], list[Talk]]
"""Writes so many conversations about fresh scenes."""


def flatten(talk: Talk) -> tuple[str, list[tuple[int, int]]]:
    """Gives the text after the scene and the spans of characters that the assistant says, `</s>` included."""
    text, spans = "", []
    for question, answer in talk.pairs:
        text += f"{'USER: ' if text else chr(10)}{question} ASSISTANT:"
        spans.append((len(text), len(text) + len(f" {answer}</s>")))
        text += f" {answer}</s>"
    return text, spans


def make_tokenizer(talks: list[Talk], size: int, prompt: str) -> LlamaTokenizer:
    """Trains a byte-pair tokenizer of the Llama kind on our own text; every common word becomes one token.

    Args:
        talks: The text.
        size: Of the vocabulary.
        prompt: What asks for a caption.
    """
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    learner = Tokenizer(models.BPE(byte_fallback=True))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first"),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Split("\n", "isolated"),
        ]
    )
    text = [f"{q} ASSISTANT: {a} USER: {prompt} {TAIL}\n{q}" for talk in talks for q, a in talk.pairs]
    text += [phrase for talk in talks for phrase in talk.phrases]
    learner.train_from_iterator([SYSTEM] * 500 + text, trainer)
    made = json.loads(learner.to_str())["model"]
    tokenizer = LlamaTokenizer(
        vocab=made["vocab"],
        merges=[tuple(pair) for pair in made["merges"]],
        pad_token="<unk>",
        padding_side="right",
        model_max_length=2048,
        add_bos_token=True,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    return tokenizer


def encode(tokenizer: LlamaTokenizer, talks: list[Talk], system: str = SYSTEM) -> dict[str, Tensor]:
    """Turns conversations into tensors.

    Args:
        tokenizer: The tokenizer.
        talks: B conversations.
        system: What stands before the first turn.

    Returns:
        `words` (B, T, W): the ids whose embeddings are added up at each position, 0 for none: one id in text, all of a
        phrase's in the telling; `attention_mask` (B, T); `labels` (B, T): the assistant's words, else -100.
    """
    opening = tokenizer(f"{system} USER: ").input_ids
    rows, labels = [], []
    for talk in talks:
        text, spans = flatten(talk)
        coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        told = tokenizer(talk.phrases, add_special_tokens=False).input_ids
        rows.append([[token] for token in opening] + told + [[token] for token in coded.input_ids])
        said = [any(e > left and b < right for left, right in spans) for b, e in coded.offset_mapping]
        silent = [-100] * (len(opening) + len(told))
        labels.append(silent + [token if on else -100 for token, on in zip(coded.input_ids, said, strict=True)])
    longest, widest = max(map(len, rows)), max(len(ids) for row in rows for ids in row)
    words = torch.zeros(len(rows), longest, widest, dtype=torch.long)
    batch = {"attention_mask": torch.zeros(len(rows), longest), "labels": torch.full((len(rows), longest), -100)}
    for index, (row, label) in enumerate(zip(rows, labels, strict=True)):
        words[index, : len(row)] = torch.tensor([ids + [0] * (widest - len(ids)) for ids in row])
        batch["attention_mask"][index, : len(row)] = 1
        batch["labels"][index, : len(row)] = torch.tensor(label)
    return {"words": words, **batch}


def make_model(tokenizer: LlamaTokenizer, width: int, layers: int, heads: int) -> LlamaForCausalLM:
    """Builds the untrained Llama."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=int(width * 8 / 3) // 32 * 32 + 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        initializer_range=0.05,
    )
    return LlamaForCausalLM(config)


def loss_of(model: LlamaForCausalLM, batch: dict[str, Tensor]) -> Tensor:
    """Gives the mean loss of the assistant's words."""
    target = batch["labels"][:, 1:]
    known = (batch["words"] > 0)[..., None]
    with torch.autocast("cpu", torch.bfloat16):
        inputs = (model.get_input_embeddings()(batch["words"]) * known).sum(2)
        hidden = model.model(inputs_embeds=inputs, attention_mask=batch["attention_mask"]).last_hidden_state
        logits = model.lm_head(hidden[:, :-1][target >= 0])
    return nn.functional.cross_entropy(logits.float(), target[target >= 0])


def batch_of(arguments: Namespace, tokenizer: LlamaTokenizer, compose: Composer, step: int) -> list[dict[str, Tensor]]:
    """Writes the batch of a step, the shorter and the longer half apart, which saves padding."""
    rng, lesson = np.random.default_rng([arguments.seed, 2, step]), arguments.plan.lesson(step)
    is_whole = lesson == "talks"
    talks = compose(rng, arguments.batch if is_whole else arguments.short_batch, lesson)
    talks.sort(key=lambda talk: len(talk.phrases) + len(flatten(talk)[0]) // 4)  # about four letters a token
    halves = talks[: len(talks) // 2], talks[len(talks) // 2 :]
    return [encode(tokenizer, half, SYSTEM if is_whole else "A") for half in halves if half]


def learn_from(model: LlamaForCausalLM, parts: list[dict[str, Tensor]]) -> float:
    """Adds the gradient of the mean loss of a batch that comes in parts, and returns that loss."""
    words = [int((part["labels"][:, 1:] >= 0).sum()) for part in parts]
    whole = 0.0
    for part, count in zip(parts, words, strict=True):
        loss = loss_of(model, part) * (count / sum(words))
        loss.backward()
        whole += loss.item()
    return whole


def train(arguments: Namespace, model: LlamaForCausalLM, tokenizer: LlamaTokenizer, compose: Composer) -> float:
    """Pre-trains on fresh conversations; a second call goes on where the first was stopped. Returns the last loss."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=arguments.lr, weight_decay=0.01, betas=(0.9, 0.98))
    path, smooth = arguments.output / "llm_checkpoint.safetensors", math.nan
    start = load_state(path, model, optimiser) if path.exists() else 0
    steps = arguments.plan.steps
    bar = tqdm(range(start, steps), initial=start, total=steps, desc="language model", mininterval=2)
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = arguments.lr * arguments.plan.pace(step)
        optimiser.zero_grad()
        loss = learn_from(model, batch_of(arguments, tokenizer, compose, step))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        smooth = loss if math.isnan(smooth) else 0.95 * smooth + 0.05 * loss
        bar.set_postfix(loss=f"{smooth:.3f}", refresh=False)
        if (step + 1) % arguments.save_every == 0:
            save_state(path, model, optimiser, step + 1)
    return smooth


def pretrain(arguments: Namespace, compose: Composer, prompt: str) -> None:
    """Trains tokenizer and language model and writes both in transformers' format.

    Args:
        arguments: The flags of `pretrain_llm.py`.
        compose: Writes the text.
        prompt: What asks for a caption.
    """
    arguments.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    talks = compose(np.random.default_rng([arguments.seed, 1]), 2000, "talks")
    tokenizer = make_tokenizer(talks, arguments.vocab, prompt)
    model, begin = make_model(tokenizer, arguments.width, arguments.layers, arguments.heads), time.time()
    loss = train(arguments, model, tokenizer, compose)
    (arguments.output / "llm.json").write_text(json.dumps({"loss": loss, "seconds": round(time.time() - begin)}) + "\n")
    tokenizer.save_pretrained(arguments.output / "llm")
    model.save_pretrained(arguments.output / "llm")
