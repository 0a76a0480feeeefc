"""What can be wrong with a store of encoded images."""

from __future__ import annotations


class StoreError(ValueError):
    """The store cannot be used, or cannot hold what it should; the message names its folder or the method."""


class StoreMismatchError(StoreError):
    """The store holds images that something else has encoded; the message says what differs."""
