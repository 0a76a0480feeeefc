"""`llava demo` as a person starts and ends it; no browser, but the extra that only these tests have."""

from __future__ import annotations

import signal
import subprocess
import sys

import httpx
import pytest

from tests.serve.browser.conftest import ROOT, SCENE, needed

pytestmark = pytest.mark.browser


def test_it_serves_this_machine_alone_and_ends_with_ctrl_c() -> None:
    needed("gradio", "web")
    command = [sys.executable, "-m", "llava", "demo", "--model-path", "playground/tiny/model", "--device", "cpu"]
    command += ["--examples", str(SCENE.parent), "--compression", "visionzip:41+8"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        lines = iter(process.stdout.readline, "")
        address = next(line.split()[1] for line in lines if line.startswith("open http"))
        assert address.startswith("http://127.0.0.1:")
        page = httpx.get(address, timeout=30)
        assert page.status_code == 200 and "Which tokens does it keep?" in page.text
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0 and "stopped" in process.stdout.read()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
