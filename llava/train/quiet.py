"""Notes of other libraries at their import that concern no run: each is dropped by its first words, errors are not."""

from __future__ import annotations

import logging

_NOISE = {  # logger: how the note begins
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",  # a faster kernel that nobody asked for
    "DeepSpeed": "Setting accelerator to CPU",  # said in every run without a GPU, with DeepSpeed or not
}


class _WithoutNote(logging.Filter):
    """Lets all but one note pass."""

    def __init__(self, beginning: str) -> None:
        super().__init__()
        self._beginning = beginning

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self._beginning)


def drop_notes() -> None:
    """Called by commands before they import the libraries."""
    for name, beginning in _NOISE.items():
        logging.getLogger(name).addFilter(_WithoutNote(beginning))
