"""`llava store`: encode images once, and say what a store holds.

Example:
    llava store build --model-path playground/tiny/model --images playground/tiny/data/images
        --compression visionzip:41+8 --output STORE   (on one line)
    llava store show STORE

`build` goes on where it was stopped. Under torchrun, on one machine or several, each process encodes its share.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llava.command_line import (
    CommandParser,
    add_shared,
    compression_option,
    loading_options,
    plain_errors,
    whole_number,
)

if TYPE_CHECKING:
    from llava.encoded.store import EncodedStore

_TYPES = ("float32", "bfloat16", "float16", "int8")
_STAGES = ("projected", "tower")
_SHOWN = 10


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser("llava.store", "Encode images once, for evaluation, chat, training and engines.")
    parser.add_argument("action", choices=("build", "show"), help="build: encode images; show: what a store holds")
    parser.add_argument("store", nargs="?", metavar="STORE", help="of show: the folder")
    add_shared(parser, "--model-path", "--model-base", "--compression", "--device", "--dtype", "--attn-implementation")
    add_shared(parser, "--load-4bit", "--load-8bit")
    parser.add_argument("--images", metavar="WHAT", help="a folder, LIST.jsonl with `image`, or a table as of training")
    parser.add_argument("--image-folder", metavar="DIR", help="where paths of a list begin; default: the list's folder")
    parser.add_argument("--output", metavar="STORE", help="folder to build; one that is there is added to")
    parser.add_argument(
        "--stage",
        choices=_STAGES,
        default="projected",
        help="projected: ready for the language model; tower: before the projector, for projectors tuned later",
    )
    parser.add_argument("--store-dtype", choices=_TYPES, help="of the rows on disk; default: that of the weights")
    parser.add_argument("--nested", action="store_true", help="one store for this K and every smaller one")
    parser.add_argument(
        "--autocast", action="store_true", help="compute as training with --bf16 or --fp16 does; for its feature_cache"
    )
    parser.add_argument("--batch-size", type=whole_number(1), default=16, help="images a batch (default 16)")
    parser.add_argument("--image-workers", type=whole_number(0), help="processes that open images; default: as eval")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    if args.action == "show":
        if args.store is None:
            parser.error("show needs a STORE")
        from llava.encoded.store import open_store

        with plain_errors():
            print("\n".join(store_lines(open_store(args.store))))
        return 0
    missing = [flag for flag in ("model_path", "images", "output") if getattr(args, flag) is None]
    if missing or args.store is not None:
        needed = ", ".join(f"--{flag.replace('_', '-')}" for flag in missing)
        parser.error(f"build needs {needed}" if missing else f"build takes its folder as --output, not {args.store!r}")
    return _build(args)


def _build(args: argparse.Namespace) -> int:
    import torch

    from llava.encoded.writer import StoreWriter
    from llava.images.workers import number_of_workers
    from llava.model.builder import load_pretrained_model
    from llava.model.own_device import own_device
    from llava.store.build import Share, open_for
    from llava.store.fill import Opening, fill
    from llava.store.sources import named_images

    share = Share.of_launcher()
    with plain_errors():
        images = share.of(named_images(args.images, args.image_folder))
        options = loading_options(args) | compression_option(args) | {"device": own_device(args.device)}
        _, model, processor, _ = load_pretrained_model(args.model_path, args.model_base, **options)
        opening = Opening(processor, model.config)
    autocast = torch.autocast(model.device.type, model.dtype, enabled=args.autocast)
    with plain_errors(goes_on=True), torch.inference_mode(), autocast:
        store, encoder = open_for(model.model, opening, args)
        missing = [image for image in images if store.index.find(image.stamp) is None]
        if share.is_first:
            print(f"{store.folder}: {len(images) - len(missing)} of {_share(images, share)} are there already")
        try:
            with StoreWriter(store, sweeps=share.is_first) as writer:
                done = fill(
                    writer,
                    missing,
                    encoder,
                    opening,
                    known=frozenset(store.index.contents),
                    workers=number_of_workers(args.image_workers, model.device),
                    batch_size=args.batch_size,
                    quiet=not share.is_first,
                )
        except torch.OutOfMemoryError as error:
            raise SystemExit(f"error: {str(error).splitlines()[0]}: give a smaller --batch-size") from error
        store.index.refresh()
    for path, problem in list(done.problems.items())[:_SHOWN]:
        print(f"{path}: {problem}", file=sys.stderr)
    if share.is_first:
        print("\n".join(store_lines(store)))
    lost = len(done.problems)
    print(f"process {share.rank}: {done.encoded} encoded" + (f", {lost} cannot be decoded" if lost else ""))
    return 1 if lost and lost == len(images) else 0


def _share(images: Sequence[Any], share: Any) -> str:
    of_all = "" if share.processes == 1 else f" of process {share.rank} of {share.processes}"
    return f"{len(images)} images{of_all}"


def store_lines(store: EncodedStore) -> list[str]:
    """What a store holds, for people."""
    layout, made = store.layout, store.manifest.made_with
    from llava.model.configuration import CompressionConfig

    budget = "none" if made.get("compression") is None else str(CompressionConfig.from_dict(made["compression"]))
    images, problems = len(store), len(store.index.contents) - len(store)
    rows = "rows that differ in number" if layout.tokens is None else f"{layout.tokens} rows"
    per = "a tile" if layout.stage == "tower" else "an image"
    lines = [
        f"{store.folder}: {images} images, {store.num_bytes / 1e9:.3g} GB in {len(store.index.shards)} shards",
        f"  stage {layout.stage}, compression {budget}" + (", and every smaller K" if layout.nested else ""),
        f"  {rows} {per} of {layout.channels} numbers in {layout.stored}, computed in {layout.computed}",
    ]
    if layout.stored != layout.computed:
        error = store.rounding
        lines.append(
            f"  rounding: {error.rms:.2e} of the numbers (rms), at most {error.largest:.2e} of a row's largest"
        )
    if problems:
        lines.append(f"  {problems} images cannot be decoded, or are too large")
    return lines
