"""What happens when a visitor does something; knows nothing of components."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet

from PIL import Image

from llava.inference import GenerationOptions, Inference
from llava.prompts.around import check_text
from llava.serve.chat import Chat
from llava.serve.web.answering import Answering, stream_answer
from llava.serve.web.choice import Choice, read_picks
from llava.serve.web.drawing import ShownPicture, draw, show_picture, start_of_picks
from llava.serve.web.limits import Limits
from llava.serve.web.methods import ALL, HAND, methods_of, range_of
from llava.serve.web.talk import Turns, show_talk
from llava.serve.web.uploads import read_upload
from llava.serve.web.visitors import PANES, Visitor, Visitors

VIEWS = {"Kept patches": "kept", "Attention": "attention", "Picture": "picture"}
_NO_PICTURE = "Send a picture first, or take one of the examples."


@dataclass(frozen=True)
class Sent:
    """What a page sends of a pane: nothing of it is trusted.

    Attributes:
        method: Of `methods_of`.
        tokens: Tokens a tile.
        merged: How many of them are merged.
        picks: A list for each tile.
    """

    method: Any
    tokens: Any
    merged: Any
    picks: Any


@dataclass(frozen=True)
class Shown:
    """What a page is given back; None for what stays as it is.

    Attributes:
        stages: What is drawn over the picture, by pane.
        talks: HTML of the conversations, by pane.
        notice: What went wrong, or an empty text.
    """

    stages: Mapping[str, dict[str, Any]] | None = None
    talks: Mapping[str, str] | None = None
    notice: str = ""


class Demo:
    """A model and its visitors."""

    def __init__(
        self,
        inference: Inference,
        limits: Limits,
        examples: Sequence[tuple[str, Image.Image]] = (),
        options: GenerationOptions | None = None,
    ) -> None:
        """Takes the model, which keeps every token by itself from now on: each pane has a budget of its own.

        Args:
            inference: The model.
            limits: The bounds.
            examples: Pictures to begin with, each with its name.
            options: Of generation; greedy by default.
        """
        inference.model.set_compression(None)
        self.inference = inference
        self.limits = limits
        self.examples = list(examples)
        self.options = options or GenerationOptions(max_new_tokens=limits.new_tokens)
        self.methods = methods_of(inference.model)
        self.visitors = Visitors(limits.visitors)
        self._model_lock = threading.Lock()
        # Conversations of which the language model's cache is kept: one visitor's, while that one is known.
        self._warm: WeakSet[Chat] = WeakSet()

    # ----- What a visitor does -------------------------------------------------

    def upload(self, session: str | None, data: Any, panes: Mapping[str, Sent], view: str) -> Shown:
        """Takes a picture.

        Args:
            session: Of the page.
            data: `{"data": a data: URL, "name": ...}` or `{"example": number}`.
            panes: What each pane that is open is set to.
            view: A key of `VIEWS`.
        """
        visitor = self.visitors.of(session)
        try:
            picture = self._picture_of(data)
            visitor.show(show_picture(self.inference, picture))
        except ValueError as error:
            return Shown(notice=str(error))
        fresh = {name: Sent(sent.method, sent.tokens, sent.merged, None) for name, sent in panes.items()}
        shown = self.redraw(session, fresh, view, "")
        return Shown(shown.stages, {name: self._talk(visitor, name) for name in PANES}, shown.notice)

    def redraw(self, session: str | None, panes: Mapping[str, Sent], view: str, question: str) -> Shown:
        """Draws what some panes keep under their settings; the tower is not run."""
        visitor = self.visitors.of(session)
        if visitor.picture is None:
            return Shown()
        stages, notice, asked = {}, "", self._asked(visitor, question)
        for name, sent in panes.items():
            try:
                choice = self._choice(visitor.picture, sent)
                stages[name] = draw(self.inference, visitor.picture, choice, VIEWS[view], asked)
            except (ValueError, TypeError, KeyError) as error:
                notice = str(error)
        return Shown(stages, notice=notice)

    def begin_picks(self, session: str | None, sent: Sent, question: str) -> list[list[int]]:
        """The choice of a method, as picks.

        Raises:
            ValueError: There is no picture, or the method cannot have these numbers.
        """
        visitor = self.visitors.of(session)
        if visitor.picture is None:
            raise ValueError(_NO_PICTURE)
        choice = self._choice(visitor.picture, sent)
        return start_of_picks(self.inference, visitor.picture, choice, self._asked(visitor, question))

    def ask(self, session: str | None, question: Any, panes: Mapping[str, Sent]) -> Generator[Shown, None, None]:
        """Asks one question of every pane, one after the other.

        Closing the iterator ends the answer at its next token.

        Yields:
            The conversations as they grow; where something is wrong, a notice alone.
        """
        visitor = self.visitors.of(session)
        try:
            picture, text = self._check_question(visitor, question)
            choices = {name: self._choice(picture, sent) for name, sent in panes.items()}
            chats = {
                name: visitor.panes[name].chat_under(self.inference, picture, choice)
                for name, choice in choices.items()
            }
        except (ValueError, TypeError) as error:
            yield Shown(notice=str(error))
            return
        self._keep_warm(list(chats.values()))
        sides, stop = visitor.panes, visitor.begin_answer()
        given: dict[str, Answering] = {}
        for name, chat in chats.items():
            if not stop.is_set():
                given[name] = yield from self._answer(visitor, name, chat, text, stop)
        if visitor.panes is sides:
            failed = {name: said for name, said in given.items() if said.error}
            talks = {
                name: self._talk_with(visitor, name, text, failed.get(name), self._other(visitor, name, given))
                for name in given
            }
            yield Shown(talks=talks)

    def _answer(
        self, visitor: Visitor, name: str, chat: Chat, text: str, stop: threading.Event
    ) -> Generator[Shown, None, Answering]:
        """The answer of one pane as it grows; nothing is shown of it where the visitor has begun something else."""
        pane, said = visitor.panes[name], Answering()
        restarts = pane.restarts
        answers = stream_answer(
            chat, text, self.options, model_lock=self._model_lock, stop=stop, seconds=self.limits.seconds
        )
        try:
            with closing(answers):
                for said in answers:
                    if visitor.panes[name] is pane and pane.restarts == restarts and not said.is_finished:
                        yield Shown(talks={name: self._talk_with(visitor, name, text, said)})
        finally:  # an answer that nobody reads to its end is a turn of the conversation all the same
            if pane.restarts == restarts and len(chat.messages) > len(pane.costs):
                pane.costs.append(replace(said, text=chat.messages[-1][1], is_finished=True))
        if visitor.panes[name] is pane and pane.restarts == restarts:
            yield Shown(talks={name: self._talk_with(visitor, name, text, said if said.error else None)})
        return said

    def stop(self, session: str | None) -> None:
        """Ends the visitor's answer as it is."""
        self.visitors.of(session).end_answer()

    def restart(self, session: str | None) -> Shown:
        """Begins new conversations about the same picture."""
        visitor = self.visitors.of(session)
        visitor.end_answer()
        with self._model_lock:  # the answer that was being given has ended
            for pane in visitor.panes.values():
                pane.restart()
        return Shown(talks={name: self._talk(visitor, name) for name in PANES})

    def leave(self, session: str | None) -> None:
        """The page is closed, or its browser is gone."""
        self.visitors.forget(session)

    # ----- Parts ---------------------------------------------------------------

    def _keep_warm(self, chats: list[Chat]) -> None:
        """Only these conversations keep their cache from now on: half a megabyte a token for 7B."""
        with self._model_lock:
            for chat in self._warm:
                if chat not in chats:
                    chat.release()
            self._warm = WeakSet(chats)

    def _picture_of(self, data: Any) -> Image.Image:
        if not isinstance(data, Mapping):
            raise ValueError(_NO_PICTURE)
        number = data.get("example")
        if number is not None:
            if type(number) is not int or not 0 <= number < len(self.examples):
                raise ValueError("there is no such example")
            return self.examples[number][1]
        return read_upload(data.get("data"), data.get("name"), self.limits, self.inference.model.config)

    def _choice(self, picture: ShownPicture, sent: Sent) -> Choice:
        """The settings of a pane.

        Raises:
            ValueError: They are not what the page offers.
        """
        if sent.method not in self.methods:
            raise ValueError(f"there is no method {sent.method!r:.40}")
        if sent.method == HAND:
            picks = read_picks(sent.picks, picture.image.num_tiles, self.inference.model.num_patches)
            return Choice(HAND, picks=picks)
        if sent.method == ALL:
            return Choice(ALL)
        tokens, merged = (_whole(value) for value in (sent.tokens, sent.merged or 0))
        ranges = range_of(self.inference.model, sent.method, tokens)
        return Choice(sent.method, tokens, min(merged, ranges.most_merged))

    def _check_question(self, visitor: Visitor, question: Any) -> tuple[ShownPicture, str]:
        text = question.strip() if isinstance(question, str) else ""
        if visitor.picture is None:
            raise ValueError(_NO_PICTURE)
        if not text:
            raise ValueError("Write a question first.")
        if len(text) > self.limits.question_characters:
            raise ValueError(f"A question has {self.limits.question_characters} characters at most.")
        check_text(text)
        if any(len(pane.costs) >= self.limits.turns for pane in visitor.panes.values()):
            raise ValueError(f"A conversation has {self.limits.turns} turns at most: begin a new one.")
        return visitor.picture, text

    def _asked(self, visitor: Visitor, question: Any) -> str:
        """What a method that reads the question is to read: what stands in the box, or else the latest question."""
        text = question[: self.limits.question_characters] if isinstance(question, str) else ""
        said = [pane.chat.messages[-1][0] for pane in visitor.panes.values() if pane.chat and pane.chat.messages]
        return text if text.strip() or not said else said[0]

    def _turns(self, visitor: Visitor, name: str) -> list[tuple[str, Answering]]:
        pane = visitor.panes[name]
        questions = [question for question, _ in pane.chat.messages] if pane.chat else []
        return list(zip(questions, pane.costs, strict=False))

    def _talk(self, visitor: Visitor, name: str) -> str:
        return show_talk(self._turns(visitor, name), self._all_tokens(visitor))

    def _talk_with(
        self, visitor: Visitor, name: str, question: str, growing: Answering | None, beside: Turns | None = None
    ) -> str:
        """The conversation, and behind it an answer that is not part of it, or not yet."""
        more = [] if growing is None else [(question, growing)]
        return show_talk([*self._turns(visitor, name), *more], self._all_tokens(visitor), beside)

    def _other(self, visitor: Visitor, name: str, given: Mapping[str, Answering]) -> Turns | None:
        other = next((each for each in given if each != name), None)
        return None if other is None or given[other].error else self._turns(visitor, other)

    def _all_tokens(self, visitor: Visitor) -> int:
        """Visual tokens of the picture without compression."""
        if visitor.picture is None:
            return 0
        return sum(self.inference.model.num_visual_tokens([visitor.picture.image.size]))


def _whole(value: Any) -> int:
    """A whole number of a slider.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) > 1e6:
        raise ValueError(f"{value!r:.40} is no number of tokens")
    return int(value)
