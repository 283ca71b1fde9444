# SPDX-License-Identifier: MIT
"""What is to happen in the simulated queue, and when.

Law of this file: things come in the order of their times, and those of one time in the order in which they were put in.
"""

from __future__ import annotations

import heapq
from typing import Callable, List, Optional, Tuple, Union

from ensemble.members.base import Timer
from ensemble.members.simulated_job import Job


class AgendaTimer(Timer):
    """A pending `call_at`."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Optional[Callable[[], None]] = callback

    def cancel(self) -> None:
        self.callback = None


#: a timer; or a job, and what is to happen to it: its end, its next report, its death
Thing = Union[AgendaTimer, Tuple[Job, str]]


class Agenda:
    """Things by time."""

    def __init__(self) -> None:
        self._things: List[Tuple[float, int, Thing]] = []
        self._order = 0

    def __bool__(self) -> bool:
        return bool(self._things)

    def put(self, when: float, what: Thing) -> None:
        """It is to happen then."""
        self._order += 1
        heapq.heappush(self._things, (when, self._order, what))

    def next(self, until: float) -> Optional[Tuple[float, Thing]]:
        """Take out the first, if it is due by then."""
        if not self._things or self._things[0][0] > until:
            return None
        when, _, what = heapq.heappop(self._things)
        return when, what

    def clear(self) -> None:
        """Nothing is to happen any more."""
        self._things.clear()
