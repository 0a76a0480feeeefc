"""A run of a benchmark about videos: refused without a model for them; scored, graded, beside table 3; preparing.

The model is the reference's tiny Video-LLaVA, the clip the reference's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava.eval.command import main
from llava.eval.judge.command import main as judge
from llava.eval.prepare import main as prepare
from llava.eval.report.command import main as report
from llava.eval.report.files import to_markdown
from llava.eval.report.table import build_table
from llava.eval.results import write_results
from llava.eval.runner import RunSettings, evaluate
from llava.eval.sources.video_sets import VIDEO_SETS
from llava.eval.tasks import TaskDataError, get_task
from llava.eval.tasks.own_file import open_own_file
from llava.inference import Answer, Inference, Question
from llava.model.configuration import CompressionConfig
from llava.results.paper import paper_tables
from tests.data.http_server import Server, serving
from tests.eval import layout as images
from tests.eval import video_layout as layout
from tests.eval.judge_server import SERVED_MODEL, judging
from tests.model.oracle_models import FIXTURES, copy_with_towers_named, load

BUDGET = CompressionConfig("visionzip", 14, 3)
PAIRS = (("what is a man doing", "running"), ("who is cutting?", "man"), ("how many dogs", "two"), ("who", "woman"))


class Brief(Inference):
    """Says four tokens: what the words of a random model are does not matter here."""

    def ask(self, questions: Sequence[Question], **options: Any) -> Iterator[Answer]:
        return super().ask(questions, **options | {"options": replace(options["options"], max_new_tokens=4)})


@pytest.fixture(scope="module")
def inference(tmp_path_factory: pytest.TempPathFactory) -> Inference:
    """The reference's tiny Video-LLaVA."""
    folder = copy_with_towers_named("video-llava", tmp_path_factory.mktemp("models")) / "tiny-video-llava-7b"
    tokenizer, model, image_processor = load(folder)
    return Brief(tokenizer, model, image_processor)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """MSVD-QA, four questions, of whose clips the last is missing."""
    folder = layout.write_zero_shot(tmp_path / "data", "msvd_qa", *layout.qa_rows(*PAIRS))
    (folder / "videos").mkdir()
    for number in range(3):
        shutil.copy(FIXTURES / "video-llava" / "clip.mp4", folder / "videos" / f"c{number}.mp4")
    return tmp_path / "data"


def settings(output: Path, data: Path, **more: Any) -> RunSettings:
    more = {"latency_repeats": 0} | more
    return RunSettings(output, fingerprint="model", data_root=data, progress=False, **more)


def test_a_model_without_video_is_refused_in_a_line(
    oracle_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(oracle_dir / "tiny-llava-v1.5")
    command = ["--model-path", model, "--tasks", "msvd_qa", "--data-root", str(data), "--device", "cpu"]
    assert main([*command, "--output-dir", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == f"error: msvd_qa: it asks about videos, and {model} takes images only"
    assert not any("Traceback" in line for line in said)


def test_answered_graded_and_reported(
    inference: Inference, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, task = tmp_path / "out", get_task("msvd_qa")
    results = evaluate(inference, [task], [None, BUDGET], settings(output, data, latency_repeats=1))
    missing = str(data / "GPT_Zero_Shot_QA" / "MSVD_Zero_Shot_QA" / "videos" / "c3.mp4")
    note = f"msvd_qa: 1 of 4 videos missing; 1 question scored as wrong: {missing}"
    assert note in capsys.readouterr().out
    for result in results:
        row = result.row
        assert row["missing_videos"] == [missing] and len(row["errors"]) == 1 and row["n"] == 4
        assert row["tokens"] == (8 * 257 if row["compression"] == "none" else 136)
        assert row["vision_ms"] > 0 and row["prefill_ms"] > 0
        assert "accuracy" not in row and 0 <= row["exact_match"] <= row["contained_match"] <= 1
    lines = (output / "answers" / "msvd_qa" / "visionzip_14+3.jsonl").read_text().splitlines()[1:]
    assert [json.loads(line)["frames"] for line in lines] == [[[0, 2, 5, 8, 10, 13, 16, 19]]] * 3
    evaluate(inference, [task], [None], settings(output, data, limit=3))
    rows = json.loads((output / "results.json").read_text())["rows"]
    assert [(row["n"], row.get("missing_videos", [])) for row in rows] == [(4, [missing]), (4, [missing]), (3, [])]

    def reply(asked: str) -> str:
        verdict = ("yes", 4) if "Question: who" in asked else ("no", 1)
        return str(dict(zip(("pred", "score"), verdict, strict=True)))

    with judging() as server:
        server.reply = reply
        arguments = [str(output), "--judge-url", server.url, "--judge-model", "gpt-3.5-turbo", "--data-root", str(data)]
        assert judge(arguments) == 0
        body = server.requests[0][2]
    assert body["messages"][0] == {"role": "system", "content": task.system_prompt}  # type: ignore[attr-defined]
    assert (body["temperature"], body["max_tokens"]) == (0, 64)
    rows = json.loads((output / "results.json").read_text())["rows"]
    for row in rows:
        assert row["judge"]["model"] == "gpt-3.5-turbo" and row["judge"]["served"] == [SERVED_MODEL]
        assert row["accuracy"] == pytest.approx(2 / 4 if row["n"] == 4 else 1 / 3) and "exact_match" in row
        assert row["score"] == pytest.approx((4 + 4 + 1 + 1) / 4 if row["n"] == 4 else 2)
    answers = [str(output / "answers" / "msvd_qa" / f"{name}.jsonl") for name in ("none", "visionzip_14+3")]
    assert report(["--diff", *answers, "--data-root", str(data), "--output", str(output)]) == 0
    assert report([str(output), "--paper", "table3", "--data-root", str(data), "--no-picture"]) == 0
    assert "no interval" not in (output / "report.md").read_text()
    text = to_markdown(build_table([output], paper_tables()["table3"]))
    assert "MSVD" in text and "69.8" in text and "63.5" in text and "1 videos were missing" in text
    assert f"graded here by gpt-3.5-turbo (served as {SERVED_MODEL})" in text


def test_no_video_at_all_ends_the_run(inference: Inference, data: Path, tmp_path: Path) -> None:
    layout.write_zero_shot(data, "tgif_qa", *layout.qa_rows(*PAIRS))
    with pytest.raises(TaskDataError, match=r"not one of 4 videos is there.*`llava prepare-eval tgif_qa` says where"):
        evaluate(inference, [get_task("tgif_qa")], [None], settings(tmp_path / "out", data))


def test_means_of_images_leave_videos_out(tmp_path: Path) -> None:
    def rows(*tasks: str) -> list[dict[str, Any]]:
        named = [(get_task(task), budget) for task in tasks for budget in ("none", "visionzip:54+10")]
        row = {"method": "-", "n": 1_000, "tokens": 64}
        return [
            row
            | {"task": task.name, "compression": budget, "task_facts": task.facts().to_json()}
            | {"main_score": task.main_score, task.main_score: 0.8 if budget == "none" else 0.6}
            for task, budget in named
        ]

    write_results(tmp_path / "a" / "results.json", rows("gqa", "msvd_qa", "tgif_qa", "mvbench"), "fp")
    table = build_table([tmp_path / "a"])
    assert table.tasks == ["gqa"]
    assert "MSVD is not in the means: it is none of the paper's benchmarks of images" in table.notes
    assert [column.heading for column in table.columns] == ["GQA", "TGIF", "MSVD", "mvbench"]
    assert build_table([tmp_path / "a"], paper_tables()["table3"]).tasks == ["tgif_qa", "msvd_qa"]
    write_results(tmp_path / "b" / "results.json", rows("msvd_qa", "msvd_qa_short", "mvbench"), "fp")
    alone = build_table([tmp_path / "b"], paper_tables()["table3"])
    assert alone.tasks == ["msvd_qa"] and alone.columns[0].size_note(alone.vanilla.cells["msvd_qa"].row) is None


def test_table_3_is_what_the_paper_prints() -> None:
    table = paper_tables()["table3"]
    assert table.vanilla is not None and table.vanilla.tokens == 2048 == 8 * 256
    row = table.row("VisionZip", 136)
    assert (row.scores["TGIF"], row.scores["ActivityNet"], row.average, row.tokens) == (42.4, 43.0, 93.2, 8 * 17)


def test_rows_of_ones_own_may_name_a_video(tmp_path: Path) -> None:
    rows = [
        {"question": "<video>\nWhat moves?", "video": "a.mp4", "answer": "a ball"},
        {"question": "What is it?", "image": "a.png", "answer": "a cat"},
        {
            "conversations": [{"from": "human", "value": "<video>\nWho?"}, {"from": "gpt", "value": "Ann"}],
            "video": "a.mp4",
        },
        {"question": "What?", "video": ["a.mp4"], "answer": "x"},
        {"question": "What?", "video": "../b.mp4", "answer": "x"},
    ]
    path = images.write_json(tmp_path / "my.json", rows)
    task = open_own_file(path)
    loaded = task.load(tmp_path)
    assert [(s.prompt, s.video, s.frames) for s in loaded.samples] == [
        ("What moves?", tmp_path / "a.mp4", None),
        ("What is it?", None, None),
        ("Who?", tmp_path / "a.mp4", None),
    ]
    assert any("video is ['a.mp4'], which is no file name" in line for line in loaded.bad_rows)
    assert any("image or video " in line for line in loaded.bad_rows)
    assert f"{path}: 4 questions about 1 picture and 2 videos; the task {task.name}" in list(task.lines())


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def test_preparing_fetches_questions_and_says_where_videos_are_had(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local, root = tmp_path / "local", tmp_path / "root"
    folder = layout.write_egoschema(local, [layout.ego_row("u1"), layout.ego_row("u2")], {"u1": 1, "u2": 2})
    for name in ("questions.json", "subset_answers.json"):
        server.put(f"egoschema/{name}", (folder / name).read_bytes())
    command = ["egoschema_subset", "--root", str(root), "--base-url", server.url]
    assert prepare(command) == 1
    said = capsys.readouterr()
    videos = root / "egoschema" / "videos"
    assert "egoschema_subset: 2 questions, 2 of 2 videos missing" in said.out
    assert f"{videos / 'u1.mp4'}" in said.err and f"{videos}: https://github.com/egoschema/EgoSchema" in said.err
    assert {path for _, path, _ in server.requests} == {"egoschema/questions.json", "egoschema/subset_answers.json"}
    layout.write_clip(videos / "u1.mp4")
    layout.write_clip(videos / "u2.mp4")
    assert prepare(command) == 0 and "missing" not in capsys.readouterr().out

    assert prepare(["msvd_qa", "--root", str(root)]) == 1
    said = capsys.readouterr()
    assert "test_q.json does not exist" in said.err and "Video-LLaVA" in said.err and "test_q" not in said.out


def test_no_video_is_ever_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    endings = {
        file.path.rsplit(".")[-1] for each in VIDEO_SETS.values() if each.questions for file in each.questions.files
    }
    assert endings == {"json"}
    assert prepare(["mvbench", "videomme", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 22 and sum("by hand: " in line for line in lines) == 2
    assert prepare(["--list"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert listed["mvbench"] == "questions from the publisher, videos by hand" and listed["tgif_qa"] == "by hand"
