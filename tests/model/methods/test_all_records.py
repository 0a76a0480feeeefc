"""No file of records is passed over in silence."""

from __future__ import annotations

from pathlib import Path

from tests.model.methods.recorded import FOLDER
from tests.parity import LAYOUTS, environment

TESTS = Path(__file__).parents[1]


def test_every_record_is_read_by_a_test():
    files = {file.stem for file in FOLDER.glob("*.npz") if not file.stem.startswith("inputs_")}
    sources = [file for room in ("methods", "language_pruning") for file in (TESTS / room).glob("test_*.py")]
    texts = "".join(file.read_text(encoding="utf-8") for file in sources)
    unread = {name for name in files if name.partition("_")[0] not in texts}
    assert not unread, f"{FOLDER}: no test reads {sorted(unread)}"


def test_a_folder_of_one_kind_is_not_taken_for_one_of_another():
    """`make parity ORACLE=FOLDER` puts its variable into the environment, where the other tests look for theirs."""
    [methods] = [layout for layout in LAYOUTS if layout.variable == "ORACLE_METHODS"]
    around = {"ORACLE": "/records", "ORACLE_METHODS": "/old", "HOME": "/home"}
    assert environment(methods, Path("/records"), around) == {"ORACLE_METHODS": "/records", "HOME": "/home"}
