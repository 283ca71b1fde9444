# SPDX-License-Identifier: MIT
"""Timers of a Flux reactor, any number of them over one watcher. Imports flux.

The reactor counts seconds from now on, our callers name a moment of a clock. So the watcher is set for the earliest
moment, and looks at the clock again when it wakes: early is set once more, and a sleep never lasts longer than
`_LONGEST`, so that a clock that was set is noticed.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Any, Callable, List, Optional, Tuple

import flux
from flux.core.inner import lib

from ensemble.members.base import Timer
from ensemble.members.guard import Log, guarded

_LONGEST = 60.0


class FluxTimer(Timer):
    """One pending call."""

    __slots__ = ("_timers", "callback")

    def __init__(self, timers: Timers, callback: Callable[[], None]) -> None:
        self._timers = timers
        self.callback: Optional[Callable[[], None]] = callback

    def cancel(self) -> None:
        """Never call back. Harmless when it already has."""
        if self.callback is not None:
            self.callback = None
            self._timers.forget_one()


class Timers:
    """Calls back at moments of `clock`, in their order, from the reactor of `handle`."""

    def __init__(self, handle: flux.Flux, clock: Callable[[], float], log: Log) -> None:
        self._handle = handle
        self._clock = clock
        self._log = log
        self._heap: List[Tuple[float, int, FluxTimer]] = []
        self._number = itertools.count()
        self._cancelled = 0
        self._watcher: Any = handle.timer_watcher_create(0.0, guarded(log, self._wake))

    def at(self, when: float, callback: Callable[[], None]) -> FluxTimer:
        """Call back at `when`, or in the reactor's next turn if that is past; never from inside this call."""
        timer = FluxTimer(self, callback)
        heapq.heappush(self._heap, (when, next(self._number), timer))
        if self._heap[0][2] is timer:
            self._set()
        return timer

    def after(self, seconds: float, callback: Callable[[], None]) -> FluxTimer:
        """Call back so many seconds from now."""
        return self.at(self._clock() + seconds, callback)

    def forget_one(self) -> None:
        """One more of the heap is cancelled: those that are go when they are the greater part."""
        self._cancelled += 1
        if self._cancelled > 64 and self._cancelled > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def stop(self) -> None:
        """Drop all of them."""
        self._heap.clear()
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.destroy()
            self._watcher = None

    def _set(self) -> None:
        if self._watcher is None or not self._heap:
            return
        delay = min(max(0.0, self._heap[0][0] - self._clock()), _LONGEST)
        # The reactor's idea of now is that of its last turn.
        lib.flux_reactor_now_update(lib.flux_get_reactor(self._handle.handle))
        watcher = self._watcher.handle
        lib.flux_watcher_stop(watcher)
        lib.flux_timer_watcher_reset(watcher, delay, 0.0)
        lib.flux_watcher_start(watcher)

    def _wake(self, *_: Any) -> None:
        now = self._clock()
        due = []
        # Only those that are due now: one that a callback adds waits for the next turn.
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[2])
        for timer in due:
            callback, timer.callback = timer.callback, None
            if callback is None:
                self._cancelled = max(0, self._cancelled - 1)
            else:
                guarded(self._log, callback)()
        self._set()
