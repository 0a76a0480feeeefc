"""The files of a folder that is to be published, and what they must not be: pickles, optimizer states, archives.

A file is judged by its bytes; its name can only add a reason.
"""

from __future__ import annotations

import json
import pickletools
import re
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from llava.model.checkpoints.stored_tensor import is_finite

_LEFT_OUT = {".git", ".cache"}  # git's own, and what huggingface_hub notes beside downloads
_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".pdparams"}
_ARCHIVES = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf": "7z",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x02\x21\x4c\x18": "lz4",
    b"Rar!\x1a\x07": "rar",
}
_CODE_SUFFIXES = {
    ".py",
    ".pyc",
    ".pyo",
    ".pyd",
    ".ipynb",
    ".so",
    ".dll",
    ".dylib",
    ".exe",
    ".sh",
    ".bat",
    ".js",
}
_PROGRAMS = (b"\x7fELF", b"MZ\x90", b"\xfe\xed\xfa", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"#!")
_RUNS_CODE = ("auto_map", "custom_pipelines", "custom_generate")
_JSON_PARSED_BYTES = 2**25
_BINARY = r"(pt|pth|bin|pkl|pickle|ckpt|npz|npy|safetensors|distcp|msgpack|h5)$"
_STATE_FILES = re.compile(
    rf"(^|[._-])(optimizer|scheduler|scaler|rng_state|random_states)([._-].*)?\.{_BINARY}"
    rf"|(zero_pp_rank|_optim_states|^bf16_zero_|^mp_rank_\d).*\.{_BINARY}"
    r"|^trainer_state\.json$|^events\.out\.tfevents\.",
    re.I,
)
_STATE_FOLDERS = re.compile(r"global_step\d*|optimizer_\d+")
_OPTIMIZER_TENSORS = re.compile(r"(^|[._])(exp_avg|exp_avg_sq|momentum_buffer|max_exp_avg_sq)($|[._])")
_IMPORTS = {"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}
_CALLS = {"REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"}
_PICKLE_PARSED_BYTES = 2**25  # of a larger file the head decides
_OBJECTS = re.compile(rb"'descr': *'[|<>=]?O")


@dataclass(frozen=True)
class ReleaseFile:
    """A file.

    Attributes:
        path: Where it lies.
        name: Its name in the repository.
        size: Bytes.
    """

    path: Path
    name: str
    size: int


def is_weights(name: str) -> bool:
    """Whether loaders take a file, by its name, for weights, their index or adapters' settings."""
    name = name.rpartition("/")[2].lower()
    return name.endswith((".safetensors", ".bin", ".index.json")) or name == "adapter_config.json"


def list_files(folder: Path) -> list[ReleaseFile]:
    """Every file that would be sent, by name; git's folder and huggingface_hub's notes are none of them.

    Raises:
        ValueError: The folder is not there, is empty, or holds a link to a folder or one that leads nowhere.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    files = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not _LEFT_OUT.isdisjoint(name.parts):
            continue
        if path.is_dir():
            if path.is_symlink():
                raise ValueError(
                    f"{path}: is a link to a folder, which would not be sent; put the files themselves there"
                )
            continue
        if not path.is_file():
            raise ValueError(f"{path}: is no file, or a link that leads nowhere; remove it")
        files.append(ReleaseFile(path, name.as_posix(), path.stat().st_size))
    if not files:
        raise ValueError(f"{folder}: holds no file")
    return files


def forbidden_content(file: ReleaseFile) -> str | None:
    """Why a file may not be published, by what it is; None if it may."""
    *folders, name = file.name.split("/")
    if _STATE_FILES.search(name) or any(_STATE_FOLDERS.fullmatch(folder) for folder in folders):
        return "state of an optimizer or of a run, not of the model"
    with file.path.open("rb") as stream:
        head = stream.read(2**16)
    if pickled := _pickle(file, head):
        return f"{pickled}; loading it runs what it says: write safetensors instead"
    kind = next((kind for magic, kind in _ARCHIVES.items() if head.startswith(magic)), None)
    if kind := kind or ("a tar archive" if _is_tar(file.path) else None):
        return f"{kind}: what is in it is not checked; unpack it"
    optimizer = next((name for name in _tensor_names(file.path) if _OPTIMIZER_TENSORS.search(name)), None)
    if optimizer:
        return f"state of an optimizer: it holds {optimizer}"
    broken = first_not_finite(file.path)
    return (
        f"{broken} holds numbers that are not finite (NaN or infinity): such a model answers nothing"
        if broken
        else None
    )


def names_code(file: ReleaseFile) -> str | None:
    """Why a file may not be published: it is code, or tells loaders to run some; None if neither."""
    with file.path.open("rb") as stream:
        head = stream.read(4)
    if Path(file.name).suffix.lower() in _CODE_SUFFIXES or head.startswith(_PROGRAMS):
        return "code, which a checkpoint needs none of: loaders that trust it would run it"
    if not file.name.endswith(".json") or file.size > _JSON_PARSED_BYTES:
        return None
    try:
        content = json.loads(file.path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        return None  # another check's matter
    entry = next((name for name in _RUNS_CODE if _has_entry(content, name)), None)
    return None if entry is None else f"its entry {entry} tells loaders to run code of the repository; remove it"


def _has_entry(content: object, name: str) -> bool:
    """Whether an object of a JSON text has an entry, at any depth."""
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if name in value:
                return True
            left += value.values()
        elif isinstance(value, list):
            left += value
    return False


def safetensors_header(path: Path) -> str:
    """The header of a safetensors file, which may hold text of any kind; empty for another file."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 2 <= size <= min(path.stat().st_size, 10**8):
            return ""
        head = stream.read(size)
    return head.decode("utf-8", errors="replace") if head.startswith(b"{") else ""


def tensor_bytes(path: Path) -> tuple[int, int]:
    """Where the tensors of a safetensors file begin and end; nowhere, at its end, for another file."""
    size = path.stat().st_size
    try:
        header = safetensors_header(path)
        start = 8 + len(header.encode())
        ends = [int(entry["data_offsets"][1]) for name, entry in json.loads(header).items() if name != "__metadata__"]
    except (ValueError, TypeError, LookupError, AttributeError):  # it is none, or damaged: all of it is looked at
        return size, size
    return start, min(size, start + max(ends, default=0))


def _is_tar(path: Path) -> bool:
    """Whether a file begins as a tar archive, whose blocks are of 512 bytes."""
    with path.open("rb") as stream:
        block = stream.read(512)
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _tensor_names(path: Path) -> Iterator[str]:
    try:
        header = json.loads(safetensors_header(path) or "{}")
    except ValueError:
        return
    yield from header


def first_not_finite(path: Path) -> str | None:
    """The first tensor of a safetensors file that is not finite; None of another file, or a damaged one."""
    if not safetensors_header(path):
        return None
    with suppress(SafetensorError), safe_open(path, framework="pt") as reader:
        return next((name for name in reader.keys() if not is_finite(reader.get_tensor(name))), None)  # noqa: SIM118
    return None


def _pickle(file: ReleaseFile, head: bytes) -> str | None:
    """What makes a file a pickle, or part of one."""
    if head.startswith(b"PK\x03\x04") and zipfile.is_zipfile(file.path):
        with zipfile.ZipFile(file.path) as archive:
            for member in archive.infolist():
                with archive.open(member) as stream:
                    inner = stream.read(2**12)
                if member.filename.endswith(".pkl") or _is_pickle_head(inner) or _OBJECTS.search(inner):
                    return f"a zip with a pickle in it ({member.filename}), as torch.save writes"
    if head.startswith(b"\x93NUMPY") and _OBJECTS.search(head[:4096]):
        return "a NumPy file of pickled objects"
    if _is_pickle_head(head) or (file.size <= _PICKLE_PARSED_BYTES and _parses_as_pickle(file.path)):
        return "a pickle"
    if Path(file.name).suffix.lower() in _PICKLE_SUFFIXES:
        return f"called {Path(file.name).suffix}, as pickles are"
    return None


def _is_pickle_head(head: bytes) -> bool:
    """Whether bytes begin as a pickle of protocol 2 or later."""
    return len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def _parses_as_pickle(path: Path) -> bool:
    """Whether a file reads as a pickle of an older protocol. Nothing is run: it is only read.

    A loader stops where the pickle ends, so what follows does not matter if it calls something; a short text can be a
    pickle by chance, and then it must be one as a whole.
    """
    last, names = "", []
    with path.open("rb") as stream:
        try:
            for operation, _, _ in pickletools.genops(stream):
                last = operation.name
                names.append(last)
        except Exception:  # whatever it stumbles over: then it is none
            return False
        calls = not _CALLS.isdisjoint(names) and not _IMPORTS.isdisjoint(names)
        return last == "STOP" and (calls or (len(names) > 2 and not stream.read(1)))
