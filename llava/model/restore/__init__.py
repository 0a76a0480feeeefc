"""RESTORE in the language model: tokens stand where their patches were, and attention knows how many each holds."""

from llava.model.restore.placed_rows import PlacedRows
from llava.model.restore.placed_tokens import PlacedTokens
from llava.model.restore.reading import RestoredCache

__all__ = ["PlacedRows", "PlacedTokens", "RestoredCache"]
