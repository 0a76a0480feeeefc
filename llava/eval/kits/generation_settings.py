"""What a kit's generation settings mean here: each is followed or refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llava.inference.question import GenerationOptions

_MAX_NEW_TOKENS = 1024  # what lmms-eval's wrappers take where a task says nothing
_KNOWN = ("do_sample", "max_new_tokens", "num_beams", "temperature", "top_p", "until")


@dataclass(frozen=True)
class Generation:
    """How a request is to be answered.

    Attributes:
        options: For `Inference`.
        until: Texts that end an answer; they are no part of it.
    """

    options: GenerationOptions
    until: tuple[str, ...] = ()

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Generation:
        """Reads the `generation_kwargs` of a task.

        Args:
            settings: `max_new_tokens` (1024 if not given), `temperature`, `top_p`, `num_beams`, `do_sample` and `until`
                (a text or several). `do_sample: false` is greedy whatever else is said; `top_p` is then not looked at.

        Raises:
            ValueError: A setting is unknown, of another type or out of range, or asks for what another one forbids.
        """
        unknown = sorted(set(settings) - set(_KNOWN))
        if "image_aspect_ratio" in unknown:
            raise ValueError(
                f"generation_kwargs: image_aspect_ratio={settings['image_aspect_ratio']!r} is a setting of the model: "
                "leave it out, or give image_aspect_ratio=... among --model_args"
            )
        if unknown:
            raise ValueError(
                f"generation_kwargs: {', '.join(f'{name}={settings[name]!r}' for name in unknown)} cannot be followed; "
                f"known are {', '.join(_KNOWN)}"
            )
        temperature = _number(settings, "temperature", 0.0)
        do_sample = settings.get("do_sample")
        if do_sample not in (None, True, False):
            raise ValueError(f"generation_kwargs: do_sample must be true or false, got {do_sample!r}")
        if do_sample and temperature == 0:
            raise ValueError("generation_kwargs: do_sample=true needs a temperature above 0")
        samples = do_sample is not False and temperature > 0
        options = GenerationOptions(
            max_new_tokens=int(_number(settings, "max_new_tokens", _MAX_NEW_TOKENS, whole=True)),
            temperature=temperature if samples else 0.0,
            top_p=_number(settings, "top_p", 1.0) if samples else None,
            num_beams=int(_number(settings, "num_beams", 1, whole=True)),
        )
        return cls(options, _until(settings.get("until")))

    def cut(self, text: str) -> str:
        """The answer up to the first of the texts that end it, surrounding space removed."""
        for end in self.until:
            text = text.split(end, 1)[0]
        return text.strip()


def _number(settings: Mapping[str, Any], name: str, default: float, *, whole: bool = False) -> float:
    """A setting that is a number; None is as good as not given.

    Raises:
        ValueError: It is something else.
    """
    value = settings.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ValueError(f"generation_kwargs: {name} must be a {'whole ' if whole else ''}number, got {value!r}")
    return value


def _until(value: Any) -> tuple[str, ...]:
    """The texts that end an answer; an empty one ends nothing.

    Raises:
        ValueError: There is something else than texts.
    """
    ends = [value] if isinstance(value, str) else list(value or ())
    if not all(isinstance(end, str) for end in ends):
        raise ValueError(f"generation_kwargs: until must be a text or a list of texts, got {value!r}")
    return tuple(end for end in ends if end)
