# SPDX-License-Identifier: MIT
"""Rows of jobs that wait in the engine and are no jobs yet: made for one page, never for all of them.

Law of this file: a submission of a million points waits as one batch; what is asked of it costs what is shown.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Optional

from ensemble.engine.engine import Engine
from ensemble.engine.submissions import Batch


def held_count(engine: Engine, group: Optional[str]) -> int:
    """The jobs that wait, of one group or of all."""
    held = engine.held.total if group is None else engine.held.waiting.get(group, 0)
    return held + sum(group in (None, batch.group) for batch in engine.waiting)


def held_rows(engine: Engine, group: Optional[str], start: int, most: int) -> List[Dict[str, Any]]:
    """Rows of those that wait, in the order in which they will be submitted, from place `start` on."""
    rows: List[Dict[str, Any]] = []
    for batch in _waiting(engine):
        if group not in (None, batch.group):
            continue
        for index in range(min(start, batch.jobs), batch.jobs):
            if len(rows) == most:
                return rows
            rows.append(_row(engine, batch, index))
        start = max(0, start - batch.jobs)
    return rows


def _waiting(engine: Engine) -> Iterator[Batch]:
    yield from engine.held
    yield from engine.waiting


def _row(engine: Engine, batch: Batch, index: int) -> Dict[str, Any]:
    row: Dict[str, Any] = dict.fromkeys(
        (
            "id",
            "result",
            "exit_code",
            "signal",
            "cause",
            "note",
            "t_submit",
            "t_start",
            "t_end",
            "member",
            "ranks",
            "ended",
            "where",
        )
    )
    row.update(group=batch.group, state="held", rule=batch.rule, firing=batch.firing, index=batch.first + index)
    row.update(attempt=batch.attempt, params=engine.samples.params(batch, index), values={})
    return row
