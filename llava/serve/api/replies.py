"""What is sent back: whole answers, and the chunks of a stream, as OpenAI writes them."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llava.serve.api.errors import ApiError, as_json
from llava.serve.api.row import Finished, Piece


@dataclass(frozen=True)
class Replies:
    """Of one request.

    Attributes:
        model: As the request names it.
        num_images: That the request has.
        identity: Of the reply.
        created: When, in seconds.
    """

    model: str
    num_images: int
    identity: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, ends: Sequence[Finished]) -> dict[str, Any]:
        """The reply to a request that does not stream."""
        choices = [
            {
                "index": place,
                "message": {"role": "assistant", "content": end.text, "refusal": None},
                "logprobs": None,
                "finish_reason": end.reason,
            }
            for place, end in enumerate(ends)
        ]
        return self._of("chat.completion", choices) | {"usage": self.usage(ends)}

    async def chunks(
        self, events: AsyncIterator[tuple[int, Piece | Finished]], *, includes_usage: bool
    ) -> AsyncIterator[bytes]:
        """The reply to a request that streams, as server-sent events.

        An error on the way is told in the stream, which then ends without its last word, `[DONE]`.
        """
        ends: dict[int, Finished] = {}
        begun: set[int] = set()
        try:
            async for place, event in events:
                if place not in begun:
                    begun.add(place)
                    yield self._chunk(place, {"role": "assistant", "content": ""}, None, includes_usage)
                if text := event.rest if isinstance(event, Finished) else event.text:
                    yield self._chunk(place, {"content": text}, None, includes_usage)
                if isinstance(event, Finished):
                    ends[place] = event
                    yield self._chunk(place, {}, event.reason, includes_usage)
        except ApiError as error:
            yield _event(error.to_json())
            return
        if includes_usage:
            yield _event(as_json(self._of("chat.completion.chunk", []) | {"usage": self.usage(list(ends.values()))}))
        yield _event(b"[DONE]")

    def usage(self, ends: Sequence[Finished]) -> dict[str, Any]:
        """What the answers have cost. The prompt counts once."""
        prompt, visual = ends[0].prompt_tokens, ends[0].visual_tokens
        new = sum(end.new_tokens for end in ends)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": new,
            "total_tokens": prompt + new,
            "prompt_tokens_details": {
                "visual_tokens": int(visual) if visual == int(visual) else visual,
                "images": self.num_images,
            },
        }

    def _chunk(self, place: int, delta: dict[str, Any], reason: str | None, includes_usage: bool) -> bytes:
        choice = {"index": place, "delta": delta, "logprobs": None, "finish_reason": reason}
        usage = {"usage": None} if includes_usage else {}
        return _event(as_json(self._of("chat.completion.chunk", [choice]) | usage))

    def _of(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.identity,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
