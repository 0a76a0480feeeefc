"""What is kept of each visitor, apart from the others and apart from the page."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from llava.inference import Inference
from llava.serve.chat import Chat
from llava.serve.web.answering import Answering
from llava.serve.web.choice import Choice, ChosenImages
from llava.serve.web.drawing import ShownPicture

PANES = ("A", "B")


@dataclass
class Pane:
    """One side of the page.

    Attributes:
        choice: What its conversation was last given; None before the first question.
        chat: The conversation.
        costs: Of each of its answers.
        restarts: How often it began anew; an answer that was begun before belongs to none.
    """

    choice: Choice | None = None
    chat: Chat | None = None
    costs: list[Answering] = field(default_factory=list)
    restarts: int = 0

    def chat_under(self, inference: Inference, picture: ShownPicture, choice: Choice) -> Chat:
        """The conversation, with the picture as this choice leaves it; the tower is not run.

        Raises:
            ValueError: The model cannot have that choice.
        """
        if self.chat is None:
            # The picture is only counted there: `ChosenImages` says what is known of it.
            self.chat = Chat(inference, ["upload"], ChosenImages(inference, picture.image, choice))
        elif choice != self.choice:
            self.chat.look_anew(ChosenImages(inference, picture.image, choice))
        self.choice = choice
        return self.chat

    def restart(self) -> None:
        """Begins a new conversation about the same picture."""
        self.restarts += 1
        self.costs.clear()
        if self.chat is not None:
            self.chat.restart()


@dataclass
class Visitor:
    """One open page.

    Attributes:
        picture: The picture; None before the first.
        panes: By name.
        stop: Ends the answer that is being given.
    """

    picture: ShownPicture | None = None
    panes: dict[str, Pane] = field(default_factory=lambda: {name: Pane() for name in PANES})
    stop: threading.Event = field(default_factory=threading.Event)

    def show(self, picture: ShownPicture) -> None:
        """Another picture: both conversations begin anew."""
        self.end_answer()
        self.picture = picture
        self.panes = {name: Pane() for name in PANES}

    def begin_answer(self) -> threading.Event:
        """What ends the answer that is about to begin."""
        self.stop = threading.Event()
        return self.stop

    def end_answer(self) -> None:
        """Ends the answer that is being given, if one is."""
        self.stop.set()


class Visitors:
    """All visitors, as many as are allowed; whoever was away longest is forgotten first."""

    def __init__(self, most: int) -> None:
        """Begins without any.

        Args:
            most: How many are kept.
        """
        self._most = most
        self._known: OrderedDict[str, Visitor] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, session: str | None) -> Visitor:
        """The visitor of a page, new or known.

        Args:
            session: The page's own random name.

        Raises:
            ValueError: It has none.
        """
        if not session:
            raise ValueError("this request is of no page")
        with self._lock:
            visitor = self._known.setdefault(session, Visitor())
            self._known.move_to_end(session)
            while len(self._known) > self._most:
                self._known.popitem(last=False)[1].end_answer()
            return visitor

    def forget(self, session: str | None) -> None:
        """Ends what a visitor is being answered and lets go of the picture; the page is closed."""
        with self._lock:
            visitor = self._known.pop(session or "", None)
        if visitor is not None:
            visitor.end_answer()
