"""On a GPU, in fp32: what is shared, compiled, and prepared ahead gives the answers of one question after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llava.inference import GenerationOptions, Inference, Question

pytestmark = pytest.mark.gpu

OPTIONS = GenerationOptions(max_new_tokens=12)


@pytest.mark.parametrize("checkpoint", ["tiny-llava-v1.5", "tiny-llava-v1.6-next"])
@pytest.mark.parametrize("how", [{}, {"compile": True}, {"image_workers": 2}])
def test_answers_are_those_of_one_question_after_the_other(
    oracle_dir: Path, checkpoint: str, how: dict[str, Any]
) -> None:
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 256, (200, 320, 3), dtype=np.uint8)) for _ in range(12)]
    questions = [Question(f"What is thing number {n}?", (pictures[n % 12],)) for n in range(30)]
    load = {"device": "cuda", "torch_dtype": "float32", "compression": "visionzip:54+10"}
    inference = Inference.load(oracle_dir / checkpoint, **load, **how)
    parts = inference.tokenizer, inference.model, inference.image_processor
    plain = Inference(*parts, conv_mode=inference.conv_mode, reuse_prefixes=False, image_workers=0)
    expected = [plain.ask_one(q.text, *q.images, options=OPTIONS).token_ids for q in questions]
    for _ in range(2):  # the second time from the graphs that are there
        answers = sorted(inference.ask(questions, batch_size=8, options=OPTIONS), key=lambda answer: answer.index)
        assert [answer.token_ids for answer in answers] == expected
