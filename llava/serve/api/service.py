"""What the routes of the server share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from llava.images.source import is_url
from llava.model.configuration import CompressionConfig
from llava.serve.api.engine import Engine
from llava.serve.api.errors import invalid
from llava.serve.api.images import make_ready, read_image
from llava.serve.api.limits import Limits
from llava.serve.api.metrics import Metrics
from llava.serve.api.models import ModelNames

_FETCHES = 32  # URLs that are asked at a time; an image that came with its request does not wait for them


@dataclass(frozen=True)
class Service:
    """A model that is served, and how.

    Attributes:
        engine: Asks the model.
        names: Of the model.
        limits: Of requests.
        metrics: Keeps count.
        key: What clients must know, or None.
        local_only: Whether only this machine's own names are answered to.
        allow_private: Whether images may lie in private networks.
        temperature: Where a request names none.
        prepares: Whether images are prepared while their request waits; not where a store is likely to have them.
    """

    engine: Engine
    names: ModelNames
    limits: Limits
    metrics: Metrics
    key: str | None = None
    local_only: bool = True
    allow_private: bool = False
    temperature: float = 0.0
    prepares: bool = True
    _fetchers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_FETCHES, "fetch"))

    async def read_images(self, urls: Sequence[Any], budget: CompressionConfig | None) -> tuple[bytes, ...]:
        """The files of a request's images, read and prepared all at the same time.

        Raises:
            ApiError: One cannot be had.
        """
        loop, inference = asyncio.get_running_loop(), self.engine.inference
        fetched: list[int] = []

        def read(place: int, url: str) -> bytes:
            content = read_image(url, place, self.limits, inference.model.config, allow_private=self.allow_private)
            if is_url(url):  # others are a part of the request's body, which is bounded
                fetched.append(len(content))
                if sum(fetched) > self.limits.body_bytes:
                    most = f"{self.limits.body_bytes >> 20} MB"
                    raise invalid(f"the images at URLs are larger than {most} together", "messages", "invalid_image")
            if not self.prepares:
                return content
            return make_ready(content, place, inference, budget, beside_others=len(urls) > 1)

        return tuple(
            await asyncio.gather(
                *(
                    loop.run_in_executor(self._fetchers if is_url(url) else None, read, place, url)
                    for place, url in enumerate(urls)
                )
            )
        )

    def retry_after(self) -> int:
        """Seconds after which there may be room again."""
        return max(1, round(self.engine.batch_seconds))

    def close(self) -> None:
        """Answers what waits, then ends."""
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        self.engine.close(self.limits.closing_seconds)
