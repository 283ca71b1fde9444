# SPDX-License-Identifier: MIT
"""A member made of several: the service's own queue, and the Flux instances that files name under `members:`.

Law of this file: to the engine and the service it is one member. An action goes where the engine has said: a submission
to its `member`, what is done to a job by the id. Ids of the own queue are as they are; those of another carry the place of
that member in the file above their 64 bits, so that ids of two instances never meet, and mean the same after a restart.

Theory of operation. Each other instance has a process that drives it (`flux_remote.py`), shared by all ensembles that
name it. When that process ends or falls silent, the member is down: what was sent and not answered is in doubt, what
comes waits here. A new process is tried until there is a connection again, and is told, as after a restart of the service,
of the jobs that had not ended and of the submissions in doubt; so nothing is lost and nothing comes twice. An instance that
an ensemble started for itself is started anew where its job has ended: what ran in it is given up then. After `timeout`,
or when the instance can never come back, the member is gone: the engine gives its unfinished jobs up, and what comes for
it is refused. Should it come back after all, it is up again, and its queue ends the jobs of that ensemble that it finds
and was not told of.

A shutdown of an instance cancels its jobs, which looks like somebody's will. Cancels from the time between the last sign
of life and the next start of the instance are therefore told as what they are: its shutdown.
"""

from __future__ import annotations

import json
import syslog
import time
from typing import Any, Callable, Dict, FrozenSet, Mapping, Optional, Sequence, Set

from ensemble.engine.actions import Action, Cancel, Kill, Submit, Urgency
from ensemble.engine.events import RESOURCES, Event, JobId, Key, Recovered
from ensemble.members.base import Deliver, Member, Submitter, Timer, Watch
from ensemble.members.elsewhere import BITS, MASK, Remote, User, described
from ensemble.members.guard import Log
from ensemble.members.line import Line
from ensemble.members.scaler import Scaler
from ensemble.spec.models import Spec
from ensemble.spec.places import Place
from ensemble.spec.scaler import Scaler as Table

_PROGRAM = "ensemble.members.flux_remote"


#: names of jobs that one process is given, and seconds after the start until it is
_AT_ONCE, _CLEAR = 500, 1.0


def nested_name(ensemble: str, member: str) -> str:
    """The name of the job in which an instance of the ensemble's own runs."""
    return f"ensemble-{ensemble}-{member}"


class Several(Member):
    """`home` and the instances that files name."""

    takes_members = True

    def __init__(self, home: Member, log: Log, clock: Callable[[], float] = time.time, program: str = _PROGRAM) -> None:
        """`program` is the module that drives an instance."""
        self.home = home
        self.name = home.name
        self.capabilities = home.capabilities
        self.t_up = home.t_up
        self.uri = home.uri
        self.site = home.site
        self.log = log
        self.clock = clock
        self.program = program
        self.started = False
        self.held = False
        self._deliver: Optional[Deliver] = None
        self._remotes: Dict[str, Remote] = {}
        #: ensemble -> its members: by name, and by what stands above the bits of an id
        self._named: Dict[str, Dict[str, Remote]] = {}
        self._numbered: Dict[str, Dict[int, Remote]] = {}
        #: ensembles of which home has not told the past
        self._recovering: Set[str] = set()

    def start(self, deliver: Deliver) -> None:
        """Begin to deliver. A member that cannot be reached is down, and keeps nothing from starting."""
        self._deliver = deliver
        self.home.start(self._from_home)
        self.started = True
        for remote in self._remotes.values():
            remote.soon(0.0)

    def open(self, ensemble: str, spec: Spec, submitter: Submitter, events: FrozenSet[str]) -> None:
        """Make an ensemble known, to home and to all of its members."""
        self.home.open(ensemble, spec, submitter, events)
        if not spec.members:
            return
        # jobs alone matter there, and rules may hold what cannot be sent
        lean = spec.model_copy(update={"rules": (), "custom": None})
        lean._tree = None
        self._named[ensemble], self._numbered[ensemble] = {}, {}
        for number, (name, place) in enumerate(spec.members.items()):
            target = self._target(ensemble, name, place)
            remote = self._remotes.get(target)
            if remote is None:
                remote = self._remotes[target] = Remote(self, target, described(place))
            user = User(name, number, place.timeout, lean, submitter)
            user.events = events - {RESOURCES}
            self._named[ensemble][name] = self._numbered[ensemble][number + 1] = remote
            remote.join(ensemble, user)

    def _target(self, ensemble: str, name: str, place: Place) -> str:
        """What its process is told; the same for all that share one."""
        target: Dict[str, Any] = {"home": self.uri}
        if place.nodes is not None:
            given = {"nodes": place.nodes, "cores": place.cores, "duration": place.duration, "queue": place.queue}
            target["nested"] = {"name": nested_name(ensemble, name), **given}
        elif place.uri:
            target["uri"] = place.uri
        else:
            target["job"] = place.job
        return json.dumps(target)

    def recover(self, ensemble: str, known: Mapping[JobId, Key], doubtful: Sequence[Submit], t: float) -> None:
        """Take up the jobs of an earlier service, each where it is."""
        self._recovering.add(ensemble)
        own = {id: key for id, key in known.items() if not id >> BITS}
        self.home.recover(ensemble, own, [one for one in doubtful if not one.member], t)
        for name, remote in self._named.get(ensemble, {}).items():
            user = remote.users[ensemble]
            user.again, user.t = True, t
            user.live = {id & MASK: key for id, key in known.items() if id & ~MASK == user.high}
            user.sent = {one.key: one for one in doubtful if one.member == name}

    def want(self, ensemble: str, events: FrozenSet[str]) -> None:
        """Follow more events, everywhere."""
        self.home.want(ensemble, events)
        for remote in self._named.get(ensemble, {}).values():
            remote.want(ensemble, events - {RESOURCES})

    def watch(self, fd: int, callback: Callable[[], None], *, write: bool = False) -> Watch:
        """As home does."""
        return self.home.watch(fd, callback, write=write)

    def perform(self, ensemble: str, action: Action) -> None:
        """Carry it out where it belongs; what is about no job, at home."""
        if isinstance(action, Submit):
            if action.member:
                self._named[ensemble][action.member].submit(ensemble, action)
                return
        elif isinstance(action, (Cancel, Kill, Urgency)) and action.id >> BITS:
            self._numbered[ensemble][action.id >> BITS].act(ensemble, action._replace(id=action.id & MASK))
            return
        self.home.perform(ensemble, action)

    def foresee(self, ensemble: str, action: Submit) -> None:
        """Home alone prepares."""
        if not action.member:
            self.home.foresee(ensemble, action)

    def scaler(self, table: Table, submitter: Optional[Submitter]) -> Scaler:
        """Home alone is scaled."""
        return self.home.scaler(table, submitter)

    def freeze(self) -> None:
        """Send nothing more."""
        self.home.freeze()
        self._all("freeze")

    def hold(self, on: bool) -> None:
        """Deliver as little as can be while it is on."""
        self.held = on
        self.home.hold(on)
        self._all("hold", on)

    def hear(self, ensemble: str, topics: FrozenSet[str]) -> None:
        """The bus is that of home."""
        self.home.hear(ensemble, topics)

    def close(self, ensemble: str) -> None:
        """Forget an ensemble; a member that nobody names any more is let go."""
        self.home.close(ensemble)
        self._recovering.discard(ensemble)
        self._numbered.pop(ensemble, None)
        for remote in self._named.pop(ensemble, {}).values():
            remote.leave(ensemble)
            if not remote.users:
                self._remotes.pop(remote.target, None)
                self._end_nested(json.loads(remote.target))

    def clear(self, ended: Mapping[str, Sequence[str]]) -> None:
        """End the instances of ended ensembles that are still there: the service died before it could see to that."""
        names = [nested_name(ensemble, member) for ensemble, members in ended.items() for member in members]
        for first in range(0, len(names), _AT_ONCE):
            some = names[first : first + _AT_ONCE]
            self.home.call_at(self.clock() + _CLEAR, lambda some=some: self._order("clear", some))  # type: ignore[misc]

    def _end_nested(self, target: Dict[str, Any]) -> None:
        """End the job of an instance that was started for an ensemble."""
        if "nested" in target:
            self._order("end", target["nested"]["name"])

    def _order(self, what: str, which: Any) -> None:
        """Have a process of its own end jobs in which instances run."""
        order = json.dumps({"home": self.uri, what: which})
        try:
            Line(self.home, self.program, [order], {}, lambda message: None, lambda: None, self.log)
        except OSError as exc:
            self.log(syslog.LOG_ERR, f"jobs in which instances run cannot be ended ({exc}): cancel {which}")

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """As home does."""
        return self.home.call_at(when, callback)

    def stop(self) -> None:
        """Stop delivering; jobs go on everywhere."""
        self._deliver = None
        for remote in self._remotes.values():
            remote.stop()
        self.home.stop()

    def show(self, id: JobId) -> str:
        """As users of its queue write it."""
        return self.home.show(id & MASK)

    def where(self, ensemble: str, id: JobId, params: Optional[Mapping[str, Any]] = None) -> str:
        """A path, or a command that works from the service's own instance."""
        remote = self._numbered.get(ensemble, {}).get(id >> BITS)
        return self.home.where(ensemble, id, params) if remote is None else remote.where(ensemble, id & MASK)

    def tell(self, ensemble: str, event: Event) -> None:
        """Deliver; from the loop alone."""
        if self._deliver is not None:
            self._deliver(ensemble, event)

    def recovered(self, ensemble: str) -> bool:
        """Has home told the past?"""
        return ensemble not in self._recovering

    def _from_home(self, ensemble: str, event: Event) -> None:
        if isinstance(event, Recovered):
            self._recovering.discard(ensemble)
        self.tell(ensemble, event)

    def _all(self, *message: Any) -> None:
        for remote in self._remotes.values():
            remote.send(*message)
