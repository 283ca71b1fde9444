# SPDX-License-Identifier: MIT
"""Timers and watched descriptors of a member that lives on an asyncio loop."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Callable

from ensemble.members.base import Timer, Watch


class LoopTimer(Timer):
    """A `call_at` on the loop's monotonic clock; looks at the real one before it calls."""

    def __init__(self, loop: asyncio.AbstractEventLoop, when: float, callback: Callable[[], None]) -> None:
        self._loop, self._when, self._callback = loop, when, callback
        self._arm()

    def _arm(self) -> None:
        self._handle = self._loop.call_at(self._loop.time() + (self._when - time.time()), self._expire)

    def _expire(self) -> None:
        if self._when - time.time() > 0.001:
            self._arm()  # the machine's clock was set back
        else:
            self._callback()

    def cancel(self) -> None:
        self._handle.cancel()


class LoopWatch(Watch):
    """A reader or a writer of the loop."""

    def __init__(self, remove: Callable[[int], Any], fd: int) -> None:
        self._remove, self._fd = remove, fd

    def cancel(self) -> None:
        if self._fd >= 0:
            self._remove(self._fd)
            self._fd = -1


def watch(loop: asyncio.AbstractEventLoop, fd: int, callback: Callable[[], None], write: bool) -> Watch:
    """`Member.watch` on that loop."""
    if write:
        loop.add_writer(fd, callback)
        return LoopWatch(loop.remove_writer, fd)
    loop.add_reader(fd, callback)
    return LoopWatch(loop.remove_reader, fd)
