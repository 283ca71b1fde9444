# SPDX-License-Identifier: MIT
"""The service: many ensembles over one member, and the requests that users send it.

Theory of operation. A transport (Flux RPC, or the local socket) calls `handle` for each request and `disconnect`
when a caller is gone; the member delivers events; both happen in one thread, the member's event loop. Everything
that comes in passes the one guard: whatever raises is logged, the request is answered, and the service goes on.
What a request must hold stands in `protocol.py`, and is checked by `payloads.py`. It has more than 400 lines because
each endpoint is a method beside the state that it reads.
"""

from __future__ import annotations

import errno
import os
import secrets
import syslog
import time
import traceback
from typing import Any, Callable, Dict, Optional, Tuple

from ensemble import __version__
from ensemble.engine.ending import IN_DOUBT
from ensemble.engine.engine import Engine
from ensemble.engine.events import Begin, Command, Event, Frozen
from ensemble.errors import BadRequest, EnsembleError, MemberError, NotFound, ServiceError, SpecError
from ensemble.members.base import Member, Submitter, Timer
from ensemble.service import inbox
from ensemble.service.events import events
from ensemble.service.explaining import explained
from ensemble.service.payloads import (
    Events,
    Explain,
    Id,
    Jobs,
    Log,
    Nothing,
    Purge,
    Put,
    Resize,
    Resume,
    Signal,
    Since,
    Submission,
    parse,
)
from ensemble.service.protocol import ENDPOINTS, KEEPALIVE, Host, Reply
from ensemble.service.purge import purgeable, remove_all
from ensemble.service.recovery import bring_back, damaged_status, other_sampler, sampler, take_up
from ensemble.service.rows import held_count, held_rows
from ensemble.service.running import Running
from ensemble.service.scaling import Scaling
from ensemble.service.store import Store, Stored
from ensemble.service.watchers import Watcher
from ensemble.spec import sampling
from ensemble.spec.beside import Beside
from ensemble.spec.load import load
from ensemble.spec.models import Limits

#: letters of an id: none that look alike, no vowels that make words; the first is never a digit
_FIRST = "bcdfghjkmnpqrstvwxz"
_REST = _FIRST + "23456789"
_LENGTH = 6
#: rows looked at in one go
_ROWS = 10_000
#: streams open at a time
_WATCHERS = 1000


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
        #: the store is behind, and takes no more events
        self._full = False
        self._keepalive: Optional[Timer] = None
        self._endpoints: Dict[str, Callable[[Any, Reply], None]] = {
            name: getattr(self, f"_on_{name}") for name in ENDPOINTS
        }

    # ---- the outside

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

    @property
    def active(self) -> int:
        """Ensembles that have not ended."""
        return sum(running.engine.final is None for running in self._running.values())

    @property
    def watchers(self) -> int:
        """Streams that are open."""
        return sum(len(running.watchers) for running in self._running.values())

    def handle(self, endpoint: str, payload: Any, reply: Reply) -> None:
        """Answer one request, now or later. Never raises."""
        try:
            take = self._endpoints.get(endpoint)
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

    def deliver(self, id: str, event: Event) -> None:
        """An event for an ensemble, from the member. Never raises."""
        if self._frozen is not None:
            return
        running = self._running.get(id)
        if running is not None:
            running.feed(event)

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
            now = self._clock()
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

    # ---- requests

    def _on_submit(self, payload: Any, reply: Reply) -> None:
        self._may_act()
        request = parse(Submission, payload)
        try:
            member = self._member
            loaded = load(request.text, request.file, Beside(request.files), member.capabilities, site=member.site)
        except SpecError as exc:
            raise BadRequest(str(exc)) from None
        spec = loaded.spec
        if spec.members and not self._member.takes_members:
            raise BadRequest(
                f"{request.file}: members are Flux instances, and this service is in none: run inside one (flux start, "
                "flux alloc)"
            )
        seeds = sampling.draw(spec, secrets.randbelow)
        spec = sampling.seeded(spec, seeds)
        id = self._new_id()
        engine = Engine(spec, id)
        submitter = Submitter(**request.submitter.model_dump())
        try:
            self._member.open(id, spec, submitter, engine.wanted_events)
            self._member.hear(id, frozenset(engine.book.topics))
        except MemberError as exc:
            self._member.close(id)
            raise BadRequest(f"{request.file}: {exc}") from None
        given = {
            "version": __version__,
            "name": spec.name,
            "file": request.file,
            "text": request.text,
            # those that it names, and what algorithms stand for: a later release might expand them otherwise
            "files": loaded.files,
            "seeds": seeds,
            "sampler": sampler(spec),
            "submitter": request.submitter.model_dump(),
            "t_submit": self._clock(),
        }
        running = self._drive(engine, given)

        def created(error: Optional[str]) -> None:
            if error is not None:
                self._member.close(id)
                reply.error(errno.EIO, f"the ensemble could not be stored: {error}")
                return
            if self._frozen is not None:
                reply.error(errno.ESHUTDOWN, f"ensemble {id} is kept, and starts when the instance is up again")
                return
            self._stored[id] = Stored(id, given)
            self._running[id] = running
            reply.send({"id": id, "name": spec.name, "warnings": [str(warning) for warning in loaded.warnings]})
            running.announce(spec.name, request.file)
            running.feed(Begin(given["t_submit"]))

        self._store.create(id, given, created)

    def _on_list(self, payload: Any, reply: Reply) -> None:
        parse(Nothing, payload)
        reply.send({"ensembles": [self._summary(stored) for stored in self._stored.values()]})

    def _on_status(self, payload: Any, reply: Reply) -> None:
        stored, running = self._find(parse(Id, payload).id)
        if running is not None:
            reply.send(running.status())
        elif stored.status is not None:
            reply.send(stored.status)
        else:
            raise ServiceError(f"ensemble {stored.id} was not taken up again; see the service's log", errno.EAGAIN)

    def _on_jobs(self, payload: Any, reply: Reply) -> None:
        request = parse(Jobs, payload)
        stored, running = self._find(request.id)
        active = running.active_rows() if running is not None else []
        active.sort(key=_by_submission)
        if running is not None:
            # they have left the engine, and those who read the store do not find them yet
            active = [*running.leaving_rows(), *active]
        ended = self._store.row_count(stored.id)
        if request.group is None and ended > _ROWS:
            # too many to read them all for one page of them
            rows = self._store.rows(stored.id, request.start, request.max)
            rows += active[max(0, request.start - ended) :]
            total = ended + len(active)
        else:
            rows = []
            for start in range(0, ended, _ROWS):
                rows += self._store.rows(stored.id, start, _ROWS)
            if ended <= _ROWS:
                active = sorted([*rows, *active], key=_by_submission)
                rows = []
            rows = [row for row in (*rows, *active) if request.group in (None, row["group"])]
            total = len(rows)
            rows = rows[request.start :]
        rows = rows[: request.max]
        if running is not None:
            # of what is not submitted yet there may be any number
            begin, room = max(0, request.start - total), request.max - len(rows)
            rows += held_rows(running.engine, request.group, begin, room)
            total += held_count(running.engine, request.group)
        reply.send({"jobs": rows, "total": total})

    def _on_watch(self, payload: Any, reply: Reply) -> None:
        request = parse(Since, payload)
        stored, running = self._find(request.id)
        if self.watchers >= _WATCHERS:
            raise ServiceError(f"{_WATCHERS} streams are open, and there may be no more", errno.EMFILE)
        watcher = Watcher(reply, request.since, payload)
        if running is not None:
            running.watch(watcher)
            self._arm_keepalive()
            return
        watcher.tell(lambda since, most: self._store.records(stored.id, since, most))
        watcher.end()

    def _on_log(self, payload: Any, reply: Reply) -> None:
        request = parse(Log, payload)
        stored, _ = self._find(request.id)
        records = self._store.records(stored.id, request.since, request.max)
        reply.send({"records": records, "last": records[-1]["seq"] if records else request.since})

    def _on_explain(self, payload: Any, reply: Reply) -> None:
        request = parse(Explain, payload)
        stored, running = self._find(request.id)
        reply.send(explained(stored, running, self._store, request.rule, self._clock()))

    def _on_events(self, payload: Any, reply: Reply) -> None:
        request = parse(Events, payload)
        stored, running = self._find(request.id)
        summary = self._summary(stored)
        reply.send(events(stored, running, summary, self._store, request.after, request.max))

    def _on_cancel(self, payload: Any, reply: Reply) -> None:
        self._command(parse(Id, payload).id, "cancel", {}, reply)

    def _on_pause(self, payload: Any, reply: Reply) -> None:
        self._command(parse(Id, payload).id, "pause", {}, reply)

    def _on_resume(self, payload: Any, reply: Reply) -> None:
        request = parse(Resume, payload)
        stored, running = self._find(request.id)
        try:
            limits = Limits.given(request.limits)
        except ValueError as exc:
            raise BadRequest(str(exc)) from None
        if running is not None and "halted" in (running.engine.final, running.engine.ending) and not limits:
            reason = running.engine.reason or ""
            # a limit has to be raised; a doubt goes with the word alone
            if not reason.startswith(IN_DOUBT):
                raise BadRequest(f"ensemble {stored.id} is halted: {reason}")
        self._command(stored.id, "resume", {"limits": limits}, reply, revives=True)

    def _on_resize(self, payload: Any, reply: Reply) -> None:
        request = parse(Resize, payload)
        if not request.by:
            raise BadRequest("a queue that is to change its size does so by one node or more")
        name = "grow" if request.by > 0 else "shrink"
        running = self._find(request.id)[1]
        if running is not None:
            try:
                self._scaling.able(running.engine, name)
            except MemberError as exc:
                raise ServiceError(str(exc), errno.EOPNOTSUPP) from None
        self._command(request.id, "resize", {"by": request.by}, reply)

    def _on_purge(self, payload: Any, reply: Reply) -> None:
        self._may_act()
        request = parse(Purge, payload)
        asked = [self._find(id)[0] for id in request.ids] if request.ids else list(self._stored.values())
        found = {stored.id: self._summary(stored) for stored in asked}
        chosen = purgeable(
            list(found.values()), self._clock(), request.older_than, request.keep, named=bool(request.ids)
        )
        stored = {summary["id"]: self._stored.pop(summary["id"]) for summary in chosen}
        for id in stored:
            running = self._running.pop(id, None)
            if running is not None:
                self._scaling.release(id)
                self._member.close(id)
                running.stop()

        def removed(errors: Dict[str, str]) -> None:
            self._stored.update((id, stored[id]) for id in errors)
            if errors:
                first = next(iter(errors.values()))
                reply.error(errno.EIO, f"{len(errors)} of {len(stored)} ensembles could not be removed: {first}")
            else:
                reply.send({"removed": chosen})

        remove_all(self._store, list(stored), removed)

    def _on_put(self, payload: Any, reply: Reply) -> None:
        self._may_act()
        request = parse(Put, payload)
        key = inbox.key_of(request)
        if key.ensemble not in self._stored:
            raise NotFound(f"ensemble {key.ensemble} is not known here")
        inbox.put(self._active(key.ensemble), request, key, self._clock(), reply)

    def _on_signal(self, payload: Any, reply: Reply) -> None:
        self._may_act()
        request = parse(Signal, payload)
        inbox.signal(self._active(request.id), request, self._clock(), reply)

    def _on_stats(self, payload: Any, reply: Reply) -> None:
        parse(Nothing, payload)
        reply.send(
            {
                "host": self._host.kind,
                "pid": os.getpid(),
                "supervisor_pid": self._host.supervisor_pid if self._host.supervised() else None,
                "version": __version__,
                "t_start": self._t_start,
                "restarts": self._host.restarts,
                "ensembles": len(self._stored),
                "active": self.active,
                "watchers": self.watchers,
                "member": self._member.name,
                "capabilities": sorted(self._member.capabilities),
            }
        )

    def _on_quit(self, payload: Any, reply: Reply) -> None:
        parse(Nothing, payload)
        reply.send({})
        self._member.call_at(self._clock(), self._quit)

    def _command(self, id: str, name: str, data: Dict[str, Any], reply: Reply, revives: bool = False) -> None:
        self._may_act()
        stored, running = self._find(id)
        state = running.engine.final if running is not None else (stored.status or {}).get("state")
        if running is None or (state is not None and not (revives and state == "halted" and running.broken is None)):
            raise BadRequest(f"ensemble {stored.id} ({stored.given['name']}) has ended: {state}")
        if revives and state == "halted":
            stored.status = None
            self._store.end(stored.id, None, lambda error: None)
        running.feed(
            Command(self._clock(), name, data),
            then=lambda: reply.send({"id": stored.id, "state": running.engine.state}),
        )

    # ---- within

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


_SUMMARY = ("id", "name", "state", "reason", "t_submit", "t_end", "jobs")


def _by_submission(row: Dict[str, Any]) -> Tuple[bool, float, int, int]:
    """Where a job's row stands among those that are told in order of submission."""
    return (row["t_submit"] is None, row["t_submit"] or 0.0, row["firing"], row["index"])
