"""What a client may say: the body of a request for chat completions, and which of OpenAI's fields mean what here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llava.inference import GenerationOptions
from llava.serve.api.errors import invalid
from llava.serve.api.limits import Limits

# Fields that would change the answer, with the values that ask for nothing.
_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "audio": (None,),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "prediction": (None,),
    "presence_penalty": (None, 0),
    "reasoning_effort": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "verbosity": (None,),
    "web_search_options": (None,),
}
# Fields that say something about the client or to OpenAI's own machines.
_IGNORED = frozenset(
    {
        *("metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"),
        *("service_tier", "store", "user"),
    }
)
_IGNORED_IN_MESSAGES = frozenset({"annotations", "name"})
_MOST_FIELDS = 64
_FIRST_MISTAKE = Field(fail_fast=True)


class _Strict(BaseModel):
    """Pydantic tells of every mistake, which in a body of a million takes minutes and gigabytes: so only few can be."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and len(value) > _MOST_FIELDS:
            raise ValueError(f"more than {_MOST_FIELDS} fields")
        return value


class ImageUrl(_Strict):
    """Where an image is. `detail` is ignored: the budget says how many tokens an image takes."""

    url: str
    detail: str | None = None


class TextPart(_Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ImagePart(_Strict):
    """A part of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Strict):
    """One message."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], _FIRST_MISTAKE] | None = None


class StreamOptions(_Strict):
    """What a stream has besides the answer. Nothing is obfuscated here."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class ChatRequest(_Strict):
    """The body of `POST /v1/chat/completions`."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str
    messages: list[Message] = Field(min_length=1, fail_fast=True)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    n: int | None = Field(None, ge=1)
    stop: str | Annotated[list[str], _FIRST_MISTAKE] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts at which an answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def includes_usage(self) -> bool:
        """Whether the end of a stream says what it has cost."""
        return self.stream_options is not None and self.stream_options.include_usage

    def new_tokens(self, limits: Limits) -> int:
        """The most tokens of an answer.

        Raises:
            ApiError: They are more than this server gives.
        """
        name = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        asked = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        if asked is not None and asked > limits.new_tokens:
            raise invalid(f"{name} is {asked}, and this server's answers have at most {limits.new_tokens} tokens", name)
        return asked or limits.new_tokens

    def check(self, limits: Limits) -> None:
        """Refuses what this server does not do.

        Raises:
            ApiError: A field is not supported, not known, or beyond a limit; the message names it.
        """
        for name, value in (self.model_extra or {}).items():
            if name in _REFUSED and value not in _REFUSED[name]:
                raise invalid(f"{name} is not supported by this server; leave it out", name, "unsupported_parameter")
            if name not in _REFUSED and name not in _IGNORED:
                raise invalid(f"there is no parameter {name[:60]!r}", name[:60], "unknown_parameter")
        for place, message in enumerate(self.messages):
            for name, value in (message.model_extra or {}).items():
                if value not in (None, []) and name not in _IGNORED_IN_MESSAGES:
                    raise invalid(f"{name[:60]!r} of a message is not supported", f"messages.{place}")
        if (self.n or 1) > limits.choices:
            raise invalid(f"n is {self.n}, and this server gives at most {limits.choices} answers", "n")
        if len(self.stops) > limits.stops or not all(0 < len(stop) <= limits.stop_characters for stop in self.stops):
            most = limits.stop_characters
            raise invalid(
                f"stop takes at most {limits.stops} texts, none of them empty or over {most} characters", "stop"
            )
        try:
            GenerationOptions(self.new_tokens(limits), self.temperature or 0.0)
        except ValueError as error:  # too small to divide by
            raise invalid(str(error), "temperature") from None
