"""Answers a kit's requests with `Inference`: whatever the kit's order, an image is encoded once for all its questions.

A kit gives its images as freshly decoded pictures, one for each request, and more than memory would hold. So they are
looked at twice: once for a digest, by which requests about the same picture are brought together, and once for use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.eval.kits.generation_settings import Generation
from llava.eval.kits.likelihood import Likelihood, likelihoods
from llava.images.source import ImageSource, UnreadableImageError, source_key
from llava.inference import Answer, Inference, Question

_WINDOW = 256  # requests whose pictures are in memory at the same time

Documents = Mapping[str, Mapping[str, Any]]
"""Rows of a kit's data sets: task, split, number."""


@dataclass(frozen=True)
class Request:
    """One request of a kit.

    Attributes:
        text: What is asked.
        load_images: Makes the images, anew at each call.
        name: What it is called in messages.
    """

    text: str
    load_images: Callable[[], list[ImageSource]]
    name: str

    @classmethod
    def of(cls, text: Any, place: tuple[Callable[[Any], Any], Any, str, str], docs: Documents) -> Request:
        """Takes what lmms-eval puts into every request.

        Args:
            text: What is asked.
            place: What makes images of a document, its number, task and split.
            docs: The data sets.

        Raises:
            ValueError: The prompt is not a text.
        """
        to_visual, number, task, split = place
        name = f"task {task}, split {split}, document {number}"
        if isinstance(text, list | tuple) and len(text) == 1:
            text = text[0]
        if not isinstance(text, str):
            raise ValueError(f"{name}: the prompt must be a text, got {text!r}")

        def load_images() -> list[ImageSource]:
            try:
                return _as_images(to_visual(docs[task][split][number]))
            except TypeError as error:
                raise ValueError(f"{name}: {error}") from error
            except OSError as error:
                raise UnreadableImageError(f"{name}: cannot read its image: {error}") from error

        return cls(text, load_images, name)

    def prompt(self, num_images: int) -> str:
        """The user's words with `<image>` where the images belong, by lmms-eval's rule: in front, on one line.

        Raises:
            ValueError: The text names another number of images.
        """
        named = self.text.count(DEFAULT_IMAGE_TOKEN)
        if not named and num_images:
            return " ".join([DEFAULT_IMAGE_TOKEN] * num_images) + "\n" + self.text
        if named != num_images:
            raise ValueError(f"{self.name}: the text has {named} {DEFAULT_IMAGE_TOKEN} but {num_images} images come")
        return self.text


class RequestAnswerer:
    """Answers requests of lmms-eval's form; knows nothing of lmms-eval."""

    def __init__(self, inference: Inference, batch_size: int | None = 1) -> None:
        """Takes a model.

        Args:
            inference: The model.
            batch_size: Questions a batch; None is what the memory takes. It changes no answer.
        """
        self.inference = inference
        self.batch_size = batch_size
        self.images_encoded = 0
        self.image_uses = 0

    def generate(
        self, arguments: Sequence[tuple[Any, ...]], docs: Documents, on_answer: Callable[[], None] = lambda: None
    ) -> list[Answer]:
        """Answers `generate_until` requests.

        Args:
            arguments: Of each request (text, generation_kwargs, doc_to_visual, doc_id, task, split).
            docs: The data sets.
            on_answer: Called for each answer, for a progress bar.

        Returns:
            Answers in the order of the requests, texts cut at `until`.

        Raises:
            ValueError: A setting cannot be followed, or a text does not fit its images; raised before any is answered.
            UnreadableImageError: An image cannot be read; the message names the document.
        """
        requests = [Request.of(request[0], request[2:], docs) for request in arguments]
        generations = [Generation.read(request[1] or {}) for request in arguments]
        images = _digests(requests)
        answers: dict[int, Answer] = {}
        for generation in dict.fromkeys(generations):
            chosen = [number for number, asked in enumerate(generations) if asked == generation]
            for window, questions in _windows(chosen, requests, images):
                options = generation.options
                for answer in self.inference.ask(questions, batch_size=self.batch_size, options=options):
                    number = window[answer.index]
                    answers[number] = _renamed(answer, number, generation.cut(answer.text))
                    on_answer()
                self._count(self.inference.usage.images_encoded, questions)
        return [answers[number] for number in range(len(requests))]

    def likelihoods(
        self, arguments: Sequence[tuple[Any, ...]], docs: Documents, on_answer: Callable[[], None] = lambda: None
    ) -> list[Likelihood]:
        """Answers `loglikelihood` requests.

        Args:
            arguments: Of each request (text, answer, doc_to_visual, doc_id, task, split); the answer a text, or what
                makes one of the document.
            docs: The data sets.
            on_answer: Called for each answer.

        Returns:
            Likelihoods in the order of the requests.

        Raises:
            ValueError: A request is without a document (lmms-eval's `acc_mutual_info`), has an empty answer, or its
                text does not fit its images.
            UnreadableImageError: An image cannot be read; the message names the document.
        """
        if any(len(request) < 6 for request in arguments):
            raise ValueError(
                "a request gives no document, as acc_mutual_info of lmms-eval does; it takes log-probabilities where "
                "acc takes losses, so no answer suits both: take it out of the task's metric_list"
            )
        requests = [Request.of(request[0], request[2:], docs) for request in arguments]
        targets = [_target(target, docs[task][split], number) for _, target, _, number, task, split in arguments]
        images = _digests(requests)
        found: dict[int, Likelihood] = {}
        for window, questions in _windows(range(len(requests)), requests, images):
            scored = [(question, targets[number]) for number, question in zip(window, questions, strict=True)]
            for index, likelihood in likelihoods(self.inference, scored, batch_size=self.batch_size):
                found[window[index]] = likelihood
                on_answer()
            self._count(len({source_key(image) for question in questions for image in question.images}), questions)
        return [found[number] for number in range(len(requests))]

    def _count(self, encoded: int, questions: Iterable[Question]) -> None:
        self.images_encoded += encoded
        self.image_uses += sum(len(question.images) for question in questions)


def _target(target: Any, rows: Any, number: Any) -> str:
    return str(target(rows[number])) if callable(target) else str(target)


def _renamed(answer: Answer, index: int, text: str) -> Answer:
    return Answer(index, text, answer.token_ids, answer.prompt_tokens, answer.visual_tokens, answer.lost_tokens)


def _as_images(visuals: Any) -> list[ImageSource]:
    """What `doc_to_visual` gave: images, or nothing (`[]`, None, `[None]`).

    Raises:
        TypeError: It is something else, a video perhaps.
    """
    listed = list(visuals) if isinstance(visuals, list | tuple) else [visuals]
    if any(visual is None for visual in listed):
        return []
    for visual in listed:
        if not isinstance(visual, Image | str | bytes):
            raise TypeError(f"only images can be looked at, got a {type(visual).__name__}")
    return listed


def _digests(requests: Sequence[Request]) -> list[list[str]]:
    """What each request's images look like, by which equal ones are known; every prompt is checked on the way."""
    digests = []
    for request in requests:
        images = request.load_images()
        request.prompt(len(images))
        digests.append([_digest(image) for image in images])
    return digests


def _digest(image: ImageSource) -> str:
    if not isinstance(image, Image):
        return source_key(image)
    pixels = hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest()
    return f"{image.mode} {image.size} {pixels}"


def _windows(
    chosen: Iterable[int], requests: Sequence[Request], digests: Sequence[Sequence[str]]
) -> Iterator[tuple[list[int], list[Question]]]:
    """Portions of the requests with their questions; those about one image stand together, and share its pixels."""
    groups: dict[str, list[int]] = {}
    for number in chosen:
        groups.setdefault(digests[number][0] if digests[number] else "", []).append(number)
    window: list[int] = []
    for group in groups.values():
        if window and len(window) + len(group) > _WINDOW:
            yield window, _questions(window, requests, digests)
            window = []
        window = window + group
    if window:
        yield window, _questions(window, requests, digests)


def _questions(window: Sequence[int], requests: Sequence[Request], digests: Sequence[Sequence[str]]) -> list[Question]:
    pictures: dict[str, ImageSource] = {}
    questions = []
    for number in window:
        if any(digest not in pictures for digest in digests[number]):
            for digest, picture in zip(digests[number], requests[number].load_images(), strict=True):
                pictures.setdefault(digest, picture)
        images = tuple(pictures[digest] for digest in digests[number])
        questions.append(Question(requests[number].prompt(len(images)), images))
    return questions
