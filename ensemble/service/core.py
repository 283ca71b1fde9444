# SPDX-License-Identifier: MIT
"""The service: many ensembles over one member. (Being written; this is its outside.)"""

from __future__ import annotations

import time
from typing import Any, Callable

from ensemble.members.base import Member
from ensemble.service.protocol import Host, Reply
from ensemble.service.store import Store


class Service:
    """Hosts ensembles. One thread: the one that runs the member's event loop calls all of its methods."""

    def __init__(
        self,
        member: Member,
        store: Store,
        host: Host,
        *,
        log: Callable[[int, str], None],
        on_quit: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`log(level, text)` takes syslog levels; `on_quit` is called after a `quit` was answered."""

    def start(self) -> None:
        """Start the member and take up what the store holds. Raises MemberError."""

    def handle(self, endpoint: str, payload: Any, reply: Reply) -> None:
        """Answer one request, now or later. Never raises."""

    def disconnect(self, caller: str) -> None:
        """A caller is gone: end its streams. Never raises."""

    def watch_cancel(self, caller: str, payload: Any) -> None:
        """End one stream of a caller."""

    def freeze(self, reason: str) -> None:
        """The instance is going down: take in no request that acts, and let no rule act any more."""

    def stop(self) -> None:
        """End all streams, stop the member, close the store."""
