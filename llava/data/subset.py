"""A seeded fraction of a data set, the same on every machine and Python, with a manifest to remake it from.

`python -m llava.data.subset DATA.json --fraction 0.1 --seed 42 --stratify source --output OUT.json`, and elsewhere
`python -m llava.data.subset DATA.json --from-manifest OUT.manifest.json --output OUT.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava.command_line import CommandParser, plain_errors
from llava.data.records import count_sources, read_entries, source_of, source_table, write_records
from llava.data.tables.open_table import is_table
from llava.data.tables.records import TableRecords
from llava.json_text import parse_json
from llava.plain_files import check_is_file


def subset_indices(num_samples: int, fraction: float, seed: int) -> list[int]:
    """Draws a fraction of the indices, in ascending order.

    An index is ranked by a hash of seed and index, so nothing depends on a random generator's version, and a smaller
    fraction of the same seed is a subset of a larger one.

    Args:
        num_samples: Size of the data set.
        fraction: In (0, 1]; at least one sample is drawn.
        seed: Another seed, another subset.

    Raises:
        ValueError: `fraction` is out of range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"--data_fraction must be in (0, 1], got {fraction}")
    return _draw(range(num_samples), fraction, seed)


def stratified_indices(strata: Sequence[str], fraction: float, seed: int) -> list[int]:
    """Draws the same fraction of every stratum, in ascending order.

    In each stratum the rule of `subset_indices` holds, ranks included; so here too a smaller fraction of the same seed
    is a subset of a larger one, and the size may differ from the unstratified one by the rounding of each stratum.

    Args:
        strata: The stratum of every sample.
        fraction: In (0, 1]; at least one sample of each stratum is drawn.
        seed: Another seed, another subset.

    Raises:
        ValueError: `fraction` is out of range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"--fraction must be in (0, 1], got {fraction}")
    members: dict[str, list[int]] = {}
    for index, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(index)
    return sorted(index for indices in members.values() for index in _draw(indices, fraction, seed))


def _draw(indices: Sequence[int], fraction: float, seed: int) -> list[int]:
    """The part of the indices whose hash with the seed is lowest."""
    if fraction == 1:
        return list(indices)
    size = min(len(indices), max(1, round(len(indices) * fraction)))

    def rank(index: int) -> bytes:
        return hashlib.sha256(f"{seed}:{index}".encode()).digest()

    return sorted(sorted(indices, key=rank)[:size])


def subset_manifest(
    data_path: str | Path,
    records: Sequence[dict[str, Any]],
    indices: Sequence[int],
    fraction: float,
    seed: int,
    stratify: str | None = None,
) -> dict[str, Any]:
    """What is needed to remake a subset elsewhere: the file by name and hash, the options, and what was drawn."""
    drawn = count_sources(records[index] for index in indices)
    return {
        "data_path": Path(data_path).name,
        "sha256": content_hash(data_path, records),
        "num_samples": len(records),
        "fraction": fraction,
        "seed": seed,
        "stratify": stratify,
        "num_selected": len(indices),
        "sources": drawn,
        "indices": list(indices),
        "ids": [records[index].get("id") for index in indices],
    }


def write_manifest(path: str | Path, manifest: dict[str, Any] | None) -> None:
    """Writes a manifest as JSON; the folder is made if it is not there. None removes the one of an earlier run."""
    path = Path(path)
    if manifest is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest) + "\n", encoding="utf-8")


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(data_path: str | Path, records: Sequence[Any]) -> str:
    """What a data set is known by: the SHA-256 of its JSON file, or that of a table (`TableRecords.sha256`)."""
    return records.sha256 if isinstance(records, TableRecords) else hash_file(Path(data_path))


def remake(data_path: str | Path, records: Sequence[Any], manifest: Any) -> list[Any]:
    """The entries that a manifest names.

    Args:
        data_path: The file that the subset was drawn from.
        records: Its entries.
        manifest: Of `subset_manifest`, as read from JSON; a training run's `subset.json` is one.

    Raises:
        ValueError: The file is another one, or the manifest is damaged.
    """
    if not isinstance(manifest, dict) or not {"sha256", "indices", "ids"} <= manifest.keys():
        raise ValueError("not a manifest: it must be a JSON object with sha256, indices and ids")
    found = hash_file(Path(data_path))
    if found != manifest["sha256"]:
        raise ValueError(
            f"{data_path} has SHA-256 {found}, but the subset was drawn from {manifest.get('data_path')} with "
            f"{manifest['sha256']}: take that file"
        )
    indices = manifest["indices"]
    if not isinstance(indices, list):
        raise ValueError(f"the manifest is damaged: its indices are {indices!r:.80}, not a list")
    if any(not isinstance(index, int) or not 0 <= index < len(records) for index in indices):
        raise ValueError(f"not a manifest of {data_path}: an index is outside its {len(records)} entries")
    chosen = [records[index] for index in indices]
    if [record.get("id") for record in chosen] != manifest["ids"]:
        raise ValueError("the manifest is damaged: its ids are not those of its indices")
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Draws a subset, or remakes one; prints how many entries of each source are in it.

    Returns:
        0.

    Raises:
        SystemExit: Status 1 with a line that says what is wrong; 2 for wrong flags.
    """
    parser = CommandParser("llava.data.subset", __doc__)
    parser.add_argument("data", type=Path, help="LLaVA's JSON (or JSONL)")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--fraction", type=float, help="how much of it, in (0, 1]")
    how.add_argument("--from-manifest", type=Path, help="remake the subset that this file describes")
    parser.add_argument("--seed", type=int, default=42, help="another seed, another subset (default: %(default)s)")
    parser.add_argument(
        "--stratify", choices=["source", "none"], default="none", help="draw from every source alike (default: none)"
    )
    parser.add_argument("--output", type=Path, required=True, help="the subset, JSON or JSONL")
    parser.add_argument("--manifest", type=Path, help="by default OUTPUT with the suffix .manifest.json")
    arguments = parser.parse_args(argv)
    with plain_errors():
        _write_subset(arguments)
    return 0


def _write_subset(arguments: argparse.Namespace) -> None:
    """What the command line does.

    Raises:
        ValueError: The data, the fraction or the manifest is not what it should be.
    """
    data, output = arguments.data, arguments.output
    manifest_path = arguments.manifest or output.with_suffix(".manifest.json")
    if is_table(data):
        raise ValueError(
            f"{data} is a table, and a subset is written as JSON; --data_fraction of training draws from it"
        )
    _refuse_overwriting(data, output, manifest_path, arguments.from_manifest)
    records = [record for _, record in read_entries(data)]
    if any(not isinstance(record, dict) for record in records):
        raise ValueError(f"{data}: an entry is not an object; `python -m llava.data.validate` lists such entries")
    if arguments.from_manifest is not None:
        try:
            check_is_file(arguments.from_manifest)
            manifest = parse_json(arguments.from_manifest.read_text(encoding="utf-8"))
            chosen = remake(data, records, manifest)
        except ValueError as error:
            raise ValueError(f"{arguments.from_manifest}: {error}") from error
    else:
        stratify = None if arguments.stratify == "none" else arguments.stratify
        strata = [source_of(record) for record in records] if stratify else [""] * len(records)
        indices = stratified_indices(strata, arguments.fraction, arguments.seed)
        chosen = [records[index] for index in indices]
        manifest = subset_manifest(data, records, indices, arguments.fraction, arguments.seed, stratify)
        write_manifest(manifest_path, manifest)
    write_records(output, chosen)
    print(source_table([("selected", count_sources(chosen)), ("of", count_sources(records))]))
    print(f"{output}: {len(chosen):,} of {len(records):,} entries")


def _refuse_overwriting(data: Path, output: Path, manifest: Path, from_manifest: Path | None) -> None:
    """Raises ValueError if what is written would take the place of what is read, or of the other."""
    if data.resolve() in (output.resolve(), manifest.resolve()):
        raise ValueError(f"--output {output} would overwrite the data; choose another name")
    given = manifest if from_manifest is None else from_manifest
    if output.resolve() == given.resolve():
        raise ValueError(f"--output {output} is the manifest too; choose another name")


if __name__ == "__main__":
    sys.exit(main())
