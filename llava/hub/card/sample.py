"""The sample question of a card: in README.md's front matter under `sample`, its picture beside it.

It is not a file of its own: evaluation knows a model by its folder's JSON files, and a card must not change that.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

README = "README.md"
ENTRY = "sample"
_IMAGE_STEM = "card_sample"
_FRONT_MATTER = re.compile(r"\s*---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class CardSample:
    """A question, and what the checkpoint answers.

    Attributes:
        image: Name of a file in the folder of the card.
        question: As a user would type it.
        conv_mode: Template of `llava.conversation`.
        max_new_tokens: Most tokens of an answer; decoding is greedy.
        dtype: Of the model that answered.
        answers: By compression in its short form; `none` is the answer with all visual tokens.
    """

    image: str
    question: str
    conv_mode: str
    max_new_tokens: int
    dtype: str
    answers: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """The entry of the front matter."""
        return asdict(self)


def read_sample(folder: Path) -> CardSample | None:
    """The sample of a folder's card; None if there is no card, or none in it.

    Raises:
        ValueError: It is damaged, or names a picture that is not there.
    """
    file = folder / README
    if not file.is_file():
        return None
    entry = read_front_matter(file).get(ENTRY)
    if entry is None:
        return None
    types = {"image": str, "question": str, "conv_mode": str, "max_new_tokens": int, "dtype": str, "answers": dict}
    given = entry if isinstance(entry, dict) else {}
    wrong = [name for name, kind in types.items() if not isinstance(given.get(name), kind)]
    if wrong:
        raise ValueError(f"{file}: {ENTRY} of the front matter: missing or of another type: {', '.join(wrong)}")
    sample = CardSample(**{field.name: entry[field.name] for field in fields(CardSample)})
    if Path(sample.image).name != sample.image or not (folder / sample.image).is_file():
        raise ValueError(f"{file}: {ENTRY}.image {sample.image!r} is no file beside the card")
    return sample


def is_picture(file: Path) -> bool:
    """Whether a file is the picture of a card's sample."""
    return file.stem == _IMAGE_STEM


def read_front_matter(file: Path) -> dict[str, Any]:
    """The metadata of a card.

    Raises:
        ValueError: They are not valid YAML, or not entries with names.
    """
    return parse_front_matter(file.read_text(encoding="utf-8"), str(file))


def parse_front_matter(text: str, where: str) -> dict[str, Any]:
    """The metadata at the head of a card's text; none if it has no such head.

    Args:
        text: Of the card.
        where: For the message.

    Raises:
        ValueError: They are not valid YAML, or not entries with names.
    """
    import yaml

    match = _FRONT_MATTER.match(text)
    try:
        content = yaml.safe_load(match.group(1)) if match is not None else {}
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: the front matter is not valid YAML: {error}") from error
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"{where}: the front matter is a {type(content).__name__}, not entries with names")
    return content or {}


def ask_sample(
    folder: Path, image: Path, question: str, *, model_base: str | None = None, max_new_tokens: int = 32
) -> CardSample:
    """Asks the checkpoint with its own compression and with all tokens, on the CPU in float32; copies the picture.

    Args:
        folder: The checkpoint, which becomes the folder of the card.
        image: Any picture.
        question: About it.
        model_base: What a projector or adapters go on; by default what they name.
        max_new_tokens: Most tokens of an answer.

    Raises:
        ValueError: Checkpoint or picture cannot be read.
    """
    from llava.inference import GenerationOptions, Inference

    options = GenerationOptions(max_new_tokens=max_new_tokens)
    inference = Inference.load(folder, model_base, device="cpu", torch_dtype="float32")
    stored = inference.model.compression
    answers = {}
    for compression in dict.fromkeys((stored, None)):
        inference.model.set_compression(compression)
        answers[str(compression or "none")] = inference.ask_one(question, image, options=options).text
    name = _IMAGE_STEM + image.suffix.lower()
    if not (folder / name).exists() or not image.samefile(folder / name):
        shutil.copyfile(image, folder / name)
    for earlier in [file for file in folder.iterdir() if is_picture(file) and file.name != name]:
        earlier.unlink()
    return CardSample(name, question, inference.conv_mode, max_new_tokens, "float32", answers)
