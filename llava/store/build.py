"""What a process of `llava store build` needs beside the loop: its share, its device, its store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llava.encoded.made_with import ModelFacts
from llava.encoded.store import EncodedStore, make_store
from llava.store.encoder import Encoder, new_layout
from llava.store.fill import NamedFile, Opening


@dataclass(frozen=True)
class Share:
    """A process among those of a launcher.

    Attributes:
        rank: Its number.
        processes: How many there are.
    """

    rank: int = 0
    processes: int = 1

    @classmethod
    def of_launcher(cls) -> Share:
        """As torchrun and the like say; a process that none has started is the only one."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def is_first(self) -> bool:
        """Whether this one speaks for all."""
        return self.rank == 0

    def of(self, images: Sequence[NamedFile]) -> list[NamedFile]:
        """This process's images. They go by their names, so that shares fit whatever each process finds stored."""
        return [image for image in images if _number(image.stamp.path) % self.processes == self.rank]


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big")


def open_for(model: Any, opening: Opening, args: Any) -> tuple[EncodedStore, Encoder]:
    """The store that the flags name, and what encodes for it.

    Args:
        model: `VisionSeam`.
        opening: How images become pixels.
        args: With `output`, `stage`, `store_dtype` and `nested`.

    Raises:
        StoreError: The budget cannot be stored so, or what is there was encoded or is held otherwise.
    """
    facts = ModelFacts(model, opening.image_processor, opening.config, opening.max_pixels)
    layout = new_layout(model, args.stage, args.store_dtype, nested=args.nested)
    store = make_store(args.output, layout, facts.parts(args.stage))
    store.manifest.check_layout(layout, store.folder)
    return store, Encoder(model, store.layout)
