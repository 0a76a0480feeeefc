"""`make parity`: runs the tests that compare with recorded outputs, over whole folders of records.

    python -m tests.parity [FOLDER ...]

Which tests read a folder, its files say. Without a folder, those beside the repository, `../shared/oracle*`, are read.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Layout:
    """A kind of folder.

    Attributes:
        file: What it is known by, a pattern.
        variable: Tells the tests where it is.
        tests: What reads it.
    """

    file: str
    variable: str
    tests: tuple[str, ...]


LAYOUTS = (
    Layout(
        "tiny-llava-v1.5/config.json",
        "ORACLE",
        (
            "tests/model/test_parity.py",
            "tests/test_conversation.py",
            "tests/images/test_processing.py",
            "tests/test_mm_utils.py",
            "tests/prompts/test_tokenization.py",
        ),
    ),
    Layout(
        "onevision/original.npz",
        "ORACLE_MODELS",
        (
            "tests/model/test_onevision_parity.py",
            "tests/model/test_clip_parity.py",
            "tests/model/test_video_llava_parity.py",
            "tests/video/test_reader.py",
        ),
    ),
    Layout("inputs_*.npz", "ORACLE_METHODS", ("tests/model/methods", "tests/model/language_pruning")),
)


def compare(folder: Path, *, must: bool) -> bool:
    """Runs the tests over a folder; whether all is equal.

    Args:
        folder: Of records.
        must: Whether a folder that no test reads is a failure.
    """
    layout = next((layout for layout in LAYOUTS if any(folder.glob(layout.file))), None)
    if layout is None:
        known = ", ".join(layout.file for layout in LAYOUTS)
        print(f"{folder}: nothing is compared: it holds none of {known}")
        return not must
    print(f"{folder}:", flush=True)
    tests = [test for test in layout.tests if (ROOT / test).exists()]
    asked = [sys.executable, "-m", "pytest", "-q", "-m", "not gpu", "-p", "no:cacheprovider", *tests]
    return subprocess.run(asked, cwd=ROOT, env=environment(layout, folder, os.environ)).returncode == 0


def environment(layout: Layout, folder: Path, around: Mapping[str, str]) -> dict[str, str]:
    """What the tests are told: this folder and no other, for `make parity ORACLE=...` hands its own variable on."""
    others = {each.variable for each in LAYOUTS}
    return {name: value for name, value in around.items() if name not in others} | {layout.variable: str(folder)}


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    folders = [Path(name).resolve() for name in arguments]
    found = folders or sorted(folder for folder in (ROOT.parent / "shared").glob("oracle*") if folder.is_dir())
    if not found:
        print(f"there are no records: name a folder, ORACLE=..., or put them at {ROOT.parent / 'shared'}/oracle*")
        return 1
    for folder in found:
        if not folder.is_dir():
            print(f"{folder} is not a folder")
            return 1
    equal = [compare(folder, must=bool(folders)) for folder in found]
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
