# SPDX-License-Identifier: MIT
"""The local queue: runs jobs as processes on this machine, for where there is no Flux.

Law of this file: who runs when, and which events tell of it. What a job is stands in `local_job.py`; processes are
the launcher's (`local_process.py`, `local_launcher.py`); nothing here forks, waits or blocks.

Theory of operation. One node, whose cores are counted: a job takes tasks x cores, or all with `exclusive`. Jobs
start in order of urgency, then of submission, and strictly so: a job that does not fit holds back those behind it.
Urgency 0 holds a job. Events have the names, order and contexts of a Flux journal (RFC 21), and statuses are coded
as the Flux shell codes them (death by signal N is exit code 128 + N), so that a file runs alike on both queues.
They are put into one queue and delivered from the loop, a few milliseconds of work at a time.

What Flux refuses or ignores on one node without queues and accounting is refused or ignored here: more nodes, cores
or gpus than there are, and any `queue`, are refused; `bank`, `shell` and `attributes` change nothing. Output goes to
RUNDIR/<ensemble>/<group>-<id>.out unless the file says otherwise; in paths `{{id}}`, `{{jobid}}`, `{{name}}`,
`{{size}}` and `{{taskid}}` are filled in. A finished job leaves four bytes behind, for `where`.

It has more than 400 lines because jobs, their queue and their events are one state that no part owns alone.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import signal
import time
from array import array
from collections import deque
from pathlib import Path
from typing import Any, Callable, Deque, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from ensemble.engine.actions import Action, Cancel, Kill, Look, Submit, Urgency
from ensemble.engine.events import (
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
)
from ensemble.errors import MemberError
from ensemble.members.base import KILL_TIMEOUT, Deliver, Member, Submitter, Timer, Watch
from ensemble.members.local_job import CANCELLED, PENDING, RUNNING, Job, OpenEnsemble
from ensemble.members.local_process import LauncherProcess
from ensemble.members.loop_timers import LoopTimer, watch
from ensemble.members.output import Loop, Outputs
from ensemble.spec.models import Spec

#: seconds of deliveries before the loop gets its turn
_SLICE = 0.005
#: seconds that the clock of files may lie behind ours
_SKEW = 2.0
#: number of the set of a job of an earlier queue
_UNKNOWN = 0xFFFFFFFF


class LocalMember(Member):
    """Processes of this machine, run by the thread that runs `loop`."""

    name = "local"
    capabilities = frozenset(("submit", "cancel", "kill", "urgency"))

    def __init__(
        self,
        rundir: os.PathLike[str] | str,
        cores: Optional[int] = None,
        loop: Optional[asyncio.AbstractEventLoop] = None,
        environment: Optional[Dict[str, str]] = None,
    ) -> None:
        """`rundir` holds the jobs' output. `cores` is by default what this process may use. Without a `loop` one is
        made: the caller runs and closes it. `environment` is set for every job, on top of all else."""
        self._environment = environment or {}
        self.loop = loop if loop is not None else asyncio.new_event_loop()
        self.rundir = Path(rundir).absolute()
        self.cores = cores if cores is not None else len(os.sched_getaffinity(0))
        self._free = self.cores
        self._recovering: List[Tuple[str, Tuple[JobId, ...], Tuple[Submit, ...]]] = []
        self._deliver: Optional[Deliver] = None
        self._launcher: Optional[LauncherProcess] = None
        self._ensembles: Dict[str, OpenEnsemble] = {}
        self._jobs: Dict[JobId, Job] = {}
        #: (-urgency, id) of jobs that may start; those that were cancelled or got another urgency are skipped
        self._queue: List[Tuple[int, JobId]] = []
        #: by id, from 1: number of the set in its file
        self._sets = array("I", [0])
        self._outbox: Deque[Tuple[str, Event]] = deque()
        self._draining = False
        self._scheduling = False
        loop_of = Loop(self.watch, lambda seconds, call: LoopTimer(self.loop, time.time() + seconds, call))
        self._outputs = Outputs(loop_of, lambda level, text: None, self._put)

    def start(self, deliver: Deliver) -> None:
        try:
            self.rundir.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise MemberError(
                f"cannot make the directory for the jobs' output, {self.rundir} ({exc.strerror}): name another one"
            ) from exc
        self._launch()
        self._deliver = deliver
        for ensemble, known, doubtful in self._recovering:
            for id in known:
                self._put(ensemble, Lost(time.time(), id, "its process died with the local queue"))
            for submission in doubtful:
                self._submit(ensemble, submission)
            self._put(ensemble, Recovered(time.time()))
        self._recovering.clear()

    def _launch(self) -> LauncherProcess:
        self._launcher = LauncherProcess(self.loop, self._on_launcher, self._on_lost)
        return self._launcher

    def open(self, ensemble: str, spec: Spec, submitter: Submitter, events: FrozenSet[str]) -> None:
        directory = self.rundir / ensemble
        known = OpenEnsemble(ensemble, spec, submitter, events, directory, self._environment)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise MemberError(f"cannot make the directory for the jobs' output, {directory} ({exc.strerror})") from exc
        self._ensembles[ensemble] = known

    def close(self, ensemble: str) -> None:
        self._ensembles.pop(ensemble, None)

    def recover(self, ensemble: str, known: Mapping[JobId, Key], doubtful: Sequence[Submit], t: float) -> None:
        """Take up an earlier service's ensemble: its processes died with it, so what ran is lost, and told so."""
        self._recovering.append((ensemble, tuple(known), tuple(doubtful)))
        self.skip(max(known, default=0))

    def skip(self, last: JobId) -> None:
        """Give no job an id up to `last`: an earlier queue has given those to jobs of an ensemble taken up here."""
        self._sets.extend([_UNKNOWN] * (last + 1 - len(self._sets)))

    def want(self, ensemble: str, events: FrozenSet[str]) -> None:
        known = self._opened(ensemble)
        known.events |= events

    def watch(self, fd: int, callback: Callable[[], None], *, write: bool = False) -> Watch:
        return watch(self.loop, fd, callback, write)

    def perform(self, ensemble: str, action: Action) -> None:
        if self._deliver is None:
            return
        if isinstance(action, Submit):
            self._submit(ensemble, action)
        elif isinstance(action, Cancel):
            self._act(ensemble, action, self._cancel)
        elif isinstance(action, Kill):
            self._act(ensemble, action, self._kill)
        elif isinstance(action, Urgency):
            self._act(ensemble, action, self._urge)
        elif isinstance(action, Look):
            self._put(ensemble, Counted(time.time(), self._counts()))
        else:
            raise MemberError(f"the local queue cannot perform {type(action).__name__}")

    def hold(self, on: bool) -> None:
        """Take nothing from the reader of output. Of jobs there is no more to tell than there are slots for them."""
        self._outputs.hold(on)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        return LoopTimer(self.loop, when, callback)

    def stop(self) -> None:
        """Also kills every job: they do not outlive this queue."""
        self._deliver = None
        self._outbox.clear()
        self._queue.clear()
        for job in self._jobs.values():
            if job.limit is not None:
                job.limit.cancel()
        self._outputs.stop()
        self._jobs.clear()
        self._ensembles.clear()
        if self._launcher is not None:
            self._launcher.close()
            self._launcher = None

    def where(self, ensemble: str, id: JobId, params: Optional[Mapping[str, Any]] = None) -> str:
        if ensemble not in self._ensembles or not 0 < id < len(self._sets):
            return ""
        if self._sets[id] == _UNKNOWN:
            return ""
        return self._ensembles[ensemble].where(self._sets[id], id, params or {})

    # submitting

    def _submit(self, ensemble: str, action: Submit) -> None:
        known = self._opened(ensemble)
        job = Job(len(self._sets), known, action, self.cores)
        reason = job.infeasible(self.cores)
        if reason is not None:
            self._put(ensemble, Refused(time.time(), action.key, f"{reason} (group '{action.group}')"))
            return
        self._sets.append(known.first[action.group] + action.set)
        self._jobs[job.id] = job
        about = {"userid": os.getuid(), "urgency": job.urgency, "flags": 0, "version": 1}
        job.t = time.time()
        self._put(ensemble, JobEvent(job.t, job.id, "submit", about, action.key))
        self._event(job, "validate")
        self._event(job, "depend")
        self._event(job, "priority", priority=job.urgency)
        self._put(ensemble, Acknowledged(time.time(), action.key, job.id))

    def _admit(self, id: JobId) -> None:
        """Its owner knows of it: now it may run. Not before, so that no job runs that a later queue had to doubt."""
        job = self._jobs.get(id)
        if job is not None:
            job.admitted = True
            self._queue_up(job)

    def _queue_up(self, job: Job) -> None:
        if job.urgency > 0:
            heapq.heappush(self._queue, (-job.urgency, job.id))
        self._schedule_soon()

    def _opened(self, ensemble: str) -> OpenEnsemble:
        if ensemble not in self._ensembles:
            raise MemberError(f"ensemble {ensemble} is not open")
        return self._ensembles[ensemble]

    # running

    def _schedule_soon(self) -> None:
        if not self._scheduling:
            self._scheduling = True
            self.loop.call_soon(self._schedule)

    def _schedule(self) -> None:
        self._scheduling = False
        while self._queue and self._deliver is not None:
            urgency, id = self._queue[0]
            job = self._jobs.get(id)
            if job is None or job.state != PENDING or job.urgency != -urgency:
                heapq.heappop(self._queue)
            elif job.cores <= self._free:
                heapq.heappop(self._queue)
                self._run(job)
            else:
                break

    def _run(self, job: Job) -> None:
        job.state = RUNNING
        self._free -= job.cores
        self._event(job, "alloc", ranks="0")
        try:
            launcher = self._launcher or self._launch()
        except MemberError as exc:
            self._event(job, "start")
            self._exception(job, "exec", str(exc))
            self._end(job, 126 << 8)
        else:
            launcher.send(job.request())

    def _on_launcher(self, message: Dict[str, Any]) -> None:
        job = self._jobs.get(message["id"])
        if job is None:
            return
        if message["event"] != "finish":
            self._event(job, "start", message["t"])
            wanted = job.owner.patterns.get(job.set.name)
            if wanted and message["event"] == "start":
                self._outputs.follow(job.owner.id, job.id, job.key, wanted, job.files(), message["t"] - _SKEW)
        if message["event"] == "failed":
            self._exception(job, "exec", message["note"])
        if message["event"] != "start":
            if self._outputs.follows(job.id):
                # what it has printed counts before its end does
                self._outputs.end(job.id, lambda: self._end(job, message["status"], message["t"]))
            else:
                self._end(job, message["status"], message["t"])
        elif job.duration > 0:
            job.limit = self.loop.call_later(job.duration, self._time_out, job)

    def _on_lost(self) -> None:
        self._launcher = None
        for job in [job for job in self._jobs.values() if job.state != PENDING]:
            self._exception(job, "exec", "lost contact with the process that runs local jobs")
            self._end(job, int(signal.SIGKILL))

    def _end(self, job: Job, status: int, t: Optional[float] = None) -> None:
        if job.limit is not None:
            job.limit.cancel()
        if self._jobs.pop(job.id, None) is None:
            return
        self._outputs.forget(job.id)
        self._free += job.cores
        self._event(job, "finish", t, status=status)
        self._event(job, "release", ranks="all", final=True)
        self._event(job, "free")
        self._event(job, "clean")
        self._schedule_soon()

    def _time_out(self, job: Job) -> None:
        job.limit = None
        self._exception(job, "timeout", "resource allocation expired")
        self._signal(job, signal.SIGALRM, KILL_TIMEOUT)

    # acting on jobs

    def _act(self, ensemble: str, action: Cancel | Kill | Urgency, act: Callable[[Job, Any], Optional[str]]) -> None:
        job = self._jobs.get(action.id)
        if job is not None and job.owner.id == ensemble:
            error = act(job, action)
        elif job is None and 0 < action.id < len(self._sets):
            error = "job is inactive"
        else:
            error = f"no job {action.id}"
        self._put(ensemble, ActionDone(time.time(), action.id, type(action).__name__.lower(), error))

    def _cancel(self, job: Job, action: Cancel) -> Optional[str]:
        if job.state == CANCELLED:
            return None
        self._exception(job, "cancel", action.cause.text)
        if job.state == PENDING:
            del self._jobs[job.id]
            self._event(job, "clean")
            self._schedule_soon()
        else:
            job.state = CANCELLED
            self._signal(job, signal.SIGTERM, KILL_TIMEOUT)
        return None

    def _kill(self, job: Job, action: Kill) -> Optional[str]:
        if action.signal not in signal.valid_signals():
            return f"invalid signal number {action.signal}"
        if job.state == PENDING:
            return "job is not running"
        self._signal(job, action.signal, None)
        return None

    def _urge(self, job: Job, action: Urgency) -> Optional[str]:
        if job.state != PENDING:
            return "the job runs already, and has no urgency any more"
        job.urgency = action.value
        self._event(job, "urgency", userid=os.getuid(), urgency=action.value)
        self._event(job, "priority", priority=action.value)
        if job.admitted:
            self._queue_up(job)
        return None

    def _counts(self) -> Dict[str, Dict[str, int]]:
        """One node, this machine, and whose jobs there are: all that are this queue's."""
        running = sum(job.state != PENDING for job in self._jobs.values())
        return {
            "nodes": {"up": 1, "down": 0, "free": int(not running), "allocated": int(running > 0)},
            "cores": {"up": self.cores, "down": 0, "free": self._free, "allocated": self.cores - self._free},
            "queue": {"pending": len(self._jobs) - running, "running": running},
        }

    def _signal(self, job: Job, number: int, grace: Optional[float]) -> None:
        if self._launcher is not None:
            self._launcher.send({"op": "kill", "id": job.id, "signal": int(number), "grace": grace})

    # telling of it

    def _exception(self, job: Job, type: str, note: str) -> None:
        self._event(job, "exception", type=type, severity=0, note=note, userid=os.getuid())

    def _event(self, job: Job, name: str, t: Optional[float] = None, **context: Any) -> None:
        # The launcher's times may lie behind ours; a job's do not go backwards.
        job.t = max(job.t, time.time() if t is None else t)
        known = self._ensembles.get(job.owner.id)
        if known is not None and name in known.events:
            self._put(known.id, JobEvent(job.t, job.id, name, context))

    def _put(self, ensemble: str, event: Event) -> None:
        self._outbox.append((ensemble, event))
        if not self._draining:
            self._draining = True
            self.loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._draining = False
        end = time.monotonic() + _SLICE
        try:
            while self._outbox and self._deliver is not None and time.monotonic() < end:
                ensemble, event = self._outbox.popleft()
                if ensemble in self._ensembles:
                    self._deliver(ensemble, event)
                if type(event) is Acknowledged:
                    self._admit(event.id)
        finally:
            if self._outbox and not self._draining:
                self._draining = True
                self.loop.call_soon(self._drain)
