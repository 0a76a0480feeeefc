"""What a visitor can do wrong, by accident or on purpose: a killed browser, and requests that no page sends."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from llava.inference import Inference
from tests.serve.browser.conftest import CHROMIUM, FLAGS, SCENE, Visit

pytestmark = pytest.mark.browser


def wait_until(is_so: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not is_so():
        time.sleep(0.1)
    return is_so()


def test_a_killed_browser_leaves_nothing_running(chromium: Any, serve: Any, oracle_dir: Path, tmp_path: Path) -> None:
    """The answer ends at its next token, and the picture is forgotten; the next visitor need not wait."""
    slow = Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu")
    steps: list[float] = []

    def step(*_: Any) -> None:
        steps.append(time.monotonic())
        time.sleep(0.1)

    hook = slow.model.model.language_model.norm.register_forward_hook(step)
    demo, address = serve(slow, new_tokens=1500)
    context = chromium.launch_persistent_context(str(tmp_path), executable_path=CHROMIUM, args=FLAGS)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(".picker .drop")
    page.set_input_files("#picker input[type=file]", SCENE)
    page.wait_for_selector("#stage-A svg")
    page.fill("#question textarea", "Tell me everything.")
    page.click("#ask")
    assert wait_until(lambda: len(steps) > 5) and len(demo.visitors) == 1
    for process in psutil.process_iter(["cmdline"]):
        if any(str(tmp_path) in word for word in process.info["cmdline"] or ()):
            process.kill()
    assert wait_until(lambda: not demo._model_lock.locked(), 10)
    count = len(steps)
    time.sleep(0.5)
    assert count == len(steps) < 1000
    assert wait_until(lambda: len(demo.visitors) == 0)
    hook.remove()
    with pytest.raises(Exception, match="closed"):
        page.title()


def test_stop_ends_the_answer_and_keeps_what_was_said(
    visit: Callable[..., Visit], serve: Any, oracle_dir: Path
) -> None:
    slow = Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu")
    hook = slow.model.model.language_model.norm.register_forward_hook(lambda *_: time.sleep(0.1) or None)
    demo, address = serve(slow, new_tokens=1500)
    visitor = visit(address)
    visitor.show()
    visitor.page.fill("#question textarea", "Tell me everything.")
    visitor.page.click("#ask")
    visitor.page.wait_for_selector("#talk-A .waits")
    visitor.page.click("#stop")
    visitor.page.wait_for_function(
        "document.querySelector('#talk-A .cost') && !document.querySelector('#talk-A .waits')"
    )
    assert "total" in visitor.costs("A")[0] and not demo._model_lock.locked()
    hook.remove()


def test_no_request_opens_a_file_or_an_address(demo: tuple[Any, str], tmp_path: Path) -> None:
    """Gradio's own protocol, spoken by hand: a server's path in the place of a picture, and its routes for files."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(SCENE.read_bytes())
    with httpx.Client(base_url=demo[1], timeout=30) as client:
        config = client.get("/config").json()
        [upload] = [each for each in config["dependencies"] if each["targets"][0][1] == "upload"]

        def send(event: Any, *values: Any) -> tuple[int, str]:
            body = {"data": values, "event_data": event, "fn_index": upload["id"], "session_hash": "hand1"}
            joined = client.post("/gradio_api/queue/join", json=body | {"trigger_id": upload["targets"][0][0]})
            if joined.status_code != 200:
                return joined.status_code, joined.text
            told = ""
            with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "hand1"}) as stream:
                for line in stream.iter_lines():
                    told += line
                    if "process_completed" in line:
                        break
            return 200, told

        settings = [False, "Kept patches", "", *["visionzip", 20, 3, []] * 2]
        for name in ("path", "url"):
            for place in (str(secret), "http://127.0.0.1:1/a.png", f"file://{secret}"):
                file = {name: place, "meta": {"_type": "gradio.FileData"}}
                for event, values in ((file, settings), ({"data": file}, settings), ({}, [file, *settings[1:]])):
                    status, told = send(event, *values)
                    assert status == 400 or "data:image" not in told, (event, values)
        status, told = send({"data": str(secret)}, *settings)
        assert "only an uploaded picture can be opened" in told and "data:image" not in told
        status, told = send({"example": 0}, *settings)
        assert status == 200 and "data:image" in told  # so the protocol above is the page's
        for path in (
            f"/gradio_api/file={secret}",
            f"/file={secret}",
            "/gradio_api/proxy=http://127.0.0.1:1/",
            "/monitoring",
        ):
            assert client.get(path).status_code == 404
        files = {"files": ("a.png", SCENE.read_bytes())}
        assert client.post("/gradio_api/upload", files=files).status_code == 404
        assert client.post("/gradio_api/call/upload", json={"data": []}).status_code == 404
        assert client.get("/", headers={"host": "evil.example"}).status_code == 403
        too_large = client.post(
            "/gradio_api/queue/join", json={"data": ["x" * 10**6], "fn_index": 0, "session_hash": "a"}
        )
        assert too_large.status_code == 413
        assert "content-security-policy" in client.get("/").headers


def test_what_a_visitor_writes_stays_text(visit: Callable[..., Visit], demo: tuple[Any, str]) -> None:
    """No markup, no template, no Markdown: a picture named in a question or an answer is not fetched."""
    text = "<img src='http://evil.example/a.png'> ${1 + 1} {{value}} ![a](http://evil.example/b.png) </script>"
    visitor = visit(demo[1])
    visitor.show()
    visitor.ask(text)
    assert visitor.page.inner_text("#talk-A .said.user") == text
    assert not [url for url in visitor.requested if "evil.example" in url] and visitor.wrong == []
