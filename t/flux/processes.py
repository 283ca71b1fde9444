# SPDX-License-Identifier: MIT
"""Waiting for processes to come and go."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable

PATIENCE = 60.0


def alive(pid: int) -> bool:
    """Is there such a process? A zombie, whose parent is slow to collect it, is dead."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], Any], what: str = "it") -> Any:
    """What `condition` answers, once that is true. Raises AssertionError if it is not in time."""
    deadline = time.monotonic() + PATIENCE
    while True:
        got = condition()
        if got:
            return got
        assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE:g} s"
        time.sleep(0.05)


def gone(*pids: int) -> None:
    """Wait until none of these is alive."""
    until(lambda: not any(alive(pid) for pid in pids), f"the end of {pids}")
