"""Who is asked and how: a model to ask, JPEG files to ask about, and the loop that LLaVA's evaluation scripts run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import MODELS, model_config, random_model
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPImageProcessorPil

from llava.constants import IMAGE_TOKEN_INDEX
from llava.inference import Inference, Question
from llava.mm_utils import process_images, tokenizer_image_token
from llava.prompts.tokenization import load_tokenizer

TINY = Path(__file__).resolve().parents[1] / "playground" / "tiny" / "model"
_COCO_SIZE = (640, 480)  # (w, h)


def make_parser(description: str, new_tokens: int) -> argparse.ArgumentParser:
    """The flags of a benchmark that asks a model.

    Args:
        description: Of the benchmark.
        new_tokens: How many an answer has unless told otherwise.
    """
    flags = argparse.ArgumentParser(description=description)
    flags.add_argument("--model", choices=["tiny", *MODELS], help="default: tiny on a CPU, 1.5-7b on a GPU")
    flags.add_argument("--compression", help="default: visionzip:15+5 for tiny, else visionzip:54+10")
    flags.add_argument("--batch", type=int, help="default: 32 on a CPU, 64 on a GPU")
    flags.add_argument("--new-tokens", type=int, default=new_tokens, help="of every answer (default %(default)s)")
    flags.add_argument("--device", type=torch.device, default=torch.accelerator.current_accelerator() or "cpu")
    flags.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    flags.add_argument("--warmup", type=int, default=1)
    flags.add_argument("--repeats", type=int, default=4)
    flags.add_argument("--json", type=Path)
    return flags


def read_flags(flags: argparse.ArgumentParser) -> argparse.Namespace:
    """Reads a command line, fills in what depends on the machine, and refuses numbers that are too small."""
    args = flags.parse_args()
    on_cpu = args.device.type == "cpu"
    args.model = args.model or ("tiny" if on_cpu else "1.5-7b")
    args.compression = args.compression or ("visionzip:15+5" if args.model == "tiny" else "visionzip:54+10")
    args.batch = args.batch or (32 if on_cpu else 64)
    args.dtype = args.dtype or ("float32" if on_cpu else "bfloat16")
    if min(args.batch, args.new_tokens) < 1 or args.warmup < 0 or args.repeats < 2:
        flags.error("--batch and --new-tokens at least 1, --warmup at least 0, --repeats at least 2")
    return args


def setting_of(args: argparse.Namespace) -> dict[str, Any]:
    """What a report says of these flags."""
    names = {"model": args.model, "compression": args.compression, "dtype": args.dtype}
    return names | {"batch": args.batch, "new tokens": args.new_tokens}


def make_inference(model: str, compression: str | None, device: torch.device, dtype: str, **options: Any) -> Inference:
    """A model that answers at full length: no token ends an answer, so that all sides generate alike.

    Args:
        model: `tiny`, the trained model of the playground, or one of `models.MODELS`, with random weights.
        compression: Its budget.
        device: Where it runs.
        dtype: Of its weights.
        **options: For `Inference`.
    """
    if model == "tiny":
        inference = Inference.load(TINY, device=device, torch_dtype=dtype, compression=compression, **options)
    else:
        network = random_model(model_config(model), device, getattr(torch, dtype))
        network.set_compression(compression)
        processor = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
        inference = Inference(load_tokenizer(TINY), network, processor, conv_mode="v1", **options)
    inference.model.generation_config.eos_token_id = None
    return inference


def write_pictures(folder: Path, count: int) -> list[Path]:
    """JPEG files of COCO's usual size, smooth like photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    files = []
    for number in range(count):
        pixels = rng.integers(0, 256, (15, 20, 3), dtype=np.uint8)
        files.append(folder / f"{number:012}.jpg")
        Image.fromarray(pixels).resize(_COCO_SIZE, Image.Resampling.BICUBIC).save(files[-1], quality=90)
    return files


@dataclass
class _Pictures(Dataset[tuple[tuple[int, int], Any]]):
    """Opened and prepared one by one."""

    files: Sequence[str]
    image_processor: Any
    config: Any

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[tuple[int, int], Any]:
        with Image.open(self.files[index]) as file:
            image = file.convert("RGB")
        return image.size, process_images([image], self.image_processor, self.config)


@torch.inference_mode()
def one_at_a_time(inference: Inference, questions: Sequence[Question], new_tokens: int) -> list[str]:
    """LLaVA's own loop (`model_vqa_loader.py`): every question by itself, its image prepared and encoded anew."""
    model, tokenizer = inference.model, inference.tokenizer
    pictures = _Pictures([str(question.images[0]) for question in questions], inference.image_processor, model.config)
    # LLaVA's loader has four workers; on a CPU they would take the model's cores.
    loader = DataLoader(pictures, batch_size=None, num_workers=4 if model.device.type == "cuda" else 0)
    answers = []
    for question, (size, pixels) in zip(questions, loader, strict=True):
        if isinstance(pixels, list):
            images: Any = [tiles.to(model.device, model.dtype) for tiles in pixels]
        else:
            images = pixels.to(model.device, model.dtype)
        ids = tokenizer_image_token(inference.prompt(question), tokenizer, IMAGE_TOKEN_INDEX)
        output = model.generate(
            torch.tensor([ids], device=model.device),
            images=images,
            image_sizes=[size],
            do_sample=False,
            num_beams=1,
            max_new_tokens=new_tokens,
            use_cache=True,
            pad_token_id=inference.pad_token_id,
        )
        answers.append(tokenizer.batch_decode(output, skip_special_tokens=True)[0].strip())
    return answers
