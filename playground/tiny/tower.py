"""Trains a small vision tower on scenes of handwritten digits.

One vector, or two, must tell the whole scene, the digit and the colour of every quadrant: CLS, or what pools attention
(`tower_kinds.py`). A dense objective on the patches of layer -2 (value, colour, place) keeps a digit's information in
the digit's own patches. Background patches are dropped at random in the beginning, which makes steps cheap and leaves
the background no use as a place to store things.

Shape legend: B scenes, T kept patches, C channels, Q = 4 quadrants.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from dataclasses import dataclass

import numpy as np
import torch
from scenes import (
    GLYPH,
    GRID,
    QUADRANTS,
    SIZE,
    DigitBlock,
    SceneBatch,
    enlarge,
    load_block,
    patch_targets,
    render,
    sample_scenes,
)
from torch import Tensor, nn
from torch.nn import functional as F
from tower_kinds import DIGITS, TINTS, ClipWithHeads, SiglipWithHeads, TowerWithHeads
from tqdm import tqdm

from playground.pretraining.resume import load_state, save_state
from playground.pretraining.small_tower import rate, saliency, save_tower, to_pixels, tower_config


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum: `tokens` patches kept, up to `digits` digits a scene, `steps` steps of `batch`."""

    tokens: int
    digits: int
    steps: int
    batch: int


CURRICULUM = (
    Stage(16, 1, 200, 128),
    Stage(24, 2, 300, 128),
    Stage(32, 4, 500, 128),
    Stage(80, 4, 500, 64),
    Stage(GRID * GRID, 4, 700, 32),
)


def warp(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Turns, scales, shears, shifts and re-inks digits at random.

    Args:
        rng: The source of chance.
        images: (N, 8, 8) ink between 0 and 1.

    Returns:
        (N, G, G) ink.
    """
    count = len(images)
    turn = rng.uniform(-0.22, 0.22, count)
    scale = rng.uniform(0.9, 1.2, (2, count))
    shear = rng.uniform(-0.15, 0.15, count)
    matrix = np.zeros((count, 2, 3), np.float32)
    matrix[:, 0, 0] = scale[0] * np.cos(turn)
    matrix[:, 0, 1] = shear - np.sin(turn)
    matrix[:, 1, 0] = np.sin(turn)
    matrix[:, 1, 1] = scale[1] * np.cos(turn)
    matrix[:, :, 2] = rng.uniform(-0.12, 0.12, (count, 2))
    grid = F.affine_grid(torch.from_numpy(matrix), [count, 1, GLYPH, GLYPH], align_corners=False)
    grid = grid + F.interpolate(
        torch.from_numpy(rng.normal(0, 0.05, (count, 2, 4, 4)).astype(np.float32)), size=GLYPH, mode="bilinear"
    ).permute(0, 2, 3, 1)
    ink = F.grid_sample(torch.from_numpy(images)[:, None], grid, align_corners=False)[:, 0].numpy()
    power = rng.uniform(0.8, 1.25, (count, 1, 1))
    return np.clip(rng.uniform(1.1, 1.4, (count, 1, 1)) * ink**power, 0, 1).astype(np.float32)


def draw(
    rng: np.random.Generator, block: DigitBlock, count: int, digits: int, augment: bool
) -> tuple[Tensor, SceneBatch]:
    """Makes `count` fresh scenes of up to `digits` digits: pixels (B, 3, 112, 112) and what they show."""
    scenes = sample_scenes(rng, block, count, 1, digits)
    chosen = block.images[scenes.sources]
    glyphs = enlarge(chosen)
    if augment:
        glyphs = warp(rng, chosen.reshape(-1, 8, 8)).reshape(glyphs.shape)
    return to_pixels(render(rng, scenes, glyphs)), scenes


def objective(model: TowerWithHeads, pixels: Tensor, scenes: SceneBatch, tokens: int) -> dict[str, Tensor]:
    """Computes the losses of a step, each of them a scalar."""
    digit, colour = (torch.from_numpy(part) for part in patch_targets(scenes))
    order = torch.rand(digit.shape) + 2.0 * (digit < DIGITS - 1)
    kept = order.topk(tokens, dim=1, sorted=False).indices
    digit, colour = digit.gather(1, kept), colour.gather(1, kept)
    with torch.autocast("cpu", torch.bfloat16):
        patches, views = model(pixels, kept)
        patches, views = patches.float(), {name: view.float() for name, view in views.items()}
    ink, tint, row, col = patches.flatten(0, 1).split([DIGITS, TINTS, GRID, GRID], -1)
    weight = torch.where(digit.flatten() < DIGITS - 1, 1.0, 0.15)
    weight = weight / weight.sum()
    place = kept.flatten()
    losses = {
        "patch_digit": (F.cross_entropy(ink, digit.flatten(), reduction="none") * weight).sum(),
        "patch_colour": (F.cross_entropy(tint, colour.flatten(), reduction="none") * weight).sum(),
        "place": 0.25 * (F.cross_entropy(row, place // GRID) + F.cross_entropy(col, place % GRID)),
    }
    labels = torch.from_numpy(scenes.labels)
    present = labels >= 0
    want_digit = torch.where(present, labels, DIGITS - 1).flatten()
    want_colour = torch.where(present, torch.from_numpy(scenes.colours), TINTS - 1).flatten()
    for name, view in views.items():
        ink, tint = view.reshape(-1, DIGITS + TINTS).split([DIGITS, TINTS], -1)
        losses[name] = F.cross_entropy(ink, want_digit) + F.cross_entropy(tint, want_colour)
    return losses


@torch.no_grad()
def diagnose(model: TowerWithHeads, block: DigitBlock, count: int = 500, seed: int = 7) -> dict[str, float]:
    """Measures the tower on scenes of held-out digits, all patches in place.

    Args:
        model: The tower and its heads.
        block: The held-out digits.
        count: The number of scenes.
        seed: The seed of the scenes.

    Returns:
        Accuracies of the heads, the share of the saliency that falls on digits, and the share of digit patches among
        the 16 and the 40 most salient ones.
    """
    pixels, scenes = draw(np.random.default_rng(seed), block, count, len(QUADRANTS), False)
    digit = torch.from_numpy(patch_targets(scenes)[0])
    is_digit = digit < DIGITS - 1
    kept = torch.arange(GRID * GRID).expand(count, -1)
    patches, views = model(pixels, kept)
    inks = patches[..., :DIGITS].argmax(-1)
    told = next(iter(views.values())).view(count, len(QUADRANTS), -1)[..., :DIGITS].argmax(-1)
    labels = torch.from_numpy(scenes.labels)
    there = labels >= 0
    row = saliency(model.tower, pixels)
    found = {
        "patch_digit": (inks == digit)[is_digit].float().mean().item(),
        "patch_background": (inks == digit)[~is_digit].float().mean().item(),
        "scene_digit": (told == labels)[there].float().mean().item(),
        "scene_empty": (told == DIGITS - 1)[~there].float().mean().item(),
        "attention_on_digits": ((row * is_digit).sum() / row.sum()).item(),
        "attention_total": row.sum(1).mean().item() / (model.tower.config.num_attention_heads if model.has_cls else 1),
    }
    for top in (16, 40):
        chosen = torch.zeros_like(is_digit).scatter(1, row.topk(top, 1).indices, True)
        found[f"recall_{top}"] = ((chosen & is_digit).sum() / is_digit.sum()).item()
    return found


def train(arguments: Namespace, model: TowerWithHeads) -> None:
    """Goes through the curriculum; a second call goes on where the first was stopped."""
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=arguments.lr, weight_decay=0.02, betas=(0.9, 0.98)
    )
    path, block, held_out = arguments.output / "tower_checkpoint.safetensors", load_block(False), load_block(True)
    schedule = [s for s in CURRICULUM for _ in range(max(1, round(s.steps * arguments.scale)))]
    start = load_state(path, model, optimiser) if path.exists() else 0
    bar = tqdm(range(start, len(schedule)), initial=start, total=len(schedule), desc="tower", mininterval=2)
    for step in bar:
        stage = schedule[step]
        torch.manual_seed(arguments.seed * 1_000_003 + step)
        rng = np.random.default_rng([arguments.seed, step])
        pixels, scenes = draw(rng, block, stage.batch, stage.digits, True)
        for group in optimiser.param_groups:
            group["lr"] = rate(step, len(schedule), arguments.lr)
        losses = objective(model, pixels, scenes, stage.tokens)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 20 == 0:
            bar.set_postfix({"tokens": stage.tokens} | {k: f"{v.item():.2f}" for k, v in losses.items()})
        if (step + 1) % arguments.save_every == 0 or step + 1 == len(schedule):
            save_state(path, model, optimiser, step + 1)
            found = {"step": step + 1, **{k: round(v, 3) for k, v in diagnose(model, held_out, 200).items()}}
            tqdm.write(json.dumps(found))


def pretrain(arguments: Namespace) -> None:
    """Trains the tower and writes it with its diagnostics."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    make = SiglipWithHeads if arguments.kind == "siglip" else ClipWithHeads
    model, begin = make(tower_config(arguments, SIZE, GRID, arguments.kind)), time.time()
    train(arguments, model)
    found = diagnose(model, load_block(True)) | {"seconds": round(time.time() - begin)}
    save_tower(arguments.output, model.tower, found, SIZE)
