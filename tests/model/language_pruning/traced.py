"""A recorded Llama, read through a pruner, and what its layers were given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from llava.model.configuration import CompressionConfig
from llava.model.language_pruning import PRUNERS, BoundPruner, ImageRows, PrunedCache, Pruner, StageView
from llava.model.language_pruning.decoder_loop import read_on, read_pruned
from tests.model.methods.recorded import FOLDER, Recording

ATOL = 1e-5
LEAST_MARGIN = 1e-6


@cache
def recorded_llama(name: str) -> LlamaForCausalLM:
    with (FOLDER / f"llama_{name}.json").open(encoding="utf-8") as file:
        model = LlamaForCausalLM(LlamaConfig(**json.load(file)))
    model.load_state_dict(load_file(FOLDER / f"llama_{name}.safetensors"))
    return model.eval()


def llama_of(recording: Recording, case: str) -> LlamaForCausalLM:
    """The recorded Llama that a case was made with: the one whose embeddings stand before its image."""
    ids, embeds = (torch.from_numpy(recording[f"{case}/{name}"]) for name in ("prefix_ids", "inputs_embeds"))
    for file in sorted(FOLDER.glob("llama_*.json")):
        model = recorded_llama(file.stem.removeprefix("llama_"))
        table = model.get_input_embeddings().weight.detach()
        if int(ids.max()) < len(table) and torch.equal(table[ids], embeds[: len(ids), : table.shape[1]]):
            return model
    raise AssertionError(f"{case}: no Llama of {FOLDER} has these embeddings")


@dataclass
class Prompt:
    """A recorded prompt with one image."""

    embeds: Tensor
    start: int
    rows: int

    @classmethod
    def of(cls, recording: Recording, case: str, model: LlamaForCausalLM) -> Prompt:
        embeds = torch.from_numpy(recording[f"{case}/inputs_embeds"])[None]
        prompt = cls(embeds, int(recording[f"{case}/image_start"]), int(recording[f"{case}/image_length"]))
        embed = model.get_input_embeddings()
        text = [torch.from_numpy(recording[f"{case}/{part}_ids"]) for part in ("prefix", "suffix")]
        ids = torch.cat([embed(text[0]), embeds[0, prompt.image], embed(text[1])])
        torch.testing.assert_close(ids, embeds[0], rtol=0, atol=0)
        return prompt

    @property
    def image(self) -> slice:
        return slice(self.start, self.start + self.rows)

    def followed_by(self, embeds: Tensor) -> Prompt:
        return Prompt(torch.cat([self.embeds, embeds], dim=1), self.start, self.rows)

    def located(self) -> ImageRows:
        rows = torch.full(self.embeds.shape[:2], -1)
        rows[:, self.image] = torch.arange(self.rows)
        return ImageRows.locate(rows, None, [self.rows])


@dataclass
class Trace:
    """What a prompt's layers read and what scores said of it.

    Attributes:
        entered: What each layer was given, (L, D).
        left: What each layer gave, (L, D).
        positions: Of each segment.
        stages: What a pruner saw and its scores.
    """

    entered: dict[int, Tensor] = field(default_factory=dict)
    left: dict[int, Tensor] = field(default_factory=dict)
    positions: list[Tensor] = field(default_factory=list)
    stages: list[tuple[StageView, Tensor]] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    lengths: list[int] = field(default_factory=list)

    def kept(self, stage: int, start: int) -> list[int]:
        """Which rows of the image went on behind a stage, told by their values."""
        view, _ = self.stages[stage]
        before = self.left[view.layers_run - 1][start : start + sum(view.counts[0])]
        after = self.entered[view.layers_run][start : start + view.stages[0][0].kept]
        same = (before.unsqueeze(1) == after.unsqueeze(0)).all(dim=2)
        return same.any(dim=1).nonzero().flatten().tolist()

    def merged(self, stage: int, start: int) -> Tensor:
        """Rows that stood behind the kept ones of the image."""
        view, _ = self.stages[stage]
        left = view.stages[0][0]
        return self.entered[view.layers_run][start + left.kept : start + left.rows]

    def score(self, stage: int) -> Tensor:
        """Scores of the image's rows."""
        view, scores = self.stages[stage]
        return scores[0, view.rows.owner[0] >= 0]


def pruner(name: str, num_layers: int, **options) -> BoundPruner:
    return PRUNERS.get(name).bind(CompressionConfig(name, 1, options=options), num_layers)


@contextmanager
def _watched(model: LlamaForCausalLM, trace: Trace) -> Iterator[None]:
    hooks = []
    for number, layer in enumerate(model.model.layers):

        def keep(_module, args, _kwargs, output, number=number):
            trace.entered[number], trace.left[number] = args[0][0], output[0]

        hooks.append(layer.register_forward_hook(keep, with_kwargs=True))

    def keep_positions(_module, _args, kwargs):
        trace.positions.append(kwargs["position_ids"][0])

    hooks.append(model.model.rotary_emb.register_forward_pre_hook(keep_positions, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def read(model: LlamaForCausalLM, bound: BoundPruner, prompt: Prompt) -> tuple[Trace, PrunedCache]:
    trace = Trace()
    own: Pruner = bound.pruner

    def score(view, options):
        trace.stages.append((view, own.score(view, options)))
        return trace.stages[-1][1]

    bound = replace(bound, pruner=replace(own, score=score))
    with _watched(model, trace):
        hidden, cache = read_pruned(
            model.model, bound, prompt.embeds, prompt.located(), None, None, DynamicCache(config=model.config)
        )
    trace.logits, trace.lengths = model.lm_head(hidden)[0], cache.lengths
    return trace, cache


@torch.inference_mode()
def answer(model: LlamaForCausalLM, logits: Tensor, cache: PrunedCache, count: int) -> tuple[list[int], Tensor]:
    """Greedy ids, and the logits that they are of."""
    ids, said = [int(logits.argmax())], [logits]
    while len(ids) < count:
        embeds = model.get_input_embeddings()(torch.tensor([[ids[-1]]]))
        said.append(model.lm_head(read_on(model.model, embeds, cache))[0, -1])
        ids.append(int(said[-1].argmax()))
    return ids, torch.stack(said)


def same_answer(ids: list[int], logits: Tensor, recording: Recording, name: str) -> bool:
    """Whether greedy ids and their logits are the recorded ones, up to a step at which two ids are equally likely."""
    wanted, said = recording[name].tolist(), recording[f"{name}_logits"]
    best = torch.from_numpy(said).topk(2, dim=1).values
    ties = (best[:, 0] - best[:, 1] < 2 * ATOL).nonzero().flatten().tolist()
    steps = ties[0] if ties else len(wanted)
    known = steps + bool(ties)  # the step of the tie is the last whose prompt is the same
    return ids[:steps] == wanted[:steps] and close_for_their_size(logits[:known], said[:known])


def close(found: Tensor, recorded) -> bool:
    wanted = torch.from_numpy(recorded)
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=ATOL, atol=ATOL)


def close_for_their_size(found: Tensor, recorded) -> bool:
    """Of what has been through many layers or steps: the bound is for the largest number."""
    wanted = torch.from_numpy(recorded)
    size = wanted.abs().max().clamp(min=1).item()
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=0, atol=ATOL * size)
