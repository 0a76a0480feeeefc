"""Reads and writes checkpoints of either format; knows no model class."""
