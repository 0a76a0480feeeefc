"""Run under a launcher by the tests: trains with the given flags, and the first process writes what it ended with."""

import json
import sys

from llava.train.train import train


def main() -> None:
    report, *argv = sys.argv[1:]
    trainer = train(argv)
    if trainer.args.process_index == 0:
        rotary = trainer.model.model.language_model.rotary_emb.inv_freq
        engine = trainer.model_wrapped
        config = getattr(engine, "zero_optimization_stage", None)
        found = {
            "wrapper": type(engine).__name__,
            "zero_stage": config() if callable(config) else None,
            "world_size": trainer.args.world_size,
            "rotary_dtype": str(rotary.dtype),
            "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        }
        with open(report, "w") as file:
            json.dump(found, file)


if __name__ == "__main__":
    main()
