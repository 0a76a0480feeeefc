"""Takes files of an export that were changed on purpose into its hashes: `python -m llava.hub.refresh DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llava.command_line import CommandParser, plain_errors


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = CommandParser("llava.hub.refresh", "Takes the files of an export as they are now into its export.json.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder that llava.hub.export has made")
    folder = parser.parse_args(argv).folder
    with plain_errors():
        from llava.hub.manifest import damaged_files, refresh_hashes

        changed = damaged_files(folder)
        refresh_hashes(folder)
    print("\n".join([*changed, f"{folder}: the hashes of {len(changed)} files were brought up to date"]))


if __name__ == "__main__":
    main()
