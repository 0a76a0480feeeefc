"""`python -m llava.serve.cli`: chat about images and videos in the terminal.

An empty line or end of input ends it; `/new` begins anew about the same image, which is not encoded again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from llava.command_line import (
    CommandParser,
    add_model_flags,
    add_shared,
    add_video_flags,
    compression_option,
    loading_options,
    plain_errors,
)

_NEW = "/new"
_DESCRIPTION = (
    f"Chat with a LLaVA about images and videos. {_NEW} begins a new conversation about the same ones; an empty line "
    "ends."
)


def make_parser() -> argparse.ArgumentParser:
    """The command line; LLaVA's flags, and `--compression`."""
    parser = CommandParser("llava.serve.cli", _DESCRIPTION)
    add_model_flags(parser)
    parser.add_argument("--image-file", nargs="+", default=[], help="paths or URLs; none for a chat in text only")
    add_video_flags(parser)
    add_shared(parser, "--compression", "--image-store", "--allow-private-urls")
    add_shared(parser, "--temperature", "--top-p", "--max-new-tokens")
    parser.add_argument("--debug", action="store_true", help="print the conversation's ids after each turn")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    args = make_parser().parse_args(arguments)
    from llava.images.source import UnreadableImageError, fetch_image, is_url
    from llava.inference import GenerationOptions, Inference
    from llava.serve.chat import Chat, EncodedOnce
    from llava.video import fetch_video

    with plain_errors():
        options = GenerationOptions(args.max_new_tokens, args.temperature, args.top_p)
        public = not args.allow_private_urls
        images = [
            source if args.image_store and not is_url(source) else fetch_image(source, public_only=public)
            for source in args.image_file
        ]
        images += [fetch_video(source, args.num_frames, public_only=public) for source in args.video_file]
        inference = Inference.load(
            args.model_path,
            args.model_base,
            conv_mode=args.conv_mode,
            image_store=args.image_store,
            **loading_options(args),
            **compression_option(args),
        )
        seen = EncodedOnce(inference, images)
        seen.look()  # what cannot be read is told before the first turn
        chat = Chat(inference, images, seen)
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a bad byte is then an error of its turn, and not the end
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
