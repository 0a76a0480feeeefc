"""How large the object is that POPE asks about, from COCO's own annotations: POPE's files do not say it.

`instances_val2014.json` of COCO's annotations 2014: `images` ({id, file_name, width, height}), `categories`
({id, name}), `annotations` ({image_id, category_id, area}), areas in pixels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llava.eval.tasks import EmbeddedImage, Sample, Task
from llava.eval.tasks.local_files import read_json
from llava.eval.tasks.pope import Pope

_ASKED = re.compile(r"Is there an? (.+) in the image\?")  # POPE's only question


@dataclass(frozen=True)
class ObjectSizes:
    """Shares of pictures that objects cover.

    Attributes:
        instances: COCO's file of instances; None where there is none.
    """

    instances: Path | None = None

    def of(self, task: Task, samples: Sequence[Sample]) -> dict[str, float]:
        """The share of the picture that the object covers, by sample id, where that is known.

        Of several objects of the kind it is the largest. Of one that is not there, nothing is known.

        Args:
            task: The benchmark.
            samples: Its questions.

        Raises:
            TaskDataError: The file is missing, or is not JSON.
            ValueError: It is another file.
        """
        if self.instances is None or not isinstance(task, Pope):
            return {}
        found = {}
        for sample in samples:
            asked = _ASKED.match(sample.prompt)
            image = sample.images[0] if sample.images else None
            if asked is None or image is None or sample.answer != "yes":
                continue
            stem = Path(image.name if isinstance(image, EmbeddedImage) else image).stem
            share = self._shares.get((stem, asked[1].lower()))
            if share is not None:
                found[sample.sample_id] = share
        return found

    @cached_property
    def _shares(self) -> dict[tuple[str, str], float]:
        """The largest share, by the image's name without its ending and the category's name."""
        assert self.instances is not None
        content = read_json(self.instances)
        try:
            images: dict[Any, tuple[str, float]] = {
                image["id"]: (Path(image["file_name"]).stem, image["width"] * image["height"])
                for image in content["images"]
            }
            names = {category["id"]: category["name"] for category in content["categories"]}
            shares: dict[tuple[str, str], float] = {}
            for each in content["annotations"]:
                stem, pixels = images[each["image_id"]]
                key = stem, names[each["category_id"]]
                shares[key] = max(shares.get(key, 0.0), each["area"] / pixels)
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise ValueError(
                f"{self.instances} is not COCO's instances_val2014.json: {error!r} in images, categories or annotations"
            ) from None
        return shares
