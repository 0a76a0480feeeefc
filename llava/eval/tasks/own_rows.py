"""A row of a question file of one's own becomes a sample; training's `--eval_generate` makes its samples here too.

A row is LLaVA's entry with `conversations`, whose first question and answer count, or an object with `question` and
`answer`. LLaVA's other names are understood: `text`, `answers`, `options`, `question_id`, `category`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.eval.metrics.own_answers import FEWEST_ANNOTATORS, METRICS, earned
from llava.eval.tasks.base import EmbeddedImage, Sample
from llava.eval.tasks.local_files import OPTION_LETTER, with_tail
from llava.prompts.around import place_images

MAX_ANSWER_TOKENS = 128
"""Limit of an answer's length."""

_MOST_OPTIONS = 25  # the scorer's `Z` is no option
_LIST = (list, tuple)
_VIDEO = "<video>"  # in entries of training data; a clip stands in front of the question


def sample_of_row(
    row: Any,
    number: int,
    *,
    metric: str | None = None,
    annotated: bool = False,
    tail: str = "",
    images: Sequence[Path | EmbeddedImage] | None = None,
) -> Sample:
    """The sample that a row asks for.

    Args:
        row: The object.
        number: Stands for the row's id where it has none.
        metric: What it is scored by; by default what its own field `metric` says, else what its shape does.
        annotated: Whether lists of answers are those of annotators, and not answers of which each is right.
        tail: A line below the question, unless there are options, which have a line of their own.
        images: Those of the row where they are known; by default paths as the row names them.

    Returns:
        The sample; its details hold the metric, the answers and the options.

    Raises:
        ValueError: The row lacks something, or has something else in its place; the message names the field.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"{row!r:.80} is no object with `question` and `answer`")
    question, given = _exchange(row)
    placed = tuple(images) if images is not None else tuple(map(Path, _image_names(row)))
    video = row.get("video")
    if video is not None and (not isinstance(video, str) or not video):
        raise ValueError(f"video is {video!r:.80}, which is no file name")
    options = _options(row)
    answers = _answers(given)
    metric = metric or row.get("metric") or _metric_of(given, answers, options, annotated)
    if not isinstance(metric, str) or metric not in METRICS:
        raise ValueError(f"metric {metric!r} is none of {', '.join(METRICS)}")
    if options:
        letter = _letter(answers, options)
        answers = [letter] if metric == "choice" else [letter, options[letter]]
        question = with_tail(question, *(f"{key}. {option}" for key, option in options.items()), OPTION_LETTER)
    else:
        question = with_tail(question, tail) if tail else question
    if metric == "choice" and not options:
        raise ValueError("metric choice needs the options, a list or an object `choices`")
    if metric == "vqa" and len(answers) < FEWEST_ANNOTATORS:
        raise ValueError(
            f"metric vqa needs {FEWEST_ANNOTATORS} answers or more, for three others must agree; it has {len(answers)}"
        )
    place_images(question, len(placed), None)
    return Sample(
        sample_id=str(_first(row, "id", "question_id", default=number)),
        prompt=question,
        images=placed,
        answer=Counter(answers).most_common(1)[0][0] if metric == "vqa" else answers[0],
        group=str(_first(row, "type", "category", default="")),
        details={"metric": metric, "answers": answers, "options": options},
        video=None if video is None else Path(video),
    )


def earned_by(sample: Sample, text: str) -> float:
    """What a text earns as the answer to such a sample, between 0 and 1."""
    return earned(sample.details["metric"], text, sample.details["answers"], sample.details["options"])


def is_annotated(row: Any) -> bool:
    """Whether a row's answers are those of annotators: one is there twice, and there are enough for VQA accuracy."""
    given = _first(row, "answer", "answers") if isinstance(row, Mapping) else None
    if not isinstance(given, _LIST) or len(given) < FEWEST_ANNOTATORS:
        return False
    said = [str(each.get("answer") if isinstance(each, Mapping) else each) for each in given]
    return len(set(said)) < len(said)


def questions_in(row: Any) -> int:
    """How many questions a row holds, of which the first is asked."""
    turns = row.get("conversations") if isinstance(row, Mapping) else None
    if not isinstance(turns, list):
        return 1
    return sum(turn.get("from") == "human" for turn in turns if isinstance(turn, Mapping))


def _first(row: Mapping[str, Any], *names: str, default: Any = None) -> Any:
    """The first of several fields that is there and not null."""
    return next((row[name] for name in names if row.get(name) is not None), default)


def _exchange(row: Mapping[str, Any]) -> tuple[str, Any]:
    """The question without the places of images, and what the row holds as its answer."""
    if "conversations" in row:
        turns = row["conversations"]
        if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
            raise ValueError("conversations must be a list of {'from': 'human' or 'gpt', 'value': text}")
        turns = turns[1:] if turns and turns[0].get("from") == "gpt" else turns  # as LLaVA does
        if [turn.get("from") for turn in turns[:2]] != ["human", "gpt"]:
            raise ValueError("conversations must begin with a turn from 'human' and one from 'gpt'")
        question, answer = (turn.get("value") for turn in turns[:2])
    else:
        question, answer = _first(row, "question", "text"), _first(row, "answer", "answers")
    if not isinstance(question, str) or not (question.strip() or row.get("image") or row.get("video")):
        fields = ", ".join(map(str, row)) or "nothing"
        raise ValueError(f"question is {question!r:.80}, which is no text; the row has {fields}")
    if answer is None:
        raise ValueError(f"there is no answer; the row has {', '.join(map(str, row))}")
    image, video = row.get("image"), row.get("video")
    if video is not None:
        question = question.replace(_VIDEO, "").strip()
    if isinstance(image, list) and len(image) > 1:
        return question, answer  # the text says where each of them stands
    return question.replace(DEFAULT_IMAGE_TOKEN, "").strip() if image is not None else question, answer


def _image_names(row: Mapping[str, Any]) -> list[str]:
    if row.get("images") and row.get("image") is None:
        raise ValueError("its images stand in `images`; name the field `image`")
    image = row.get("image")
    names = image if isinstance(image, list) else [] if image is None else [image]
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"image is {name!r:.80}, which is no file name")
    return names


def _answers(given: Any) -> list[str]:
    """The answers as texts: numbers are written out, and VQAv2's objects stand for their `answer`."""
    listed = given if isinstance(given, _LIST) else [given]
    answers = []
    for each in listed:
        value = each.get("answer") if isinstance(each, Mapping) else each
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"answer is {value!r:.80}, which is neither text nor a number")
        answers.append(str(value))
    if not any(answer.strip() for answer in answers):
        raise ValueError("the answer is empty")
    return answers


def _options(row: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the options by letter; none where the row has no `choices`."""
    given = _first(row, "choices", "options")
    if given is None:
        return {}
    if not isinstance(given, list | Mapping) or not 2 <= len(given) <= _MOST_OPTIONS:
        raise ValueError(f"choices is {given!r:.80}, no list or object of 2 to {_MOST_OPTIONS} options")
    named = given if isinstance(given, Mapping) else dict(zip(ascii_uppercase, given, strict=False))
    for letter, option in named.items():
        if letter not in ascii_uppercase[:_MOST_OPTIONS] or len(letter) != 1:
            raise ValueError(
                f"choices: {letter!r:.20} is none of the letters A to {ascii_uppercase[_MOST_OPTIONS - 1]}"
            )
        if isinstance(option, bool) or not isinstance(option, str | int | float):
            raise ValueError(f"choices: {letter} is {option!r:.80}, which is neither text nor a number")
    return {letter: str(option) for letter, option in named.items()}


def _letter(answers: Sequence[str], options: Mapping[str, str]) -> str:
    """The letter of the right option, which the answer gives itself or by the option's text."""
    if len(answers) != 1:
        raise ValueError(f"a question with choices has one answer, not {len(answers)}")
    [answer] = (answer.strip() for answer in answers)
    by_text = [letter for letter, option in options.items() if option.strip() == answer]
    named = list(dict.fromkeys([*([answer] if answer in options else []), *by_text]))
    if not named:
        raise ValueError(f"answer {answer!r:.80} is none of the letters {', '.join(options)} and no option's text")
    if len(named) > 1:
        raise ValueError(f"answer {answer!r:.80} may mean the options {' and '.join(named)}; give the letter alone")
    return named[0]


def _metric_of(given: Any, answers: Sequence[str], options: Mapping[str, str], annotated: bool) -> str:
    """What the shape of a row says."""
    if options:
        return "choice"
    is_list = isinstance(given, _LIST) and len(answers) >= FEWEST_ANNOTATORS
    return "vqa" if annotated and is_list else "exact"
