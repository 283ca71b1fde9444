# SPDX-License-Identifier: MIT
"""Lives of jobs as a queue tells them, for tests that hand events to the engine themselves."""

from __future__ import annotations

from typing import Any, List

from ensemble.engine.events import JobEvent
from t.engine.harness import T0


def whole_life(key: Any, status: int = 0, id: int = 7) -> List[JobEvent]:
    """The events of one job from submit to clean, a second apart."""
    told: List[Any] = [
        ("submit", {}), ("validate", {}), ("depend", {}), ("priority", {}), ("alloc", {"ranks": "0-1"}), ("start", {}),
        ("finish", {"status": status}), ("release", {}), ("free", {}), ("clean", {}),
    ]  # fmt: skip
    return [
        JobEvent(T0 + 1 + n, id, name, context, key if name == "submit" else None)
        for n, (name, context) in enumerate(told)
    ]
