"""Prompts as ids in which an image has its whole length, by LLaVA's rule or transformers'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

# What is done here for LLaVA's rule; the tokenizer itself serves transformers' and knows more.
_OPTIONS: tuple[str, ...] = (
    "return_tensors",
    "padding",
    "padding_side",
    "max_length",
    "truncation",
    "pad_to_multiple_of",
)
_OPTIONS += ("add_special_tokens", "return_attention_mask")


@dataclass(frozen=True)
class PromptIds:
    """Turns a batch of prompts into ids.

    LLaVA tokenises the text on each side of an image by itself; transformers the whole text, image tokens included.
    With some tokenizers the ids differ by a space, so each checkpoint keeps the rule that it was trained with.

    Attributes:
        tokenizer: Of the checkpoint.
        image_token: What stands for an image in a prompt.
        image_token_id: What stands for a visual token in the ids; for LLaVA's rule it need not be in the vocabulary.
        rule: Whose rule.
    """

    tokenizer: PreTrainedTokenizerBase
    image_token: str
    image_token_id: int
    rule: Literal["llava", "transformers"]

    def __post_init__(self) -> None:
        known = self.tokenizer.convert_tokens_to_ids(self.image_token)
        if self.rule == "transformers" and known != self.image_token_id:
            raise ValueError(
                f"image_token_id {self.image_token_id} of the model is not {self.image_token!r} in the tokenizer, "
                f"where it has the id {known}; take the model's own tokenizer"
            )
        other = self.tokenizer.convert_ids_to_tokens(self.image_token_id)
        if other not in (None, "", self.tokenizer.unk_token, self.image_token):
            raise ValueError(
                f"image_token_id {self.image_token_id} of the model is {other!r} in the tokenizer; after adding tokens "
                "say model.resize_token_embeddings(len(tokenizer)), which moves the image token, then make the "
                "processor anew: for_model(model, tokenizer=tokenizer)"
            )

    def __call__(self, texts: Sequence[str], counts: Sequence[int], options: Mapping[str, Any]) -> dict[str, Any]:
        """Tokenises prompts.

        Args:
            texts: With one image token an image.
            counts: Visual tokens of each image, in the order of the image tokens.
            options: Of the tokenizer.

        Returns:
            `input_ids` and `attention_mask`, lists of rows, and what else the options ask for.

        Raises:
            ValueError: There is no prompt, or an option is not supported, or would cut an image.
        """
        if not texts:
            raise ValueError("text is an empty list; give one prompt or more")
        options = {name: value for name, value in options.items() if value is not None}
        remaining = iter(counts)
        if self.rule == "transformers":
            expanded = [self._expanded(text, remaining) for text in texts]
            data = dict(self.tokenizer(expanded, **{**options, "return_tensors": None}))
        else:
            data = self._by_pieces(texts, remaining, options)
        kept = sum(row.count(self.image_token_id) for row in data["input_ids"])
        if kept != sum(counts):
            raise ValueError(
                f"of {sum(counts)} image tokens {kept} would be left by truncation to max_length="
                f"{options.get('max_length')}; raise it, or compress the images more"
            )
        return data

    def _expanded(self, text: str, counts: Iterator[int]) -> str:
        first, *others = text.split(self.image_token)
        return first + "".join(self.image_token * next(counts) + piece for piece in others)

    def _by_pieces(self, texts: Sequence[str], counts: Iterator[int], options: Mapping[str, Any]) -> dict[str, Any]:
        refused = {name: value for name, value in options.items() if name not in _OPTIONS and value is not False}
        if refused:
            raise ValueError(f"options {refused} are not supported; there are: {', '.join(_OPTIONS)}")
        begins = bool(options.get("add_special_tokens", True))
        rows = []
        for text in texts:
            first, *others = text.split(self.image_token)
            row = list(self.tokenizer(first, add_special_tokens=begins).input_ids)
            for piece in others:
                row += [self.image_token_id] * next(counts)
                row += self.tokenizer(piece, add_special_tokens=False).input_ids
            rows.append(row)
        if options.get("truncation"):
            rows = [row[: options.get("max_length", self.tokenizer.model_max_length)] for row in rows]
        return self._padded(rows, options)

    def _padded(self, rows: list[list[int]], options: Mapping[str, Any]) -> dict[str, Any]:
        padding, width = options.get("padding", False), max(len(row) for row in rows)
        if padding == "max_length":
            width = max(width, options.get("max_length", self.tokenizer.model_max_length))
        multiple = options.get("pad_to_multiple_of", 1)
        width = -(-width // multiple) * multiple
        missing = [width - len(row) if padding not in (False, "do_not_pad") else 0 for row in rows]
        if (
            options.get("return_tensors")
            and len({len(row) + added for row, added in zip(rows, missing, strict=True)}) > 1
        ):
            raise ValueError("the prompts differ in length; say padding=True to have them in one tensor")
        pad = self.tokenizer.pad_token_id or 0  # masked, so that its value is never seen
        on_left = options.get("padding_side", self.tokenizer.padding_side) == "left"
        ids, masks = [], []
        for row, added in zip(rows, missing, strict=True):
            filling, mask = [pad] * added, [0] * added
            ids.append(filling + row if on_left else row + filling)
            masks.append(mask + [1] * len(row) if on_left else [1] * len(row) + mask)
        return (
            {"input_ids": ids, "attention_mask": masks}
            if options.get("return_attention_mask", True)
            else {"input_ids": ids}
        )
