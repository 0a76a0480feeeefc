"""Releasing checkpoints: export, card, verify, push."""
