"""The figures of a running server, in Prometheus' form."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from llava.inference import Inference
from llava.serve.api.row import Finished, Row

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """A `Meter` that keeps count."""

    def __init__(self) -> None:
        """Begins with nothing."""
        registry = self._registry = CollectorRegistry()
        self._requests = Counter("llava_requests", "Requests, by status of the reply", ["status"], registry=registry)
        self._answers = Counter("llava_answers", "Answers, by how they ended", ["reason"], registry=registry)
        self._tokens = Counter("llava_tokens", "Tokens: prompt (with visual), visual, new", ["kind"], registry=registry)
        self._computed = Counter(
            "llava_computed_tokens", "New tokens, those that nobody waited for any more too", registry=registry
        )
        self._encoded = Counter("llava_images_encoded", "Images that the vision tower saw", registry=registry)
        self._stored = Counter("llava_images_from_store", "Images read from a store", registry=registry)
        self._first = Histogram(
            "llava_first_token_seconds", "From the request to its first token", buckets=_SECONDS, registry=registry
        )
        self._whole = Histogram(
            "llava_answer_seconds", "From the request to the answer's end", buckets=_SECONDS, registry=registry
        )
        self._batch_rows = Histogram("llava_batch_rows", "Answers of a batch", buckets=_ROWS, registry=registry)
        self._batch_seconds = Histogram("llava_batch_seconds", "Of a batch", buckets=_SECONDS, registry=registry)
        self._waiting = Gauge("llava_waiting", "Answers that wait for a batch", registry=registry)
        self._open = Gauge("llava_open_requests", "Requests that are being read or answered", registry=registry)
        self._cached_bytes = Gauge("llava_feature_cache_bytes", "Of images kept in memory", registry=registry)
        self._cache_hits = Gauge("llava_feature_cache_hits", "Images found in memory so far", registry=registry)

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self._registry)

    def request(self, status: int) -> None:
        """A request was replied to."""
        self._requests.labels(str(status)).inc()

    def open_requests(self, count: int) -> None:
        """So many requests are open now."""
        self._open.set(count)

    def finished(self, row: Row, end: Finished | None) -> None:
        """An answer has ended; None: with an error, or nobody waited any more."""
        self._answers.labels("none" if end is None else end.reason).inc()
        if end is not None:
            self._whole.observe(time.monotonic() - row.since)
            for kind, tokens in (
                ("prompt", end.prompt_tokens),
                ("visual", end.visual_tokens),
                ("new", end.new_tokens),
            ):
                self._tokens.labels(kind).inc(tokens)

    def waiting(self, rows: int) -> None:
        """As `Meter` has it."""
        self._waiting.set(rows)

    def first_token(self, row: Row) -> None:
        """As `Meter` has it."""
        self._first.observe(time.monotonic() - row.since)

    def batch(self, rows: int, seconds: float, inference: Inference) -> None:
        """As `Meter` has it."""
        self._batch_rows.observe(rows)
        self._batch_seconds.observe(seconds)
        self._computed.inc(inference.usage.new_tokens)
        self._encoded.inc(inference.usage.images_encoded)
        self._stored.inc(inference.usage.images_from_store)
        if inference.feature_cache is not None:
            self._cached_bytes.set(inference.feature_cache.held_bytes)
            self._cache_hits.set(inference.feature_cache.hits)
