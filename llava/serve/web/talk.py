"""A conversation as HTML. Everything that a visitor or the model wrote is escaped: it is text and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from llava.serve.web.answering import Answering
from llava.serve.web.differences import mark_differences

_HINT = "Ask a question: the answer and its cost appear here."

Turns = Sequence[tuple[str, Answering]]


def show_talk(turns: Turns, num_patches: int, beside: Turns | None = None) -> str:
    """The turns of a pane.

    Args:
        turns: Each question and its answer, the last one perhaps still growing.
        num_patches: Visual tokens without compression, for the share.
        beside: The turns of the other pane; where the last question is the same and both answers are finished, the
            words that differ are marked.
    """
    if not turns:
        return f'<div class="talk"><p class="hint">{_HINT}</p></div>'
    shown = [escape(answer.text) for _, answer in turns]
    differs = _differs(turns, beside)
    if differs and beside:
        shown[-1] = mark_differences(turns[-1][1].text, beside[-1][1].text)[0]
    lines = [
        f'<p class="said user">{escape(question)}</p>{_answer(answer, text)}{show_cost(answer, num_patches)}'
        for (question, answer), text in zip(turns, shown, strict=True)
    ]
    if differs is not None:
        lines.append(f'<p class="verdict">{"The answers differ." if differs else "The same answer."}</p>')
    return f'<div class="talk">{"".join(lines)}</div>'


def show_cost(answer: Answering, num_patches: int) -> str:
    """Visual tokens, time to the first token and total, in a line."""
    if answer.error or not answer.visual_tokens:
        return ""
    share = f" ({answer.visual_tokens / num_patches:.0%} of {num_patches})" if num_patches else ""
    first = "…" if answer.first_seconds is None else _shown_time(answer.first_seconds)
    total = _shown_time(answer.seconds) if answer.is_finished else "…"
    parts = (("visual tokens", f"{answer.visual_tokens}{share}"), ("first token", first), ("total", total))
    return f'<p class="cost">{"".join(f"<span>{name} <b>{value}</b></span>" for name, value in parts)}</p>'


def _answer(answer: Answering, text: str) -> str:
    if answer.error:
        return f'<p class="said wrong" role="alert">{escape(answer.error)}</p>'
    waits = "" if answer.is_finished else '<span class="waits"></span>'
    return f'<p class="said model">{text}{waits}</p>'


def _differs(turns: Turns, beside: Turns | None) -> bool | None:
    """Whether the last answers differ; None where they cannot be compared."""
    if not beside or turns[-1][0] != beside[-1][0]:
        return None
    answers = (turns[-1][1], beside[-1][1])
    if any(answer.error or not answer.is_finished for answer in answers):
        return None
    return answers[0].text.split() != answers[1].text.split()


def _shown_time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
