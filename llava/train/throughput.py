"""How fast a run is: samples, tokens, model FLOPs utilisation, memory, and the wait for data."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.device_peaks import peak_tflops
from llava.model.flops import Trained, Work, step_flops

_GIB = 2**30


def peak_of(device: torch.device) -> float | None:
    """TFLOP/s that a device does at most in half precision; None if it is not known."""
    return peak_tflops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def work_of(model: Any, batch: dict[str, Any]) -> Work:
    """What a micro-batch asks of a model.

    Args:
        model: One of this package's models, not wrapped.
        batch: Of the collator.
    """
    ids, mask = batch["input_ids"], batch["attention_mask"]
    is_image = ((ids == IMAGE_TOKEN_INDEX) & mask.bool()).sum(dim=1)
    targets = (batch["labels"][:, 1:] != IGNORE_INDEX).sum(dim=1)
    rows = torch.stack([mask.sum(dim=1) - is_image, is_image, targets]).tolist()  # one wait for the device
    sizes = iter(batch.get("image_sizes", []))
    visual = [
        sum(model.num_visual_tokens([next(sizes) for _ in range(images)], of_one_prompt=True)) for images in rows[1]
    ]
    longest = getattr(model.config, "tokenizer_model_max_length", None) or sys.maxsize
    lengths = [min(text + tokens, longest) for text, tokens in zip(rows[0], visual, strict=True)]
    seen, images = batch.get("vision_tokens"), batch.get("images", [])
    if seen is not None:
        return Work(lengths, sum(rows[2]), seen.tokens.shape[0] * seen.tokens.shape[1])
    tiles = sum(1 if image.dim() == 3 else len(image) for image in images)
    return Work(lengths, sum(rows[2]), tiles * model.model.tokens_per_tile, tiles)


class Throughput:
    """Adds up what one process does between two logs."""

    def __init__(self, model: Any, device: torch.device, peak: float | None = None) -> None:
        """Begins.

        Args:
            model: Not wrapped, its stage applied.
            device: That it trains on.
            peak: TFLOP/s of a device at most; without it there is no MFU.
        """
        self._model = model
        self._trained = Trained.of(model)
        self._device = device
        self._peak = peak
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._since: float | None = None

    def start(self) -> None:
        """The clock runs from the first call after a log."""
        if self._since is None:
            self._since = time.perf_counter()

    def waiting(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches; the time until each is there counts as waiting for data."""
        self.start()
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self._sums["data wait"] += time.perf_counter() - asked
            yield batch

    def count(self, batch: dict[str, Any]) -> None:
        """Adds a micro-batch."""
        self.start()
        work = work_of(self._model, batch)
        self._sums["samples"] += int((batch["labels"] != IGNORE_INDEX).any(dim=1).sum())
        self._sums["tokens"] += sum(work.lengths)
        self._sums["visual tokens"] += sum(self._model.num_visual_tokens(batch.get("image_sizes", [])))
        self._sums["flops"] += step_flops(self._model.config, work, self._trained).total

    def count_forward(self, batch: dict[str, Any]) -> None:
        """Adds the operations of a micro-batch that is seen once more, by a teacher, without a backward pass."""
        work = work_of(self._model, batch)
        self._sums["flops"] += step_flops(self._model.config, work, Trained(projector=False)).forward

    def figures(self, accelerator: Any) -> dict[str, float]:
        """The figures over all processes since the last call; every process must call it.

        Args:
            accelerator: accelerate's.
        """
        seconds = max(time.perf_counter() - (self._since or time.perf_counter()), 1e-9)
        names = ("samples", "tokens", "visual tokens", "flops", "data wait")
        own = [float(self._sums[name]) for name in names] + [_peak_memory(self._device)]
        gathered = accelerator.gather(torch.tensor([own], dtype=torch.float32, device=self._device))
        self._sums.clear()
        self._since = None
        samples, tokens, visual_tokens, flops, wait, _ = gathered.sum(dim=0).tolist()
        found = {
            "samples_per_second": round(samples / seconds, 3),
            "tokens_per_second": round(tokens / seconds, 1),
            "visual_tokens_per_sample": round(visual_tokens / max(samples, 1), 2),
            "data_wait_seconds": round(wait / len(gathered), 4),
            "peak_memory_gib": round(float(gathered[:, -1].max()), 3),
        }
        if self._peak is not None:
            found["mfu"] = round(flops / seconds / (self._peak * 1e12 * len(gathered)), 6)
        return found


def _peak_memory(device: torch.device) -> float:
    """GiB, so far: of the device's allocator, on CPU of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    try:
        import resource
    except ImportError:  # Windows
        import psutil  # accelerate requires it

        return float(psutil.Process().memory_info().peak_wset) / _GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB
