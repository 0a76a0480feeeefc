"""LLaVA's historical entry point: training with flash attention where it is installed, with SDPA where it is not."""

from __future__ import annotations

from llava.train.train import main


def default_attention() -> str:
    """The fastest attention that this machine has."""
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if is_flash_attn_2_available() else "sdpa"


if __name__ == "__main__":
    main(attn_implementation=default_attention())
