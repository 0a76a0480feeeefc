"""Each language model inside a LLaVA-NeXT: its template, batches, packing, and its release in plain transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.hub.card.make_card import make_card
from llava.hub.export import export
from llava.hub.verify import verify
from llava.inference import GenerationOptions, Inference, Question
from llava.model.builder import build_from_parts
from llava.model.sdpa_by_sample import attend_by_sample
from tests.hub.checkpoints import edit_json
from tests.kinds.folders import save_language_model, save_tower
from tests.model.folders import image
from tests.model.tiny import random_ids, random_pixels

TILES = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[28, 56], [56, 28]]}
# Vicuna and Llama 2 have the same config: what a checkpoint was tuned with, its config.json may say.
TEMPLATES = {
    "llama": ("vicuna_v1", None),
    "llama 2": ("llava_llama_2", "llava_llama_2"),
    "llama3": ("llava_llama_3", None),
    "mistral": ("mistral_instruct", None),
    "qwen2": ("qwen_1_5", None),
}
SHORT = GenerationOptions(max_new_tokens=4)


@pytest.fixture(scope="module", params=TEMPLATES)
def built(request, tmp_path_factory) -> tuple[str, Path]:
    folder, language = tmp_path_factory.mktemp("next"), request.param
    llm = save_language_model(language.partition(" ")[0], folder / "llm")
    parts = build_from_parts(llm, save_tower("clip", folder / "tower"), mm_patch_merge_type="spatial_unpad", **TILES)
    for part in parts:
        part.save_pretrained(folder / "llava")
    template, said = TEMPLATES[language]
    if said is not None:
        edit_json(folder / "llava" / "config.json", conv_mode=said)
    return template, folder / "llava"


@pytest.mark.parametrize("compression", [None, "visionzip:5+2"])
def test_a_batch_is_its_questions_in_the_models_own_template(compression, built):
    template, folder = built
    inference = Inference.load(folder, device="cpu", compression=compression)
    assert type(inference.model).__name__ == "LlavaNextForConditionalGeneration"
    assert inference.conv_mode == template
    questions = [Question("What is this?", (image(),)), Question("Both?", (image(), image())), Question("Hello.")]
    together = {answer.index: answer for answer in inference.ask(questions, batch_size=3, options=SHORT)}
    alone = [inference.ask_one(each.text, *each.images, options=SHORT) for each in questions]
    assert [together[index].token_ids for index in range(3)] == [answer.token_ids for answer in alone]


@pytest.mark.parametrize("by_sample", [False, True])
def test_packed_samples_have_the_loss_of_the_padded_batch(by_sample, built):
    model = Inference.load(built[1], device="cpu", compression="visionzip:5+2").model.float()
    ids = torch.zeros(3, 12, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate((12, 5, 9)):
        ids[row, :length] = random_ids(length, seed=row)
        mask[row, :length] = 1
    ids[0, 2] = ids[2, 0] = IMAGE_TOKEN_INDEX
    labels = ids.masked_fill((mask == 0) | (ids == IMAGE_TOKEN_INDEX), IGNORE_INDEX)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels, "image_sizes": [(56, 28), (28, 56)]}
    batch["images"] = [random_pixels(3, 3, 28, 28, seed=number) for number in range(2)]
    with torch.no_grad():
        padded = model(**batch).loss
        if by_sample:
            attend_by_sample(model)
        packed = model(**batch, packing=True).loss
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_release_answers_the_same_in_plain_transformers(built, tmp_path):
    image().save(tmp_path / "picture.png")
    export(built[1], "hf", tmp_path / "release", progress=False)
    make_card(tmp_path / "release", sample_image=tmp_path / "picture.png", sample_question="What is this?")
    report = verify(tmp_path / "release")
    assert all(check.ok for check in report.checks), str(report)
    assert report.checks[-1].name == "transformers answers, all tokens"
