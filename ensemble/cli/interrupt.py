# SPDX-License-Identifier: MIT
"""Ctrl-C and SIGTERM while an ensemble is followed.

The handlers only note what came and when: the loop that follows the records looks at it between two batches, so that
no batch is lost half-way. A second Ctrl-C within TWICE seconds means: cancel.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType, TracebackType
from typing import Any, Dict, List, Optional, Type

#: seconds within which a second Ctrl-C cancels the ensemble
TWICE = 2.0
#: Ctrl-Cs after which we go at once, whatever we wait for
ENOUGH = 4


class Interrupts:
    """A context in which the two signals are noted instead of ending the process."""

    def __init__(self) -> None:
        #: times of the Ctrl-Cs that were not dealt with yet
        self._pressed: List[float] = []
        self._count = 0
        #: SIGTERM came
        self.terminated = False
        self._before: Dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            # a shell ignores them for what it runs in the background; so it stays
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        if number == signal.SIGTERM:
            self.terminated = True
            return
        self._count += 1
        self._pressed.append(time.monotonic())
        if self._count >= ENOUGH:
            os._exit(128 + signal.SIGINT)

    @property
    def once(self) -> bool:
        """Has Ctrl-C been pressed?"""
        return bool(self._pressed)

    @property
    def twice(self) -> bool:
        """Has it been pressed twice within TWICE seconds?"""
        return any(later - first <= TWICE for first, later in zip(self._pressed, self._pressed[1:]))

    @property
    def settled(self) -> bool:
        """Has it been pressed, and is it too late for a second press to mean: cancel?"""
        return self.once and time.monotonic() - self._pressed[-1] > TWICE

    def forget(self) -> None:
        """What came so far has been dealt with."""
        self._pressed.clear()
