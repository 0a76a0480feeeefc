"""The clips of a benchmark about videos: which file belongs to a name, and which are not there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from llava.eval.tasks.base import Sample
from llava.results.words import counted

ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
"""In the order in which they are taken where a clip is there twice; Video-LLaVA looks for the first four."""
_SHOWN = 3


class Clips:
    """The files of a folder, read once; a folder that is not there has none."""

    def __init__(self, folder: Path) -> None:
        """Lists a folder.

        Args:
            folder: Where the clips are.
        """
        self.folder = folder
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        self._files = {(path.stem, path.suffix.lower()): path for path in files}  # of `a.MP4` and `a.mp4` the latter

    def find(self, name: str) -> Path:
        """The file of a clip; where there is none, the one that is missing, as an MP4.

        Args:
            name: Without an ending.
        """
        found = (self._files.get((name, ending)) for ending in ENDINGS)
        return next(filter(None, found), self.folder / f"{name}{ENDINGS[0]}")


def missing_videos(samples: Iterable[Sample]) -> list[str]:
    """Clips that are not there or are empty, each once, as paths in order."""
    videos = dict.fromkeys(sample.video for sample in samples if sample.video is not None)
    return [str(video) for video in videos if not _is_there(video)]


def missing_note(task: str, samples: Iterable[Sample], missing: list[str]) -> str | None:
    """A line that counts and names the clips that are missing; None if none is.

    Args:
        task: Its name.
        samples: Those that are asked.
        missing: What `missing_videos` gave of them.
    """
    if not missing:
        return None
    videos = [sample.video for sample in samples if sample.video is not None]
    absent = set(missing)
    questions = sum(str(video) in absent for video in videos)
    named = ", ".join(missing[:_SHOWN]) + (f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else "")
    absence = f"{len(missing)} of {counted(len(set(videos)), 'video')} missing"
    return f"{task}: {absence}; {counted(questions, 'question')} scored as wrong: {named}"


def _is_there(video: Path) -> bool:
    """Whether it is a file with something in it, or a folder of frames."""
    return video.is_dir() or (video.is_file() and video.stat().st_size > 0)
