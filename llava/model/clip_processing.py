"""Videos in transformers' calling convention: `videos=` becomes `pixel_values_videos`, and a video token a feature."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from transformers import BatchFeature

from llava.constants import DEFAULT_VIDEO_TOKEN
from llava.model.clip_counts import FrameCounts
from llava.model.processing import CompressedProcessor
from llava.prompts.images import by_sample
from llava.video import Video


class ClipProcessor(CompressedProcessor):
    """Mixed into the processors of families that see videos, before transformers' class."""

    video_token = DEFAULT_VIDEO_TOKEN
    _frames: FrameCounts | None = None

    @classmethod
    def _made_of(cls, config: Any, *given: Any, **named: Any) -> Any:
        made = super()._made_of(config, *given, **named)
        made._frames = FrameCounts.from_config(config)
        return made

    def __call__(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> Any:
        """As `CompressedProcessor.__call__`, and with videos.

        Args:
            images: As there.
            text: As there, and one `<video>` for each video.
            videos: What `llava.video.Video` takes, or `Video`s: one, a list in the order of the `<video>`s, or a list
                of lists, one for each text. All have the same number of frames.
            audio: Not supported.
            **kwargs: As there.

        Returns:
            As there, and `pixel_values_videos` (videos, T, 3, H, W).

        Raises:
            ValueError: Texts and videos do not go together, or the checkpoint's ids have no token for videos.
            UnreadableVideoError: A video cannot be read.
        """
        if videos is None:
            return super().__call__(images, text, None, audio, **kwargs)
        texts, counts = [text] if isinstance(text, str) else list(text or ()), self._counts()
        given = _listed(videos, [each.count(self.video_token) for each in texts], self.video_token)
        config = SimpleNamespace(model_type=self.model_type)
        clips = [video.prepare(self.view_processor(), config).pixels for video in given]
        if len({len(clip) for clip in clips}) > 1:
            raise ValueError(f"videos of one call have one number of frames, got {[len(clip) for clip in clips]}")
        lengths = iter(sum(counts.lengths(self.compression, len(clip))) for clip in clips)
        data = super().__call__(images, [self._opened(each, lengths) for each in texts], None, audio, **kwargs)
        return BatchFeature({**data, "pixel_values_videos": torch.stack(clips)})

    def _counts(self) -> FrameCounts:
        if self._frames is None:
            raise ValueError(
                "this processor was saved apart from its model's config.json, which says how videos are read"
            )
        if self.tokenizer.convert_tokens_to_ids(self.video_token) in (None, self.tokenizer.unk_token_id):
            raise ValueError(
                f"the tokenizer has no {self.video_token}, as in every checkpoint of LLaVA's format; give images= to "
                "the model, or ask with llava.inference"
            )
        return self._frames

    def _opened(self, text: str, lengths: Any) -> str:
        """A text with a video token for every feature of its videos."""
        first, *others = text.split(self.video_token)
        return first + "".join(self.video_token * next(lengths) + piece for piece in others)


def _listed(videos: Any, placed: Sequence[int], token: str) -> list[Video]:
    """The videos of all texts in one list; raises ValueError where texts have places for others."""
    given = list(videos) if isinstance(videos, list | tuple) else [videos]
    if any(entry is None or isinstance(entry, list | tuple) for entry in given):
        given = by_sample(given, placed, token, "videos")
    elif sum(placed) != len(given):
        raise ValueError(
            f"the texts hold {sum(placed)} {token}, but {len(given)} videos were given; put one {token} for each "
            "video into the text"
        )
    return [entry if isinstance(entry, Video) else Video(entry) for entry in given]


__all__ = ["ClipProcessor"]
