# SPDX-License-Identifier: MIT
"""The endpoints of the service: a method each, which answers or refuses one request.

What a request must hold stands in `protocol.py`, and is checked by `payloads.py`. A method that raises has its request
refused by `core.py`, with the sentence of the error.
"""

from __future__ import annotations

import errno
import os
import secrets
from typing import Any, Dict, Optional, Tuple

from ensemble import __version__
from ensemble.engine.ending import IN_DOUBT
from ensemble.engine.engine import Engine
from ensemble.engine.events import Begin, Command
from ensemble.errors import BadRequest, MemberError, NotFound, ServiceError, SpecError
from ensemble.members.base import Submitter
from ensemble.service import inbox
from ensemble.service.events import events
from ensemble.service.explaining import explained
from ensemble.service.hosting import Hosting
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
from ensemble.service.protocol import Reply
from ensemble.service.purge import purgeable, remove_all
from ensemble.service.recovery import sampler
from ensemble.service.rows import held_count, held_rows
from ensemble.service.store import Stored
from ensemble.service.watchers import Watcher
from ensemble.spec import sampling
from ensemble.spec.beside import Beside
from ensemble.spec.load import load
from ensemble.spec.models import Limits

#: rows looked at in one go
_ROWS = 10_000
#: streams open at a time
_WATCHERS = 1000


class Endpoints(Hosting):
    """Answers requests. `_on_NAME(payload, reply)` is the endpoint of that name."""

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


def _by_submission(row: Dict[str, Any]) -> Tuple[bool, float, int, int]:
    """Where a job's row stands among those that are told in order of submission."""
    return (row["t_submit"] is None, row["t_submit"] or 0.0, row["firing"], row["index"])
