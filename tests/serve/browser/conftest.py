"""A running demo and a real browser: Debian's chromium, headless, which can reach nothing but this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava.inference import GenerationOptions, Inference

ROOT = Path(__file__).parents[3]
SCENE = ROOT / "docs" / "assets" / "scene.png"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
PATIENCE = 60_000  # milliseconds: other work on the machine must not fail a test

Serve = Callable[..., Any]


def needed(module: str, extra: str) -> Any:
    """A module of an extra; without it a test is skipped, or fails under `make test-browser`."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        return absent(f"{error.name} is not installed: the extra `{extra}` has it")


def absent(reason: str) -> None:
    """Skips a test, or fails it where the browser is asked for."""
    (pytest.fail if os.environ.get("BROWSER") == "required" else pytest.skip)(reason)


@pytest.fixture(scope="session")
def tiny() -> Inference:
    return Inference.load(ROOT / "playground" / "tiny" / "model", device="cpu")


@pytest.fixture(scope="session")
def serve() -> Iterator[Serve]:
    """Begins to serve a model; what it gives is the demo and its address."""
    needed("gradio", "web")
    from llava.serve.web.events import Demo
    from llava.serve.web.limits import Limits
    from llava.serve.web.server import serve

    running = []

    def begin(inference: Inference, **limits: Any) -> tuple[Demo, str]:
        demo = Demo(
            inference,
            Limits(**limits),
            [("scene", Image.open(SCENE).convert("RGB"))],
            GenerationOptions(limits.get("new_tokens", 16)),
        )
        running.append(serve(demo, host="127.0.0.1"))
        return demo, running[-1].address

    yield begin
    for server in running:
        server.close()


@pytest.fixture(scope="session")
def demo(serve: Serve, tiny: Inference) -> tuple[Any, str]:
    return serve(tiny, upload_bytes=300_000)  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    sync_api = needed("playwright.sync_api", "browser")
    if CHROMIUM is None:
        absent("there is no chromium: apt-get install chromium, or name it in CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium


@pytest.fixture(scope="session")
def browser(chromium: Any) -> Iterator[Any]:
    browser = chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    yield browser
    browser.close()


class Visit:
    """One open page: what a visitor does in it, and what it asked of the network."""

    def __init__(self, browser: Any, address: str, width: int = 1400, height: int = 1000) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height})
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.requested: list[str] = []
        self.wrong: list[str] = []
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.on("response", lambda answer: self._note(answer.status >= 400, f"{answer.status} {answer.url}"))
        self.page.on("console", lambda message: self._note(message.type == "error", message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.goto(address)
        self.page.wait_for_selector(".picker .drop")

    def _note(self, is_wrong: bool, text: str) -> None:
        if is_wrong:
            self.wrong.append(text)

    def upload(self, file: Path | dict[str, Any] = SCENE) -> None:
        self.page.set_input_files("#picker input[type=file]", file)

    def show(self, file: Path | dict[str, Any] = SCENE) -> None:
        self.upload(file)
        self.page.wait_for_selector("#stage-A svg")

    def method(self, pane: str, name: str) -> None:
        self.page.click(f"#method-{pane} input")
        self.page.click(f"[role=option][aria-label='{name}']")

    def tokens(self, pane: str, number: int, slider: str = "tokens") -> None:
        box = self.page.locator(f"#{slider}-{pane} input[type=number]")
        box.fill(str(number))
        box.press("Tab")

    def ask(self, question: str, panes: str = "A") -> None:
        """Asks, and waits until every pane has its answer."""
        before = [self.page.locator(f"#talk-{pane} .said.user").count() for pane in panes]
        self.page.fill("#question textarea", question)
        self.page.click("#ask")
        for pane, count in zip(panes, before, strict=True):
            self.page.wait_for_selector(f"#talk-{pane} .said.user >> nth={count}")
        self.page.wait_for_selector("#question textarea:enabled")
        for pane in panes:
            self.page.wait_for_function(
                "([pane, count]) => { const all = document.querySelectorAll(`#talk-${pane} .cost`);"
                "return all.length > count && !all[count].textContent.includes('…') "
                "&& !document.querySelector(`#talk-${pane} .waits`) }",
                arg=[pane, before[panes.index(pane)]],
            )

    def answers(self, pane: str) -> list[str]:
        return [text.strip() for text in self.page.locator(f"#talk-{pane} .said.model").all_inner_texts()]

    def costs(self, pane: str) -> list[str]:
        return self.page.locator(f"#talk-{pane} .cost").all_inner_texts()

    def count(self, selector: str) -> int:
        return self.page.locator(selector).count()

    def wait_for_count(self, selector: str, count: int) -> None:
        self.page.wait_for_function(
            "([selector, count]) => document.querySelectorAll(selector).length === count", arg=[selector, count]
        )


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def begin(address: str, **size: int) -> Visit:
        visits.append(Visit(browser, address, **size))
        return visits[-1]

    yield begin
    for each in visits:
        each.context.close()
