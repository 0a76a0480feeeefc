"""Served throughput: `llava serve` and the one-at-a-time way of LLaVA's model worker, asked by 1 to 64 clients.

    python benchmarks/serving.py --json serving.json
    python benchmarks/serving.py --models 1.5-7b --device cuda --json serving.json    # on a GPU

Both sides stand behind the same web server, each in a process of its own, and are asked in turn. Clients ask over HTTP
and read streams; on a CPU they have a core of their own. Every answer has its full length.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import IO, Any

import torch
from loops import write_pictures
from models import MODELS
from report import Cell, Goal, Report
from serving_load import Load, bodies, closed_loop, open_loop
from serving_side import WORKER, Side, make_model

from llava.encoded.index import FileStamp
from llava.encoded.made_with import ModelFacts
from llava.encoded.store import make_store
from llava.encoded.writer import StoreWriter
from llava.model.configuration import CompressionConfig
from llava.store.encoder import Encoder, new_layout
from llava.store.fill import NamedFile, Opening, fill

OURS = "ours"
REPEATED = 4  # pictures that are asked about again and again
OPEN_SHARE = 0.8  # of what the closed loop gave
NOTES = [
    "`worker` is the way of LLaVA's model worker: a request by itself, its image prepared and encoded anew. Both sides "
    "have the same web server, so the difference is the model's.",
    "Images: `new` ones are asked about once, `repeated` ones again and again, `stored` ones are in a store. The open "
    "loop sends requests at random times, 0.8 times as many a second as the closed loop answered.",
    "Published elsewhere, not measured here, for LLaVA-1.5-7B on an A40 with vLLM 0.19 and 64 clients (one lab's "
    "notes): 2.2 times the requests a second at a quarter of the tokens.",
]


@dataclass(frozen=True)
class Case:
    """One row of the table, but for its sides."""

    model: str
    share: float
    new_tokens: int
    clients: int
    images: str = "new"
    is_open: bool = False


class Server:
    """A side that runs, and answers at `port`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Waits until it can be asked; it ends the benchmark where it cannot."""
        self._process = process
        self._out: IO[str] = process.stdout  # type: ignore[assignment]
        self._in: IO[str] = process.stdin  # type: ignore[assignment]
        line = self._out.readline()
        if not line.strip().isdigit():
            raise SystemExit(f"a server did not start: status {process.wait()}")
        self.port = int(line)

    def peak_mib(self) -> float:
        """Of its memory since it was last asked."""
        self._in.write("\n")
        self._in.flush()
        return float(self._out.readline())


@contextmanager
def running(side: Side) -> Iterator[Server]:
    """Starts a side, and ends it."""
    given = json.dumps(asdict(side))
    words = [sys.executable, str(Path(__file__).with_name("serving_side.py")), given]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Server(process)
    finally:
        process.terminate()
        process.wait()


def budget_of(model: str, share: float) -> str:
    """The budget that keeps this share of a model's patches; `none` for all."""
    patches = 196 if model == "tiny" else 576
    return "none" if share == 1 else str(CompressionConfig.from_total(round(share * patches)))


def build_store(side: Side, budget: str, pictures: Sequence[Path], folder: Path) -> Side:
    """The side, with a store of the pictures under a budget."""
    inference = make_model(Side(**asdict(side) | {"budget": budget}))
    seam, opening = inference.model.model, Opening(inference.image_processor, inference.model.config)
    layout = new_layout(seam, "projected")
    facts = ModelFacts(seam, inference.image_processor, inference.model.config)
    store = make_store(folder, layout, facts.parts("projected"))
    files = [NamedFile(FileStamp.of(file), partial(Path, file)) for file in pictures]
    with StoreWriter(store) as writer, torch.inference_mode():
        fill(writer, files, Encoder(seam, layout), opening, quiet=True)
    return Side(**asdict(side) | {"budget": budget, "store": str(folder)})


class Measured:
    """What was measured so far: the table, and what its goals are made from."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Begins empty."""
        self.rows: list[dict[str, Cell]] = []
        self._args = args
        self._rates: dict[tuple[Case, str], float] = {}

    def run(self, case: Case, name: str, server: Server, pictures: Sequence[Path]) -> Load:
        """Asks one side, and adds a row."""
        budget = budget_of(case.model, case.share)
        chosen = pictures[:REPEATED] if case.images == "repeated" else pictures
        requests = bodies(chosen, f"m@{budget}", case.new_tokens)
        asyncio.run(closed_loop(server.port, requests, 1, 1))  # what the first request of a kind costs is not counted
        server.peak_mib()
        count = self._args.requests or max(8, 2 * case.clients)
        if case.is_open:
            rate = OPEN_SHARE * self._rates[Case(*_closed(case)), name]
            load = asyncio.run(open_loop(server.port, requests, rate, count))
        else:
            load = asyncio.run(closed_loop(server.port, requests, case.clients, count))
        self._rates[case, name] = load.rate
        self.rows.append(
            {
                "model": case.model,
                "tokens": budget,
                "new": case.new_tokens,
                "loop": "open" if case.is_open else "closed",
                "clients": case.clients,
                "images": case.images,
                "side": name,
                "requests/s": load.rate,
                "first ms p50": load.first_ms(0.5),
                "first ms p99": load.first_ms(0.99),
                "ms/token": load.token_ms,
                "first share": load.share_of_first,
                "MiB": server.peak_mib(),
            }
        )
        print(json.dumps(self.rows[-1]), file=sys.stderr, flush=True)
        return load

    def over_worker(self, model: str, new_tokens: int, images: str = "new") -> float | None:
        """Requests a second over the worker's, with the most clients and the fewest visual tokens."""
        args = self._args
        case = Case(model, min(args.shares), new_tokens, max(args.clients), images)
        ours, worker = self._rates.get((case, OURS)), self._rates.get((case, WORKER))
        return ours / worker if ours and worker else None

    def fewer_over_all(self, model: str, clients: Sequence[int]) -> float | None:
        """Requests a second at the fewest tokens over those at all, where that is least."""
        args = self._args
        found = []
        for number in clients:
            few, whole = (Case(model, share, min(args.new_tokens), number) for share in (min(args.shares), 1.0))
            if (few, OURS) in self._rates and (whole, OURS) in self._rates:
                found.append(self._rates[few, OURS] / self._rates[whole, OURS])
        return min(found, default=None)


def _closed(case: Case) -> tuple[Any, ...]:
    return (case.model, case.share, case.new_tokens, case.clients, case.images)


def measure(model: str, args: argparse.Namespace, pictures: Sequence[Path], found: Measured) -> None:
    """All cases of a model."""
    plain = Side(OURS, model, args.device, args.dtype, args.batch, cache=False, cores=args.cores)
    worker = Side(**asdict(plain) | {"side": WORKER})
    most = max(args.clients)
    with running(plain) as ours, running(worker) as theirs:
        for share, new, clients in product(args.shares, args.new_tokens, args.clients):
            for name, server in ((OURS, ours), (WORKER, theirs)):
                found.run(Case(model, share, new, clients), name, server, pictures)
        for share, (name, server) in product(args.shares, ((OURS, ours), (WORKER, theirs))):
            found.run(Case(model, share, min(args.new_tokens), most, is_open=True), name, server, pictures)
    with running(Side(**asdict(plain) | {"cache": True})) as ours, running(worker) as theirs:
        for share, (name, server) in product(args.shares, ((OURS, ours), (WORKER, theirs))):
            found.run(Case(model, share, min(args.new_tokens), most, "repeated"), name, server, pictures)
    for share in args.shares:
        with tempfile.TemporaryDirectory() as folder:
            budget = budget_of(model, share)
            stored = build_store(plain, "" if budget == "none" else budget, pictures, Path(folder, "store"))
            with running(stored) as ours:
                found.run(Case(model, share, min(args.new_tokens), most, "stored"), OURS, ours, pictures)


def read_flags() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Served throughput, beside the one-at-a-time way.")
    names = f"tiny, {', '.join(MODELS)}, or one of these and a size, as 1.5-7b/small"
    parser.add_argument("--models", nargs="+", default=["tiny", "1.5-7b/small"], help=names)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8, 16, 64])
    parser.add_argument("--new-tokens", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.25, 0.1], help="of the visual tokens")
    parser.add_argument("--requests", type=int, help="of each row; default: two a client, at least 8")
    parser.add_argument("--batch", type=int, default=64, help="answers of a batch of ours")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if min(*args.clients, *args.new_tokens, args.batch, args.requests or 1) < 1:
        parser.error("--clients, --new-tokens, --requests and --batch at least 1")
    if not all(0 < share <= 1 for share in args.shares):
        parser.error("--shares above 0 and at most 1")
    args.dtype = args.dtype or ("float32" if args.device == "cpu" else "float16")
    cores = sorted(os.sched_getaffinity(0))
    args.cores = ()
    if args.device == "cpu" and len(cores) > 1:  # the clients' work is not to take the model's time
        args.cores = tuple(cores[1:])
        os.sched_setaffinity(0, cores[:1])
    return args


def goals_of(found: Measured, args: argparse.Namespace) -> list[Goal]:
    """What was to be reached; for the tiny model against the worker, for a wide one at the fewest tokens."""
    goals = []
    for model in args.models:
        if model == "tiny":
            name = f"tiny, {max(args.clients)} clients: requests/s, ours / worker"
            short, long = min(args.new_tokens), max(args.new_tokens)
            again, new = found.over_worker(model, short, "repeated"), found.over_worker(model, long)
            goals.append(Goal(f"{name}, repeated images, {short} tokens", again, at_least=6))
            goals.append(Goal(f"{name}, new images, {long} tokens", new, at_least=6))
            continue
        many, few = ([each for each in args.clients if (each >= 8) is is_many] for is_many in (True, False))
        name = f"{model}: requests/s at {min(args.shares):.0%} of the tokens / at all"
        goals.append(Goal(f"{name}, 8 clients and more", found.fewer_over_all(model, many), at_least=1))
        goals.append(Goal(f"{name}, fewer clients", found.fewer_over_all(model, few), at_least=0.95))
    return goals


def main() -> None:
    """Runs the command line."""
    args = read_flags()
    found = Measured(args)
    with tempfile.TemporaryDirectory() as folder:
        pictures = write_pictures(Path(folder), max(args.requests or 0, 2 * max(args.clients), 8) + 1)
        for model in args.models:
            measure(model, args, pictures, found)
    Report(
        benchmark="serving",
        title="Serving: requests a second and waiting times, beside one request at a time",
        device=torch.device(args.device),
        setting={
            "dtype": args.dtype,
            "batch": args.batch,
            "server cores": len(args.cores) or "all",
            "client cores": 1 if args.cores else "all",
        },
        rows=found.rows,
        ratios={f"over_worker_{model}": found.over_worker(model, max(args.new_tokens)) for model in args.models},
        goals=goals_of(found, args),
        notes=NOTES,
    ).tell(args.json)


if __name__ == "__main__":
    main()
