"""What a file of answers was made with, so that answers of different models, prompts or budgets never mix."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from llava.eval.tasks import TASKS, Sample
from llava.model.configuration import CompressionConfig
from llava.model.used_plugins import model_plugins, records_of

if TYPE_CHECKING:
    from llava.inference import Inference

# What a key means that lacks them.
_UNSAID: dict[str, Any] = {"plugins": [], "exact": False, "clip_text": "", "image_store": ""}
_IN_FILE_NAMES = str.maketrans({":": "_", ",": "_", "=": "-", "/": "-", "|": "_"})


@dataclass(frozen=True)
class AnswersKey:
    """The first line of an answer file. Batch size and device are left out: in fp32 they do not change an answer.

    Attributes:
        task: Name of the task.
        model: Fingerprint of the model's files.
        compression: The compression's config, or None.
        conv_mode: Name of the conversation template.
        prompts: Fingerprint of every prompt of the task.
        generation: Generation options.
        dtype: Data type of the weights, and their bits where they are quantised.
        data: Where the questions and images are from: `local`, or a list of datasets and revisions.
        plugins: Name and hash of each plug-in that these answers depend on (`used_plugins`), so a plug-in that was
            edited begins a file of its own.
        exact: Whether every question was asked as if it were the only one (`Inference.exact`).
        clip_text: Fingerprint of the CLIP that read the questions, where the method chose by that.
        image_store: The type of stored images that are rounded; empty where images are encoded, or stored exactly.
    """

    task: str
    model: str
    compression: dict[str, Any] | None
    conv_mode: str
    prompts: str
    generation: dict[str, Any]
    dtype: str
    data: str | list[dict[str, str]] = "local"
    plugins: list[dict[str, str]] = field(default_factory=list)
    exact: bool = False
    clip_text: str = ""
    image_store: str = ""

    def to_json(self) -> dict[str, Any]:
        """The key as plain JSON values; without what says nothing and older files do not have."""
        key: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {name: value for name, value in key.items() if value or name not in _UNSAID}

    def differences(self, other: dict[str, Any]) -> list[str]:
        """The fields in which a stored key differs, each with both values."""
        own = self.to_json()
        names = sorted(set(own) | set(other))
        values = ((name, other.get(name, _UNSAID.get(name)), own.get(name, _UNSAID.get(name))) for name in names)
        return [f"{name}: {stored!r} -> {new!r}" for name, stored, new in values if stored != new]


def used_plugins(task: str, compression: CompressionConfig | None, conv_mode: str, config: Any) -> list[dict[str, str]]:
    """The plug-ins that answers depend on; others may be loaded as well, and change nothing.

    Args:
        task: Name of the task.
        compression: The budget, or None.
        conv_mode: Name of the conversation template.
        config: Of the model: its tower, language model and family may be a plug-in's.

    Returns:
        Name and hash of each, by name.
    """
    return records_of({TASKS.plugin_name(task)} | model_plugins(config, compression, conv_mode))


def prompts_fingerprint(samples: Sequence[Sample]) -> str:
    """A hash of ids, prompts and names of images and clips, in order; the whole task's, whatever part of it is run.

    The names are without their endings: a missing image may come back with another.
    """
    digest = hashlib.sha256()
    for sample in samples:
        names: list[str | int | None] = [PurePath(image.name).stem for image in sample.images]
        names += [] if sample.video is None else [sample.video.stem, sample.frames]
        digest.update(json.dumps([sample.sample_id, sample.prompt, names]).encode())
    return digest.hexdigest()[:16]


def references_fingerprint(samples: Sequence[Sample]) -> str:
    """A hash of what the answers are held against; annotations that were mended give another."""
    digest = hashlib.sha256()
    for sample in samples:
        held = [sample.sample_id, sample.answer, sample.details.get("answers"), sample.details.get("options")]
        digest.update(json.dumps(held).encode())
    return digest.hexdigest()[:16]


def compression_name(compression: CompressionConfig | None) -> str:
    """A name for a budget in results and tables: its short form."""
    return "none" if compression is None else str(compression)


def without_seed(name: str) -> str:
    """A budget's name, as `compression_name` makes it, without its seeds: the same for draws of one method."""
    return re.sub(r",seed=\d+", "", name)


def compression_file_name(compression: CompressionConfig | None) -> str:
    """The same as a file's name."""
    return compression_name(compression).translate(_IN_FILE_NAMES)


def rounded_type(inference: Inference) -> str:
    """The type of the stored images that are asked about, if it rounds them; answers may then differ."""
    stored = inference.stored_images()
    if stored is None or stored.store.layout.stored == stored.store.layout.computed:
        return ""
    return stored.store.layout.stored


def weights_of(model: Any) -> str:
    """Data type of a model's weights, and the bits of a quantised language model's, which answers otherwise."""
    bits = [bits for bits in (4, 8) if getattr(model, f"is_loaded_in_{bits}bit", False)]
    return f"{model.dtype}, {bits[0]} bits" if bits else str(model.dtype)
