"""The web server: gradio's, behind the door, with everything off that would speak to other machines."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from llava.serve.web.choice import Choice
from llava.serve.web.door import Door
from llava.serve.web.events import Demo
from llava.serve.web.page import HERE, make_page

_FONTS = ("system-ui", "sans-serif")  # of the visitor's machine: gradio's own come from Google
_MONO = ("ui-monospace", "monospace")


@dataclass(frozen=True)
class Server:
    """A running demo.

    Attributes:
        address: Where it is.
        page: Gradio's application.
    """

    address: str
    page: gr.Blocks

    def wait(self) -> None:
        """Waits until the process is interrupted."""
        threading.Event().wait()

    def close(self) -> None:
        """Ends it."""
        self.page.close(verbose=False)


def serve(
    demo: Demo,
    *,
    host: str,
    port: int | None = None,
    share: bool = False,
    first: Choice | None = None,
    question: str = "",
) -> Server:
    """Begins to serve, and returns.

    Args:
        demo: The model and its visitors.
        host: The address to listen at.
        port: The first free one from 7860 on, if None.
        share: Whether gradio's servers shall make it public.
        first: What the page begins with.
        question: What stands in the question's box to begin with.

    Raises:
        OSError: The port is taken.
    """
    page = make_page(demo, first, question)
    page.queue(max_size=demo.limits.waiting, default_concurrency_limit=1, api_open=False)
    door = Middleware(Door, upload_bytes=demo.limits.upload_bytes, local_only=not share)
    options: dict[str, Any] = {
        "share": share,
        "server_name": host,
        "server_port": port,
        "app_kwargs": {"middleware": [door], "docs_url": None, "redoc_url": None, "openapi_url": None},
        "theme": gr.themes.Base(font=_FONTS, font_mono=_MONO, primary_hue="teal"),
        "css": (HERE / "style.css").read_text(encoding="utf-8"),
    }
    off: dict[str, Any] = dict.fromkeys(
        ("inbrowser", "enable_monitoring", "ssr_mode", "pwa", "mcp_server", "run_history"), False
    )
    try:
        _, local, public = page.launch(
            **options,
            **off,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            footer_links=[],
            max_file_size=1,  # nothing is sent as a file
            state_session_capacity=demo.limits.visitors,
        )
    except OSError as error:
        if port is None or "empty port" not in str(error):
            raise
        raise OSError(f"port {port} of {host} is taken; name another with --port") from None
    return Server(public or local, page)
