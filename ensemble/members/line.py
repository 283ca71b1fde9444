# SPDX-License-Identifier: MIT
"""A line to a process of ours: starts it, and passes tuples both ways without ever waiting for it.

Law of this file: the other end may hang or die, and nothing here does. Both ends are one program of the same release and
of the same user, joined by a socket that nobody else has, so the tuples are pickled: four bytes of length, then the pickle.
"""

from __future__ import annotations

import pickle
import socket
from typing import Any, Callable, Mapping, Optional, Sequence, Tuple

from ensemble.members.base import Loop
from ensemble.members.channel import Channel, Frames, framed, inherited, started
from ensemble.members.guard import Log


def packed(message: Tuple[Any, ...]) -> bytes:
    """The message as it goes over the line."""
    return framed(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))


class Unpacker:
    """Messages out of what has come so far."""

    def __init__(self) -> None:
        self._frames = Frames()
        self.feed = self._frames.feed

    def next(self) -> Optional[Tuple[Any, ...]]:
        """The next message that is complete, None if there is none."""
        body = self._frames.next()
        return None if body is None else pickle.loads(body)


class Line:
    """One process and the socket to it. `heard(message)` and `lost()` are called from the loop, the latter once."""

    def __init__(
        self,
        loop: Loop,
        module: str,
        args: Sequence[str],
        environment: Mapping[str, str],
        heard: Callable[[Tuple[Any, ...]], None],
        lost: Callable[[], None],
        log: Log,
    ) -> None:
        """Raises OSError where the process cannot be started."""
        self._heard = heard
        self._lost = lost
        self._in = Unpacker()
        ours, theirs = socket.socketpair()
        try:
            self._process = started(["-m", module, *args], theirs, inherited(environment))
        except OSError:
            ours.close()
            raise
        self._channel = Channel(ours, loop.watch, self._came, log)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def send(self, *message: Any) -> None:
        """Send it when the other end takes it; nothing once the line is closed or lost."""
        self._channel.send(packed(message))

    def close(self) -> None:
        """End the process; nothing is heard any more."""
        if self._channel.open:
            self._channel.close()
            self._process.kill()
            self._process.wait()

    def _came(self, data: bytes) -> None:
        self._in.feed(data)
        while self._channel.open:
            message = self._in.next()
            if message is None:
                break
            self._heard(message)
        if not data and self._channel.open:
            self.close()
            self._lost()
