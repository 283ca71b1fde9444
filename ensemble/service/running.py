# SPDX-License-Identifier: MIT
"""One ensemble on its way: an event goes through the engine, then the store, then out to the member.

Law of this file: that path, and nothing that touches two ensembles. An event that the engine rejects is dropped and
told in the ensemble's log; an engine that breaks is quarantined, so that neither the service nor another ensemble is
hurt by it. It has more than 400 lines because each step of that path changes the same state.
"""

from __future__ import annotations

import errno
import syslog
import traceback
from typing import Any, Callable, Dict, List, Optional, Set

from ensemble.engine import resources
from ensemble.engine.actions import (
    FOR_MEMBER,
    Action,
    Call,
    Cancel,
    Cause,
    Finished,
    Kill,
    Record,
    Resize,
    SetTimer,
    Size,
    Submit,
    Urgency,
)
from ensemble.engine.engine import Engine
from ensemble.engine.events import (
    Acknowledged,
    Event,
    InDoubt,
    JobEvent,
    Key,
    Recovered,
    Refused,
    TimerExpired,
    to_json,
)
from ensemble.engine.snapshot import snapshot
from ensemble.errors import TransitionError
from ensemble.members.base import Member, Submitter, Timer
from ensemble.service.calling import Calling
from ensemble.service.scaling import Scaling
from ensemble.service.store import Commit, Snapshot, Store
from ensemble.service.watchers import Watcher, is_end

#: seconds for which records are gathered before they go to the watchers
_GATHER = 0.05
#: seconds between two pictures of the counts for watchers
_PICTURE = 0.5
#: events after which the engine's state is kept, so that a restart need not replay them
_SNAPSHOT = 500
#: events that a queue tells again where they were lost in a crash
_TOLD_AGAIN = (JobEvent, Acknowledged)
#: actions upon one event that the member hears of before they are kept
_FORESEEN = 16
#: counts that people see
SHOWN = ("submitted", "pending", "running", "active", "finished", "success", "failed", "cancelled", "retried")


#: how the reason of a quarantine begins
BROKEN = "an error inside ensemble"
_QUARANTINED = Cause(None, 0, "its ensemble is quarantined")


class Running:
    """Drives one engine."""

    def __init__(
        self,
        engine: Engine,
        given: Dict[str, Any],
        member: Member,
        store: Store,
        scaling: Scaling,
        *,
        log: Callable[[int, str], None],
        clock: Callable[[], float],
        on_end: Callable[[Running], None],
    ) -> None:
        self.engine = engine
        self.id = engine.id
        #: what was submitted: name, file, text, submitter, t_submit
        self.given = given
        self.watchers: List[Watcher] = []
        #: seq of the last record
        self.seq = 0
        #: events consumed, ours included
        self.number = 0
        self._snapped = 0
        #: why it was quarantined; None for a sound one
        self.broken: Optional[str] = None
        #: it has ended, and the store has its last line: until then those who watch wait for more
        self.over = False
        #: number of the latest event that ended it
        self._last = 0
        #: of one taken up again, until the member has told its past: when it was last heard of
        self.t_heard: Optional[float] = None
        #: the instance goes down: nothing acts any more, be it an event or a timer
        self.frozen = False
        #: submissions that the member has and has not answered; after a quarantine their jobs are cancelled
        self.unanswered: Set[Key] = set()
        self._member = member
        self._store = store
        self._scaling = scaling
        self._log = log
        self.clock = clock
        self._on_end = on_end
        self._timers: Dict[str, Timer] = {}
        self._flush: Optional[Timer] = None
        self._pictured = 0.0
        self._changed = False
        #: number of a commit that is not done yet -> rows that have left the engine and are not in the store
        self.leaving: Dict[int, List[Dict[str, Any]]] = {}
        self.calling = Calling(self, member, store, log)

    @property
    def submitter(self) -> Submitter:
        """Where the user stood who submitted it."""
        return Submitter(**self.given["submitter"])

    # ---- events in, actions out

    def announce(self, name: str, file: str) -> None:
        """Write the first record: what was submitted."""
        given = {"id": self.id, "name": name, "file": file, "debug": self.engine.spec.logging.debug}
        self.note([Record(self.given["t_submit"], "submitted", given)])

    def feed(self, event: Event, then: Callable[[], None] = lambda: None) -> None:
        """Take one event along the whole path; `then` is called once it is kept. Never raises."""
        if self.frozen:
            then()
            return
        if isinstance(event, Recovered):
            self.t_heard = None
        try:
            if self.broken is None:
                self._take(event, then)
            else:
                then()
            self._answered(event)
        except Exception as exc:
            self._quarantine(exc)
            then()

    def _take(self, event: Event, then: Callable[[], None]) -> None:
        try:
            actions = self.engine.handle(event)
        except TransitionError as exc:
            self._log(syslog.LOG_ERR, f"ensemble {self.id}: {exc}; the event is dropped")
            actions = [Record(self.clock(), "error", {"text": f"{exc}; the event was dropped", "rule": None})]
        self.calling.follow()
        records: List[Dict[str, Any]] = []
        rows: List[Dict[str, Any]] = []
        intents: List[str] = []
        todo: List[Action] = []
        for action in actions:
            if isinstance(action, Record):
                records.append(self._numbered(action, self.seq + len(records) + 1))
            elif isinstance(action, Finished):
                rows.append(self.shown_row(action.row))
            elif isinstance(action, SetTimer):
                todo.append(action)
            else:
                intents.append(intent(action))
                todo.append(action)

        number = self.number + 1

        def committed(error: Optional[str]) -> None:
            self.leaving.pop(number, None)
            if self.broken is not None:
                then()
                return
            try:
                if error is not None:
                    raise RuntimeError(f"the store could not keep an event: {error}")
                then()
                for action in todo:
                    self._perform(action)
                todo.clear()
                if records or rows:
                    self._changed = True
                    self._gather()
                if ended == self._last and self.engine.final is not None:
                    self.over = True
                    self.calling.stop()
                    self.flush()
                    self._on_end(self)
            except Exception as exc:
                self._quarantine(exc)

        self.seq += len(records)
        self.number = number
        # a halted one may be resumed and halt again, by one event or before the first end is kept
        ended = number if any(is_end(record) for record in records) else -1
        self._last = max(self._last, ended)
        self.over = self.over and self.engine.final is not None
        if rows:
            self.leaving[number] = rows
        patient = not todo and ended != number and isinstance(event, _TOLD_AGAIN)
        self._store.commit(self.id, Commit(number, to_json(event), intents, records, rows, patient), committed)
        if self.broken is not None or self.engine.final not in (None, "halted"):
            # nothing follows, and the store may have let go of it
            return
        # while the store writes
        for action in todo[:_FORESEEN]:
            if isinstance(action, Submit):
                self._member.foresee(self.id, action)
        # a snapshot costs what is active, and so comes the later the more that is
        if self.number - self._snapped >= max(_SNAPSHOT, 2 * len(self.engine.jobs)):
            self._snapped = self.number
            self._store.snapshot(self.id, Snapshot(self.number, self.seq, snapshot(self.engine)))

    def _perform(self, action: Action) -> None:
        if self.frozen:
            return
        if isinstance(action, SetTimer):
            self.set_timer(action.timer, action.at)
        elif isinstance(action, Resize):
            self._scaling.ask(self.engine, self.submitter, action)
        elif isinstance(action, Size):
            self._scaling.want(self.engine, self.submitter, action)
        elif isinstance(action, FOR_MEMBER):
            self._member.perform(self.id, action)
            if isinstance(action, Submit):
                self.unanswered.add(action.key)
        elif isinstance(action, Call):
            self.calling.call(action.call)

    def note(self, lines: List[Record], then: Callable[[Optional[str]], None] = lambda error: None) -> None:
        """Keep lines that no event has caused, and show them; `then` is called once they are kept, or cannot be."""
        records = [self._numbered(record, self.seq + n) for n, record in enumerate(lines, 1)]
        self.seq += len(records)
        self.number += 1

        def kept(error: Optional[str]) -> None:
            self._changed = True
            self._gather()
            then(error)

        self._store.commit(self.id, Commit(self.number, [], [], records, []), kept)

    def set_timer(self, name: str, at: float) -> None:
        """Deliver `TimerExpired(name)` at `at`; a timer of that name is replaced."""
        old = self._timers.pop(name, None)
        if old is not None:
            old.cancel()
        if name == resources.TIMER:
            # the queue is waited for from now on, also where what happened is told late, as after a restart
            at = max(at, self.clock() + resources.PATIENCE)

        def expired() -> None:
            self._timers.pop(name, None)
            self.feed(TimerExpired(max(self.clock(), at), name))

        self._timers[name] = self._member.call_at(at, expired)

    def _quarantine(self, exc: Exception) -> None:
        """Something broke: tell it, cancel the ensemble's jobs, and leave the rest of the service alone. Never raises."""
        text = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
        if self.broken is not None:
            self._log(syslog.LOG_ERR, f"ensemble {self.id}, quarantined before:\n{text}")
            return
        self._log(syslog.LOG_ERR, f"ensemble {self.id} is quarantined:\n{text}")
        self.broken = f"{BROKEN} ({type(exc).__name__}: {exc}); this is a bug, please report it"
        try:
            self._bury()
        except Exception:
            self._log(syslog.LOG_ERR, f"ensemble {self.id} could not be put away:\n{traceback.format_exc()}")

    def _bury(self) -> None:
        now = self.clock()
        self.engine.final, self.engine.ending, self.engine.t_end = "failed", None, now
        self.engine.reason = self.broken
        last = [
            Record(now, "error", {"text": self.broken, "rule": None}),
            Record(now, "state", {"state": "failed", "reason": self.broken}),
        ]
        self.calling.stop()
        ids = [job.id for job in self.engine.jobs.values() if job.id is not None]

        def buried(error: Optional[str]) -> None:
            try:
                for id in ids:
                    self._member.perform(self.id, Cancel(id, _QUARANTINED))
            except Exception as exc:
                self._quarantine(exc)
            self.over = True
            self.flush()
            self._on_end(self)

        self.note(last, buried)

    def _answered(self, event: Event) -> None:
        """Of a quarantined ensemble the jobs that come into being are ended, and with the last one it is put away."""
        if not isinstance(event, (Acknowledged, JobEvent, Refused, InDoubt)) or event.key not in self.unanswered:
            return
        self.unanswered.discard(event.key)
        if self.broken is not None:
            if not isinstance(event, (Refused, InDoubt)):
                self._member.perform(self.id, Cancel(event.id, _QUARANTINED))
            if not self.unanswered and self.over:
                self._on_end(self)

    @property
    def lingers(self) -> bool:
        """Has it ended, and is still needed? A halted one may carry on, a quarantined one may have answers to come."""
        return bool(self.unanswered) if self.broken is not None else self.engine.final == "halted"

    def stop(self, down: Optional[str] = None) -> None:
        """Drop the timers and end the streams, without a word to the engine.

        `down` says why there will be no service to come back to; without it watchers wait for the next one.
        """
        for timer in (*self._timers.values(), *([self._flush] if self._flush else [])):
            timer.cancel()
        self._timers.clear()
        self._flush = None
        self.calling.stop()
        for watcher in self.watchers:
            watcher.cut(errno.ESHUTDOWN if down else errno.ECONNRESET, down or "the service is stopping")
        self.watchers.clear()

    # ---- what people see

    def _numbered(self, record: Record, seq: int) -> Dict[str, Any]:
        data = record.data
        if data.get("job") is not None:
            data = {**data, "job": self._member.show(data["job"])}
        return {"seq": seq, "t": record.t, "type": record.type, **data}

    def shown_row(self, row: Dict[str, Any]) -> Dict[str, Any]:
        """A job's row with its id as users write it, and where its output lies."""
        id = row["id"]
        if id is None:
            return {**row, "where": None}
        return {**row, "id": self._member.show(id), "where": self._member.where(self.id, id, row["params"])}

    def summary(self) -> Dict[str, Any]:
        """SUMMARY of the protocol."""
        engine = self.engine
        counts = engine.tally.counts.values()
        # An end that is not stored yet is none: whoever sees one may ask for all that was told of it.
        ending = engine.final is not None and not self.over
        return {
            "id": self.id,
            "name": self.given["name"],
            "state": "stopping" if ending else engine.state,
            "reason": engine.reason or (None if self.over else self._store.trouble(self.id)),
            "t_submit": self.given["t_submit"],
            "t_end": None if ending else engine.t_end,
            "jobs": {name: sum(count[name] for count in counts) for name in SHOWN},
        }

    def status(self) -> Dict[str, Any]:
        """STATUS of the protocol."""
        engine = self.engine
        return {
            **self.summary(),
            "groups": {group: {name: counts[name] for name in SHOWN} for group, counts in engine.tally.counts.items()},
            "metrics": engine.tally.table(),
            "rules": [
                {
                    "id": rule.id,
                    "trigger": rule.rule.trigger,
                    "fired": rule.fired,
                    "remaining": rule.remaining,
                    "state": rule.state(self.clock()),
                    "error": rule.error,
                }
                for rule in engine.book.rules
            ],
            "variables": dict(engine.variables),
            "members": {name: engine.places.get(name, "up") for name in engine.spec.members},
            "parameters": engine.samples.table(engine.taken),
            "scaling": self._scaling.told(engine),
        }

    def active_rows(self) -> List[Dict[str, Any]]:
        """Rows of the jobs that were submitted and have not left the engine; those that are held stand in `rows.py`."""
        return [self.shown_row(job.row()) for job in self.engine.jobs.values()]

    def leaving_rows(self) -> List[Dict[str, Any]]:
        """Rows of the jobs that have left the engine and are on their way to the store, in its order."""
        return [row for rows in self.leaving.values() for row in rows]

    # ---- those who watch

    def watch(self, watcher: Watcher) -> None:
        """Send what is stored, then what comes."""
        self.watchers.append(watcher)
        self._send(watcher)
        self._end_streams()

    def _gather(self) -> None:
        if self.watchers and self._flush is None:
            self._flush = self._member.call_at(self.clock() + _GATHER, self._flushed)

    def _flushed(self) -> None:
        self._flush = None
        self.flush()

    def flush(self) -> None:
        """Send each watcher what it has not seen."""
        if not self.watchers:
            return
        now = self.clock()
        picture = None
        if self._changed and (now - self._pictured >= _PICTURE or self.engine.final is not None):
            self._changed, self._pictured = False, now
            picture = self.picture(now)
        for watcher in list(self.watchers):
            self._send(watcher, picture)
        self._end_streams()
        if self._changed and self._flush is None and self.watchers:
            self._flush = self._member.call_at(self._pictured + _PICTURE, self._flushed)

    def picture(self, now: float) -> Dict[str, Any]:
        """The `metric` record: counts and mean durations as they are now."""
        tally = self.engine.tally
        groups: Dict[str, Any] = {}
        for group, counts in tally.counts.items():
            groups[group] = {name: counts[name] for name in SHOWN}
            groups[group]["mean_duration"] = tally.mean_duration(group)
        return {"seq": self.seq, "t": now, "type": "metric", "groups": groups}

    def _send(self, watcher: Watcher, picture: Optional[Dict[str, Any]] = None) -> None:
        watcher.tell(lambda since, most: self._store.records(self.id, since, most), picture)
        self._let_go(watcher)

    def _let_go(self, watcher: Watcher) -> None:
        if not watcher.open and watcher in self.watchers:
            self.watchers.remove(watcher)

    def _end_streams(self) -> None:
        if not self.over:
            return
        for watcher in self.watchers:
            watcher.end()
        self.watchers.clear()

    def keepalive(self) -> None:
        """Show the watchers that the service lives."""
        for watcher in list(self.watchers):
            watcher.keepalive()
            self._let_go(watcher)


def intent(action: Action) -> str:
    """The action as the log of events has it."""
    if isinstance(action, Submit):
        return str(action.key)
    if isinstance(action, (Cancel, Kill, Urgency)):
        return f"{type(action).__name__} {action.id}"
    if isinstance(action, Size):
        return f"Size {action.wanted}"
    return f"Call {action.call}" if isinstance(action, Call) else type(action).__name__
