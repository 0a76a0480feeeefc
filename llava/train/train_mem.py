"""LLaVA's historical entry point: training with flash attention where it can run, with SDPA where it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llava.train.train import main

if TYPE_CHECKING:
    from llava.train.arguments import TrainingArguments


def default_attention(training: TrainingArguments) -> str:
    """The fastest attention for a run; flash attention is for GPUs and half precision."""
    from transformers.utils import is_flash_attn_2_available

    can_run = training.device.type == "cuda" and (training.bf16 or training.fp16)
    return "flash_attention_2" if can_run and is_flash_attn_2_available() else "sdpa"


if __name__ == "__main__":
    main(default_attention)
