"""MSVD-QA, MSRVTT-QA, TGIF-QA (FrameQA) and ActivityNet-QA: open questions about clips, graded by a judge.

Files, as Video-LLaVA lays them out, below `GPT_Zero_Shot_QA/<set>_Zero_Shot_QA/`: `test_q.json` ([{video_name,
question, question_id}]), `test_a.json` ([{answer, question_id, type of ActivityNet's}]), and the clips in `videos/`,
`videos/all/`, `mp4/` or `all_test/`, the last with `v_` before their names. An answer belongs to the question with
its id, wherever it stands in its file. ActivityNet-QA's own `dataset/` has the same two files.

The question is asked as it stands, as Video-LLaVA does; the `_short` variants put LLaVA's line for short answers
below it and need no judge. The paper, like FastV's, presumably took the first 1,000 questions of each: `--limit
1000`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llava.eval.metrics import activitynet_qa, video_qa
from llava.eval.metrics.averages import mean
from llava.eval.tasks.base import Grades, LoadedTask, Sample, Scores, Task, register_task
from llava.eval.tasks.judged import JudgedTask
from llava.eval.tasks.local_files import SHORT_ANSWER, WRONG_ROW, collect, read_json, with_tail
from llava.eval.tasks.video_files import Clips
from llava.results.task_facts import SHARE

FIRST = 1_000
"""Questions that FastV, SparseVLM and FasterVLM take of each set."""

_ROOT = "GPT_Zero_Shot_QA"
_RULES: Mapping[str, Callable[[str, str], bool]] = {
    "exact_match": video_qa.is_exact,
    "contained_match": video_qa.contains,
}


class VideoQuestions(Task):
    """Loads questions, and scores answers without a judge.

    Attributes:
        folder: Below `GPT_Zero_Shot_QA/`.
        clips: Folder of the clips in it.
        prefix: What stands before a clip's name in its file's.
    """

    video_frames = 8
    in_means = False
    other_sizes = (FIRST,)
    folder: ClassVar[str]
    clips: ClassVar[str]
    prefix: ClassVar[str] = ""

    def load(self, data_root: Path) -> LoadedTask:
        """Reads questions and answers, and joins them by their ids."""
        folder = data_root / _ROOT / self.folder
        path = folder / "test_q.json"
        rows = read_json(path, list)
        answers = _by_id(folder / "test_a.json")
        clips = Clips(folder / self.clips)

        def build(row: dict[str, Any]) -> Sample:
            sample_id = str(row["question_id"])
            found = answers.get(sample_id, [])
            if len(found) != 1:
                raise ValueError(f"question {sample_id!r} has {len(found) or 'no'} answer{'s' * (len(found) > 1)}")
            return Sample(
                sample_id=sample_id,
                prompt=self.ask(row["question"]),
                images=(),
                answer=_text(found[0]["answer"]),
                group=self.type_of(found[0]),
                details={"question": row["question"]},
                video=clips.find(f"{self.prefix}{row['video_name']}"),
                frames=self.video_frames,
            )

        return collect(path, rows, build)

    def ask(self, question: str) -> str:
        """What the model is asked: the question as it stands."""
        return question

    def type_of(self, answer: Mapping[str, Any]) -> str:
        """The kind of a question, by its row in the file of answers; "" where the set has none."""
        return ""

    def parse(self, text: str) -> str:
        """The text itself."""
        return text

    def matches(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """The shares of exact and contained answers; a question without an answer is wrong."""
        given = [(sample, texts.get(sample.sample_id, "")) for sample in samples]
        return {name: mean(rule(text, sample.answer) for sample, text in given) for name, rule in _RULES.items()}


class JudgedVideoQa(JudgedTask, VideoQuestions):
    """The judge's accuracy and mean score, counted as Video-LLaVA's script does; matches stand beside."""

    main_score = "accuracy"
    scale = SHARE
    max_new_tokens = 1024
    system_prompt = video_qa.SYSTEM_PROMPT
    judge_max_tokens = video_qa.MAX_TOKENS
    judge_temperatures = video_qa.TEMPERATURES
    paper_note = "the paper's figure is presumably over the first 1,000 questions (--limit 1000), by a GPT-3.5"

    def grading_prompt(self, sample: Sample, text: str) -> str:
        """Video-ChatGPT's question to the judge."""
        return video_qa.grading_prompt(sample.details["question"], sample.answer, text)

    def read_grade(self, reply: str) -> list[Any] | None:
        """The verdict (true, false or null) and the score (a number or null)."""
        review = video_qa.parse_review(reply)
        return None if review is None else list(review)

    def is_on_scale(self, grade: Any) -> bool:
        """Whether there is a verdict, and the score is between 0 and 5."""
        is_right, score = grade
        return is_right is not None and score is not None and 0 <= score <= video_qa.HIGHEST

    def grade_sums(self, grade: Any) -> tuple[float, float]:
        """1 of 1 for yes, 0 of 1 for no; a grade without a verdict counts in neither."""
        is_right, _ = grade
        return float(is_right is True), float(is_right is not None)

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """What needs no judge."""
        return self.matches(samples, texts)

    def score_grades(self, samples: Sequence[Sample], grades: Grades) -> Scores:
        """Accuracy and mean score, means over the judge's runs."""
        runs = max((len(grades.get(sample.sample_id, ())) for sample in samples), default=0)
        by_run = []
        for run in range(runs):
            given = [own[run] for own in (grades.get(s.sample_id, ()) for s in samples) if run < len(own)]
            by_run.append(video_qa.video_qa_scores(video_qa.Review(*grade) for grade in given if grade is not None))
        if not by_run:
            raise ValueError("there are no grades; run python -m llava.eval.judge")
        return {name: mean(run[name] for run in by_run) for name in by_run[0]}


class ShortVideoQa(VideoQuestions):
    """Asked for a word or a phrase, so that exact and contained answers mean something; no judge."""

    main_score = "exact_match"
    max_new_tokens = 128

    def ask(self, question: str) -> str:
        """The question, and LLaVA's line below it."""
        return with_tail(question, SHORT_ANSWER)

    def is_correct(self, sample: Sample, text: str) -> float:
        """1 if the text is the answer, both normalised."""
        return float(video_qa.is_exact(text, sample.answer))

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """The shares of exact and contained answers."""
        return self.matches(samples, texts)


class _Msvd(VideoQuestions):
    folder, clips = "MSVD_Zero_Shot_QA", "videos"
    benchmark = "msvd_qa"
    sources = ("https://github.com/xudejing/video-question-answering", "https://github.com/PKU-YuanGroup/Video-LLaVA")
    published_size = 13_157


class _Msrvtt(VideoQuestions):
    folder, clips = "MSRVTT_Zero_Shot_QA", "videos/all"
    benchmark = "msrvtt_qa"
    sources = ("https://github.com/xudejing/video-question-answering", "https://github.com/PKU-YuanGroup/Video-LLaVA")
    published_size = 72_821


class _Tgif(VideoQuestions):
    folder, clips = "TGIF_Zero_Shot_QA", "mp4"
    benchmark = "tgif_qa"
    sources = ("https://github.com/YunseokJANG/tgif-qa", "https://github.com/PKU-YuanGroup/Video-LLaVA")
    published_size = 13_691


class _ActivityNet(VideoQuestions):
    """Its questions have types."""

    folder, clips, prefix = "Activitynet_Zero_Shot_QA", "all_test", "v_"
    benchmark = "activitynet_qa"
    sources = ("https://github.com/MILVLG/activitynet-qa", "https://github.com/PKU-YuanGroup/Video-LLaVA")
    published_size = 8_000

    def type_of(self, answer: Mapping[str, Any]) -> str:
        """One of `activitynet_qa.TYPES`."""
        number = answer["type"]
        if type(number) is not int or not 0 <= number < len(activitynet_qa.TYPES):
            raise ValueError(f"type {number!r:.40} is none of 0 to {len(activitynet_qa.TYPES) - 1}")
        return activitynet_qa.TYPES[number]

    def matches(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Exact and contained answers, and those that are right letter by letter, as ActivityNet-QA's script counts."""
        scores = super().matches(samples, texts)
        for name, rule in {**_RULES, "verbatim": activitynet_qa.is_verbatim}.items():
            hits = [(s.group, float(rule(texts.get(s.sample_id, ""), s.answer))) for s in samples]
            scores[name] = mean(hit for _, hit in hits)
            scores[f"{name}_by_type"] = activitynet_qa.by_type(hits)
        return scores


@register_task
class MsvdQa(_Msvd, JudgedVideoQa):
    """MSVD-QA as Video-LLaVA asks it."""

    name = "msvd_qa"
    description = "MSVD-QA (video); a judge's accuracy and score, exact and contained answers"
    paper_column = "MSVD"


@register_task
class MsvdQaShort(_Msvd, ShortVideoQa):
    """MSVD-QA without a judge."""

    name = "msvd_qa_short"
    description = "MSVD-QA (video), asked for a word or phrase; exact and contained answers, no judge"


@register_task
class MsrvttQa(_Msrvtt, JudgedVideoQa):
    """MSRVTT-QA as Video-LLaVA asks it."""

    name = "msrvtt_qa"
    description = "MSRVTT-QA (video); a judge's accuracy and score, exact and contained answers"
    paper_column = "MSRVTT"


@register_task
class MsrvttQaShort(_Msrvtt, ShortVideoQa):
    """MSRVTT-QA without a judge."""

    name = "msrvtt_qa_short"
    description = "MSRVTT-QA (video), asked for a word or phrase; exact and contained answers, no judge"


@register_task
class TgifQa(_Tgif, JudgedVideoQa):
    """TGIF-QA's FrameQA as Video-LLaVA asks it."""

    name = "tgif_qa"
    description = "TGIF-QA, FrameQA (video); a judge's accuracy and score, exact and contained answers"
    paper_column = "TGIF"


@register_task
class TgifQaShort(_Tgif, ShortVideoQa):
    """TGIF-QA's FrameQA without a judge."""

    name = "tgif_qa_short"
    description = "TGIF-QA, FrameQA (video), asked for a word or phrase; exact and contained answers, no judge"


@register_task
class ActivityNetQa(_ActivityNet, JudgedVideoQa):
    """ActivityNet-QA as Video-LLaVA asks it."""

    name = "activitynet_qa"
    description = "ActivityNet-QA (video); a judge's accuracy and score, exact and contained answers by type"
    paper_column = "ActivityNet"

    def score_grades(self, samples: Sequence[Sample], grades: Grades) -> Scores:
        """Accuracy and mean score, and the accuracy by type."""
        verdicts = [
            (sample.group, float(grade[0]))
            for sample in samples
            for grade in grades.get(sample.sample_id, ())
            if grade is not None and grade[0] is not None
        ]
        return super().score_grades(samples, grades) | {"accuracy_by_type": activitynet_qa.by_type(verdicts)}


@register_task
class ActivityNetQaLmms(ActivityNetQa):
    """Asked as lmms-eval does (tasks/activitynetqa)."""

    name = "activitynet_qa_lmms"
    description = "ActivityNet-QA (video), lmms-eval's prompt; a judge's accuracy and score"
    video_frames = 32
    max_new_tokens = 64
    paper_column = paper_note = ""

    def ask(self, question: str) -> str:
        """A large letter, a question mark, and LLaVA's hint in the same line."""
        return f"{question.capitalize()}? {SHORT_ANSWER}"


@register_task
class ActivityNetQaShort(_ActivityNet, ShortVideoQa):
    """ActivityNet-QA without a judge."""

    name = "activitynet_qa_short"
    description = "ActivityNet-QA (video), asked for a word or phrase; exact and contained answers by type, no judge"


def _by_id(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of the file of answers by the id of their question; what has no id is skipped."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in read_json(path, list):
        try:
            key = str(row["question_id"])
        except WRONG_ROW:
            continue
        known = found.setdefault(key, [])
        if row not in known:  # the same once more is no second answer
            known.append(row)
    return found


def _text(answer: Any) -> str:
    """An answer; a number counts as text."""
    return str(answer) if type(answer) in (int, float) else answer  # anything else is named by `collect`
