"""MM-Vet: a judge grades an answer from 0 to 1; the score is the mean grade, overall and per capability, in percent.

The prompt and the reading of a grade are those of MM-Vet's `mm-vet_evaluator.py` (Apache-2.0), the prompt kept
verbatim: it is part of the metric. When a reply is no grade, the tool asks again with `RETRY_SUFFIX`, at a temperature
that rises; after five replies that it cannot read it gives 0. A grade is missing only where the judge did not reply.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from llava.eval.metrics.averages import mean, mean_by_group

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
PROMPT = (
    "Compare the ground truth and prediction from AI models, to give a correctness score for the "
    "prediction. <AND> in the ground truth means it is totally right only when all elements in the "
    "ground truth are present in the prediction, and <OR> means it is totally right when any one element "
    "in the ground truth is present in the prediction. The correctness score is 0.0 (totally wrong), "
    "0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, or 1.0 (totally right). Just complete the last space "
    "of the correctness score.\n"
    "\n"
    "Question | Ground truth | Prediction | Correctness\n"
    "--- | --- | --- | ---\n"
    "What is x in the equation? | -1 <AND> -5 | x = 3 | 0.0\n"
    "What is x in the equation? | -1 <AND> -5 | x = -1 | 0.5\n"
    "What is x in the equation? | -1 <AND> -5 | x = -5 | 0.5\n"
    "What is x in the equation? | -1 <AND> -5 | x = -5 or 5 | 0.5\n"
    "What is x in the equation? | -1 <AND> -5 | x = -1 or x = -5 | 1.0\n"
    "Can you explain this meme? | This meme is poking fun at the fact that the names of the countries "
    "Iceland and Greenland are misleading. Despite its name, Iceland is known for its beautiful green "
    "landscapes, while Greenland is mostly covered in ice and snow. The meme is saying that the person "
    "has trust issues because the names of these countries do not accurately represent their landscapes. "
    "| The meme talks about Iceland and Greenland. It's pointing out that despite their names, Iceland "
    "is not very icy and Greenland isn't very green. | 0.4\n"
    "Can you explain this meme? | This meme is poking fun at the fact that the names of the countries "
    "Iceland and Greenland are misleading. Despite its name, Iceland is known for its beautiful green "
    "landscapes, while Greenland is mostly covered in ice and snow. The meme is saying that the person "
    "has trust issues because the names of these countries do not accurately represent their landscapes. "
    "| The meme is using humor to point out the misleading nature of Iceland's and Greenland's names. "
    "Iceland, despite its name, has lush green landscapes while Greenland is mostly covered in ice and "
    "snow. The text 'This is why I have trust issues' is a playful way to suggest that these "
    "contradictions can lead to distrust or confusion. The humor in this meme is derived from the "
    "unexpected contrast between the names of the countries and their actual physical characteristics. | 1.0\n"
)
RETRY_SUFFIX = "\nPredict the correctness of the answer (digit): "
TEMPERATURES = (0, 0, 0.5, 1, 1.5)  # of the five replies that the tool reads; it asks for a sixth and does not read it


def grading_prompt(question: str, answer: str, prediction: str) -> str:
    """What the judge reads.

    Args:
        question: What was asked.
        answer: The ground truth, in which `<AND>` and `<OR>` join elements.
        prediction: What the model said.
    """
    truth = answer.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    return f"{PROMPT}\n{question} | {truth} | {prediction} | "


def parse_grade(reply: str) -> float | None:
    """The number that a reply begins with, or None if that is not one between 0 and 1."""
    try:
        grade = float(reply.split(" ")[0].strip())
    except ValueError:
        return None
    return grade if 0.0 <= grade <= 1.0 else None


def mmvet_scores(
    grades: Mapping[str, Sequence[float | None]], capabilities: Mapping[str, Sequence[str]]
) -> dict[str, float | dict[str, float]]:
    """Scores in percent, means over the runs of the judge.

    Args:
        grades: Grades of each question, one a run; None is a grade that is missing. All have as many runs.
        capabilities: What each question needs, some of `CAPABILITIES`.

    Returns:
        `score`; `std`, the population standard deviation of the runs' scores; `score_by_capability`;
        `score_by_integration`, by the whole set of capabilities, joined by "_" in the order of `CAPABILITIES`; and
        `missing`, a count.
    """
    runs = max((len(values) for values in grades.values()), default=0)
    totals: list[float] = []
    by_capability: list[dict[str, float]] = []
    by_integration: list[dict[str, float]] = []
    for run in range(runs):
        known = {name: values[run] for name, values in grades.items() if run < len(values)}
        graded = [(name, grade * 100) for name, grade in known.items() if grade is not None]
        totals.append(mean(grade for _, grade in graded))
        by_capability.append(mean_by_group((c, grade) for name, grade in graded for c in set(capabilities[name])))
        by_integration.append(mean_by_group((_integration(capabilities[name]), grade) for name, grade in graded))
    return {
        "score": mean(totals),
        "std": statistics.pstdev(totals) if totals else 0.0,
        "score_by_capability": _mean_of_runs(by_capability),
        "score_by_integration": _mean_of_runs(by_integration),
        "missing": float(sum(grade is None for values in grades.values() for grade in values)),
    }


def _integration(capabilities: Sequence[str]) -> str:
    return "_".join(name for name in CAPABILITIES if name in capabilities)


def _mean_of_runs(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return mean_by_group((name, score) for run in runs for name, score in run.items())
