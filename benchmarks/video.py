"""A clip of Video-LLaVA: decoding, tower, and prefill at 2,056 and 136 tokens, the original's way and ours.

    python benchmarks/video.py --json video.json

The original's way takes frames one by one: each is sought in the file, decoded from the keyframe before it, and made
pixels of by itself; clips go through the tower one after the other. With VisionZip as it was released, the tower keeps
the attention maps of all layers. Pixels and, in fp32, tokens of both ways are first checked to be the same. Weights are
random. The tower has its real widths, on a CPU a quarter of its layers; the language model is Vicuna-7B, on a CPU with
a quarter of the widths and an eighth of the layers.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Measurement, measure
from limits import Limits, gap, limits_of
from models import SIZES, model_config, random_model
from prompts import TEXT_TOKENS
from report import Cell, Goal, Report
from stages import language_model_over
from torch import Tensor
from towers import Tower, our_way, visionzip_way

from llava import CompressionConfig
from llava.analysis.counting import count
from llava.model.families.video_llava.pixels import LanguageBindProcessor
from llava.model.flops import decoder_parameters, prefill_flops
from llava.video import read_clip

FRAMES, ROWS = 8, 8 * 257  # with the class token of each frame, as Video-LLaVA sees a clip
BUDGET = CompressionConfig.from_total(136, frames=FRAMES)
RATE, SIZE, SECONDS = 25, (320, 240), 10  # of MSVD-QA's clips, about
TOWERS: dict[str, dict[str, int]] = {
    "real": {},
    "small": {"num_hidden_layers": 6},
    "toy": {"num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2},
}
NOTES = (
    "Ours decodes every frame of a file, because what a file says of their number may be wrong; the floor of decoding "
    "is that, without pixels. Seeking is cheaper where keyframes are near, and dearer where a file has one at its "
    "beginning alone; it is exact only for files whose header and rate are right.",
    "The original's own readers, decord and OpenCV, are not run here; the same steps are, with PyAV.",
    "Frames of a clip attend to each other in every layer of the tower, on both sides. Ours does not run the last "
    "layer, which is a larger part of a tower with fewer layers: see what operations alone would give.",
    f"A prompt has {TEXT_TOKENS} tokens of text beside the clip's. The prefill is the same code on both sides; its "
    "ratio is what compression gains.",
)


# ----- Decoding ----------------------------------------------------------------


def make_clip(keyframes: int, seconds: float) -> bytes:
    """An H.264 file of blocks that move over noise, with a keyframe every so many frames."""
    import av

    random, buffer = np.random.default_rng(0), io.BytesIO()
    width, height = SIZE
    ground: np.ndarray = random.integers(0, 256, (height // 16, width // 16, 3)).repeat(16, 0).repeat(16, 1)
    ground = np.clip(ground + random.normal(0, 8, ground.shape), 0, 255).astype(np.uint8)
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"g": str(keyframes), "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(round(seconds * RATE)):
            left = 2 * number % (width - 64)
            picture = ground.copy()
            picture[80:144, left : left + 64] = 255 - number % 200
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def frame_by_frame(data: bytes, indices: Sequence[int], processor: LanguageBindProcessor) -> Tensor:
    """The original's way: each frame sought, decoded and made pixels of. (T, 3, side, side)."""
    import av

    found = []
    with av.open(io.BytesIO(data), "r") as container:
        stream: Any = container.streams.video[0]
        stream.thread_type = "AUTO"
        for index in indices:
            moment = (stream.start_time or 0) + round(index / stream.average_rate / stream.time_base)
            container.seek(moment, stream=stream)
            frame = next(each for each in container.decode(stream) if each.pts >= moment)
            found.append(processor.clip_pixels(frame.to_ndarray(format="rgb24")[None]))
    return torch.cat(found)


def decode_alone(data: bytes) -> int:
    """Every frame decoded and thrown away; their number."""
    import av

    with av.open(io.BytesIO(data), "r") as container:
        container.streams.video[0].thread_type = "AUTO"
        return sum(1 for _ in container.decode(video=0))


def decoding(keyframes: int, seconds: float, warmup: int, repeats: int) -> dict[str, Measurement]:
    """Both ways from a file's bytes to the tower's pixels, and decoding alone."""
    data, processor = make_clip(keyframes, seconds), LanguageBindProcessor()
    clip = read_clip(data, FRAMES)
    if not torch.equal(processor.clip_pixels(clip.frames), frame_by_frame(data, clip.indices, processor)):
        raise SystemExit(f"keyframes {keyframes}: the two ways give different pixels")
    sides: dict[str, Callable[[], object]] = {
        "original": lambda: frame_by_frame(data, clip.indices, processor),
        "ours": lambda: processor.clip_pixels(read_clip(data, FRAMES).frames),
        "floor": lambda: decode_alone(data),
    }
    return measure(sides, torch.device("cpu"), warmup=warmup, repeats=repeats, memory=False)


# ----- Tower and prefill -------------------------------------------------------


def tower_sides(tower: Tower, clips: int) -> dict[str, Callable[[], Tensor]]:
    """Both ways from pixels to the kept tokens of some clips, (clips * 8, 17, C)."""
    pixels = tower.pixels(clips * FRAMES)

    def one_by_one() -> Tensor:
        kept = [visionzip_way(tower, clip, BUDGET.dominant, BUDGET.contextual) for clip in pixels.split(FRAMES)]
        return torch.cat(kept)

    return {"original": one_by_one, "ours": lambda: our_way(tower, pixels, BUDGET)}


def operations_of(sides: Mapping[str, Callable[[], Tensor]]) -> dict[str, float]:
    """Counted operations of each side; refuses to compare sides that keep different tokens."""
    tokens: dict[str, Tensor] = {}

    def kept(name: str, work: Callable[[], Tensor]) -> Callable[[], None]:
        return lambda: tokens.update({name: work()})

    counted = {name: float(count(kept(name, work)).flops) for name, work in sides.items()}
    if tokens["ours"].dtype == torch.float32:
        torch.testing.assert_close(tokens["ours"], tokens["original"], atol=1e-3, rtol=1e-3)
    return counted


def prefills(size: str, device: torch.device, dtype: torch.dtype) -> tuple[Any, dict[str, Callable[[], object]]]:
    """Vicuna's config, and its prefill of a prompt with each number of tokens."""
    model = random_model(model_config("1.5-7b", size), device, dtype)
    model.model.vision_tower = None  # its memory is not needed
    return model.config, {
        f"{tokens:,} tokens": language_model_over(model, 1, TEXT_TOKENS + tokens)
        for tokens in (ROWS, FRAMES * BUDGET.num_tokens)
    }


# ----- The report --------------------------------------------------------------


def rows_of(
    stage: str, found: Mapping[str, Measurement], floors: Mapping[str, float | None], flops: Mapping[str, float]
) -> list[dict[str, Cell]]:
    """Lines of one stage; the last side is what the others are held against."""
    *_, last = found.values()
    return [
        {
            "stage": stage,
            "side": side,
            "rounds, ms": " ".join(f"{one:.4g}" for one in time.times_ms),
            "median ms": time.ms.median,
            "floor ms": floors.get(side),
            "gap": gap(time.ms.median, floors.get(side)),
            "time / last": last.times_as_fast_as(time).median,
            "spread": str(last.times_as_fast_as(time)),
            "GFLOP": flops[side] / 1e9 if side in flops else None,
            "extra peak MiB": time.peak_mib,
        }
        for side, time in found.items()
    ]


def goals_of(
    decode: Mapping[int, float], tower: Mapping[int, float], prefill: float, counted: tuple[float, float]
) -> list[Goal]:
    """What is to be reached: decoding as fast where a file has one keyframe, the tower, the prefill."""
    rarest = max(decode)
    others = ", ".join(f"{ratio:.2g} with one every {keyframes}" for keyframes, ratio in decode.items())
    goals = [Goal(f"decoding, original's way / ours, a keyframe every {rarest}", decode[rarest], 1, note=others)]
    of_tower, of_prefill = (f"operations alone would give {ratio:.3g}" for ratio in counted)
    goals += [
        Goal(f"tower, original's way / ours, {clips} clip{'s' * (clips > 1)} of eight frames", ratio, 1, note=of_tower)
        for clips, ratio in tower.items()
    ]
    return [*goals, Goal("prefill, 2,056 tokens / 136", prefill, at_least=5, note=of_prefill)]


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Decoding, tower and prefill of a clip, the original's way and ours.")
    parser.add_argument("--size", choices=sorted(SIZES), help="small on a CPU, else real")
    parser.add_argument("--clips", type=int, nargs="+", help="clips a pass of the tower; 1, on a GPU 1 8")
    parser.add_argument("--keyframes", type=int, nargs="+", default=[12, 250], help="a keyframe every so many frames")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of the video file")
    parser.add_argument("--device", type=torch.device, default=torch.accelerator.current_accelerator() or "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="float32 on CPU, else bfloat16")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repeats", type=int, help="4, on a GPU 8; of decoding four times as many")
    parser.add_argument("--json", type=Path)
    return parser


def main() -> None:
    """Runs the command line."""
    parser = make_parser()
    args = parser.parse_args()
    on_cpu = args.device.type == "cpu"
    args.clips = args.clips or ([1] if on_cpu else [1, 8])
    args.repeats = args.repeats if args.repeats is not None else 4 if on_cpu else 8
    if args.warmup < 0 or args.repeats < 2 or min(*args.clips, *args.keyframes) < 1 or args.seconds <= 0:
        parser.error("--repeats must be at least 2, --warmup at least 0, and --clips, --keyframes, --seconds above 0")
    size, dtype = args.size or ("small" if on_cpu else "real"), args.dtype or ("float32" if on_cpu else "bfloat16")
    torch.manual_seed(0)
    with torch.inference_mode():
        report = measured(args, size, getattr(torch, dtype))
    report.tell(args.json)


def measured(args: argparse.Namespace, size: str, dtype: torch.dtype) -> Report:
    """All stages, one after the other; the sides of each in turn."""
    device, often = args.device, {"warmup": args.warmup, "repeats": args.repeats}
    limits = limits_of(device)
    short = {"warmup": max(1, args.warmup), "repeats": 4 * args.repeats}  # a fraction of a second a run
    decode = {every: decoding(every, args.seconds, **short) for every in sorted(set(args.keyframes))}
    tower, towers, flops = Tower.build("video", device, dtype, **TOWERS[size]), {}, {}
    for clips in sorted(set(args.clips)):
        sides = tower_sides(tower, clips)
        flops[clips] = operations_of(sides)
        towers[clips] = measure(sides, device, **often, memory=device.type == "cuda")
    config, prompts = prefills(size, device, dtype)
    prefill = measure(prompts, device, **often, memory=device.type == "cuda")
    limits = limits.at_best(limits_of(device)) if device.type == "cpu" else limits
    return reported(args, size, dtype, limits, (decode, towers, flops, prefill), config)


def reported(
    args: argparse.Namespace,
    size: str,
    dtype: torch.dtype,
    limits: Limits,
    found: tuple[Any, Any, Any, dict[str, Measurement]],
    config: Any,
) -> Report:
    """The figures in the common form."""
    decode, towers, flops, prefill = found
    rows: list[dict[str, Cell]] = []
    for every, sides in decode.items():
        alone = sides["floor"].ms.median
        shown = {name: side for name, side in sides.items() if name != "floor"}
        rows += rows_of(f"decode, a keyframe every {every}", shown, dict.fromkeys(shown, alone), {})
    for clips, sides in towers.items():
        floors = {name: limits.floor_ms(flops[clips][name]) for name in sides}
        rows += rows_of(f"tower, {clips} x {FRAMES} frames", sides, floors, flops[clips])
    lengths = dict(zip(prefill, (ROWS, FRAMES * BUDGET.num_tokens), strict=True))
    work = {name: float(prefill_flops(config, TEXT_TOKENS + tokens)) for name, tokens in lengths.items()}
    weights = decoder_parameters(config) * dtype.itemsize
    rows += rows_of("prefill", prefill, {name: limits.floor_ms(each, weights) for name, each in work.items()}, work)
    most, fewest = prefill.values()
    ratios = {
        "decode": {every: sides["ours"].times_as_fast_as(sides["original"]).median for every, sides in decode.items()},
        "tower": {clips: sides["ours"].times_as_fast_as(sides["original"]).median for clips, sides in towers.items()},
    }
    gained, seen = fewest.times_as_fast_as(most).median, flops[max(flops)]
    counted = seen["original"] / seen["ours"], max(work.values()) / min(work.values())
    return Report(
        benchmark="video",
        title="A clip of Video-LLaVA: decoding, tower, prefill",
        device=args.device,
        setting={
            "size": size if size == "real" else f"{size}, scaled down",
            "tower layers": TOWERS[size].get("num_hidden_layers", 24),
            "dtype": str(dtype).removeprefix("torch."),
            "compression": str(BUDGET),
            "file": f"{args.seconds:g} s, {SIZE[0]}x{SIZE[1]}, {RATE} frames a second, H.264",
            "peak": limits.source,
        },
        rows=rows,
        ratios={
            "decode_ratio_vs_original": ratios["decode"][max(decode)],
            "tower_ratio_vs_original": ratios["tower"][max(towers)],
            "prefill_ratio_2056_to_136": gained,
        },
        goals=goals_of(ratios["decode"], ratios["tower"], gained, counted),
        notes=NOTES,
    )


if __name__ == "__main__":
    main()
