"""Checkpoints on disk or on the Hub: which files there are, and their tensors."""

from __future__ import annotations

import logging
import re
import zipfile
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llava.entry_types import shown
from llava.model.checkpoints.stored_tensor import SAFETENSORS_DTYPES, StoredTensor
from llava.plain_files import expanded
from llava.plain_loading import reason
from llava.small_files import CheckpointError, check_content, optional_json, read_json

logger = logging.getLogger(__name__)

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TRAINED_FILE = "trained.safetensors"  # in a checkpoint of a run: what was trained, by the module's names
_SMALL_FILES = ["*.json", "*.model", "*.txt", "*.jinja"]
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")
_PROJECTORS = ("mm_projector.safetensors", "mm_projector.bin")


def take_hub_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Takes the Hub's options, and what says nothing here, out of the keywords of a `from_pretrained`."""
    if kwargs.pop("trust_remote_code", False):
        logger.warning("trust_remote_code=True has no effect: code of a checkpoint is never run")
    return {name: kwargs.pop(name) for name in _HUB_OPTIONS if name in kwargs}


def resolve_checkpoint(path_or_repo: str | Path, *, weights: bool = True, **hub_options: Any) -> Path:
    """The folder of a checkpoint: itself if it exists, else downloaded from the Hub (or found in its cache).

    Args:
        path_or_repo: A folder, or `organisation/name` on the Hub.
        weights: Whether they are needed; without, configs and tokenizer alone are downloaded.
        **hub_options: For `huggingface_hub.snapshot_download`: `revision`, `cache_dir`, `token`, ...

    Raises:
        CheckpointError: It is neither a folder nor a repository that can be had.
    """
    folder = expanded(path_or_repo)
    if folder.is_dir():
        return folder
    name = str(path_or_repo)
    if _REPOSITORY.fullmatch(name) is None or folder.exists():
        raise CheckpointError(f"{name}: there is no such folder")
    from huggingface_hub import snapshot_download

    try:
        if not weights:
            return Path(snapshot_download(name, allow_patterns=_SMALL_FILES, **hub_options))
        folder = Path(snapshot_download(name, allow_patterns=[*_SMALL_FILES, "*.safetensors"], **hub_options))
        is_adapter = (folder / "adapter_config.json").is_file()  # LLaVA's have a .bin beside their safetensors
        if is_adapter or not any(folder.glob("*.safetensors")):  # LLaVA-1.5 and Vicuna are published as .bin only
            folder = Path(snapshot_download(name, allow_patterns=[*_SMALL_FILES, "*.bin"], **hub_options))
    except Exception as error:  # the Hub's own errors, those of its HTTP library, and the disk's
        raise CheckpointError(f"{name}: there is no such folder, and the Hub did not give it: {error}") from error
    return folder


def projector_file(folder: Path) -> Path | None:
    """The file of a folder that holds a projector alone, if there is one."""
    return next((folder / name for name in _PROJECTORS if (folder / name).is_file()), None)


def weight_files(folder: Path) -> list[Path]:
    """The files of the whole model, safetensors preferred; empty if there are none.

    Raises:
        CheckpointError: An index names a shard that is missing.
    """
    for index_name, single in zip(_INDEXES, _WEIGHTS, strict=True):
        if (folder / index_name).is_file():
            entries = read_json(folder / index_name).get("weight_map")
            if not entries:
                raise CheckpointError(f"{folder / index_name}: weight_map is missing or empty")
            shards = sorted({folder / name for name in entries.values()})
            missing = [shard.name for shard in shards if not shard.is_file()]
            if missing:
                raise CheckpointError(f"{folder}: {index_name} names shards that are not there: {', '.join(missing)}")
            return shards
        if (folder / single).is_file():
            return [folder / single]
    return []


def open_tensors(files: list[Path], *, mapped: bool = False) -> dict[str, StoredTensor]:
    """What safetensors files or legacy `.bin` files (weights only) hold; each tensor is read when it is asked for.

    Args:
        files: Whole models, or shards of one.
        mapped: Give tensors that are mapped from the files: they take no memory of their own, and change with the file.

    Raises:
        CheckpointError: A file is damaged, or holds more than dense tensors of plain numbers by name.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        check_content(file)
        try:
            shard = _open_safetensors(file, mapped) if file.suffix == ".safetensors" else _open_bin(file, mapped)
        except CheckpointError:
            raise
        except UnpicklingError as error:
            raise CheckpointError(
                f"{file}: cannot be read as tensors: it is damaged, or holds other things, which a pickle runs code for"
            ) from error
        except Exception as error:
            raise CheckpointError(
                f"{file}: cannot be read as tensors: {reason(error)}; was its download cut off?"
            ) from error
        repeated = sorted(set(shard) & set(tensors))
        if repeated:
            raise CheckpointError(f"{file}: holds tensors that another shard holds too: {', '.join(repeated[:5])}")
        tensors.update(shard)
    return tensors


def read_tensors(files: list[Path]) -> dict[str, Tensor]:
    """Reads all tensors of files at once; see `open_tensors`."""
    return {name: tensor.read() for name, tensor in open_tensors(files).items()}


def _open_safetensors(file: Path, mapped: bool) -> dict[str, StoredTensor]:
    reader = safe_open(file, framework="pt", backend="mmap" if mapped else "pread")  # open as long as a tensor needs it
    found = {}
    for name in reader.keys():  # noqa: SIM118
        if mapped:
            found[name] = StoredTensor.of(reader.get_tensor(name))
        else:
            entry = reader.get_slice(name)
            dtype = SAFETENSORS_DTYPES.get(entry.get_dtype())
            if dtype is None:
                raise CheckpointError(f"{file}: {name} is of dtype {entry.get_dtype()}, which no model here has")
            found[name] = StoredTensor(tuple(entry.get_shape()), dtype, partial(_read_one, reader, file, name))
    return found


def _read_one(reader: Any, file: Path, name: str) -> tuple[Tensor]:
    try:
        return (reader.get_tensor(name),)
    except (SafetensorError, OSError) as error:  # it was whole when it was opened
        raise CheckpointError(f"{file}: {name} cannot be read: {error}. Has the file changed meanwhile?") from error


def _open_bin(file: Path, mapped: bool) -> dict[str, StoredTensor]:
    lies_open = _lies_open(file)
    if mapped or not lies_open:
        tensors = _only_tensors(torch.load(file, map_location="cpu", weights_only=True, mmap=lies_open), file)
        return {name: StoredTensor.of(tensor) for name, tensor in tensors.items()}
    tensors = _only_tensors(torch.load(file, map_location="meta", weights_only=True), file)
    return {
        name: StoredTensor(tuple(tensor.shape), tensor.dtype, partial(_read_bin, file, name, tensor))
        for name, tensor in tensors.items()
    }


def _lies_open(file: Path) -> bool:
    """Whether the bytes of each tensor stand in the file as they are, so that one can be read without the others.

    torch's older format is no archive, and one that was packed again with zip is compressed.
    """
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def _only_tensors(content: Any, file: Path) -> dict[str, Tensor]:
    """What a `.bin` holds, if that is tensors by name.

    Raises:
        CheckpointError: It is something else; the message names the entry.
    """
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, and must hold tensors by name")
    for name, value in content.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{file}: {shown(name)} names a tensor, and names must be texts")
        if not isinstance(value, Tensor):
            inside = "; save what it holds as the file's content" if isinstance(value, dict) else ""
            raise CheckpointError(f"{file}: {name} is a {type(value).__name__}, and must be a tensor{inside}")
        if value.layout != torch.strided or value.is_quantized or value.is_complex():
            kind = value.dtype if value.layout == torch.strided else value.layout
            raise CheckpointError(f"{file}: {name} is a tensor of {kind}, and must be a dense one of plain numbers")
    return content


def _read_bin(file: Path, name: str, place: Tensor) -> tuple[Tensor]:
    """Reads what a tensor on the meta device stands for; torch notes where in the file its storage begins."""
    storage: Any = place.untyped_storage()
    content = torch.empty(storage.nbytes(), dtype=torch.uint8)
    with file.open("rb") as stream:
        stream.seek(storage._checkpoint_offset)
        if stream.readinto(memoryview(content.numpy())) < len(content):  # type: ignore[arg-type]
            raise CheckpointError(f"{file}: ends in the middle of {name}. Has the file changed meanwhile?")
    tensor = torch.empty(0, dtype=place.dtype)
    tensor.set_(content.untyped_storage(), place.storage_offset(), place.shape, place.stride())
    return (tensor if tensor.nbytes == len(content) else tensor.clone(),)


_NAMES_OF_FOLDERS = ("mm_vision_tower", "mm_vision_tower_aux", "vision_tower", "base_model_name_or_path")


def folders_read(*named: str | Path | None) -> list[Path]:
    """The folders of this machine that are read with a checkpoint: its own, its bases', their vision towers'.

    Args:
        *named: Folders, or repositories on the Hub, such as adapters and the base for them; None counts for nothing.
    """
    given = [expanded(path) for path in named if path is not None]
    folders = [folder for folder in given if folder.is_dir()]
    for folder in folders:  # which grows
        entries = optional_json(folder, "config.json")
        names = [entries.get(name) for name in _NAMES_OF_FOLDERS]
        names.append(optional_json(folder, "adapter_config.json").get("base_model_name_or_path"))
        for name in [name for name in names if isinstance(name, str) and name]:
            places = (folder / name, expanded(name))
            folders += [place for place in places if place.is_dir() and place not in folders]
    return folders


__all__ = [
    "TRAINED_FILE",
    "CheckpointError",
    "folders_read",
    "open_tensors",
    "projector_file",
    "read_json",
    "read_tensors",
    "resolve_checkpoint",
    "take_hub_options",
    "weight_files",
]
