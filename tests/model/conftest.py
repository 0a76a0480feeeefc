"""Prints how many recorded cases each method meets."""

from __future__ import annotations

from typing import Any

from tests.model.methods.recorded import SUMMARY


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for line in SUMMARY:
        terminalreporter.write_line(line)
