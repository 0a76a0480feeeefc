"""A compressed model, its export for plain transformers, its language model alone, and questions to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoProcessor, LlavaForConditionalGeneration

from llava.hub.export import export
from llava.inference import Inference, Question
from llava.serve.embeds import EmbeddedQuestion, embed_question, save_text_model

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "playground" / "tiny" / "model"
IMAGES = ROOT / "tests" / "fixtures" / "oracle" / "images"
LANDSCAPE, PORTRAIT = IMAGES / "landscape.png", IMAGES / "portrait.png"
BUDGET = "visionzip:41+8"
ADAPTIVE = "visionzip:41+8,adaptive=attention,threshold=0.5,floor=3"
ROWS = 49
TEXT = "Which digit is red?"


@pytest.fixture(scope="session")
def inference() -> Inference:
    return Inference.load(MODEL, device="cpu", compression=BUDGET)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "hf"
    export(MODEL, "hf", folder, progress=False)
    return folder


@pytest.fixture(scope="session")
def plain(exported: Path) -> Any:
    """transformers' own class, in fp32."""
    model = LlavaForConditionalGeneration.from_pretrained(exported, dtype=torch.float32).eval()
    assert type(model).__module__.startswith("transformers.")
    return model


@pytest.fixture(scope="session")
def plain_processor(exported: Path) -> Any:
    """transformers' own processor, whose template and tokenizer a server uses."""
    return AutoProcessor.from_pretrained(exported, backend="pil")


@pytest.fixture(scope="session")
def text_folder(inference: Inference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "model"
    save_text_model(inference.model, inference.tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def text_model(text_folder: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(text_folder, dtype=torch.float32).eval()
    assert type(model).__name__ == "LlamaForCausalLM"
    return model


@pytest.fixture
def ask(inference: Inference) -> Callable[..., EmbeddedQuestion]:
    """A question under a budget; the model's own is put back."""

    def ask(text: str = TEXT, *images: Path, compression: str = BUDGET) -> EmbeddedQuestion:
        inference.model.set_compression(compression)
        try:
            return embed_question(inference, text, *(images or (LANDSCAPE,)))
        finally:
            inference.model.set_compression(BUDGET)

    return ask


@pytest.fixture
def uneven(ask: Callable[..., EmbeddedQuestion]) -> EmbeddedQuestion:
    """Two images of different numbers of rows in one question, as an adaptive budget makes them."""
    found = ask(TEXT, LANDSCAPE, PORTRAIT, compression=ADAPTIVE)
    assert len(set(found.rows)) == 2
    return found


@torch.no_grad()
def own_logits(inference: Inference, text: str, *images: Path, compression: str = BUDGET) -> Tensor:
    """(1, L, V) of LLaVA's own call: pixels in, nothing of `llava.serve.embeds`."""
    model = inference.model
    model.set_compression(compression)
    try:
        opened = inference.open(images)
        ids = torch.tensor([inference.tokenize(inference.prompt(Question(text, images)))])
        pixels, sizes = inference.preprocess(opened), [image.size for image in opened]
        logits: Tensor = model(ids, images=pixels, image_sizes=sizes).logits
        return logits
    finally:
        model.set_compression(BUDGET)


def with_rows(ids: Sequence[int], rows: Sequence[Tensor], token: int) -> list[int]:
    """What vLLM does to the ids of a prompt: each image token becomes as many as its image has rows."""
    left = iter(rows)
    return [each for found in ids for each in ([token] * len(next(left)) if found == token else [found])]
