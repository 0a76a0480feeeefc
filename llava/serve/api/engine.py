"""The one thread that asks the model: it takes what waits, a batch at a time, and tells each row what became of it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence

from llava.inference import GenerationOptions, Inference
from llava.inference.batch_size import BatchSize
from llava.inference.first_logits import NOT_FINITE
from llava.serve.api.errors import ApiError, failed, invalid
from llava.serve.api.meter import Meter
from llava.serve.api.row import Row
from llava.serve.api.watch import RowsWatch

_GATHER_SECONDS = 0.005  # clients that ask at the same moment are answered together

logger = logging.getLogger(__name__)


class Engine:
    """Answers rows in the order in which they came, those of one budget together.

    Attributes:
        inference: The model; while the engine runs nobody else may ask it.
        batch_size: Rows of a batch, at most.
        batch_seconds: What the latest batch took.
    """

    def __init__(self, inference: Inference, meter: Meter, batch_size: int | None = None) -> None:
        """Takes the model.

        Args:
            inference: The model.
            meter: Told what happens.
            batch_size: Rows of a batch, at most; None finds what the memory takes, as evaluation does.
        """
        self.inference = inference
        self.batch_size = BatchSize(inference.model, batch_size).largest
        self.batch_seconds = 0.0
        self._fixed_size = batch_size
        self._meter = meter
        self._waiting: deque[Row] = deque()
        self._changed = threading.Condition()
        self._ends = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="engine")

    @property
    def is_alive(self) -> bool:
        """Whether rows are answered."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def submit(self, rows: Sequence[Row]) -> None:
        """Lets rows wait for their turn.

        Raises:
            ApiError: The engine has ended.
        """
        with self._changed:
            if self._ends or not self.is_alive:
                raise ApiError(503, "the server is closing", "server_error")
            self._waiting += rows
            self._meter.waiting(len(self._waiting))
            self._changed.notify()

    def close(self, seconds: float) -> None:
        """Answers what waits, then ends.

        Args:
            seconds: To wait for that.
        """
        with self._changed:
            self._ends = True
            self._changed.notify()
        if self.is_alive:
            self._thread.join(seconds)

    def on_first(self, row: Row) -> None:
        """A row has its first token."""
        self._meter.first_token(row)

    def ask(self, rows: Sequence[Row]) -> None:
        """Asks the model, in the engine's thread; what it says goes to the rows.

        Args:
            rows: Of one batch.
        """
        answers = self.inference.ask(
            [row.question for row in rows],
            batch_size=self._fixed_size,
            options=GenerationOptions(max(row.max_new_tokens for row in rows)),
            skip_errors=True,
            allow_cut=False,
            watch=RowsWatch(self.inference, rows, self.on_first),
        )
        for answer in answers:
            if answer.error is not None:
                error = failed(answer.error) if answer.error == NOT_FINITE else invalid(answer.error, "messages")
                rows[answer.index].end(error)

    # ----- The thread ----------------------------------------------------------

    def _run(self) -> None:
        try:
            while rows := self._next():
                start = time.monotonic()
                self._answer(rows)
                self.batch_seconds = time.monotonic() - start
                self._meter.batch(len(rows), self.batch_seconds, self.inference)
        finally:  # where it ends otherwise than by `close`, nobody is left waiting
            with self._changed:
                self._ends = True
                _end_all(self._waiting, failed("the engine has ended"))

    def _next(self) -> list[Row]:
        """The rows of the next batch; none at the end."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ends)
                if not self._waiting:
                    return []
                is_full = len(self._waiting) >= self.batch_size
            if not is_full:
                time.sleep(_GATHER_SECONDS)
            with self._changed:
                rows = self._take()
                self._meter.waiting(len(self._waiting))
            if rows:
                return rows

    def _take(self) -> list[Row]:
        """Rows of the budget that waits longest; those that nobody waits for are let go of."""
        waiting = [row for row in self._waiting if not row.is_cancelled]
        taken = [row for row in waiting if row.budget == waiting[0].budget][: self.batch_size]
        chosen = set(map(id, taken))
        self._waiting = deque(row for row in waiting if id(row) not in chosen)
        return taken

    def _answer(self, rows: Sequence[Row]) -> None:
        try:
            self._set_budget(rows[0])
            self.ask(rows)
        except ApiError as error:
            _end_all(rows, error)
        except BaseException as error:  # a panic in Rust is no Exception; the next batch is another
            logger.exception("a batch of %d failed", len(rows))
            again = [row for row in rows if not row.has_begun] if len(rows) > 1 else []
            _end_all([row for row in rows if row not in again], failed(f"the model failed: {type(error).__name__}"))
            for row in again:  # one of them may be to blame for all
                self._answer([row])
        else:
            _end_all([row for row in rows if not row.is_cancelled], failed("the model gave no answer"))

    def _set_budget(self, row: Row) -> None:
        model = self.inference.model
        try:
            if model.compression != row.budget:
                model.set_compression(row.budget)
            self.inference.stored_images()  # refuses a budget that no store is of
        except ValueError as error:
            raise invalid(str(error), "model", "invalid_budget") from None


def _end_all(rows: Iterable[Row], error: ApiError) -> None:
    for row in rows:
        row.end(error)
