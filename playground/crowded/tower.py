"""Trains the vision tower of the crowded world: CLIP's architecture, by matching captions and by telling every patch.

- Captions, as in CLIP: the CLS token of layer -2 and of the last layer is matched with the caption of its own picture
  against those of the other pictures in the batch, and against its own with one word changed. A caption tells the
  texture and some of the things, large ones far more often than small ones, text least often, as people do.
- Patches: each patch of layer -2 tells what it shows, texture included, and where it is.

Nothing in it says that things matter more than textures, nor where CLS should look. The first steps see small windows
of the pictures, for attention to neighbours is learned much faster among 16 patches than among 196.

Shape legend: B scenes, P = 196 patches, C channels, O = 10 slots, E joint channels, W wrong captions a picture.
"""

from __future__ import annotations

import json
import math
import time
from argparse import Namespace
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPVisionConfig, CLIPVisionModel

from playground.crowded.backgrounds import SIZE
from playground.crowded.scenes import (
    CELL_START,
    COLOURS,
    GRID,
    QUADRANTS,
    SceneBatch,
    patch_targets,
    render,
    sample_scenes,
)
from playground.crowded.things import ALL_NAMES, KIND_OF, KINDS, SIZES, Split, load_bank
from playground.pretraining.resume import load_state, save_state
from playground.pretraining.small_tower import place_codes, rate, saliency, save_tower, to_pixels, tower_config

HEADS = {"name": len(ALL_NAMES) + 1, "colour": len(COLOURS) + 1, "size": len(SIZES) + 1, "texture": 5}
HEADS |= {"row": GRID, "col": GRID}
WRONG_CAPTIONS = 2


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum: the share of the steps, and the side of the windows in patches."""

    share: float
    window: int


CURRICULUM = (Stage(0.35, 4), Stage(0.2, 7), Stage(0.45, GRID))
_IS_TEXT = KINDS.index("word") <= KIND_OF
_MENTIONED = np.array([[0.9, 0.4], [0.6, 0.2]])
"""How often a caption tells of a thing: not text and text; large and small."""


class Captions(nn.Module):
    """The text half: a caption is a set of phrases."""

    def __init__(self, width: int, joint: int) -> None:
        super().__init__()
        sizes = {"name": len(ALL_NAMES), "colour": len(COLOURS), "place": len(QUADRANTS)}
        self.words = nn.ModuleDict({name: nn.Embedding(size, width) for name, size in sizes.items()})
        self.texture = nn.Embedding(5, width)
        self.phrase = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, joint))

    def forward(self, told: dict[str, Tensor], mentioned: Tensor, textures: Tensor) -> Tensor:
        """(..., E), unit vectors: of things (..., O) by word, those that are mentioned, and of textures (...)."""
        embedded = torch.stack([self.words[name](index) for name, index in told.items()]).sum(0)
        phrases = self.phrase(embedded) * mentioned[..., None]
        return F.normalize(self.out(phrases.sum(-2) + self.texture(textures)), dim=-1)


class TowerWithHeads(nn.Module):
    """The tower, and what exists only while it is trained."""

    def __init__(self, config: CLIPVisionConfig, joint: int = 96) -> None:
        super().__init__()
        self.tower = CLIPVisionModel(config)
        width = config.hidden_size
        self.captions = Captions(width, joint)
        self.joint = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, joint)) for _ in range(2))
        self.patch_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(HEADS.values())))
        self.temperature = nn.Parameter(torch.tensor(math.log(10.0)))
        self.tower.post_layernorm.requires_grad_(False)
        with torch.no_grad():
            self.tower.embeddings.position_embedding.weight.copy_(place_codes(width, GRID))

    def forward(self, pixels: Tensor, windows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Runs the tower on whole pictures, or on windows of them.

        Args:
            pixels: (B, 3, 112, 112), normalised.
            windows: (B, V, T), the patches of V windows a picture; None for whole pictures.

        Returns:
            The outputs of layer -2 and of the last layer, (B, 1 + P, C) each, or (B V, 1 + T, C).
        """
        hidden = self.tower.embeddings(pixels)
        if windows is not None:
            index = torch.cat([windows.new_zeros(*windows.shape[:2], 1), windows + 1], 2)
            wide = index.flatten(1)[..., None].expand(-1, -1, hidden.shape[-1])
            hidden = hidden.gather(1, wide).view(-1, index.shape[2], hidden.shape[-1])
        hidden = self.tower.pre_layrnorm(hidden)
        outputs = []
        for layer in self.tower.encoder.layers:
            hidden = layer(hidden, None)
            outputs.append(hidden)
        return outputs[-2], outputs[-1]


def draw(rng: np.random.Generator, world: str, split: Split, count: int) -> tuple[Tensor, SceneBatch]:
    """Makes fresh scenes: pixels (B, 3, 112, 112) and what they show."""
    bank = load_bank(split)
    scenes = sample_scenes(rng, bank, world, count)
    return to_pixels(render(rng, scenes, bank, world, split)), scenes


def tell(rng: np.random.Generator, scenes: SceneBatch) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Writes captions: each picture's own, and its own with one word changed, which must not be told from it by luck.

    Returns:
        Words (B, 1 + W, O) by what they tell, whether each thing is mentioned (B, 1 + W, O), textures (B, 1 + W).
    """
    count, copies = len(scenes), 1 + WRONG_CAPTIONS
    names = np.maximum(scenes.names, 0)
    places = 2 * (scenes.cells // 8) + scenes.cells % 4 // 2
    mentioned = rng.random(names.shape) < _MENTIONED[_IS_TEXT[names].astype(int), scenes.sizes]
    mentioned &= scenes.names >= 0
    mentioned[:, 0] |= ~mentioned.any(1)
    told = {"name": names, "colour": scenes.colours, "place": places}
    words = {name: np.repeat(index[:, None], copies, 1) for name, index in told.items()}
    for copy in range(1, copies):
        slot = np.argmax(mentioned * rng.random(names.shape), 1)  # a thing that is mentioned
        for at, (name, size) in enumerate((("name", len(ALL_NAMES)), ("colour", len(COLOURS)), ("place", 4))):
            which = np.flatnonzero(rng.integers(0, 3, count) == at) if at < 2 else np.arange(0)
            step = rng.integers(1, size, count)
            words[name][which, copy, slot[which]] = (words[name][which, copy, slot[which]] + step[which]) % size
        same = np.all([(words[name][:, copy] == told[name]).all(1) for name in words], axis=0)
        words["place"][same, copy, slot[same]] = (places[same, slot[same]] + rng.integers(1, 4, int(same.sum()))) % 4
    return words, np.repeat(mentioned[:, None], copies, 1), np.repeat(scenes.textures[:, None], copies, 1)


def draw_windows(rng: np.random.Generator, scenes: SceneBatch, side: int) -> Tensor:
    """(B, V, side^2): the patches of windows of some pictures, one around each of seven cells, or the four quarters."""
    if side == GRID // 2:
        corners = np.array([[0, 0], [0, side], [side, 0], [side, side]])[None].repeat(len(scenes), 0)
    else:
        order = np.where(scenes.names >= 0, rng.random(scenes.names.shape), 2.0).argsort(1)[:, :7]
        cells = np.take_along_axis(scenes.cells, order, 1)
        corners = np.minimum(np.stack([CELL_START[cells // 4], CELL_START[cells % 4]], 2), GRID - side)
    steps = np.arange(side)
    found = (corners[..., :1, None] + steps[:, None]) * GRID + corners[..., 1:, None] + steps
    return torch.from_numpy(found.reshape(len(scenes), -1, side * side))


def matching_loss(view: Tensor, captions: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss, each picture with its wrong captions among the others.

    Args:
        view: (B, E), unit vectors of pictures.
        captions: (B, 1 + W, E), unit vectors; the first of each picture is right.
        scale: Of the cosines.
    """
    right = torch.arange(len(view))
    among = view @ captions[:, 0].T
    wrong = torch.einsum("be,bwe->bw", view, captions[:, 1:])
    to_text = F.cross_entropy(scale * torch.cat([among, wrong], 1), right)
    return 0.5 * (to_text + F.cross_entropy(scale * among.T, right))


def objective(
    model: TowerWithHeads, pixels: Tensor, scenes: SceneBatch, side: int, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Computes the losses of a step, each of them a scalar; those of captions on whole pictures only."""
    windows = None if side == GRID else draw_windows(rng, scenes, side)
    place = torch.arange(GRID * GRID).repeat(len(scenes)) if windows is None else windows.flatten()
    names, colours, sizes = (_seen(torch.from_numpy(part), windows) for part in patch_targets(scenes))
    textures = _seen(torch.from_numpy(scenes.textures)[:, None].repeat(1, GRID * GRID), windows)
    with torch.autocast("cpu", torch.bfloat16):
        middle, last = model(pixels, windows)
        patches = model.patch_head(middle[:, 1:]).float().flatten(0, 1)
        views = [head(out[:, 0]) for head, out in zip(model.joint, (middle, last), strict=True)]
    heads = dict(zip(HEADS, patches.split(list(HEADS.values()), -1), strict=True))
    thing = names < len(ALL_NAMES)
    weight = torch.where(thing, 1.0, 0.3)  # there are three times as many patches without a thing
    weight = weight / weight.sum()
    targets = {"name": names, "colour": colours, "size": sizes}
    losses = {
        name: (F.cross_entropy(heads[name], target, reduction="none") * weight).sum()
        for name, target in targets.items()
    }
    losses["size"] = 0.5 * losses["size"]
    losses["texture"] = 0.5 * F.cross_entropy(heads["texture"], textures)
    losses["place"] = 0.25 * (
        F.cross_entropy(heads["row"], place // GRID) + F.cross_entropy(heads["col"], place % GRID)
    )
    if windows is not None:
        return losses
    words, mentioned, told_textures = tell(rng, scenes)
    told = {name: torch.from_numpy(index) for name, index in words.items()}
    captions = model.captions(told, torch.from_numpy(mentioned), torch.from_numpy(told_textures))
    scale = model.temperature.exp().clamp(max=100)
    for name, view in zip(("match", "match_last"), views, strict=True):
        losses[name] = 0.5 * matching_loss(F.normalize(view.float(), dim=-1), captions, scale)
    return losses


def _seen(target: Tensor, windows: Tensor | None) -> Tensor:
    """Of targets (B, P) those that windows show, as one row."""
    return (target if windows is None else target.gather(1, windows.flatten(1))).flatten()


@torch.no_grad()
def diagnose(
    model: TowerWithHeads, world: str, split: Split = "dev", count: int = 200, seed: int = 7
) -> dict[str, float]:
    """Measures the tower on scenes that it was not trained on.

    Returns:
        How many patches of things tell their name (by kind and size) and colour; how many pictures find their caption
        among `count`; the share of things of each kind and size that have a patch among the 20 and the 49 patches with
        most attention.
    """
    rng = np.random.default_rng([seed, 1])
    pixels, scenes = draw(rng, world, split, count)
    names, colours, _ = (torch.from_numpy(part) for part in patch_targets(scenes))
    middle, _ = model(pixels)
    heads = dict(zip(HEADS, model.patch_head(middle[:, 1:]).split(list(HEADS.values()), -1), strict=True))
    thing = names < len(ALL_NAMES)
    right = heads["name"].argmax(-1) == names
    found = {"name": right[thing].float().mean().item(), "background": right[~thing].float().mean().item()}
    found["colour"] = (heads["colour"].argmax(-1) == colours)[thing].float().mean().item()
    found["texture"] = (heads["texture"].argmax(-1) == torch.from_numpy(scenes.textures)[:, None]).float().mean().item()
    kind = torch.from_numpy(np.append(KIND_OF, -1))[names]
    size = torch.from_numpy(patch_targets(scenes)[2])
    row = saliency(model.tower, pixels)
    found["attention_on_things"] = ((row * thing).sum() / row.sum()).item()
    for top in (20, 49):
        kept = torch.zeros_like(thing).scatter(1, row.topk(top, 1).indices, True)
        found[f"things_in_{top}"] = (kept & thing).sum().item() / (count * top)
        for index, name in enumerate(KINDS):
            for small in (0, 1):
                part = (kind == index) & (size == small)
                found[f"{SIZES[small]}_{name}_{top}"] = ((kept & part).sum() / part.sum()).item()
                found[f"{SIZES[small]}_{name}"] = right[part].float().mean().item()
    words, mentioned, textures = (
        {n: torch.from_numpy(v) for n, v in part.items()} if isinstance(part, dict) else torch.from_numpy(part)
        for part in tell(rng, scenes)
    )
    captions = model.captions(words, mentioned, textures)[:, 0]
    view = F.normalize(model.joint[0](middle[:, 0]), dim=-1)
    found["match"] = ((view @ captions.T).argmax(1) == torch.arange(count)).float().mean().item()
    return {name: round(value, 3) for name, value in found.items()}


def window_at(progress: float) -> int:
    """The side of the windows, in patches, after a share of the steps."""
    for stage in CURRICULUM:
        if progress < stage.share:
            return stage.window
        progress -= stage.share
    return GRID


def train(arguments: Namespace, model: TowerWithHeads) -> None:
    """Trains on fresh scenes; a second call goes on where the first was stopped."""
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=arguments.lr, weight_decay=0.02, betas=(0.9, 0.98)
    )
    path = arguments.output / "tower_checkpoint.safetensors"
    start = load_state(path, model, optimiser) if path.exists() else 0
    bar = tqdm(range(start, arguments.steps), initial=start, total=arguments.steps, desc="tower", mininterval=10)
    for step in bar:
        torch.manual_seed(arguments.seed * 1_000_003 + step)
        rng = np.random.default_rng([arguments.seed, step])
        pixels, scenes = draw(rng, arguments.world, "train", arguments.batch)
        for group in optimiser.param_groups:
            group["lr"] = rate(step, arguments.steps, arguments.lr)
        losses = objective(model, pixels, scenes, window_at(step / arguments.steps), rng)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 20 == 0:
            bar.set_postfix({k: f"{v.item():.2f}" for k, v in losses.items()})
        if (step + 1) % arguments.save_every == 0 or step + 1 == arguments.steps:
            save_state(path, model, optimiser, step + 1)
            tqdm.write(json.dumps({"step": step + 1, **diagnose(model, arguments.world)}))


def pretrain(arguments: Namespace) -> None:
    """Trains the tower and writes it with its diagnostics."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    model, begin = TowerWithHeads(tower_config(arguments, SIZE, GRID)), time.time()
    train(arguments, model)
    found = diagnose(model, arguments.world, count=500) | {"seconds": round(time.time() - begin)}
    save_tower(arguments.output, model.tower, found, SIZE)
