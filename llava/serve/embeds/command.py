"""`llava embeds`: write a question about images for a serving engine, the images encoded and compressed.

Example:
    llava embeds --model-path playground/tiny/model --compression visionzip:41+8 --image-file cat.png
        --query "What is this?" --for vllm-image-embeds --model-name llava --output request.json   (on one line)
    curl http://localhost:8000/v1/chat/completions -H "Content-Type: application/json" -d @request.json

With --image-store a form without the text's embeddings needs no weights: rows come from the store.
"""

from __future__ import annotations

import argparse
import json
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
    unicode_text,
)
from llava.serve.embeds.forms import FORMS, Form, form_named

if TYPE_CHECKING:
    from llava.inference import GenerationOptions
    from llava.serve.embeds.question import EmbeddedQuestion

_TYPES = ("float32", "bfloat16", "float16")
_WIRE_FORMATS = ("npy", "torch")
_ASKED = ("--image-file", "--query", "--output")
_STDOUT = "-"


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    forms = "; ".join(f"{form.name}: {form.help}" for form in FORMS)
    parser = CommandParser("llava.serve.embeds", "Write a question about images for a serving engine.")
    add_model_flags(parser)
    add_shared(parser, "--compression", "--image-store")
    parser.add_argument("--image-file", nargs="+", default=[], help="paths or URLs")
    parser.add_argument("--query", type=unicode_text, help="the question; <image> marks where an image stands")
    parser.add_argument("--for", dest="form", choices=[form.name for form in FORMS], default=FORMS[0].name, help=forms)
    parser.add_argument("--output", metavar="FILE", help="file to write; - writes a request to the standard output")
    parser.add_argument("--model-name", help="under which the engine serves the model; default: its folder's name")
    parser.add_argument("--embed-dtype", choices=_TYPES, help="of the rows; default: as computed")
    parser.add_argument(
        "--wire-format",
        choices=_WIRE_FORMATS,
        default="npy",
        help="of image_embeds: npy (default), or torch, which knows bfloat16; prompt_embeds are always torch",
    )
    add_shared(parser, "--temperature", default=0.0, help="0 is greedy (default)")
    add_shared(parser, "--top-p", "--max-new-tokens")
    parser.add_argument(
        "--text-model", metavar="DIR", help="write the language model alone to a new folder; prompt_embeds need it"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    form = form_named(args.form)
    lacks = [flag for flag in _ASKED if not getattr(args, flag[2:].replace("-", "_"))]
    asks = len(lacks) < len(_ASKED)
    if lacks and (asks or not args.text_model):
        parser.error(f"needs {', '.join(lacks)}")
    if args.output == _STDOUT and not form.is_request:
        parser.error(f"--for {form.name} is a file of tensors; give a name as --output")
    if args.output == _STDOUT and args.text_model:
        parser.error("--output - is for a request alone; write the language model in a call of its own")
    from llava.inference import GenerationOptions

    with plain_errors():
        options = GenerationOptions(args.max_new_tokens, args.temperature, args.top_p)
        inference = _load(args) if form.needs_weights or args.text_model or not args.image_store else None
        if args.text_model:
            _write_text_model(inference, args.text_model)
        if asks:
            question = _question(args, inference)
            _write(args, form, question, inference, options)
    return 0


def _load(args: argparse.Namespace) -> Any:
    from llava.inference import Inference

    return Inference.load(
        args.model_path,
        args.model_base,
        conv_mode=args.conv_mode,
        image_store=args.image_store,
        **loading_options(args),
        **compression_option(args),
    )


def _write_text_model(inference: Any, folder: str) -> None:
    from llava.serve.embeds.text_model import save_text_model

    save_text_model(inference.model, inference.tokenizer, folder)
    _tell(f"wrote {folder}: the language model")


def _question(args: argparse.Namespace, inference: Any) -> EmbeddedQuestion:
    """The question with its rows: of the loaded model, or of the store where none is loaded."""
    import torch

    from llava.encoded.store import open_store
    from llava.inference.prompting import PromptWriter
    from llava.serve.embeds.sources import embed_from_store, embed_question

    if inference is not None:
        question = embed_question(inference, args.query, *args.image_file)
    else:
        if len(args.image_store) > 1:
            raise ValueError("--image-store: rows are read from one store; name one")
        store = open_store(args.image_store[0])
        prompts = PromptWriter.of_checkpoint(args.model_path, args.model_base, args.conv_mode)
        question = embed_from_store(store, prompts, args.query, *args.image_file, **compression_option(args))
    return question if args.embed_dtype is None else question.to(getattr(torch, args.embed_dtype))


def _write(
    args: argparse.Namespace, form: Form, question: EmbeddedQuestion, inference: Any, options: GenerationOptions
) -> None:
    if args.output != _STDOUT:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    if form.is_request:
        text = json.dumps(_request(args, form, question, inference, options))
        if args.output == _STDOUT:
            print(text)
        else:
            Path(args.output).write_text(text + "\n", encoding="utf-8")
    else:
        from llava.serve.embeds.files import save_question

        save_question(args.output, *_tensors(form, question, inference))
    rows = " + ".join(map(str, question.rows))
    dtype = str(question.features[0].dtype).removeprefix("torch.")
    where = "" if args.output == _STDOUT else f"{args.output}: "
    _tell(f"{where}{form.name}, {rows} rows of {question.features[0].shape[1]} in {dtype}")
    if not form.takes_unequal:
        _tell(f"note: up to 0.33 vLLM takes one number of rows from all clients of a server: {question.rows[0]}")
    if form.name == "vllm-image-embeds" and args.conv_mode:
        _tell("note: the server's chat template makes the prompt, not --conv-mode")


def _request(
    args: argparse.Namespace, form: Form, question: EmbeddedQuestion, inference: Any, options: GenerationOptions
) -> dict[str, Any]:
    from llava.serve.embeds import vllm

    name = args.model_name or Path(args.model_path).name
    if form.name == "vllm-image-embeds":
        return vllm.chat_request(question, name, form=args.wire_format, options=options)
    return vllm.prompt_embeds_request(question, inference.model, name, options=options)


def _tensors(form: Form, question: EmbeddedQuestion, inference: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors of a file by name, and what its header says."""
    from llava.serve.embeds import lmdeploy, plain_transformers, vllm
    from llava.serve.embeds.files import images_by_name

    images = images_by_name(question.features)
    if form.name == "vllm-offline":
        found = vllm.offline_prompts([question])[0]
        return images, {"prompt_token_ids": found["prompt_token_ids"]}
    if form.name == "lmdeploy":
        given = lmdeploy.turbomind_inputs(question)
        return images, {name: given[name] for name in ("input_ids", "input_embedding_ranges")}
    if form.name == "transformers":
        return images, {"input_ids": question.opened_ids()}
    return {"inputs_embeds": plain_transformers.input_embeddings(question, inference.model)["inputs_embeds"]}, {}


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
