"""The sections of a model card, each from what a run's files hold; a section without facts is left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from llava.hub.card.sample import CardSample
from llava.hub.card.score_table import score_sections
from llava.hub.card.scores import Scores
from llava.hub.card.usage import usage_section
from llava.hub.run_facts import RunFacts, short_json
from llava.results.paper import PaperRow, PaperTable

_STAGES = {
    "align": "a new projector, all else frozen (LLaVA's first stage)",
    "projector": "the projector of a trained LLaVA, all else frozen",
    "finetune": "projector and language model; the vision tower is frozen",
    "lora": "projector and LoRA adapters of the language model",
    "qlora": "projector and LoRA adapters of the language model, which was quantised while they were trained",
}
_KINDS = {
    "hf": "A LLaVA",
    "llava": "A LLaVA in LLaVA's own format",
    "projector": "A LLaVA's projector, to be put on its base model",
    "adapter": "LoRA adapters and the projector of a LLaVA, to be put on its base model",
}
_MADE = {None: "", "projector": ", the projector tuned", "align": ", the projector trained"}
_ADAPTERS = ("lora_r", "lora_alpha", "lora_dropout", "lora_bias", "bits")
_TRAINING = (
    *("learning_rate", "mm_projector_lr", "lr_scheduler_type", "warmup_steps", "weight_decay", "optim"),
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("global_batch_size", "model_max_length", "bf16", "fp16", "seed", "data_seed", "packing"),
)


@dataclass(frozen=True)
class CardFacts:
    """All that a card is written from.

    Attributes:
        run: What the files hold.
        repo: Where it will be published, or a placeholder.
        bases: Names on the Hub; empty if not known.
        license: Of the release; None if not known.
        base_licenses: What the cards of the bases say, by base; None where they say nothing.
        data_licenses: The same for the data sets.
        data_note: What the user says of data that are not on the Hub.
        scores: None if no results were given.
        paper: The paper's row of the same setting, if it has one.
        sample: The sample question, if one was asked.
    """

    run: RunFacts
    repo: str
    bases: Sequence[str]
    license: str | None
    base_licenses: Mapping[str, str | None]
    data_licenses: Mapping[str, str | None]
    data_note: str | None
    scores: Scores | None
    paper: tuple[PaperTable, PaperRow] | None
    sample: CardSample | None


def card_body(facts: CardFacts) -> str:
    """The card below its front matter."""
    sections = [
        f"# {facts.repo.rpartition('/')[2]}",
        _summary(facts),
        usage_section(facts.run, facts.repo),
        _sample_section(facts),
        _training_section(facts),
        _data_section(facts),
        *score_sections(facts.run, facts.scores, facts.paper),
        _limits_section(facts),
        _license_section(facts),
        "## Credit\n\nLLaVA: Liu et al., arXiv 2304.08485 and 2310.03744. VisionZip: Yang et al., arXiv 2412.04467. "
        "This card was made by `llava.hub.card` from the run's files.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def file_name(path: str) -> str:
    """The last part of a path of any system: where a file lay is nobody's business."""
    kind: type[PurePath] = PureWindowsPath if "\\" in path else PurePosixPath
    return kind(path).name


def _summary(facts: CardFacts) -> str:
    run = facts.run
    lines = [_KINDS[run.format] + _MADE.get(run.stage, ", fine-tuned")]
    if run.compression is not None:
        lines.append(f" for {_tokens(run)} (`{run.compression}`)")
    base = (
        f"\n\n- **Base model**: {', '.join(facts.bases)}"
        if facts.bases
        else "\n\n- **Base model**: not named by the run"
    )
    stage = f"\n- **Trained**: {_STAGES.get(run.stage, run.stage)}" if run.stage else ""
    license = f"\n- **Licence**: {facts.license or 'unknown'}"
    return "".join(lines) + "." + base + stage + license


def _tokens(run: RunFacts) -> str:
    assert run.compression is not None
    whole = f" instead of {run.all_tokens}" if run.all_tokens else ""
    return f"{run.compression.num_tokens} visual tokens {'a tile' if run.is_next else 'an image'}{whole}"


def _sample_section(facts: CardFacts) -> str:
    sample = facts.sample
    if sample is None:
        return ""
    rows = [
        ["all" if budget == "none" else f"`{budget}`", answer.replace("\n", " ")]
        for budget, answer in sample.answers.items()
    ]
    return (
        f"## A sample\n\n![the picture that is asked about]({sample.image})\n\n*{sample.question}*\n\n"
        f"{table(['visual tokens', 'answer'], rows)}\n\nGreedy, {sample.dtype}, template `{sample.conv_mode}`, at most "
        f"{sample.max_new_tokens} tokens. `python -m llava.hub.verify {facts.repo}` asks again and compares."
    )


def _training_section(facts: CardFacts) -> str:
    run = facts.run
    if run.arguments is None:
        return "## Training\n\nHow it was trained is not known: there is no `training_args.json`."
    rows = [*_model_rows(run.arguments), *_flag_rows(run), *_outcome_rows(run), *_code_rows(run.arguments)]
    return f"## Training\n\n{table(['setting', 'value'], [[name, value] for name, value in rows])}"


def _model_rows(arguments: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    model = arguments.get("model", {})
    yield "stage", f"`{arguments.get('stage')}`"
    if arguments.get("recipe"):
        yield "recipe", ", ".join(f"`{file_name(str(name))}`" for name in arguments["recipe"])
    for flag in ("compression", "version", "mm_projector_type"):
        if model.get(flag) is not None:
            yield f"`--{flag}`", f"`{model[flag]}`"
    if model.get("vision_tower"):
        yield "`--vision_tower`", f"`{file_name(model['vision_tower'])}`"


def _flag_rows(run: RunFacts) -> Iterable[tuple[str, str]]:
    training = (run.arguments or {}).get("training", {})
    limited = training.get("max_steps", -1) > 0
    names = (*_TRAINING, *(_ADAPTERS if run.stage in ("lora", "qlora") else ()))
    for name in names:
        value = training.get(name)
        if value is None or value is False or name == ("num_train_epochs" if limited else "max_steps"):
            continue
        yield f"`--{name}`", f"`{value if isinstance(value, str) else short_json(value)}`"


def _outcome_rows(run: RunFacts) -> Iterable[tuple[str, str]]:
    state = run.state
    if state is None:
        return
    if "global_step" in state and "max_steps" in state:
        done, asked = state["global_step"], state["max_steps"]
        yield "steps", f"{done}" if done == asked else f"{done} of {asked}: the run was stopped before its end"
    losses = [entry["loss"] for entry in state.get("log_history", []) if "loss" in entry]
    if losses:
        yield "loss, first and last logged", f"{losses[0]:.4f}, {losses[-1]:.4f}"
    held_out = [entry["eval_loss"] for entry in state.get("log_history", []) if "eval_loss" in entry]
    if held_out:
        yield "held-out loss, last", f"{held_out[-1]:.4f}"


def _code_rows(arguments: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    made = arguments.get("provenance", {})
    if made.get("version"):
        yield "llava-visionzip", f"{made['version']}"
    if made.get("commit"):
        yield "commit", f"`{made['commit']}`" + (", with changes that are not in it" if made.get("modified") else "")
    packages = {"python": made.get("python"), **made.get("packages", {})}
    known = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    if known:
        yield "packages", known


def _data_section(facts: CardFacts) -> str:
    run, lines = facts.run, []
    lines += [f"- On the Hub: {name}" for name in facts.data_licenses]
    if facts.data_note:
        lines.append(f"- {facts.data_note}")
    data = (run.arguments or {}).get("data", {})
    if data.get("data_path"):
        lines.append(f"- File: `{file_name(data['data_path'])}`")
    subset = run.subset
    if subset is not None:
        strata = f", the same share of every {subset['stratify']}" if subset.get("stratify") else ""
        lines.append(
            f"- Subset: {subset['num_selected']:,} of {subset['num_samples']:,} entries of `{subset['data_path']}` "
            f"(SHA-256 `{subset['sha256']}`), fraction {subset['fraction']:g}, seed {subset['seed']}{strata}. "
            f"`python -m llava.data.subset {subset['data_path']} --from-manifest subset.json` makes it again."
        )
        sources = subset.get("sources") or {}
        if len(sources) > 1:
            lines.append("- Of: " + ", ".join(f"{name} {count:,}" for name, count in sources.items()))
    elif data.get("data_fraction") == 1:
        lines.append("- The whole file, no subset of it.")
    if data.get("image_aspect_ratio"):
        lines.append(f"- Images: `{data['image_aspect_ratio']}`")
    return "## Data\n\n" + "\n".join(lines) if lines else ""


def _limits_section(facts: CardFacts) -> str:
    run, lines = facts.run, []
    if run.compression is not None and run.stage is not None:
        lines.append(
            f"It was trained with {_tokens(run)}. With all of them, as plain transformers and the original LLaVA run "
            "it, it is off its training condition; that it is as good there is not claimed."
        )
    elif run.compression is not None:
        lines.append("Whether it was trained for the compression in its config is not known.")
    if run.is_next and run.compression is not None:
        lines.append("The budget is one of a tile: an image of more tiles has more tokens.")
    if facts.scores is None:
        lines.append("It was not evaluated, or the results were not given to this card.")
    elif facts.scores.own and all(score.row.get("size_note") for score in facts.scores.own):
        lines.append("It was evaluated on parts of benchmarks only.")
    lines += [str(note) for note in (run.export or {}).get("notes", [])]
    lines.append("What its base model and data get wrong, and the biases they have, are to be expected here too.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in dict.fromkeys(lines))


def _license_section(facts: CardFacts) -> str:
    lines = [f"- These weights: {facts.license or 'unknown'}."]
    for name, license in facts.base_licenses.items():
        said = f"its card says {license}" if license else "its licence is not known here; see its page"
        lines.append(f"- Base model {name}: {said}. Its terms hold for what is made from it.")
    for name, license in facts.data_licenses.items():
        said = f"its card says {license}" if license else "its licence is not known here; see its page"
        lines.append(f"- Data {name}: {said}.")
    return "## Licences\n\n" + "\n".join(lines)
