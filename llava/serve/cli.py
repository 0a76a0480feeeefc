"""`python -m llava.serve.cli`: chat about an image in the terminal.

An empty line or end of input ends it; `/new` begins anew about the same image, which is not encoded again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from llava.command_line import add_compression_flag, compression_option, plain_errors

_NEW = "/new"
_DESCRIPTION = (
    f"Chat with a LLaVA about images. {_NEW} begins a new conversation about the same images; an empty line ends."
)


def make_parser() -> argparse.ArgumentParser:
    """The command line; LLaVA's flags, and `--compression`."""
    parser = argparse.ArgumentParser(prog="python -m llava.serve.cli", description=_DESCRIPTION)
    parser.add_argument("--model-path", required=True, help="checkpoint, or a folder with a tuned projector only")
    parser.add_argument("--model-base", help="the checkpoint that a projector belongs to")
    parser.add_argument("--image-file", nargs="+", default=[], help="paths or URLs; none for a chat in text only")
    add_compression_flag(parser)
    parser.add_argument("--device", help="cpu, cuda...; default: the first GPU, else the CPU")
    parser.add_argument("--conv-mode", help="conversation template; default: from the model's config")
    parser.add_argument("--temperature", type=float, default=0.2, help="0 is greedy (default 0.2)")
    parser.add_argument("--top-p", type=float, help="default: 1")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="default 512")
    parser.add_argument("--load-8bit", action="store_true")
    parser.add_argument("--load-4bit", action="store_true")
    parser.add_argument("--debug", action="store_true", help="print the conversation's ids after each turn")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    args = make_parser().parse_args(arguments)
    from llava.images.source import UnreadableImageError, open_image
    from llava.inference import GenerationOptions, Inference
    from llava.serve.chat import Chat

    with plain_errors():
        images = [open_image(source) for source in args.image_file]
        inference = Inference.load(
            args.model_path,
            args.model_base,
            conv_mode=args.conv_mode,
            device=args.device,
            load_8bit=args.load_8bit,
            load_4bit=args.load_4bit,
            **compression_option(args),
        )
        options = GenerationOptions(args.max_new_tokens, args.temperature, args.top_p)
    chat = Chat(inference, images)
    user, assistant = _shown_roles(chat.roles)
    while True:
        try:
            text = input(f"{user}: ").strip()
        except (EOFError, KeyboardInterrupt):
            text = ""
        if not text:
            print("exit...")
            return 0
        if text == _NEW:
            chat.restart()
            print("a new conversation about the same images")
            continue
        print(f"{assistant}: ", end="", flush=True)
        try:
            chat.say(text, options=options, on_text=lambda piece: print(piece, end="", flush=True))
        except KeyboardInterrupt:
            print(" (interrupted)", end="")
        except (ValueError, UnreadableImageError) as error:
            print(f"error: {error}", end="")
        print()
        if args.debug:
            print({"token_ids": chat.token_ids, "messages": chat.messages})


def _shown_roles(roles: tuple[str, str]) -> tuple[str, str]:
    """What stands before a line: the template's names, or plain ones where it has markup or nothing in their place."""
    return roles if all(role.isalpha() for role in roles) else ("user", "assistant")


if __name__ == "__main__":
    sys.exit(main())
