"""A run that gets a signal saves what it has and ends: SIGTERM of a scheduler, SIGUSR1 of Slurm, Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

# Windows has no SIGUSR1.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name))
_ONE_PRESS_S = 1.0  # a terminal and a launcher may both hand the same Ctrl-C on
_TOLD = b"\nCtrl-C: a checkpoint is written after this step; one more, a second later, ends the run at once\n"


class OutlivesSignals:
    """A start of data-loading workers after which SIGTERM and Ctrl-C leave them alone.

    Launchers, schedulers and terminals signal whole process groups; without its workers a process could not finish its
    step. torch ends them when their process ends.
    """

    def __init__(self, start: Callable[[int], None] | None) -> None:
        """Takes the start that it adds to."""
        self._start = start

    def __call__(self, worker: int) -> None:
        """Runs in a worker, after torch has put its own handlers in place."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if self._start is not None:
            self._start(worker)


class Interrupted(Exception):
    """A run got a signal to stop, and its checkpoint is written.

    Attributes:
        exit_status: 128 and the signal's number, as a shell would say.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} after step {step}; the same command goes on from its checkpoint"
        )
        self.exit_status = 128 + number


class StopSignals:
    """Notes a stop signal while a `with` block runs, instead of dying of it.

    Further ones change nothing: a launcher and a scheduler may both send theirs, and SIGKILL is always left. A second
    Ctrl-C is an exception: whoever sits at the terminal does not want to wait. A signal that the process was started to
    ignore, as a shell's background job ignores Ctrl-C, stays ignored.

    Attributes:
        received: The signal's number, 0 for none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._pressed: float | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handler
            noted = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._note) for number in noted}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        if number != signal.SIGINT:
            return
        if self._pressed is None:
            self._pressed = time.monotonic()
            os.write(2, _TOLD)  # a print may be under way
        elif time.monotonic() - self._pressed > _ONE_PRESS_S:
            raise KeyboardInterrupt
