# SPDX-License-Identifier: MIT
"""What a service holds, and how an ensemble is found, driven, kept and let go: the state under `endpoints.py` and `core.py`.

Law of this file: it knows ensembles, and neither requests nor transports.
"""

from __future__ import annotations

import errno
import secrets
import syslog
import time
import traceback
from typing import Any, Callable, Dict, Optional, Tuple

from ensemble.engine.engine import Engine
from ensemble.engine.events import Event, JobEvent
from ensemble.errors import BadRequest, NotFound, ServiceError
from ensemble.members.base import Member, Timer
from ensemble.service.protocol import KEEPALIVE, Host
from ensemble.service.recovery import bring_back, other_sampler
from ensemble.service.running import Running
from ensemble.service.scaling import Scaling
from ensemble.service.store import Store, Stored

#: letters of an id: none that look alike, no vowels that make words; the first is never a digit
_FIRST = "bcdfghjkmnpqrstvwxz"
_REST = _FIRST + "23456789"
_LENGTH = 6

_SUMMARY = ("id", "name", "state", "reason", "t_submit", "t_end", "jobs")


class Hosting:
    """The ensembles of one service, with its member and its store."""

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
        self._member = member
        self._store = store
        self._host = host
        self._log = log
        self._quit = on_quit
        self._clock = clock
        self._t_start = clock()
        #: those that have not ended, and halted ones, which may carry on; in order of submission
        self._running: Dict[str, Running] = {}
        self._stored: Dict[str, Stored] = {}
        self._scaling = Scaling(member, self.deliver, log, clock)
        self._frozen: Optional[str] = None
        #: when the latest of the jobs' events that were told happened; 0 before the first
        self._t_told = 0.0
        #: the store is behind, and takes no more events
        self._full = False
        self._keepalive: Optional[Timer] = None

    @property
    def active(self) -> int:
        """Ensembles that have not ended."""
        return sum(running.engine.final is None for running in self._running.values())

    @property
    def watchers(self) -> int:
        """Streams that are open."""
        return sum(len(running.watchers) for running in self._running.values())

    def deliver(self, id: str, event: Event) -> None:
        """An event for an ensemble, from the member. Never raises."""
        if self._frozen is not None:
            return
        running = self._running.get(id)
        if running is not None:
            if type(event) is JobEvent and event.t > self._t_told:
                self._t_told = event.t
            running.feed(event)

    def _active(self, wanted: str) -> Running:
        """The ensemble, which has not ended. Raises NotFound, or BadRequest for one that has."""
        stored, running = self._find(wanted)
        if running is None or running.engine.final is not None:
            state = running.engine.final if running is not None else (stored.status or {}).get("state")
            raise BadRequest(f"ensemble {stored.id} ({stored.given['name']}) has ended: {state}")
        return running

    def _drive(self, engine: Engine, given: Dict[str, Any]) -> Running:
        return Running(
            engine,
            given,
            self._member,
            self._store,
            self._scaling,
            log=self._log,
            clock=self._clock,
            on_end=self._ended,
        )

    def _restore(self, stored: Stored) -> None:
        try:
            running = self._running[stored.id] = bring_back(stored, self._member, self._drive)
            other = other_sampler(running)
            if other:
                self._log(syslog.LOG_WARNING, f"ensemble {stored.id}: {other}")
        except Exception as exc:
            self._log(syslog.LOG_ERR, traceback.format_exc())
            self._member.close(stored.id)
            stored.damaged = f"it cannot be brought back ({type(exc).__name__}: {exc})"

    def _ended(self, running: Running) -> None:
        """An ensemble has come to its end: keep its last picture, and let go of its engine unless it may carry on."""
        status = running.status()
        stored = self._stored[running.id]
        stored.status = status

        def kept(error: Optional[str]) -> None:
            if error is not None:
                self._log(syslog.LOG_ERR, f"the end of ensemble {running.id} could not be stored: {error}")

        self._store.end(running.id, status, kept)
        self._scaling.release(running.id)
        if running.lingers:
            return
        self._member.close(running.id)
        running.stop()
        self._running.pop(running.id, None)

    def _summary(self, stored: Stored) -> Dict[str, Any]:
        if stored.id in self._running:
            return self._running[stored.id].summary()
        assert stored.status is not None, "what has no engine has ended"
        return {name: stored.status[name] for name in _SUMMARY}

    def _find(self, wanted: str) -> Tuple[Stored, Optional[Running]]:
        """The ensemble of that id, else the latest of that name, else the one whose id begins so."""
        stored = self._stored.get(wanted)
        if stored is None:
            named = [s for s in self._stored.values() if s.given["name"] == wanted]
            begin = [s for s in self._stored.values() if s.id.startswith(wanted)]
            if named:
                stored = named[-1]
            elif len(begin) == 1:
                stored = begin[0]
            elif begin:
                raise NotFound(f"'{wanted}' may be any of {', '.join(s.id for s in begin[:10])}; give more of the id")
            else:
                raise NotFound(f"no ensemble has the id or name '{wanted}'; the verb 'list' shows those there are")
        return stored, self._running.get(stored.id)

    def _hold(self, full: bool) -> None:
        """The store has more to write than it should, or that is over."""
        self._full = full
        if full:
            self._log(
                syslog.LOG_WARNING, "the store is behind with its writing: events are held until it has caught up"
            )
        else:
            self._log(syslog.LOG_NOTICE, "the store has caught up: events are taken again")
        self._member.hold(full)

    def _may_act(self) -> None:
        if self._frozen is not None:
            raise ServiceError(f"nothing can be done now: {self._frozen}", errno.ESHUTDOWN)
        if self._full:
            raise ServiceError("nothing can be done now: the store is behind with its writing; try again", errno.EAGAIN)

    def _new_id(self) -> str:
        while True:
            id = secrets.choice(_FIRST) + "".join(secrets.choice(_REST) for _ in range(_LENGTH - 1))
            if id not in self._stored:
                return id

    def _arm_keepalive(self) -> None:
        if self._keepalive is None:
            self._keepalive = self._member.call_at(self._clock() + KEEPALIVE, self._beat)

    def _beat(self) -> None:
        self._keepalive = None
        watched = [running for running in self._running.values() if running.watchers]
        for running in watched:
            running.keepalive()
        if watched:
            self._arm_keepalive()
