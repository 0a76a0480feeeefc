"""Publishes the LLaVA of a crowded world: transformers' format, what it answers with fewer tokens, and its card.

What is measured is the dev split, under all tokens, VisionZip and the baselines only.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from playground.crowded.table import KINDS
from playground.pretraining.publishing import assemble, count_parameters, measure

BUDGETS = ("none", "visionzip:83+15", "visionzip:41+8", "visionzip:17+3")
BUDGETS += tuple(f"random:{k},seed={seed}" if seed else f"random:{k}" for k in (98, 49, 20) for seed in (0, 1, 2))
BUDGETS += tuple(f"{method}:{k}" for k in (98, 49, 20) for method in ("uniform", "pool", "downsample"))
GOALS = (("all tokens", 0.85), ("lost at 49 tokens", 0.03), ("lost at 20 tokens", 0.08))
CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [llava, visionzip, tiny]
---
# Tiny LLaVA of a crowded world ({world})

A LLaVA of {parameters:.2f} M parameters that answers short questions about crowded scenes: four to ten things of two
sizes (handwritten digits, shapes, printed words and numbers) among distractors, before textures and photographs. It is
there to tell methods of compression apart: much of a picture is worth a token here, and small print suffers first.

- **Vision tower**: CLIP, {vision[num_hidden_layers]} layers, {vision[hidden_size]} wide, 112 x 112 pixels in 14 x 14
  patches of 8. It was trained to match captions of whole scenes against those of other pictures, as CLIP is, and to
  tell by each patch what it shows, textures included. It stays frozen afterwards.
- **Language model**: Llama, {text[num_hidden_layers]} layers, {text[hidden_size]} wide, {text[vocab_size]} tokens,
  pre-trained on conversations about scenes told in words.
- **LLaVA stage 1 and 2**: `llava.train`, the projector on captions, then projector and language model on
  conversations.
- **Splits**: `train`, `dev` and `test` share no instance: no digit's scan, no word in the same font, no turn of a
  shape, no part of a photograph. Everything is made by `playground/crowded/pretrain.sh`.

What makes this easier than real pictures: things begin at a patch's corner, a pixel more or less; there are no more
than 42 names and six colours; and the tower was told in training what each patch shows.

Vision tower on dev scenes: {tower[name]:.1%} of the patches of things tell their name, {tower[colour]:.1%} their
colour; {tower[attention_on_things]:.0%} of the CLS attention on patches at layer -2 falls on things.

## Measured on dev

{size} questions of seven kinds (`crowded_dev`), exact match, greedy, nothing tuned to fewer tokens. `random`: the mean
of three seeds.

{table}

{goals}
"""


def mean_rows(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], dict[str, float]]:
    """Accuracy, overall (`all`) and by kind, of each method and number of tokens; seeds are averaged."""
    seeds: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    for row in rows:
        seeds[row["method"], round(row["tokens"])].append({"all": row["accuracy"], **row["accuracy_by_group"]})
    return {key: {name: mean(each[name] for each in found) for name in found[0]} for key, found in seeds.items()}


def table_of(found: Mapping[tuple[str, int], Mapping[str, float]]) -> str:
    """A Markdown table of all methods by kind of question."""
    lines = [f"| visual tokens | method | all | {' | '.join(KINDS)} |", f"|{'---|' * (3 + len(KINDS))}"]
    for (method, tokens), scores in sorted(found.items(), key=lambda item: (-item[0][1], item[0][0])):
        cells = [f"{scores[name]:.1%}" for name in ("all", *KINDS)]
        lines.append(f"| {tokens} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def goals_of(found: Mapping[tuple[str, int], Mapping[str, float]]) -> list[dict[str, Any]]:
    """What the ground was to show, and what it shows."""
    vanilla = next(scores["all"] for (method, _), scores in found.items() if method == "none")
    reached = (vanilla, *(vanilla - found["visionzip", tokens]["all"] for tokens in (49, 20)))
    return [
        {"goal": goal, "at least": least, "reached": round(value, 4), "met": value >= least}
        for (goal, least), value in zip(GOALS, reached, strict=True)
    ]


def main() -> None:
    """Assembles, measures, and writes the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", choices=("first", "second"), default="first")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    config = assemble(arguments.work / "finetune", arguments.output, f"playground/crowded/{arguments.world}")
    rows = measure(arguments.output, ("crowded_dev",), BUDGETS, arguments.data, arguments.work / "eval")
    found, goals = mean_rows(rows), goals_of(mean_rows(rows))
    lines = ["| goal | at least | reached | met |", "|---|---|---|---|"]
    lines += [
        f"| {g['goal']} | {g['at least']:.1%} | {g['reached']:.1%} | {'yes' if g['met'] else 'no'} |" for g in goals
    ]
    card = CARD.format(
        world=arguments.world,
        parameters=count_parameters(arguments.output / "model.safetensors") / 1e6,
        vision=config["vision_config"],
        text=config["text_config"],
        tower=json.loads((arguments.work / "tower.json").read_text()),
        size=f"{rows[0]['n']:,}",
        table=table_of(found),
        goals="\n".join(lines),
    )
    (arguments.output / "README.md").write_text(card)


if __name__ == "__main__":
    main()
