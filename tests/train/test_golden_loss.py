"""Twenty losses of the embedded model, which only a change of what is computed may move.

`python -m tests.train.test_golden_loss` writes `golden_loss.json` anew; say in the commit what changed the computation.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from llava.train.train import train
from tests.train.conftest import losses_of

GOLDEN = Path(__file__).with_name("golden_loss.json")
MODEL = Path(__file__).resolve().parents[2] / "playground" / "tiny" / "model"
STAGES = {"projector": "2e-3", "finetune": "5e-4"}  # learning rates


def make_data(folder: Path) -> Path:
    """Ten conversations: bars on a plain ground, with every third one without a picture."""
    records = []
    for number in range(10):
        answer = ["two", "nine", "yes, there is", "no"][number % 4]
        turns = [{"from": "human", "value": f"Which digit is in the {'north' * (number % 3 + 1)}?"}]
        turns += [
            {"from": "gpt", "value": answer},
            {"from": "human", "value": "Sure?"},
            {"from": "gpt", "value": "yes"},
        ]
        record = {"id": str(number), "conversations": turns[: 2 + 2 * (number % 2)]}
        if number % 3 != 2:
            image = Image.new("RGB", (60 + 10 * number, 80), (20 * number, 90, 40))
            ImageDraw.Draw(image).rectangle((10, 10 + 4 * number, 40, 70), fill=(250, 20 * number, 10))
            image.save(folder / f"{number}.png")
            record["image"] = f"{number}.png"
            turns[0]["value"] = "<image>\n" + turns[0]["value"]
        records.append(record)
    file = folder / "data.json"
    file.write_text(json.dumps(records))
    return file


def measure(stage: str, folder: Path) -> list[float]:
    """The losses of 20 steps."""
    given = {
        "model_name_or_path": MODEL,
        "version": "v1",
        "stage": stage,
        "compression": "visionzip:16+4",
        "data_path": make_data(folder),
        "image_folder": folder,
        "output_dir": folder / "out",
        "max_steps": 20,
        "per_device_train_batch_size": 2,
        "learning_rate": STAGES[stage],
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return losses_of(train([word for name, value in given.items() for word in (f"--{name}", str(value))]))


@pytest.mark.parametrize("stage", list(STAGES))
def test_losses_are_those_on_record(stage, tmp_path):
    expected = json.loads(GOLDEN.read_text())[stage]
    # One thread and two give the same bits; the tolerance is for machines whose matrix products add in another order.
    assert measure(stage, tmp_path) == pytest.approx(expected, rel=1e-4)
    assert len(expected) == 20 and expected[-1] < expected[0]


def main() -> None:
    found = {}
    for stage in STAGES:
        with tempfile.TemporaryDirectory() as folder:
            found[stage] = measure(stage, Path(folder))
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(f"{GOLDEN} written\n")


if __name__ == "__main__":
    main()
