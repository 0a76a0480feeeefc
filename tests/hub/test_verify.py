"""`verify` passes a whole release and fails a broken one, and asks the card's question of every loader."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from llava.hub.export import export
from llava.hub.verify import main, verify
from tests.hub.checkpoints import edit_json, llava_checkpoint
from tests.hub.conftest import TINY

BUDGET = {"method": "visionzip", "dominant": 41, "contextual": 8, "merge": "reference", "seed": 0}


@pytest.fixture(scope="module")
def released_once(tmp_path_factory, oracle_dir):
    """The repository's trained tiny model, exported, with a card that holds its own answers."""
    from llava.hub.card.sample import ask_sample

    folder = tmp_path_factory.mktemp("verify")
    shutil.copytree(TINY, folder / "model")
    edit_json(folder / "model" / "config.json", compression=BUDGET)
    export(folder / "model", "hf", folder / "released", progress=False)
    picture = oracle_dir / "images" / "square.png"
    sample = ask_sample(folder / "released", picture, "What is in the northwest?", max_new_tokens=8)
    card = f"---\n{yaml.safe_dump({'sample': sample.to_dict()})}---\n# A model\n"
    (folder / "released" / "README.md").write_text(card)
    return folder / "released"


@pytest.fixture
def released(released_once, tmp_path):
    return shutil.copytree(released_once, tmp_path / "released")


def states(report) -> dict[str, bool | None]:
    return {check.name: check.ok for check in report.checks}


def test_a_whole_release_passes(released, capsys):
    main([str(released)])
    said = capsys.readouterr().out
    assert "compression visionzip:41+8 switched on by itself" in said and "all checks passed" in said
    expected = ["files", "card", "llava", "llava answers, visionzip:41+8", "llava answers, all tokens"]
    expected += ["transformers", "transformers answers, all tokens"]
    rows = said.splitlines()[:-1]
    assert [row.split("  ")[0] for row in rows] == expected and all("  ok" in row for row in rows)


def test_weights_that_the_export_did_not_write_fail(released):
    from llava.hub.verify import _Subject

    subject = _Subject(released, None, "cpu", None)
    assert subject.check_files()[0]
    (released / "model.safetensors.index.json").write_text("{}")
    (released / "figure.json").write_text("{}")
    ok, detail = subject.check_files()
    assert not ok and detail == "model.safetensors.index.json is not of this export, and may be loaded"


@pytest.mark.slow
def test_tensors_that_are_not_finite_are_named(released):
    from safetensors.torch import load_file, save_file

    tensors = load_file(released / "model.safetensors")
    name = next(name for name in tensors if name.endswith("down_proj.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, released / "model.safetensors", {"format": "pt"})
    (files,) = [check for check in verify(released).checks if check.name == "files"]
    assert files.ok is False and files.detail == f"model.safetensors: {name} holds numbers that are not finite"


def test_what_is_broken_is_named(released):
    edit_json(released / "generation_config.json", eos_token_id=5)
    (released / "tokenizer_config.json").unlink()
    card = (released / "README.md").read_text()
    (released / "README.md").write_text(card.replace("northwest", "southeast"))
    report = verify(released)
    found = {check.name: check for check in report.checks}
    assert not report.ok and found["files"].ok is False
    assert "tokenizer_config.json is missing" in found["files"].detail
    assert "generation_config.json has" in found["files"].detail


def test_an_answer_that_differs_fails(released):
    card = (released / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    head["sample"]["answers"]["none"] = "something else"
    (released / "README.md").write_text(f"---\n{yaml.safe_dump(head)}---\n")
    with pytest.raises(SystemExit) as stopped:
        main([str(released)])
    assert stopped.value.code == 1
    result = states(verify(released))
    assert result["transformers answers, all tokens"] is False and result["llava answers, all tokens"] is False
    assert result["llava answers, visionzip:41+8"] is True and result["files"] is True


def test_a_llava_folder_without_card_or_manifest(oracle_dir, tmp_path):
    source = llava_checkpoint(oracle_dir, tmp_path / "source", "v1.5")
    assert states(verify(source)) == {"files": None, "card": None, "llava": True}
    (source / "model.safetensors").write_bytes(b"\0" * 100)
    assert states(verify(source))["llava"] is False


@pytest.mark.slow
def test_a_compression_that_does_not_fit_fails(released):
    edit_json(released / "config.json", compression={**BUDGET, "dominant": 5000})
    report = verify(released)
    assert states(report)["llava"] is False and "5000" in str(report)
    assert json.loads((released / "config.json").read_text())["compression"]["dominant"] == 5000
