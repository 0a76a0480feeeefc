"""From gradio's components to what a visitor does, and back; each method is one event of the page."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from llava.serve.web.events import Demo, Sent, Shown
from llava.serve.web.methods import ALL, HAND, range_of, reads_the_question
from llava.serve.web.visitors import PANES

_SETTINGS = 4  # components that a pane sends


class PageEvents:
    """The events of the page, or of one of its panes.

    `settings` are always: whether two panes are open, the view, the question's box, then what each pane sends.
    """

    def __init__(self, demo: Demo, names: tuple[str, ...]) -> None:
        """Takes what is shown.

        Args:
            demo: The model and its visitors.
            names: The panes that these events are about.
        """
        self.demo = demo
        self.names = names

    def upload(self, request: gr.Request, event: gr.EventData, *settings: Any) -> list[Any]:
        """A picture is sent, or an example taken."""
        shown = self.demo.upload(request.session_hash, event._data, self._open(settings), settings[1])
        is_new = shown.talks is not None  # what was picked in the picture before goes with it
        return [*_outputs(shown), *([] if is_new else gr.skip() for _ in PANES)]

    def redraw(self, request: gr.Request, *settings: Any) -> list[Any]:
        """Something changed that shows over the picture."""
        return _outputs(self.demo.redraw(request.session_hash, self._open(settings), settings[1], settings[2]))

    def redraw_readers(self, request: gr.Request, *settings: Any) -> list[Any]:
        """After a question, the panes whose method reads it; a notice stays."""
        model = self.demo.inference.model
        panes = {name: sent for name, sent in self._open(settings).items() if reads_the_question(model, sent.method)}
        return [gr.skip(), *_outputs(self.demo.redraw(request.session_hash, panes, settings[1], settings[2]))[1:]]

    def ask(self, request: gr.Request, *settings: Any) -> Iterator[list[Any]]:
        """A question; the answer ends at once when the page is gone, for then this generator is closed."""
        answers = self.demo.ask(request.session_hash, settings[2], self._open(settings))
        try:
            for shown in answers:
                yield [*_outputs(shown), gr.skip() if shown.notice else ""]
        finally:
            answers.close()

    def stop(self, request: gr.Request) -> None:
        """The answer is to end."""
        self.demo.stop(request.session_hash)

    def restart(self, request: gr.Request) -> list[Any]:
        """A new conversation."""
        return _outputs(self.demo.restart(request.session_hash))

    def leave(self, request: gr.Request) -> None:
        """The page is closed."""
        self.demo.leave(request.session_hash)

    def compare(self, is_on: Any) -> Any:
        """The second pane opens or closes."""
        return gr.update(visible=bool(is_on))

    def change_method(self, method: str, tokens: Any, before: str) -> list[Any]:
        """Another method: its sliders, or the buttons for picks; and the method that picks would begin from."""
        ranges = range_of(self.demo.inference.model, method)
        is_method = method not in (ALL, HAND)
        return [
            gr.update(visible=is_method),
            gr.update(value=min(int(tokens), ranges.most)) if is_method else gr.skip(),
            gr.update(visible=ranges.most_merged > 0) if is_method else gr.skip(),
            gr.update(visible=method == HAND),
            gr.update(visible=True if method == HAND else "hidden"),
            before if method == HAND else method,
        ]

    def fit_merged(self, tokens: Any, merged: Any) -> Any:
        """No more tokens are merged ones than there are; the slider's end stays, for requests may be under way."""
        most = max(int(tokens) - 1, 0)
        return gr.update(value=most) if merged > most else gr.skip()

    def begin_picks(self, request: gr.Request, before: str, *settings: Any) -> list[Any]:
        """Picks begin from a method's choice."""
        [sent] = self._sent(settings).values()
        try:
            start = Sent(before, sent.tokens, sent.merged, None)
            return ["", self.demo.begin_picks(request.session_hash, start, settings[2])]
        except ValueError as error:
            return [_notice(str(error)), gr.skip()]

    def clear_picks(self) -> list[Any]:
        """Nothing is picked any more."""
        return ["", []]

    def _sent(self, settings: tuple[Any, ...]) -> dict[str, Sent]:
        """What these panes send."""
        values = settings[3:]
        places = {name: PANES.index(name) * _SETTINGS for name in self.names}
        return {name: Sent(*values[place : place + _SETTINGS]) for name, place in places.items()}

    def _open(self, settings: tuple[Any, ...]) -> dict[str, Sent]:
        """The same, of those that are open."""
        shown = PANES if settings[0] else PANES[:1]
        return {name: sent for name, sent in self._sent(settings).items() if name in shown}


def _notice(text: str) -> str:
    return f'<p role="alert">{escape(text)}</p>' if text else ""


def _outputs(shown: Shown) -> list[Any]:
    """Notice, stages and talks; what stays as it is is skipped."""
    stages = [(shown.stages or {}).get(name, gr.skip()) for name in PANES]
    return [_notice(shown.notice), *stages, *((shown.talks or {}).get(name, gr.skip()) for name in PANES)]
