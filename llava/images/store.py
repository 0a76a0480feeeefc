"""The images of one call: each decoded and encoded once, and let go when no question needs it any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llava.images.rules import one_tile_beside_others
from llava.images.source import (
    FrameSource,
    ImageSource,
    UnreadableImageError,
    download,
    image_size,
    is_url,
    open_image,
    source_key,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from llava.images.workers import ImageFeed


def image_keys(images: Sequence[ImageSource], config: Any) -> list[str]:
    """The names by which the images of one prompt are known in a call.

    An image that becomes other pixels beside others than alone has another name there.

    Args:
        images: All of the prompt.
        config: The model's.
    """
    pictures = sum(not isinstance(image, FrameSource) for image in images)
    mark = "beside others:" if pictures > 1 and one_tile_beside_others(config) else ""
    return [source_key(image) if isinstance(image, FrameSource) else mark + source_key(image) for image in images]


@dataclass
class ImageStore:
    """Images that questions still to be answered need, by key.

    Attributes:
        uses: How often each is still needed.
        config: The model's, which says what an image becomes.
        features: Those that are encoded, as `Inference.see` gives them.
        sizes: (w, h) of those that have been looked at.
        downloads: Those that came from a URL and are not encoded yet.
        failures: Why those cannot be read that cannot.
        feed: Prepares those that are to be encoded next.
    """

    uses: Counter[str]
    config: Any = None
    features: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    downloads: dict[str, bytes] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    feed: ImageFeed = field(init=False)

    def know(self, features: Mapping[str, Any]) -> None:
        """Takes images that were encoded in an earlier call."""
        self.features |= features
        self.sizes |= {key: image.size for key, image in features.items()}

    def size(self, key: str, source: ImageSource) -> tuple[int, int]:
        """Size of an image; one at a URL is downloaded for it and kept until it is encoded."""
        if key in self.failures:
            raise UnreadableImageError(self.failures[key])
        if key not in self.sizes:
            try:
                if is_url(source):
                    self.downloads[key] = download(str(source))
                self.sizes[key] = image_size(self.downloads.get(key, source), self.config)
            except UnreadableImageError as error:
                self.downloads.pop(key, None)
                self.failures[key] = str(error)
                raise
        return self.sizes[key]

    def open(self, key: str, source: ImageSource) -> Image:
        """The image itself, once."""
        if key in self.failures:
            raise UnreadableImageError(self.failures[key])
        try:
            return open_image(self.downloads.pop(key, source), self.config)
        except UnreadableImageError as error:
            self.failures[key] = str(error)
            raise

    @property
    def held_bytes(self) -> int:
        """Memory of what is downloaded and not encoded yet."""
        return sum(map(len, self.downloads.values()))

    def release(self, keys: Iterable[str]) -> None:
        """Says that a question that needed these is answered."""
        for key in keys:
            self.uses[key] -= 1
            if self.uses[key] <= 0:
                self.features.pop(key, None)
                self.downloads.pop(key, None)
