"""Datasets of the Hub as training data: a name's parts, what is downloaded, and what is read offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llava.data.open_records import open_records
from llava.data.tables.open_table import HubName
from llava.data.templates import get_template
from tests.data import tables
from tests.data.hub_server import COMMIT, NAME, serving_dataset

V1 = get_template("v1")


@pytest.fixture(scope="module")
def records(oracle_dir):
    """LLaVA's JSON with and without images, twice as long as recorded."""
    return [
        {**record, "id": f"{record['id']} {turn}"}
        for turn in range(2)
        for record in json.loads((oracle_dir / "train_tiny.json").read_text())
    ]


def test_names_on_the_hub():
    def parse(text: str) -> HubName:
        return HubName.parse(text)

    assert parse("hf:lmms-lab/LLaVA-NeXT-Data") == ("lmms-lab/LLaVA-NeXT-Data", None, "train", None)
    assert parse("hf:a/b/CLEVR-Math(MathV360K):test@v1.0") == ("a/b", "CLEVR-Math(MathV360K)", "test", "v1.0")
    assert parse("hf:a/b@refs/convert/parquet").revision == "refs/convert/parquet"
    for wrong in ("hf:", "hf:name", "hf://datasets/a/b", "hf:a/b@", "hf:a/b:x:y"):
        with pytest.raises(ValueError, match=r"write hf:OWNER/NAME\[/CONFIG\]\[:SPLIT\]\[@REVISION\]"):
            open_records(wrong, V1)
    with pytest.raises(OSError, match=r"a/b is not a file; docs/data\.md"):
        open_records("a/b", V1)


OPEN = """
import json, sys
from llava.data.open_records import open_records
from llava.data.templates import get_template

for name in sys.argv[1:]:
    try:
        records = open_records(name, get_template("v1"))
        print(json.dumps([[record["id"] for record in records], records.place(0)]))
    except ValueError as error:
        print(json.dumps(str(error)))
"""


def ask_hub(folder: Path, *names: str, **changes: str) -> list:
    """What a process with its own cache opens by these names: the ids and the place of the first row, or why not."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_CACHE", "HF_TOKEN")}
    environment |= {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://0.0.0.0", **changes}
    command = [sys.executable, "-c", OPEN, *names]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_datasets_of_the_hub(records, oracle_dir, tmp_path):
    rows = tables.rows_of(records, oracle_dir / "images")
    repository = tmp_path / "repository"
    tables.write_parquet(repository / "first/part.parquet", rows[:2])
    tables.write_shards(repository / "second", rows[2:])
    tables.write_parquet(repository / "second/data/test-00000-of-00001.parquet", rows[:1])
    (repository / "README.md").write_text(
        "---\nconfigs:\n- config_name: first\n  data_files: first/*\n"
        "- config_name: second\n  data_files:\n"
        "  - split: train\n    path: second/data/train-*\n  - split: test\n    path: second/data/test-*\n---\n"
    )

    def ask(*names: str, **changes: str) -> list:
        return ask_hub(tmp_path, *names, **changes)

    with serving_dataset(repository) as hub:
        name = f"hf:{NAME}/second"
        found, pinned, no_config, no_split, gone = ask(
            name, f"{name}:train@{COMMIT}", f"hf:{NAME}", f"{name}:dev", "hf:owner/gone", HF_ENDPOINT=hub.url
        )
    assert found == pinned and found[0] == [record["id"] for record in records[2:]]
    assert f"snapshots/{COMMIT}/second/data/train-00000-of-00002.parquet, row 0" in found[1]
    assert {file for file in hub.sent if file != "README.md"} == {
        f"second/data/train-{number:05d}-of-00002.parquet" for number in range(2)
    }
    assert "Config name is missing" in no_config and "'first', 'second'" in no_config
    assert f"{NAME} has no split 'dev', but: train, test. Name one as hf:OWNER/NAME" in no_split
    assert "owner/gone" in gone and "doesn't exist on the Hub" in gone
    assert not list((tmp_path / "home").rglob("*.arrow"))

    snapshot = next((tmp_path / "home").rglob(COMMIT))
    other_config, by_path = ask(name, f"{snapshot}/second/data/*.parquet", HF_HUB_OFFLINE="1")
    assert f"offline, name the files themselves, such as {snapshot}/**/*.parquet" in other_config
    assert by_path == found


def test_a_dataset_in_the_hubs_cache_needs_no_hub(records, oracle_dir, tmp_path):
    repository = tables.write_shards(tmp_path / "repository", tables.rows_of(records, oracle_dir / "images"))
    name = f"hf:{NAME}"
    with serving_dataset(repository) as hub:
        (found,) = ask_hub(tmp_path, name, HF_ENDPOINT=hub.url)
    assert ask_hub(tmp_path, name, f"{name}@{COMMIT}", HF_HUB_OFFLINE="1") == [found, found]
    next((tmp_path / "home").rglob("train-00001-of-00002.parquet")).unlink()
    assert "train-00001-of-00002.parquet is missing" in ask_hub(tmp_path, name, HF_HUB_OFFLINE="1")[0]


@pytest.mark.slow
def test_a_hub_out_of_reach_is_told_in_a_line(tmp_path):
    (unreachable,) = ask_hub(tmp_path, f"hf:{NAME}")  # the client tries for half a minute
    assert "HF_HUB_OFFLINE=1 takes what is in the Hub's cache" in unreachable and "\n" not in unreachable
