"""Run under a launcher by the tests: trains with the given flags, and the first process writes what it ended with.

Environment: `REPORT`, the file that is written; `TRACE`, a folder for what each process trained on; `STOP_SIGNAL` and
`STOP_AFTER`, a signal that the first process sends to itself in the step after so many.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

from transformers import TrainerCallback

from llava.train.arguments import parse_arguments
from llava.train.interruption import Interrupted
from llava.train.leaving import leaving_group
from llava.train.run import execute, prepare


class Trace(TrainerCallback):
    """Notes which texts are trained on at which step and budget, and stops the process where it is told to."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.file = None
        if "TRACE" in os.environ:
            folder = Path(os.environ["TRACE"])
            folder.mkdir(exist_ok=True)
            self.file = (folder / f"{trainer.args.process_index}.jsonl").open("a")
            trainer.model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, model, args, kwargs):
        if model.training:
            ids = [row[row >= 0].tolist() for row in kwargs["input_ids"]]
            texts = [hashlib.sha256(repr(row).encode()).hexdigest()[:12] for row in ids]
            entry = {"run": os.getpid(), "step": self.trainer.state.global_step + 1, "texts": texts}
            entry["budget"] = str(model.compression or "none")
            self.file.write(json.dumps(entry) + "\n")
            self.file.flush()

    def on_step_begin(self, args, state, control, **kwargs):
        if str(state.global_step) == os.environ.get("STOP_AFTER") and args.process_index == 0:
            os.kill(os.getpid(), getattr(signal, os.environ["STOP_SIGNAL"]))


def main() -> None:
    run = prepare(parse_arguments(sys.argv[1:]))
    run.trainer.add_callback(Trace(run.trainer))
    try:
        trainer = execute(run)
    except Interrupted as stop:
        raise SystemExit(stop.exit_status) from stop
    if trainer.args.process_index == 0:
        engine = trainer.model_wrapped
        stage = getattr(engine, "zero_optimization_stage", None)
        found = {
            "wrapper": type(engine).__name__,
            "zero_stage": stage() if callable(stage) else None,
            "world_size": trainer.args.world_size,
            "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        }
        Path(os.environ["REPORT"]).write_text(json.dumps(found))


if __name__ == "__main__":
    with leaving_group():
        main()
