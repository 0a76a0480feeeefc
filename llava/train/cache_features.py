"""`--feature_cache`: a store of the stage `tower`, filled before training, so that training runs no vision tower.

Only images that the store does not know, or that changed, are opened; of the others the size and time of change are
looked at. A fill that was interrupted goes on where it stopped, and one that `llava store build` has made is read.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from llava.data.cached_dataset import CachedDataset
from llava.data.dataset import LlavaDataset, SampleError
from llava.data.records import ImageRef, images_of
from llava.encoded.errors import StoreError
from llava.encoded.index import FileStamp
from llava.encoded.made_with import ModelFacts
from llava.encoded.manifest import MANIFEST
from llava.encoded.serving import NamedImages, kept_under
from llava.encoded.store import EncodedStore, make_store
from llava.encoded.writer import StoreWriter
from llava.images.rules import one_tile_beside_others
from llava.kinds.families import family_of
from llava.model.anyres import TileLayout
from llava.store.encoder import Encoder, new_layout
from llava.store.fill import NamedFile, Opening, fill
from llava.store.refusals import check_storable

logger = logging.getLogger(__name__)

_STAT_THREADS = 16
_PATIENCE_S = 90  # longer than network file systems keep listings
_GB = 1e9


# ----- Filling the store -------------------------------------------------------


def use_feature_cache(trainer: Any, folder: str | Path) -> None:
    """Fills the store with the images of a trainer's data, and has the trainer read them from there.

    Every process must call it.

    Args:
        trainer: A `LlavaTrainer`, not yet training.
        folder: Of the store; made if it is not there. Shared by the processes.

    Raises:
        StoreError: The stage trains the tower, the store is of something else or cannot be written.
        SampleError: An image is missing or leaves the folder.
    """
    try:
        _use(trainer, Path(folder))
    except StoreError as error:
        raise type(error)(f"--feature_cache {error}") from error
    except OSError as error:
        reason = str(error).strip().splitlines()[-1]  # a loading process puts its traceback before it
        raise StoreError(
            f"--feature_cache {folder}: {reason}; what is in it stays, and the next run goes on"
        ) from error


def _use(trainer: Any, folder: Path) -> None:
    model, accelerator = trainer.model.model, trainer.accelerator
    datasets = [data for data in (trainer.train_dataset, trainer.eval_dataset) if data is not None]
    check_stage(model, datasets)
    first = datasets[0]
    with _whole(model.vision_parts.values(), trainer.args.device), accelerator.autocast():
        layout = new_layout(model, "tower")
        facts = ModelFacts(model, first.image_processor, first.image_config, first.max_pixels)
        make = partial(make_store, folder, layout, facts.parts("tower"))
        if accelerator.is_main_process and not (folder / MANIFEST).is_file():
            make()
        accelerator.wait_for_everyone()
        store = make()
        readers = [_fill(store, dataset, model, trainer) for dataset in datasets]
    trainer.train_dataset = CachedDataset(trainer.train_dataset, readers[0])
    if trainer.eval_dataset is not None:
        trainer.eval_dataset = CachedDataset(trainer.eval_dataset, readers[1])


def check_stage(model: Any, datasets: list[LlavaDataset]) -> None:
    """Refuses what cannot be trained from stored tokens.

    Raises:
        StoreError: The tower is trained, or what is made of an image is not known before its sample is.
    """
    if any(parameter.requires_grad for part in model.vision_parts.values() for parameter in part.parameters()):
        raise StoreError("does not go with a stage that trains the vision tower; drop it")
    try:
        check_storable(model, "tower")
    except StoreError as error:
        raise StoreError(f"does not go with this budget, drop it: {error}") from error
    has_several = any(len(images_of(record)) > 1 for data in datasets for record in data.records)
    if has_several and one_tile_beside_others(model.config):
        raise StoreError(
            f"keeps of an image what it is alone, and a {family_of(model.config).name} gives an image beside others in "
            "one sample other tokens; drop it, or the samples with several images"
        )


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


def _plan(store: EncodedStore, dataset: LlavaDataset) -> _Plan:
    """Looks at the files.

    Raises:
        SampleError: One is missing that the store does not know either.
        StoreError: The disk is too small.
    """
    stamps = stamps_of(dataset, _images_by_name(dataset))
    unknown = store.index.lacks(stamps)
    missing = next((name for name in unknown if stamps[name].is_gone), None)
    if missing is not None:
        record = next(record for record in dataset.records if missing in images_of(record))
        message = f"image {dataset.path_of(missing)} of sample {record.get('id')!r} does not exist"
        raise SampleError(message, "missing image")
    gone = [name for name, stamp in stamps.items() if stamp.is_gone]
    if gone:
        logger.warning("%d images are gone, %s among them; their stored tokens are used", len(gone), gone[0])
    logger.info("--feature_cache %s: %d of %d images are to be computed", store.folder, len(unknown), len(stamps))
    if unknown:
        _check_disk(store, dataset, len(unknown))
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


def _fill(store: EncodedStore, dataset: LlavaDataset, model: Any, trainer: Any) -> NamedImages:
    """Computes what the store lacks of a dataset, this process's share of it."""
    accelerator = trainer.accelerator
    plan = _agree(accelerator, lambda: _plan(store, dataset))
    if plan.unknown:
        share = plan.unknown[accelerator.process_index :: accelerator.num_processes]
        images = _images_by_name(dataset)
        files = [NamedFile(plan.stamps[name], partial(dataset.encoded, images[name], None)) for name in share]
        with StoreWriter(store, sweeps=accelerator.is_main_process) as writer:
            fill(
                writer,
                files,
                Encoder(model, store.layout),
                Opening(dataset.image_processor, dataset.image_config, dataset.max_pixels),
                known=frozenset(store.index.contents),
                workers=trainer.args.dataloader_num_workers,
                quiet=_is_quiet(trainer),
            )
        accelerator.wait_for_everyone()
    _await(store, plan)
    return NamedImages.of(store, plan.stamps, kept_under(store, model))


def _await(store: EncodedStore, plan: _Plan) -> None:
    """Reads what the other processes wrote; a shared file system may show it late.

    Raises:
        StoreError: It does not show.
    """
    deadline = time.monotonic() + _PATIENCE_S
    store.index.refresh()
    while lacking := store.index.lacks(plan.stamps):
        if time.monotonic() > deadline:
            raise StoreError(
                f"{store.folder}: tokens of {len(lacking)} images, {lacking[0]} among them, are not to be seen from "
                "this process; all nodes must share the folder"
            )
        time.sleep(1)
        store.index.refresh()


def _is_quiet(trainer: Any) -> bool:
    return trainer.args.disable_tqdm or not trainer.accelerator.is_local_main_process


def _check_disk(store: EncodedStore, dataset: LlavaDataset, num_images: int) -> None:
    """Says what the images will take.

    Raises:
        StoreError: The disk has less.
    """
    tiles, held = TileLayout.from_config(dataset.image_config), store.layout
    most = tiles.own_tiles
    if tiles.pinpoints and held.several_tiles:
        most += max((w // tiles.tile_size) * (h // tiles.tile_size) for w, h in tiles.pinpoints)
    needed = num_images * most * (held.tokens or 0) * held.bytes_per_row
    free = shutil.disk_usage(store.folder).free
    text = f"{num_images} images take at most {needed / _GB:.3g} GB, {free / _GB:.3g} GB are free"
    logger.info("--feature_cache %s: %s", store.folder, text)
    if needed > free:
        raise StoreError(f"{store.folder}: {text}; name a folder on a larger disk, or free some space")
