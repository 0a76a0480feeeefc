"""In which order questions are asked, so that what they share is computed once and batches hold little padding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llava.images.source import ImageSource, source_key
from llava.inference.prefix import PrefixKey, shared_prefixes
from llava.inference.question import Question
from llava.prompts.around import count_tokens


@dataclass
class Prepared:
    """A question that is ready but for its images' features.

    Attributes:
        index: Its place in the call.
        input_ids: Its prompt, -200 for each image.
        keys: Its images, by key.
        sources: The same, to be opened.
        image_tokens: Visual tokens of each; of an adaptive budget the most, until it is encoded.
        question: What is asked, where it decides what is kept of the images; else empty.
        prefix: What other questions begin with too; None if nothing is shared.
    """

    index: int
    input_ids: list[int]
    keys: list[str]
    sources: list[ImageSource]
    image_tokens: list[int]
    question: str = ""
    prefix: PrefixKey | None = None

    @property
    def names(self) -> list[str]:
        """What the prompt has of its images, by name: the same for two prompts if their features are."""
        return [f"{key}\0{self.question}" for key in self.keys] if self.question else self.keys

    @property
    def length(self) -> int:
        """Tokens of the prompt, visual ones included."""
        return count_tokens(self.input_ids, self.image_tokens)[0]


def same_images_together(questions: Sequence[Question]) -> list[int]:
    """Order of the questions in which those with the same first image stand together, else unchanged."""
    first_seen: dict[str, int] = {}
    for index, question in enumerate(questions):
        first_seen.setdefault(source_key(question.images[0]) if question.images else "", index)
    return sorted(
        range(len(questions)),
        key=lambda i: first_seen[source_key(questions[i].images[0]) if questions[i].images else ""],
    )


def with_prefixes(items: Sequence[Prepared], *, text_too: bool, images_too: bool = True) -> list[Prepared]:
    """Says of each question what others begin with too; see `shared_prefixes`."""
    prompts = [(item.input_ids, item.names, item.length) for item in items]
    shared = shared_prefixes(prompts, text_too=text_too, images_too=images_too)
    return [replace(item, prefix=prefix) for item, prefix in zip(items, shared, strict=True)]


def by_length(items: Sequence[Prepared]) -> list[Prepared]:
    """Shortest first; those that share images stand together, the longest deciding, behind those that share none."""
    longest: Counter[PrefixKey] = Counter()
    first: dict[PrefixKey, int] = {}
    for item in items:
        if item.prefix is not None:
            longest[item.prefix] = max(longest[item.prefix], item.length)
            first.setdefault(item.prefix, item.index)

    def order(item: Prepared) -> tuple[bool, int, int, int, int]:
        if item.prefix is None or not item.prefix[1]:
            return False, item.length, item.index, 0, 0
        return True, longest[item.prefix], first[item.prefix], item.length, item.index

    return sorted(items, key=order)
