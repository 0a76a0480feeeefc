"""PyramidDrop equals its public code: scores, kept rows, positions, cache lengths, logits, answers."""

from __future__ import annotations

from tests.model.language_pruning.traced import LEAST_MARGIN, Prompt, answer, close, llama_of, pruner, read, same_answer
from tests.model.methods.recorded import Recording


def test_prompts_and_answers():
    recording = Recording("pyramiddrop")
    for case in recording.groups("logits_last8"):
        name, setting = case.split("/")
        model = llama_of(recording, name)
        prompt = Prompt.of(recording, name, model)
        layers, ratios = (part.lstrip("layerstio").split("-") for part in setting.split("_"))
        options = {"layers": tuple(map(int, layers)), "ratios": tuple(map(float, ratios))}
        trace, cache = read(model, pruner("pyramiddrop", model.config.num_hidden_layers, **options), prompt)
        same, original, margins = [], list(range(prompt.rows)), []
        for stage in range(len(layers)):
            at = f"{case}/stage{stage}"
            kept = trace.kept(stage, prompt.start)
            original = [original[place] for place in kept]
            margins.append(float(recording[f"{at}/margin"]))
            same += [
                close(trace.score(stage), recording[f"{at}/score"]),
                kept == recording[f"{at}/kept_of_current"].tolist(),
                original == recording[f"{at}/kept"].tolist(),
            ]
        ids, logits = answer(model, trace.logits[-1], cache, recording[f"{case}/generated"].size)
        same += [
            trace.positions[-1].tolist() == recording[f"{case}/positions_last_layer"].tolist(),
            close(trace.logits[-8:], recording[f"{case}/logits_last8"]),
            trace.logits.argmax(dim=1).tolist() == recording[f"{case}/logits_argmax"].tolist(),
            trace.lengths == recording[f"{case}/seq_len_per_layer"].tolist(),
            same_answer(ids, logits, recording, f"{case}/generated"),
            cache.lengths == recording[f"{case}/cache_len_per_layer"].tolist(),
        ]
        recording.compare(case, all(same), near_tie=min(margins) < LEAST_MARGIN)
    recording.finish()
