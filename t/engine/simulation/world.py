# SPDX-License-Identifier: MIT
"""Virtual time, and the points at which the service may die.

Law of this package: everything comes from generators with one seed, and nothing looks at a real clock, so that a seed
is a whole story and gives the same story again. `World` is a heap of calls in order of time; the wall clock that the
service sees runs beside it, and can be set. Each call of the heap is one step. Between any two steps, and at every
place where the service hands something over (`point`), a `Crash` may come: it is no Exception, so that no guard stops
it, and leaves behind what a kill -9 would.
"""

from __future__ import annotations

import collections
import heapq
import itertools
import random
from typing import Callable, Counter, FrozenSet, List, Optional, Tuple

from ensemble.members.base import Timer

#: when every story begins, seconds since the epoch
T0 = 1_700_000_000.0


class Crash(BaseException):
    """kill -9 of the service."""


class Violation(AssertionError):
    """A promise is broken."""


class Call(Timer):
    """Something that is to happen."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Optional[Callable[[], None]] = call

    def cancel(self) -> None:
        self.call = None


class World:
    """Time, and what is to happen."""

    def __init__(self, seed: object, *, rate: float = 0.0, most: int = 0, at: FrozenSet[int] = frozenset()) -> None:
        """The service dies at a point with probability `rate`, `most` times; and at the points with the numbers `at`."""
        self.random = random.Random(f"{seed}/world")
        #: seconds since the story began; what jobs and messages take
        self.now = 0.0
        #: by how much the wall clock is wrong
        self.offset = 0.0
        #: faults by kind
        self.injected: Counter[str] = collections.Counter()
        #: points passed
        self.points = 0
        self.rate = rate
        self.most = most
        self.at = at
        #: is there a service that can die?
        self.alive = False
        self._crashes = random.Random(f"{seed}/crashes")
        self._heap: List[Tuple[float, float, int, Call]] = []
        self._wall: List[Tuple[float, int, Call]] = []
        self._number = itertools.count()

    def clock(self) -> float:
        """Seconds since the epoch, as this machine believes."""
        return round(T0 + self.now + self.offset, 6)

    def after(self, seconds: float, call: Callable[[], None]) -> Call:
        made = Call(call)
        heapq.heappush(self._heap, (self.now + seconds, self.random.random(), next(self._number), made))
        return made

    def soon(self, call: Callable[[], None], most: float = 0.05) -> Call:
        """After a short while, mostly very short, now and then long: what follows may overtake it."""
        r = self.random
        return self.after(r.random() * most * (20 if r.random() < 0.05 else 1), call)

    def at_wall(self, when: float, call: Callable[[], None]) -> Call:
        """When the wall clock shows `when`."""
        made = Call(call)
        heapq.heappush(self._wall, (when, next(self._number), made))
        return made

    def step(self) -> bool:
        """Let the next thing happen; False if there is none."""
        while self._heap or self._wall:
            wall = self._wall[0][0] - T0 - self.offset if self._wall else float("inf")
            if self._heap and self._heap[0][0] <= wall:
                t, _, _, made = heapq.heappop(self._heap)
            else:
                # a clock's reading is rounded, and must not come too early
                t, made = wall + 1e-6, heapq.heappop(self._wall)[2]
            call, made.call = made.call, None
            if call is None:
                continue
            self.now = max(self.now, t)
            call()
            return True
        return False

    def point(self, name: str) -> None:
        """Something is handed over here: the service may die of it."""
        if not self.alive:
            return
        self.points += 1
        if self.points in self.at or (self.rate and self.most > 0 and self._crashes.random() < self.rate):
            self.most -= 1
            self.injected[f"crash {name}"] += 1
            raise Crash(name)
