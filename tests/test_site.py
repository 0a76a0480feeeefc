"""The documentation as a site: every page has its place, every link and anchor leads somewhere, nothing is fetched."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from llava.commands import all_commands

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *PAGES]
FENCED = re.compile(r"^ *(`{3,}).*?^ *\1$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them; the site's build makes the same."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found[name] = found.get(name, -1) + 1
        if found[name]:
            found[f"{name}-{found[name]}"] = 0
    return set(found)


def in_order(entries: list | dict | str) -> list[str]:
    """The pages of mkdocs.yml's `nav`, from its first to its last."""
    if isinstance(entries, str):
        return [entries]
    inside = entries.values() if isinstance(entries, dict) else entries
    return [page for entry in inside for page in in_order(entry)]


def broken_links(page: Path) -> list[str]:
    broken = []
    for file, anchor in LINK.findall(prose(page)):
        target = page.parent / file if file else page
        if not target.exists():
            broken.append(f"{page.name}: {file} is not there")
        elif anchor and (target.suffix != ".md" or anchor not in anchors(target)):
            broken.append(f"{page.name}: {file}#{anchor}: no such heading")
    return broken


def test_every_page_has_one_place_in_the_site() -> None:
    listed = in_order(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(listed) == [page.name for page in PAGES]


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_and_a_broken_anchor_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b`: c\n\n[x](gone.md) [y](#a-b-c) [z](page.md#gone)\n\n```\n# no heading [w](no_link)\n```\n")
    assert broken_links(page) == ["page.md: gone.md is not there", "page.md: page.md#gone: no such heading"]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("mkdocs") is None or find_spec("mkdocstrings") is None:
        pytest.skip("needs the extra docs: EXTRAS=docs bash scripts/setup.sh")
    built = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(built)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return built


@pytest.mark.slow  # half a minute
def test_the_site_is_built_without_a_warning_and_fetches_nothing(site: Path) -> None:
    html = "\n".join(page.read_text(encoding="utf-8") for page in site.rglob("*.html"))
    fetched = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^\s>\"']+", html)
    assert fetched == []
    styles = "\n".join(sheet.read_text(encoding="utf-8") for sheet in site.rglob("*.css"))
    assert re.findall(r"(?:url\([\"']?|@import [\"'])https?://[^\s)\"']+", styles) == []


@pytest.mark.slow  # the same build
def test_steps_stay_one_list_where_they_hold_blocks(site: Path) -> None:
    """Python-Markdown reads lists otherwise than GitHub, for which the pages are written."""
    steps = (site / "adaptive.html").read_text(encoding="utf-8").partition('id="steps"')[2].partition("<h2")[0]
    assert steps.count("<ol>") == 1 and steps.count("<li>") == 3 and steps.count("<pre>") == 4


@pytest.mark.slow  # the same build
def test_the_site_has_the_flags_of_every_command_and_the_docstrings(site: Path) -> None:
    flags = (site / "command_flags.html").read_text(encoding="utf-8")
    for command in all_commands():
        assert f"usage: llava {command.name} " in flags
    python = (site / "api.html").read_text(encoding="utf-8")
    for name in re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE):
        assert f'id="{name}"' in python


def test_the_python_page_has_every_public_name() -> None:
    import llava

    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    homes = {f"{home}.{name}" for name, home in llava._HOME_OF.items()}
    assert homes <= set(re.findall(r"^::: (\S+)$", page, re.MULTILINE))
    assert set(llava._HOME_OF) | {"__version__"} == set(llava.__all__)


def cells(page: str, start: str) -> list[list[str]]:
    """The rows of a page's tables whose first cell starts so."""
    lines = [line for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if row[0].startswith(start)]


def test_the_first_screens_speed_is_the_performance_pages() -> None:
    [[_, *shown]] = cells("index.md", "milliseconds")
    [[_, *tokens]] = cells("index.md", "visual tokens")
    measured = {row[1]: row[-2] for row in cells("performance.md", "LLaVA-1.5-7B, scaled down") if row[2] == "1"}
    assert [measured[number] for number in tokens] == shown
    first = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").partition("\n## ")[0]
    assert f"takes {shown[-1]} ms instead of {shown[0]}" in " ".join(first.split())
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    said = f"takes {shown[-1]} ms with {tokens[-1]} visual tokens instead of {shown[0]} ms with {tokens[0]}"
    assert said in readme


def test_the_readme_supports_what_the_first_page_supports() -> None:
    def rows(file: str) -> list[str]:
        section = (ROOT / file).read_text(encoding="utf-8").partition("## What is supported\n")[2].partition("\n## ")[0]
        return [row.replace("(docs/", "(") for row in section.splitlines() if row.startswith("|")]

    first = rows("docs/index.md")
    assert [row for row in first if row in rows("README.md")] == rows("README.md") and len(rows("README.md")) >= 8


def test_the_first_page_leads_to_every_page() -> None:
    linked = {file for file, _ in LINK.findall((ROOT / "docs" / "index.md").read_text(encoding="utf-8"))}
    assert {page.name for page in PAGES} - {"index.md"} <= linked


def test_the_tour_shows_what_the_quickstart_has_measured() -> None:
    rows = json.loads((ROOT / "docs" / "assets" / "quickstart.json").read_text(encoding="utf-8"))["rows"]
    measured = {(row["method"], row["tokens"]): row for row in rows}
    table = [row for row in cells("tour.md", "") if re.match(r"(196 \(all\)|98|49|20)$", row[0])]
    assert len(table) == 4
    for tokens, *accuracies, over_random, over_grid in table:
        number = int(tokens.split()[0])
        for method, cell in zip(("random", "uniform", "visionzip", "visionzip+tuned"), accuracies, strict=True):
            row = measured.get((method if number < 196 else "none", number), {})
            if cell:
                assert float(cell.removesuffix(" %")) == pytest.approx(100 * row["accuracy"], abs=0.051)
        for rival, cell in (("random", over_random), ("uniform", over_grid)):
            if cell:
                lead = measured["visionzip", number][f"lead_over_{rival}"]
                low, high = cell.removesuffix(" points").split(" to ")
                assert (float(low), float(high)) == pytest.approx((100 * lead["low"], 100 * lead["high"]), abs=0.051)
    [kept] = [row for row in rows if row["method"] == "visionzip+tuned"]
    lost = measured["none", 196]["accuracy"] - measured["visionzip", 20]["accuracy"]
    page = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    assert f"recovers {kept['gain_by_tuning']['difference'] / lost:.0%}".replace("%", " %") in page


def test_the_memory_of_the_install_page_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    from llava.analysis.cost.command import main

    for model in ("LLaVA-1.5-7B", "LLaVA-1.5-13B", "LLaVA-NeXT-7B"):
        [[_, *shown]] = cells("install.md", model)
        for place, bits in enumerate((16, 8, 4)):
            budgets = ["--compression", "none", "--compression", "visionzip:54+10"]
            main(["--model-path", model.lower(), "--bits", str(bits), "--json", *budgets])
            [counted_model] = json.loads(capsys.readouterr().out)["models"]
            counted = [(cost["weight_bytes"] + cost["kv_bytes"]) / 2**30 for cost in counted_model["costs"]]
            assert [float(cell.split(" / ")[place]) for cell in shown] == pytest.approx(counted, abs=0.051), (
                model,
                bits,
            )


def test_the_install_page_has_every_extra_and_the_ranges_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {row[0].strip("`") for row in cells("install.md", "`") if "=" not in row[0]}
    assert extras == set(project["optional-dependencies"])
    ranges = {wanted.name: wanted.specifier for wanted in map(Requirement, project["dependencies"])}
    for name in ("torch", "transformers", "pillow", "numpy"):
        [[_, shown, _]] = cells("install.md", name)
        lowest, _, highest = shown.partition(" to below ")
        assert {f">={lowest}", f"<{highest}"} == {re.sub(r"\.0$", "", str(part)) for part in ranges[name]}, name
