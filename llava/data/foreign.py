"""Conversations in the forms of other programs, as entries of LLaVA's.

ShareGPT's and OpenAI's, as LLaMA-Factory, ms-swift and TRL write them: `messages` of `role` and `content` (or
`conversations` of `from` and `value`), `images` beside them or inside the content, a `system` turn or entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from llava.constants import DEFAULT_IMAGE_TOKEN

Record = dict[str, Any]
_TURNS, _ROLES, _TEXTS = ("conversations", "messages"), ("from", "role"), ("value", "content")
_IMAGES = ("image", "images")
_SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
_SPEAKERS |= {"system": "system", "developer": "system"}
_NOT_A_FILE = re.compile(r"data:|[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_OTHER_MEDIA = ("videos", "audios")
_NO_PLACE = ("tools", "objects")  # what calls and boxes in the texts would need
_BAD_IF_FALSE = ("label", "kto_tag")  # of an answer that is not to be given
_SHARE_LEARNED = ("loss", "weight", "train")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")


@dataclass
class Options:
    """What the form of others leaves open.

    Attributes:
        drop_system: Leave system texts out instead of putting them in front of the first question.
        image_first: Put `<image>` in front of the first question of an entry that has images and no `<image>`.
    """

    drop_system: bool = False
    image_first: bool = False


@dataclass
class _Images:
    """Names of images in the order of their placeholders; `beside` are those that stand outside of the texts."""

    beside: Iterator[str]
    placed: list[str] = field(default_factory=list)

    def place(self, text: str) -> str:
        """Takes an image from beside the texts for each placeholder of a text, as far as there are any."""
        self.placed += [name for _, name in zip(range(text.count(DEFAULT_IMAGE_TOKEN)), self.beside, strict=False)]
        return text


def looks_foreign(record: Any) -> bool:
    """Whether an entry is in one of these forms rather than in LLaVA's."""
    if not isinstance(record, dict):
        return False
    if isinstance(record.get("messages"), list):
        return True
    turns = record.get("conversations")
    if not isinstance(turns, list):
        return False
    return bool(record.get("images") and not record.get("image")) or any(
        isinstance(turn, dict)
        and ("role" in turn or "content" in turn or turn.get("from") in ("user", "assistant", "system", "developer"))
        for turn in turns
    )


def to_llava(record: Any, options: Options) -> Record:
    """An entry in LLaVA's form; one that is in it comes back as it is, but for what the options ask for.

    Args:
        record: An entry of the JSON.
        options: What its form leaves open.

    Returns:
        `{id?, image?, conversations, ...}`; entries of other names stay.

    Raises:
        ValueError: It holds what LLaVA's form has no place for, or is in no known form.
    """
    if not isinstance(record, dict):
        raise ValueError(f"an entry must be an object, and is {record!r:.80}")
    turns = _one_of(record, _TURNS)
    if not isinstance(turns, list):
        raise ValueError(f"there is no list `messages` or `conversations`, but {', '.join(record) or 'nothing'}")
    _check_entries(record)
    images = _Images(iter(_beside(record)))
    spoken = [_turn(turn, images) for turn in turns]
    if record.get("system"):
        if not isinstance(record["system"], str):
            raise ValueError(f"`system` is no text, but {record['system']!r:.80}")
        spoken.insert(0, ("system", record["system"]))
    spoken = _without_system(spoken, options)
    left = list(images.beside)
    is_text_only = not looks_foreign(record) and not any(name in record for name in _IMAGES)
    if not images.placed and not left and not is_text_only and any(DEFAULT_IMAGE_TOKEN in text for _, text in spoken):
        raise ValueError(f"the texts hold {DEFAULT_IMAGE_TOKEN}, and the entry names no image")
    if left and not images.placed and options.image_first:
        spoken = _with_placeholders(spoken, len(left))
    placed: Any = [*images.placed, *left]
    if len(placed) == 1 and not isinstance(record.get("image"), list):
        (placed,) = placed
    other = {name: value for name, value in record.items() if name not in (*_TURNS, *_IMAGES, "system")}
    converted = [{"from": speaker, "value": text} for speaker, text in spoken]
    return {**other, **({"image": placed} if placed else {}), "conversations": converted}


def _check_entries(record: Record) -> None:
    """Refuses what stands beside the turns and would be lost, or learned as what it is not.

    Raises:
        ValueError: There is such an entry; names it.
    """
    is_foreign = looks_foreign(record)
    for name in (*_OTHER_MEDIA, *(_NO_PLACE if is_foreign else ())):
        if record.get(name):
            raise ValueError(f"`{name}` have no place in LLaVA's form")
    for name in _BAD_IF_FALSE if is_foreign else ():
        if record.get(name) is False:
            raise ValueError(f"`{name}` is false: the answer is a bad one, and training would learn it")


def _beside(record: Record) -> list[str]:
    """The images of an entry that do not stand inside its texts.

    Raises:
        ValueError: One is no file.
    """
    named = _one_of(record, _IMAGES)
    names = [] if named is None else named if isinstance(named, list) else [named]
    return [_file_of(name) for name in names]


def _one_of(record: Record, names: tuple[str, ...]) -> Any:
    """What an entry has under one of several names.

    Raises:
        ValueError: It has two of them.
    """
    there = [name for name in names if record.get(name)]
    if len(there) > 1:
        raise ValueError(f"there are both `{there[0]}` and `{there[1]}`")
    return record[there[0]] if there else None


def _turn(turn: Any, images: _Images) -> tuple[str, str]:
    """Speaker and text; the images inside are noted.

    Raises:
        ValueError: Nobody of LLaVA's form says it, or it holds more than text and images.
    """
    if not isinstance(turn, dict):
        raise ValueError(f"a turn must be an object, and is {turn!r:.80}")
    role, content = _one_of(turn, _ROLES), _one_of(turn, _TEXTS)
    speaker = _SPEAKERS.get(role) if isinstance(role, str) else None
    if speaker is None:
        raise ValueError(f"a turn of {role!r:.40} has no place in LLaVA's form, which knows human and gpt")
    if turn.get("tool_calls") or turn.get("function_call"):
        raise ValueError("a turn calls a tool, which has no place in LLaVA's form")
    for name in _THOUGHTS:
        if turn.get(name):
            raise ValueError(f"a turn has `{name}`, which has no place in LLaVA's form")
    for name in _SHARE_LEARNED:
        if speaker == "gpt" and turn.get(name) not in (None, True, 1):
            raise ValueError(
                f"a turn has `{name}` {turn[name]!r:.40}, and in LLaVA's form every answer is learned whole"
            )
    if isinstance(content, list):
        text = "\n".join(part for part in (_part(part, images) for part in content) if part)
    elif content is None or isinstance(content, str):
        text = images.place(content or "")
    else:
        raise ValueError(f"the text of a turn is {content!r:.80}")
    if speaker == "gpt" and not text.strip():
        raise ValueError("an answer is empty, and training on it would teach to say nothing")
    return speaker, text


def _part(part: Any, images: _Images) -> str:
    """A piece of OpenAI's content, as text."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "input_text") and isinstance(part.get("text"), str):
        return images.place(part["text"])
    if kind not in ("image", "image_url", "input_image"):
        raise ValueError(f"a part of a turn is neither text nor image: {part!r:.80}")
    named = next((part[name] for name in ("image", "image_url", "path", "url") if part.get(name)), None)
    if named is None:
        return images.place(DEFAULT_IMAGE_TOKEN)
    images.placed.append(_file_of(named))
    return DEFAULT_IMAGE_TOKEN


def _file_of(image: Any) -> str:
    """The path of an image, given as such or as `{path}` or `{url}`.

    Raises:
        ValueError: It is no file.
    """
    if isinstance(image, dict):
        image = image.get("path") or image.get("url")
    is_address = isinstance(image, str) and not image.startswith("file://") and _NOT_A_FILE.match(image)
    if not isinstance(image, str) or is_address:
        raise ValueError(f"image {image!r:.60} is no file; save it in the image folder and name it by its path")
    return unquote(image.removeprefix("file://")) if image.startswith("file://") else image


def _without_system(spoken: list[tuple[str, str]], options: Options) -> list[tuple[str, str]]:
    """LLaVA's templates bring a system text of their own: another one goes in front of the first question, or out."""
    system = [text for speaker, text in spoken if speaker == "system"]
    rest = [(speaker, text) for speaker, text in spoken if speaker != "system"]
    if any(speaker == "system" for speaker, _ in spoken[len(system) :]):
        raise ValueError("a system turn stands behind the first question")
    if options.drop_system and any(DEFAULT_IMAGE_TOKEN in text for text in system):
        raise ValueError("the system text that is to be left out holds an image")
    if not system or options.drop_system:
        return rest
    return _before_first_question(rest, lambda text: "\n".join([*filter(None, system), text]))


def _with_placeholders(spoken: list[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    return _before_first_question(spoken, lambda text: f"{DEFAULT_IMAGE_TOKEN}\n" * count + text)


def _before_first_question(spoken: Iterable[tuple[str, str]], change: Callable[[str], str]) -> list[tuple[str, str]]:
    changed = list(spoken)
    for number, (speaker, text) in enumerate(changed):
        if speaker == "human":
            changed[number] = (speaker, change(text))
            return changed
    raise ValueError("there is no question")
