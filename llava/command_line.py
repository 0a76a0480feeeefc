"""What the command lines share: a user's mistake ends in one line and not in a traceback."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def plain_errors() -> Iterator[None]:
    """Around the reading of what the user named (checkpoint, budget, images): its errors end the program in a line.

    Raises:
        SystemExit: Status 1, with the error's message.
    """
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error


def add_compression_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--compression`; where it is absent the arguments have no such field."""
    parser.add_argument(
        "--compression",
        default=argparse.SUPPRESS,
        help="'visionzip:54+10', 'none'...; default: what the model's config says",
    )


def compression_option(args: Any) -> dict[str, Any]:
    """What a loader is to be told of the compression: nothing unless the arguments say something (None is vanilla)."""
    return {"compression": args.compression} if hasattr(args, "compression") else {}
