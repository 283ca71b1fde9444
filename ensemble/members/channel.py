# SPDX-License-Identifier: MIT
"""Our end of a socket to a process of ours: bytes out whenever it takes them, bytes in as they come, and no wait for it.

Law of this file: the other end may be slow, hang or die, and nothing here blocks or raises for that. That it is gone is
told once, by what is read: `heard(b"")`. What the bytes mean is for who uses this, in `Lines` or in `Frames`.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from typing import Any, Dict, List, Mapping, Optional, Sequence

from typing_extensions import Protocol

from ensemble.members.base import Watch
from ensemble.members.guard import Log, guarded

#: bytes that are read or sent at a time
_CHUNK = 1 << 18


class Watching(Protocol):
    """What calls back when a descriptor is ready."""

    def __call__(self, fd: int, callback: Any, *, write: bool = False) -> Watch:
        """As `Member.watch`."""


class _Heard(Protocol):
    def __call__(self, data: bytes) -> None:
        """What has come; nothing where the other end is gone."""


class Channel:
    """One end of a socket, in a loop. It is closed by who made it, also where the other end is gone."""

    def __init__(self, end: socket.socket, watch: Watching, heard: _Heard, log: Optional[Log] = None) -> None:
        """With a `log` errors of `heard` go there; without one the loop has to bear them. Takes the socket over.

        Raises what `watch` raises, and then has closed the socket.
        """
        end.setblocking(False)
        self._watching = watch
        self._heard = heard
        self._log = log
        self._unsent = bytearray()
        self._writing: Optional[Watch] = None
        self._reading: Optional[Watch] = None
        self._socket: Optional[socket.socket] = end
        self._gone = False
        try:
            self.listen(True)
        except BaseException:
            end.close()
            raise

    @property
    def open(self) -> bool:
        """Is it not closed?"""
        return self._socket is not None

    def send(self, data: bytes) -> None:
        """Send it when the other end takes it; nothing where that is gone, or once this is closed."""
        if self._socket is not None:
            self._unsent += data
            if self._writing is None:
                self._write()

    def listen(self, on: bool) -> None:
        """Take what comes, or leave it with the other end, which then has to wait."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        if on and self._socket is not None and not self._gone:
            self._reading = self._watching(self._socket.fileno(), self._safe(self._read))

    def close(self) -> None:
        """Nothing is sent or heard any more."""
        self.listen(False)
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        self._unsent.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _safe(self, callback: Any) -> Any:
        return callback if self._log is None else guarded(self._log, callback)

    def _write(self) -> None:
        if self._socket is None:
            return
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(memoryview(self._unsent)[:_CHUNK].tobytes())]
        except BlockingIOError:
            pass
        except OSError:
            # it is gone, which shows when it is read
            self._unsent.clear()
        if self._unsent and self._writing is None:
            self._writing = self._watching(self._socket.fileno(), self._safe(self._write), write=True)
        elif not self._unsent and self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _read(self) -> None:
        if self._socket is None:
            return
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._gone = True
            self.listen(False)
        self._heard(data)


class Lines:
    """Whole lines out of what has come so far."""

    def __init__(self) -> None:
        #: of a line that has no end yet
        self.rest = b""

    def feed(self, data: bytes) -> List[bytes]:
        """The lines that are complete by that, without their ends."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        return lines


class Frames:
    """Frames out of what has come so far: four bytes of length, then the body."""

    def __init__(self, most: Optional[int] = None) -> None:
        """`most` bytes of a body are taken."""
        self._most = most
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """What has come."""
        self._data += data

    def next(self) -> Optional[bytes]:
        """The body of the next frame that is complete, None if there is none. Raises ValueError for one that is too long."""
        if len(self._data) < 4:
            return None
        size = struct.unpack_from("!I", self._data)[0]
        if self._most is not None and size > self._most:
            raise ValueError(f"a frame of {size} bytes")
        if len(self._data) < 4 + size:
            return None
        body = bytes(memoryview(self._data)[4 : 4 + size])
        del self._data[: 4 + size]
        return body


def framed(body: bytes) -> bytes:
    """The body as a frame."""
    return struct.pack("!I", len(body)) + body


def started(
    words: Sequence[str],
    theirs: socket.socket,
    environment: Optional[Mapping[str, str]] = None,
    stderr: Optional[int] = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Our Python with these words, in a session of its own and with that end of a pair of sockets as its standard input.

    Closes that end here, whatever happens. Without an `environment` the process has ours. Raises OSError where it cannot
    be started.
    """
    with theirs:
        return subprocess.Popen(
            [sys.executable, "-X", "utf8", *words],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            cwd="/",
            env=None if environment is None else dict(environment),
            start_new_session=True,
        )


def inherited(environment: Mapping[str, str]) -> Dict[str, str]:
    """Our environment with that on top, for a process that runs a module of ours: it finds what we find."""
    return {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
