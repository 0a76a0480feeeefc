"""MPT, of the first LLaVAs: its template is known, its models are not loaded."""

from __future__ import annotations

from llava.kinds.languages import LanguageKind, register_language

MPT = register_language(
    LanguageKind(name="mpt", model_type="mpt", template="mpt", llava_model_types=("llava_mpt",), is_supported=False)
)
