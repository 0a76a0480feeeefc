"""LLaVA's entry point for GPUs without flash attention: SDPA saves the memory that xformers saved there."""

from __future__ import annotations

from llava.train.train import main

if __name__ == "__main__":
    main()
