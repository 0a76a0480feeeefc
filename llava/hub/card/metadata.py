"""The front matter of a model card, and what must be in it before a checkpoint is published.

The entries are those of the Hub's specification (github.com/huggingface/hub-docs, modelcard.md and
docs/hub/model-cards.md); scores are in its model-index form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.hub.card.sample import ENTRY, README, CardSample, read_front_matter
from llava.hub.card.scores import Score, Scores
from llava.hub.run_facts import RunFacts, is_repository_name

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

PIPELINE = "image-text-to-text"
PLACEHOLDER = "ORG/NAME"
"""What a card says where it does not know its repository."""

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True)
class Publication:
    """What a user says of a release; the run's files hold none of it.

    Attributes:
        repo: ORG/NAME, where it will be published.
        license: Identifier of the Hub's list.
        license_name: With `license` other: what it is called.
        license_link: With `license` other: where it is.
        base_models: Names on the Hub, in place of what the run calls its base.
        datasets: Names on the Hub.
        data_note: What the data are, if they are not on the Hub.
    """

    repo: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    base_models: Sequence[str] = ()
    datasets: Sequence[str] = ()
    data_note: str | None = None

    def __post_init__(self) -> None:
        if self.license is not None and _LICENSE.fullmatch(self.license) is None:
            raise ValueError(
                f"--license {self.license!r} is not an identifier of the Hub's, such as apache-2.0 or llama2"
            )
        if self.license == "other" and not (self.license_name and self.license_link):
            raise ValueError("--license other needs --license-name and --license-link")
        given = [("--repo", self.repo), *(("--base-model", name) for name in self.base_models)]
        for flag, name in [*given, *(("--dataset", name) for name in self.datasets)]:
            if name is not None and _HUB_NAME.fullmatch(name) is None:
                raise ValueError(f"{flag} {name!r} is not a name on the Hub (ORG/NAME)")
        if self.repo is not None and "/" not in self.repo:
            raise ValueError(f"--repo {self.repo!r} is not of the form ORG/NAME")


def base_models(facts: RunFacts, publication: Publication) -> list[str]:
    """The base by its name on the Hub; empty if neither the user nor the run says one."""
    if publication.base_models:
        return list(publication.base_models)
    return [facts.base] if facts.base is not None and is_repository_name(facts.base, facts.run) else []


def build_metadata(
    facts: RunFacts,
    publication: Publication,
    *,
    license: str | None,
    scores: Scores | None = None,
    sample: CardSample | None = None,
) -> ModelCardData:
    """The front matter.

    Args:
        facts: Of the run.
        publication: What the user said.
        license: Of the release: the user's word, or that of the base's card.
        scores: Those with the checkpoint's own compression go into the model-index.
        sample: The sample question.

    Raises:
        ValueError: huggingface_hub refuses an entry.
    """
    from huggingface_hub import ModelCardData

    compression = facts.compression
    own = [] if scores is None else scores.of(str(compression or "none"))
    tags = ["llava", *([compression.method, "token-compression"] if compression else [])]
    more: dict[str, Any] = {}
    bases = base_models(facts, publication)
    if bases:
        more["base_model_relation"] = "adapter" if facts.format in ("adapter", "projector") else "finetune"
    if publication.data_note:
        more["training_data"] = publication.data_note
    if sample is not None:
        more[ENTRY] = sample.to_dict()
    return ModelCardData(
        license=license,
        license_name=publication.license_name,
        license_link=publication.license_link,
        library_name="transformers" if facts.format == "hf" else "llava-visionzip",
        pipeline_tag=PIPELINE,
        base_model=bases or None,
        datasets=list(publication.datasets) or None,
        tags=tags,
        model_name=(publication.repo or facts.folder.resolve().name).rpartition("/")[2],
        eval_results=[_eval_result(score) for score in own] or None,
        **more,
    )


def _eval_result(score: Score) -> Any:
    from huggingface_hub import EvalResult

    dataset: Mapping[str, str] = score.datasets[0] if score.datasets else {}
    return EvalResult(
        task_type=PIPELINE,
        dataset_type=dataset.get("dataset", score.task),
        dataset_name=score.heading,
        dataset_revision=dataset.get("revision"),
        dataset_args={"task": score.task, "questions": score.n},
        metric_type=score.metric,
        metric_name=f"{score.metric}, {'%' if score.is_percent else 'points'}",
        metric_value=round(score.value, 2),
        metric_args={"compression": score.compression, "visual_tokens": score.tokens},
    )


def missing_fields(folder: Path) -> list[str]:
    """What a folder's card lacks before it may be published, each with what to do; empty if nothing.

    Raises:
        ValueError: The front matter cannot be read.
    """
    file = folder / README
    if not file.is_file():
        return [f"{README}: there is none; run python -m llava.hub.card"]
    entries = read_front_matter(file)
    needed = {
        "license": "give --license, e.g. that of the base model",
        "library_name": "make the card anew",
        "pipeline_tag": "make the card anew",
        "tags": "make the card anew",
        "base_model": "the run names no model of the Hub; give --base-model ORG/NAME",
    }
    lacking = [f"{name}: {advice}" for name, advice in needed.items() if not entries.get(name)]
    if not entries.get("datasets") and not entries.get("training_data"):
        lacking.append("datasets: give --dataset ORG/NAME, or --data-note TEXT for data that are not on the Hub")
    if entries.get("license") == "other" and not (entries.get("license_name") and entries.get("license_link")):
        lacking.append("license_name, license_link: license other needs both")
    if PLACEHOLDER in file.read_text(encoding="utf-8"):
        lacking.append(f"repository: the card says {PLACEHOLDER}; give --repo")
    return [f"{README}: {each}" for each in lacking] + _invalid(entries)


def _invalid(entries: Mapping[str, Any]) -> list[str]:
    """What huggingface_hub's own reading of the metadata finds wrong."""
    from huggingface_hub import ModelCardData

    try:
        ModelCardData(**entries)
    except (ValueError, TypeError) as error:
        return [f"{README}: the front matter is not valid: {error}"]
    return []
