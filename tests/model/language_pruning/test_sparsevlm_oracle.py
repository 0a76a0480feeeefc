"""SparseVLM equals its public code: raters, scores, kept and merged rows, positions, cache lengths, logits, answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llava.model.language_pruning import sparsevlm
from llava.model.language_pruning.density_peaks import cluster_means
from llava.model.language_pruning.raters import find_raters
from llava.model.language_pruning.sparsevlm import heads_on_image, rate
from tests.model.language_pruning.traced import (
    LEAST_MARGIN,
    Prompt,
    answer,
    close,
    close_for_their_size,
    llama_of,
    pruner,
    read,
    same_answer,
)
from tests.model.methods.recorded import FOLDER, Recording

LAYERS = (3, 7, 16)  # that have run: the public code's 2, 6 and 15
FILES = sorted(path.stem for path in FOLDER.glob("sparsevlm_*.npz"))
PROMPTS = next(name for name in FILES if Recording(name).groups("inputs_embeds"))  # one file holds them for all


def _pruner(name: str, num_layers: int):
    """The published list of this file. The fixtures' language model ends after some of the stages."""
    _, version, _, rows = name.split("_")
    bound = pruner(
        "sparsevlm", max(num_layers, LAYERS[-1] + 1), version=int(version), schedule=int(rows), layers=LAYERS
    )
    own = bound.pruner.plan

    def plan(rows, _layers, mean, options):
        whole = own(rows, LAYERS[-1] + 1, mean, options)
        stages = tuple(stage for stage in whole.stages if stage.layers_run < num_layers)
        return replace(whole, num_layers=num_layers, stages=stages)

    return replace(bound, num_layers=num_layers, pruner=replace(bound.pruner, plan=plan))


@pytest.mark.parametrize("name", FILES)
@torch.inference_mode()
def test_prompts_and_answers(name):
    recording, prompts = Recording(name), Recording(PROMPTS)
    for case in recording.groups("rater_index"):
        model = llama_of(prompts, case)
        bound = _pruner(name, model.config.num_hidden_layers)
        prompt = Prompt.of(prompts, case, model)
        trace, cache = read(model, bound, prompt)
        assert (int(recording[f"{case}/image_start"]), int(recording[f"{case}/image_length"])) == (
            prompt.start,
            prompt.rows,
        )
        first = trace.stages[0][0]
        same = [
            find_raters(first.first, first.text, 1)[0, 0].nonzero().flatten().tolist()
            == recording[f"{case}/rater_index"].tolist()
        ]
        margins = []
        for stage in range(len(trace.stages)):
            at = f"{case}/layer{LAYERS[stage] - 1}"
            margins.append(float(recording[f"{at}/margin"]))
            same += [
                trace.kept(stage, prompt.start) == recording[f"{at}/kept"].tolist(),
                close(trace.score(stage), recording[f"{at}/score"]),
                len(trace.score(stage)) == int(recording[f"{at}/visual_before"]),
            ]
            same += (
                _same_heads(trace, stage, recording, at, prompt.start)
                if "_2_0_" in name
                else _same_means(trace, stage, recording, at, prompt.start)
            )
        if f"{case}/generated" in recording:
            ids, logits = answer(model, trace.logits[-1], cache, recording[f"{case}/generated"].size)
            same += [
                trace.positions[-1].tolist() == recording[f"{case}/positions_last_layer"].tolist(),
                close(trace.logits[-1], recording[f"{case}/logits_last"]),
                trace.logits.argmax(dim=1).tolist() == recording[f"{case}/logits_argmax"].tolist(),
                same_answer(ids, logits, recording, f"{case}/generated"),
                cache.lengths == recording[f"{case}/cache_len_per_layer"].tolist(),
                trace.lengths == recording[f"{case}/seq_len_per_layer"].tolist(),
            ]
        recording.compare(case, all(same), near_tie=min(margins) < LEAST_MARGIN)
    for case in recording.groups("inputs_embeds"):
        Prompt.of(recording, case, llama_of(recording, case))
    recording.finish()


def _same_heads(trace, stage, recording, at, _start) -> list[bool]:
    view = trace.stages[stage][0]
    raters = find_raters(view.first, view.text, 1)
    rated = rate(view, raters / raters.sum(dim=2, keepdim=True), beyond_position=True)
    heads = heads_on_image(rated, view.rows.owner, len(recording[f"{at}/heads"]))
    return [sorted(heads[0, 0].tolist()) == sorted(recording[f"{at}/heads"].tolist())]


def _same_means(trace, stage, recording, at, start) -> list[bool]:
    view, scores = trace.stages[stage]
    owned = scores[0].masked_fill(view.rows.owner[0] < 0, -1)
    kept, recycled = len(recording[f"{at}/kept"]), torch.from_numpy(recording[f"{at}/recycled"])
    order = owned.argsort(descending=True, stable=True)[kept : kept + len(recycled)]
    clusters = int(recording[f"{at}/clusters"])
    return [
        close_for_their_size(view.rows.hidden[0, order], recording[f"{at}/recycled"]),
        close_for_their_size(trace.merged(stage, start), recording[f"{at}/merged"]),
        close_for_their_size(cluster_means(recycled[None], clusters)[0], recording[f"{at}/merged"]),
    ]


@pytest.mark.parametrize("version", [1, 2])
@torch.inference_mode()
def test_a_long_question_is_read_in_parts(version, monkeypatch):
    """Scores are those of all its words at once; what is held is a part's attention."""
    recording = Recording(PROMPTS)
    case = recording.groups("inputs_embeds")[0]
    model = llama_of(recording, case)
    prompt = Prompt.of(recording, case, model)
    bound = pruner("sparsevlm", model.config.num_hidden_layers, version=version, layers=(3, 5))
    whole, _ = read(model, bound, prompt)
    monkeypatch.setattr(sparsevlm, "_AT_ONCE", 7)
    parts, _ = read(model, bound, prompt)
    for stage in range(2):
        torch.testing.assert_close(parts.score(stage), whole.score(stage), rtol=1e-3, atol=1e-5)
