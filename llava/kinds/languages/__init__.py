"""Language models: all that is known of a kind of language model, as one descriptor in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava.kinds.registry import Registry

_ANY_LLAVA = "llava"


@dataclass(frozen=True)
class LanguageKind:
    """A language model of transformers, as LLaVA is made of it.

    Attributes:
        name: What it is called here.
        model_type: Of its config.
        template: Name of the conversation template that its LLaVAs were tuned with.
        vocabularies: Sizes of the vocabulary that tell it from others of the same `model_type`; None for all.
        llava_model_types: What config.json of LLaVA's format calls a LLaVA made of it, the name that is written first;
            where nothing is given, `llava_` and `model_type`.
        is_supported: Whether such a LLaVA is loaded; if not, only its template is known.
        llava_class: haotian-liu/LLaVA's class of such a LLaVA; None if it has none, and then nothing is exported to it.
        next_class: The same of LLaVA-NeXT's code, which a config.json names where its `model_type` says `llava` only.
        llava_folder_words: What the folder's name must contain for haotian-liu/LLaVA to choose that class.
        sentencepiece: Whether its tokenizer is SentencePiece's, of which LLaVA reads `tokenizer.model`.
        is_prunable: Whether methods inside the language model can run its layers one by one: they are those of a Llama
            or Qwen2, with keys and queries that are rotated and nothing else.
    """

    name: str
    model_type: str
    template: str
    vocabularies: range | None = None
    llava_model_types: tuple[str, ...] = ()
    is_supported: bool = True
    llava_class: str | None = None
    next_class: str | None = None
    llava_folder_words: tuple[str, ...] = ("llava",)
    sentencepiece: bool = False
    is_prunable: bool = False

    def __post_init__(self) -> None:
        if not self.llava_model_types:  # a name of LLaVA's manner, for a language model that LLaVA has not met
            object.__setattr__(self, "llava_model_types", (f"llava_{self.model_type}",))

    def is_called(self, model_type: Any, architectures: Sequence[str] | None) -> bool:
        """Whether a config.json with these entries may be of this kind; `llava` is what several call themselves."""
        if model_type not in (self.model_type, *self.llava_model_types):
            return False
        classes = [name for name in architectures or () if name.startswith("Llava") and name.endswith("ForCausalLM")]
        return model_type != _ANY_LLAVA or not classes or bool({self.llava_class, self.next_class} & set(classes))

    def fits(self, config: Any) -> bool:
        """Whether the config of a language model, or LLaVA's of a whole model, is of this kind."""
        if not self.is_called(getattr(config, "model_type", None), getattr(config, "architectures", None)):
            return False
        return self.vocabularies is None or getattr(config, "vocab_size", 0) in self.vocabularies


LANGUAGES: Registry[LanguageKind] = Registry(
    "language model",
    builtin=tuple(f"llava.kinds.languages.{name}" for name in ("llama", "llama3", "mistral", "mpt", "qwen2")),
)


def register_language(kind: LanguageKind) -> LanguageKind:
    """Makes a language model known by its name.

    Raises:
        ValueError: The name is taken.
    """
    return LANGUAGES.register(kind.name, kind, depth=2)


def find_language(config: Any) -> LanguageKind | None:
    """The kind of a config, of a language model or of LLaVA's format, None if it is not known."""
    return LANGUAGES.first(lambda kind: kind.fits(config))


def language_named(model_type: Any) -> LanguageKind | None:
    """A supported kind that a config.json calls by this `model_type`, its own or LLaVA's, None if there is none.

    Kinds that share a name share the architecture too, and differ in their vocabulary only.
    """
    return LANGUAGES.first(lambda kind: kind.is_supported and model_type in (kind.model_type, *kind.llava_model_types))


def language_of_llava(raw: Mapping[str, Any]) -> LanguageKind | None:
    """The kind of a config.json of LLaVA's format, None if it is not supported."""
    called = raw.get("model_type"), raw.get("architectures")
    return LANGUAGES.first(lambda kind: kind.is_supported and kind.is_called(*called))
