"""What the engine tells of its work; `metrics` makes Prometheus' figures of it."""

from __future__ import annotations

from typing import Protocol

from llava.inference import Inference
from llava.serve.api.row import Row


class Meter(Protocol):
    """Told what happens, from the engine's thread and from those of requests."""

    def waiting(self, rows: int) -> None:
        """So many rows wait now."""

    def first_token(self, row: Row) -> None:
        """A row has its first token."""

    def batch(self, rows: int, seconds: float, inference: Inference) -> None:
        """A batch is done; `inference` knows what it has cost."""
