"""Training on tables: the losses of the same data as JSON with image files, from the cache and after a stop too."""

from __future__ import annotations

import json

import pytest

from llava.train.train import train
from tests.data import tables
from tests.train.conftest import losses_of


@pytest.fixture
def rows(oracle_dir):
    records = json.loads((oracle_dir / "train_tiny.json").read_text())
    return tables.rows_of(records, oracle_dir / "images")


@pytest.fixture
def data_flags(flags, tmp_path):
    """Flags of a run whose data hold their images."""

    def data_flags(name: str, data_path: object, **changes: object) -> list[str]:
        words = flags(stage="projector", output_dir=tmp_path / name, data_path=data_path, **changes)
        place = words.index("--image_folder")
        return words[:place] + words[place + 2 :]

    return data_flags


COMMON = {
    "compression": "visionzip:54+10",
    "num_train_epochs": 2,
    "group_by_modality_length": True,
    "data_fraction": 0.8,
    "dataloader_num_workers": 1,
}


def test_losses_are_those_of_the_json(flags, data_flags, rows, tmp_path):
    expected = losses_of(train(flags(stage="projector", output_dir=tmp_path / "json", **COMMON)))
    assert len(expected) > 3
    folder = tables.write_shards(tmp_path / "shards", rows)
    assert losses_of(train(data_flags("parquet", folder, **COMMON))) == expected
    manifests = [json.loads((tmp_path / run / "subset.json").read_text()) for run in ("json", "parquet")]
    assert manifests[0]["ids"] == manifests[1]["ids"]

    tables.dataset_of(rows).save_to_disk(str(tmp_path / "saved"))
    cached = {**COMMON, "feature_cache": tmp_path / "features"}
    assert losses_of(train(data_flags("first", tmp_path / "saved", **cached))) == pytest.approx(expected, abs=1e-6)
    before = sorted(file.name for file in (tmp_path / "features").iterdir())
    assert losses_of(train(data_flags("second", tmp_path / "saved", **cached))) == pytest.approx(expected, abs=1e-6)
    assert sorted(file.name for file in (tmp_path / "features").iterdir()) == before  # no image was opened again


def test_packing_and_held_out_tables(flags, data_flags, rows, tmp_path):
    common = {"max_steps": 2, "per_device_train_batch_size": 2, "packing": True, "eval_generate": 2}
    expected = train(
        flags(**common, stage="projector", output_dir=tmp_path / "json", eval_data_path=flags()[5])
    ).state.log_history
    file = tables.write_parquet(tmp_path / "rows.parquet", rows)
    ours = train(data_flags("table", file, **common, eval_data_path=file)).state.log_history

    def figures(history):
        names = ("loss", "eval_loss", "eval_accuracy")
        return [{name: entry[name] for name in names if name in entry} for entry in history]

    assert figures(ours) == figures(expected)
    assert any("eval_accuracy" in entry for entry in ours)


def test_a_stopped_run_goes_on_and_refuses_other_rows(data_flags, rows, tmp_path):
    file = tables.write_parquet(tmp_path / "rows.parquet", rows)
    common = {"num_train_epochs": 1, "group_by_modality_length": True, "save_strategy": "steps", "save_steps": 1}
    whole = losses_of(train(data_flags("cut", file, **common)))
    last = sorted((tmp_path / "cut").glob("checkpoint-*"))[-1]
    last.rename(tmp_path / "last")
    (tmp_path / "cut" / "mm_projector.safetensors").unlink()
    tables.write_parquet(tmp_path / "elsewhere.parquet", rows)  # the same bytes by another name
    again = data_flags("cut", tmp_path / "elsewhere.parquet", **common)
    assert losses_of(train(again)) == pytest.approx(whole, abs=1e-6)

    other = tables.write_parquet(tmp_path / "other.parquet", rows[::-1])
    with pytest.raises(ValueError, match=r"content of --data_path was") as caught:
        train(data_flags("cut", other, **common))
    assert "--output_dir" in str(caught.value)
