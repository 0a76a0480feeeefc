"""Training: LLaVA's stages and flags, on transformers' Trainer."""
