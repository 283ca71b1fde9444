# SPDX-License-Identifier: MIT
"""The service: many ensembles over one member, and the requests that users send it.

Theory of operation. A transport (Flux RPC, or the local socket) calls `handle` for each request and `disconnect`
when a caller is gone; the member delivers events; both happen in one thread, the member's event loop. Everything
that comes in passes the one guard: whatever raises is logged, the request is answered, and the service goes on.
It is made of three layers, each in a file of its own: what it holds (`hosting.py`), the requests that it answers
(`endpoints.py`), and here its life, from start to stop.
"""

from __future__ import annotations

import errno
import syslog
import traceback
from typing import Any

from ensemble.engine.events import Begin, Frozen
from ensemble.errors import EnsembleError, ServiceError
from ensemble.service.endpoints import Endpoints
from ensemble.service.protocol import ENDPOINTS, Reply
from ensemble.service.recovery import damaged_status, take_up


class Service(Endpoints):
    """Hosts ensembles. One thread: the one that runs the member's event loop calls all of its methods."""

    def start(self) -> None:
        """Start the member and take up what the store holds. Raises MemberError."""
        for stored in self._store.load():
            self._stored[stored.id] = stored
            # a halted one may be resumed, and so needs its engine
            if stored.damaged is None and (stored.status or {}).get("state", "halted") == "halted":
                self._restore(stored)
            if stored.damaged is not None:
                self._log(syslog.LOG_ERR, f"ensemble {stored.id} is quarantined: {stored.damaged}")
                stored.status = damaged_status(stored)
            self._scaling.recall(stored.status or {})
            # what it took to get here is not needed again
            stored.snapshot, stored.events = None, []
        self._store.pressure = self._hold
        self._member.start(self.deliver)
        for running in list(self._running.values()):
            engine = running.engine
            if engine.t_frozen is None and 0.0 < engine.t < self._member.t_up:
                # the queue went down and nobody was there to see it: its shutdown has cancelled what it had
                running.feed(Frozen(engine.t))
            if running.engine.t_begin is None:
                # it was kept, and the service ended before its first event was
                if not running.seq:
                    running.announce(running.given["name"], running.given["file"])
                running.feed(Begin(running.given["t_submit"]))
            take_up(running, self._member)
            self._scaling.take_up(running.engine, running.submitter)
            if running.engine.final is not None:
                self._ended(running)
        self._scaling.start()
        ended = [
            stored for stored in self._stored.values() if stored.id not in self._running and stored.damaged is None
        ]
        self._member.clear({stored.id: list((stored.status or {}).get("members") or ()) for stored in ended})

    def handle(self, endpoint: str, payload: Any, reply: Reply) -> None:
        """Answer one request, now or later. Never raises."""
        try:
            take = getattr(self, f"_on_{endpoint}") if endpoint in ENDPOINTS else None
            if take is None:
                raise ServiceError(
                    f"no endpoint is called '{endpoint[:50]}'; there are {', '.join(ENDPOINTS)}", errno.ENOSYS
                )
            take(payload, reply)
        except ServiceError as exc:
            reply.error(exc.errno, str(exc))
        except EnsembleError as exc:
            reply.error(errno.EINVAL, str(exc))
        except Exception:
            self._log(syslog.LOG_ERR, f"request '{endpoint}' failed:\n{traceback.format_exc()}")
            reply.error(errno.EIO, f"request '{endpoint}' failed by a bug in ensemble; see the service's log")

    def disconnect(self, caller: str) -> None:
        """A caller is gone: end its streams. Never raises."""
        for running in self._running.values():
            running.watchers = [w for w in running.watchers if w.reply.caller != caller]

    def watch_cancel(self, caller: str, payload: Any) -> None:
        """End one stream of a caller, or all where `payload` is None; each is answered with the stream's end."""
        for running in self._running.values():
            for watcher in list(running.watchers):
                if watcher.reply.caller == caller and payload in (None, watcher.payload):
                    running.watchers.remove(watcher)
                    watcher.end()

    def freeze(self, reason: str) -> None:
        """The instance is going down: take in no request that acts, and let no rule act any more."""
        if self._frozen is None:
            self._frozen = reason
            self._member.freeze()
            self._scaling.freeze()
            # word of it may be late, and what it has cancelled meanwhile not be told yet
            now = min(self._clock(), self._t_told or self._clock())
            for running in self._running.values():
                # kept, so that what the shutdown cancels is not taken for the user's will after the restart;
                # what happened before this service was there may have been its doing too
                running.feed(Frozen(now if running.t_heard is None else running.t_heard))
                running.frozen = True
            if self.active:
                self._log(syslog.LOG_INFO, f"{reason}; ensembles left as they are: {self.active}")

    def stop(self) -> None:
        """End all streams, stop the member, close the store."""
        if self._keepalive is not None:
            self._keepalive.cancel()
        for running in self._running.values():
            running.stop(self._frozen)
        self._scaling.stop()
        self._member.stop()
        self._store.close()
