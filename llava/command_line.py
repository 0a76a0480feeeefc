"""What the command lines share: a user's mistake ends in one line and not in a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def plain_errors() -> Iterator[None]:
    """Around the reading of what the user named (checkpoint, budget, images): its errors end the program in a line.

    Raises:
        SystemExit: Status 1, with the error's message.
    """
    from llava.image_source import UnreadableImageError

    try:
        yield
    except (ValueError, OSError, ImportError, UnreadableImageError) as error:
        raise SystemExit(f"error: {error}") from error
