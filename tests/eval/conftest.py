"""A small copy of the tiny benchmark's files, its pictures made of real digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

NUM_PICTURES = 5


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`eval_vqa.json` (20 questions), `eval_pope.json` (10 questions) and `images/`."""
    root = tmp_path_factory.mktemp("tiny_data")
    (root / "images").mkdir()
    digits = load_digits()
    vqa, pope = [], []
    for number in range(NUM_PICTURES):
        pixels = (digits.images[number] * 15.9).astype(np.uint8)
        name = f"eval_{number}.png"
        Image.fromarray(pixels).convert("RGB").resize((112, 112)).save(root / "images" / name)
        digit = int(digits.target[number])
        asked = [
            ("Which digit is it?", str(digit), "digit"),
            ("How many digits are there in the picture?", "1", "count"),
            ("What colour is the digit?", "white", "colour"),
            ("Which digit is in the middle of the picture, please?", str(digit), "digit"),
        ]
        for text, answer, kind in asked:
            row = {"question_id": len(vqa), "image": name, "text": text, "answer": answer, "kind": kind}
            vqa.append(row)
        for value, answer in ((digit, "yes"), ((digit + 1) % 10, "no")):
            row = {"question_id": len(pope), "image": name, "text": f"Is there a {value}?", "answer": answer}
            pope.append({**row, "kind": "exist", "split": "random"})
    (root / "eval_vqa.json").write_text(json.dumps(vqa))
    (root / "eval_pope.json").write_text(json.dumps(pope))
    return root
