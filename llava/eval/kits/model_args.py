"""What `--model_args` of a kit may say of the model."""

from __future__ import annotations

from typing import Any

from llava.inference import Inference
from llava.model.configuration import CompressionConfig

_KNOWN = (
    "attn_implementation",
    "compression",
    "conv_template",
    "dtype",
    "image_aspect_ratio",
    "load_4bit",
    "load_8bit",
    "model_base",
)


def load_inference(pretrained: str, *, device: str | None = None, **model_args: Any) -> Inference:
    """Loads the model that a kit's arguments describe.

    Args:
        pretrained: A checkpoint, as for `load_pretrained_model`.
        device: Where it is to be; by default the accelerator if there is one, else the CPU.
        **model_args: `compression` (`visionzip:54+10`, `none`; by default the checkpoint's own), `model_base`,
            `conv_template` (by default the one that the checkpoint's config asks for), `dtype` (`float16`, ...,
            `auto`), `attn_implementation`, `image_aspect_ratio`, `load_8bit`, `load_4bit`.

    Raises:
        ValueError: An argument is unknown, or its value.
    """
    unknown = sorted(set(model_args) - set(_KNOWN))
    if unknown:
        raise ValueError(f"--model_args: unknown: {', '.join(unknown)}; known: pretrained, {', '.join(_KNOWN)}")
    passed_on = ("attn_implementation", "load_4bit", "load_8bit")
    options: dict[str, Any] = {name: value for name, value in model_args.items() if name in passed_on}
    if "compression" in model_args:
        options["compression"] = CompressionConfig.parse(str(model_args["compression"]))
    if "image_aspect_ratio" in model_args:
        options["overwrite_config"] = {"image_aspect_ratio": model_args["image_aspect_ratio"]}
    return Inference.load(
        pretrained,
        model_args.get("model_base"),
        conv_mode=model_args.get("conv_template"),
        device=device,
        torch_dtype=model_args.get("dtype"),
        **options,
    )


def read_batch_size(value: int | str) -> int | None:
    """A kit's batch size: a number, or None for `auto`.

    Raises:
        ValueError: It is neither.
    """
    if str(value).split(":")[0] == "auto":
        return None
    if not str(value).isdecimal() or int(value) < 1:
        raise ValueError(f"--batch_size must be a whole number of at least 1, or auto, got {value!r}")
    return int(value)
