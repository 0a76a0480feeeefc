"""The bootstrap against scipy-free closed forms, and the latency tool."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from llava import CompressionConfig
from llava.results.bootstrap import fewest_groups, paired_bootstrap


def test_interval_agrees_with_the_normal_approximation() -> None:
    generator = np.random.default_rng(3)
    a = {str(i): float(generator.random() < 0.8) for i in range(2000)}
    b = {str(i): float(generator.random() < 0.7) for i in range(2000)}
    result = paired_bootstrap(a, b)
    differences = np.array([a[key] - b[key] for key in a])
    half = 1.96 * differences.std(ddof=1) / np.sqrt(len(differences))
    assert result.difference == pytest.approx(differences.mean())
    assert result.low == pytest.approx(differences.mean() - half, abs=0.002)
    assert result.high == pytest.approx(differences.mean() + half, abs=0.002)
    assert result.excludes_zero and result.n == 2000


def test_questions_of_a_group_are_drawn_together() -> None:
    generator = np.random.default_rng(4)
    earned = {
        f"{image}/{i}": value for image in range(200) for value in [float(generator.random() < 0.6)] for i in "abcd"
    }
    nothing = dict.fromkeys(earned, 0.0)
    alone = paired_bootstrap(earned, nothing)
    grouped = paired_bootstrap(earned, nothing, groups={key: key.partition("/")[0] for key in earned})
    # Four copies of a question tell no more than one: the interval is that of 200 questions, twice as wide.
    single = {str(image): earned[f"{image}/a"] for image in range(200)}
    half = 1.96 * np.std(list(single.values())) / np.sqrt(200)
    assert grouped.difference == alone.difference and grouped.n == 800
    assert grouped.high - grouped.low == pytest.approx(2 * half, rel=0.05)
    assert alone.high - alone.low == pytest.approx(half, rel=0.05)
    with pytest.raises(ValueError, match="'0/b' has no group"):
        paired_bootstrap(earned, nothing, groups={"0/a": "0"})


def test_equal_sides_and_disjoint_sides() -> None:
    same = {str(i): float(i % 2) for i in range(50)}
    result = paired_bootstrap(same, same)
    assert (result.difference, result.low, result.high, result.excludes_zero) == (0.0, 0.0, 0.0, False)
    with pytest.raises(ValueError, match="no question in common"):
        paired_bootstrap({"a": 1.0}, {"b": 1.0})


def test_the_rule_of_three() -> None:
    assert [fewest_groups(share) for share in (0.5, 0.9, 0.97, 0.99)] == [6, 30, 100, 300]
    with pytest.raises(ValueError, match="a share of 1"):
        fewest_groups(1)


def test_only_shared_questions_count() -> None:
    result = paired_bootstrap({"a": 1.0, "b": 1.0, "c": 0.0}, {"a": 0.0, "b": 0.0, "d": 1.0})
    assert (result.difference, result.n) == (1.0, 2)


def test_efficiency_measures_what_the_checkpoint_says(
    oracle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from llava.analysis.efficiency import main

    source = oracle_dir / "tiny-llava-v1.5"
    for file in source.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((source / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"compression": CompressionConfig("visionzip", 54, 10).to_dict()})
    )
    command = ["--model-path", str(tmp_path), "--image-file", str(oracle_dir / "images" / "square.png")]
    command += ["--device", "cpu", "--warmup", "0", "--repeats", "1"]
    assert main(command) == 0
    assert re.search(r"^visionzip:54\+10 +64 ", capsys.readouterr().out, re.MULTILINE)
    for wrong in (("--repeats", "0"), ("--warmup", "-5"), ("--compression", "nonsense")):
        with pytest.raises(SystemExit, match=r"^error: "):
            main([*command, *wrong])
