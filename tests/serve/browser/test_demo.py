"""The demo as a visitor meets it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from PIL import Image

from llava.inference import GenerationOptions, Inference
from tests.model.folders import copy_recorded_onevision
from tests.serve.browser.conftest import SCENE, Visit

Begin = Callable[..., Visit]
pytestmark = pytest.mark.browser
WHERE, DIGIT = "Where is the digit?", "Which digit is it?"


def expected(tiny: Inference, budget: str, question: str, picture: Any = SCENE) -> str:
    """What the model itself answers under a budget."""
    try:
        tiny.model.set_compression(budget)
        return tiny.ask_one(question, picture, options=GenerationOptions(16)).text
    finally:
        tiny.model.set_compression(None)


@pytest.fixture
def tower_runs(tiny: Inference) -> Iterator[list[int]]:
    runs: list[int] = []
    handle = tiny.model.model.vision_tower.embeddings.register_forward_hook(lambda *_: runs.append(1))
    yield runs
    handle.remove()


def test_upload_ask_in_turns_and_change_the_budget(
    visit: Begin, demo: tuple[Any, str], tiny: Inference, tower_runs: list[int]
) -> None:
    """The tower runs once; no request leaves this machine, for a font or a script either."""
    visitor = visit(demo[1])
    visitor.show()
    visitor.wait_for_count("#stage-A rect.dominant", 18)  # of 22 tokens 3 are merged, and one is CLS
    assert visitor.count("#stage-A rect.target") == 3 and visitor.count("#stage-A rect.patch") == 196
    assert "CLS token: kept" in visitor.page.inner_text("#stage-A")
    visitor.ask(DIGIT)
    assert re.match(r"visual tokens 22 \(11% of 196\)\s+first token \d.*\s+total \d", visitor.costs("A")[0])

    visitor.page.hover("#stage-A rect.merged >> nth=0")
    told = visitor.page.inner_text("#stage-A .told")
    assert re.fullmatch(
        r"row \d+, column \d+: merged with \d+ others into token \d+ of 22(, which stands here)?", told, re.I
    )
    lit = visitor.count("#stage-A rect.lit")
    assert lit == int(re.search(r"with (\d+) others", told)[1]) + 1

    visitor.tokens("A", 49)
    visitor.wait_for_count("#stage-A rect.dominant", 45)
    visitor.tokens("A", 8, "merged")
    visitor.wait_for_count("#stage-A rect.target", 8)
    visitor.page.click("#view label:has-text('Attention')")
    visitor.page.wait_for_selector("#stage-A .legend i.hot")
    visitor.page.click("#view label:has-text('Kept patches')")
    visitor.ask(WHERE)
    assert len(visitor.answers("A")) == 2 and "visual tokens 49 (25% of 196)" in visitor.costs("A")[1]
    assert len(tower_runs) == 1
    assert visitor.answers("A")[0] == expected(tiny, "visionzip:19+3", DIGIT)

    visitor.page.click("#new")
    visitor.page.wait_for_selector("#talk-A .hint")
    visitor.ask(WHERE)
    assert visitor.answers("A") == [expected(tiny, "visionzip:41+8", WHERE)]

    hosts = {urlparse(url).hostname for url in visitor.requested if not url.startswith("data:")}
    assert hosts == {"127.0.0.1"} and len(visitor.requested) > 20
    assert visitor.wrong == []


def test_two_budgets_side_by_side_and_differences_marked(visit: Begin, demo: tuple[Any, str], tiny: Inference) -> None:
    question = "Which digit is it?"
    one, other = expected(tiny, "visionzip:19+3", question), expected(tiny, "random:1", question)
    assert one != other
    visitor = visit(demo[1])
    visitor.show()
    visitor.page.click("#compare input")
    visitor.page.wait_for_selector("#stage-B svg")
    visitor.method("B", "random")
    visitor.wait_for_count("#stage-B rect.dominant", 22)
    visitor.tokens("B", 1)
    visitor.wait_for_count("#stage-B rect.dominant", 1)
    assert visitor.count("#stage-B rect.dropped") == 195
    visitor.ask(question, "AB")
    visitor.page.wait_for_selector("#talk-A .verdict")
    assert (visitor.answers("A"), visitor.answers("B")) == ([one], [other])
    assert visitor.page.inner_text("#talk-B .verdict") == "The answers differ."
    assert visitor.count("#talk-A mark") >= 1 and visitor.count("#talk-B mark") >= 1
    visitor.page.click("#compare input")
    visitor.page.wait_for_selector("#pane-B", state="hidden")
    assert visitor.wrong == []


def test_tokens_are_picked_with_mouse_and_keys_and_asked_with_exactly(
    visit: Begin, demo: tuple[Any, str], tiny: Inference
) -> None:
    visitor = visit(demo[1])
    page = visitor.page
    visitor.show()
    visitor.method("A", "picked by hand")
    page.wait_for_selector("#stage-A svg.by-hand")

    def picked(text: str) -> None:
        page.wait_for_selector(f"#picks-A .picked:text-is('{text} picked')")

    def cell(patch: int) -> Any:
        return page.locator(f'#stage-A rect.patch[data-patch="{patch}"]')

    page.fill("#question textarea", DIGIT)
    page.click("#ask")
    page.wait_for_selector("#notice [role=alert]:has-text('no patch is picked')")
    page.click("#begin-A")
    page.wait_for_selector("#stage-A rect.picked")
    picked("21 patches and CLS")
    page.click("#stage-A button.chip")
    picked("21 patches")
    assert "CLS token: not kept" in page.inner_text("#stage-A")
    page.click("#clear-A")
    visitor.wait_for_count("#stage-A rect.picked", 0)

    cell(0).click()
    cell(2).click()
    cell(2).click()
    picked("1 patch")
    cell(30).hover()
    page.mouse.down()
    for patch in (31, 32, 33):
        cell(patch).hover()
    page.mouse.up()
    cell(60).hover()
    picked("5 patches")
    page.focus("#stage-A svg")
    for key in ("ArrowDown", "Space"):
        page.keyboard.press(key)
    picked("6 patches")
    assert sorted(
        int(p) for p in page.eval_on_selector_all("#stage-A rect.picked", "all => all.map(e => e.dataset.patch)")
    ) == [0, 30, 31, 32, 33, 44]
    page.click("#stage-A button.chip")
    visitor.ask(DIGIT)
    assert "visual tokens 7 (4% of 196)" in visitor.costs("A")[0]

    visitor.method("A", "divprune")
    visitor.wait_for_count("#stage-A rect.dominant", 22)
    visitor.method("A", "picked by hand")
    page.click("#begin-A")
    visitor.wait_for_count("#stage-A rect.picked", 22)
    page.click("#new")
    page.wait_for_selector("#talk-A .hint")
    visitor.ask(DIGIT)
    assert visitor.answers("A") == [expected(tiny, "divprune:22", DIGIT)]
    assert visitor.wrong == []


def test_picks_go_with_their_picture(visit: Begin, demo: tuple[Any, str], tiny: Inference) -> None:
    """What is picked in one picture is not asked with of the next, nor forgotten because of a bad file."""
    visitor = visit(demo[1])
    page = visitor.page
    visitor.show()
    visitor.method("A", "picked by hand")
    page.wait_for_selector("#stage-A svg.by-hand")
    page.locator('#stage-A rect.patch[data-patch="5"]').click()
    page.wait_for_selector("#picks-A .picked:text-is('1 patch picked')")
    visitor.upload({"name": "bad.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.wait_for_selector("#notice [role=alert]:has-text('bad.png')")
    assert page.inner_text("#picks-A .picked") == "1 patch picked" and visitor.count("#stage-A rect.picked") == 1
    page.click("#picker .examples button")
    page.wait_for_selector("#picks-A .picked:text-is('0 patches picked')")
    visitor.wait_for_count("#stage-A rect.picked", 0)
    page.fill("#question textarea", DIGIT)
    page.click("#ask")
    page.wait_for_selector("#notice [role=alert]:has-text('no patch is picked')")
    assert visitor.answers("A") == []


def test_a_method_that_reads_the_question_is_drawn_when_it_is_asked(visit: Begin, demo: tuple[Any, str]) -> None:
    visitor = visit(demo[1])
    visitor.show()
    visitor.method("A", "mmtok")
    visitor.page.wait_for_selector("#stage-A .legend:has-text('chooses by the question')")
    visitor.ask(DIGIT)
    visitor.wait_for_count("#stage-A rect.dominant", 22)
    assert visitor.wrong == []


def test_two_visitors_do_not_see_each_other(
    visit: Begin, demo: tuple[Any, str], tiny: Inference, tmp_path: Path
) -> None:
    """Both ask at the same time; each has the answer about the own picture, under the own budget."""
    dark = tmp_path / "dark.png"
    Image.new("RGB", (112, 112), "black").save(dark)
    one, other = visit(demo[1]), visit(demo[1])
    one.show(SCENE)
    assert other.count("#stage-A svg") == 0
    other.page.fill("#question textarea", DIGIT)
    other.page.click("#ask")
    other.page.wait_for_selector("#notice [role=alert]:has-text('Send a picture first')")
    other.show(dark)
    other.tokens("A", 9)
    other.wait_for_count("#stage-A rect.dominant", 5)
    for visitor, question in ((one, DIGIT), (other, WHERE)):
        visitor.page.fill("#question textarea", question)
    one.page.click("#ask")
    other.page.click("#ask")
    for visitor in (one, other):
        visitor.page.wait_for_selector("#talk-A .cost b >> nth=2")
        visitor.page.wait_for_function("!document.querySelector('#talk-A .waits')")
    assert one.answers("A") == [expected(tiny, "visionzip:19+3", DIGIT)]
    assert "22 (11% of 196)" in one.costs("A")[0] and "9 (5% of 196)" in other.costs("A")[0]
    assert DIGIT not in other.page.inner_text("#talk-A") and WHERE not in one.page.inner_text("#talk-A")
    assert one.count("#stage-A rect.dominant") == 18


def test_a_bad_file_is_told_and_the_page_goes_on(visit: Begin, demo: tuple[Any, str]) -> None:
    visitor = visit(demo[1])
    for name, content, reason in (
        ("notes.png", b"no picture", "notes.png: not a picture"),
        ("half.png", SCENE.read_bytes()[:2000], "cannot read image half.png"),
    ):
        visitor.upload({"name": name, "mimeType": "image/png", "buffer": content})
        visitor.page.wait_for_selector(f"#notice [role=alert]:has-text('{reason}')")
    visitor.upload({"name": "large.png", "mimeType": "image/png", "buffer": bytes(400_000)})
    visitor.page.wait_for_selector(".drop:has-text('large.png has 0.4 MB')")
    assert visitor.count("#stage-A svg") == 0
    visitor.page.click(".examples button")
    visitor.page.wait_for_selector("#stage-A svg")
    assert visitor.count("#notice [role=alert]") == 0
    visitor.ask(DIGIT)
    assert visitor.wrong == []


@pytest.mark.parametrize("family", ["next", "onevision"])
def test_tiles_stand_in_place(visit: Begin, serve: Any, oracle_dir: Path, tmp_path: Path, family: str) -> None:
    """LLaVA-OneVision's tower has no CLS token, and a picture's grid is followed by a newline."""
    is_next = family == "next"
    folder = oracle_dir / "tiny-llava-v1.6-next" if is_next else copy_recorded_onevision(tmp_path)
    inference = Inference.load(folder, device="cpu")
    visitor = visit(serve(inference)[1])
    visitor.show(oracle_dir / "images" / "landscape.png")
    tiles, side = visitor.count("#stage-A image"), round(inference.model.num_patches**0.5)
    [everything] = inference.model.num_visual_tokens([Image.open(oracle_dir / "images" / "landscape.png").size])
    assert tiles >= 3 and everything > side**2
    places = visitor.page.eval_on_selector_all("#stage-A svg > g", "all => all.map(g => g.getAttribute('transform'))")
    assert len(set(places)) == tiles and places[0] == "translate(0 0)"
    patch = side * 12 + 12
    visitor.page.hover(f'#stage-A rect.patch[data-tile="2"] >> nth={patch}')
    assert visitor.page.inner_text("#stage-A .told").startswith("Tile 2, row 13, column 13: ")
    assert visitor.count("#stage-A .chip.on") == (tiles if is_next else 0)
    visitor.ask("What is this?")
    kept = tiles * round(side**2 / 9)
    assert f"visual tokens {kept} ({100 * kept / everything:.0f}% of {everything})" in visitor.costs("A")[0]
    photograph(visitor, family)
    visitor.method("A", "all tokens")
    visitor.page.wait_for_selector(f"#stage-A .legend:has-text('{everything} tokens of {tiles * side**2} patches')")
    assert visitor.wrong == []


def photograph(visitor: Visit, name: str) -> None:
    """Screenshots go to the folder SCREENSHOTS, where that is set."""
    if folder := os.environ.get("SCREENSHOTS"):
        visitor.page.screenshot(path=Path(folder) / f"demo-{name}.png", full_page=True)


@pytest.mark.parametrize("width", [1400, 400])
def test_the_page_fits_and_is_photographed(visit: Begin, demo: tuple[Any, str], width: int) -> None:
    visitor = visit(demo[1], width=width, height=1000)
    visitor.page.click(".examples button")
    visitor.page.wait_for_selector("#stage-A svg")
    visitor.page.click("#compare input")
    visitor.page.wait_for_selector("#stage-B svg")
    visitor.method("B", "random")
    visitor.wait_for_count("#stage-B rect.dominant", 22)
    visitor.ask(DIGIT, "AB")
    visitor.page.wait_for_selector("#talk-B .verdict")
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in ("#picker", "#question", "#ask", "#stage-A svg", "#stage-B svg", "#talk-B"):
        box = visitor.page.locator(selector).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["width"] > 40, selector
    photograph(visitor, str(width))
