"""The page: gradio's components, laid out and tied to what a visitor does."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from llava.serve.web.choice import Choice
from llava.serve.web.drawing import thumbnail
from llava.serve.web.events import VIEWS, Demo
from llava.serve.web.handlers import PageEvents
from llava.serve.web.methods import ALL, HAND, Range, range_of
from llava.serve.web.talk import show_talk
from llava.serve.web.visitors import PANES

HERE = Path(__file__).parent
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_AT_ONCE: dict[str, Any] = {**_PRIVATE, "concurrency_id": "page", "concurrency_limit": None}
_LOOK: dict[str, Any] = {**_PRIVATE, "concurrency_id": "look", "concurrency_limit": 2}


@dataclass(frozen=True)
class PaneParts:
    """The components of a pane; `before` is the method that picks would begin from."""

    name: str
    column: gr.Column
    method: gr.Dropdown
    sliders: gr.Group
    tokens: gr.Slider
    merged: gr.Slider
    hand: gr.Row
    begin: gr.Button
    clear: gr.Button
    stage: gr.HTML
    picks: gr.HTML
    talk: gr.HTML
    before: gr.State

    @property
    def settings(self) -> list[Any]:
        """What is sent of a pane."""
        return [self.method, self.tokens, self.merged, self.picks]


def make_page(demo: Demo, first: Choice | None = None, question: str = "") -> gr.Blocks:
    """Lays out the page.

    Args:
        demo: The model and its visitors.
        first: What the first pane begins with; by default VisionZip's with a ninth of the patches.
        question: What stands in the box to begin with.
    """
    with gr.Blocks(title="Which tokens does it keep?", analytics_enabled=False) as page:
        gr.HTML(_heading(demo))
        with gr.Row(elem_classes="top"):
            with gr.Column(min_width=320, scale=3):
                picker = _picker(demo)
            with gr.Column(min_width=220, scale=2):
                view = gr.Radio(list(VIEWS), value=next(iter(VIEWS)), label="Over the picture", elem_id="view")
                compare = gr.Checkbox(label="Two side by side", elem_id="compare")
        notice = gr.HTML(elem_id="notice")
        with gr.Row(elem_classes="ask"):
            box = gr.Textbox(
                question,
                label="Question",
                placeholder="What do you want to know about the picture?",
                max_length=demo.limits.question_characters,
                lines=1,
                max_lines=3,
                scale=6,
                min_width=240,
                elem_id="question",
            )
            with gr.Column(scale=3, min_width=240), gr.Row():
                ask = gr.Button("Ask", variant="primary", elem_id="ask", min_width=60)
                stop = gr.Button("Stop", elem_id="stop", min_width=60)
                new = gr.Button("New talk", elem_id="new", min_width=60)
        with gr.Row(elem_classes="panes"):
            panes = [_pane(demo, name, first if name == PANES[0] else None) for name in PANES]
        _tie(demo, _Parts(panes, picker, view, compare, notice, box, ask, stop, new))
        page.unload(PageEvents(demo, PANES).leave)
    return page


# ----- Layout ------------------------------------------------------------------


@dataclass(frozen=True)
class _Parts:
    panes: list[PaneParts]
    picker: gr.HTML
    view: gr.Radio
    compare: gr.Checkbox
    notice: gr.HTML
    box: gr.Textbox
    ask: gr.Button
    stop: gr.Button
    new: gr.Button


def _heading(demo: Demo) -> str:
    model = demo.inference.model
    rows, columns = model.model.tile_shape.grid
    name = escape(Path(demo.inference.name).name)
    return (
        f"<h1>Which tokens does it keep?</h1><p>{name}: {rows} × {columns} patches a tile. Send a picture, choose how "
        "many visual tokens the language model gets, and ask. The picture is encoded once.</p>"
    )


def _picker(demo: Demo) -> gr.HTML:
    """Where a picture is dropped, and the examples."""
    examples = [{"name": name, "picture": thumbnail(image)} for name, image in demo.examples]
    return gr.HTML(
        {"examples": examples, "most": demo.limits.upload_bytes},
        html_template='<div class="picker"></div>',
        js_on_load=_script("picker.js"),
        elem_id="picker",
        apply_default_css=False,
    )


def _pane(demo: Demo, name: str, first: Choice | None) -> PaneParts:
    """One picture with its settings and its conversation."""
    is_first = name == PANES[0]
    method = _first_method(demo, first, is_first)
    ranges = _first_range(demo, method, first)
    model = demo.inference.model
    tiled = bool(getattr(model.config, "image_grid_pinpoints", None))
    with gr.Column(visible=is_first, min_width=320, elem_id=f"pane-{name}", elem_classes="pane") as column, gr.Row():
        with gr.Column(min_width=300, elem_classes="left"):
            chosen = gr.Dropdown(demo.methods, value=method, label="Method", elem_id=f"method-{name}", filterable=False)
            with gr.Group(visible=method not in (ALL, HAND)) as sliders:
                tokens = gr.Slider(
                    1,
                    model.num_patches + int(model.model.tile_shape.keep_cls),
                    ranges.first,
                    step=1,
                    label="Tokens a tile" if tiled else "Tokens",
                    elem_id=f"tokens-{name}",
                )
                merged = gr.Slider(
                    0,
                    model.num_patches,
                    ranges.first_merged,
                    step=1,
                    label="of these, merged ones",
                    visible=ranges.most_merged > 0,
                    elem_id=f"merged-{name}",
                )
            with gr.Row(visible=False) as hand:
                begin = gr.Button("Start from the method's choice", size="sm", elem_id=f"begin-{name}", min_width=60)
                clear = gr.Button("Clear", size="sm", elem_id=f"clear-{name}", min_width=60)
            picks = gr.HTML(
                [],
                html_template='<p class="picked"></p>',
                js_on_load=_script("picks.js"),
                pane=name,
                visible="hidden",
                elem_id=f"picks-{name}",
                apply_default_css=False,
            )
            stage = gr.HTML(
                None,
                html_template='<div class="stage"></div>',
                js_on_load=_script("stage.js"),
                pane=name,
                elem_id=f"stage-{name}",
                apply_default_css=False,
            )
        with gr.Column(min_width=300, elem_classes="right"):
            talk = gr.HTML(show_talk([], 0), elem_id=f"talk-{name}", apply_default_css=False)
    before = gr.State(method if method not in (ALL, HAND) else demo.methods[1])
    return PaneParts(name, column, chosen, sliders, tokens, merged, hand, begin, clear, stage, picks, talk, before)


def _first_method(demo: Demo, first: Choice | None, is_first: bool) -> str:
    if first is not None:
        return first.method
    return demo.methods[1] if is_first else ALL


def _first_range(demo: Demo, method: str, first: Choice | None) -> Range:
    model = demo.inference.model
    if first is None or first.budget is None:
        return range_of(model, method)
    ranges = range_of(model, method, first.tokens)
    return Range(ranges.most, ranges.first, ranges.most_merged, min(first.merged, ranges.most_merged))


def _script(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


# ----- What is tied to what ----------------------------------------------------


def _tie(demo: Demo, parts: _Parts) -> None:
    """Every event of the page."""
    page = PageEvents(demo, PANES)
    second = parts.panes[1]
    settings = [parts.compare, parts.view, parts.box, *(each for pane in parts.panes for each in pane.settings)]
    stages, talks = [pane.stage for pane in parts.panes], [pane.talk for pane in parts.panes]
    outputs = [parts.notice, *stages, *talks]
    parts.picker.upload(page.upload, settings, [*outputs, *(pane.picks for pane in parts.panes)], **_LOOK)
    parts.view.change(page.redraw, settings, outputs, **_LOOK)
    parts.compare.change(page.compare, parts.compare, second.column, **_AT_ONCE)
    parts.compare.change(page.redraw, settings, outputs, **_LOOK)
    for pane in parts.panes:
        _tie_pane(PageEvents(demo, (pane.name,)), parts, pane, settings, outputs)
    gr.on(
        [parts.ask.click, parts.box.submit],
        page.ask,
        settings,
        [*outputs, parts.box],
        api_visibility="private",
        show_progress="minimal",  # which place in the queue it is
        show_progress_on=parts.box,
        concurrency_id="model",
        concurrency_limit=1,
        trigger_mode="once",
    ).then(page.redraw_readers, settings, outputs, **_LOOK)
    parts.stop.click(page.stop, None, None, **_AT_ONCE)
    parts.new.click(page.restart, None, outputs, **_LOOK)


def _tie_pane(events: PageEvents, parts: _Parts, pane: PaneParts, settings: list[Any], outputs: list[Any]) -> None:
    pane.method.change(
        events.change_method,
        [pane.method, pane.tokens, pane.before],
        [pane.sliders, pane.tokens, pane.merged, pane.hand, pane.picks, pane.before],
        **_AT_ONCE,
    ).then(events.redraw, settings, outputs, **_LOOK)
    pane.tokens.change(events.fit_merged, [pane.tokens, pane.merged], pane.merged, **_AT_ONCE)
    for slider in (pane.tokens, pane.merged):
        slider.change(events.redraw, settings, outputs, trigger_mode="always_last", **_LOOK)
    picked = [parts.notice, pane.picks]
    pane.begin.click(events.begin_picks, [pane.before, *settings], picked, **_LOOK)
    pane.clear.click(events.clear_picks, None, picked, **_AT_ONCE)
