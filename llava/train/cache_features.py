"""Fills a feature cache before training, each process its share, so that training runs no vision tower.

Only images that the cache does not know, or that changed, are opened; of the others the size and time of change are
looked at. A fill that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from llava.data.cached_dataset import CachedDataset
from llava.data.dataset import LlavaDataset, SampleError
from llava.data.feature_cache import CacheError, FeatureCache, FeatureReader, FeatureWriter, FileStamp, TokenFormat
from llava.data.records import ImageRef, images_of
from llava.images.processing import ImageDecodeError, ImageTooLargeError, load_image, process_images
from llava.images.rules import one_tile_beside_others, turns_photos
from llava.kinds.families import family_of
from llava.model.anyres import TileLayout
from llava.model.multimodal_encoder import selected_depth
from llava.model.used_plugins import records_of, vision_plugins
from llava.model.vision_tokens import VisionTokens

logger = logging.getLogger(__name__)

_FORMAT = 1  # raised when the same key would give other tokens or other bytes
_BATCH = 16  # images that the tower encodes at a time
_STAT_THREADS = 16
_PATIENCE_S = 90  # longer than network file systems keep listings
_GB = 1e9
_TOWER_ENTRIES = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
)


# ----- Filling the cache -------------------------------------------------------


def use_feature_cache(trainer: Any, folder: str | Path) -> None:
    """Fills the cache with the images of a trainer's data, and has the trainer read them from there.

    Every process must call it.

    Args:
        trainer: A `LlavaTrainer`, not yet training.
        folder: Of the cache; made if it is not there. Shared by the processes.

    Raises:
        CacheError: The stage trains the tower, the cache is of something else or cannot be written.
        SampleError: An image is missing or leaves the folder.
    """
    try:
        _use(trainer, folder)
    except OSError as error:
        reason = str(error).strip().splitlines()[-1]  # a loading process puts its traceback before it
        raise CacheError(
            f"--feature_cache {folder}: {reason}; what is in it stays, and the next run goes on"
        ) from error


def _use(trainer: Any, folder: str | Path) -> None:
    model, accelerator = trainer.model.model, trainer.accelerator
    if any(parameter.requires_grad for part in model.vision_parts.values() for parameter in part.parameters()):
        raise CacheError("--feature_cache does not go with a stage that trains the vision tower; drop it")
    bound = model.bound_compressor
    if bound is not None and (bound.budget.tiles != "equal" or bound.is_uneven):
        raise CacheError(f"--feature_cache does not go with compression {model.compression}: its tiles differ; drop it")
    if bound is not None and bound.is_late:
        raise CacheError(
            f"--feature_cache does not go with compression {model.compression}, which chooses among the rows of the "
            "projector that is trained; drop it"
        )
    datasets = [data for data in (trainer.train_dataset, trainer.eval_dataset) if data is not None]
    has_several = any(len(images_of(record)) > 1 for data in datasets for record in data.records)
    if has_several and one_tile_beside_others(model.config):
        raise CacheError(
            f"--feature_cache keeps of an image what it is alone, and a {family_of(model.config).name} gives an image "
            "beside others in one sample other tokens; drop it, or the samples with several images"
        )
    with _whole(model.vision_parts.values(), trainer.args.device), accelerator.autocast():
        layout = token_format(model)
        key = cache_key(model, datasets[0], layout)
        if accelerator.is_main_process:
            FeatureCache(folder, key, layout)  # writes the key
        accelerator.wait_for_everyone()
        cache = FeatureCache(folder, key, layout)
        readers = [_fill(cache, dataset, model, trainer) for dataset in datasets]
    trainer.train_dataset = CachedDataset(trainer.train_dataset, readers[0])
    if trainer.eval_dataset is not None:
        trainer.eval_dataset = CachedDataset(trainer.eval_dataset, readers[1])


# ----- What is stored, and its key ---------------------------------------------


def token_format(model: Any) -> TokenFormat:
    """How the tokens of a tile will be stored; one tile is encoded to find out.

    Args:
        model: `LlavaModel` or `LlavaNextModel`.
    """
    side, tiles = model.picture.side, TileLayout.from_config(model.config)
    with torch.no_grad():
        encoded = model.encode(torch.zeros(1, 3, side, side))
    dtype = next(model.vision_tower.parameters()).dtype
    aspect_ratio = getattr(model.config, "image_aspect_ratio", None) or "anyres"
    return TokenFormat(
        num_tokens=encoded.tokens.shape[1],
        channels=encoded.tokens.shape[2],
        dtype=str(dtype).removeprefix("torch."),
        num_dominant=encoded.num_dominant,
        several_tiles=tiles.own_tiles > 1 or (bool(tiles.pinpoints) and aspect_ratio.startswith("anyres")),
    )


def cache_key(model: Any, dataset: LlavaDataset, layout: TokenFormat) -> dict[str, Any]:
    """All that the tokens of an image depend on, besides its file; to be asked under the autocast of training.

    Args:
        model: As for `token_format`.
        dataset: Says how images are processed.
        layout: Of `token_format`.
    """
    device = next(model.vision_tower.parameters()).device.type
    vision, compression = model.config.vision_config, model.compression
    config, plugins = dataset.image_config, records_of(vision_plugins(model.config, compression))
    return {
        "format": _FORMAT,
        "tower": _fingerprint(model),
        "tower config": {name: getattr(vision, name, None) for name in _TOWER_ENTRIES},
        "layer": model.config.vision_feature_layer,
        "select feature": model.config.vision_feature_select_strategy,
        "compression": None if compression is None else compression.to_dict(),
        "dtype": layout.dtype,
        "autocast": torch.is_autocast_enabled(device),
        "image processor": dataset.image_processor.to_dict(),
        "image_aspect_ratio": getattr(config, "image_aspect_ratio", None),
        "pinpoints": [list(pair) for pair in TileLayout.from_config(config).pinpoints],
        "max pixels": dataset.max_pixels,
        **({"own tiles": model.picture.tiles} if model.picture.tiles > 1 else {}),
        **({"photos": "turned by EXIF"} if turns_photos(config) else {}),
        **({"plugins": plugins} if plugins else {}),
    }


def _fingerprint(model: Any) -> str:
    """A hash of the weights that are run; the tower's layers behind the selected one are not."""
    tower = model.vision_tower
    depth = selected_depth(model.config.vision_feature_layer, model.config.vision_config.num_hidden_layers)
    digest = hashlib.sha256()
    for name, weight in sorted(tower.named_parameters()):
        layer = name.partition("encoder.layers.")[2].partition(".")[0]
        if "post_layernorm" in name or (layer and int(layer) >= depth) or name.startswith("head."):
            continue
        digest.update(f"{name.removeprefix('vision_model.')} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    for part in model.vision_parts.values():  # what a family has beside the tower
        for name, weight in sorted(part.named_parameters()) if part is not tower else ():
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _whole(parts: Iterable[torch.nn.Module], device: torch.device) -> Iterator[None]:
    """Modules on the device, gathered where ZeRO-3 has split them."""
    parts = list(parts)
    parameters = [parameter for part in parts for parameter in part.parameters()]
    gathered: AbstractContextManager[Any] = nullcontext()
    if any(hasattr(parameter, "ds_id") for parameter in parameters):
        import deepspeed

        gathered = deepspeed.zero.GatheredParameters(parameters)
    else:
        for part in parts:
            part.to(device)
    with gathered:
        yield


# ---- what is missing ----


def stamps_of(dataset: LlavaDataset, images: Mapping[str, ImageRef]) -> dict[str, FileStamp]:
    """By which images are recognised, by name, unopened; those of a table by its own size and time of change."""

    def stamp(image: ImageRef) -> FileStamp:
        if isinstance(image, str):
            return FileStamp.of(dataset.path_of(image))
        return FileStamp(image.name, image.num_bytes, image.mtime_ns)

    with ThreadPoolExecutor(_STAT_THREADS) as threads:
        return dict(zip(images, threads.map(stamp, images.values()), strict=True))


def _images_by_name(dataset: LlavaDataset) -> dict[str, ImageRef]:
    images = (image for record in dataset.records for image in images_of(record))
    return {image if isinstance(image, str) else image.name: image for image in images}


@dataclass(frozen=True)
class _Plan:
    """What one process finds out for all: the files of a dataset, and the names of those to be opened."""

    stamps: dict[str, FileStamp]
    unknown: list[str]


def _plan(cache: FeatureCache, dataset: LlavaDataset) -> _Plan:
    """Looks at the files.

    Raises:
        SampleError: One is missing that the cache does not know either.
        CacheError: The disk is too small.
    """
    stamps = stamps_of(dataset, _images_by_name(dataset))
    unknown = cache.lacks(stamps)
    missing = next((name for name in unknown if stamps[name].is_gone), None)
    if missing is not None:
        record = next(record for record in dataset.records if missing in images_of(record))
        message = f"image {dataset.path_of(missing)} of sample {record.get('id')!r} does not exist"
        raise SampleError(message, "missing image")
    gone = [name for name, stamp in stamps.items() if stamp.is_gone]
    if gone:
        logger.warning("%d images are gone, %s among them; their cached tokens are used", len(gone), gone[0])
    logger.info("--feature_cache %s: %d of %d images are to be computed", cache.folder, len(unknown), len(stamps))
    if unknown:
        _check_disk(cache, dataset, len(unknown))
    return _Plan(stamps, unknown)


def _agree(accelerator: Any, find: Callable[[], _Plan]) -> _Plan:
    """What the first process finds, or fails with, on all of them: another job may be filling the same folder."""
    found: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            found = [find()]
        except ValueError as error:
            found = [error]
    broadcast_object_list(found)
    if isinstance(found[0], ValueError):
        raise found[0]
    plan: _Plan = found[0]
    return plan


def _fill(cache: FeatureCache, dataset: LlavaDataset, model: Any, trainer: Any) -> FeatureReader:
    """Computes what the cache lacks of a dataset, this process's share of it."""
    accelerator = trainer.accelerator
    plan = _agree(accelerator, lambda: _plan(cache, dataset))
    if plan.unknown:
        share = plan.unknown[accelerator.process_index :: accelerator.num_processes]
        images = _images_by_name(dataset)
        loader = DataLoader(
            _Unseen([(images[name], plan.stamps[name]) for name in share], dataset, frozenset(cache.contents)),
            batch_size=_BATCH,
            num_workers=trainer.args.dataloader_num_workers,
            collate_fn=list,
            generator=torch.Generator(),  # training's own draws stay as they are without a cache
        )
        writer = FeatureWriter(cache)
        done: set[str] = set()
        with tqdm(total=len(share), unit="image", desc="vision tokens", disable=_is_quiet(trainer)) as bar:
            for batch in loader:
                _add(writer, batch, done, model)
                bar.update(len(batch))
        writer.close()
        accelerator.wait_for_everyone()
    _await(cache, plan)
    return cache.reader(plan.stamps)


def _await(cache: FeatureCache, plan: _Plan) -> None:
    """Reads what the other processes wrote; a shared file system may show it late.

    Raises:
        CacheError: It does not show.
    """
    deadline = time.monotonic() + _PATIENCE_S
    cache.refresh()
    while lacking := cache.lacks(plan.stamps):
        if time.monotonic() > deadline:
            raise CacheError(
                f"--feature_cache {cache.folder}: tokens of {len(lacking)} images, {lacking[0]} among them, are not to "
                "be seen from this process; all nodes must share the folder"
            )
        time.sleep(1)
        cache.refresh()


def _is_quiet(trainer: Any) -> bool:
    return trainer.args.disable_tqdm or not trainer.accelerator.is_local_main_process


def _check_disk(cache: FeatureCache, dataset: LlavaDataset, num_images: int) -> None:
    """Says what the images will take.

    Raises:
        CacheError: The disk has less.
    """
    layout = TileLayout.from_config(dataset.image_config)
    tiles = layout.own_tiles
    if layout.pinpoints and cache.layout.several_tiles:
        tiles += max((w // layout.tile_size) * (h // layout.tile_size) for w, h in layout.pinpoints)
    needed = num_images * tiles * cache.layout.bytes_per_tile
    free = shutil.disk_usage(cache.folder).free
    text = f"{num_images} images take at most {needed / _GB:.3g} GB, {free / _GB:.3g} GB are free"
    logger.info("--feature_cache %s: %s", cache.folder, text)
    if needed > free:
        raise CacheError(f"--feature_cache {cache.folder}: {text}; name a folder on a larger disk, or free some space")


# ---- what is computed ----


@dataclass(frozen=True)
class _Opened:
    """A file that was opened; `pixels` are absent if its content is known or cannot be decoded."""

    stamp: FileStamp
    content: str
    size: tuple[int, int] = (0, 0)
    pixels: Tensor | None = None
    problem: str = ""


class _Unseen(Dataset[_Opened]):
    """Reads, hashes and decodes the images that a cache does not know."""

    def __init__(
        self, images: Sequence[tuple[ImageRef, FileStamp]], dataset: LlavaDataset, known: frozenset[str]
    ) -> None:
        self.images = images
        self.dataset = dataset
        self.known = known

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> _Opened:
        (image, stamp), dataset = self.images[index], self.dataset
        found = dataset.encoded(image, None)
        file = found.read_bytes() if isinstance(found, Path) else found
        content = hashlib.sha256(file).hexdigest()
        if content in self.known:
            return _Opened(stamp, content)
        try:
            decoded = load_image(file, dataset.max_pixels, dataset.image_config, dataset.image_processor)
        except ImageTooLargeError:
            return _Opened(stamp, content, problem="image too large")
        except ImageDecodeError:
            return _Opened(stamp, content, problem="undecodable image")
        pixels = process_images([decoded], dataset.image_processor, dataset.image_config, dataset.max_pixels)[0]
        return _Opened(stamp, content, decoded.size, pixels)


@torch.no_grad()
def _add(writer: FeatureWriter, batch: Sequence[_Opened], done: set[str], model: Any) -> None:
    """Sees the images of a batch whose content is new, and writes all."""
    fresh = {item.content: item for item in batch if item.pixels is not None and item.content not in done}
    seen: Mapping[str, tuple[VisionTokens, tuple[int, int]]] = {}
    if fresh:
        images = [item.pixels for item in fresh.values() if item.pixels is not None]
        tiles = [image if image.dim() == 4 else image.unsqueeze(0) for image in images]
        counts = [len(image) for image in tiles]
        tokens = model.encode(torch.cat(tiles))
        counts = list(tokens.counts or counts)  # of pictures that the model makes several tiles of
        split = tokens.tokens.split(counts)
        where = [None] * len(counts) if tokens.positions is None else tokens.positions.split(counts)
        seen = {
            content: (VisionTokens(own, None, positions), item.size)
            for (content, item), own, positions in zip(fresh.items(), split, where, strict=True)
        }
    done.update(fresh)
    problems = {item.content: item.problem for item in batch if item.problem}
    writer.add(seen, problems, [(item.stamp, item.content) for item in batch])
