# SPDX-License-Identifier: MIT
"""One Flux instance that is not the service's own: the ensembles that name it, and the process that drives it.

Law of this file: what is known here of an instance is what is needed to take its jobs up again: for each ensemble the jobs
that have not ended, the submissions of which nothing has come back, and what waits. It is told when the process comes and
goes, and is a part of `several.py`, which says how that works.
"""

from __future__ import annotations

import syslog
import time
from typing import TYPE_CHECKING, Any, Dict, FrozenSet, List, Optional, Tuple

from ensemble.engine.actions import Submit
from ensemble.engine.events import (
    Acknowledged,
    ActionDone,
    Counted,
    Event,
    InDoubt,
    JobEvent,
    JobId,
    Key,
    Lost,
    MemberChanged,
    Recovered,
    Refused,
    Resources,
)
from ensemble.engine.jobs import SHUTDOWN
from ensemble.engine.places import DOWN, GONE, UP
from ensemble.members.base import Submitter, Timer
from ensemble.members.line import Line
from ensemble.spec.models import Spec
from ensemble.spec.places import Place

if TYPE_CHECKING:
    from ensemble.members.several import Several

#: an instance's own ids have so many bits
BITS = 64
MASK = (1 << BITS) - 1
#: the last event of a job
_LAST = frozenset(("clean", "invalidate"))
#: seconds to the next process, at first and at most
_BACKOFF = (0.5, 30.0)
#: output files of ended jobs that are remembered
_OUTPUTS = 1000
#: seconds without a sign of life after which a process is given up
_SILENCE = 45.0

Act = Any  # Cancel, Kill or Urgency


class User:
    """An ensemble that names a member."""

    def __init__(self, name: str, place: int, timeout: float, spec: Spec, submitter: Submitter) -> None:
        self.name = name
        #: what stands above the 64 bits of its ids
        self.high = (place + 1) << BITS
        self.timeout = timeout
        self.spec = spec
        self.submitter = submitter
        self.events: FrozenSet[str] = frozenset()
        self.state = UP
        #: was it ever made known to the instance, by us or by an earlier service?
        self.again = False
        #: when it was last heard of, seconds since the epoch
        self.t = 0.0
        #: of the events of jobs that were told by then, when the latest happened
        self.t_told = 0.0
        #: jobs that are known and have not ended, by the instance's own ids
        self.live: Dict[JobId, Key] = {}
        #: submissions that are sent and of which nothing has come back
        self.sent: Dict[Key, Submit] = {}
        #: submissions that are not sent
        self.waiting: List[Submit] = []
        #: what is to be done to jobs and has no outcome, with the instance's own ids
        self.acts: Dict[Tuple[JobId, str], Act] = {}
        #: job to the file of its output, also of those that ended last
        self.where: Dict[JobId, str] = {}
        self.patience: Optional[Timer] = None

    def told_where(self, id: JobId, path: str) -> None:
        """The output of a job is in that file."""
        self.where[id] = path
        if len(self.where) > _OUTPUTS + len(self.live):
            del self.where[next(one for one in self.where if one not in self.live)]


class Remote:
    """One instance that is not home, with the process that drives it."""

    def __init__(self, several: Several, target: str, text: str) -> None:
        self.target = target
        self.users: Dict[str, User] = {}
        self._several = several
        self._text = text
        self._line: Optional[Line] = None
        self._up = False
        #: nothing to connect to will ever be there again
        self._over = False
        self._uri = ""
        self._t_up = 0.0
        #: when the latest event of a job that was told happened; 0 before the first
        self._t_told = 0.0
        self._why = ""
        self._heard_at = 0.0
        self._backoff = _BACKOFF[0]
        self._retry: Optional[Timer] = None
        self._watchdog: Optional[Timer] = None

    # What `Several` calls

    def join(self, ensemble: str, user: User) -> None:
        """One more ensemble."""
        self.users[ensemble] = user
        user.t = user.t_told = self._several.clock()
        if self._up:
            self._open(ensemble, user)
        elif self._several.started and self._line is None:
            self.soon(0.0)

    def leave(self, ensemble: str) -> None:
        """One less."""
        user = self.users.pop(ensemble)
        if user.patience is not None:
            user.patience.cancel()
        self.send("close", ensemble)
        if not self.users:
            # what it was told before is done when it has read to the end
            self.stop()

    def submit(self, ensemble: str, action: Submit) -> None:
        """Send it, or keep it until it can be sent."""
        user = self.users[ensemble]
        if user.state == GONE:
            reason = f"the member '{user.name}' ({self._text}) is given up: {self._why or 'it cannot be reached'}"
            refused = Refused(self._several.clock(), action.key, reason)
            self._several.call_at(self._several.clock(), lambda: self._several.tell(ensemble, refused))
        elif self._up:
            user.sent[action.key] = action
            self.send("perform", ensemble, action)
        else:
            user.waiting.append(action)

    def act(self, ensemble: str, action: Act) -> None:
        """The same for what is done to a job."""
        user = self.users[ensemble]
        if user.state != GONE:
            user.acts[action.id, type(action).__name__.lower()] = action
            self.send("perform", ensemble, action)

    def want(self, ensemble: str, events: FrozenSet[str]) -> None:
        user = self.users[ensemble]
        user.events = events
        self.send("want", ensemble, events)

    def where(self, ensemble: str, id: JobId) -> str:
        user = self.users.get(ensemble)
        told = user.where.get(id, "") if user is not None else ""
        return told or f"flux proxy {self._uri} flux job attach {self._several.home.show(id)}"

    def send(self, *message: Any) -> None:
        """To the process, if it is connected."""
        if self._up and self._line is not None:
            self._line.send(*message)

    def stop(self) -> None:
        """Let the process go."""
        for timer in (self._retry, self._watchdog, *(user.patience for user in self.users.values())):
            if timer is not None:
                timer.cancel()
        self._retry = self._watchdog = None
        self._up = False
        if self._line is not None:
            self._line.close()
            self._line = None

    def soon(self, seconds: float) -> None:
        """Start a process, from the loop."""
        if self._retry is None and self._line is None and not self._over:
            self._retry = self._several.call_at(self._several.clock() + seconds, self._connect)

    # The process

    def _connect(self) -> None:
        self._retry = None
        if self._line is not None or not self.users:
            return
        several = self._several
        self._why = ""
        self._heard_at = time.monotonic()
        try:
            self._line = Line(several.home, several.program, [self.target], {}, self._heard, self._lost, several.log)
        except OSError as exc:
            self._why = f"the process that drives it cannot be started: {exc}"
            self._lost()
            return
        self._look()

    def _look(self) -> None:
        """Is the process alive?"""
        self._watchdog = None
        if self._line is None:
            return
        if time.monotonic() - self._heard_at > _SILENCE:
            self._line.close()
            self._why = f"nothing was heard of it for {_SILENCE:g} s"
            self._lost()
            return
        self._watchdog = self._several.call_at(self._several.clock() + _SILENCE / 3, self._look)

    def _heard(self, message: Tuple[Any, ...]) -> None:
        what, args = message[0], message[1:]
        self._heard_at = time.monotonic()
        if what == "event":
            self._event(*args)
        elif what == "up":
            self._connected(*args)
        elif what == "ending":
            self._why = args[0]
        elif what == "ended":
            self._why, self._over = args[0], True

    def _lost(self) -> None:
        several = self._several
        was_up, self._up, self._line = self._up, False, None
        why = self._why or "the process that drives it has ended"
        if was_up or self._backoff == _BACKOFF[0]:
            several.log(syslog.LOG_WARNING, f"the member at {self._text} cannot be reached: {why}")
        # the last sign of life is that old
        t = several.clock() - (time.monotonic() - self._heard_at)
        for ensemble, user in list(self.users.items()):
            if was_up:
                user.t, user.t_told = t, min(t, self._t_told or t)
            if user.state == UP:
                user.state = DOWN
                several.tell(ensemble, MemberChanged(several.clock(), user.name, DOWN, why))
            if self.users.get(ensemble) is not user:
                # that was the end of it
                continue
            if self._over:
                self._give_up(ensemble, user, why)
            elif user.state == DOWN and user.patience is None:
                self._wait(ensemble, user)
        self.soon(self._backoff)
        self._backoff = min(2 * self._backoff, _BACKOFF[1])

    def _wait(self, ensemble: str, user: User) -> None:
        def over() -> None:
            user.patience = None
            if user.state == DOWN:
                self._give_up(ensemble, user, f"{self._why or 'no answer'}, and that for {user.timeout:g} s")

        user.patience = self._several.call_at(self._several.clock() + user.timeout, over)

    def _give_up(self, ensemble: str, user: User, why: str) -> None:
        if user.state == GONE or self.users.get(ensemble) is not user:
            return
        user.state = GONE
        user.live.clear()
        user.sent.clear()
        user.waiting.clear()
        user.acts.clear()
        user.where.clear()
        reason = f"the member '{user.name}' ({self._text}) is given up: {why}"
        self._several.tell(ensemble, MemberChanged(self._several.clock(), user.name, GONE, reason))

    def _connected(self, t_up: float, uri: str, fresh: bool) -> None:
        if fresh:
            # the one before has ended, and what ran in it with it
            for ensemble, user in list(self.users.items()):
                if user.again:
                    self._give_up(ensemble, user, "the job in which it ran has ended")
        self._up, self._t_up, self._uri = True, t_up, uri
        self._backoff = _BACKOFF[0]
        # those that have jobs already are told of before the start, the others have no past to look for
        known = {ensemble for ensemble, user in self.users.items() if user.again}
        for ensemble in known:
            self._open(ensemble, self.users[ensemble])
        self.send("start")
        for ensemble in self.users.keys() - known:
            self._open(ensemble, self.users[ensemble])
        if self._several.held:
            self.send("hold", True)
        for ensemble, user in list(self.users.items()):
            if user.patience is not None:
                user.patience.cancel()
                user.patience = None
            user.state = UP
            waiting, user.waiting = user.waiting, []
            self._several.tell(ensemble, MemberChanged(self._several.clock(), user.name, UP))
            if self.users.get(ensemble) is not user:
                continue
            for action in waiting:
                self.submit(ensemble, action)
            for act in list(user.acts.values()):
                self.send("perform", ensemble, act)

    def _open(self, ensemble: str, user: User) -> None:
        self.send("open", ensemble, user.spec, user.submitter, user.events)
        if user.again:
            self.send("recover", ensemble, dict(user.live), list(user.sent.values()), user.t)
        user.again = True

    def _event(self, ensemble: str, event: Event, where: str) -> None:
        user = self.users.get(ensemble)
        if user is None or isinstance(event, (Counted, Resources)):
            return
        last = False
        if isinstance(event, JobEvent):
            id = event.id
            if event.name == "submit" and event.key is not None:
                if user.sent.pop(event.key, None) is not None:
                    user.live[id] = event.key
                if not where.startswith("flux "):
                    user.told_where(id, where)
            if id not in user.live:
                return
            last = event.name in _LAST
            self._t_told = max(self._t_told, event.t)
            event = self._as_it_was(user, event)._replace(id=user.high | id)
        elif isinstance(event, Acknowledged):
            if user.sent.pop(event.key, None) is not None:
                user.live[event.id] = event.key
            event = event._replace(id=user.high | event.id)
        elif isinstance(event, (Refused, InDoubt)):
            user.sent.pop(event.key, None)
            for id in [id for id, key in user.live.items() if key == event.key and isinstance(event, InDoubt)]:
                del user.live[id]
        elif isinstance(event, Lost):
            user.live.pop(event.id, None)
            event = event._replace(id=user.high | event.id)
        elif isinstance(event, ActionDone):
            user.acts.pop((event.id, event.action), None)
            event = event._replace(id=user.high | event.id)
        elif isinstance(event, Recovered) and not self._several.recovered(ensemble):
            # what home has yet to tell is of before
            return
        self._several.tell(ensemble, event)
        if last:
            user.live.pop(id, None)

    def _as_it_was(self, user: User, event: JobEvent) -> JobEvent:
        """A cancel of a shutdown is told as one."""
        context = event.context
        if event.name == "exception" and context.get("type") == "cancel" and user.t_told <= event.t < self._t_up:
            return event._replace(context={**context, "type": SHUTDOWN})
        return event


def described(place: Place) -> str:
    """Where a member is, for messages."""
    if place.nodes is not None:
        return f"an instance of {place.nodes} nodes of its own" if place.nodes > 1 else "an instance of its own"
    return place.uri or f"job {place.job}"
