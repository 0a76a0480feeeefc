"""`python -m llava.hub.push DIR --repo ORG/NAME`: publishes a checkpoint, after all that should not be published.

Example:
    python -m llava.hub.push release --repo me/llava-64 --dry-run
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import CommandParser, add_shared, plain_errors

if TYPE_CHECKING:
    from llava.hub.publish.release_files import ReleaseFile


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser(
        "llava.hub.push", "Publish a checkpoint on the Hub. The token is taken from HF_TOKEN or from `hf auth login`."
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="an export with its card")
    parser.add_argument("--repo", required=True, help="ORG/NAME; made if it is not there")
    parser.add_argument("--dry-run", action="store_true", help="list and check, send nothing, ask nobody")
    parser.add_argument("--private", action="store_true", help="a new repository is private; a public one is refused")
    parser.add_argument("--revision", default="main", help="branch, made if it is not there (default: main)")
    parser.add_argument("--message", help="of the commit")
    add_shared(parser, "--model-base")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="FILE:LINE", help="a path there is harmless; not for secrets"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(argv)
    from llava.hub.publish.checks import find_problems
    from llava.hub.publish.release_files import list_files
    from llava.hub.publish.upload import PushError, upload
    from llava.hub.run_facts import is_repository_form

    if not is_repository_form(args.repo):
        parser.error(f"--repo {args.repo!r} is not of the form ORG/NAME")
    with plain_errors():
        files = list_files(args.folder)
        _show(files)
        problems = find_problems(args.folder, files, args.model_base, repo=args.repo, allowed=args.allow)
    for problem in problems:
        print(f"refused: {problem}", file=sys.stderr)
    if problems:
        print(f"nothing was sent: {len(problems)} problem(s)", file=sys.stderr)
        return 1
    if args.dry_run:
        print(f"nothing was sent (--dry-run); all checks passed for {args.repo}")
        print("weights on the Hub that are not in this list would be deleted in the same commit; the Hub was not asked")
        return 0
    try:
        done = upload(args.folder, files, args.repo, private=args.private, revision=args.revision, message=args.message)
    except PushError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"sent {len(done.sent)}, already there {len(done.kept)}: {done.url}")
    if done.deleted:
        print(f"weights of an earlier release, deleted in the same commit: {', '.join(done.deleted)}")
    if done.others:
        print(f"on the Hub and not in {args.folder}, left as they are: {', '.join(done.others)}")
    return 0


def _show(files: Sequence[ReleaseFile]) -> None:
    from llava.hub.publish.leaks import masked_name

    width = max(len(f"{file.size:,}") for file in files)
    for file in files:
        print(f"{file.size:>{width},}  {masked_name(file.name)}")
    print(f"{sum(file.size for file in files):,} bytes in {len(files)} files")


if __name__ == "__main__":
    sys.exit(main())
