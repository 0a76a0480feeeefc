"""Writes safetensors tensor by tensor: never more than one tensor in memory, whatever the size of the model.

The file format (https://github.com/huggingface/safetensors): eight bytes with the length of a JSON header, little
endian; the header, padded with spaces; the tensors' bytes, to which the header gives offsets.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory

from llava.hub.json_file import write_json
from llava.model.checkpoints.stored_tensor import SAFETENSORS_DTYPES, StoredTensor, is_finite

INDEX = "model.safetensors.index.json"
# Eight-bit floats are read, never released.
_DTYPES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items() if not name.startswith("F8")}
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_BLOCK = 16 * 2**20  # bytes that are hashed and written at a time

Shard = dict[str, StoredTensor]


def parse_size(size: int | str) -> int:
    """Bytes of `5GB`, `200MB`, `1GiB` or a number.

    Raises:
        ValueError: It is none of these, or not positive.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?B)?", str(size).strip().upper())
    if match is None or (number := int(float(match[1]) * _UNITS[match[2] or "B"])) < 1:
        raise ValueError(f"max_shard_size {size!r} is not a size; say 5GB, 200MB or a number of bytes")
    return number


def plan_shards(tensors: Mapping[str, StoredTensor], max_bytes: int) -> dict[str, Shard]:
    """Distributes tensors over files, in their order; a tensor larger than a file's limit gets a file of its own.

    Args:
        tensors: By the names they will have.
        max_bytes: Limit of a file.

    Returns:
        The tensors of each file by the file's name, as transformers names them.
    """
    split = split_state_dict_into_shards_factory(
        dict(tensors),
        get_storage_size=lambda tensor: tensor.num_bytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_bytes,
    )
    return {file: {name: tensors[name] for name in names} for file, names in split.filename_to_tensors.items()}


def write_shards(folder: Path, shards: Mapping[str, Shard], advance: Callable[[int], Any]) -> dict[str, str]:
    """Writes the files of `plan_shards`, and their index if there are several.

    Args:
        folder: Where to.
        shards: From `plan_shards`.
        advance: Called with the bytes written since the last call.

    Returns:
        SHA-256 of each file of tensors.
    """
    digests = {name: write_safetensors(folder / name, shard, advance) for name, shard in shards.items()}
    if len(shards) > 1:
        total = sum(tensor.num_bytes for shard in shards.values() for tensor in shard.values())
        where = {name: file for file, shard in shards.items() for name in shard}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        write_json(folder / INDEX, index, sort_keys=False)
    return digests


def write_safetensors(file: Path, tensors: Shard, advance: Callable[[int], Any] = lambda _: None) -> str:
    """Writes one file.

    Args:
        file: To write.
        tensors: Read one after another.
        advance: Called with the bytes written since the last call.

    Returns:
        Its SHA-256.

    Raises:
        ValueError: A tensor has a dtype that the format does not have, or numbers that are not finite.
    """
    # Wide dtypes first: then every tensor begins at a multiple of its own width.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered:
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{file.name}: {name} is {tensor.dtype}, which is not written here")
        begin, end = end, end + tensor.num_bytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    digest = hashlib.sha256()
    with file.open("wb") as stream:
        for block in (len(head).to_bytes(8, "little"), head):
            digest.update(block)
            stream.write(block)
        for name, tensor in ordered:
            written = 0
            for block in _blocks(f"{file.name}: {name}", tensor):
                digest.update(block)
                stream.write(block)
                advance(len(block))
                written += len(block)
            if written != tensor.num_bytes:
                raise ValueError(f"{file.name}: {name} has {written} bytes, {tensor.num_bytes} were announced")
        stream.flush()
        os.fsync(stream.fileno())
    return digest.hexdigest()


def _blocks(where: str, tensor: StoredTensor) -> Any:
    for piece in tensor.pieces():
        if not is_finite(piece):
            raise ValueError(f"{where} holds numbers that are not finite (NaN or infinity): its source is damaged")
        if piece.dtype != tensor.dtype:
            raise ValueError(f"a piece is {piece.dtype}, {tensor.dtype} was announced")
        data: Any = memoryview(piece.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
        for start in range(0, len(data), _BLOCK):
            yield data[start : start + _BLOCK]
