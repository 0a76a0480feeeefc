"""How secrets and paths of a machine look.

The forms of secrets are those that the issuers document or that secret scanners know them by. A path is one of a
machine if it begins at a folder where people keep theirs: `/v1/chat/completions` and `/usr/bin/env` are none.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

TOKENS = {  # exact enough to be looked for in bytes of any kind
    "a Hugging Face token": r"(?:hf_|api_org_)[A-Za-z0-9]{30,}",
    "an Anthropic key": r"sk-ant-[A-Za-z0-9_-]{20,}",
    "an OpenAI key": r"(?<![A-Za-z0-9])sk-(?!ant-)(?:(?=[\w-]*[0-9])(?=[\w-]*[A-Z])[A-Za-z0-9_-]{20,}"
    r"|(?:or-v1-)?(?=[a-z]*[0-9])[a-z0-9]{32,})",
    "a wandb key": r"wandb_v1_[A-Za-z0-9_]{20,}",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})",
    "a GitLab token": r"(?<![A-Za-z0-9])glpat-[A-Za-z0-9_-]{20,}",
    "a token of npm": r"(?<![A-Za-z0-9])npm_[A-Za-z0-9]{36}",
    "a token of PyPI": r"(?<![A-Za-z0-9])pypi-Ag[A-Za-z0-9_-]{50,}",
    "a Replicate token": r"(?<![A-Za-z0-9])r8_[A-Za-z0-9]{37}",
    "a Groq key": r"(?<![A-Za-z0-9])gsk_[A-Za-z0-9]{40,}",
    "an Azure key": r"AccountKey=[A-Za-z0-9+/]{40,}=*",
    "a Google key": r"(?<![A-Za-z0-9])AIza[A-Za-z0-9_-]{35}",
    "a Slack token": r"(?<![A-Za-z0-9])xox[abeprs]-[A-Za-z0-9-]{10,}",
    "a JSON web token": r"(?<![A-Za-z0-9])eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
    "the URL of a webhook": r"hooks\.slack\.com/(?:services|workflows)/[\w/]{12,}"
    r"|discord(?:app)?\.com/api/webhooks/\d+/[\w-]+|webhook\.office\.com/\w*webhook\w*/[\w@/-]{12,}|api\.telegram\.org/bot\d+:[\w-]{20,}",
    "a private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
}
GENERAL = "a key or password"
HINTS = {  # what is in every match, in lower case: looking for it first is many times faster
    "a Hugging Face token": ("hf_", "api_org_"),
    "an Anthropic key": ("sk-ant-",),
    "an OpenAI key": ("sk-",),
    "a wandb key": ("wandb",),
    "an AWS access key": ("akia", "asia"),
    "a GitHub token": ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    "a GitLab token": ("glpat-",),
    "a token of npm": ("npm_",),
    "a token of PyPI": ("pypi-",),
    "a Replicate token": ("r8_",),
    "a Groq key": ("gsk_",),
    "an Azure key": ("accountkey=",),
    "a Google key": ("aiza",),
    "a Slack token": ("xox",),
    "a JSON web token": ("eyj",),
    "the URL of a webhook": ("hooks.slack.com", "/api/webhooks/", "webhook.office.com", "api.telegram.org"),
    "a private key": ("private key",),
    "a password of .netrc": ("password",),
    "an AWS secret key": ("aws",),
    "a URL with a password": ("://",),
    "a bearer token": ("authorization",),
    GENERAL: ("api", "secret", "token", "passw"),
}
IN_TEXT = {  # known by the words around them
    "a wandb key": r"(?i:wandb[^\n]{0,20}(?:key|login|token))\W{1,5}[0-9a-f]{40}\b",
    "a password of .netrc": r"\bpassword\s+[0-9a-f]{40}\b",
    "an AWS secret key": r"(?i:aws_?secret_?access_?key)\W{1,5}[A-Za-z0-9/+=]{40}",
    "a URL with a password": r"\b[a-z][a-z0-9+.-]{0,30}://[^\s/:@\"']+:[^\s/:@\"']+@",
    "a bearer token": r"(?i:authorization)\W{1,5}(?i:bearer)\s+[\w.~+/-]{16,}",
    GENERAL: r"(?i:api_?key|secret_?key|access_?token|auth_?token|password|passwd)[\"']?\s*[:=]\s*[\"']?"
    r"(?=[\w+/.-]*\d)[\w+/.-]{16,}",
}

_NUMBERED = "home|data|datasets?|mnt|scratch|tmp|work|share|shared|storage|disk|ssd|hdd|nvme|raid|vol|nfs|gpfs|lustre"
_ROOTS = (
    rf"(?:{_NUMBERED})[-_]?\d*",
    "root|Users|users|var|opt|srv|media|Volumes|projects?|workspaces?|private|checkpoints"
    "|gscratch|netscratch|cluster|fsx|efs|kaggle|content/drive|dbfs|cpfs|hdfs|beegfs|afs|scr",
)
_OF_EVERY_SYSTEM = {"usr", "bin", "sbin", "lib", "lib64", "etc", "dev", "proc", "sys"}
_URL = re.compile(r"\b(?!file:)[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/\"'<>][^\s\"'<>]*")
_FILE_URL = re.compile(r"file:///[^\s\"'<>]+")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([\"\\/bfnrt]))")
_ESCAPED = {"b": " ", "f": " ", "n": "\n", "r": "\n", "t": "\t"}
_WINDOWS = re.compile(r"(?<!\w)(?:[A-Za-z]:\\{1,2}|[A-Z]:/)[\w.~ -]+(?:\\{1,2}|/)[\w.~-]+")


def path_pattern() -> re.Pattern[str]:
    """A path under a known folder, or under one where this command's user works.

    What stands before it must not make it a part of a longer one (`x/data/y`, `./data/y`, `${HOME}/data/y`). A closing
    tag never fits, since something must follow the folder's slash.
    """
    own = {
        path.parts[1] for path in (Path(os.environ.get("HOME", "/")), Path.cwd()) if len(path.parts) > 2
    } - _OF_EVERY_SYSTEM
    roots = "|".join((*_ROOTS, *map(re.escape, sorted(own))))
    # The slash comes first, as what is looked for fastest.
    return re.compile(rf"/(?:(?<![\w.~$)\]}}]/)|(?<=-[IL]/))(?:{roots})/[^\s\"'<>|`*,;:)\]}}\\]+")


def find_path(line: str, pattern: re.Pattern[str]) -> str | None:
    """What is wrong with the first path in a line, and the path; addresses of the web are none.

    Args:
        line: As it stands or with its escapes undone.
        pattern: From `path_pattern`.
    """
    if "://" in line:
        line = _URL.sub(" ", line)
    if match := _FILE_URL.search(line) or pattern.search(line):
        return f"an absolute path: {match[0]}"
    match = _WINDOWS.search(line) if ":/" in line or ":\\" in line else None
    return match and f"an absolute path of Windows: {match[0]}"


def unescaped(line: str) -> str:
    r"""A line with JSON's escapes undone, also where JSON lies in JSON: in `\nhf_...` no word begins at `hf_`."""
    for _ in range(3):
        before, line = line, _ESCAPE.sub(_meant, line)
        if line == before:
            break
    return line


def _meant(match: re.Match[str]) -> str:
    if match[1] is None:
        return _ESCAPED.get(match[2], match[2])
    code = int(match[1], 16)
    return "?" if 0xD800 <= code < 0xE000 else chr(code)
