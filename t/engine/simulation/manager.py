# SPDX-License-Identifier: MIT
"""A model of Flux's job manager, with what takes submissions in: jobs, their eventlogs, and all that goes wrong there.

What happens to a job is its `Fate`, drawn from its key without the attempt, so that the same job meets the same fate
in a story with faults and in one without. Jobs go on while the service is dead. The law that is watched here, at every
new job: a key has at most one job, and there is no job that the store does not hold as intended.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ensemble.engine.events import JobEvent, Key
from t.engine.simulation.world import Violation, World


class Fate(NamedTuple):
    """What becomes of a job. Times are seconds."""

    #: from its submission until it may start
    wait: float = 0.1
    run: float = 1.0
    #: wait status of its end
    status: int = 0
    #: type and note of an exception of severity 0 at its end
    exception: Optional[Tuple[str, str]] = None
    #: None, or refused: before there is a job, after its invalidate, before its invalidate
    refuse: Optional[str] = None
    #: attempts that are lost with their node before one comes to its own end
    losses: int = 0
    #: signals that it survives
    handles: Tuple[int, ...] = ()


class Request:
    """One submission on its way."""

    __slots__ = ("answer", "dropped", "key")

    def __init__(self, key: Key, answer: Callable[[Optional[int], str], None]) -> None:
        self.key = key
        #: gets the job's id, or None and why it was refused; None: nobody hears it
        self.answer: Optional[Callable[[Optional[int], str], None]] = answer
        #: it never arrives
        self.dropped = False


class ManagedJob:
    """One job."""

    __slots__ = ("eventlog", "fate", "id", "key", "ready", "state", "urgency")

    def __init__(self, id: int, key: Key, fate: Fate, now: float) -> None:
        self.id = id
        self.key = key
        self.fate = fate
        #: when it may start, by the world's time
        self.ready = now + fate.wait
        #: pending, running, ending, inactive, invalid
        self.state = "pending"
        self.urgency = 16
        self.eventlog: List[JobEvent] = []

    def times(self, name: str) -> List[float]:
        return [event.t for event in self.eventlog if event.name == name]

    @property
    def status(self) -> Optional[int]:
        found = [event.context["status"] for event in self.eventlog if event.name == "finish"]
        return found[0] if found else None


class JobManager:
    """The queue of one instance, across its restarts."""

    def __init__(self, world: World, slots: int, fate: Callable[[Key], Fate], intended: Callable[[Key], bool]) -> None:
        self.world = world
        self.slots = slots
        #: no new instance in this state: up, leaving, down
        self.state = "up"
        #: when the instance came up, by its clock
        self.t_up = world.clock()
        self.jobs: Dict[int, ManagedJob] = {}
        self.by_key: Dict[Key, ManagedJob] = {}
        #: those that the journal's past does not have: purged ones, and invalid ones
        self.forgotten: Dict[int, ManagedJob] = {}
        #: inactive jobs that were purged
        self.purged = 0
        #: submissions that were sent and are not decided
        self.pipeline: List[Request] = []
        #: hear of each event: journal streams
        self.listeners: List[Callable[[ManagedJob, JobEvent], None]] = []
        self._fate = fate
        self._intended = intended
        self._last = 100

    # ---- submissions

    def submit(self, request: Request) -> None:
        """A submission arrives; it is decided later."""
        self.pipeline.append(request)
        self.world.soon(lambda: self._decide(request), 0.2)

    def _decide(self, request: Request) -> None:
        if request not in self.pipeline:
            return
        self.pipeline.remove(request)
        if request.dropped:
            return
        if self.state != "up":
            self._answer(request, None, "the instance is going down")
            return
        fate = self._fate(request.key)
        if fate.refuse == "before":
            self._answer(request, None, "no such queue")
            return
        job = self._create(request.key, fate)
        if fate.refuse is None:
            for name in ("validate", "depend", "priority"):
                self._tell(job, name)
            self.world.after(fate.wait, self.schedule)
            self._answer(request, job.id, "")
            return
        if fate.refuse == "late":
            self._answer(request, None, "too many nodes")
            self.world.soon(lambda: self._invalidate(job))
        else:
            self._invalidate(job)
            self._answer(request, None, "too many nodes")

    def _answer(self, request: Request, id: Optional[int], reason: str) -> None:
        answer = request.answer
        if answer is not None:
            self.world.soon(lambda: answer(id, reason), 0.4)

    def _create(self, key: Key, fate: Fate) -> ManagedJob:
        before = self.by_key.get(key)
        if before is not None and before.state != "invalid":
            raise Violation(f"key {key} has job {before.id} ({before.state}), and gets another one")
        if not self._intended(key):
            raise Violation(f"a job for key {key}, and no such intent is kept")
        # as in Flux, an id says nothing about the order
        self._last += self.world.random.randrange(1, 50)
        job = ManagedJob(self._last, key, fate, self.world.now)
        self.jobs[job.id] = job
        self.by_key[key] = job
        self._tell(job, "submit", key=key)
        return job

    def _invalidate(self, job: ManagedJob) -> None:
        job.state = "invalid"
        self._tell(job, "invalidate")
        # it was none: the journal of the past does not have it
        self.forgotten[job.id] = job

    # ---- a job's life

    def _tell(self, job: ManagedJob, name: str, context: Optional[Dict[str, Any]] = None, key: Any = None) -> None:
        event = JobEvent(self.world.clock(), job.id, name, context or {}, key)
        job.eventlog.append(event)
        for listener in list(self.listeners):
            listener(job, event)

    def active(self) -> List[ManagedJob]:
        return [job for job in self.jobs.values() if job.state not in ("inactive", "invalid")]

    def schedule(self) -> None:
        """Start what can start, not always the oldest first."""
        if self.state != "up":
            return
        running = sum(job.state in ("running", "ending") for job in self.jobs.values())
        now = self.world.now
        waiting = [job for job in self.jobs.values() if job.state == "pending" and job.ready <= now and job.urgency]
        waiting = [job for job in waiting if job.fate.refuse is None]
        self.world.random.shuffle(waiting)
        for job in waiting[: max(0, self.slots - running)]:
            job.state = "running"
            self._tell(job, "alloc", {"ranks": "0"})
            self._tell(job, "start")
            self.world.after(job.fate.run, lambda job=job: self._run_out(job))  # type: ignore[misc]

    def _run_out(self, job: ManagedJob) -> None:
        fate = job.fate
        if job.state != "running":
            return
        if job.key.attempt < fate.losses:
            self._end(job, 9 if job.id % 2 else None, ("exec", "node failure on n1 (rank 1)"))
        else:
            self._end(job, fate.status, fate.exception)

    def _end(self, job: ManagedJob, status: Optional[int], exception: Optional[Tuple[str, str]]) -> None:
        job.state = "ending"
        if exception is not None:
            self._tell(job, "exception", {"type": exception[0], "severity": 0, "note": exception[1]})

        def clean() -> None:
            job.state = "inactive"
            self._tell(job, "clean")
            self.schedule()

        def finish() -> None:
            if status is not None:
                self._tell(job, "finish", {"status": status})
            self.world.soon(clean)

        self.world.soon(finish)

    def cancel(self, id: int) -> Optional[str]:
        """None, or why not."""
        job = self.jobs.get(id)
        if job is None or job.state in ("inactive", "invalid") or id in self.forgotten:
            return "job is inactive"
        if job.state == "running":
            self._end(job, 15, ("cancel", ""))
            return None
        self._tell(job, "exception", {"type": "cancel", "severity": 0, "note": ""})
        # one that is about to be found invalid ends so
        if job.state == "pending" and job.fate.refuse is None:
            job.state = "ending"
            self.world.soon(lambda: self._clean(job))
        return None

    def _clean(self, job: ManagedJob) -> None:
        job.state = "inactive"
        self._tell(job, "clean")

    def kill(self, id: int, signal: int) -> Optional[str]:
        """None, or why not."""
        job = self.jobs.get(id)
        if job is None or job.state != "running":
            return "job is not running"
        if signal not in job.fate.handles:
            self._end(job, signal, None)
        return None

    def set_urgency(self, id: int, urgency: int) -> Optional[str]:
        """None, or why not. A job of urgency 0 is held."""
        job = self.jobs.get(id)
        if job is None or job.state != "pending" or id in self.forgotten:
            return "job is not pending"
        self._tell(job, "urgency", {"urgency": urgency})
        job.urgency = urgency
        self.schedule()
        return None

    # ---- what goes wrong

    def drop_some(self) -> None:
        """Of the submissions on their way some never arrive, and nobody hears of the others."""
        for request in self.pipeline:
            request.answer = None
            request.dropped = self.world.random.random() < 0.4

    def reload(self) -> None:
        """The module is reloaded: what was asked is not answered, and jobs are told to have come through it."""
        self.drop_some()
        for job in self.active():
            self._tell(job, "flux-restart")

    def leave(self, whole: bool) -> None:
        """The instance is shut down: running jobs are cancelled, and pending ones too if it is to be `whole`."""
        self.state = "leaving"
        for job in self.active():
            if job.state == "running" or (whole and job.state == "pending"):
                self.cancel(job.id)

    def at_rest(self) -> bool:
        """Has all that ran come to its end?"""
        return all(job.state == "pending" for job in self.active())

    def go_down(self) -> None:
        self.state = "down"
        self.pipeline.clear()
        self.listeners.clear()

    def come_up(self) -> None:
        self.state = "up"
        self.t_up = self.world.clock()
        for job in self.active():
            self._tell(job, "flux-restart")
            # what it still had to wait was counted by an instance that is no more
            job.ready = min(job.ready, self.world.now)
        self.schedule()

    def purge(self) -> int:
        """Forget the inactive jobs; how many."""
        gone = [job for job in self.jobs.values() if job.state == "inactive" and job.id not in self.forgotten]
        self.forgotten.update((job.id, job) for job in gone)
        self.purged += len(gone)
        return len(gone)
