# SPDX-License-Identifier: MIT
"""A member over the modelled job manager, which promises what `members/base.py` asks for and not a bit more.

It is one incarnation, of one life of the service. What the contract leaves open is drawn: events of different jobs
come in any order, answers before or behind a job's events, the past of the journal in any order of jobs and with or
without what was told before. After a crash it finds out about doubtful submissions as the Flux member does: it waits
until all that was sent before is decided and the journal has shown it, and submits again only what has no job; where
jobs were purged meanwhile it answers `InDoubt`.
"""

from __future__ import annotations

from collections import deque
from typing import Callable, Deque, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple, Union

from ensemble.engine.actions import Action, Cancel, Kill, Submit, Urgency
from ensemble.engine.events import (
    BASE_EVENTS,
    Acknowledged,
    ActionDone,
    Event,
    InDoubt,
    JobEvent,
    JobId,
    Key,
    Lost,
    Recovered,
    Refused,
)
from ensemble.members.base import Deliver, Member, Submitter, Timer
from ensemble.spec.models import Spec
from t.engine.simulation.manager import JobManager, ManagedJob, Request
from t.engine.simulation.world import World


class _Taken:
    """An ensemble that is open."""

    def __init__(self, names: FrozenSet[str]) -> None:
        self.names = frozenset(BASE_EVENTS) | names
        #: of the past of a recovered one only these are told; None for a new one
        self.known: Optional[Dict[JobId, Key]] = None
        self.keys: FrozenSet[Key] = frozenset()


class _Doubt:
    """A submission without a known fate. `since` is set if an earlier service may have sent it."""

    def __init__(self, ensemble: str, key: Key, since: Optional[float]) -> None:
        self.ensemble = ensemble
        self.key = key
        self.since = since


class SimMember(Member):
    """One connection to the job manager."""

    name = "simulated instance"
    capabilities = frozenset(("submit", "cancel", "kill", "urgency"))

    def __init__(self, world: World, manager: JobManager) -> None:
        self.t_up = manager.t_up
        self._world = world
        self._manager = manager
        self._deliver: Optional[Deliver] = None
        self._open: Dict[str, _Taken] = {}
        #: what is delivered in this order: the past, and what came since
        self._outbox: Deque[Tuple[str, Event]] = deque()
        self._draining = False
        #: events of a job that are on their way, in the job's order
        self._coming: Dict[JobId, Deque[Tuple[int, JobEvent]]] = {}
        #: how many events of a job have come
        self._told: Dict[JobId, int] = {}
        self._live = False
        #: the journal has been read once: before that nothing is submitted
        self._ready = False
        self._aside: List[_Doubt] = []
        self._asking = False
        #: requests without an answer
        self._sent: Dict[Key, Tuple[str, Request]] = {}
        self._held: Deque[Tuple[str, Key]] = deque()
        self._dead = self._frozen = self._full = False

    # ---- the contract

    def start(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._later(self._connect, 0.3)
        self._ask()

    def open(self, ensemble: str, spec: Spec, submitter: Submitter, events: FrozenSet[str]) -> None:
        self._open[ensemble] = _Taken(events)

    def recover(self, ensemble: str, known: Mapping[JobId, Key], doubtful: Sequence[Submit], t: float) -> None:
        assert self._deliver is None, "recover comes before start"
        taken = self._open[ensemble]
        taken.known = dict(known)
        taken.keys = frozenset(one.key for one in doubtful)
        self._aside.extend(_Doubt(ensemble, one.key, t) for one in doubtful)

    def perform(self, ensemble: str, action: Action) -> None:
        self._world.point("before it is sent")
        assert ensemble in self._open, f"{ensemble} is not open"
        if not (self._frozen or self._dead):
            if isinstance(action, Submit):
                self._submit(ensemble, action.key)
            elif isinstance(action, (Cancel, Kill, Urgency)):
                self._act(ensemble, action)
            else:
                raise TypeError(f"a member cannot perform {action!r}")
        self._world.point("once it is sent")

    def freeze(self) -> None:
        self._frozen = True

    def want(self, ensemble: str, events: FrozenSet[str]) -> None:
        taken = self._open[ensemble]
        taken.names = frozenset(BASE_EVENTS) | events

    def hold(self, on: bool) -> None:
        self._full = on

    def close(self, ensemble: str) -> None:
        self._open.pop(ensemble, None)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        def expired() -> None:
            if not self._dead:
                self._world.point("before a timer")
                callback()
                self._world.point("behind a timer")

        return self._world.at_wall(when, expired)

    def stop(self) -> None:
        self.die()

    def die(self) -> None:
        """The process is gone: nothing is heard any more."""
        self._dead = True
        if self._notice in self._manager.listeners:
            self._manager.listeners.remove(self._notice)
        for _, request in self._sent.values():
            request.answer = None

    # ---- the journal

    def lose_journal(self) -> None:
        """The job manager went away, and with it what was under way; it is read again from its past on."""
        if self._deliver is None or self._dead:
            return
        self._live = False
        if self._notice in self._manager.listeners:
            self._manager.listeners.remove(self._notice)
        self._coming.clear()
        self._later(self._connect, 0.5)
        for key, (ensemble, _) in list(self._sent.items()):
            self._aside.append(_Doubt(ensemble, key, None))
        self._sent.clear()
        self._ask()

    def _connect(self) -> None:
        if self._manager.state == "down" or self._live:
            return
        past: List[Tuple[str, Deque[JobEvent]]] = []
        for job in self._manager.jobs.values():
            taken = self._open.get(job.key.ensemble)
            if taken is None or job.id in self._manager.forgotten:
                continue
            if taken.known is not None and job.id not in taken.known and job.key not in taken.keys:
                # it ended before the service did
                continue
            told = self._told.get(job.id, 0)
            if told == len(job.eventlog) and job.state == "inactive":
                continue
            # all, or those it thinks new
            first = told if self._world.random.random() < 0.5 else 0
            events = deque(e for e in job.eventlog[first:] if e.name in taken.names)
            past.append((job.key.ensemble, events))
            self._told[job.id] = len(job.eventlog)
        past = [entry for entry in past if entry[1]]
        while past:
            place = self._world.random.randrange(len(past))
            ensemble, events = past[place]
            for _ in range(self._world.random.randrange(1, 1 + len(events))):
                self._post(ensemble, events.popleft())
            if not events:
                past[place] = past[-1]
                past.pop()
        for id, told in self._told.items():
            job = self._manager.jobs[id]
            if id in self._manager.forgotten and told < len(job.eventlog) and job.key.ensemble in self._open:
                # its end came between two streams
                self._told[id] = len(job.eventlog)
                self._missing(job.key.ensemble, id, job.key, certain=False)
        for name, taken in self._open.items():
            if taken.known is not None:
                known, taken.known, taken.keys = taken.known, None, frozenset()
                here = {id for id in self._manager.jobs if id not in self._manager.forgotten}
                for id in sorted(set(known) - here):
                    self._missing(name, id, known[id], certain=not self._manager.purged)
                self._post(name, Recovered(self._world.clock()))
        self._live = self._ready = True
        self._release()
        self._manager.listeners.append(self._notice)

    def _missing(self, ensemble: str, id: JobId, key: Key, certain: bool) -> None:
        """The past does not have it: it was found invalid while nobody listened, if it is `certain` that none was purged."""
        t = self._world.clock()
        if certain:
            self._post(ensemble, Lost(t, id, f"there is no job {id}, and none was purged"))
        else:
            self._post(ensemble, InDoubt(t, key, f"job {id} is not known any more, and whether it ran cannot be told"))

    def _notice(self, job: ManagedJob, event: JobEvent) -> None:
        """The journal brings an event: it arrives behind the job's others."""
        ensemble, number = job.key.ensemble, len(job.eventlog)
        coming = self._coming.setdefault(job.id, deque())
        coming.append((number, event))

        def arrives() -> None:
            if self._coming.get(job.id) is not coming or not coming:
                # the stream that it was on is gone
                return
            number, event = coming.popleft()
            self._told[job.id] = max(number, self._told.get(job.id, 0))
            taken = self._open.get(ensemble)
            if taken is None or event.name not in taken.names:
                return
            # what waits came before
            if self._outbox or self._full:
                self._post(ensemble, event)
            else:
                self._hand_over(ensemble, event)

        self._later(arrives, 0.05)

    # ---- submissions

    def _submit(self, ensemble: str, key: Key) -> None:
        if self._aside or not self._ready:
            self._held.append((ensemble, key))
            return

        def answer(id: Optional[int], reason: str) -> None:
            if self._sent.pop(key, None) is None or self._dead:
                return
            t = self._world.clock()
            self._post(ensemble, Refused(t, key, reason) if id is None else Acknowledged(t, key, id))

        request = Request(key, answer)
        self._sent[key] = ensemble, request
        self._manager.submit(request)

    def _ask(self) -> None:
        """Find out about those set aside: wait until all that is on its way now has been decided."""
        if self._aside and not self._asking:
            self._asking = True
            self._later(self._begin, 0.3)

    def _begin(self) -> None:
        before = list(self._manager.pipeline)
        asked = len(self._aside)

        def look() -> None:
            if self._manager.state != "up" or not self._live:
                self._later(self._begin, 0.5)
            elif any(request in self._manager.pipeline for request in before) or self._is_coming(asked):
                self._later(look, 0.2)
            else:
                self._told_all(asked)

        self._later(look, 0.2)

    def _is_coming(self, asked: int) -> bool:
        jobs = [self._manager.by_key.get(doubt.key) for doubt in self._aside[:asked]]
        return any(self._coming.get(job.id) for job in jobs if job is not None)

    def _told_all(self, asked: int) -> None:
        again: List[Tuple[str, Key]] = []
        for doubt in self._aside[:asked]:
            job = self._manager.by_key.get(doubt.key)
            if job is not None and job.id in self._told:
                self._post(doubt.ensemble, Acknowledged(self._world.clock(), doubt.key, job.id))
            elif doubt.since is not None and self._manager.purged:
                reason = "jobs were purged while the service was down, and whether this one ran cannot be told"
                self._post(doubt.ensemble, InDoubt(self._world.clock(), doubt.key, reason))
            else:
                again.append((doubt.ensemble, doubt.key))
        del self._aside[:asked]
        self._asking = False
        self._held.extendleft(reversed(again))
        self._ask()
        self._release()

    def _release(self) -> None:
        held, self._held = self._held, deque()
        for ensemble, key in held:
            if ensemble in self._open and not self._frozen:
                self._submit(ensemble, key)

    def _act(self, ensemble: str, action: Union[Cancel, Kill, Urgency]) -> None:
        name = type(action).__name__.lower()

        def arrives() -> None:
            if self._manager.state == "down" or (self._dead and self._world.random.random() < 0.3):
                return
            if isinstance(action, Cancel):
                error = self._manager.cancel(action.id)
            elif isinstance(action, Kill):
                error = self._manager.kill(action.id, action.signal)
            else:
                error = self._manager.set_urgency(action.id, action.value)
            self._post(ensemble, ActionDone(self._world.clock(), action.id, name, error))

        # what was sent may arrive, though the service be dead by then
        self._world.soon(arrives)

    # ---- delivering

    def _later(self, call: Callable[[], None], most: float) -> None:
        self._world.soon(lambda: None if self._dead else call(), most)

    def _post(self, ensemble: str, event: Event) -> None:
        self._outbox.append((ensemble, event))
        if not self._draining and not self._dead:
            self._draining = True
            self._later(self._drain, 0.02)

    def _drain(self) -> None:
        self._draining = False
        if self._outbox and not self._full:
            ensemble, event = self._outbox[0]
            self._hand_over(ensemble, event)
            self._outbox.popleft()
        if self._outbox:
            self._draining = True
            self._later(self._drain, 0.2 if self._full else 0.005)

    def _hand_over(self, ensemble: str, event: Event) -> None:
        if ensemble in self._open and self._deliver is not None:
            self._world.point("before an event")
            self._deliver(ensemble, event)
            self._world.point("behind an event")
