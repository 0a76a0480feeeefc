"""Which samples, and in what order."""

import json

import pytest
import torch

from llava.data.sampler import LengthGroupedSampler, length_grouped_indices, modality_grouped_indices
from llava.data.subset import subset_indices, subset_manifest


def test_grouped_orders_equal_the_reference(oracle_dir):
    recorded = json.loads((oracle_dir / "misc.json").read_text())
    lengths = recorded["lengths"]
    by_modality = modality_grouped_indices(lengths, 4, 2, torch.Generator().manual_seed(11))
    assert by_modality == recorded["modality_grouped_bs4_ws2_seed11"]
    by_length = length_grouped_indices([abs(length) for length in lengths], 4, 2, torch.Generator().manual_seed(11))
    assert by_length == recorded["length_grouped_bs4_ws2_seed11"]


def test_every_sample_comes_once_an_epoch_and_epochs_differ(oracle_dir):
    lengths = json.loads((oracle_dir / "misc.json").read_text())["lengths"]
    sampler = LengthGroupedSampler(lengths, 4, 2, by_modality=True, seed=3)
    first = list(sampler)
    assert sorted(first) == list(range(len(lengths))) and first == list(sampler)
    sampler.set_epoch(1)
    assert sorted(sampler) == sorted(first) and list(sampler) != first


def test_one_modality_is_grouped_by_length():
    lengths = [3, 1, 2, 9, 8, 7]
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert modality_grouped_indices(lengths, 1, 2, generators[0]) == length_grouped_indices(
        lengths, 1, 2, generators[1]
    )


def test_samples_without_words_cannot_be_grouped():
    with pytest.raises(ValueError, match="without words"):
        LengthGroupedSampler([1, 0], 1, 1, by_modality=True)


def test_a_subset_depends_on_nothing_but_its_seed():
    # for i in $(seq 0 19); do echo $(printf 42:$i | sha256sum) $i; done | sort | head -5
    assert subset_indices(20, 0.25, seed=42) == [0, 1, 6, 11, 13]
    assert subset_indices(20, 0.25, seed=43) != subset_indices(20, 0.25, seed=42)
    assert set(subset_indices(1000, 0.1, 1)) < set(subset_indices(1000, 0.3, 1))
    assert len(subset_indices(665_298 // 100, 0.1, 0)) == 665
    assert subset_indices(5, 1.0, 0) == [0, 1, 2, 3, 4]
    assert len(subset_indices(3, 0.01, 0)) == 1
    for fraction in (0, -1, 1.5):
        with pytest.raises(ValueError, match="--data_fraction"):
            subset_indices(10, fraction, 0)


def test_a_manifest_says_what_was_drawn_from_what(tmp_path):
    records = [{"id": f"n{i}"} for i in range(4)]
    (tmp_path / "d.json").write_text(json.dumps(records))
    manifest = subset_manifest(tmp_path / "d.json", records, [1, 3], 0.5, 7)
    assert manifest["ids"] == ["n1", "n3"] and manifest["indices"] == [1, 3] and manifest["seed"] == 7
    assert len(manifest["sha256"]) == 64 and manifest["data_path"] == "d.json"
