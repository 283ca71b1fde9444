# SPDX-License-Identifier: MIT
"""Attempts that ended badly and are tried again: which, when, and those that wait for their time.

Law of this file: called by `Engine.handle` alone, on its way. There are two budgets. A loss for no fault of the job
(cause `infrastructure`) counts into `infrastructure` of the set alone; any other end is tried again where the set's
`causes` name it, after the set's wait, and counts into `max` alone. Where a node was lost the next attempt waits a
moment too: to the scheduler the node may still be there, and would take it again. What a rule or the user has ended is
never tried again. A job that waits is an unfinished one: it stays pending, keeps its group from being complete and the
ensemble from ending. When its time has come it goes behind what is held already, so that a pause and the limits keep
it as they keep other submissions.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, Iterator, List, Optional, Tuple

from ensemble.engine import acting, ending
from ensemble.engine.jobs import Job
from ensemble.engine.submissions import Batch, Which
from ensemble.errors import RecordError
from ensemble.spec import retries as spec

if TYPE_CHECKING:
    from ensemble.engine.engine import Engine

#: the timer for the first of those that wait
RETRY = "retry:"


class Waiting:
    """Attempts to come, each with its time; those of the same time in the order in which they were put here."""

    def __init__(self) -> None:
        self._heap: List[Tuple[float, int, Batch]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Batch]:
        """In order of time."""
        return (batch for _, _, batch in sorted(self._heap, key=lambda entry: entry[:2]))

    @property
    def first(self) -> Optional[float]:
        """The time of the first, in seconds since the epoch; None if none waits."""
        return self._heap[0][0] if self._heap else None

    def put(self, at: float, batch: Batch) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, batch))

    def take(self, t: float) -> Optional[Batch]:
        """One whose time has come by `t`, None if there is none."""
        return heapq.heappop(self._heap)[2] if self._heap and self._heap[0][0] <= t else None

    def drop(self, group: Optional[str] = None, which: Which = lambda batch: True) -> List[Batch]:
        """Forget what waits, of one group or of all, or those of them that `which` names. Returns what was dropped."""
        kept: List[Tuple[float, int, Batch]] = []
        dropped: List[Batch] = []
        for entry in sorted(self._heap, key=lambda entry: entry[:2]):
            if group in (None, entry[2].group) and which(entry[2]):
                dropped.append(entry[2])
            else:
                kept.append(entry)
        self._heap = kept  # in order, and so a heap
        return dropped

    def override(self, group: Optional[str], **values: Any) -> int:
        """Have the attempts of one group, or of all, submitted with these values. Returns how many wait."""
        self._heap = [
            (at, n, batch.override(values) if group in (None, batch.group) else batch) for at, n, batch in self._heap
        ]
        return sum(batch.group == group or group is None for _, _, batch in self._heap)

    def to_json(self) -> List[Any]:
        return [[at, list(batch)] for at, _, batch in sorted(self._heap, key=lambda entry: entry[:2])]

    def restore(self, state: Any) -> None:
        """Take up what `to_json` wrote. Raises RecordError."""
        try:
            for at, batch in state:
                self.put(at, Batch(*batch))
        except (TypeError, ValueError) as exc:
            raise RecordError(f"this is no state of retries: {str(state)[:120]}") from exc


def plan(engine: Engine, job: Job) -> Optional[Tuple[Batch, float]]:
    """The next attempt of a job that has ended, and the seconds until then; None where it is not tried again."""
    # what the rules of the end submitted is to run before the state is final, whatever is lost meanwhile
    loss_at_end = engine.concluding and job.cause == "infrastructure"
    if job.result == "success" or job.ended_by_rule or (ending.stopped(engine) and not loss_at_end):
        return None
    retries = engine.groups[job.group][job.set].retries or spec.NONE
    tries, losses, wait = job.tries, job.losses, 0.0
    if job.cause == "infrastructure":
        if losses >= retries.infrastructure:
            return None
        # also of a job that had not started yet: it had been given that node
        if job.node_lost():
            wait = spec.LOSS_WAIT * 2.0 ** min(max(losses, 0), 10)
        losses += 1
    else:
        word = job.cause if job.cause in spec.CAUSES else None
        code = job.exit_code if word in ("fail", "signal") else None
        if tries >= retries.max or not (word in retries.causes or (code and code in retries.causes)):
            return None
        wait = retries.wait(tries)
        tries += 1
    key = job.key
    batch = Batch(
        key.rule,
        key.firing,
        job.group,
        job.set,
        key.index,
        1,
        job.overrides,
        attempt=key.attempt + 1,
        losses=losses,
        tries=tries,
        points=[job.params] if job.params else None,
    )
    return batch, wait


def put(engine: Engine, batch: Batch, wait: float) -> None:
    """Try it again after that many seconds."""
    if engine.concluding:
        engine.emit(acting.make_job(engine, batch))
    elif wait <= 0:
        engine.held.put(batch)
    else:
        engine.waiting.put(engine.t + wait, batch)
        _arm(engine)


def due(engine: Engine) -> None:
    """The timer has run out: those whose time has come may go."""
    batch = engine.waiting.take(engine.t)
    while batch is not None:
        engine.held.put(batch)
        batch = engine.waiting.take(engine.t)
    _arm(engine)


def _arm(engine: Engine) -> None:
    first = engine.waiting.first
    if first is not None and engine.timers.get(RETRY, first + 1.0) > first:
        engine.set_timer(RETRY, first)
