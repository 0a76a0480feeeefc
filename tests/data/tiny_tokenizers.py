"""Tokenizers of each kind that language models have, trained on a few lines.

The pre-tokenisers' expressions and the special tokens are facts: those of the published tokenizer.json of
meta-llama/Meta-Llama-3-8B-Instruct, Qwen/Qwen2-7B-Instruct and mistralai/Mistral-Nemo-Instruct-2407.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceTrainer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from llava.prompts.tokenization import load_tokenizer

_TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LLAMA_3 = _WORDS + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _TAIL
QWEN_2 = _WORDS + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _TAIL
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _TAIL
)
# Line ends and spaces in runs, so that the byte-level tokenizers learn to join them.
LINES = [
    "a dog and a cat",
    "the red ball is on the table 1234567",
    "USER: what is this? ASSISTANT: it is a cat.",
    "naïve café, 東京タワー 🙂🙂",
    "system You are a helpful assistant",
    "[INST] what? [/INST] it's a dog",
]
TEXT = [f"{line}\n\n\n  {line}\n \n{line}:\n\n\n{line}\n" for line in LINES] * 8


@dataclass(frozen=True)
class Kind:
    """A tokenizer, and how its ids are read back to the exact text.

    Attributes:
        puts_spaces: Whether a space is put before every text (SentencePiece).
    """

    tokenizer: Any = field(repr=False)
    read: Callable[[Sequence[int]], str]
    normalize: Callable[[str], str] = str
    puts_spaces: bool = False


def sentencepiece(folder: Path, *, legacy: bool) -> Kind:
    folder.mkdir()
    (folder / "lines.txt").write_text("\n".join(LINES * 8))
    SentencePieceTrainer.train(
        input=str(folder / "lines.txt"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        pad_id=-1,
        minloglevel=2,
    )
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": legacy, "add_bos_token": True, "add_eos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(folder)

    def read(ids: Sequence[int]) -> str:
        pieces = tokenizer.convert_ids_to_tokens(ids)
        return b"".join(
            bytes([int(piece[3:5], 16)]) if piece.startswith("<0x") else piece.replace("▁", " ").encode()
            for piece in pieces
        ).decode()

    return Kind(tokenizer, read, puts_spaces=True)


def byte_level(
    folder: Path, pattern: str, special: Sequence[str], *, bos: str | None = None, eos: str, nfc: bool = False
) -> Kind:
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC() if nfc else None
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=500, special_tokens=[*special], initial_alphabet=alphabet)
    )
    if bos is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos).save_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    normalize = (lambda text: unicodedata.normalize("NFC", text)) if nfc else str
    return Kind(tokenizer, lambda ids: tokenizer.decode(ids, clean_up_tokenization_spaces=False), normalize)


def all_kinds(folder: Path) -> dict[str, Kind]:
    llama_3 = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return {
        "sentencepiece": sentencepiece(folder / "new", legacy=False),
        "sentencepiece, legacy": sentencepiece(folder / "legacy", legacy=True),
        "tekken": byte_level(
            folder / "tekken", TEKKEN, ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], bos="<s>", eos="</s>"
        ),
        "qwen 2": byte_level(
            folder / "qwen", QWEN_2, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], eos="<|im_end|>", nfc=True
        ),
        "llama 3": byte_level(folder / "llama_3", LLAMA_3, llama_3, bos="<|begin_of_text|>", eos="<|eot_id|>"),
    }
