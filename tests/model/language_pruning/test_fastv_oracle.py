"""FastV equals its public code: scores, kept rows, positions, cache lengths, logits, answers."""

from __future__ import annotations

import pytest
import torch

from tests.model.language_pruning.traced import (
    ATOL,
    LEAST_MARGIN,
    Prompt,
    answer,
    close,
    llama_of,
    pruner,
    read,
    same_answer,
)
from tests.model.methods.recorded import Recording


@pytest.fixture(scope="module")
def recording() -> Recording:
    return Recording("fastv")


def _pruner(recording: Recording, case: str):
    layer = int(case.split("/K")[1].split("_")[0])
    ratio = float(recording[f"{case}/ratio_r"])
    model = llama_of(recording, case.split("/")[0])
    return model, pruner("fastv", model.config.num_hidden_layers, layer=layer, ratio=ratio)


def test_prompts_and_answers(recording):
    for case in recording.groups("ratio_r"):
        model, bound = _pruner(recording, case)
        prompt = Prompt.of(recording, case.split("/")[0], model)
        trace, cache = read(model, bound, prompt)
        wanted = {name: recording[f"{case}/{name}"] for name in ("kept", "positions_after", "logits_argmax")}
        ids, logits = answer(model, trace.logits[-1], cache, len(recording[f"{case}/generated_kv"]))
        same = [
            trace.kept(0, prompt.start) == wanted["kept"].tolist(),
            close(trace.score(0), recording[f"{case}/score"]),
            trace.positions[-1].tolist() == wanted["positions_after"].tolist(),
            close(trace.logits[-8:], recording[f"{case}/logits_last8"]),
            trace.logits.argmax(dim=1).tolist() == wanted["logits_argmax"].tolist(),
            trace.lengths == recording[f"{case}/seq_len_per_layer"].tolist(),
            same_answer(ids, logits, recording, f"{case}/generated_kv"),
            cache.lengths == recording[f"{case}/cache_len_per_layer"].tolist(),
            is_answer_without_cache(model, bound, prompt, recording[f"{case}/generated_nocache"].tolist()),
        ]
        recording.compare(case, all(same), near_tie=float(recording[f"{case}/margin"]) < LEAST_MARGIN)
    for case in recording.groups("vanilla_logits_last8"):
        model = llama_of(recording, case)
        prompt = Prompt.of(recording, case, model)
        trace, _ = read(model, pruner("fastv", model.config.num_hidden_layers, layer=3, ratio=0.0), prompt)
        recording.compare(f"{case}/vanilla", close(trace.logits[-8:], recording[f"{case}/vanilla_logits_last8"]))
    recording.finish()


def is_answer_without_cache(model, bound, prompt: Prompt, wanted: list[int]) -> bool:
    """The other method that is called FastV: the whole prompt is pruned anew for every token of the answer.

    Looked at are the tokens before a step at which two rows or two ids are equally good.
    """
    for token in wanted:
        trace, _ = read(model, bound, prompt)
        kept = trace.stages[0][0].stages[0][0].kept
        rows = trace.score(0).sort(descending=True).values
        best = trace.logits[-1].topk(2).values
        if best[0] - best[1] < ATOL or (kept < len(rows) and rows[kept - 1] - rows[kept] < LEAST_MARGIN):
            return True
        if int(trace.logits[-1].argmax()) != token:
            return False
        prompt = prompt.followed_by(model.get_input_embeddings()(torch.tensor([[token]])).detach())
    return True


def test_the_older_public_file():
    """Of 2024: rows taken out, and rows masked, which differ by the order of sums."""
    recording, newer = Recording("fastv_original"), Recording("fastv")
    for case in recording.groups("inplace"):
        model, bound = _pruner(newer, case)
        logits = read(model, bound, Prompt.of(newer, case.split("/")[0], model))[0].logits[-1]
        same = [close(logits, recording[f"{case}/{name}"]) for name in ("inplace", "mask")]
        recording.compare(case, all(same), near_tie=float(newer[f"{case}/margin"]) < LEAST_MARGIN)
    recording.finish()
