"""Writes what was trained, merged into its base: `python -m llava.model.merge --adapter A [--base B] --output O`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llava.command_line import CommandParser, add_shared, plain_errors


def merge(adapter: str | Path, output: str | Path, base: str | Path | None = None) -> Path:
    """Makes a whole checkpoint, in transformers' format and the dtype of the base.

    Args:
        adapter: LoRA adapters, a projector alone, or a checkpoint of a run; see `load_pretrained_model`.
        output: Folder to write.
        base: What it was trained on; by default what it names.

    Returns:
        The folder.

    Raises:
        ValueError: `output` holds something already.
        CheckpointError: Adapter and base do not fit together.
    """
    from llava.model.builder import load_pretrained_model
    from llava.prompts.tokenization import copy_sentencepiece

    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--output {folder} exists already; choose another, or remove it")
    tokenizer, model, image_processor, _ = load_pretrained_model(adapter, base, device="cpu", torch_dtype="auto")
    for part in (model, tokenizer, image_processor):
        part.save_pretrained(folder)
    copy_sentencepiece(tokenizer, folder)
    return folder


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; takes the flags of LLaVA's `merge_lora_weights.py` too."""
    parser = CommandParser("llava.model.merge", "Merges LoRA adapters, or a projector, into the model they go on.")
    add_shared(parser, "--model-path,--adapter", required=True, help="folder or repository of what was trained")
    add_shared(parser, "--model-base,--base")
    add_shared(parser, "--output-dir,--output,--save-model-path", required=True)
    arguments = parser.parse_args(argv)
    with plain_errors():
        folder = merge(arguments.model_path, arguments.output_dir, arguments.model_base)
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
