# SPDX-License-Identifier: MIT
"""What takes real time beside a virtual clock: file descriptors of workers, and their time limits.

Law of this file: while one waits here the virtual clock stands still, and whoever asks for a time by it gets as many
real seconds. It offers what `functions.py` needs of a member.
"""

from __future__ import annotations

import heapq
import selectors
import time
from typing import Callable, Dict, List, Optional, Tuple

from ensemble.members.base import Timer, Watch


class _Timer(Timer):
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Optional[Callable[[], None]] = callback

    def cancel(self) -> None:
        self.callback = None


class _Watch(Watch):
    def __init__(self, aside: Aside, fd: int, write: bool) -> None:
        self._aside, self._fd, self._write = aside, fd, write

    def cancel(self) -> None:
        if self._fd >= 0:
            self._aside.unwatch(self._fd, self._write)
            self._fd = -1


class Aside:
    """A small loop that runs while it is waited in."""

    #: there is no instance of Flux that functions could reach by it
    uri: Optional[str] = None

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is the virtual one."""
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        #: file descriptor -> callbacks for reading and for writing
        self._watched: Dict[int, List[Optional[Callable[[], None]]]] = {}
        self._timers: List[Tuple[float, int, _Timer]] = []
        self._order = 0

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call back after as many real seconds as it is until `when` by the virtual clock."""
        self._order += 1
        timer = _Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + max(0.0, when - self._clock()), self._order, timer))
        return timer

    def watch(self, fd: int, callback: Callable[[], None], *, write: bool = False) -> Watch:
        """Call back whenever `fd` can be read, or with `write` written, while `wait` runs."""
        self._watched.setdefault(fd, [None, None])[write] = callback
        self._register(fd)
        return _Watch(self, fd, write)

    def unwatch(self, fd: int, write: bool) -> None:
        """Call back no more."""
        callbacks = self._watched.get(fd)
        if callbacks is not None:
            callbacks[write] = None
            self._register(fd)

    def _register(self, fd: int) -> None:
        reading, writing = self._watched[fd]
        events = (selectors.EVENT_READ if reading else 0) | (selectors.EVENT_WRITE if writing else 0)
        known = fd in self._selector.get_map()
        if not events:
            del self._watched[fd]
            if known:
                self._selector.unregister(fd)
        elif known:
            self._selector.modify(fd, events)
        else:
            self._selector.register(fd, events)

    def wait(self, done: Callable[[], bool]) -> None:
        """Run until that holds."""
        while not done():
            self._turn()

    def close(self) -> None:
        """Release what it holds; nothing is called back any more."""
        self._timers.clear()
        self._selector.close()

    def _turn(self) -> None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        timeout = None if not self._timers else max(0.0, self._timers[0][0] - time.monotonic())
        for key, events in self._selector.select(timeout):
            callbacks = self._watched.get(key.fd)
            for bit, index in ((selectors.EVENT_READ, 0), (selectors.EVENT_WRITE, 1)):
                callback = callbacks[index] if callbacks is not None and events & bit else None
                if callback is not None:
                    callback()
        while self._timers and self._timers[0][0] <= time.monotonic():
            timer = heapq.heappop(self._timers)[2]
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
