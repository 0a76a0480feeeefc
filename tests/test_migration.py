"""What docs/migration.md tells programs to write instead is there."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "migration.md"


def test_names_to_write_instead_exist():
    table = PAGE.read_text().split("| not here | write instead |")[1].split("\n\n")[0]
    names = [name for row in table.splitlines()[2:] for name in re.findall(r"`(llava\.[\w.]+)", row.split("|")[2])]
    assert len(names) >= 8
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), name
