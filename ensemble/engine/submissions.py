# SPDX-License-Identifier: MIT
"""Submissions on their way out: what rules have asked for and may not be sent yet.

Law of this file: first in, first out. A firing's jobs wait as one `Batch`, whatever their number, and become jobs
one by one as the pause, the limits and `max_active` allow. What rules of the end ask for goes before all else, so that
a halted ensemble can end while its other submissions wait for a `resume`.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Callable, Deque, Dict, Iterator, List, NamedTuple, Optional

from ensemble.errors import RecordError
from ensemble.spec.space import Point


class Batch(NamedTuple):
    """`jobs` jobs of set `set` of `group`, with indices from `first` within one firing."""

    rule: str
    firing: int
    group: str
    set: int
    first: int
    jobs: int
    overrides: Dict[str, Any]
    #: of a job that is tried again: the attempt, and how many were lost before
    attempt: int = 0
    losses: int = 0
    #: its first point: a number of the set's points, or a place in `points` where these are given
    point: int = 0
    points: Optional[List[Point]] = None

    #: how often it was tried again out of the set's own `retries`
    tries: int = 0
    #: a rule of the end asks for it
    last: bool = False

    def override(self, values: Dict[str, Any]) -> Batch:
        """The same with these values over the group's keys."""
        return self._replace(overrides={**self.overrides, **values})

    def job(self, index: int) -> Batch:
        """That one of its jobs, from 0, as a batch of one."""
        return self._replace(first=self.first + index, jobs=1, point=self.point + index)


#: names some of the batches
Which = Callable[[Batch], bool]


class Held:
    """The queue of batches, and how many jobs of each group wait in it."""

    def __init__(self) -> None:
        self._batches: Deque[Batch] = deque()
        self._last: Deque[Batch] = deque()
        #: group -> jobs that wait; groups without one are absent
        self.waiting: Dict[str, int] = {}
        self.total = 0

    @property
    def last(self) -> bool:
        """Does anything wait that a rule of the end asks for?"""
        return bool(self._last)

    def put(self, batch: Batch) -> None:
        (self._last if batch.last else self._batches).append(batch)
        self._count(batch.group, batch.jobs)

    def take(self) -> Optional[Batch]:
        """The next job, as a batch of one; None if nothing waits."""
        batches = self._last or self._batches
        if not batches:
            return None
        batch = batches[0]
        if batch.jobs == 1:
            batches.popleft()
        else:
            batches[0] = batch.job(1)._replace(jobs=batch.jobs - 1)
        self._count(batch.group, -1)
        return batch.job(0)

    def drop(self, group: Optional[str] = None, which: Which = lambda batch: True) -> List[Batch]:
        """Forget what waits, of one group or of all, or those of them that `which` names. Returns what was dropped."""
        if group is not None and group not in self.waiting:
            return []
        kept: List[Batch] = []
        dropped: List[Batch] = []
        for batch in self:
            (dropped if group in (None, batch.group) and which(batch) else kept).append(batch)
        self._share_out(kept)
        for batch in dropped:
            self._count(batch.group, -batch.jobs)
        return dropped

    def override(self, group: Optional[str], **values: Any) -> int:
        """Have what waits, of one group or of all, submitted with these values. Returns how many jobs that are."""
        self._share_out([b.override(values) if group in (None, b.group) else b for b in self])
        return self.total if group is None else self.waiting.get(group, 0)

    def __iter__(self) -> Iterator[Batch]:
        return iter((*self._last, *self._batches))

    def _share_out(self, batches: List[Batch]) -> None:
        self._last = deque(batch for batch in batches if batch.last)
        self._batches = deque(batch for batch in batches if not batch.last)

    def _count(self, group: str, by: int) -> None:
        self.total += by
        left = self.waiting.get(group, 0) + by
        if left:
            self.waiting[group] = left
        else:
            self.waiting.pop(group, None)

    def to_json(self) -> List[Any]:
        return [list(batch) for batch in self]

    def restore(self, state: Any) -> None:
        """Take up what `to_json` wrote. Raises RecordError."""
        try:
            for record in state:
                self.put(Batch(*record))
        except TypeError as exc:
            raise RecordError(f"this is no state of held submissions: {str(state)[:120]}") from exc
