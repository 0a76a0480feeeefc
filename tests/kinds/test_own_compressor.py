"""A compressor of one's own: options, a check of its own, reloading, and where it came from."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch

from llava.kinds import PluginError, load_plugins, loaded_plugins
from llava.model.builder import load_pretrained_model
from llava.model.checkpoints.files import CheckpointError
from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import COMPRESSORS, Compressor, get_compressor
from tests.model.tiny import random_pixels

PLUGIN = Path(__file__).parents[1] / "fixtures" / "plugins" / "corner_first.py"
TINY = Path(__file__).parents[2] / "playground" / "tiny" / "model"


@pytest.fixture
def plugin():
    return load_plugins([str(PLUGIN)])[0]


def tiny_model(**options):
    return load_pretrained_model(TINY, device="cpu", **options)[1]


def test_its_options_are_typed_and_checked_when_the_model_is_told(plugin):
    model = tiny_model(compression="corner_first:20,row=3,column=5")
    kept = model.compress_images(random_pixels(1, 3, *[model.config.vision_config.image_size] * 2))
    rows, columns = kept.positions[0] // 14, kept.positions[0] % 14
    assert int((rows - 3).abs().max()) <= 3 and int((columns - 5).abs().max()) <= 3
    for text, named in {
        "corner_first:20,size=3": "corner_first has no option size; it has: merge, seed, ",
        "corner_first:20,row=-1": "row must be 0 or more, got -1",
        "corner_first:20+4": "merges nothing, got contextual=4",
        "corner_first:20,row=14": "row 14 is outside 0..13",
        "corner_first:20,row=1.5": "row=1.5 must be a whole number",
        "corner_first:20,row=top": "row='top' must be a whole number",
        "corner_first:20,seed=x": "seed must be an int, got 'x'",
    }.items():
        with pytest.raises(ValueError, match=named):
            model.set_compression(text)
    with pytest.raises(ValueError, match="corner_first stands before the language model, and what follows"):
        model.set_compression("visionzip:20|corner_first:20")
    assert str(model.compression) == "corner_first:20,column=5,row=3"  # what was refused has changed nothing


def test_a_checkpoint_names_the_plugin_that_it_was_made_with(plugin, tmp_path):
    tiny_model(compression="corner_first:20,row=3").save_pretrained(tmp_path)
    entries = json.loads((tmp_path / "config.json").read_text())["compression"]
    assert entries["plugin"] == "corner_first.py" and entries["options"] == {"row": 3}
    program = f"""
from llava import LlavaForConditionalGeneration
try:
    LlavaForConditionalGeneration.from_pretrained({str(tmp_path)!r})
except ValueError as error:
    print(error)
"""
    asked = [sys.executable, "-c", program]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=PLUGIN.parents[3])
    assert "comes from the plug-in corner_first.py; give it with --plugin" in done.stdout


def test_a_module_that_is_reloaded_replaces_its_own_entry(tmp_path, monkeypatch):
    file = tmp_path / "reloaded_method.py"
    file.write_text(PLUGIN.read_text().replace('"corner_first"', '"reloaded"'))
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("reloaded_method")
    first = get_compressor("reloaded")
    file.write_text(file.read_text().replace("row: int = 0", "row: int = 1") + "\n# changed\n")
    importlib.reload(module)
    assert get_compressor("reloaded") is not first and get_compressor("reloaded").options().row == 1
    with pytest.raises(ValueError, match="named 'reloaded' is registered already, by reloaded_method"):
        module.register_compressor("reloaded")(first.function)  # this test is another module
    assert COMPRESSORS.plugin_name("reloaded") is None  # imported, and not as a plug-in


def test_its_options_are_known_in_a_compiled_graph(plugin):
    model = tiny_model(compression="corner_first:20,row=3")
    pixels = random_pixels(2, 3, *[model.config.vision_config.image_size] * 2)
    with torch.inference_mode():
        plain = model.encode_images(pixels)
        model.compile_vision("eager")  # the graph is traced as a whole, and not translated
        for ours, expected in zip(model.encode_images(pixels), plain, strict=True):
            torch.testing.assert_close(ours, expected)


def test_a_file_is_reloaded_and_known_by_its_new_content(tmp_path):
    file = tmp_path / "edited method.py"
    file.write_text(PLUGIN.read_text().replace('"corner_first"', '"edited"'))
    before = load_plugins([str(file)])[0]
    file.write_text(file.read_text() + "\n# edited\n")
    importlib.reload(sys.modules[before.module])
    after = next(found for found in loaded_plugins() if found.module == before.module)
    assert after.name == before.name == "edited method.py" and after.sha256 != before.sha256


def test_what_fails_half_way_is_forgotten(tmp_path):
    file = tmp_path / "half_way.py"
    file.write_text(PLUGIN.read_text().replace('"corner_first"', '"half_way"') + "\nraise SystemExit(3)\n")
    with pytest.raises(PluginError, match=r"half_way\.py: SystemExit: 3"):
        load_plugins([str(file)])
    assert "half_way" not in COMPRESSORS.names()


def test_a_name_of_this_package_is_taken_before_it_is_imported(tmp_path):
    file = tmp_path / "takes_a_tower.py"
    file.write_text(
        "from llava.kinds.towers import TowerKind, register_tower\n"
        "register_tower(TowerKind('clip_vision_model', has_cls=True))\n"
    )
    program = f"from llava.kinds import load_plugins; load_plugins([{str(file)!r}])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PLUGIN.parents[3])
    assert "a vision tower named 'clip_vision_model' is registered already" in done.stderr


def test_threads_wait_for_a_plugin_that_is_imported(tmp_path, monkeypatch):
    file = tmp_path / "slow_to_import.py"
    slow = "import time\ntime.sleep(0.5)\n"
    file.write_text(slow + PLUGIN.read_text().replace('"corner_first"', '"slow_to_import"'))
    monkeypatch.setenv("LLAVA_PLUGINS", str(file))
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: get_compressor("slow_to_import").name, range(3)))
    assert found == ["slow_to_import"] * 3


@pytest.mark.parametrize("named", ["docs/house.md", ".", "two words"])
def test_what_is_no_plugin_is_named(named):
    with pytest.raises(PluginError, match=r"name a (Python )?file that ends in \.py, or a module by its dotted name"):
        load_plugins([named])


@pytest.mark.parametrize(
    ("text", "named"),
    [("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"), ("1 +", "SyntaxError")],
)
def test_a_plugin_that_fails_is_named(text, named, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(PluginError, match=f"plug-in .*broken.py: {named}"):
        load_plugins([str(file)])
    with pytest.raises(PluginError, match=r"missing\.py: there is no such file"):
        load_plugins([str(tmp_path / "missing.py")])


def test_the_variable_and_a_file_named_twice(plugin, tmp_path, monkeypatch):
    assert load_plugins([str(PLUGIN), str(PLUGIN)]) == [plugin, plugin]
    assert [found.name for found in loaded_plugins()].count("corner_first.py") == 1
    file = tmp_path / "from_the_variable.py"
    file.write_text(PLUGIN.read_text().replace('"corner_first"', '"from_variable"'))
    monkeypatch.setenv("LLAVA_PLUGINS", str(file))
    assert get_compressor("from_variable").name == "from_variable"
    assert COMPRESSORS.plugin_name("from_variable") == "from_the_variable.py"


def test_a_plugin_may_look_names_up_while_it_is_imported(tmp_path, monkeypatch):
    file = tmp_path / "looks_up.py"
    look_up = "from llava.model.multimodal_compressor import available_compressors\navailable_compressors()\n"
    file.write_text(look_up + PLUGIN.read_text().replace('"corner_first"', '"looks_up"'))
    monkeypatch.setenv("LLAVA_PLUGINS", str(file))
    assert load_plugins([str(file)])[0].name == "looks_up.py"
    assert COMPRESSORS.plugin_name("looks_up") == "looks_up.py"


def test_a_plugin_of_the_variable_that_fails_fails_each_time(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAVA_PLUGINS", str(tmp_path / "not_there.py"))
    for _ in range(2):
        with pytest.raises(PluginError, match=r"not_there\.py: there is no such file"):
            get_compressor("no_such_method")


@pytest.mark.parametrize(
    ("page", "file"),
    [
        ("add_a_compressor", "corner_first"),
        ("add_a_tower", "own_tower"),
        ("add_a_family", "own_family"),
        ("add_a_language_model", "own_language"),
        ("add_a_language_model", "own_template"),
    ],
)
def test_what_is_documented_is_what_runs(page, file):
    text = PLUGIN.with_stem(file).read_text()
    assert text in (PLUGIN.parents[3] / "docs" / f"{page}.md").read_text()
    assert len(text.splitlines()) <= 60


def test_an_unknown_method_in_a_config_is_named(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    entries = json.loads(file.read_text()) | {"compression": {"method": "magic", "dominant": 5}}
    file.write_text(json.dumps(entries))
    with pytest.raises(CheckpointError, match=r"unknown compression method 'magic'; there are: .*--plugin"):
        load_pretrained_model(tmp_path, device="cpu")


@dataclass(frozen=True)
class _Options:
    layer: int | None = None
    rate: float = 0.5
    mode: Literal["sum", "mean"] = "sum"
    layers: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer=foo", "layer='foo' must be a whole number"),
        ("layer=1.5", "layer=1.5 must be a whole number"),
        ("mode=max", "mode='max' must be one of sum, mean"),
        ("layers=2", "layers=2 must be a list, such as 2/5, or 2/ of one value"),
    ],
)
def test_an_option_of_a_wrong_type_is_named_with_what_it_must_be(text, message):
    compressor = Compressor(
        "typed", lambda features, budget, options: features, frozenset(), keeps_cls=True, options=_Options
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        compressor.options_of(CompressionConfig.parse(f"typed:5,{text}"))
    options = compressor.options_of(CompressionConfig.parse("typed:5,layer=3,rate=1,layers=2/"))
    assert options == _Options(3, 1.0, "sum", (2,)) and isinstance(options.rate, float)
