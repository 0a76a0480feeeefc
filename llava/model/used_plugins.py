"""Which plug-ins a model depends on. Others may be loaded as well, and change nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llava.conversation import TEMPLATES
from llava.kinds import plugin_records
from llava.kinds.families import FAMILIES
from llava.kinds.languages import LANGUAGES, find_language
from llava.kinds.towers import TOWERS
from llava.model.configuration import CompressionConfig
from llava.model.stages import method_plugin


def vision_plugins(config: Any, compression: CompressionConfig | None) -> set[str | None]:
    """Names of the plug-ins that the visual tokens depend on, None for this package's own.

    Args:
        config: Of the model.
        compression: The budget, or None.
    """
    names = {TOWERS.plugin_name(config.vision_config.model_type), FAMILIES.plugin_name(config.model_type)}
    while compression is not None:
        names.add(method_plugin(compression))
        compression = compression.then
    return names


def model_plugins(config: Any, compression: CompressionConfig | None, conv_mode: str) -> set[str | None]:
    """Names of the plug-ins that answers, and training, depend on; as `vision_plugins`.

    Args:
        config: Of the model.
        compression: The budget, or None.
        conv_mode: Name of the conversation template.
    """
    language = find_language(config.text_config)
    names = {TEMPLATES.plugin_name(conv_mode), LANGUAGES.plugin_name(language.name) if language else None}
    return names | vision_plugins(config, compression)


def records_of(names: Iterable[str | None]) -> list[dict[str, str]]:
    """Name and hash of each plug-in of these names, by name, so that the order of loading does not count."""
    wanted = set(names)
    return sorted(
        (record for record in plugin_records() if record["name"] in wanted), key=lambda record: record["name"]
    )
