"""The prompt of a question, as text and as ids: what needs a checkpoint's small files, and none of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llava.constants import IMAGE_TOKEN_INDEX
from llava.inference.question import Question
from llava.inference.written import written
from llava.model.checkpoints.config_of import config_of
from llava.model.checkpoints.files import CheckpointError, resolve_checkpoint
from llava.model.vocabulary import check_ids
from llava.prompts.around import stop_string
from llava.prompts.own_template import conv_mode_for
from llava.prompts.tokenization import load_tokenizer
from llava.prompts.tokens import tokenizer_image_token
from llava.utils import shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PromptWriter:
    """Writes prompts as a model was tuned with them.

    Attributes:
        tokenizer: The model's.
        config: The model's.
        conv_mode: Name of a conversation template.
    """

    tokenizer: PreTrainedTokenizerBase
    config: Any
    conv_mode: str

    @classmethod
    def of_checkpoint(
        cls, model_path: str | Path, model_base: str | Path | None = None, conv_mode: str | None = None
    ) -> PromptWriter:
        """Reads a checkpoint's small files.

        Args:
            model_path: As for `load_pretrained_model`.
            model_base: What a projector or an adapter goes on; by default what it names.
            conv_mode: Name of a conversation template; see `conv_mode_for`.

        Raises:
            CheckpointError: It cannot be had, or is no LLaVA.
            ValueError: There is no template of that name.
        """
        config = config_of(model_path, model_base)
        try:
            tokenizer = load_tokenizer(resolve_checkpoint(model_base or model_path, weights=False))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{model_base or model_path}: has no whole tokenizer: {error}") from error
        return cls(tokenizer, config, conv_mode_for(config, tokenizer, conv_mode))

    def prompt(self, question: Question) -> str:
        """The whole prompt of a question; see `written`."""
        return written(question, self.conv_mode, self.config)

    def tokenize(self, prompt: str) -> list[int]:
        """Ids of a whole prompt, -200 for each `<image>`.

        Raises:
            ValueError: The tokenizer panics at it, or knows a token for which the model has no embedding.
        """
        try:
            ids = cast("list[int]", tokenizer_image_token(prompt, self.tokenizer, IMAGE_TOKEN_INDEX))
        except (Exception, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # a panic in Rust, which would pass every `except Exception`
            raise ValueError(f"the tokenizer fails at the prompt {shown(prompt)!r}: {error}") from error
        text = [each for each in ids if each != IMAGE_TOKEN_INDEX]
        check_ids(text, self.config.get_text_config().vocab_size)
        return ids

    @property
    def stop(self) -> str | None:
        """The separator at which answers end, where that is not the end token itself."""
        return stop_string(self.conv_mode, self.tokenizer)
