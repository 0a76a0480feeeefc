"""How a process of a group ends."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch.distributed


@contextmanager
def leaving_group() -> Iterator[None]:
    """Around all that a training process does: one of a group ends here, with its status or with 1 after an error.

    It does not go through Python's own shutdown. A thread of gloo may still have a tensor to free then, which aborts
    the process (https://github.com/pytorch/pytorch/issues/190489), and the launcher calls a finished run failed.
    Destroying the group does not end that thread while anything refers to the group, and DeepSpeed always does.

    A process that is in no group goes on after it, or with the error.
    """
    try:
        yield
    except BaseException as error:
        if not _in_group():
            raise
        _end(_report(error))  # the group stays: the others may be at work, and must not be waited for
    if _in_group():
        torch.distributed.destroy_process_group()
        _end(0)


def _in_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _report(error: BaseException) -> int:
    """Says what Python would say of an error that nothing catches, and gives the process's status."""
    if not isinstance(error, SystemExit):
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)
    return 1


def _end(status: int) -> NoReturn:
    """Ends the process once its threads have ended and what was registered for its exit has run."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing ends its processes
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    finally:
        os._exit(status)
