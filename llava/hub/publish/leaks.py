"""Secrets and paths of one's own machine in files that are about to be published; a found secret is never printed."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llava.hub.publish.leak_patterns import GENERAL, HINTS, IN_TEXT, TOKENS, find_path, path_pattern, unescaped
from llava.hub.publish.release_files import ReleaseFile, safetensors_header, tensor_bytes

_TOKENS = {kind: re.compile(pattern) for kind, pattern in TOKENS.items()}
_TOKEN_BYTES = {kind: re.compile(pattern.encode()) for kind, pattern in TOKENS.items()}
_SECRETS = [*_TOKENS.items(), *((kind, re.compile(pattern)) for kind, pattern in IN_TEXT.items())]
_ONLY_SECRETS = {"tokenizer.json", "vocab.json", "merges.txt"}  # pieces of text, some of which look like paths
_MARKS = (  # the longer first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 2**16
_LONGEST_LINE = 2**24
_BLOCK, _OVERLAP = 2**20, 2**11  # a token does not lie across two blocks unseen
_LONGEST_SHOWN = 100


@dataclass(frozen=True)
class Leak:
    """A place that must not be published.

    Attributes:
        file: Name in the repository.
        line: From 1; None for a file that is no text.
        what: Kind of the leak, and the path; never the secret.
        is_secret: Whether it is a secret, which nothing allows.
    """

    file: str
    line: int | None
    what: str
    is_secret: bool

    @property
    def place(self) -> str:
        """FILE:LINE, as `--allow` takes it."""
        return f"{self.file}:{self.line}"

    def __str__(self) -> str:
        where = f"{self.file}, in its bytes" if self.line is None else f"{self.file}, line {self.line}"
        return f"{where}: {self.what}{'' if self.is_secret else f' (if it is harmless: --allow {self.place})'}"


def find_leaks(file: ReleaseFile) -> list[Leak]:
    """All leaks in a text or in the header of a safetensors file, one a line and kind; tokens in any other bytes."""
    paths = None if PurePosixPath(file.name).name in _ONLY_SECRETS else path_pattern()
    found = []
    for number, line in enumerate(_lines(file.path), 1):
        forms = (line, unescaped(line)) if "\\" in line else (line,)
        secrets = [Leak(file.name, number, kind, True) for kind in _secrets_in(forms)]
        found += secrets
        if paths is not None and (path := next(filter(None, (find_path(form, paths) for form in forms)), None)):
            # A secret may be a part of the path, and is not shown.
            found.append(Leak(file.name, number, path.partition(":")[0] if secrets else path[:_LONGEST_SHOWN], False))
    known = {leak.what for leak in found}
    return found + [Leak(file.name, None, kind, True) for kind in _tokens_in_bytes(file) if kind not in known]


def masked_name(name: str) -> str:
    """A file's name as it may be shown: what looks like a secret in it is replaced by what it looks like."""
    for kind, pattern in _SECRETS:
        name = pattern.sub(f"<{kind}>", name)
    return name


def _secrets_in(forms: tuple[str, ...]) -> Iterator[str]:
    """The most telling kind of secret in a line: the general one is left out where another one is found."""
    found: dict[str, None] = {}
    for form in forms:
        lower = form.lower()
        hinted = {kind for kind, hints in HINTS.items() if any(hint in lower for hint in hints)}
        if hinted:
            found |= dict.fromkeys(kind for kind, pattern in _SECRETS if kind in hinted and pattern.search(form))
    yield from (kind for kind in found if kind != GENERAL or len(found) == 1)


def _tokens_in_bytes(file: ReleaseFile) -> list[str]:
    """Kinds of tokens anywhere but in tensors, also where a NUL stands beside every letter, as in UTF-16."""
    found: dict[str, None] = {}
    start, end = tensor_bytes(file.path)
    with file.path.open("rb") as stream:
        for first, last in ((0, start), (end, file.size)):
            stream.seek(first)
            before = b""
            while (left := last - stream.tell()) > 0 and (block := stream.read(min(_BLOCK, left))):
                window = before + block
                forms = (window, window.replace(b"\0", b"")) if b"\0" in window else (window,)
                for form in forms:
                    found |= dict.fromkeys(_tokens_in(form))
                before = window[-_OVERLAP:]
    return list(found)


def _tokens_in(content: bytes) -> Iterator[str]:
    lower = content.lower()
    for kind, pattern in _TOKEN_BYTES.items():
        if any(hint.encode() in lower for hint in HINTS[kind]) and pattern.search(content):
            yield kind


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text in whatever encoding, one after the other; the header of safetensors; else nothing."""
    if header := safetensors_header(path):
        yield from header.splitlines()
        return
    with path.open("rb") as stream:
        sample = stream.read(_SAMPLE)
    marked = next((encoding for mark, encoding in _MARKS if sample.startswith(mark)), None)
    if marked is not None:
        with path.open(encoding=marked, errors="replace") as text:
            yield from text
    elif _is_text(sample.replace(b"\0", b"")):
        with path.open("rb") as stream:
            while line := stream.readline(_LONGEST_LINE):
                yield _decoded(line.replace(b"\0", b""))


def _is_text(sample: bytes) -> bool:
    """Whether bytes are text of UTF-8 or of an older encoding."""
    return sum(byte < 9 or 13 < byte < 32 for byte in sample) <= len(sample) // 50


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")
