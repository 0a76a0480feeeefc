"""A plug-in of several files: known by all of them, and what any of them registers is its own."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from llava.kinds import load_plugins, loaded_plugins, plugin_records
from llava.kinds.own_files import own_files
from llava.model.multimodal_compressor import COMPRESSORS

METHOD = """
from llava.model.multimodal_compressor import register_compressor

@register_compressor("{name}")
def keep(features, budget):
    raise NotImplementedError
"""


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Modules and methods of these tests are of no other test."""
    modules, names, paths = set(sys.modules), set(COMPRESSORS._entries), list(sys.path)
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    for name in set(COMPRESSORS._entries) - names:
        del COMPRESSORS._entries[name]
    sys.path[:] = paths


def package(folder: Path, name: str, **files: str) -> None:
    (folder / name).mkdir(parents=True)
    for stem, text in files.items():
        (folder / name / f"{stem}.py").write_text(text)


def sha256(name: str) -> str:
    return next(record["sha256"] for record in plugin_records() if record["name"] == name)


@pytest.mark.parametrize(
    ("first", "second"),
    [("from pack1 import impl", "impl"), ("from .deep import impl", "deep"), ("import pack1.impl", "impl")],
)
def test_a_package_is_known_by_all_its_files(first, second, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    deep = "from . import impl" if second == "deep" else ""
    package(tmp_path, "pack1", __init__=first, deep=deep, impl=METHOD.format(name="of_a_package"))
    load_plugins(["pack1"])
    assert COMPRESSORS.plugin_name("of_a_package") == "pack1"
    before = sha256("pack1")
    importlib.invalidate_caches()
    (tmp_path / "pack1" / "impl.py").write_text(METHOD.format(name="of_a_package") + "# edited\n")
    importlib.reload(sys.modules["pack1.impl"])
    assert sha256("pack1") != before
    from llava.kinds import plugins

    del plugins._LOADED["pack1"]


def test_a_file_imports_what_lies_beside_it_and_is_known_by_both(tmp_path):
    (tmp_path / "beside_it.py").write_text("import json\nimport torch\n" + METHOD.format(name="beside"))
    (tmp_path / "uses_it.py").write_text("import beside_it\n")
    [plugin] = load_plugins([str(tmp_path / "uses_it.py")])
    assert COMPRESSORS.plugin_name("beside") == "uses_it.py"
    assert plugin.modules == tuple(own_files(plugin.module)) == (plugin.module, "beside_it")


def test_a_method_that_a_reload_no_longer_registers_is_gone(tmp_path):
    file = tmp_path / "renames_it.py"
    file.write_text(METHOD.format(name="old_name"))
    [plugin] = load_plugins([str(file)])
    file.write_text(METHOD.format(name="new_name_of_it"))
    importlib.reload(sys.modules[plugin.module])
    assert COMPRESSORS.find("old_name") is None and COMPRESSORS.find("new_name_of_it") is not None
    [after] = [found for found in loaded_plugins() if found.module == plugin.module]
    assert after.sha256 != plugin.sha256
