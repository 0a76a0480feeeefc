"""What a row of results says of one question's latency."""

from __future__ import annotations

from llava.eval.results import Row
from llava.inference.latency import Latency

LATENCY_FIELDS = ("vision_ms", "selector_ms", "prefill_ms", "kv_bytes", "rows_read", "timing")
"""Fields of a row that latency gives; `timing` says with what budgets `llava compare` measured it in turn."""


def latency_fields(latency: Latency) -> Row:
    """What a row says of one question's latency."""
    return {
        "vision_ms": round(latency.vision_ms, 3),
        "selector_ms": None if latency.selector_ms is None else round(latency.selector_ms, 3),
        "prefill_ms": round(latency.prefill_ms, 3),
        "kv_bytes": latency.kv_bytes,
        "rows_read": round(latency.rows_read, 2),
    }
