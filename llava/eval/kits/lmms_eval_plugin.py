"""The entry point by which lmms-eval learns of `llava_visionzip` (group `lmms_eval.models`)."""

from __future__ import annotations

from typing import Any

MODEL_ID = "llava_visionzip"
CLASS_PATH = "llava.eval.kits.lmms_eval_model.LlavaVisionZip"


def manifest() -> Any:
    """What lmms-eval's registry asks for: a name, and where its class is. Only lmms-eval calls this."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=MODEL_ID, simple_class_path=CLASS_PATH)
