# SPDX-License-Identifier: MIT
"""A service of the server's own, whose jobs run in a queue elsewhere (`--member remote`).

How it works. One thread runs a loop with the service, its store and its member, as the host of the local queue does;
nothing blocks it. gRPC's threads hand requests over and wait for the answers; lines of members are handed over
event by event, and no faster than the service takes them.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import itertools
import os
import queue
import secrets
import syslog
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

from ensemble.errors import EnsembleError, ServiceError, ServiceLost, service_error
from ensemble.members.guard import Log, guarded
from ensemble.members.remote import RemoteMember
from ensemble.service.core import Service
from ensemble.service.file_store import FileStore
from ensemble.service.protocol import Host, Reply

#: seconds for an answer
_PATIENCE = 30.0
#: seconds between two looks whether a stream is wanted
_TICK = 0.5
#: answers of a stream that may wait for its reader
_UNREAD = 64


class _Reply(Reply):
    """The way back into the thread that asked."""

    def __init__(self, caller: str) -> None:
        self.caller = caller
        #: answer, or errno and sentence
        self.answers: queue.Queue[Tuple[Optional[Dict[str, Any]], int, str]] = queue.Queue()
        self._over = False

    def send(self, payload: Dict[str, Any]) -> None:
        if not self._over:
            self.answers.put((payload, 0, ""))
            if self.answers.qsize() > _UNREAD:
                self.error(errno.EOVERFLOW, "the stream is not read")

    def error(self, errno: int, text: str) -> None:
        if not self._over:
            self._over = True
            self.answers.put((None, errno, text))


class HostedService:
    """Stands where `backend.Backend` does."""

    kind = "remote"

    def __init__(self, name: str, folder: Path, log: Log) -> None:
        """The service of the member of that name, kept in `folder`."""
        self._folder = folder
        self._log = log
        self._name = name
        self._callers = itertools.count(1)
        self.loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, name="service", daemon=True)
        self.member: RemoteMember
        self._service: Service

    def start(self) -> Dict[str, Any]:
        """Take up what the folder holds; the service's `stats`. Raises EnsembleError."""
        self._thread.start()
        self._ready.wait()
        if isinstance(self._error, EnsembleError):
            raise self._error
        if self._error is not None:
            raise ServiceLost(f"the service did not start: {self._error!r}")
        return self.call("stats")

    def call(self, endpoint: str, payload: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
        """The answer to one request. Raises EnsembleError."""
        reply = _Reply(f"grpc/{next(self._callers)}")
        self.hand(lambda: self._service.handle(endpoint, payload or {}, reply))
        try:
            return _checked(*reply.answers.get(timeout=_PATIENCE))
        except queue.Empty:
            raise ServiceLost(f"the service did not answer within {_PATIENCE:g} s: try again") from None

    def watch(self, id: str, since: int, wanted: Callable[[], bool]) -> Iterator[Dict[str, Any]]:
        """The records after `since`, until the end of the ensemble, or nobody wants them. Raises EnsembleError."""
        id = str(self.call("status", {"id": id})["id"])
        while wanted():
            reply = _Reply(f"grpc/{next(self._callers)}")
            asked = {"id": id, "since": since}
            self.hand(lambda reply=reply, asked=asked: self._service.handle("watch", asked, reply))  # type: ignore[misc]
            try:
                while wanted():
                    try:
                        payload, number, text = reply.answers.get(timeout=_TICK)
                    except queue.Empty:
                        if not self._thread.is_alive():
                            raise ServiceLost(f"the service has ended; watch again with since: {since}") from None
                        continue
                    if number == errno.ENODATA:
                        return
                    if number == errno.EOVERFLOW:
                        break
                    for record in _checked(payload, number, text).get("records", ()):
                        since = max(since, int(record["seq"]))
                        yield record
            finally:
                self.hand(lambda reply=reply: self._service.disconnect(reply.caller))  # type: ignore[misc]

    def hand(self, call: Callable[[], Any]) -> None:
        """Have this called by the service's thread. Raises ServiceLost where that has ended."""
        try:
            self.loop.call_soon_threadsafe(guarded(self._log, call))
        except RuntimeError:
            raise ServiceLost("the server is stopping: try again when it is back") from None

    def stop(self) -> None:
        """End the service; jobs go on where they run."""

        def end() -> None:
            self._service.stop()
            self.loop.stop()

        if self._thread.is_alive():
            self.hand(end)
            self._thread.join(_PATIENCE)

    def _run(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # held as long as this process lives
            self._lock = os.open(self._folder / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ServiceError(
                    f"another server has its ensembles in {self._folder}: end it, or name another folder with --rundir",
                    errno.EBUSY,
                ) from None
            store = FileStore(self._folder, self.loop.call_later, self._log, None)
            for id in store.ids():
                store.lock(id)
            self.member = RemoteMember(
                self._name,
                self._folder,
                self.loop,
                self._log,
                secrets.token_hex(6),
                lambda ensemble: store.trouble(ensemble) is None,
            )
            self._service = Service(
                self.member, store, Host("process"), log=self._log, on_quit=lambda: self.loop.stop()
            )
            self._service.start()
        except BaseException as exc:
            self._error = exc
            self._ready.set()
            return
        self._ready.set()
        self.loop.set_exception_handler(self._on_exception)
        self.loop.run_forever()
        self.loop.close()

    def _on_exception(self, _loop: asyncio.AbstractEventLoop, context: Dict[str, Any]) -> None:
        self._log(syslog.LOG_ERR, f"{context.get('message')}, going on: {context.get('exception')!r}")


def _checked(payload: Optional[Dict[str, Any]], number: int, text: str) -> Dict[str, Any]:
    if payload is None:
        raise service_error(number, text)
    return payload
