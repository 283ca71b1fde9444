# SPDX-License-Identifier: MIT
"""The local transport: binds one service to a unix socket, on the loop that runs its member.

How it works. Both sides write JSON lines. A request is `{"id": n, "endpoint": "status", "payload": {...}}`, n a
number that the client chooses. The answer is `{"id": n, "ok": {...}}`, or `{"id": n, "errno": e, "error": "..."}`; a
stream has several of the first and ends with one of the second (ENODATA: it is complete). `{"id": n, "cancel": m}`
ends the stream of request m. What cannot be a request at all is refused under `"id": null`, and the connection is
closed. Closing a connection ends its streams.

Only the owner of the process is served: the directory is mode 0700 and the socket 0600, and the kernel is asked who
is at the other end. A client that sends requests and does not read the answers is not read from; a stream that
piles up MAX_UNREAD bytes is cut with EOVERFLOW. So one client costs no more memory than that, and harms no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import os
import socket
import stat
import struct
import syslog
import traceback
from pathlib import Path
from typing import Any, Dict, List, Optional, Set

from ensemble.errors import NotPermitted, ServiceError
from ensemble.members.guard import Log, guarded
from ensemble.service.core import Service
from ensemble.service.local_client import socket_dir
from ensemble.service.protocol import ENDPOINTS, MAX_REQUEST, STREAMING, Reply

#: bytes that a stream's client may leave unread
MAX_UNREAD = 4 << 20
#: unread bytes from which on the client's requests wait
_PAUSE = 1 << 20
#: seconds for last answers to be read
_FAREWELL = 2.0
#: a socket's path must be shorter, its NUL included
_MAX_PATH = 108


def make_socket_dir() -> Path:
    """The directory for sockets, made if it is not there. Raises NotPermitted if it is not this user's alone."""
    directory = socket_dir()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = os.lstat(directory)
    except OSError as exc:
        raise NotPermitted(
            f"cannot make the directory for sockets, {directory} ({exc.strerror}): set XDG_RUNTIME_DIR to a directory "
            "of yours"
        ) from exc
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        raise NotPermitted(f"{directory} is not a directory of yours: set XDG_RUNTIME_DIR to one that is")
    if stat.S_IMODE(info.st_mode) & 0o077:
        raise NotPermitted(f"others can get into {directory}, where the sockets are: chmod 700 {directory}")
    return directory


def socket_path() -> Path:
    """Where this process listens, once it does."""
    return socket_dir() / f"{os.getpid()}.sock"


def remove_stale(directory: Path) -> List[Path]:
    """Remove the sockets on which nobody listens any more; returns them."""
    gone = []
    for path in [*directory.glob("*.sock"), *directory.glob("*.new")]:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if path.suffix == ".new":
                stale = not _alive(path.stem)
            else:
                probe.settimeout(1.0)
                stale = probe.connect_ex(str(path)) == errno.ECONNREFUSED
            if stale:
                path.unlink()
                gone.append(path)
    return gone


def _alive(pid: str) -> bool:
    return pid.isdigit() and Path("/proc", pid).exists()


class SocketReply(Reply):
    """The way back to one request of a connection."""

    def __init__(self, connection: Connection, id: int, streaming: bool) -> None:
        # A stream is a caller of its own to the service, so that it can be ended without its like.
        self.caller = f"{connection.caller}/{id}" if streaming else connection.caller
        self.id = id
        self.streaming = streaming
        self._connection = connection
        self._closed = False

    def send(self, payload: Dict[str, Any]) -> None:
        """The answer; for a stream, one of its answers. One that is no JSON is our bug and told as such."""
        if self._closed:
            return
        try:
            line = json.dumps({"id": self.id, "ok": payload}, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError):
            self._connection.server.log(
                syslog.LOG_ERR, f"an answer cannot be written as JSON: {traceback.format_exc()}"
            )
            self.error(errno.EPROTO, "the service met a fault of its own; its log has the traceback")
            return
        if self.streaming and self._connection.unread() + len(line) > MAX_UNREAD:
            self.error(errno.EOVERFLOW, f"cut: {MAX_UNREAD >> 20} MiB of this stream are unread; ask again with since")
            self._connection.drop(self)
            return
        if not self.streaming:
            self.close()
        self._connection.write(line)

    def error(self, errno: int, text: str) -> None:
        """The request is refused, or the stream is cut. Nothing follows."""
        if self._closed:
            return
        self.close()
        self._connection.write(json.dumps({"id": self.id, "errno": errno, "error": text}))

    def close(self) -> None:
        """Nothing is sent any more."""
        self._closed = True
        self._connection.replies.pop(self.id, None)


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: LocalServer) -> None:
        self.server = server
        self.caller = f"local-{next(server.numbers)}"
        #: by id: those that are not answered yet
        self.replies: Dict[int, SocketReply] = {}
        self._transport: Optional[asyncio.Transport] = None
        self._buffer = bytearray()
        #: bytes of the buffer that are known to hold no end of a line
        self._searched = 0
        self._paused = False

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_PAUSE)
        self.server.connections.add(self)
        peer = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        uid = struct.unpack("3i", peer)[1]
        if uid != os.geteuid():
            self.refuse(errno.EPERM, "only the owner of this service is served here: run one of your own")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        guarded(self.server.log, self._take_lines)()

    def pause_writing(self) -> None:
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self.server.loop.call_soon(guarded(self.server.log, self._take_lines))

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self.server.connections.discard(self)
        self._transport = None
        for reply in list(self.replies.values()):
            reply.close()
            if reply.streaming:
                self.drop(reply)
        guarded(self.server.log, self.server.service.disconnect)(self.caller)

    # writing

    def unread(self) -> int:
        """Bytes that the client has not read, beyond what the kernel holds."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def write(self, line: str) -> None:
        """Send a line; harmless when the client is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(line.encode("utf-8", "replace") + b"\n")

    def refuse(self, number: int, text: str) -> None:
        """Answer what cannot be answered by id, and close the connection."""
        self.write(json.dumps({"id": None, "errno": number, "error": text}))
        self._buffer.clear()
        if self._transport is not None:
            self._transport.close()

    def drop(self, reply: SocketReply) -> None:
        """Tell the service that a stream is not wanted any more; later, for it may be in the middle of it."""
        self.server.loop.call_soon(guarded(self.server.log, self.server.service.disconnect), reply.caller)

    def finish(self) -> None:
        """Close the connection when all is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection now."""
        if self._transport is not None:
            self._transport.abort()

    # reading

    def _take_lines(self) -> None:
        while not self._paused and self._transport is not None and not self._transport.is_closing():
            end = self._buffer.find(b"\n", self._searched)
            if end > MAX_REQUEST or (end < 0 and len(self._buffer) > MAX_REQUEST):
                self.refuse(errno.EMSGSIZE, f"a request may have {MAX_REQUEST >> 20} MiB; this one is longer")
                return
            if end < 0:
                self._searched = len(self._buffer)
                return
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._searched = 0
            self._request(line)

    def _request(self, line: bytes) -> None:
        try:
            request = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            self.refuse(errno.EPROTO, "this request is not a line of JSON")
            return
        id = request.get("id") if isinstance(request, dict) else None
        if not isinstance(id, int) or isinstance(id, bool) or id in self.replies:
            self.refuse(errno.EPROTO, "a request is a JSON object with an id: a number that no open request has")
            return
        self.server.heard()
        if "cancel" in request:
            self._cancel(SocketReply(self, id, False), request["cancel"])
            return
        endpoint, payload = request.get("endpoint"), request.get("payload", {})
        reply = SocketReply(self, id, endpoint in STREAMING if isinstance(endpoint, str) else False)
        if not isinstance(endpoint, str) or endpoint not in ENDPOINTS:
            reply.error(errno.ENOSYS, f"the service knows no '{endpoint}': it has {', '.join(ENDPOINTS)}")
        elif not isinstance(payload, dict):
            reply.error(errno.EINVAL, f"'{endpoint}' needs a JSON object, not a {type(payload).__name__}")
        else:
            self.replies[id] = reply
            try:
                self.server.service.handle(endpoint, payload, reply)
            except Exception:
                reply.error(errno.EIO, f"'{endpoint}' failed by a fault of the service; its log has the traceback")
                raise

    def _cancel(self, answer: SocketReply, wanted: Any) -> None:
        stream = self.replies.get(wanted) if isinstance(wanted, int) else None
        if stream is None or not stream.streaming:
            answer.error(errno.ENOENT, f"no stream of this connection has the id {wanted}")
            return
        stream.end()
        self.drop(stream)
        answer.send({})


class LocalServer:
    """Listens at a socket of this user's and hands requests to one service."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop, log: Log) -> None:
        self.service = service
        self.loop = loop
        self.log = log
        self.connections: Set[Connection] = set()
        self.numbers = itertools.count(1)
        #: time of the loop at which the last request came
        self.last_request = loop.time()
        #: where it listens; None when it does not
        self.path: Optional[Path] = None
        self._server: Optional[asyncio.AbstractServer] = None

    def open(self) -> Path:
        """Listen; returns where. Raises ServiceError."""
        directory = make_socket_dir()
        for stale in remove_stale(directory):
            self.log(syslog.LOG_INFO, f"removed {stale}, which a dead service left")
        path = socket_path()
        if len(os.fsencode(path)) >= _MAX_PATH:
            raise ServiceError(f"the path of a socket is too long, {path}: set XDG_RUNTIME_DIR to a shorter one")
        # Under its final name it is there only once it listens: nobody may take it for a stale one.
        new = path.with_suffix(".new")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            new.unlink(missing_ok=True)
            listener.bind(str(new))
            new.chmod(0o600)
            listener.listen(100)
            self._server = self.loop.run_until_complete(
                self.loop.create_unix_server(lambda: Connection(self), sock=listener)
            )
            new.rename(path)
        except OSError as exc:
            listener.close()
            raise ServiceError(f"cannot listen at {path}: {exc.strerror or exc}", exc.errno) from exc
        self.path = path
        return path

    def heard(self) -> None:
        """A request has come."""
        self.last_request = self.loop.time()

    def hide(self) -> None:
        """Take no more connections, and remove the socket."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
            self.path = None
        if self._server is not None:
            self._server.close()
            self._server = None

    def close(self) -> None:
        """End all connections; those that read get what was answered. Not from inside the loop."""
        self.hide()
        for connection in list(self.connections):
            connection.finish()
        end = self.loop.time() + _FAREWELL
        while self.connections and self.loop.time() < end:
            self.loop.run_until_complete(asyncio.sleep(0.01))
        for connection in list(self.connections):
            connection.abort()
        self.loop.run_until_complete(asyncio.sleep(0))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
