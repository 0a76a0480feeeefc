"""`llava demo`: see in the browser which tokens are kept of your pictures, and what a model answers with them.

Only this machine can reach it, unless you give `--share`. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import (
    CommandParser,
    add_model_flags,
    add_shared,
    compression_option,
    loading_options,
    plain_errors,
    port,
    whole_number,
)

if TYPE_CHECKING:
    from PIL.Image import Image

_HOST = "127.0.0.1"
_MOST_EXAMPLES = 8
_PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser("llava.serve.demo", __doc__)
    add_model_flags(parser)
    add_shared(parser, "--compression", help="the budget that the page begins with; default: a ninth of the tokens")
    parser.add_argument("--examples", type=Path, metavar="DIR", help=f"show the first {_MOST_EXAMPLES} pictures of it")
    parser.add_argument("--question", default="", metavar="TEXT", help="what the question's box shows at first")
    add_shared(parser, "--temperature", default=0.0, help="0 is greedy (default), so that answers can be compared")
    add_shared(parser, "--max-new-tokens", default=256, help="most tokens of an answer (default 256)")
    parser.add_argument("--port", type=port(1), help="default: the first free one from 7860 on")
    parser.add_argument("--max-upload-mb", type=whole_number(1), default=10, help="of a picture (default 10)")
    parser.add_argument("--max-visitors", type=whole_number(1), default=16, help="kept at a time (default 16)")
    parser.add_argument("--share", action="store_true", help="let gradio's servers make it public")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line until it is interrupted; returns the exit status."""
    args = make_parser().parse_args(arguments)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    with plain_errors():
        try:
            import gradio  # noqa: F401
        except ImportError:
            raise ImportError("the demo needs gradio: pip install 'llava-visionzip[web]'") from None
        from llava.inference import GenerationOptions, Inference
        from llava.serve.web.choice import first_choice
        from llava.serve.web.events import Demo
        from llava.serve.web.limits import Limits
        from llava.serve.web.server import serve

        limits = Limits(
            upload_bytes=args.max_upload_mb * 2**20, visitors=args.max_visitors, new_tokens=args.max_new_tokens
        )
        options = GenerationOptions(args.max_new_tokens, args.temperature)
        inference = Inference.load(
            args.model_path,
            args.model_base,
            conv_mode=args.conv_mode,
            **loading_options(args),
            **compression_option(args),
        )
        budget = inference.model.compression  # of the flag, or of the checkpoint's config
        demo = Demo(inference, limits, read_examples(args.examples), options)
        first, note = first_choice(demo.methods, budget, all_tokens="compression" in args and budget is None)
        if note:
            print(f"note: {note}")
        server = serve(demo, host=_HOST, port=args.port, share=args.share, first=first, question=args.question)
    print(f"open {server.address} (Ctrl-C ends it)", flush=True)
    try:
        server.wait()
    except KeyboardInterrupt:
        print("stopped")
    finally:
        server.close()
    return 0


def read_examples(folder: Path | None) -> list[tuple[str, Image]]:
    """The first pictures of a folder, with their names.

    Raises:
        ValueError: There is no such folder, or no picture in it, or one cannot be read.
    """
    if folder is None:
        return []
    if not folder.is_dir():
        raise ValueError(f"--examples {folder}: no such folder")
    from llava.images.source import open_image

    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _PICTURES)
    if not files:
        raise ValueError(f"--examples {folder}: no picture in it ({', '.join(_PICTURES)})")
    return [(file.stem, open_image(file)) for file in files[:_MOST_EXAMPLES]]


if __name__ == "__main__":
    sys.exit(main())
