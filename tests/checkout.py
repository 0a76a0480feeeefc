"""This repository by links: what is run there writes nothing into the real one."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MADE = {"playground", "data", "out", "work", "runs", "checkpoints", ".venv", ".git"}


def link_checkout(root: Path) -> Path:
    """Fills a folder with links to all but what runs have made; returns it."""
    for entry in (*ROOT.iterdir(), *(ROOT / "playground" / "tiny").iterdir()):
        place = root / entry.relative_to(ROOT)
        if entry.name not in MADE:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(entry)
    return root
