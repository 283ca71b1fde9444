# SPDX-License-Identifier: MIT
"""What a third party writes to plug in a queue: `Queue`. `remote.py` does all the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Callable, Dict, Optional, Tuple

#: what a queue tells: id of the job, name of the event (RFC 21), its context, and when (seconds since the epoch)
Tell = Callable[..., None]


class Refused(Exception):
    """A queue will not have a job; the sentence says why. Nothing has become of it."""


class Unsure(Exception):
    """A queue cannot tell whether it has a job of some key; the sentence says why."""


class Queue(ABC):
    """What a third party writes. All methods but `start` are called from one thread, and may take a while."""

    #: what it can do, of submit, cancel, kill, urgency
    capabilities: Tuple[str, ...] = ("submit", "cancel", "kill")

    @abstractmethod
    def start(self, tell: Tell) -> None:
        """From now on `tell(id, name, context={}, t=None)` may be called, from any thread, and never blocks.

        Of each job the events `start`, `finish` (context: `status`, as of wait(2)) and `clean` are told, and
        `exception` (`type`, `severity`, `note`) for what befell it; `submit` is told by the member itself.
        Rules on other events of RFC 21 (`alloc`, `priority`, ...) hear those that are told here. `t` is when it
        happened, however late it is told (None: now). A `start` whose time nobody knows is left out: the job then has no
        duration, and not one of 0.
        """

    @abstractmethod
    def submit(self, job: Any) -> int:
        """Have this job (`Job` of members.proto) run; returns its id: a positive number that no other job ever had.

        Raises Refused. Keep `job.key` with it: that is what `find` looks for.
        """

    @abstractmethod
    def find(self, key: str) -> Optional[int]:
        """The id of the job of that key, None where there certainly is none. Raises Unsure."""

    @abstractmethod
    def follow(self, id: int, key: str) -> bool:
        """Tell again of a job of an earlier process, all events or the new ones. False where it is there no more."""

    @abstractmethod
    def cancel(self, id: int) -> Optional[str]:
        """End the job, pending or running; None, or why it cannot be. An `exception` of type cancel is told too."""

    def kill(self, id: int, signal: int) -> Optional[str]:
        """Send a signal to all of its processes; None, or why it cannot be."""
        return "this queue sends no signals"

    def urgency(self, id: int, value: int) -> Optional[str]:
        """Change the urgency, 0 to 31, of a pending job; None, or why it cannot be."""
        return "this queue knows no urgency"

    def counts(self) -> Dict[str, Any]:
        """`nodes`, `cores` (each with up, down, free, allocated) and `queue` (pending, running), as far as known."""
        return {}

    def stop(self) -> None:  # noqa: B027 - some hold nothing
        """Release what is held. Jobs go on where the queue outlives this process."""
