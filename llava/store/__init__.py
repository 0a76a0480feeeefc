"""A store of encoded images: built once by `llava store build`, read wherever the model is asked or trained.

    store = llava.store.open("STORE")
    store["cat.jpg"].tokens

The names below are resolved on first use, for `--help` must not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava.encoded.errors import StoreError, StoreMismatchError
    from llava.encoded.store import EncodedImage, EncodedStore
    from llava.encoded.store import open_store as open

__all__ = ["EncodedImage", "EncodedStore", "StoreError", "StoreMismatchError", "open"]

_HOME_OF = {
    "EncodedImage": "llava.encoded.store",
    "EncodedStore": "llava.encoded.store",
    "StoreError": "llava.encoded.errors",
    "StoreMismatchError": "llava.encoded.errors",
    "open": "llava.encoded.store",
}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), "open_store" if name == "open" else name)
    raise AttributeError(f"module 'llava.store' has no attribute {name!r}")
