"""Rules of the benchmarks about videos against the public scorers, as in test_metrics.py."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from llava.eval.metrics import activitynet_qa, egoschema, mvbench, video_qa, videomme
from llava.eval.metrics.averages import mean
from tests.eval.test_metrics import read


def test_the_judge_is_asked_in_video_chatgpts_words() -> None:
    asked = read("video_qa_judge")["asked"]
    assert asked["system"] == video_qa.SYSTEM_PROMPT
    assert video_qa.grading_prompt(asked["question"], asked["answer"], asked["text"]) == asked["user"]


def test_replies_of_the_judge_are_read_as_video_llava_reads_them() -> None:
    kinds = Counter()
    for reply, is_read, yes, score in read("video_qa_judge")["cases"]:
        review = video_qa.parse_review(reply)
        assert (review is not None) == is_read, reply
        if review is not None:
            assert review.is_right == (None if yes is None else bool(yes)), reply
            assert (review.score or 0) == score, reply
            kinds[review.is_right] += 1
        kinds["unread"] += review is None
    assert min(kinds.values()) > 30 and len(kinds) == 4


def test_replies_of_the_judge_are_counted_as_video_llava_counts_them() -> None:
    for expected in read("video_qa_judge")["sets"]:
        reviews = [video_qa.parse_review(reply) for reply in expected["replies"]]
        scores = video_qa.video_qa_scores(review for review in reviews if review is not None)
        assert scores["accuracy"] == expected["accuracy"] == expected["yes"] / (expected["yes"] + expected["no"])
        assert math.isclose(scores["score"], expected["score"], rel_tol=1e-12)
    with pytest.raises(ValueError, match="neither yes nor no"):
        video_qa.video_qa_scores([video_qa.Review(None, 4)])


def test_a_hostile_reply_is_no_review() -> None:
    for reply in ("[" * 100_000, "9" * 10_000, "{'pred': 'yes', 'score': " + "9" * 400 + "}", "__import__('os')", "\0"):
        assert video_qa.parse_review(reply) in (None, video_qa.Review(None, None))


@pytest.mark.parametrize(
    ("text", "answer", "exact", "contained"),
    [
        ("Running.", "run", 0, 0),
        ("A dog", "dog", 1, 1),
        ("Two", "2", 1, 1),
        ("There are two dogs.", "2", 0, 1),
        ("The man is playing the guitar", "play", 0, 0),
        ("It is a living-room.", "living room", 0, 1),
        ("northern", "north", 0, 0),
        ("", "no", 0, 0),
        ("", "the", 0, 0),
        ("The", "the", 1, 1),
        ("20", "2", 0, 0),
    ],
)
def test_exact_and_contained_by_hand(text: str, answer: str, exact: int, contained: int) -> None:
    assert (video_qa.is_exact(text, answer), video_qa.contains(text, answer)) == (exact, contained)


def test_activitynet_by_type() -> None:
    expected = read("activitynet_qa")
    hits = [
        (activitynet_qa.TYPES[kind], float(activitynet_qa.is_verbatim(text, answer)))
        for _, text, answer, kind in expected["cases"]
    ]
    scores = {name: round(value, 4) for name, value in activitynet_qa.by_type(hits).items()}
    official = expected["in_order"]
    assert round(mean(hit for _, hit in hits), 4) == official.pop("All")
    assert scores == official
    # Where the types come in the published order, the script's share of "Free" is over another number of questions.
    published = expected["as_published"]
    assert {name for name in official if official[name] != published[name]} == {activitynet_qa.FREE}


def test_mvbench() -> None:
    expected = read("mvbench")
    hits, empty = [], 0
    for text, options, answer, official, lmms_eval in expected["cases"]:
        letter = "ABCDE"[options.index(answer)]
        if text.strip():
            assert mvbench.is_correct(text, letter) == bool(official), (text, options, answer)
        else:
            empty += 1
            assert official and not mvbench.is_correct(text, letter), "silence is an answer to that script"
        assert mvbench.is_correct_for_lmms_eval(text, letter) == bool(lmms_eval), (text, options, answer)
        said = float(mvbench.is_correct_for_lmms_eval(text, letter)) if text else None
        hits.append(mvbench.MvAnswer(float(official), said, "action_count"))
    assert len(expected["cases"]) - empty >= 300
    scores = mvbench.mvbench_scores(hits)
    assert scores["lmms_accuracy"] == pytest.approx(expected["lmms_eval_accuracy"] / 100, rel=1e-12)
    assert scores["accuracy"] == mean(case[3] for case in expected["cases"])


def test_egoschema() -> None:
    expected = read("egoschema")
    hits = []
    for text, options, answer, letter in expected["cases"]:
        assert egoschema.parse_letter(text, options) == (letter or ""), (text, options)
        if letter:
            hits.append(float(egoschema.LETTERS.index(letter) == answer))
    assert mean(hits) == expected["accuracy_undrawn"] and len(hits) > 250


def test_videomme() -> None:
    expected = read("videomme")
    answers = []
    for text, answer, *groups, official, _ in expected["cases"]:
        letter = videomme.parse_letter(text)
        assert letter == official, text
        answers.append(videomme.VideoMmeAnswer(float(letter == answer), letter != "", *groups))
    scores = videomme.videomme_scores(answers)
    printed = expected["printed"]
    assert round(100 * float(str(scores["answered_accuracy"])), 1) == printed["Overall Performance"]["Overall"]
    assert float(str(scores["accuracy"])) < float(str(scores["answered_accuracy"]))
    # That script leaves unreadable answers out of every share.
    readable = videomme.videomme_scores(answer for answer in answers if answer.answered)
    sections = {"domain": "Video Domains", "sub_category": "Video Sub Categories", "task_type": "Task Categories"}
    for name, section in sections.items():
        shares = readable[f"accuracy_by_{name}"]
        assert isinstance(shares, dict)
        assert {key: round(100 * share, 1) for key, share in shares.items()} == printed[section]
    durations = readable["accuracy_by_duration"]
    assert isinstance(durations, dict)
    assert {key: round(100 * share, 1) for key, share in durations.items()} == expected["by_duration"]
    assert sum(case[6] != case[7] for case in expected["cases"]) > 10, "lmms-eval's later rule is another one"
