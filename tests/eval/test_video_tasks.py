"""Benchmarks about videos: loaders on small files of the published schema, prompts, joins, scores, grades."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from llava.eval.answers_key import prompts_fingerprint
from llava.eval.parallel import split
from llava.eval.tasks import JudgedTask, Sample, TaskDataError, available_tasks, get_task
from llava.eval.tasks.loading import load_task
from llava.eval.tasks.video_files import missing_note, missing_videos
from tests.eval import video_layout as layout
from tests.eval.test_metrics import read

SETS = sorted(layout.ZERO_SHOT)
PAIRS = (("what is a man doing", "running"), ("who is cutting?", "man"), ("how many dogs are there", "two"))
VIDEO_TASKS = [name for name in available_tasks() if get_task(name).video_frames is not None]


def load(name: str, root: Path) -> tuple[Any, list[Sample], list[str]]:
    task = get_task(name)
    loaded = load_task(task, root)
    return task, loaded.samples, loaded.bad_rows


def write(root: Path, task: str, clips: str = "c0 c1 c2") -> Path:
    return layout.write_zero_shot(root, task, *layout.qa_rows(*PAIRS, kind=3), clips)


@pytest.mark.parametrize("name", SETS)
def test_questions_are_asked_as_they_stand(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path, name)
    task, samples, bad = load(name, tmp_path)
    assert not bad and [(s.sample_id, s.prompt, s.answer) for s in samples] == [
        (f"v_c{n}_1", question, answer) for n, (question, answer) in enumerate(PAIRS)
    ]
    _, clips, prefix = layout.ZERO_SHOT[name]
    assert [s.video for s in samples] == [folder / clips / f"{prefix}c{n}.mp4" for n in range(3)]
    assert {s.frames for s in samples} == {8} and not any(s.images for s in samples) and not missing_videos(samples)
    assert isinstance(task, JudgedTask) and task.max_new_tokens == 1024 and not task.in_means
    short, asked, _ = load(f"{name}_short", tmp_path)
    assert asked[0].prompt == f"{PAIRS[0][0]}\nAnswer the question using a single word or phrase."
    assert not short.is_judged and short.max_new_tokens == 128
    assert task.facts().benchmark == short.facts().benchmark == name


def test_an_answer_belongs_to_its_id_wherever_it_stands(tmp_path: Path) -> None:
    asked, given = layout.qa_rows(*PAIRS)
    layout.write_zero_shot(tmp_path, "msvd_qa", asked, given)
    expected = {s.sample_id: s.answer for s in load("msvd_qa", tmp_path)[1]}
    layout.write_zero_shot(tmp_path, "msvd_qa", asked[1:], given[::-1])  # a chunk of the questions, all answers
    assert {s.sample_id: s.answer for s in load("msvd_qa", tmp_path)[1]} == dict(list(expected.items())[1:])
    numbered = [row | {"question_id": number} for number, row in enumerate(asked)]
    texts = [row | {"question_id": str(number)} for number, row in enumerate(given)]
    layout.write_zero_shot(tmp_path, "msvd_qa", numbered, [*texts, texts[0], "no row", {}])
    assert [s.answer for s in load("msvd_qa", tmp_path)[1]] == list(expected.values())


def test_questions_without_one_answer_are_left_out_and_named(tmp_path: Path) -> None:
    asked, given = layout.qa_rows(*PAIRS)
    folder = layout.write_zero_shot(tmp_path, "tgif_qa", [*asked, asked[2]], [given[0] | {"answer": 3}, *given])
    path = folder / "test_q.json"
    _, samples, bad = load("tgif_qa", tmp_path)
    assert bad == [f"{path} row 0: question 'v_c0_1' has 2 answers", f"{path} row 3: id 'v_c2_1' is there twice"]
    layout.write_zero_shot(tmp_path, "tgif_qa", asked, [given[0] | {"answer": 3}])
    _, samples, bad = load("tgif_qa", tmp_path)
    assert [s.answer for s in samples] == ["3"] and bad[0] == f"{path} row 1: question 'v_c1_1' has no answer"
    layout.write_zero_shot(tmp_path, "tgif_qa", asked, [given[0], given[1] | {"answer": ["a"]}])
    assert "answer is ['a'], which is not text" in load("tgif_qa", tmp_path)[2][0]
    layout.write_zero_shot(tmp_path, "activitynet_qa", asked, [row | {"type": 9 * n} for n, row in enumerate(given)])
    _, samples, bad = load("activitynet_qa", tmp_path)
    assert [s.group for s in samples] == ["Motion"] and "type 9 is none of 0 to 8" in bad[0]


@pytest.mark.parametrize("ending", [".avi", ".MOV", ".mkv", ".webm", ".gif"])
def test_clips_have_several_endings(ending: str, tmp_path: Path) -> None:
    folder = write(tmp_path, "msvd_qa", "c0")
    before = prompts_fingerprint(load("msvd_qa", tmp_path)[1])
    layout.write_clip(folder / "videos" / f"c1{ending}")
    _, samples, _ = load("msvd_qa", tmp_path)
    assert samples[1].video == folder / "videos" / f"c1{ending}"
    assert samples[2].video == folder / "videos" / "c2.mp4" and missing_videos(samples) == [str(samples[2].video)]
    assert prompts_fingerprint(samples) == before, "a clip that comes back with another ending is the same clip"


def test_missing_videos_are_counted_and_named(tmp_path: Path) -> None:
    asked, given = layout.qa_rows(*[PAIRS[0]] * 8)
    for row in asked[:4]:
        row["video_name"] = "c0"  # four questions about one clip
    folder = layout.write_zero_shot(tmp_path, "msrvtt_qa", asked, given, "c4 c5")
    (folder / "videos" / "all" / "c5.mp4").write_bytes(b"")
    _, samples, _ = load("msrvtt_qa", tmp_path)
    missing = missing_videos(samples)
    assert [Path(path).stem for path in missing] == ["c0", "c5", "c6", "c7"]
    note = missing_note("msrvtt_qa", samples, missing)
    assert note is not None and note.startswith(
        f"msrvtt_qa: 4 of 5 videos missing; 7 questions scored as wrong: {missing[0]}, "
    )
    assert note.endswith(" and 1 more") and missing_note("msrvtt_qa", samples, []) is None
    shutil.rmtree(folder / "videos")
    assert len(load("msrvtt_qa", tmp_path)[1]) == 8, "questions alone are enough to grade and report"


def test_a_clip_outside_the_data_root_is_named(tmp_path: Path) -> None:
    asked, given = layout.qa_rows(*PAIRS)
    asked[0]["video_name"] = "../../../../elsewhere"
    layout.write_zero_shot(tmp_path / "data", "msvd_qa", asked, given)
    _, samples, bad = load("msvd_qa", tmp_path / "data")
    assert len(samples) == 2 and "video " in bad[0] and "--image-root names a folder of videos" in bad[0]


def test_what_is_asked_of_other_clips_or_frames_is_another_run(tmp_path: Path) -> None:
    sample = Sample("1", "what", (), "x", video=tmp_path / "a.mp4", frames=8)
    others = [
        Sample("1", "what", (), "x", video=tmp_path / name, frames=n) for name, n in (("b.mp4", 8), ("a.mp4", 16))
    ]
    prints = {prompts_fingerprint([each]) for each in (sample, *others, Sample("1", "what", (), "x"))}
    assert len(prints) == 4
    assert sample.image_names == str(tmp_path / "a.mp4") != others[0].image_names
    same = [Sample(str(n), "what", (), "x", video=tmp_path / f"{n % 2}.mp4") for n in range(6)]
    assert [[s.sample_id for s in part] for part in split(same, 2)] == [["0", "2", "4"], ["1", "3", "5"]]


def test_matches_without_a_judge(tmp_path: Path) -> None:
    write(tmp_path, "activitynet_qa")
    for name in ("activitynet_qa", "activitynet_qa_short"):
        task, samples, _ = load(name, tmp_path)
        texts = {"v_c0_1": "running", "v_c1_1": "The man.", "v_c2_1": "There are 2 dogs"}
        scores = task.score(samples, texts)
        shares = [scores[key] for key in ("verbatim", "exact_match", "contained_match")]
        assert shares == pytest.approx([1 / 3, 2 / 3, 1])
        assert scores["exact_match_by_type"] == pytest.approx({"Yes/No": 2 / 3, "Free": 2 / 3})
        assert task.score(samples, {})["contained_match"] == 0.0
    assert task.parts(samples, texts).total == scores["exact_match"]
    write(tmp_path, "msvd_qa")
    task, samples, _ = load("msvd_qa_short", tmp_path)
    assert task.score(samples, texts) == pytest.approx({"exact_match": 2 / 3, "contained_match": 1.0})


def test_grades_are_counted_as_the_official_script_counts_them(tmp_path: Path) -> None:
    write(tmp_path, "activitynet_qa")
    task, samples, _ = load("activitynet_qa", tmp_path)
    asked = task.grading_prompt(samples[0], "He runs")
    assert "Question: what is a man doing\nCorrect Answer: running\nPredicted Answer: He runs\n" in asked
    read_grade = task.read_grade
    grades = {
        "v_c0_1": [read_grade("{'pred': 'yes', 'score': 4.8}"), read_grade('{"pred": "no", "score": 0}')],
        "v_c1_1": [read_grade("{'pred': 'no', 'score': 1}"), read_grade("{'pred': 'yes', 'score': 5}")],
        "v_c2_1": [read_grade("{'verdict': 'yes'}"), read_grade("Sure: yes")],
    }
    assert grades["v_c0_1"][0] == [True, 4] and grades["v_c2_1"] == [[None, None], None]
    scores = task.score_grades(samples, grades)
    # 1 of 2 and (4 + 1 + 0) / 3 in the first run, 1 of 2 and (0 + 5) / 2 in the second
    assert (scores["accuracy"], scores["score"]) == (0.5, pytest.approx((5 / 3 + 5 / 2) / 2))
    assert scores["accuracy_by_type"] == {"Yes/No": 0.5, "Free": 0.5}
    assert task.parts(samples, {}, grades).total == scores["accuracy"]
    assert [task.is_on_scale(grade) for grade in ([True, 4], [True, 9], [None, 4], [True, None])] == [1, 0, 0, 0]


def test_activitynet_as_lmms_eval_asks(tmp_path: Path) -> None:
    write(tmp_path, "activitynet_qa")
    task, samples, _ = load("activitynet_qa_lmms", tmp_path)
    assert samples[0].prompt == "What is a man doing? Answer the question using a single word or phrase."
    assert task.max_new_tokens == 64  # its activitynetqa_generation.yaml
    assert samples[0].frames == 32 and "Question: what is a man doing\n" in task.grading_prompt(samples[0], "x")


def test_mvbench(tmp_path: Path) -> None:
    row = {"video": "b.mp4", "question": "What happened?", "candidates": ["red cup", "a dog"], "answer": "a dog"}
    folder = layout.write_mvbench(tmp_path, {"action_count": [row, row | {"answer": "cat"}, {"video": "c.mp4"}]})
    task, samples, bad = load("mvbench", tmp_path)
    assert len(samples) == 20 and len(bad) == 2
    assert f"{folder} json/action_count.json row 1: answer 'cat' is none of 2 candidates" in bad[0]
    assert bad[1] == f"{folder} json/action_count.json row 2: missing field 'candidates'"
    sample = next(s for s in samples if s.group == "action_count")
    assert sample.prompt == read("mvbench")["prompt"] and sample.answer == "B" and sample.frames == 32
    assert missing_videos(samples) == [str(folder / "perception" / "videos" / "b.mp4")]
    texts = {s.sample_id: "(B) ball" for s in samples[:10]} | {samples[10].sample_id: "The answer is B"}
    scores = task.score(samples, texts)
    assert (scores["accuracy"], scores["lmms_accuracy"]) == (0.5, 1.0), "lmms-eval finds a letter further on, too"
    assert task.parts(samples, texts).total == 0.5 and len(scores["accuracy_by_task"]) == 20
    (folder / "json" / "action_count.json").unlink()
    with pytest.raises(TaskDataError, match=r"action_count\.json"):
        load("mvbench", tmp_path)


def test_egoschema(tmp_path: Path) -> None:
    rows = [layout.ego_row("u1"), layout.ego_row("u2"), layout.ego_row("u3"), layout.ego_row("u4")]
    folder = layout.write_egoschema(tmp_path, rows, {"u1": 1, "u3": 4, "u4": 7}, "u1")
    task, samples, bad = load("egoschema_subset", tmp_path)
    assert [(s.sample_id, s.answer) for s in samples] == [("u1", "B"), ("u3", "E")]
    assert bad == [f"{folder / 'questions.json'} row 3: the answer to u4 is 7, none of 0 to 4"]
    assert samples[0].prompt == read("egoschema")["prompt"] and samples[0].video == folder / "videos" / "u1.mp4"
    scores = task.score(samples, {"u1": "(B)", "u3": "I cannot tell"})
    assert scores == {"accuracy": 0.5, "unread_ratio": 0.5}
    assert task.size_note(samples) == "egoschema_subset: 2 questions, the published split has 500"


def test_videomme(tmp_path: Path) -> None:
    rows = [layout.mme_row(1), layout.mme_row(2, duration="long", domain="Multilingual"), layout.mme_row(3, answer="E")]
    folder = layout.write_videomme(tmp_path, rows, "yt1")
    task, samples, bad = load("videomme", tmp_path)
    assert "question 003-1: answer 'E' is none of A, B, C, D" in bad[0] and len(samples) == 2
    assert samples[0].prompt == (
        "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
        "letter (A, B, C, or D) of the correct option.\nWhat is it?\nA. x.\nB. y.\nC. z.\nD. u.\nThe best answer is:"
    )  # Video-MME's README
    assert load("videomme_lmms", tmp_path)[1][0].prompt == read("videomme")["lmms_prompt"]
    assert samples[0].video == folder / "data" / "yt1.mp4" and missing_videos(samples) == [str(samples[1].video)]
    scores = task.score(samples, {"001-1": "B. y."})
    assert (scores["accuracy"], scores["answered_accuracy"]) == (0.5, 1.0)
    assert scores["accuracy_by_duration"] == {"long": 0.0, "short": 1.0}
    assert task.question_types(samples[1])["domain"] == ["Multilingual"]


def test_video_tasks_stay_out_of_the_image_means() -> None:
    assert len(VIDEO_TASKS) == 13
    for name in VIDEO_TASKS:
        facts = get_task(name).facts()
        assert not facts.in_means and not facts.needs_image
