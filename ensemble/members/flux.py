# SPDX-License-Identifier: MIT
"""The Flux member: the jobs of a Flux instance. Imports flux.

How it works. Requests leave on the caller's handle (`flux_requests.py`) as jobspecs made once for a set
(`flux_jobspec.py`); job events arrive on a handle of the member's own (`flux_journal.py`), so that a flood of them
delays no answer. Both handles share one reactor, which takes one message of each in turn. The host runs that reactor.

Events are delivered as they come. Where there are many at once (the past of the journal) they queue, and each turn of
the reactor delivers for `_SLICE` seconds, so that requests are answered in between. They are those of our own jobs
that have not ended; while the service cannot take events (`hold`) none are asked for.
"""

from __future__ import annotations

import contextlib
import os
import syslog
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, FrozenSet, Mapping, Optional, Sequence, Set, Tuple

import flux
from flux.constants import FLUX_POLLIN, FLUX_POLLOUT
from flux.core.inner import lib

from ensemble.engine.actions import Action, Cancel, Kill, Look, Submit, Urgency
from ensemble.engine.events import RESOURCES, Event, InDoubt, JobEvent, JobId, Key, Lost, Recovered, Refused
from ensemble.errors import MemberError
from ensemble.members.base import Deliver, Member, Submitter, Timer, Watch
from ensemble.members.flux_bus import Bus
from ensemble.members.flux_facts import f58, log_to, owner_of
from ensemble.members.flux_inquiry import count_purged
from ensemble.members.flux_jobspec import Template, template, umask_of
from ensemble.members.flux_journal import Journal
from ensemble.members.flux_lookup import LAST
from ensemble.members.flux_output import FluxOutput
from ensemble.members.flux_requests import Requests
from ensemble.members.flux_resources import ResourceWatch
from ensemble.members.flux_scaler import FluxScaler, configured, way_of
from ensemble.members.flux_timers import Timers
from ensemble.members.guard import guarded
from ensemble.members.output import Loop, Outputs
from ensemble.members.scaler import known as known_scaler
from ensemble.spec.abilities import SCALING
from ensemble.spec.models import Spec
from ensemble.spec.scaler import Scaler as Table

#: seconds of delivering in one turn of the reactor
_SLICE = 0.02
#: templates kept for overrides of one ensemble
_MAX_TEMPLATES = 256
#: what reads the output of jobs
_READER = "ensemble.members.flux_output_reader"


class _Ensemble:
    """An open ensemble: what its jobs are made from."""

    __slots__ = ("spec", "submitter", "templates")

    def __init__(self, spec: Spec, submitter: Submitter) -> None:
        self.spec = spec
        self.submitter = submitter
        #: (group, set, overrides, names of parameters) to the template
        self.templates: Dict[Tuple[Any, ...], Template] = {}


class _Watch(Watch):
    """A watcher of the reactor."""

    def __init__(self, watcher: Any) -> None:
        self._watcher = watcher
        watcher.start()

    def cancel(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.destroy()
            self._watcher = None


class FluxMember(Member):
    """The queue of one Flux instance.

    It runs on the reactor of `handle`, or of a handle that it opens itself (`uri`, or the enclosing instance); see
    `handle`. An ensemble that has jobs already must be opened before `start`.
    """

    name = "flux"
    capabilities = frozenset(("submit", "cancel", "kill", "urgency", "scaler"))

    def __init__(
        self,
        handle: Optional[flux.Flux] = None,
        uri: Optional[str] = None,
        clock: Callable[[], float] = time.time,
        remote: bool = False,
    ) -> None:
        """Raises MemberError if there is no instance to connect to.

        A `remote` one is not that of the service, whose memory does not go back with it: after a crash of the instance
        jobs may be missing that the service knows, and others may be there that it has given up. The former are lost;
        the latter are cancelled.
        """
        try:
            self.handle = handle if handle is not None else _connect(uri)
            if handle is not None and uri is None:
                uri = handle.attr_get("local-uri")
            journal = _connect(uri)
            owner = owner_of(self.handle)
            self.uri = str(uri if remote and uri else self.handle.attr_get("local-uri"))
            self.t_up = float(self.handle.attr_get("broker.starttime") or 0.0)
        except OSError as exc:
            raise MemberError(f"there is no Flux instance here ({exc}): run inside one, as in 'flux start'") from exc
        if owner != os.getuid():
            raise MemberError(
                "only the owner of a Flux instance can follow its jobs: start an instance of your own with 'flux start'"
                " or 'flux alloc'"
            )
        lib.flux_set_reactor(journal.handle, lib.flux_get_reactor(self.handle.handle))
        # The reactor is freed with the handle that made it, which so has to go last.
        journal.owner_of_reactor = self.handle
        self._log = log_to(self.handle)
        self._clock = clock
        #: jobs have theirs from the broker, not from this process; None where it cannot be told
        here = not remote or self.uri.startswith("local:")
        self._umask = umask_of(int(self.handle.attr_get("broker.pid"))) if here else None
        self._remote = remote
        self._deliver: Optional[Callable[..., Any]] = None
        self._open: Dict[str, _Ensemble] = {}
        self._outbox: Deque[Tuple[str, Event]] = deque()
        self._draining = False
        self._held = False
        #: jobs of recovered ensembles, and when each of these was last heard of, until the past was told
        self._known: Dict[str, Tuple[Dict[JobId, Key], float]] = {}
        #: those of the callers, by their clock; and our own
        self._timers = Timers(self.handle, clock, self._log)
        self._internal = Timers(self.handle, time.monotonic, self._log)
        self._journal = Journal(
            journal,
            self._internal,
            self._log,
            self._told,
            self._told_of_past,
            self._seen,
            self._ready,
            self._past,
            self._missing,
            self._given_up if remote else None,
        )
        loop = Loop(self.watch, self._internal.after)
        self._outputs = Outputs(loop, self._log, self._pass_on, _READER, {"FLUX_URI": self.uri})
        self._reading = FluxOutput(self._outputs, self._journal, self._post)
        self._bus = Bus(self.handle, lambda: _connect(uri), clock, self._log, self._pass_on)
        self._resources = ResourceWatch(self.handle, self._internal, clock, self._log, self._post)
        self.site = configured(self.handle, self._log)
        if self.site is not None:
            self.capabilities = self.capabilities | SCALING
        self._requests = Requests(self.handle, self._journal, self._internal, clock, self._log, self._post)

    def start(self, deliver: Deliver) -> None:
        """Begin to deliver events. Raises MemberError if the broker is gone."""
        self._deliver = guarded(self._log, deliver)
        try:
            self._journal.start()
        except OSError as exc:
            raise MemberError(f"the Flux broker does not answer: {exc}") from exc

    def open(self, ensemble: str, spec: Spec, submitter: Submitter, events: FrozenSet[str]) -> None:
        """Make an ensemble known. Raises MemberError if Flux has no way to say what a group asks for, or no such scaler."""
        known_scaler(spec.scaler)
        opened = _Ensemble(spec, submitter)
        for group, sets in spec.groups.items():
            for number in range(len(sets)):
                self._template(ensemble, opened, Submit(Key(ensemble, "", 0, 0, 0), group, number))
        self._open[ensemble] = opened
        self._requests.open(ensemble)
        self._journal.open(ensemble, events - {RESOURCES}, self._reading.open(ensemble, spec))
        if RESOURCES in events:
            self._resources.open(ensemble, self._clock())

    def recover(self, ensemble: str, known: Mapping[JobId, Key], doubtful: Sequence[Submit], t: float) -> None:
        """Take up the jobs of an earlier service, whose name this process has registered by now.

        The broker has then read all that the dead one sent, so that an inquiry after the doubtful ones tells.
        """
        self._known[ensemble] = dict(known), t
        self._resources.since(ensemble, t)
        self._journal.recover(ensemble, set(known), frozenset(submission.key for submission in doubtful))
        for one in doubtful:
            made = self._template(ensemble, self._open[ensemble], one)
            self._requests.doubt(ensemble, one.key, made, one.params, t)
        if doubtful or known:
            self._journal.witness(t)

    def want(self, ensemble: str, events: FrozenSet[str]) -> None:
        """Follow more events; submissions wait until they are covered."""
        self._journal.want(ensemble, events - {RESOURCES})
        if RESOURCES in events:
            self._resources.open(ensemble, self._clock())

    def watch(self, fd: int, callback: Callable[[], None], *, write: bool = False) -> Watch:
        """Call back from the reactor."""
        events = FLUX_POLLOUT if write else FLUX_POLLIN
        return _Watch(self.handle.fd_watcher_create(fd, guarded(self._log, lambda *_: callback()), events))

    def perform(self, ensemble: str, action: Action) -> None:
        """Carry out a `Submit`, `Cancel`, `Kill`, `Urgency` or `Look` of an open ensemble."""
        if isinstance(action, Submit):
            try:
                made = self._template(ensemble, self._open[ensemble], action)
            except MemberError as exc:
                self._post(ensemble, Refused(self._clock(), action.key, str(exc)))
            else:
                self._requests.submit(ensemble, action.key, made, action.params)
        elif isinstance(action, (Cancel, Kill, Urgency)):
            self._requests.act(ensemble, action)
        elif isinstance(action, Look):
            self._resources.look(ensemble)
        else:
            raise TypeError(f"a member cannot perform {action!r}")

    def foresee(self, ensemble: str, action: Submit) -> None:
        """Write its jobspec."""
        # what Flux has no words for is told when it is to be submitted
        with contextlib.suppress(MemberError):
            self._requests.foresee(action.key, self._template(ensemble, self._open[ensemble], action), action.params)

    def scaler(self, table: Table, submitter: Optional[Submitter]) -> FluxScaler:
        """Made anew for each table. Raises MemberError where no scaler of that name is installed."""
        return FluxScaler(self.handle, self._internal, self._log, way_of(table, self, submitter))

    def freeze(self) -> None:
        """Send nothing more: the instance is going down."""
        self._requests.freeze()

    def hold(self, on: bool) -> None:
        """Deliver nothing while it is on: the job manager keeps what happens, and the journal is read again behind it.

        What is left to wait here are answers to what was sent, and events that had come before. The reader of output
        waits; what the bus says meanwhile is lost.
        """
        if on == self._held:
            return
        self._held = on
        self._outputs.hold(on)
        self._bus.hold(on)
        if on:
            self._journal.hold()
        else:
            self._journal.go_on()
            if self._outbox and not self._draining:
                self._draining = True
                self._internal.after(0.0, self._drain)

    def hear(self, ensemble: str, topics: FrozenSet[str]) -> None:
        """Deliver the events of these topics on the instance's bus. Raises MemberError if the broker refuses."""
        try:
            self._bus.hear(ensemble, topics)
        except OSError as exc:
            raise MemberError(f"Flux refuses a subscription to {', '.join(sorted(topics))}: {exc}") from exc

    def close(self, ensemble: str) -> None:
        """Forget an ensemble. What was not sent yet is dropped; its jobs are left as they are."""
        self._open.pop(ensemble, None)
        self._bus.hear(ensemble, frozenset())
        self._reading.close(ensemble)
        self._requests.close(ensemble)
        self._journal.close(ensemble)
        self._resources.close(ensemble)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call back from the reactor at `when`, or at once if that is past."""
        return self._timers.at(when, callback)

    def stop(self) -> None:
        """Stop delivering. Jobs go on."""
        self._deliver = None
        self._requests.stop()
        self._bus.stop()
        self._outputs.stop()
        self._journal.stop()
        self._resources.stop()
        self._internal.stop()
        self._timers.stop()
        self._open.clear()
        self._outbox.clear()

    def show(self, id: JobId) -> str:
        """The job id in its F58 form, in ASCII."""
        return f58(id)

    def where(self, ensemble: str, id: JobId, params: Optional[Mapping[str, Any]] = None) -> str:
        """The output file of a job that has one and did not end long ago; else a command that prints it."""
        return self._journal.output(id) or f"flux job attach {f58(id)}"

    def _template(self, ensemble: str, opened: _Ensemble, one: Submit) -> Template:
        name = (one.group, one.set, *sorted(one.overrides.items()), *one.params)
        made = opened.templates.get(name)
        if made is None:
            jobs = opened.spec.groups[one.group][one.set]
            made = template(
                jobs, ensemble, opened.submitter, umask=self._umask, overrides=one.overrides, names=tuple(one.params)
            )
            if len(opened.templates) >= _MAX_TEMPLATES:
                opened.templates.clear()
            opened.templates[name] = made
        return made

    # From the journal

    def _past(self, ensemble: str, missing: Set[int]) -> None:
        """The past of a recovered ensemble was told. What is not in it was purged, or never became a job that lasts:
        it was found invalid in the very moment of a crash, or went with the last moments of a lost KVS."""
        known, t = self._known.pop(ensemble, ({}, 0.0))
        keys = {id: known[id] for id in sorted(missing)}
        if keys and not self._journal.whole_since(t):
            count_purged(self.handle, self._log, lambda purged: self._counted(purged, ensemble, keys, t))
        else:
            self._tell_missing(ensemble, keys, purged=False)

    def _counted(self, purged: Optional[int], ensemble: str, keys: Dict[JobId, Key], t: float) -> None:
        # an instance counts from its own start
        self._tell_missing(ensemble, keys, purged != 0 or (self.t_up > t and not self._remote))

    def _tell_missing(self, ensemble: str, keys: Dict[JobId, Key], purged: bool) -> None:
        for id, key in keys.items():
            if purged:
                self._missing(ensemble, id, key)
            else:
                self._post(ensemble, Lost(self._clock(), id, f"Flux has no job {f58(id)}, and has purged none"))
        self._post(ensemble, Recovered(self._clock()))

    def _missing(self, ensemble: str, id: int, key: Key) -> None:
        reason = f"job {f58(id)} is not known to Flux any more, and whether it ran cannot be told"
        self._post(ensemble, InDoubt(self._clock(), key, reason))

    def _given_up(self, id: int) -> None:
        """A job that nobody waits for."""
        self._log(syslog.LOG_NOTICE, f"job {f58(id)} was given up while this instance was away: it is cancelled")
        note = b"its ensemble has given it up"
        lib.flux_future_destroy(lib.flux_job_cancel(self.handle.handle, id, note))

    def _seen(self, key: Key, id: int) -> None:
        self._requests.seen(key, id)

    def _ready(self, ensemble: str) -> None:
        self._requests.release(ensemble)

    def _told(self, ensemble: str, event: JobEvent) -> None:
        if not self._reading.takes(ensemble, event):
            self._pass_on(ensemble, event)

    def _told_of_past(self, ensemble: str, event: JobEvent) -> None:
        if not self._reading.takes(ensemble, event):
            self._post(ensemble, event)

    def _pass_on(self, ensemble: str, event: Event) -> None:
        """Deliver, behind what waits already."""
        if self._outbox:
            self._outbox.append((ensemble, event))
        else:
            self._hand_over(ensemble, event)

    # Delivering

    def _post(self, ensemble: str, event: Event) -> None:
        """Deliver in a later turn of the reactor."""
        self._outbox.append((ensemble, event))
        if not self._draining and not self._held:
            self._draining = True
            self._internal.after(0.0, self._drain)

    def _drain(self) -> None:
        until = time.monotonic() + _SLICE
        try:
            while self._outbox and not self._held and time.monotonic() < until:
                self._hand_over(*self._outbox.popleft())
        finally:
            self._draining = bool(self._outbox) and not self._held
            if self._draining:
                self._internal.after(0.0, self._drain)

    def _hand_over(self, ensemble: str, event: Event) -> None:
        if ensemble in self._open and self._deliver is not None:
            self._deliver(ensemble, event)
        if isinstance(event, JobEvent) and event.name in LAST:
            self._journal.forget(event.id)


def _connect(uri: Optional[str]) -> flux.Flux:
    return flux.Flux(uri) if uri else flux.Flux()


if __name__ == "__main__":
    import sys

    from ensemble.members.flux_watch import main

    sys.exit(main())
