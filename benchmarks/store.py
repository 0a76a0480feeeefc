"""A store of encoded images: what it takes, how fast it is written, opened and read, and what it saves.

    python benchmarks/store.py --json store.json

Many images are synthetic rows, for nothing of a store depends on what the numbers are: as many as the tiny model's,
and as wide as LLaVA-1.5-7B's. What a model adds is measured by itself: the loop of `llava store build` on drawn
pictures, with the tiny model and with a tower and a projector of LLaVA-1.5-7B's widths and random weights.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import model_config, random_model
from PIL import Image
from report import Cell, Goal, Report
from transformers import CLIPImageProcessorPil

from llava import load_pretrained_model
from llava.encoded.index import FileStamp
from llava.encoded.layout import Layout
from llava.encoded.made_with import ModelFacts
from llava.encoded.store import EncodedStore, make_store, open_store
from llava.encoded.writer import EncodedRows, StoreWriter
from llava.store.encoder import Encoder, new_layout
from llava.store.fill import NamedFile, Opening, fill

TINY = Path(__file__).resolve().parents[1] / "playground" / "tiny" / "model"
SIDE = 336
NOTES = [
    "Reads are of single images in random order, the files in the page cache; from a cold disk the disk decides.",
    "`encode ms` is what a picture costs without a store: opening, tower, compressor, projector, in batches of 16. "
    "`read ms` is what it costs with one.",
]


@dataclass(frozen=True)
class Case:
    """Synthetic images of one form.

    Attributes:
        name: In words.
        images: How many.
        tokens: K.
        channels: D.
    """

    name: str
    images: int
    tokens: int
    channels: int


def written(case: Case, folder: Path) -> float:
    """Writes a store of drawn rows in float16; seconds."""
    layout = Layout("projected", "float16", "float16", case.channels, case.tokens, (24, 24), positions=True)
    store = make_store(folder, layout, {})
    rows = torch.randn(case.tokens, case.channels, generator=torch.Generator().manual_seed(0)).half()
    positions = torch.arange(case.tokens)
    start = time.perf_counter()
    with StoreWriter(store) as writer:
        for number in range(case.images):
            content = f"{number:064x}"
            writer.add(content, EncodedRows((640, 480), 1, rows, positions))
            writer.add_stamps([(FileStamp(f"/images/{number:09d}.jpg", 150_000, number), content)])
    return time.perf_counter() - start


def opened(folder: Path, repeats: int) -> tuple[EncodedStore, float]:
    """The store, and the median seconds of opening it."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        store = open_store(folder)
        times.append(time.perf_counter() - start)
    return store, statistics.median(times)


def read_ms(store: EncodedStore, reads: int) -> float:
    """Milliseconds of reading one image, the median over random ones; each shard was touched before."""
    names = list(store)
    chosen = random.Random(0).choices(names, k=reads)
    for name in chosen:
        store[name]
    times = []
    for name in chosen:
        start = time.perf_counter()
        store[name].tokens.sum()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def synthetic(case: Case, args: argparse.Namespace) -> dict[str, Cell]:
    """A row of the table."""
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        seconds = written(case, Path(folder))
        store, open_seconds = opened(Path(folder), args.repeats)
        read = read_ms(store, min(args.reads, case.images))
        return {
            "images": case.name,
            "number": case.images,
            "rows": case.tokens,
            "channels": case.channels,
            "MB an image": store.num_bytes / case.images / 1e6,
            "GB": store.num_bytes / 1e9,
            "images/s": case.images / seconds,
            "open s": open_seconds,
            "read ms": read,
            "reads/s": 1000 / read,
            "encode ms": None,
        }


def drawn(number: int, folder: Path) -> list[NamedFile]:
    """Pictures of noise and blocks, as JPEG."""
    draw = np.random.default_rng(0)
    files = []
    for index in range(number):
        levels = draw.integers(0, 256, (15, 20, 3)).repeat(32, 0).repeat(32, 1).astype(np.uint8)
        path = folder / f"{index:05d}.jpg"
        Image.fromarray(levels).save(path, "JPEG", quality=90)
        files.append(NamedFile(FileStamp.of(path), partial(Path, path)))
    return files


def of_a_model(name: str, model: Any, processor: Any, number: int, args: argparse.Namespace) -> dict[str, Cell]:
    """A row of the table: the loop of `llava store build`."""
    seam, opening = model.model, Opening(processor, model.config)
    with tempfile.TemporaryDirectory(dir=args.work) as folder, torch.inference_mode():
        pictures, place = Path(folder, "pictures"), Path(folder, "store")
        pictures.mkdir()
        files = drawn(number, pictures)
        layout = new_layout(seam, "projected")
        store = make_store(place, layout, ModelFacts(seam, processor, model.config).parts("projected"))
        encoder = Encoder(seam, layout)
        encoder([torch.zeros(3, *[model.config.vision_config.image_size] * 2)], [(SIDE, SIDE)])
        start = time.perf_counter()
        with StoreWriter(store) as writer:
            fill(writer, files, encoder, opening, quiet=True)
        seconds = time.perf_counter() - start
        store, open_seconds = opened(place, args.repeats)
        read = read_ms(store, min(args.reads, 4 * number))
        return {
            "images": name,
            "number": number,
            "rows": layout.tokens,
            "channels": layout.channels,
            "MB an image": store.num_bytes / number / 1e6,
            "GB": store.num_bytes / 1e9,
            "images/s": number / seconds,
            "open s": open_seconds,
            "read ms": read,
            "reads/s": 1000 / read,
            "encode ms": 1000 * seconds / number,
        }


def real_widths() -> tuple[Any, Any]:
    """A model with LLaVA-1.5-7B's tower and projector; of its language model one layer, which is not run."""
    config = model_config("1.5-7b")
    config.text_config.num_hidden_layers, config.text_config.vocab_size = 1, 32
    config.image_token_index = 31
    model = random_model(config, torch.device("cpu"), torch.float32)
    model.set_compression("visionzip:54+10")
    return model, CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Size and speed of a store of encoded images.")
    parser.add_argument("--images", type=int, default=100_000, help="synthetic ones of the tiny model's form")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of each store of LLaVA-1.5-7B's widths")
    parser.add_argument("--pictures", type=int, nargs=2, default=[256, 4], help="to encode: tiny model, real widths")
    parser.add_argument("--reads", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3, help="of opening")
    parser.add_argument("--work", type=Path, help="where stores are written; default: the temporary folder")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if min(args.images, *args.pictures, args.reads, args.repeats) < 1 or not args.gigabytes > 0:
        parser.error("all numbers must be above 0")
    if args.work is not None and not args.work.is_dir():
        parser.error(f"--work {args.work}: there is no such folder")
    wide = [(tokens, max(1, int(args.gigabytes * 1e9 / (tokens * 4096 * 2)))) for tokens in (64, 576)]
    cases = [Case("synthetic, tiny", args.images, 49, 128)]
    cases += [Case("synthetic, 7B", number, tokens, 4096) for tokens, number in wide]
    rows = [synthetic(case, args) for case in cases]
    _, tiny, processor, _ = load_pretrained_model(TINY, device="cpu", compression="visionzip:41+8")
    rows.append(of_a_model("tiny model", tiny, processor, args.pictures[0], args))
    rows.append(of_a_model("7B's tower and projector", *real_widths(), args.pictures[1], args))
    many, few, real = rows[0], rows[1], rows[-1]
    saved = float(real["encode ms"] or 0) / float(real["read ms"] or 1)
    Report(
        benchmark="store",
        title="A store of encoded images: size, writing, opening, random reads",
        device=torch.device("cpu"),
        setting={"type": "float16, with a model float32", "compression": "visionzip:41+8 tiny, visionzip:54+10 7B"},
        rows=rows,
        ratios={"open_seconds": float(many["open s"] or 0), "encode_over_read": saved},
        goals=[
            Goal("MB of an image of 64 rows at 7B's width, float16", float(few["MB an image"] or 0), at_most=0.53),
            Goal(f"seconds of opening {args.images} images", float(many["open s"] or 0), at_most=5),
            Goal("random reads a second of 64 rows at 7B's width", float(few["reads/s"] or 0), at_least=1000),
            Goal("encoding a picture / reading it, 7B's widths", saved, at_least=100),
        ],
        notes=NOTES,
    ).tell(args.json)


if __name__ == "__main__":
    main()
