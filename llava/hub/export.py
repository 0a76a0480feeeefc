"""Writes a checkpoint for others to load: `python -m llava.hub.export SRC --to hf|llava|projector --output DIR`.

    hf          plain transformers' `llava`, `llava_next`... and its AutoProcessor, with one more entry, `compression`
    llava       what haotian-liu/LLaVA reads
    projector   the projector alone, for the model it was tuned on

Tensors are read, merged, renamed and written one at a time: no model is built, and none has to fit into memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava.command_line import CommandParser, add_shared, plain_errors
from llava.plain_files import expanded

FORMATS = ("hf", "llava", "projector")
RUN_RECORDS = ("subset.json",)  # what else a run leaves holds paths of its machine


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        folder: Where.
        format: `hf`, `llava` or `projector`.
        compression: Of the model, in its short form.
        notes: Sentences that users of the checkpoint should know; for the screen and the card.
        added_rows: First and end of the vocabulary's rows that no training has made (`hf`).
        num_bytes: Of all files.
        files: Their names.
    """

    folder: Path
    format: str
    compression: str | None
    notes: tuple[str, ...]
    added_rows: tuple[int, int] | None
    num_bytes: int
    files: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"wrote {self.folder}: {self.format}, {len(self.files)} files, {self.num_bytes / 1e9:.2f} GB"]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


def export(
    src: str | Path,
    to: str,
    output: str | Path,
    *,
    model_base: str | Path | None = None,
    legacy: bool = False,
    vision_tower: str | None = None,
    max_shard_size: str | int = "5GB",
    overwrite: bool = False,
    progress: bool = True,
) -> ExportReport:
    """Writes a checkpoint in another format; the folder appears when it is complete.

    Args:
        src: Anything that `load_pretrained_model` loads; adapters and projectors are merged into their base.
        to: `hf`, `llava` or `projector`.
        output: Folder to make.
        model_base: What a projector or adapters go on; by default what they name.
        legacy: With `projector`, LLaVA's `mm_projector.bin` and its config too.
        vision_tower: With `llava`, what `mm_vision_tower` is to say; by default what the source says.
        max_shard_size: Limit of a file of weights.
        overwrite: Replace an earlier export; its card stays, and a file that no export wrote is an error.
        progress: Show a progress bar.

    Raises:
        CheckpointError: The source cannot be loaded, or the format cannot hold it.
        ValueError: `output` holds something already, the disk is full, or an argument is wrong.
    """
    from tqdm import tqdm

    from llava.hub.formats.shards import parse_size, plan_shards, write_shards
    from llava.hub.manifest import write_manifest
    from llava.hub.staging import MANIFEST, check_space, staged
    from llava.model.checkpoints.files import folders_read, resolve_checkpoint
    from llava.model.multimodal_projector import PROJECTOR_FILE

    if to not in FORMATS:
        raise ValueError(f"--to {to!r}: choose one of {', '.join(FORMATS)}")
    max_bytes = parse_size(max_shard_size)
    folder = resolve_checkpoint(src)
    with staged(output, overwrite, folders_read(folder, model_base)) as work:
        request = _Request(src, folder, to, Path(output), model_base, legacy, vision_tower)
        layout, compression, facts = _write_small_files(request, work)
        needed = sum(tensor.num_bytes for tensor in layout.tensors.values())
        check_space(work, needed)
        shards = {PROJECTOR_FILE: layout.tensors} if to == "projector" else plan_shards(layout.tensors, max_bytes)
        with tqdm(total=needed, unit="B", unit_scale=True, desc="export", disable=not progress, leave=False) as bar:
            digests = write_shards(work, shards, bar.update)
        for name in RUN_RECORDS:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, work / name)
        write_manifest(work, facts, layout.rows, digests)
    written = sorted(file for file in expanded(output).iterdir() if file.is_file())
    return ExportReport(
        Path(output),
        to,
        None if compression is None else str(compression),
        layout.notes,
        (layout.rows.first, layout.rows.end) if layout.rows is not None and to == "hf" else None,
        sum(file.stat().st_size for file in written),
        tuple(file.name for file in written if file.name != MANIFEST),
    )


@dataclass(frozen=True)
class _Request:
    """The arguments of `export` that the formats look at; `folder` is the source on this machine."""

    src: str | Path
    folder: Path
    to: str
    output: Path
    model_base: str | Path | None
    legacy: bool
    vision_tower: str | None


def _write_small_files(request: _Request, work: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Everything but the weights: the layout, the compression, and what the manifest says."""
    from llava.hub.formats.export_source import open_source
    from llava.hub.formats.hf import write_hf
    from llava.hub.formats.llava import write_llava
    from llava.hub.formats.projector import write_projector
    from llava.hub.manifest import MADE_FROM, source_record
    from llava.model.checkpoints.files import resolve_checkpoint
    from llava.model.restore.refusals import NOT_SERVABLE

    base, source_name = request.model_base, public_name(request.src)
    facts: dict[str, Any] = {"format": request.to, "source": source_name}
    if request.to == "projector":
        layout, compression = write_projector(
            request.folder,
            work,
            public=source_name,
            model_base=None if base is None else str(base),
            legacy=request.legacy,
            vision_tower=request.vision_tower,
        )
    else:
        source = open_source(request.folder, base)
        compression = source.compression
        if request.to == "hf":
            layout = write_hf(source, work)
        else:
            layout = write_llava(
                source,
                work,
                name=request.output.name,
                vision_tower=request.vision_tower,
                model_base=None if base is None else resolve_checkpoint(base, weights=False),
            )
        if source.parts.is_llava_format:
            facts["tower_inside"] = source.parts.has_tower
    if compression is not None and compression.restores:
        layout = replace(layout, notes=(*layout.notes, NOT_SERVABLE))
    facts |= {
        MADE_FROM: source_record(request.folder),
        "model_base": None if base is None else public_name(base),
        "compression": None if compression is None else str(compression),
        "notes": list(layout.notes),
    }
    return layout, compression, facts


def public_name(path_or_repo: str | Path) -> str:
    """A repository's name as it is; of a folder its last part, which says nothing about this machine."""
    path = expanded(path_or_repo)
    return path.absolute().name if path.exists() else str(path_or_repo)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = CommandParser("llava.hub.export", "Writes a checkpoint for others to load.")
    parser.add_argument("src", metavar="SRC", help="folder or repository: a whole model, a projector, LoRA adapters")
    parser.add_argument("--to", required=True, choices=FORMATS, help="format to write")
    add_shared(parser, "--output-dir,--output", required=True, help="folder to make")
    add_shared(parser, "--model-base")
    parser.add_argument("--legacy", action="store_true", help="projector: LLaVA's mm_projector.bin and config too")
    parser.add_argument("--vision-tower", help="llava: what to write as mm_vision_tower")
    parser.add_argument("--max-shard-size", default="5GB", help="limit of a file of weights (default 5GB)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    arguments = parser.parse_args(argv)
    with plain_errors():
        report = export(
            arguments.src,
            arguments.to,
            arguments.output_dir,
            model_base=arguments.model_base,
            legacy=arguments.legacy,
            vision_tower=arguments.vision_tower,
            max_shard_size=arguments.max_shard_size,
            overwrite=arguments.overwrite,
        )
    print(report)


if __name__ == "__main__":
    main()
