"""`llava_visionzip` in lmms-eval itself, where that is installed; it is no dependency, so elsewhere nothing is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava.eval.kits.lmms_eval_plugin import manifest
from llava.inference import GenerationOptions, Inference

pytest.importorskip("lmms_eval")
TINY = str(Path(__file__).parents[2] / "playground" / "tiny" / "model")


def request(kind: str, second: Any, number: int) -> Any:
    from lmms_eval.api.instance import Instance

    arguments = ("Is there a 3?", second, lambda doc: [doc["image"]], number, "task", "test")
    return Instance(kind, arguments, number, {"task": "task", "doc_id": number, "repeats": 1})


@pytest.mark.slow
def test_the_registry_makes_a_model_that_answers(oracle_dir: Path) -> None:
    from lmms_eval.api.instance import unwrap_generation_output
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    registry.register_manifest(manifest())
    model = registry.get_model_class("llava_visionzip", force_simple=True).create_from_arg_string(
        f"pretrained={TINY},compression=visionzip:41+8", {"batch_size": "2", "max_batch_size": None, "device": "cpu"}
    )
    images = [Image.open(oracle_dir / "images" / f"{name}.png").convert("RGB") for name in ("small", "square")]
    model.task_dict["task"] = {"test": [{"image": image} for image in images]}
    given = model.generate_until([request("generate_until", {"max_new_tokens": 8}, number) for number in (0, 1)])
    inference = Inference.load(TINY, device="cpu", compression="visionzip:41+8")
    alone = [inference.ask_one("Is there a 3?", image, options=GenerationOptions(8)) for image in images]
    for result, answer in zip(given, alone, strict=True):
        text, counts = unwrap_generation_output(result)
        assert (text, counts.input_tokens) == (answer.text, answer.prompt_tokens)
    [scored] = model.loglikelihood([request("loglikelihood", alone[0].text, 0)])
    (loss, is_greedy), _ = unwrap_generation_output(scored)
    assert 0 <= loss < 1 and is_greedy
    assert (model.rank, model.world_size, str(model.device)) == (0, 1, "cpu")
    model.clean()
    with pytest.raises(RuntimeError, match="the model is gone"):
        model.generate_until([request("generate_until", {}, 0)])
