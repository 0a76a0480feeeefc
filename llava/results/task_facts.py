"""What a row of results.json says of its task, so that a report needs neither the task nor its plug-in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

SHARE = "share"
POINTS = "points"
FIELD = "task_facts"
SEED_RELEASES = ("the first SEED-Bench.json", "SEED-Bench.json of 2023-11-30")
POPE_RELEASES = ("POPE's commit e3e3926", "POPE's main branch")

_JSON_TYPES: dict[type, type] = {str: str, bool: bool, tuple: list}  # of a field's default -> in a file
_WORDS: dict[type, str] = {str: "a text", bool: "true or false"}
_ITEMS: dict[str, tuple[type, str]] = {
    "published_sizes": (int, "a list of whole numbers"),
    "releases": (str, "a list of texts"),
}


@dataclass(frozen=True)
class TaskFacts:
    """What a report must know of a task beside its name.

    Attributes:
        scale: `share`, a main score between 0 and 1 that is shown in percent; or `points`, shown as it is.
        paper_column: The paper's name of the benchmark, "" where it has none.
        paper_note: How the paper's figure is made otherwise, or "".
        benchmark: What the variants of one benchmark share: only one of them counts in means. "" is the task's name.
        needs_image: Whether it cannot be answered without its images; the high-image mean is over such tasks.
        judged: Whether a judge scores it.
        published_sizes: Numbers of questions that its published split may have, that of the papers' figures first.
        releases: What the files with each of these numbers are called; empty where there is one release.
        in_means: Whether it counts in means beside others that do; alone it does.
    """

    scale: str = SHARE
    paper_column: str = ""
    paper_note: str = ""
    benchmark: str = ""
    needs_image: bool = False
    judged: bool = False
    published_sizes: tuple[int, ...] = ()
    releases: tuple[str, ...] = ()
    in_means: bool = True

    def __post_init__(self) -> None:
        """Refuses a scale that nothing knows how to show, and releases without a size.

        Raises:
            ValueError: The scale is neither of the two, or there is not one release a size.
        """
        if self.scale not in (SHARE, POINTS):
            raise ValueError(f"scale {self.scale!r} is neither {SHARE!r} nor {POINTS!r}")
        if self.releases and len(self.releases) != len(self.published_sizes):
            raise ValueError(f"{len(self.releases)} releases are named, of {len(self.published_sizes)} published sizes")

    @property
    def factor(self) -> float:
        """What a main score is multiplied by where it is shown."""
        return 100.0 if self.scale == SHARE else 1.0

    def show(self, value: float) -> str:
        """A main score as text: `61.9 %` of a share, `1862.0` of points."""
        return f"{value * self.factor:.1f}" + " %" * (self.scale == SHARE)

    def check(self, name: str, value: float | None) -> None:
        """Refuses a main score that is not on the scale, before it is written as 5800 %.

        Args:
            name: Of task and score, for the message.
            value: The main score, or None.

        Raises:
            ValueError: It is said to be a share and is not between 0 and 1.
        """
        if self.scale == SHARE and value is not None and not -1e-9 <= value <= 1 + 1e-9:
            raise ValueError(f"{name} is {value:g}, which is not between 0 and 1; set the task's `scale` to POINTS")

    def release(self, n: int) -> str | None:
        """What the files with n questions are called; None if there is one release, or none of that size."""
        return dict(zip(self.published_sizes, self.releases, strict=False)).get(n)

    def release_size(self, release: str | None) -> int | None:
        """How many questions the files of a release have; None if there is no such release."""
        return dict(zip(self.releases, self.published_sizes, strict=False)).get(release or "")

    def size_note(self, task: str, n: int, release: str | None = None) -> str | None:
        """A line if papers' figures are over another number of questions than n; None if not, or if it is not known.

        Args:
            task: Its name.
            n: Number of questions.
            release: The files that they are from, where that is known: a part of one may be as large as the other.
        """
        if not self.published_sizes:
            return None
        first = self.published_sizes[0]
        size = self.release_size(release)
        if size is None:
            release, size = self.release(n), n
        if release is not None and (size != n or n != first):
            count = f"{n}" if size == n else f"{n} of {size}"
            papers = "" if size == first else f"; the papers' figures are over {first}, {self.releases[0]}"
            return f"{task}: {count} questions, {release}{papers}"
        return None if n in self.published_sizes else f"{task}: {n} questions, the published split has {first}"

    def to_json(self) -> dict[str, Any]:
        """The facts as plain JSON values."""
        return asdict(self) | {"published_sizes": list(self.published_sizes), "releases": list(self.releases)}


def facts_of(row: Mapping[str, Any]) -> TaskFacts:
    """The facts that a row holds; of a row that was written before rows held any, those of that time.

    Raises:
        ValueError: What it holds is not facts; the message names the field.
    """
    held = row.get(FIELD)
    if held is None:
        return _BEFORE.get(row["task"], TaskFacts())
    if not isinstance(held, Mapping):
        raise ValueError(f"{FIELD} is {held!r:.80}, not an object")
    before = _BEFORE.get(row["task"])
    if before is not None and before.releases and "releases" not in held:  # its sizes were not all known then
        held = {**held, "published_sizes": list(before.published_sizes), "releases": list(before.releases)}
    known: dict[str, Any] = {field.name: held[field.name] for field in fields(TaskFacts) if field.name in held}
    for name, value in known.items():
        wanted = _JSON_TYPES[type(getattr(TaskFacts, name))]
        item, words = _ITEMS.get(name, (None, _WORDS.get(wanted)))
        if not isinstance(value, wanted) or (item is not None and {type(each) for each in known[name]} - {item}):
            raise ValueError(f"{FIELD}.{name} is {value!r:.80}, not {words}")
    try:
        return TaskFacts(**known | {name: tuple(known.get(name, ())) for name in _ITEMS})
    except ValueError as error:
        raise ValueError(f"{FIELD}: {error}") from None


# Rows of version 0.1.0 hold no facts. This list is about those rows only: a new task does not come here.
_TESTDEV = "the paper's figure is test-dev, scored by the server; compare retention only"
_TEST = "the paper's figure is test, scored by the server; compare retention only"
_LEFT_OPEN = "answers that the rules leave open are wrong here; MMBench's server gives them to a GPT"
_BEFORE = {
    "gqa": TaskFacts(paper_column="GQA", needs_image=True, published_sizes=(12_578,)),
    "llava_bench": TaskFacts(POINTS, "LLaVA-B", judged=True, published_sizes=(60,)),
    "mmbench": TaskFacts(SHARE, "MMB", _LEFT_OPEN, "mmbench", published_sizes=(4_377,)),
    "mmbench_cn": TaskFacts(benchmark="mmbench", published_sizes=(4_329,)),
    "mme": TaskFacts(POINTS, "MME", needs_image=True, published_sizes=(2_374,)),
    "mmmu_val": TaskFacts(SHARE, "MMMU", benchmark="mmmu", published_sizes=(900,)),
    "mmmu_val_official": TaskFacts(benchmark="mmmu", published_sizes=(900,)),
    "mmvet": TaskFacts(POINTS, "MMVet", judged=True, published_sizes=(218,)),
    "pope": TaskFacts(SHARE, "POPE", needs_image=True, published_sizes=(8_910, 9_000), releases=POPE_RELEASES),
    "seed": TaskFacts(SHARE, "SEED", benchmark="seed", published_sizes=(19_242, 17_990), releases=SEED_RELEASES),
    "seed_image": TaskFacts(SHARE, "SEED-I", benchmark="seed", published_sizes=(14_233,)),
    "seed_video": TaskFacts(benchmark="seed", published_sizes=(5_009, 3_757), releases=SEED_RELEASES),
    "sqa_full": TaskFacts(benchmark="scienceqa", published_sizes=(4_241,)),
    "sqa_img": TaskFacts(SHARE, "SQA", benchmark="scienceqa", published_sizes=(2_017,)),
    "textvqa": TaskFacts(SHARE, "TextVQA", "", "textvqa", needs_image=True, published_sizes=(5_000,)),
    "textvqa_no_ocr": TaskFacts(benchmark="textvqa", needs_image=True, published_sizes=(5_000,)),
    "vizwiz": TaskFacts(published_sizes=(8_000,)),
    "vizwiz_val": TaskFacts(SHARE, "VizWiz", _TEST, published_sizes=(4_319,)),
    "vqav2_testdev": TaskFacts(needs_image=True, published_sizes=(107_394,)),
    "vqav2_val": TaskFacts(SHARE, "VQAv2", _TESTDEV, needs_image=True, published_sizes=(214_354,)),
}
