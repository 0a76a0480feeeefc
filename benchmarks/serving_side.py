"""One side of `serving.py`: a server in a process of its own, which prints its port and, when asked, its peak memory.

Started with its `Side` as JSON. Each line on its input is answered with MiB at the highest since the last one.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from loops import TINY, make_inference
from models import SIZES, model_config, random_model
from transformers import CLIPImageProcessorPil

from llava.inference import Inference
from llava.inference.feature_cache import FeatureCache
from llava.inference.first_logits import FirstLogits
from llava.inference.watch import BatchRow
from llava.prompts.tokenization import load_tokenizer
from llava.serve.api.engine import Engine
from llava.serve.api.limits import Limits
from llava.serve.api.metrics import Metrics
from llava.serve.api.models import ModelNames
from llava.serve.api.row import Row
from llava.serve.api.run import listen, run
from llava.serve.api.service import Service
from llava.serve.api.watch import RowsWatch

WORKER = "worker"


@dataclass(frozen=True)
class Side:
    """What is served, and how.

    Attributes:
        side: `ours`, or `worker` for the way of LLaVA's model worker.
        model: `tiny`, one of `models.MODELS`, or one of them and a size, `1.5-7b/small`.
        device: Where it runs.
        dtype: Of its weights.
        batch: Answers of a batch of ours, at most.
        cache: Whether images stay encoded in memory.
        store: Folder of a store, or empty.
        budget: That the store is of, or empty.
        cores: That the process may use; none for all.
    """

    side: str
    model: str
    device: str
    dtype: str
    batch: int
    cache: bool = True
    store: str = ""
    budget: str = ""
    cores: tuple[int, ...] = ()


class OneAtATime(Engine):
    """LLaVA's model worker: a request by itself, its image prepared and encoded anew, nothing shared with others."""

    def ask(self, rows: Sequence[Row]) -> None:
        """As `Engine` has it; there is one row."""
        [row], inference = rows, self.inference
        model = inference.model
        images = inference.open(row.question.images)
        ids = inference.tokenize(inference.prompt(row.question))
        visual = sum(model.num_visual_tokens([image.size for image in images]))
        counts = BatchRow(0, len(ids) - len(images) + visual, visual)
        with torch.inference_mode(), FirstLogits(model) as first:
            model.generate(
                torch.tensor([ids], device=model.device),
                images=inference.preprocess(images),
                image_sizes=[image.size for image in images],
                do_sample=False,
                pad_token_id=inference.pad_token_id,
                **RowsWatch(inference, rows, self.on_first).begin([counts], first),
            )


def make_model(side: Side) -> Inference:
    """The model, whose answers end at their last token only."""
    device, store = torch.device(side.device), side.store or None
    name, _, size = side.model.partition("/")
    if not size:
        return make_inference(name, side.budget or None, device, side.dtype, image_store=store)
    if size not in SIZES:
        raise SystemExit(f"--models {side.model}: the size is none of {', '.join(SIZES)}")
    config = model_config(name, size)
    config.image_token_index = config.text_config.vocab_size - 1
    torch.manual_seed(0)  # a store of this model is of the same weights
    network = random_model(config, device, getattr(torch, side.dtype))
    network.set_compression(side.budget or None)
    network.generation_config.eos_token_id = None
    processor = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    return Inference(load_tokenizer(TINY), network, processor, conv_mode="v1", image_store=store)


def make_service(side: Side) -> Service:
    """What is served."""
    inference, metrics = make_model(side), Metrics()
    if side.cache and side.side != WORKER:
        inference.feature_cache = FeatureCache(2**30)
    engine = OneAtATime(inference, metrics, 1) if side.side == WORKER else Engine(inference, metrics, side.batch)
    limits = Limits(waiting=1024, new_tokens=1024, send_seconds=600, body_seconds=600)
    names = ModelNames("m", inference.model.compression)
    prepares = side.side != WORKER and not side.store
    return Service(engine, names, limits, metrics, prepares=prepares)


def tell_peaks(device: torch.device) -> None:
    """Answers each line of the input with the peak since the last one; ends with the input."""
    for _ in sys.stdin:
        print(f"{_peak_mib(device):.0f}", flush=True)


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**20
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak


def main(words: Sequence[str]) -> None:
    """Serves until a signal ends it."""
    given: dict[str, Any] = json.loads(words[0])
    side = Side(**given | {"cores": tuple(given["cores"])})
    if side.cores:
        os.sched_setaffinity(0, side.cores)
        torch.set_num_threads(len(side.cores))
    service, listening = make_service(side), listen("127.0.0.1", 0)
    print(listening.getsockname()[1], flush=True)
    threading.Thread(target=tell_peaks, args=(torch.device(side.device),), daemon=True).start()
    run(service, listening)


if __name__ == "__main__":
    main(sys.argv[1:])
