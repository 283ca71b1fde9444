# SPDX-License-Identifier: MIT
"""Reaches the services of the local queue: each has a unix socket `PID.sock` in `socket_dir()`.

`LocalConnection` talks to one of them. `LocalClient` stands for all that are alive: it lists the ensembles of all,
and sends a request about one ensemble to the service that knows it. A socket that nobody listens on is what a dead
service left, and is ignored.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import stat
import time
from collections import deque
from pathlib import Path
from typing import Any, Deque, Dict, Iterator, List, Optional

from ensemble.errors import MemberError, NoService, NotFound, ServiceLost, service_error
from ensemble.service.client import TIMEOUT, Client
from ensemble.service.protocol import KEEPALIVE


def socket_dir() -> Path:
    """Where the local services of this user have their sockets. It need not exist."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "ensemble" if runtime else Path(f"/tmp/ensemble-{os.getuid()}")


def sockets() -> List[Path]:
    """The sockets that are there, alive or not, oldest first. Raises MemberError where the directory is not ours."""
    directory = socket_dir()
    try:
        info = os.lstat(directory)
    except FileNotFoundError:
        return []
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        raise MemberError(f"{directory} is not a directory of yours; set XDG_RUNTIME_DIR to one that is")
    found = []
    for path in directory.glob("*.sock"):
        try:
            found.append((path.lstat().st_mtime, path))
        except FileNotFoundError:
            continue
    return [path for _, path in sorted(found)]


class LocalConnection(Client):
    """A connection to one local service. Answers to other requests that come in between are kept for their turn."""

    member = "local"

    def __init__(self, path: Path) -> None:
        """Raises NoService if nobody listens there."""
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(10.0)
        try:
            self._socket.connect(str(path))
        except OSError as exc:
            self._socket.close()
            raise NoService(f"no local service listens at {path} ({exc.strerror or exc})") from None
        self._buffer = bytearray()
        self._answers: Dict[int, Deque[Dict[str, Any]]] = {}
        self._last = 0

    def call(self, endpoint: str, payload: Optional[Dict[str, Any]] = None, timeout: float = TIMEOUT) -> Dict[str, Any]:
        request = self._send(endpoint, payload)
        give_up = time.monotonic() + timeout
        try:
            while True:
                answer = self._next(request, 0.25)
                if answer is not None:
                    return _checked(answer)
                if time.monotonic() > give_up:
                    raise ServiceLost(f"the local service at {self.path} did not answer within {timeout:g} s")
        finally:
            self._answers.pop(request, None)

    def stream(
        self, endpoint: str, payload: Optional[Dict[str, Any]] = None, tick: float = 0.25
    ) -> Iterator[Optional[Dict[str, Any]]]:
        request = self._send(endpoint, payload)
        heard = time.monotonic()
        try:
            while True:
                answer = self._next(request, tick)
                if answer is None:
                    if time.monotonic() - heard > 3 * KEEPALIVE:
                        raise ServiceLost(f"the local service has been silent for {3 * KEEPALIVE:g} s")
                    yield None
                    continue
                if answer.get("errno") == errno.ENODATA:
                    return
                result = _checked(answer)
                yield result
                # the time that the caller took is not the service's silence
                heard = time.monotonic()
        finally:
            self._answers.pop(request, None)

    def close(self) -> None:
        self._socket.close()

    def _send(self, endpoint: str, payload: Optional[Dict[str, Any]]) -> int:
        self._last += 1
        self._answers[self._last] = deque()
        line = json.dumps({"id": self._last, "endpoint": endpoint, "payload": payload or {}}) + "\n"
        try:
            self._socket.settimeout(TIMEOUT)
            self._socket.sendall(line.encode())
        except OSError as exc:
            raise self._lost(exc.strerror or str(exc)) from None
        return self._last

    def _next(self, request: int, seconds: float) -> Optional[Dict[str, Any]]:
        """The next answer to that request, or None if none came within so many seconds."""
        until = time.monotonic() + seconds
        while True:
            if self._answers[request]:
                return self._answers[request].popleft()
            left = until - time.monotonic()
            try:
                ready, _, _ = select.select([self._socket], [], [], max(0.0, left))
                if not ready:
                    return None
                data = self._socket.recv(1 << 16)
            except (OSError, ValueError) as exc:
                raise self._lost(str(exc)) from None
            if not data:
                raise self._lost("it closed the connection")
            self._buffer += data
            *lines, rest = self._buffer.split(b"\n")
            self._buffer = rest
            for line in lines:
                self._sort_in(line)

    def _sort_in(self, line: bytearray) -> None:
        try:
            answer = json.loads(line)
            queue = self._answers.get(answer["id"])
        except (ValueError, KeyError, TypeError):
            raise self._lost("what it sent makes no sense") from None
        if queue is not None:
            queue.append(answer)

    def _lost(self, why: str) -> ServiceLost:
        return ServiceLost(f"the local service at {self.path} is gone ({why})")


def _checked(answer: Dict[str, Any]) -> Dict[str, Any]:
    if "errno" in answer:
        raise service_error(int(answer["errno"]), str(answer.get("error") or os.strerror(int(answer["errno"]))))
    result = answer.get("ok")
    return result if isinstance(result, dict) else {}


class LocalClient(Client):
    """All local services of this user that are alive."""

    member = "local"

    def __init__(self) -> None:
        """Raises NoService if none is alive."""
        self.connections: List[LocalConnection] = []
        for path in sockets():
            try:
                self.connections.append(LocalConnection(path))
            except NoService:
                continue
        if not self.connections:
            raise NoService(
                "no local service is running; 'ensemble run FILE' starts one, and so does 'ensemble submit FILE'"
            )

    def call(self, endpoint: str, payload: Optional[Dict[str, Any]] = None, timeout: float = TIMEOUT) -> Dict[str, Any]:
        payload = payload or {}
        if endpoint == "list":
            return {"ensembles": self._list(timeout)}
        return self._which(payload).call(endpoint, payload, timeout)

    def stream(
        self, endpoint: str, payload: Optional[Dict[str, Any]] = None, tick: float = 0.25
    ) -> Iterator[Optional[Dict[str, Any]]]:
        payload = payload or {}
        return self._which(payload).stream(endpoint, payload, tick)

    def close(self) -> None:
        for connection in self.connections:
            connection.close()

    def _list(self, timeout: float) -> List[Dict[str, Any]]:
        found: List[Dict[str, Any]] = []
        for connection in list(self.connections):
            try:
                found += connection.call("list", {}, timeout)["ensembles"]
            except ServiceLost:
                # one that ends while we ask has nothing to show any more
                self.connections.remove(connection)
        return sorted(found, key=lambda summary: summary.get("t_submit") or 0.0)

    def _which(self, payload: Dict[str, Any]) -> LocalConnection:
        """The service that the request is for: the one that knows the ensemble, the newest if it names none."""
        wanted = payload.get("id")
        if wanted is None or len(self.connections) == 1:
            return self.connections[-1]
        known = []
        refusal: Optional[NotFound] = None
        for connection in self.connections:
            try:
                known.append((connection.call("status", {"id": wanted}), connection))
            except NotFound as exc:
                refusal = exc
            except ServiceLost:
                continue
        if not known:
            raise refusal or NotFound(f"no ensemble is called '{wanted}'")
        exact = [entry for entry in known if entry[0]["id"] == wanted]
        named = [entry for entry in known if entry[0]["name"] == wanted]
        if exact or len(known) == 1:
            return (exact or known)[0][1]
        if named:
            return max(named, key=lambda entry: float(entry[0].get("t_submit") or 0.0))[1]
        ids = ", ".join(entry[0]["id"] for entry in known)
        raise NotFound(f"'{wanted}' is the beginning of more than one id: {ids}")
