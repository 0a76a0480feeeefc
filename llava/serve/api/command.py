"""`llava serve`: answer OpenAI's chat completions with one model, many clients at a time.

Example:
    llava serve --model-path playground/tiny/model --compression visionzip:41+8
    curl http://127.0.0.1:8000/v1/models

Only this machine can reach it, unless you give `--host`; the key that clients must send is read from LLAVA_API_KEY.
SIGTERM and Ctrl-C end it once what was asked is answered.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from llava.serve.api.limits import Limits

if TYPE_CHECKING:
    from llava.serve.api.service import Service

KEY = "LLAVA_API_KEY"
_LOCAL = ("127.0.0.1", "localhost", "::1")
_LIMITS = Limits()


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    description = "Serve a model by OpenAI's chat completions, to many clients at a time."
    parser = CommandParser("llava.serve.api", description)
    add_model_flags(parser)
    add_shared(parser, "--compression", "--image-store")
    parser.add_argument("--served-model-name", metavar="NAME", help="what clients call it; default: of --model-path")
    parser.add_argument("--host", default="127.0.0.1", help=f"address to listen at; another needs {KEY}")
    parser.add_argument("--port", type=port(0), default=8000, help="default 8000; 0: a free one")
    parser.add_argument("--without-key", action="store_true", help=f"let anybody in who reaches --host, without {KEY}")
    add_shared(parser, "--allow-private-urls")
    add_shared(parser, "--batch-size", type=whole_number(1), help="answers a batch; default: 8, on a GPU what fits")
    add_shared(parser, "--temperature", default=0.0, help="where a request names none; 0 is greedy (default)")
    add_shared(parser, "--max-new-tokens", type=whole_number(1), help="most tokens of an answer (default 512)")
    limits, number = parser.add_argument_group("limits"), whole_number(1)
    for flag, default, told in (
        ("--max-waiting", _LIMITS.waiting, "requests beyond a batch; others are told to come again"),
        ("--max-images", _LIMITS.images, "images of a request"),
        ("--max-body-mb", _LIMITS.body_bytes >> 20, "of a request"),
        ("--max-image-mb", _LIMITS.image_bytes >> 20, "of an image's file"),
        ("--max-pixels", _LIMITS.pixels, "of an image"),
    ):
        limits.add_argument(flag, type=number, default=default, help=f"{told} (default {default})")
    limits.add_argument(
        "--feature-cache-mb", type=whole_number(0), default=512, help="of encoded images kept in memory (default 512)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line until a signal ends it; returns the exit status."""
    args = make_parser().parse_args(arguments)
    with plain_errors():
        key = _key(args)
        try:
            import fastapi
            import prometheus_client
            import uvicorn  # noqa: F401
        except ImportError:
            raise ImportError("the server needs more packages: pip install 'llava-visionzip[serve]'") from None
        from llava.serve.api.run import listen, run

        del fastapi, prometheus_client
        listening = listen(args.host, args.port)  # before the weights, which take minutes
        service = _service(args, key)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"{service.names.name} is served at http://{shown}:{port}/v1 (Ctrl-C ends it)", flush=True)
    try:
        run(service, listening)
    except KeyboardInterrupt:
        print("stopped")
    return 0


def _service(args: Any, key: str | None) -> Service:
    """Loads the model; raises what is wrong with it."""
    from llava.inference import GenerationOptions, Inference
    from llava.inference.feature_cache import FeatureCache
    from llava.serve.api.engine import Engine
    from llava.serve.api.metrics import Metrics
    from llava.serve.api.models import ModelNames
    from llava.serve.api.service import Service

    GenerationOptions(args.max_new_tokens, args.temperature)  # refuses what no request could be answered with
    inference = Inference.load(
        args.model_path,
        args.model_base,
        conv_mode=args.conv_mode,
        image_store=args.image_store,
        image_workers=0,  # a process with threads is not to be forked; each request prepares its own images
        **loading_options(args),
        **compression_option(args),
    )
    inference.stored_images()  # refuses a store of another model now
    if args.feature_cache_mb:
        inference.feature_cache = FeatureCache(args.feature_cache_mb * 2**20)
    name = args.served_model_name or Path(args.model_path).name or Path(args.model_path).resolve().name
    metrics = Metrics()
    return Service(
        Engine(inference, metrics, args.batch_size),
        ModelNames(name, inference.model.compression),
        _limits(args),
        metrics,
        key=key,
        local_only=key is None and args.host in _LOCAL,
        allow_private=args.allow_private_urls,
        temperature=args.temperature,
        prepares=not args.image_store,
    )


def _limits(args: Any) -> Limits:
    return Limits(
        body_bytes=args.max_body_mb * 2**20,
        image_bytes=args.max_image_mb * 2**20,
        pixels=args.max_pixels,
        images=args.max_images,
        new_tokens=args.max_new_tokens,
        waiting=args.max_waiting,
    )


def _key(args: Any) -> str | None:
    """The key of the environment; raises where there is none and others could come in."""
    key = os.environ.get(KEY, "").strip() or None  # a file that it was read from may end with a line's end
    if key is None and args.host not in _LOCAL and not args.without_key:
        raise ValueError(f"--host {args.host} lets others in: set {KEY}, or say --without-key")
    return key


if __name__ == "__main__":
    sys.exit(main())
