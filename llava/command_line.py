"""What the command lines share: how they are called, the flags that mean the same everywhere, and errors in a line."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from llava.constants import MOST_BEAMS
from llava.json_text import parse_json
from llava.kinds import PluginError, load_plugins
from llava.kinds.plugins import discover_plugins
from llava.plain_files import read_utf8

PROGRAM = "llava"
_LIST = "--list-methods"
_MOST_PORT = 65_535


def budget_text(text: str) -> str:
    """The type of `--compression`: a budget in its short form, or `@FILE` that `llava calibrate` has written.

    Raises:
        argparse.ArgumentTypeError: The file cannot be read, or holds no budget.
    """
    if not text.startswith("@"):
        return text
    try:
        content = parse_json(read_utf8(text[1:]))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None
    budget = content.get("compression") if isinstance(content, dict) else None
    if budget is None and isinstance(content, dict) and "advice" in content:
        raise argparse.ArgumentTypeError(f"{text}: `llava budget` advises none there; its `advice` says why")
    if not isinstance(budget, str):
        raise argparse.ArgumentTypeError(f"{text}: there is no compression, as `llava calibrate --output` writes it")
    return budget


# The flags that more than one command takes: each has one name, one type and one meaning.
SHARED_FLAGS: Mapping[str, Mapping[str, Any]] = {
    "--model-path": {"help": "checkpoint; or a folder with a tuned projector or adapters only"},
    "--model-base": {"help": "base of a projector or adapters; default: what they name"},
    "--compression": {
        "type": budget_text,
        "metavar": "METHOD:D+C",
        "default": argparse.SUPPRESS,
        "help": "'visionzip:54+10', 'random:64', 'none', @FILE of calibrate...; default: what the model's config says",
    },
    "--conv-mode": {"help": "conversation template, or 'tokenizer': its own; default: from the model's config"},
    "--device": {"help": "cpu, cuda, cuda:1...; default: the first GPU, else the CPU"},
    "--dtype": {
        "choices": ["auto", "float32", "bfloat16", "float16"],
        "help": "of the weights; auto: the checkpoint's own; default: float16 on a GPU, float32 on the CPU",
    },
    "--clip-text": {
        "metavar": "CLIP",
        "help": "CLIP checkpoint whose text tower reads questions, for methods such as cdpruner",
    },
    "--attn-implementation": {"help": "sdpa, eager, flash_attention_2...; default: the fastest that is installed"},
    "--load-4bit": {"action": "store_true", "help": "quantise the language model to 4 bits (needs bitsandbytes)"},
    "--load-8bit": {"action": "store_true", "help": "the same with 8 bits"},
    "--image-store": {
        "action": "append",
        "metavar": "STORE",
        "help": "images encoded before by `llava store build`, in place of their pixels; repeatable, one a budget",
    },
    "--output-dir": {"metavar": "DIR", "help": "folder to write to"},
    "--batch-size": {"metavar": "N", "help": "questions a batch"},
    "--temperature": {"type": float, "default": 0.2, "help": "0 is greedy (default 0.2)"},
    "--top-p": {"type": float, "help": "sample from the likeliest tokens that add up to this; default: all"},
    "--num-beams": {"type": int, "default": 1, "help": f"of beam search, {MOST_BEAMS} at most (default 1: none)"},
    "--max-new-tokens": {"type": int, "default": 512, "help": "most tokens of an answer (default 512)"},
    "--allow-private-urls": {
        "action": "store_true",
        "help": "fetch images from private networks and this machine too",
    },
    "--plugin": {
        "action": "append",
        "default": argparse.SUPPRESS,
        "metavar": "MODULE_OR_FILE",
        "help": "Python code with methods, tasks... of your own; repeatable",
    },
}
# What `--compression` is where a command compares budgets.
SEVERAL_BUDGETS: Mapping[str, Any] = {
    "action": "append",
    "default": None,
    "help": f"{SHARED_FLAGS['--compression']['help']}; repeatable",
}


class CommandParser(argparse.ArgumentParser):
    """The parser of every command: takes `--plugin`, and underscores in place of a flag's hyphens, as LLaVA has them.

    Flags are therefore added with hyphens only.
    """

    def __init__(self, module: str, description: str | None, **options: Any) -> None:
        """Makes the parser of a command.

        Args:
            module: What `python -m` runs; the usage line says so unless the command was started as `llava NAME`.
            description: What the command does.
            **options: As argparse takes them.
        """
        super().__init__(prog=command_name(module), description=description, **options)
        add_shared(self, "--plugin")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses, then loads the plug-ins; see argparse. From now on, what a terminal cannot show is shown as `?`.

        Raises:
            SystemExit: Status 2 for wrong flags, 1 for a plug-in that cannot be loaded, with a line that says why.
        """
        _print_whatever_comes()
        words = with_hyphens(sys.argv[1:] if args is None else args)
        if any("\0" in word for word in words):
            self.error(f"a NUL character in {next(word for word in words if chr(0) in word)!r}")
        if _LIST in words and "--compression" in self._option_string_actions:
            self._list_methods(words)
        parsed, rest = super().parse_known_args(words, namespace)
        load_named_plugins(getattr(parsed, "plugin", ()))
        return parsed, rest

    def _list_methods(self, words: Sequence[str]) -> NoReturn:
        """Prints the methods, those of plug-ins too; the other flags need not be there."""
        plugins = argparse.ArgumentParser(add_help=False)
        add_shared(plugins, "--plugin")
        load_named_plugins(getattr(plugins.parse_known_args(words)[0], "plugin", ()))
        print(import_module("llava.model.method_list").method_list())
        self.exit()


def _print_whatever_comes() -> None:
    """Output that is not UTF-8 (ascii, latin-1, gbk) must not end a program: an answer would be lost."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def print_text(text: str) -> None:
    """Prints a text in a program of somebody else, whose output is left as it is: with `?` for what it cannot take."""
    try:
        print(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        print(text.encode(encoding, "replace").decode(encoding))


def unicode_text(text: str) -> str:
    """The type of a flag that the model reads; a path may hold bytes that are no characters, a question may not.

    Raises:
        argparse.ArgumentTypeError: It came from bytes that are no UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r:.200}: place {error.start} is no character of Unicode") from None
    return text


def command_name(module: str) -> str:
    """How this command was called: `llava NAME`, as `llava.__main__` leaves it in `sys.argv`, or `python -m MODULE`."""
    return sys.argv[0] if sys.argv[0].startswith(f"{PROGRAM} ") else f"python -m {module}"


def with_hyphens(words: Sequence[str]) -> list[str]:
    """The words, with hyphens for the underscores in names of flags; values, and what follows `--`, stay."""
    end = words.index("--") if "--" in words else len(words)
    return [*(_with_hyphens(word) for word in words[:end]), *words[end:]]


def _with_hyphens(word: str) -> str:
    flag = re.match(r"--\w[\w-]*(?==|$)", word)
    return word if flag is None else flag[0].replace("_", "-") + word[flag.end() :]


def load_named_plugins(named: Sequence[str]) -> None:
    """Loads what `--plugin` names, then what `LLAVA_PLUGINS` and installed packages do.

    Raises:
        SystemExit: Status 1, with a line that says which cannot be loaded and why.
    """
    if str(Path.cwd()) not in sys.path:  # where `python -m` finds modules too
        sys.path.append(str(Path.cwd()))
    try:
        load_plugins(named)
        discover_plugins()
    except PluginError as error:
        raise SystemExit(f"error: {error}") from error


def add_shared(parser: argparse._ActionsContainer, *flags: str, **changes: Any) -> None:
    """Adds flags of `SHARED_FLAGS` to a parser or to a group of one.

    Args:
        parser: Where they go.
        *flags: Their names; old names of the same flag follow it after a comma: `--output-dir,--output`.
        **changes: What this command has otherwise, a default above all.
    """
    for flag in flags:
        names = flag.split(",")
        if names[0] == "--compression":
            parser.add_argument(_LIST, action="store_true", help="print the methods of compression and their options")
        options = {**SHARED_FLAGS[names[0]], **changes}
        if len(names) > 1:
            options.setdefault("dest", names[0].removeprefix("--").replace("-", "_"))
        parser.add_argument(*names, **options)


def add_model_flags(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds what a command that loads a model for inference takes, but for the compression: one budget or several."""
    add_shared(parser, "--model-path", required=required)
    add_shared(parser, "--model-base", "--conv-mode,--version", "--device", "--dtype", "--attn-implementation")
    add_shared(parser, "--load-4bit", "--load-8bit", "--clip-text")


def add_video_flags(parser: argparse.ArgumentParser) -> None:
    """Adds what a command that asks about videos takes."""
    parser.add_argument("--video-file", nargs="+", default=[], help="videos or folders of frames, behind the images")
    parser.add_argument("--num-frames", type=int, help="frames of a video that the model sees; by default its family's")


def loading_options(args: Any) -> dict[str, Any]:
    """The keyword arguments for `load_pretrained_model` that the flags, where given, ask for; not the compression."""
    named = {
        "device": "device",
        "dtype": "torch_dtype",
        "attn_implementation": "attn_implementation",
        "load_4bit": "load_4bit",
        "load_8bit": "load_8bit",
        "clip_text": "clip_text",
    }
    return {name: value for flag, name in named.items() if (value := getattr(args, flag, None))}


def compression_option(args: Any) -> dict[str, Any]:
    """`--compression` as a keyword argument; none where it is not given: the checkpoint's config decides."""
    return {"compression": args.compression} if hasattr(args, "compression") else {}


def whole_number(least: int) -> Callable[[str], int]:
    """A flag's type: a whole number that is not too small."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return value

    whole_number.__name__ = "whole number"  # argparse: invalid whole number value: 'x'
    return whole_number


def port(least: int) -> Callable[[str], int]:
    """A flag's type: a port that can be listened at; `least` is 0 where the system may choose one."""

    def port(text: str) -> int:
        value = whole_number(least)(text)
        if value > _MOST_PORT:
            raise argparse.ArgumentTypeError(f"at most {_MOST_PORT}, got {text}")
        return value

    return port


def names(text: str) -> list[str]:
    """A flag's type: names separated by commas, each once. One that is given and names nothing does not mean all."""
    found = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing; leave the flag out for all that is there")
    return found


def picture_formats(args: Any, known: Sequence[str]) -> list[str]:
    """The formats that `--formats` names, each once; none with `--no-picture`.

    Args:
        args: The command's flags.
        known: Formats that can be written.

    Raises:
        ValueError: One is not known.
    """
    named = [] if args.no_picture else [name.strip().lower() for name in args.formats.split(",") if name.strip()]
    for name in named:
        if name not in known:
            raise ValueError(f"--formats: {name!r} is none of {', '.join(known)}")
    return list(dict.fromkeys(named))


@contextmanager
def plain_errors(*, goes_on: bool = False) -> Iterator[None]:
    """Around the reading of what the user named (checkpoint, budget, images): its errors end the program in a line.

    Args:
        goes_on: Whether the work is kept when a user stops it; then Ctrl-C ends the program in a line too.

    Raises:
        SystemExit: Status 1, with the error's message; status 130 where a user has stopped it.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not goes_on:
            raise
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error
