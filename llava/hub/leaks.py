"""Secrets and paths of one's own machine in files that are about to be published.

The forms are those that the issuers document or that secret scanners know them by; a found secret is never printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from llava.hub.release_files import ReleaseFile, safetensors_header

_SECRETS = {
    "a Hugging Face token": r"\b(?:hf_|api_org_)[A-Za-z0-9]{30,}",
    "an Anthropic key": r"\bsk-ant-[\w-]{20,}",
    "an OpenAI key": r"\bsk-(?!ant-)[A-Za-z0-9_-]{20,}",
    "a wandb key": r"(?i:wandb[^\n]{0,20}(?:key|login|token))\W{1,5}[0-9a-f]{40}\b|\bwandb_v1_\w{20,}",
    "a password of .netrc": r"\bpassword\s+[0-9a-f]{40}\b",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "an AWS secret key": r"(?i:aws_?secret_?access_?key)\W{1,5}[A-Za-z0-9/+=]{40}",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{50,})",
    "a Google key": r"\bAIza[\w-]{35}",
    "a Slack token": r"\bxox[abeprs]-[\w-]{10,}",
    "a private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "a URL with a password": r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"']+:[^\s/:@\"']+@",
    "a bearer token": r"(?i:authorization)\W{1,5}(?i:bearer)\s+[\w.~+/-]{16,}",
    "a key or password": r"(?i:api_?key|secret_?key|access_?token|auth_?token|password|passwd)[\"']?\s*[:=]\s*[\"']?"
    r"(?=[\w+/.-]*\d)[\w+/.-]{16,}",
}
_PATHS = {
    "an absolute path": r"(?<![\w:/.<>~$)\]}*\\-])/(?:[\w.+@%~-]+/)+[\w.+@%~-]+|file:///[^\s\"']+",
    "an absolute path of Windows": r"(?<!\w)[A-Za-z]:(?:\\{1,2}|/)[\w.~ -]+(?:\\{1,2}|/)[\w.~-]+",
}
_ONLY_SECRETS = {"tokenizer.json", "vocab.json", "merges.txt"}  # pieces of text, some of which look like paths
_LONGEST_SHOWN = 80


@dataclass(frozen=True)
class Leak:
    """A place that must not be published.

    Attributes:
        file: Name in the repository.
        line: From 1.
        what: Kind of the leak, and the path; never the secret.
    """

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.what}"


def find_leaks(file: ReleaseFile) -> list[Leak]:
    """All leaks in a text file, or in the header of a safetensors file; one a line and kind."""
    text = _text(file)
    kinds = {kind: re.compile(pattern) for kind, pattern in _SECRETS.items()}
    paths = {kind: re.compile(pattern) for kind, pattern in _PATHS.items()}
    if PurePosixPath(file.name).name in _ONLY_SECRETS:
        paths = {}
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        found += [Leak(file.name, number, kind) for kind in _kinds_in(line, kinds)]
        for kind, pattern in paths.items():
            if match := pattern.search(line):
                found.append(Leak(file.name, number, f"{kind}: {match[0][:_LONGEST_SHOWN]}"))
    return found


def _kinds_in(line: str, kinds: dict[str, re.Pattern[str]]) -> Iterator[str]:
    """The most telling kind of secret in a line: the general one is left out where another one is found."""
    found = [kind for kind, pattern in kinds.items() if pattern.search(line)]
    general = "a key or password"
    yield from (kind for kind in found if kind != general or found == [general])


def _text(file: ReleaseFile) -> str:
    """A file's text; the header of safetensors; nothing of other binary files."""
    if file.name.endswith(".safetensors"):
        return safetensors_header(file.path)
    content = file.path.read_bytes()
    for encoding in ("utf-8", "utf-16") if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8",):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        return text if "\0" not in text[:4096] else ""
    return _latin(content)


def _latin(content: bytes) -> str:
    """Text of an older encoding; nothing if the bytes are no text."""
    sample = content[:4096]
    is_binary = b"\0" in sample or sum(byte < 9 or 13 < byte < 32 for byte in sample) > len(sample) // 50
    return "" if is_binary else content.decode("latin-1")
