# SPDX-License-Identifier: MIT
"""A line to a process of ours: starts it, and passes tuples both ways without ever waiting for it.

Law of this file: the other end may hang or die, and nothing here does. Both ends are one program of the same release and
of the same user, joined by a socket that nobody else has, so the tuples are pickled: four bytes of length, then the pickle.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
import subprocess
import sys
from typing import Any, Callable, Mapping, Optional, Sequence, Tuple

from ensemble.members.base import Loop, Watch
from ensemble.members.guard import Log, guarded

_CHUNK = 1 << 18


def packed(message: Tuple[Any, ...]) -> bytes:
    """The message as it goes over the line."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return struct.pack("!I", len(data)) + data


class Unpacker:
    """Messages out of what has come so far."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        self._data += data

    def next(self) -> Optional[Tuple[Any, ...]]:
        """The next message that is complete, None if there is none."""
        if len(self._data) < 4:
            return None
        end = 4 + struct.unpack_from("!I", self._data)[0]
        if len(self._data) < end:
            return None
        message: Tuple[Any, ...] = pickle.loads(memoryview(self._data)[4:end].tobytes())
        del self._data[:end]
        return message


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
        self._loop = loop
        self._heard = heard
        self._lost = lost
        self._log = log
        self._in = Unpacker()
        self._out = bytearray()
        self._writing: Optional[Watch] = None
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-X", "utf8", "-m", module, *args],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                    start_new_session=True,
                )
        except OSError:
            ours.close()
            raise
        ours.setblocking(False)
        self._socket: Optional[socket.socket] = ours
        self._reading: Optional[Watch] = loop.watch(ours.fileno(), guarded(log, self._readable))

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def send(self, *message: Any) -> None:
        """Send it when the other end takes it; nothing once the line is closed or lost."""
        if self._socket is not None:
            self._out += packed(message)
            if self._writing is None:
                self._write()

    def close(self) -> None:
        """End the process; nothing is heard any more."""
        for watch in (self._reading, self._writing):
            if watch is not None:
                watch.cancel()
        self._reading = self._writing = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._process.kill()
            self._process.wait()

    def _write(self) -> None:
        if self._socket is None:
            return
        try:
            while self._out:
                del self._out[: self._socket.send(memoryview(self._out)[:_CHUNK].tobytes())]
        except BlockingIOError:
            pass
        except OSError:
            # its end shows when it is read
            self._out.clear()
        if self._out and self._writing is None:
            self._writing = self._loop.watch(self._socket.fileno(), guarded(self._log, self._write), write=True)
        elif not self._out and self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _readable(self) -> None:
        if self._socket is None:
            return
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._in.feed(data)
        while self._socket is not None:
            message = self._in.next()
            if message is None:
                break
            self._heard(message)
        if not data and self._socket is not None:
            self.close()
            self._lost()
