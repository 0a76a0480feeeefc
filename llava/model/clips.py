"""Videos among the images that a model is given: which they are, and how many placeholders each takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from llava.kinds.families import clip_rules, find_family


@dataclass(frozen=True)
class ClipPixels:
    """The frames of one video, ready for the tower; stands among `images` where a video does.

    Attributes:
        pixels: (T, 3, H, W), any float dtype.
    """

    pixels: Tensor

    def __len__(self) -> int:
        """T."""
        return len(self.pixels)

    def to(self, *args: Any, **kwargs: Any) -> ClipPixels:
        """Moves or casts it, as `Tensor.to` does."""
        return replace(self, pixels=self.pixels.to(*args, **kwargs))


Visual = Tensor | ClipPixels


def with_modalities(images: Any, modalities: Sequence[str] | None) -> Any:
    """LLaVA-NeXT's way to say which of the images are videos.

    Args:
        images: As for `encode_images`.
        modalities: `image` or `video` for each of them; None: all are what they are.

    Returns:
        The images, (T, 3, H, W) of each video as `ClipPixels`.

    Raises:
        ValueError: They differ in number, or one is neither.
    """
    if modalities is None or images is None or all(each == "image" for each in modalities):
        return images
    if len(modalities) != len(images):
        raise ValueError(f"modalities name {len(modalities)} images, and {len(images)} are given")
    unknown = next((each for each in modalities if each not in ("image", "video")), None)
    if unknown is not None:
        raise ValueError(f"modalities={list(modalities)}: {unknown!r} is neither 'image' nor 'video'")
    return [
        ClipPixels(image) if each == "video" and isinstance(image, Tensor) else image
        for image, each in zip(images, modalities, strict=True)
    ]


def clips_among(images: Any, config: Any) -> dict[int, Tensor]:
    """The videos among images, by their place.

    A model that cuts no tiles and sees videos takes several pictures of one entry for a video, as Video-LLaVA does,
    also with the axes of frames and colours exchanged, (3, T, H, W).

    Args:
        images: As for `encode_images`.
        config: Of the model.

    Returns:
        (T, 3, H, W) each; none where all are images.

    Raises:
        ValueError: There is one and the model sees none, or sees another number of frames.
    """
    family = find_family(config)
    by_axes = family is not None and family.clips is not None and not family.is_tiled
    if isinstance(images, Tensor) and not (by_axes and images.dim() == 5):
        return {}
    found: dict[int, Tensor] = {}
    for place, image in enumerate(images):
        if isinstance(image, ClipPixels):
            found[place] = image.pixels
        elif by_axes and image.dim() == 4:
            found[place] = image.transpose(0, 1) if image.shape[0] == 3 and image.shape[1] != 3 else image
    if found:
        rules = clip_rules(config)
        for pixels in found.values():
            if pixels.dim() != 4 or pixels.shape[1] != 3 or not len(pixels):
                raise ValueError(f"a video's pixels are {tuple(pixels.shape)}, and must be (frames, 3, height, width)")
            rules.num_frames(len(pixels))
    return found


def placeholders_of(images: Any, config: Any) -> list[int]:
    """How many `-200` each image and video takes in the ids; arguments as for `clips_among`."""
    if images is None:
        return []
    clips = clips_among(images, config)
    rules = clip_rules(config) if clips else None
    return [
        1 if rules is None or place not in clips else rules.placeholders(len(clips[place]))
        for place in range(len(images))
    ]
