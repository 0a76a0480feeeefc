"""The projector is tuned under `positions=restore`; ways to train that do not go with it are refused in one line."""

from __future__ import annotations

import json

import pytest
import torch

from llava.train.arguments import parse_arguments
from llava.train.run import prepare
from llava.train.train import train
from tests.train.conftest import losses_of
from tests.train.test_golden_loss import MODEL, make_data

BUDGET = "divprune:20,positions=restore"


def test_the_projector_learns(flags, tmp_path):
    """Samples with a picture and without in one batch, of different lengths; the same loss whatever the batch."""
    common = {
        "stage": "projector",
        "compression": BUDGET,
        "model_name_or_path": MODEL,
        "data_path": make_data(tmp_path),
        "image_folder": tmp_path,
        "learning_rate": "2e-3",
        "train_sampling_strategy": "sequential",
    }
    trainer = train(flags(**common, max_steps=12, per_device_train_batch_size=2, gradient_checkpointing=True))
    losses = losses_of(trainer)
    assert torch.tensor(losses).isfinite().all() and min(losses[6:]) < losses[0] / 2
    assert json.loads((tmp_path / "out" / "config.json").read_text())["compression"]["positions"] == "restore"
    steps = {"max_steps": 1, "gradient_checkpointing": False, "output_dir": tmp_path / "alone"}
    alone = train(flags(**common | steps, per_device_train_batch_size=1, gradient_accumulation_steps=2))
    assert losses_of(alone)[0] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"packing": True}, "^positions=restore adds a bias .* leave --packing out"),
        ({"compression": "visionzip:16+4,positions=restore"}, "visionzip keeps other things than patches"),
        ({"compression": f"{BUDGET}|fastv:9"}, "fastv drops rows between its layers"),
    ],
)
def test_what_is_refused(flags, change, reason):
    given = {"stage": "projector", "compression": BUDGET, "model_name_or_path": MODEL, **change}
    with pytest.raises(ValueError, match=reason) as refused:
        prepare(parse_arguments(flags(**given)))
    assert "\n" not in str(refused.value)
