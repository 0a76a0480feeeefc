"""Open questions about videos: what the judge is asked, how its replies are counted; and exact and contained answers.

The judge is that of Video-ChatGPT (Maaz et al., `quantitative_evaluation/evaluate_activitynet_qa.py`, CC BY 4.0),
which Video-LLaVA took over (`eval_video_qa.py`). Its texts are kept verbatim, the double space, the missing one and
the 4.8 included: they are part of the metric. Replies are counted as Video-LLaVA's script counts them. That script
asks again, for ever, until a reply is a Python value; one that is a value of another shape counts in the score's mean
as 0, and not in the accuracy. lmms-eval looks for the value in braces inside the reply.

Without a judge both sides go through EvalAI's answer processor (`answer_text.evalai_answer`): lower case, no
punctuation, no articles, numbers as digits. Long answers contain more, so ask for a word or a phrase.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable
from typing import NamedTuple

from llava.eval.metrics.answer_text import evalai_answer
from llava.eval.metrics.averages import mean
from llava.eval.metrics.own_answers import is_contained, plain

SYSTEM_PROMPT = (
    "You are an intelligent chatbot designed for evaluating the correctness of generative outputs for question-answer "
    "pairs. Your task is to compare the predicted answer with the correct answer and determine if they match "
    "meaningfully. Here's how you can accomplish the task:------##INSTRUCTIONS: - Focus on the meaningful match "
    "between the predicted answer and the correct answer.\n"
    "- Consider synonyms or paraphrases as valid matches.\n"
    "- Evaluate the correctness of the prediction compared to the answer."
)
_PAIR = (
    "Please evaluate the following video-based question-answer pair:\n\n"
    "Question: {question}\n"
    "Correct Answer: {answer}\n"
    "Predicted Answer: {text}\n\n"
)
_REQUEST = (
    "Provide your evaluation only as a yes/no and score where the score is an integer value between 0 and 5, with 5 "
    "indicating the highest meaningful match. Please generate the response in the form of a Python dictionary string "
    "with keys 'pred' and 'score', where value of 'pred' is  a string of 'yes' or 'no' and value of 'score' is in "
    "INTEGER, not STRING.DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. Only provide the Python dictionary "
    "string. For example, your response should look like this: {'pred': 'yes', 'score': 4.8}."
)
MAX_TOKENS = 64
"""Of a reply, as lmms-eval asks; Video-LLaVA's script leaves it to the endpoint."""
TEMPERATURES = (0.0, 1.0, 1.0, 1.0, 1.0)
"""The first reply is to be the same each time; where it is no value, the others are asked as Video-LLaVA asks."""
HIGHEST = 5


class Review(NamedTuple):
    """What a reply says.

    Attributes:
        is_right: Its verdict; None if there is none, and the accuracy does not count it.
        score: Its score, cut to a whole number; None if there is none, which counts as 0.
    """

    is_right: bool | None
    score: int | None


def grading_prompt(question: str, answer: str, text: str) -> str:
    """What the judge reads.

    Args:
        question: What was asked.
        answer: The reference answer.
        text: What the model said.
    """
    return _PAIR.format(question=question, answer=answer, text=text) + _REQUEST


def parse_review(reply: str) -> Review | None:
    """What a reply says, or None if it is no Python value that a JSON file takes, and the judge is asked again."""
    try:
        value = json.loads(json.dumps(ast.literal_eval(reply)))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    try:
        score = int(value["score"])
        float(score)  # one of hundreds of digits has no mean
    except (LookupError, ValueError, TypeError, OverflowError):
        return Review(None, None)  # whatever its verdict is
    verdict = value.get("pred")
    said = verdict.lower() if isinstance(verdict, str) else ""
    return Review(True if "yes" in said else False if "no" in said else None, score)


def video_qa_scores(reviews: Iterable[Review]) -> dict[str, float]:
    """Scores of one run of the judge.

    Returns:
        `accuracy`, the share of yes among all yes and no; and `score`, the mean score, between 0 and 5 if the judge
        keeps to its scale.

    Raises:
        ValueError: No review has a verdict.
    """
    listed = list(reviews)
    verdicts = [float(review.is_right) for review in listed if review.is_right is not None]
    if not verdicts:
        raise ValueError("the judge said neither yes nor no of any answer")
    return {"accuracy": mean(verdicts), "score": mean(float(review.score or 0) for review in listed)}


def is_exact(text: str, answer: str) -> bool:
    """Whether a text is the answer, both normalised."""
    return _normalised(text) == _normalised(answer) != ""


def contains(text: str, answer: str) -> bool:
    """Whether a text has the answer's words next to each other, both normalised."""
    return is_contained(_normalised(answer), _normalised(text))


def _normalised(text: str) -> str:
    return evalai_answer(text) or plain(text)  # of an article alone nothing is left
