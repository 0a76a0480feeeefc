"""`python -m llava.eval.run_llava`: one question about images and videos. LLaVA's flags, and `--compression`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from llava.command_line import (
    CommandParser,
    add_model_flags,
    add_shared,
    add_video_flags,
    compression_option,
    loading_options,
    plain_errors,
    print_text,
    unicode_text,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from llava.images.source import ImageSource
    from llava.inference import GenerationOptions, Inference


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser("llava.eval.run_llava", "Ask a LLaVA one question.")
    add_model_flags(parser)
    add_shared(parser, "--compression", "--temperature", "--top-p", "--num-beams", "--max-new-tokens")
    parser.add_argument("--image-file", help="paths or URLs, separated by --sep")
    add_video_flags(parser)
    parser.add_argument(
        "--query",
        type=unicode_text,
        required=True,
        help="the question; <image-placeholder> marks where an image stands, <video> where a video does",
    )
    parser.add_argument("--sep", default=",", help="separates image files (default ',')")
    return parser


def eval_model(args: Any) -> str:
    """Answers `args.query` about `args.image_file`, prints the answer and returns it; LLaVA's documented call.

    Args:
        args: An object with LLaVA's fields: `model_path`, `image_file` (a string split at `sep`, or a list), `query`,
            and optionally `model_base, conv_mode, sep, temperature, top_p, num_beams, max_new_tokens`; beside them
            `video_file` (a list) and `num_frames`; `compression` (None: all tokens; no such field: what the config
            says), `device`, `dtype`, `attn_implementation`, `load_4bit` and `load_8bit`, and an already loaded
            `tokenizer`, `model` and `image_processor`.

    Raises:
        UnreadableImageError: An image or a video cannot be read.
        ValueError: There is neither, or the checkpoint or the budget is not what it should be.
    """
    options = _generation_options(args)  # a mistake in them is found before the model is loaded
    inference, images = _read(args)
    answer = inference.ask_one(args.query, *images, options=options).text
    print_text(answer)
    return answer


def image_parser(args: Any) -> list[str]:
    """The images that `args.image_file` names: a string split at `args.sep` ("": not split), or a list as it is."""
    files, sep = args.image_file, _given(args, "sep", ",")
    if not isinstance(files, str):
        return list(files)
    return files.split(sep) if sep else [files]


def load_image(image_file: ImageSource) -> Image:
    """Opens a path or URL as an RGB image; raises UnreadableImageError."""
    from llava.images.source import open_image

    return open_image(image_file)


def load_images(image_files: Sequence[ImageSource]) -> list[Image]:
    """Opens paths or URLs as RGB images; raises UnreadableImageError."""
    return [load_image(file) for file in image_files]


def _read(args: Any) -> tuple[Inference, list[ImageSource]]:
    """The images and videos, fetched first since a mistake in them is found soonest, and the model."""
    from llava.images.source import UnreadableImageError, fetch_image
    from llava.inference import Inference
    from llava.video import fetch_video

    files = [] if _given(args, "image_file") is None else image_parser(args)
    images: list[ImageSource] = []
    for number, file in enumerate(files):
        try:
            images.append(fetch_image(file))
        except UnreadableImageError as error:
            reason = f"cannot read image {number + 1}" if _may_be_cut_user(files[number:]) else error
            raise UnreadableImageError(f"{reason}{_split_at(args)}") from error
    for video in _given(args, "video_file", []):
        images.append(fetch_video(video, _given(args, "num_frames")))
    if not images:
        raise ValueError("no image and no video is given; say --image-file or --video-file")
    parts = [_given(args, name) for name in ("tokenizer", "model", "image_processor")]
    conv_mode = _given(args, "conv_mode")
    if all(part is not None for part in parts):
        return Inference(*parts, conv_mode=conv_mode), images
    options = loading_options(args) | compression_option(args)
    return Inference.load(args.model_path, _given(args, "model_base"), conv_mode=conv_mode, **options), images


def _may_be_cut_user(files: Sequence[str]) -> bool:
    """Whether the first is perhaps the beginning of a URL that was split inside its password."""
    from llava.images.download import is_url

    rest = takewhile(lambda file: not is_url(file), files[1:])
    return is_url(files[0]) and "@" not in files[0] and any("@" in file for file in rest)


def _split_at(args: Any) -> str:
    """A hint where the name that cannot be read may be a part of one."""
    sep, files = _given(args, "sep", ","), args.image_file
    if not isinstance(files, str) or not sep or sep not in files:
        return ""
    from llava.images.download import shown_url

    return f" (--image-file {shown_url(files)!r} was split at {sep!r}; give another --sep if that belongs to a name)"


def _generation_options(args: Any) -> GenerationOptions:
    from llava.inference import GenerationOptions

    return GenerationOptions(
        max_new_tokens=_given(args, "max_new_tokens", 512),
        temperature=_given(args, "temperature", 0.0),
        top_p=_given(args, "top_p"),
        num_beams=_given(args, "num_beams", 1),
    )


def _given(args: Any, name: str, default: Any = None) -> Any:
    value = getattr(args, name, None)
    return default if value is None else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    args = make_parser().parse_args(arguments)
    with plain_errors():
        eval_model(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
