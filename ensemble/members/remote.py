# SPDX-License-Identifier: MIT
"""A member whose queue is elsewhere: whoever speaks for the queue attaches, and attaches again when the line breaks.

Law of this file: what is sent and taken, how often; nothing of the wire (a `Link` carries it).

Theory of operation. Actions get an id and stay open until an event answers them; all open ones are sent to each new
link, in order, and the other side does each id once. Events have a sequence number; one whose number was taken is
dropped, and what was taken is acknowledged once it is kept, after which the other side may forget it. So neither a
broken line nor the end of either process loses or doubles anything:

- The line breaks: both sides send again what has no answer.
- The other side's process ends: its journal has the ids that it has done and the events that are not acknowledged.
- This process ends: the service brings its ensembles back from its store and calls `recover`; the other side is told
  the jobs that the store knows and the submissions that are in doubt. Events that were kept and not acknowledged come
  again: outcomes are taken only of submissions that wait for one, and a job's events may repeat.

A link is accepted from one journal alone (`identity`), the first that came: another one could not know what the first
has done, and would do it twice.
"""

from __future__ import annotations

import asyncio
import json
import syslog
import time
from abc import ABC, abstractmethod
from collections import deque
from pathlib import Path
from typing import Any, Callable, Deque, Dict, FrozenSet, List, Mapping, Optional, Sequence, Set, Tuple

from ensemble.engine.actions import Action, Cancel, Kill, Look, Submit, Urgency
from ensemble.engine.events import BASE_EVENTS, FORMAT, Event, JobId, Key, Refused, from_json
from ensemble.errors import MemberError, RecordError
from ensemble.members.base import Deliver, Member, Submitter, Timer, Watch
from ensemble.members.guard import Log
from ensemble.members.local_job import with_values
from ensemble.members.loop_timers import LoopTimer, watch
from ensemble.spec import templates
from ensemble.spec.models import Spec
from ensemble.spec.reports import declared, patterns

_CAN = ("submit", "cancel", "kill", "urgency")
#: seconds between two tries to acknowledge what is not kept yet
_AGAIN = 0.5
#: which event type stands for what comes over the line
_EVENTS = {
    "acknowledged": ("Acknowledged", ("key", "id")),
    "refused": ("Refused", ("key", "reason")),
    "in_doubt": ("InDoubt", ("key", "reason")),
    "job": ("JobEvent", ("id", "name", "context", "key")),
    "done": ("ActionDone", ("id", "action", "error")),
    "lost": ("Lost", ("id", "reason")),
    "counted": ("Counted", ("counts",)),
    "recovered": ("Recovered", ()),
    "report": ("Report", ("key", "values", "id")),
}


class Refusal(MemberError):
    """Who wants to attach, or what it sends, is not taken; the line is to be closed with this sentence."""


class Link(ABC):
    """A line to the other side. Its methods never block and never raise."""

    @abstractmethod
    def welcome(self) -> None:
        """Say that it is accepted: the first word of all."""

    @abstractmethod
    def action(self, id: str, ensemble: str, what: str, data: Dict[str, Any]) -> None:
        """Send an action: submit, cancel, kill, urgency, look or recover."""

    @abstractmethod
    def acknowledge(self, seq: int) -> None:
        """All events up to this one are kept."""

    @abstractmethod
    def close(self, why: str) -> None:
        """The line is given up."""


class RemoteMember(Member):
    """The queue of that name. All methods are called from the thread that runs `loop`."""

    #: all that the line can carry, until the other side has said what it can
    capabilities = frozenset(_CAN)

    def __init__(
        self,
        name: str,
        folder: Path,
        loop: asyncio.AbstractEventLoop,
        log: Log,
        epoch: str,
        kept: Callable[[str], bool] = lambda ensemble: True,
    ) -> None:
        """`folder` keeps the identity of the other side. `epoch` is a word that no earlier process had. `kept` tells
        whether all that was delivered to an ensemble is kept by now."""
        self.name = name
        self.loop = loop
        self._identity = folder / f"member-{name}"
        self._log = log
        self._epoch = epoch
        self._kept = kept
        self._deliver: Optional[Deliver] = None
        self._specs: Dict[str, Tuple[Spec, Submitter]] = {}
        self._events: Dict[str, FrozenSet[str]] = {}
        #: actions without an answer, in order: id -> ensemble, what, data
        self._open: Dict[str, Tuple[str, str, Dict[str, Any]]] = {}
        self._number = 0
        #: submissions that wait for their outcome
        self._awaited: Set[Key] = set()
        self.link: Optional[Link] = None
        #: seq of the last event that was taken; None before the first
        self._taken: Optional[int] = None
        self._retry: Optional[Timer] = None
        #: what came while the service could take nothing: callbacks
        self._held: Deque[Callable[[], None]] = deque()
        self._on_hold = False

    # ---- what the service calls

    def start(self, deliver: Deliver) -> None:
        self._deliver = deliver

    def open(self, ensemble: str, spec: Spec, submitter: Submitter, events: FrozenSet[str]) -> None:
        for sets in spec.groups.values():
            wanted = patterns(declared(sets))
            if wanted:
                raise MemberError(
                    f"the output of jobs of the queue '{self.name}' cannot be read, and '{sets[0].name}' has metrics that "
                    f"are looked for in it ({', '.join(wanted)}): let its jobs report them"
                )
        self._specs[ensemble] = spec, submitter
        self._events[ensemble] = frozenset(BASE_EVENTS) | events

    def want(self, ensemble: str, events: FrozenSet[str]) -> None:
        self._events[ensemble] |= events

    def close(self, ensemble: str) -> None:
        self._specs.pop(ensemble, None)
        self._events.pop(ensemble, None)
        self._awaited = {key for key in self._awaited if key.ensemble != ensemble}

    def recover(self, ensemble: str, known: Mapping[JobId, Key], doubtful: Sequence[Submit], t: float) -> None:
        jobs: List[Dict[str, Any]] = []
        for submission in doubtful:
            self._awaited.add(submission.key)
            try:
                jobs.append(self._job(ensemble, submission))
            except ValueError as exc:
                # it was never sent
                self._awaited.discard(submission.key)
                self._soon(ensemble, Refused(time.time(), submission.key, f"{exc} (group '{submission.group}')"))
        data = {"known": [{"id": id, "key": str(key)} for id, key in known.items()], "doubtful": jobs}
        self._send(ensemble, "recover", data)

    def perform(self, ensemble: str, action: Action) -> None:
        if self._deliver is None:
            return
        if isinstance(action, Submit):
            try:
                job = self._job(ensemble, action)
            except ValueError as exc:
                self._soon(ensemble, Refused(time.time(), action.key, f"{exc} (group '{action.group}')"))
                return
            self._awaited.add(action.key)
            self._send(ensemble, "submit", job)
        elif isinstance(action, Cancel):
            self._send(ensemble, "cancel", {"id": action.id, "reason": action.cause.text})
        elif isinstance(action, Kill):
            self._send(ensemble, "kill", {"id": action.id, "signal": int(action.signal)})
        elif isinstance(action, Urgency):
            self._send(ensemble, "urgency", {"id": action.id, "value": action.value})
        elif isinstance(action, Look):
            self._send(ensemble, "look", {})
        else:
            raise MemberError(f"the queue '{self.name}' cannot perform {type(action).__name__}")

    def hold(self, on: bool) -> None:
        self._on_hold = on
        if not on:
            self.loop.call_soon(self._let_in)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        return LoopTimer(self.loop, when, callback)

    def watch(self, fd: int, callback: Callable[[], None], *, write: bool = False) -> Watch:
        return watch(self.loop, fd, callback, write)

    def stop(self) -> None:
        self._deliver = None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self.link is not None:
            self.link.close("the server is stopping: attach again when it is back")
            self.link = None

    # ---- what the other side's line calls

    def attach(self, link: Link, name: str, identity: str, capabilities: Sequence[str] = _CAN) -> None:
        """A line is there. Raises Refusal where it is not the queue's."""
        if name != self.name:
            raise Refusal(f"this server's member is called '{self.name}', not '{name[:50]}'")
        if not identity:
            raise Refusal("a member needs an identity: a random word, made once and kept with its journal")
        self._recognise(identity)
        # of what it cannot do, files that are submitted from now on are warned
        self.capabilities = frozenset(_CAN) & {"submit", *capabilities}
        if self.link is not None:
            self.link.close("another line of the same member has come")
        self.link = link
        link.welcome()
        self._log(syslog.LOG_INFO, f"member {self.name} is attached, {len(self._open)} actions wait for it")
        for id, (ensemble, what, data) in self._open.items():
            link.action(id, ensemble, what, data)

    def detach(self, link: Link) -> None:
        """The line is gone."""
        if self.link is link:
            self.link = None
            self._log(syslog.LOG_WARNING, f"member {self.name} is gone; what it was to do waits until it is back")

    def take(
        self, link: Link, seq: int, t: float, ensemble: str, answers: str, what: str, data: Dict[str, Any],
        then: Callable[[Optional[str]], None],
    ) -> None:  # fmt: skip
        """An event has come; `then` is called with None once it is taken, or with a sentence where it is refused."""

        def now() -> None:
            try:
                if self.link is link and self._deliver is not None:
                    self._take(seq, t, ensemble, answers, what, data)
                then(None)
            except Refusal as exc:
                then(str(exc))

        if self._on_hold or self._held:
            self._held.append(now)
        else:
            now()

    # ---- within

    def _let_in(self) -> None:
        while self._held and not self._on_hold:
            self._held.popleft()()

    def _take(self, seq: int, t: float, ensemble: str, answers: str, what: str, data: Dict[str, Any]) -> None:
        if self._taken is not None and seq <= self._taken:
            self._acknowledge()
            return
        if seq < 1 or (self._taken is not None and seq != self._taken + 1):
            raise Refusal(f"event {seq} follows event {self._taken}: events are counted from 1 without a gap")
        event = self._event(seq, t, what, data)
        key = getattr(event, "key", None)
        outcome = what in ("acknowledged", "refused", "in_doubt")
        if key is not None and key.ensemble != ensemble:
            raise Refusal(f"event {seq} is of ensemble '{ensemble[:50]}', and its key is another's")
        self._taken = seq
        self._open.pop(answers, None)
        if outcome and key not in self._awaited:
            # kept before this process began, or of an ensemble that is gone
            self._acknowledge()
            return
        if outcome:
            self._awaited.discard(key)
        wanted = self._events.get(ensemble)
        if wanted is not None and self._deliver is not None and (what != "job" or data["name"] in wanted):
            self._deliver(ensemble, event)
        self._acknowledge()

    def _event(self, seq: int, t: float, what: str, data: Dict[str, Any]) -> Event:
        if what not in _EVENTS:
            raise Refusal(f"event {seq} says nothing that a member may say")
        type, fields = _EVENTS[what]
        given = {**data, "id": f"{self.name}:{seq}"} if what == "report" else data
        try:
            return from_json([FORMAT, type, t, *(given.get(field) for field in fields)])
        except RecordError as exc:
            raise Refusal(f"event {seq} makes no sense: {exc}") from None

    def _acknowledge(self) -> None:
        """Tell what was taken, once it is kept."""
        if self._retry is not None or self.link is None or self._taken is None:
            return
        if all(map(self._kept, self._specs)):
            self.link.acknowledge(self._taken)
        else:
            self._retry = self.call_at(time.time() + _AGAIN, self._again)

    def _again(self) -> None:
        self._retry = None
        self._acknowledge()

    def _send(self, ensemble: str, what: str, data: Dict[str, Any]) -> None:
        self._number += 1
        id = f"{self._epoch}.{self._number}"
        self._open[id] = ensemble, what, data
        if self.link is not None:
            self.link.action(id, ensemble, what, data)

    def _soon(self, ensemble: str, event: Event) -> None:
        def deliver() -> None:
            if self._deliver is not None and ensemble in self._specs:
                self._deliver(ensemble, event)

        self.loop.call_soon(deliver)

    def _job(self, ensemble: str, action: Submit) -> Dict[str, Any]:
        """What the queue must know of a job. Raises ValueError where a value does not fit its place."""
        spec, submitter = self._specs[ensemble]
        one = with_values(spec.groups[action.group][action.set], action.params)
        given = action.overrides
        nodes = given.get("nodes") or one.nodes or 1
        return {
            "key": str(action.key),
            "group": action.group,
            "argv": list(one.command) if one.script is None else ["/bin/sh", "-c", one.script, one.name],
            "cwd": submitter.cwd,
            "workdir": one.workdir or "",
            "environment": {
                **{name: value for name, value in one.environment.items() if value is not None},
                "ENSEMBLE_JOB": str(action.key),
                "ENSEMBLE_ID": ensemble,
                **templates.variables(action.params),
            },
            "unset": [name for name, value in one.environment.items() if value is None],
            "submitter_environment": {
                name: value for name, value in submitter.environment.items() if not name.startswith(templates.PARAM)
            },
            "input": one.input or "",
            "output": one.output or "",
            "error": one.error or "",
            "nodes": nodes,
            "tasks": given.get("tasks") or one.tasks or nodes,
            "cores": one.cores,
            "gpus": one.gpus,
            "exclusive": bool(one.exclusive),
            "duration": given.get("duration", one.duration) or 0.0,
            "urgency": given.get("urgency", one.urgency),
            "queue": one.queue or "",
            "bank": one.bank or "",
            "params": json.dumps(action.params),
        }

    def _recognise(self, identity: str) -> None:
        """Is it the journal that was here first? Raises Refusal."""
        try:
            if not self._identity.exists():
                new = self._identity.with_suffix(".new")
                new.write_text(identity)
                new.rename(self._identity)
            known = self._identity.read_text().strip()
        except OSError as exc:
            raise Refusal(f"the server cannot keep who its member is: {self._identity}: {exc.strerror}") from None
        if known != identity:
            raise Refusal(
                f"'{self.name}' has come with another journal than before, which cannot know what was done already: start it "
                f"with its own folder, or, if that is lost, cancel its ensembles and remove {self._identity} at the server"
            )
