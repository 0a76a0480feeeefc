"""What the doctor's tests share: a run whose every answer is written by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llava.eval.answers import AnswerFile
from llava.eval.answers_key import AnswersKey, compression_file_name, compression_name
from llava.eval.data_place import DataPlace
from llava.eval.doctor.command import main
from llava.eval.doctor.diagnosis import Case, Diagnosis, Slice
from llava.eval.doctor.examine import Wanted, examine
from llava.eval.tasks import get_task
from llava.model.configuration import CompressionConfig
from tests.eval import layout

TINY_MODEL = Path(__file__).resolve().parents[3] / "playground" / "tiny" / "model"
Said = Mapping[str, Mapping[str, Mapping[str, str]]]  # by task and budget, the texts by sample id
# Of eight questions about four images: type, size of the object, truth, then what is said with all tokens, under
# visionzip:54+10, and by down-sampling.
VQA = (
    ("count", 0.001, "3", "3", "2", "2"),  # lost, and down-sampling gets it wrong
    ("count", 0.001, "4", "4", "4", "5"),  # down-sampling alone gets it wrong
    ("count", 0.02, "1", "1", "7", "1"),  # lost, and down-sampling gets it right
    ("colour", 0.02, "red", "blue", "red", "blue"),  # gained
    ("colour", 0.2, "red", "red", "red", "red"),  # the same
    ("colour", 0.2, "blue", "Blue", "blue", "blue"),  # other words
    ("where", 0.2, "left", "up", "down", "left"),  # other words, wrong both times
    ("where", 0.2, "left", "left", "left", "left"),  # the same
)
# Truth and the three answers, as above; questions 0..4 are one split, 5..9 another.
POPE = (
    ("yes", "yes", "yes", "yes"),
    ("yes", "yes", "no", "no"),
    ("yes", "no", "yes", "no"),
    ("no", "no", "yes", "yes"),
    ("no", "no", "no", "no"),
    ("yes", "yes", "no", "yes"),
    ("yes", "yes", "no", "no"),
    ("no", "yes", "no", "yes"),
    ("no", "no", "no", "no"),
    ("no", "no", "no", "no"),
)
BUDGETS = ("none", "visionzip:54+10", "downsample:64")


def write_data(root: Path, *, sizes: bool = True) -> Path:
    layout.write_json(
        root / "eval_vqa.json",
        [
            {"question_id": n, "image": f"{n // 2}.png", "text": f"Q{n} <b>?", "answer": truth, "kind": kind}
            | ({"object_share": share} if sizes else {})
            for n, (kind, share, truth, *_) in enumerate(VQA)
        ],
    )
    layout.write_json(
        root / "eval_pope.json",
        [
            {"question_id": n, "image": f"{n}.png", "text": f"Is {n}?", "answer": truth, "split": "ab"[n // 5]}
            for n, (truth, *_) in enumerate(POPE)
        ],
    )
    (root / "images").mkdir()
    for number in range(4):
        (root / "images" / f"{number}.png").write_bytes(layout.png())
    return root


def said_by_hand() -> Said:
    vqa = {budget: {str(n): row[3 + k] for n, row in enumerate(VQA)} for k, budget in enumerate(BUDGETS)}
    pope = {budget: {str(n): row[1 + k] for n, row in enumerate(POPE)} for k, budget in enumerate(BUDGETS)}
    return {"tiny_vqa": vqa, "tiny_pope": pope}


def write_run(folder: Path, data: Path, said: Said, **more: Any) -> Path:
    """An output folder as llava eval leaves it."""
    rows = []
    setting = {"prompts": "p", "conv_mode": "vicuna_v1", "dtype": "torch.float32", "generation": {}} | more
    for name, by_budget in said.items():
        task = get_task(name)
        samples = task.load(data).samples
        for budget, texts in by_budget.items():
            compression = CompressionConfig.parse(budget)
            made = compression.to_dict() if compression else None
            key = AnswersKey(task=name, model="fp", compression=made, **setting)
            path = folder / "answers" / name / f"{compression_file_name(compression)}.jsonl"
            with AnswerFile(path, key) as file:
                for sample_id, text in texts.items():
                    file.append(sample_id, text)
            row = {"task": name, "compression": compression_name(compression), "main_score": task.main_score}
            row |= {"tokens": compression.num_tokens if compression else 576, "n": len(samples)}
            rows.append(row | setting | {"task_facts": task.facts().to_json()} | task.score(samples, texts))
    layout.write_json(folder / "results.json", {"run": {"model": "fp"}, "rows": rows})
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


@pytest.fixture
def run(tmp_path: Path, data: Path) -> Path:
    return write_run(tmp_path / "run", data, said_by_hand())


def examined(run: Path, data: Path, **more: Any) -> Diagnosis:
    return examine(Wanted(run, DataPlace(data), **{"resamples": 200} | more))


def case_of(diagnosis: Diagnosis, task: str) -> Case:
    return diagnosis.budgets[0].cases[task]


def counts(part: Slice) -> tuple[int, ...]:
    return part.n, part.lost, part.gained, part.reworded, part.same


def doctor(run: Path, data: Path, *words: str) -> int:
    return main([str(run), "--data-root", str(data), "--resamples", "100", *words])
