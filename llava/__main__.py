"""`llava COMMAND ...`, also `python -m llava COMMAND ...`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module

from llava import __version__
from llava.command_line import PROGRAM
from llava.commands import COMMANDS, Command, all_commands, find_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status.

    Args:
        argv: Without the program's name; by default this process's.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["help"] and len(words) > 1:  # `llava help eval` is `llava eval --help`
        words = [words[1], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        with _whoever_reads():
            print(overview(), flush=True)
        return 0
    if words[0] == "--version":
        print(f"{PROGRAM} {__version__}")
        return 0
    command = find_command(words[0])
    if command is None:
        print(f"{PROGRAM}: {_unknown(words[0])}", file=sys.stderr)
        return 2
    return run(command, words[1:])


def run(command: Command, words: Sequence[str]) -> int:
    """Runs a command as if it had been started by itself; `sys.argv` says how, as for every program."""
    sys.argv = [f"{PROGRAM} {command.name}", *words]
    module = import_module(command.module)
    if hasattr(module, "__path__"):  # a package is started by its __main__
        module = import_module(f"{command.module}.__main__")
    with _whoever_reads():
        try:
            return module.main() or 0
        except KeyboardInterrupt:  # commands that keep what is done say so themselves
            print("stopped", file=sys.stderr)
            return 128 + signal.SIGINT
    return 1


@contextmanager
def _whoever_reads() -> Iterator[None]:
    """Around what prints: ends it without a word where nobody reads on, as in `llava eval --list | head`."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's end would fail to write too


def overview() -> str:
    """The table of commands, group after group."""
    width = max(len(command.name) for command in all_commands())
    lines = [f"usage: {PROGRAM} COMMAND [FLAGS]", "", "Train and evaluate LLaVA with a fraction of its visual tokens."]
    for title, commands in COMMANDS.items():
        lines += ["", f"{title}:", *(f"  {command.name:{width}}  {command.help}" for command in commands)]
    return "\n".join([*lines, "", f"`{PROGRAM} COMMAND --help` lists the flags of a command."])


def _unknown(name: str) -> str:
    near = get_close_matches(name, [command.name for command in all_commands()], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"`{PROGRAM} --help` lists them"
    return f"there is no command {name!r}; {hint}"


if __name__ == "__main__":
    sys.exit(main())
