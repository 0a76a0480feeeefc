"""Windows and macOS: nothing of this package needs Unix to be imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNIX_ONLY = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix", "curses", "readline"}
SIGNALS_OF_WINDOWS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIG_IGN", "SIG_DFL", "SIGBREAK"}

# Windows has none of these modules and signals; the libraries below us are of this system and may have them.
WINDOWS = """
import builtins, signal, sys
from llava.__main__ import main

real = builtins.__import__
def imported(name, globals=None, *rest, **named):
    if name in {unix_only!r} and str((globals or {{}}).get("__name__")).startswith("llava"):
        raise ModuleNotFoundError(f"No module named {{name!r}}")
    return real(name, globals, *rest, **named)
builtins.__import__ = imported
del signal.SIGUSR1, signal.SIGKILL

assert main(["prepare", "--list"]) == 0
for module in ("data.prepare.command", "data.convert", "data.validate", "train.launch", "train.interruption", "locks"):
    __import__("llava." + module)
assert len(sys.modules["llava.train.interruption"].STOP_SIGNALS) == 2
"""


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: no bodies of functions, and no `try`, which has an answer."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.Try):
            yield node
            yield from at_import(node)


def test_no_module_imports_what_only_unix_has() -> None:
    found = []
    for file in sorted((ROOT / "llava").rglob("*.py")):
        for node in at_import(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found += [f"{file}: {name}" for name in names if name.partition(".")[0] in UNIX_ONLY]
            text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if text.startswith("signal.SIG") and text.partition(".")[2] not in SIGNALS_OF_WINDOWS:
                found.append(f"{file}: {text}")
    assert found == []


def test_the_commands_start_where_unix_modules_are_missing() -> None:
    program = WINDOWS.format(unix_only=UNIX_ONLY)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
