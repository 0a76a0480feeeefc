"""Run under a launcher by the tests: trains with the given flags, and the first process writes what it ended with."""

import json
import os
import sys
from pathlib import Path

from llava.train.train import train


def main() -> None:
    trainer = train(sys.argv[1:])
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
    main()
