# SPDX-License-Identifier: MIT
"""The simulated queue: discrete events on a virtual clock, jobs without processes.

Law of this file: who runs when, and which events tell of it; no real time, no processes, no randomness. What becomes of a
job once it runs is its `Fate`, which the caller of the constructor draws. Nodes are counted in `simulated_nodes.py`, what
jobs have had of them in `simulated_usage.py`; what is to happen stands in `simulated_agenda.py`.

Theory of operation. `run` delivers what there is to tell, then starts the jobs that may start, and only where nothing is
left to do at this moment moves the clock to the next thing that happens. So all that an ensemble's rules answer to an
event has happened at the event's own time. Jobs start in order of urgency, then of submission, and strictly so: one that
does not fit holds back those behind it (Flux calls it fcfs). Urgency 0 holds a job. Events have the names, order and
contexts of a Flux journal (RFC 21), and statuses are coded as the Flux shell codes them (death by signal N is exit code
128 + N). A job beyond its time limit, cancelled, or killed ends at that moment, unless its fate says that it lives on.

It has more than 400 lines because jobs, their queue, their events and the clock are one state that no part owns alone.
"""

from __future__ import annotations

import heapq
import math
import signal
from collections import deque
from typing import (
    Any,
    Callable,
    Collection,
    Deque,
    Dict,
    FrozenSet,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from ensemble.engine.actions import Action, Cancel, Kill, Look, Submit, Urgency
from ensemble.engine.events import (
    BASE_EVENTS,
    RESOURCES,
    Acknowledged,
    ActionDone,
    Counted,
    Event,
    JobEvent,
    JobId,
    Key,
    Lost,
    Recovered,
    Refused,
    Report,
    Resources,
)
from ensemble.errors import MemberError
from ensemble.members.base import KILL_TIMEOUT, Deliver, Member, Submitter, Timer
from ensemble.members.simulated_agenda import Agenda, AgendaTimer
from ensemble.members.simulated_job import PENDING, RUNNING, Draw, Fate, Job, OpenEnsemble, death, request
from ensemble.members.simulated_nodes import Nodes, Placement
from ensemble.members.simulated_scaler import SimulatedScaler, idset
from ensemble.members.simulated_usage import Usage
from ensemble.spec.models import Spec
from ensemble.spec.scaler import Scaler as Table
from ensemble.spec.simulate import DELAY

#: signals that do nothing to a process that does not ask for them
_HARMLESS = frozenset((signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGSTOP, signal.SIGTSTP))
#: what is to happen to a job
_END, _LIMIT, _KILL, _REPORT = "end", "limit", "kill", "report"
_NOTHING: Dict[str, Any] = {}
_SUCCESS: Dict[str, Any] = {"status": 0}
_FREED: Dict[str, Any] = {"ranks": "all", "final": True}


class SimulatedMember(Member):
    """Jobs that only pass the time of a virtual clock."""

    name = "simulated"
    capabilities = frozenset(("submit", "cancel", "kill", "urgency", "scaler"))

    def __init__(
        self,
        nodes: Nodes,
        draw: Draw,
        start: float = 0.0,
        queues: Collection[str] = (),
        lean: bool = False,
        delay: float = DELAY,
        most_pending: float = math.inf,
    ) -> None:
        """`draw` is asked for a job's fate when it starts. `start` is what the clock shows at first, in seconds.

        Jobs may name the `queues`; they all have the same nodes. A `lean` one leaves out acknowledgements, which tell
        an engine nothing that the events of a job that cannot become invalid do not. Nodes take `delay` seconds to come up.
        While `most_pending` jobs wait to start, submissions are answered later, in their order.
        """
        self._delay = delay
        #: gets a word when a job has ended; None where nobody waits for nodes to become free
        self.on_freed: Optional[Callable[[], None]] = None
        self._most_pending = most_pending
        self._backlog: Deque[Tuple[OpenEnsemble, Submit]] = deque()
        #: submissions that were answered later
        self.held_back = 0
        self._lean = lean
        self._interrupted = False
        self.nodes = nodes
        self._queues = queues
        self._draw = draw
        self._now = start
        self._deliver: Optional[Deliver] = None
        self._ensembles: Dict[str, OpenEnsemble] = {}
        self._jobs: Dict[JobId, Job] = {}
        self._last = 0
        self._recovering: List[Tuple[str, Tuple[JobId, ...], Tuple[Submit, ...]]] = []
        #: (-urgency, id) of jobs that may start; those that were cancelled or got another urgency are skipped
        self._queue: List[Tuple[int, JobId]] = []
        #: something has happened that may let a job start
        self._unsettled = False
        self._outbox: Deque[Tuple[OpenEnsemble, Event]] = deque()
        self._agenda = Agenda()
        self._running = 0
        self.usage = Usage(nodes, start)

    # ---- the clock

    def clock(self) -> float:
        """What the virtual clock shows: seconds, from `start` on."""
        return self._now

    @property
    def running(self) -> int:
        """Jobs that run now."""
        return self._running

    @property
    def idle(self) -> bool:
        """Is there nothing left that could happen?"""
        return not (self._outbox or self._agenda or self._recovering)

    def run(self, until: float = math.inf) -> bool:
        """Deliver all that happens up to that time, and leave the clock there, unless `interrupt` is called.

        False where nothing is left to happen by then.
        """
        outbox, ensembles = self._outbox, self._ensembles
        self._interrupted = False
        while not self._interrupted:
            if outbox:
                owner, event = outbox.popleft()
                if self._deliver is not None and owner.id in ensembles:
                    self._deliver(owner.id, event)
            elif not self._move(until):
                if math.isfinite(until):
                    self._now = max(self._now, until)
                return False
        return True

    def interrupt(self) -> None:
        """From inside a delivery: have `run` return before the next one."""
        self._interrupted = True

    def _move(self, until: float) -> bool:
        """Start what may start, or else have the next thing happen that is due by then. False where there is none."""
        outbox = self._outbox
        if self._unsettled:
            self._unsettled = False
            self._schedule()
            while self._backlog and len(self._jobs) - self._running < self._most_pending:
                self._submit(*self._backlog.popleft())
            if outbox:
                return True
        agenda, jobs = self._agenda, self._jobs
        while self._deliver is not None:
            found = agenda.next(until)
            if found is None:
                break
            when, what = found
            if isinstance(what, AgendaTimer):
                callback = what.callback
                if callback is not None:
                    self._now = max(self._now, when)
                    what.callback = None
                    callback()
                    return True
            elif what[0].id in jobs:
                self._now = max(self._now, when)
                self._happens(*what)
                return True
        return False

    # ---- the contract

    def start(self, deliver: Deliver) -> None:
        self._deliver = deliver
        for ensemble, known, doubtful in self._recovering:
            owner = self._opened(ensemble)
            for id in known:
                self._put(owner, Lost(self._now, id, "a simulated queue does not outlive its process"))
            for submission in doubtful:
                self._submit(owner, submission)
            self._put(owner, Recovered(self._now))
        self._recovering.clear()

    def open(self, ensemble: str, spec: Spec, submitter: Submitter, events: FrozenSet[str]) -> None:
        self._ensembles[ensemble] = OpenEnsemble(ensemble, spec, events)

    def close(self, ensemble: str) -> None:
        self._ensembles.pop(ensemble, None)

    def recover(self, ensemble: str, known: Mapping[JobId, Key], doubtful: Sequence[Submit], t: float) -> None:
        self._recovering.append((ensemble, tuple(known), tuple(doubtful)))
        self._last = max(self._last, *known, 0)
        self._now = max(self._now, t)

    def want(self, ensemble: str, events: FrozenSet[str]) -> None:
        self._opened(ensemble).events |= events

    def hear(self, ensemble: str, topics: FrozenSet[str]) -> None:
        """There is no bus, so nothing is ever heard of it."""

    def perform(self, ensemble: str, action: Action) -> None:
        if self._deliver is None:
            return
        owner = self._opened(ensemble)
        if isinstance(action, Submit):
            if self._backlog or len(self._jobs) - self._running >= self._most_pending:
                self._backlog.append((owner, action))
                self.held_back += 1
            else:
                self._submit(owner, action)
        elif isinstance(action, Cancel):
            self._act(owner, action, self._cancel)
        elif isinstance(action, Kill):
            self._act(owner, action, self._kill)
        elif isinstance(action, Urgency):
            self._act(owner, action, self._urge)
        elif isinstance(action, Look):
            self._put(owner, Counted(self._now, self.counts()))
        else:
            raise MemberError(f"the simulated queue cannot perform {type(action).__name__}")

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        timer = AgendaTimer(callback)
        self._agenda.put(max(when, self._now), timer)
        return timer

    def stop(self) -> None:
        self._deliver = None
        self._outbox.clear()
        self._agenda.clear()
        self._queue.clear()
        self._backlog.clear()
        self._jobs.clear()
        self._ensembles.clear()

    def where(self, ensemble: str, id: JobId, params: Optional[Mapping[str, Any]] = None) -> str:
        return f"job {id} is simulated and prints nothing" if ensemble in self._ensembles else ""

    def scaler(self, table: Table, submitter: Optional[Submitter]) -> SimulatedScaler:
        """Stands for any scaler."""
        return SimulatedScaler(self, self._delay)

    def changed(self, how: str, ranks: Sequence[int]) -> None:
        """Nodes have come up, or gone (`down`), that `nodes` has opened, closed, lost or regained."""
        self._unsettled = True
        for owner in self._ensembles.values() if ranks else ():
            if RESOURCES in owner.events:
                self._put(owner, Resources(self._now, how, idset(ranks)))

    def counts(self) -> Dict[str, Dict[str, int]]:
        """Nodes, cores and jobs, as a `Counted` has them."""
        return {
            **self.nodes.counts(),
            "queue": {"pending": len(self._jobs) - self._running, "running": self._running},
        }

    def lose(self, ranks: Sequence[int]) -> None:
        """These nodes go down, and with them the jobs that have some of them."""
        lost = [rank for rank in dict.fromkeys(ranks) if rank < len(self.nodes.sizes) and rank not in self.nodes.down]
        self.changed("down", lost)
        for job in list(self._jobs.values()):
            gone = [rank for rank, _, _ in job.place if rank in lost]
            if gone:
                self._exception(job, "node-failure", f"node failure on rank {gone[0]}")
                self._end(job, death(signal.SIGKILL))
        self.account()
        for rank in lost:
            self.nodes.lose(rank)

    def regain(self, ranks: Sequence[int]) -> None:
        """These nodes are up again."""
        found = [rank for rank in ranks if rank in self.nodes.down]
        self.changed("up", found)
        self.account()
        for rank in found:
            self.nodes.regain(rank)
        self._unsettled = True

    def submitted(self, id: JobId) -> Optional[Submit]:
        """What a job that has not ended was submitted as."""
        job = self._jobs.get(id)
        return None if job is None else job.act

    def _opened(self, ensemble: str) -> OpenEnsemble:
        if ensemble not in self._ensembles:
            raise MemberError(f"ensemble {ensemble} is not open")
        return self._ensembles[ensemble]

    # ---- a job's life

    def _submit(self, owner: OpenEnsemble, action: Submit) -> None:
        jobs = owner.groups[action.group][action.set]
        overrides = action.overrides
        asked = request(jobs, overrides) if overrides else owner.requests[action.group, action.set]
        reason = self.nodes.never(asked)
        if reason is None and action.params:
            reason = owner.unfit(action)
        if reason is None and jobs.queue is not None and jobs.queue not in self._queues:
            reason = f"the simulated queue has no queue '{jobs.queue}'"
        if reason is not None:
            self._put(owner, Refused(self._now, action.key, f"{reason} (group '{action.group}')"))
            return
        self._last = id = self._last + 1
        urgency = int(overrides.get("urgency", jobs.urgency))
        job = self._jobs[id] = Job(id, owner, action, asked, urgency)
        now = self._now
        self._outbox.append((owner, JobEvent(now, id, "submit", _NOTHING, action.key)))
        if len(owner.events) > len(BASE_EVENTS):
            self._event(job, "validate")
            self._event(job, "depend")
            self._event(job, "priority", {"priority": urgency})
        if not self._lean:
            self._outbox.append((owner, Acknowledged(now, action.key, id)))
        if urgency:
            heapq.heappush(self._queue, (-urgency, id))
            self._unsettled = True

    def _schedule(self) -> None:
        queue, jobs, nodes = self._queue, self._jobs, self.nodes
        while queue:
            urgency, id = queue[0]
            job = jobs.get(id)
            if job is None or job.state is not PENDING or job.urgency != -urgency:
                heapq.heappop(queue)
                continue
            self.account()
            place = nodes.take(job.asked)
            if place is None:
                return
            heapq.heappop(queue)
            self._begin(job, place)

    def _begin(self, job: Job, place: Placement) -> None:
        now = self._now
        job.state, job.place, job.t_start = RUNNING, place, now
        fate = job.fate = self._draw(job.act)
        self._running += 1
        self.usage.begun(job.act.group, now, self._running)
        owner = job.owner
        if "alloc" in owner.events:
            self._event(job, "alloc", {"ranks": idset([node[0] for node in place])})
        self._outbox.append((owner, JobEvent(now, job.id, "start", _NOTHING)))
        if fate.reports is not None:
            job.report = next(fate.reports, None)
            if job.report is not None:
                self._agenda.put(now + job.report[0], (job, _REPORT))
        limit = job.act.overrides.get("duration")
        if limit is None:
            limit = owner.groups[job.act.group][job.act.set].duration
        if 0 < limit < fate.duration:
            self._agenda.put(now + limit, (job, _LIMIT))
        if fate.duration < math.inf:
            self._agenda.put(now + fate.duration, (job, _END))

    def _happens(self, job: Job, what: str) -> None:
        fate = job.fate
        assert fate is not None
        if job.report is not None:
            # what it has to say comes before its end does
            self._report(job, fate)
        if what == _END:
            if fate.exception is not None:
                self._exception(job, *fate.exception)
            self._end(job, fate.status)
        elif what == _LIMIT and job.doomed is None:
            self._exception(job, "timeout", "resource allocation expired")
            self._doom(job, signal.SIGALRM)
        elif what == _KILL:
            self._end(job, death(signal.SIGKILL))

    def _report(self, job: Job, fate: Fate) -> None:
        """Tell the reports that are due, and come back for the next one."""
        assert fate.reports is not None
        told = False
        while job.report is not None and job.t_start + job.report[0] <= self._now:
            job.reported += 1
            values = dict(job.report[1])
            self._put(job.owner, Report(self._now, job.act.key, values, f"simulated:{job.reported}"))
            job.report = next(fate.reports, None)
            told = True
        if told and job.report is not None:
            self._agenda.put(job.t_start + job.report[0], (job, _REPORT))

    def _end(self, job: Job, status: int) -> None:
        del self._jobs[job.id]
        self._running -= 1
        self.account()
        self.nodes.give(job.place)
        self._unsettled = True
        if self.on_freed is not None:
            self.on_freed()
        owner, now, outbox = job.owner, self._now, self._outbox
        self.usage.ended(job.act.group, now)
        outbox.append((owner, JobEvent(now, job.id, "finish", {"status": status} if status else _SUCCESS)))
        if len(owner.events) > len(BASE_EVENTS):
            self._event(job, "release", _FREED)
            self._event(job, "free")
        outbox.append((owner, JobEvent(now, job.id, "clean", _NOTHING)))

    def account(self) -> None:
        """To be called before nodes come or go."""
        self.usage.account(self._now)

    # ---- acting on jobs

    def _act(
        self, owner: OpenEnsemble, action: Union[Cancel, Kill, Urgency], act: Callable[[Job, Any], Optional[str]]
    ) -> None:
        job = self._jobs.get(action.id)
        if job is not None and job.owner.id == owner.id:
            error = act(job, action)
        elif job is None and 0 < action.id <= self._last:
            error = "job is inactive"
        else:
            error = f"no job {action.id}"
        self._put(owner, ActionDone(self._now, action.id, type(action).__name__.lower(), error))

    def _cancel(self, job: Job, action: Cancel) -> Optional[str]:
        if job.doomed is not None:
            return None
        self._exception(job, "cancel", action.cause.text)
        if job.state is PENDING:
            del self._jobs[job.id]
            self._outbox.append((job.owner, JobEvent(self._now, job.id, "clean", _NOTHING)))
            self._unsettled = True
        else:
            self._doom(job, signal.SIGTERM)
        return None

    def _doom(self, job: Job, number: int) -> None:
        """End it, by SIGKILL after a while where it survives the signal."""
        assert job.fate is not None
        job.doomed = number
        if number in job.fate.survives:
            self._agenda.put(self._now + KILL_TIMEOUT, (job, _KILL))
        else:
            self._end(job, death(number))

    def _kill(self, job: Job, action: Kill) -> Optional[str]:
        if action.signal not in signal.valid_signals():
            return f"invalid signal number {action.signal}"
        if job.state is PENDING or job.fate is None:
            return "job is not running"
        survived = action.signal in _HARMLESS or action.signal in job.fate.survives
        if action.signal == signal.SIGKILL or not survived:
            self._end(job, death(action.signal))
        return None

    def _urge(self, job: Job, action: Urgency) -> Optional[str]:
        if job.state is not PENDING:
            return "the job runs already, and has no urgency any more"
        job.urgency = action.value
        self._event(job, "urgency", {"urgency": action.value})
        self._event(job, "priority", {"priority": action.value})
        if action.value:
            heapq.heappush(self._queue, (-action.value, job.id))
        self._unsettled = True
        return None

    # ---- telling of it

    def _exception(self, job: Job, type: str, note: str) -> None:
        self._event(job, "exception", {"type": type, "severity": 0, "note": note})

    def _event(self, job: Job, name: str, context: Dict[str, Any] = _NOTHING) -> None:
        """An event that a job may have more than once, or that few ask for. Two of a job never have the same time."""
        owner = job.owner
        if name in owner.events:
            self._outbox.append((owner, JobEvent(job.time_of(name, self._now), job.id, name, context)))

    def _put(self, owner: OpenEnsemble, event: Event) -> None:
        self._outbox.append((owner, event))
