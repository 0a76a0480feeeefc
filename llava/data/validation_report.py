"""What validation found, collected entry by entry: a JSON report and a short table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.data.records import images_of, printable, source_of, source_table

if TYPE_CHECKING:
    from llava.data.checks import Checked

_PERCENTILES = (50, 95, 99, 100)
_WITHOUT_IMAGE = f"{DEFAULT_IMAGE_TOKEN} without an image"


class Findings:
    """The running result of a validation.

    A problem keeps an entry from being trained on. A warning does not: an id that several entries have (LLaVA's own
    mixture is full of them), an entry that is cut, one whose text says `<image>` but that has no image.
    """

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self.problems: dict[str, list[dict[str, Any]]] = {}
        self.truncated: list[dict[str, Any]] = []
        self.without_image: list[dict[str, Any]] = []
        self.ids: Counter[str] = Counter()
        self.samples: Counter[str] = Counter()
        self.bad: Counter[str] = Counter()
        self.lengths: list[int] = []
        self.targets: list[int] = []
        self.pixels: list[tuple[int, int]] = []

    def add(self, place: str, record: Any, checked: Checked) -> None:
        """Takes in the result of an entry."""
        identity = record.get("id") if isinstance(record, dict) else None
        source = source_of(record)
        self.samples[source] += 1
        if identity is not None:
            self.ids[str(identity)] += 1
        self.pixels += checked.sizes
        where = {"place": place, "id": identity}
        if checked.problem is not None:
            self.bad[source] += 1
            entry = {**where, "message": checked.problem.message}
            self.problems.setdefault(checked.problem.kind, []).append(entry)
            return
        if not images_of(record) and any(DEFAULT_IMAGE_TOKEN in turn["value"] for turn in record["conversations"]):
            self.without_image.append(where)
        if checked.num_tokens is not None:
            self.lengths.append(checked.num_tokens)
            self.targets.append(checked.num_targets)
            if checked.num_tokens > self.max_length:
                self.truncated.append({**where, "tokens": checked.num_tokens})

    def add_unreadable(self, data_path: Path, message: str) -> None:
        """Takes in that the file as a whole is not what it should be."""
        self.bad[str(data_path)] += 1
        self.problems["file"] = [{"place": str(data_path), "id": None, "message": message}]

    def report(self, data_path: Path, sha256: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Everything, ready for JSON.

        Args:
            data_path: As the command line has it.
            sha256: Of `content_hash`.
            options: The other flags.
        """
        duplicates = {identity: count for identity, count in self.ids.items() if count > 1}
        widths, heights = [width for width, _ in self.pixels], [height for _, height in self.pixels]
        return {
            "version": 1,
            "data_path": str(data_path),
            "sha256": sha256,
            "options": dict(options),
            "num_entries": sum(self.samples.values()),
            "num_bad": sum(self.bad.values()),
            "sources": {
                source: {"entries": count, "bad": self.bad[source]} for source, count in sorted(self.samples.items())
            },
            "counts": {kind: len(entries) for kind, entries in sorted(self.problems.items())},
            "problems": dict(sorted(self.problems.items())),
            "warnings": {
                "duplicate id": duplicates,
                "truncated": self.truncated,
                _WITHOUT_IMAGE: self.without_image,
            },
            "tokens": _percentiles(self.lengths),
            "tokens after the cut": _percentiles([min(length, self.max_length) for length in self.lengths]),
            "targets after the cut": _percentiles(self.targets),
            "images": {
                "count": len(self.pixels),
                "width": _percentiles(widths),
                "height": _percentiles(heights),
                "pixels": _percentiles([width * height for width, height in self.pixels]),
            },
        }


def _percentiles(values: Sequence[int]) -> dict[str, float]:
    """Mean and percentiles (the smallest value that so many in a hundred do not exceed); empty without values."""
    if not values:
        return {}
    ordered = sorted(values)
    at = {f"p{percent}": ordered[-(-percent * len(ordered) // 100) - 1] for percent in _PERCENTILES}
    return {"mean": round(sum(ordered) / len(ordered), 2), "min": ordered[0], **at}


def summary(report: Mapping[str, Any]) -> str:
    """A report as a few lines: counts by source and by problem, the first of each kind, lengths."""
    sources = report["sources"]
    columns = [(name, {source: counts[name] for source, counts in sources.items()}) for name in ("entries", "bad")]
    lines = [source_table(columns), ""]
    for kind, entries in report["problems"].items():
        first = entries[0]
        lines.append(f"{kind}: {len(entries):,}; the first: {first['place']} (id {first['id']!r}): {first['message']}")
    warnings = report["warnings"]
    lines.append(
        f"warnings: {len(warnings['duplicate id']):,} ids repeated, {len(warnings['truncated']):,} entries cut, "
        f"{len(warnings[_WITHOUT_IMAGE]):,} with {DEFAULT_IMAGE_TOKEN} and no image"
    )
    tokens = report["tokens"]
    if tokens:
        lines.append(
            f"tokens: mean {tokens['mean']}, median {tokens['p50']}, 99 % {tokens['p99']}, max {tokens['p100']}"
        )
    if "file" in report["problems"]:
        lines.append("the file cannot be trained on")
    else:
        lines.append(f"{report['num_bad']:,} of {report['num_entries']:,} entries cannot be trained on")
    return printable("\n".join(lines))
