# SPDX-License-Identifier: MIT
"""The local queue: runs jobs as processes on this machine, for where there is no Flux.

Law of this file: who runs when, and which events tell of it. Processes are the launcher's (`local_process.py`,
`local_launcher.py`); nothing here forks, waits or blocks.

Theory of operation. One node, whose cores are counted: a job takes tasks x cores, or all with `exclusive`. Jobs
start in order of urgency, then of submission, and strictly so: a job that does not fit holds back those behind it.
Urgency 0 holds a job. Events have the names, order and contexts of a Flux journal (RFC 21), and statuses are coded
as the Flux shell codes them (death by signal N is exit code 128 + N), so that a file runs alike on both queues.
They are put into one queue and delivered from the loop, a few milliseconds of work at a time.

What Flux refuses or ignores on one node without queues and accounting is refused or ignored here: more nodes, cores
or gpus than there are, and any `queue`, are refused; `bank`, `shell` and `attributes` change nothing. Output goes to
RUNDIR/<ensemble>/<group>-<id>.out unless the file says otherwise; in paths `{{id}}`, `{{jobid}}`, `{{name}}`,
`{{size}}` and `{{taskid}}` are filled in. A finished job leaves four bytes behind, for `where`.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import re
import signal
import time
from array import array
from collections import deque
from pathlib import Path
from typing import Any, Callable, Deque, Dict, FrozenSet, List, Optional, Tuple

from ensemble.engine.actions import Action, Cancel, Kill, Submit
from ensemble.engine.events import BASE_EVENTS, Acknowledged, ActionDone, Event, JobEvent, JobId, Key, Refused
from ensemble.errors import MemberError
from ensemble.members.base import Deliver, Member, Submitter, Timer
from ensemble.members.local_process import LauncherProcess
from ensemble.spec.models import JobSet, Spec

#: seconds between the first signal of a cancel or time limit and SIGKILL: Flux's kill-timeout
KILL_TIMEOUT = 5.0
#: seconds of deliveries before the loop gets its turn
_SLICE = 0.005
#: an argument of execve(2) is shorter than this on Linux, its NUL included
_MAX_ARGUMENT = 131072
_MUSTACHE = re.compile(r"\{\{([a-z0-9.]+)\}\}")

PENDING, RUNNING, CANCELLED = "pending", "running", "cancelled"


class _Open:
    """An open ensemble."""

    def __init__(self, id: str, spec: Spec, submitter: Submitter, events: FrozenSet[str]) -> None:
        self.id = id
        self.groups = spec.groups
        #: all sets of the file, and where among them each group's begin
        self.sets = tuple(job for sets in self.groups.values() for job in sets)
        self.first: Dict[str, int] = {}
        begin = 0
        for name, sets in self.groups.items():
            self.first[name] = begin
            begin += len(sets)
        self.submitter = submitter
        self.events = frozenset(BASE_EVENTS) | events


class _Job:
    """A job that has not ended."""

    __slots__ = ("cores", "duration", "id", "key", "limit", "owner", "set", "state", "t", "tasks", "urgency")

    def __init__(self, id: JobId, owner: _Open, key: Key, set: JobSet, overrides: Dict[str, Any], whole: int) -> None:
        self.id = id
        self.owner = owner
        self.key = key
        self.set = set
        self.state = PENDING
        #: of its latest event, seconds since the epoch
        self.t = 0.0
        self.tasks: int = overrides.get("tasks") or set.tasks or overrides.get("nodes") or set.nodes or 1
        self.cores: int = whole if set.exclusive else self.tasks * set.cores
        #: seconds, 0 for no limit
        self.duration: float = overrides.get("duration", set.duration) or 0.0
        self.urgency: int = overrides.get("urgency", set.urgency)
        self.limit: Optional[asyncio.TimerHandle] = None


class _Timer(Timer):
    """A `call_at` on the loop's monotonic clock; looks at the real one before it calls."""

    def __init__(self, loop: asyncio.AbstractEventLoop, when: float, callback: Callable[[], None]) -> None:
        self._loop, self._when, self._callback = loop, when, callback
        self._arm()

    def _arm(self) -> None:
        self._handle = self._loop.call_at(self._loop.time() + (self._when - time.time()), self._expire)

    def _expire(self) -> None:
        if self._when - time.time() > 0.001:
            self._arm()  # the machine's clock was set back
        else:
            self._callback()

    def cancel(self) -> None:
        self._handle.cancel()


class LocalMember(Member):
    """Processes of this machine, run by the thread that runs `loop`."""

    name = "local"
    capabilities = frozenset(("submit", "cancel", "kill"))

    def __init__(
        self,
        rundir: os.PathLike[str] | str,
        cores: Optional[int] = None,
        loop: Optional[asyncio.AbstractEventLoop] = None,
    ) -> None:
        """`rundir` holds the jobs' output. `cores` is by default what this process may use. Without a `loop` one is
        made: the caller runs and closes it."""
        self.loop = loop if loop is not None else asyncio.new_event_loop()
        self.rundir = Path(rundir).absolute()
        self.cores = cores if cores is not None else len(os.sched_getaffinity(0))
        self._free = self.cores
        self._deliver: Optional[Deliver] = None
        self._launcher: Optional[LauncherProcess] = None
        self._ensembles: Dict[str, _Open] = {}
        self._jobs: Dict[JobId, _Job] = {}
        #: (-urgency, id) of jobs that may start; those that were cancelled meanwhile are skipped
        self._queue: List[Tuple[int, JobId]] = []
        #: by id, from 1: number of the set in its file
        self._sets = array("I", [0])
        self._outbox: Deque[Tuple[str, Event]] = deque()
        self._draining = False
        self._scheduling = False

    def start(self, deliver: Deliver) -> None:
        try:
            self.rundir.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise MemberError(
                f"cannot make the directory for the jobs' output, {self.rundir} ({exc.strerror}): name another one"
            ) from exc
        self._launch()
        self._deliver = deliver

    def _launch(self) -> LauncherProcess:
        self._launcher = LauncherProcess(self.loop, self._on_launcher, self._on_lost)
        return self._launcher

    def open(self, ensemble: str, spec: Spec, submitter: Submitter, events: FrozenSet[str]) -> None:
        for job in spec.jobs:
            size = len((job.script or "").encode(errors="surrogateescape"))
            if size >= _MAX_ARGUMENT:
                raise MemberError(
                    f"the script of '{job.name}' has {size} bytes, the local queue takes less than {_MAX_ARGUMENT}: "
                    "put it into a file and name that as the command"
                )
        directory = self.rundir / ensemble
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise MemberError(f"cannot make the directory for the jobs' output, {directory} ({exc.strerror})") from exc
        self._ensembles[ensemble] = _Open(ensemble, spec, submitter, events)

    def close(self, ensemble: str) -> None:
        self._ensembles.pop(ensemble, None)

    def perform(self, ensemble: str, action: Action) -> None:
        if self._deliver is None:
            return
        if isinstance(action, Submit):
            self._submit(ensemble, action)
        elif isinstance(action, Cancel):
            self._act(ensemble, action, self._cancel)
        elif isinstance(action, Kill):
            self._act(ensemble, action, self._kill)
        else:
            raise MemberError(f"the local queue cannot perform {type(action).__name__}")

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        return _Timer(self.loop, when, callback)

    def stop(self) -> None:
        """Also kills every job: they do not outlive this queue."""
        self._deliver = None
        self._outbox.clear()
        self._queue.clear()
        for job in self._jobs.values():
            if job.limit is not None:
                job.limit.cancel()
        self._jobs.clear()
        self._ensembles.clear()
        if self._launcher is not None:
            self._launcher.close()
            self._launcher = None

    def where(self, ensemble: str, id: JobId) -> str:
        if ensemble not in self._ensembles or not 0 < id < len(self._sets):
            return ""
        known = self._ensembles[ensemble]
        job = known.sets[self._sets[id]]
        if job.output is None:
            return self._default_output(ensemble, job, id)
        path = _fill(job.output, {**_names(job, id), "taskid": "*"})
        return os.path.join(known.submitter.cwd, job.workdir or "", path)

    # submitting

    def _submit(self, ensemble: str, action: Submit) -> None:
        known = self._opened(ensemble)
        spec = known.groups[action.group][action.set]
        job = _Job(len(self._sets), known, action.key, spec, action.overrides, self.cores)
        nodes = action.overrides.get("nodes") or spec.nodes or 1
        reason = self._infeasible(job, nodes)
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
        if job.urgency > 0:
            heapq.heappush(self._queue, (-job.urgency, job.id))
            self._schedule_soon()

    def _infeasible(self, job: _Job, nodes: int) -> Optional[str]:
        """Why this queue can never run the job, or None."""
        if nodes > 1:
            return f"the job asks for {nodes} nodes and the local queue has one: ask for nodes: 1, or run inside Flux"
        if job.cores > self.cores:
            return (
                f"the job asks for {job.cores} cores and this machine gives {self.cores}: ask for fewer tasks or cores"
            )
        if job.set.gpus > 0:
            return "the job asks for gpus and the local queue counts none: leave out gpus, or run inside Flux"
        if job.set.queue is not None:
            return f"'{job.set.queue}' is not a valid queue, the local queue has no named ones: leave out queue"
        return None

    def _opened(self, ensemble: str) -> _Open:
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
            job = self._jobs.get(self._queue[0][1])
            if job is None:
                heapq.heappop(self._queue)
            elif job.cores <= self._free:
                heapq.heappop(self._queue)
                self._run(job)
            else:
                break

    def _run(self, job: _Job) -> None:
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
            launcher.send(self._request(job))

    def _request(self, job: _Job) -> Dict[str, Any]:
        """What the launcher must know to run a job."""
        spec, submitter = job.set, job.owner.submitter
        names = _names(spec, job.id)
        environment = dict(submitter.environment)
        for name, value in spec.environment.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        environment.update(
            ENSEMBLE_JOB=str(job.key),
            ENSEMBLE_ID=job.owner.id,
            FLUX_JOB_ID=str(job.id),
            FLUX_JOB_SIZE=str(job.tasks),
            FLUX_JOB_NNODES="1",
        )
        output = spec.output if spec.output is not None else self._default_output(job.owner.id, spec, job.id)
        tasks = []
        for rank in range(job.tasks):
            each = {**names, "size": str(job.tasks), "taskid": str(rank)}
            tasks.append(
                {
                    "environment": {"FLUX_TASK_RANK": str(rank), "FLUX_TASK_LOCAL_ID": str(rank)},
                    "output": _fill(output, each),
                    "error": None if spec.error is None else _fill(spec.error, each),
                }
            )
        return {
            "op": "run",
            "id": job.id,
            "argv": list(spec.command) if spec.script is None else ["/bin/sh", "-c", spec.script, spec.name],
            "cwd": os.path.join(submitter.cwd, spec.workdir or ""),
            "umask": submitter.umask,
            "rlimits": submitter.rlimits,
            "environment": environment,
            "input": None if spec.input is None else _fill(spec.input, {**names, "size": str(job.tasks)}),
            "tasks": tasks,
        }

    def _default_output(self, ensemble: str, spec: JobSet, id: JobId) -> str:
        return str(self.rundir / ensemble / f"{spec.name}-{id}.out")

    def _on_launcher(self, message: Dict[str, Any]) -> None:
        job = self._jobs.get(message["id"])
        if job is None:
            return
        if message["event"] != "finish":
            self._event(job, "start", message["t"])
        if message["event"] == "failed":
            self._exception(job, "exec", message["note"])
        if message["event"] != "start":
            self._end(job, message["status"], message["t"])
        elif job.duration > 0:
            job.limit = self.loop.call_later(job.duration, self._time_out, job)

    def _on_lost(self) -> None:
        self._launcher = None
        for job in [job for job in self._jobs.values() if job.state != PENDING]:
            self._exception(job, "exec", "lost contact with the process that runs local jobs")
            self._end(job, int(signal.SIGKILL))

    def _end(self, job: _Job, status: int, t: Optional[float] = None) -> None:
        if job.limit is not None:
            job.limit.cancel()
        del self._jobs[job.id]
        self._free += job.cores
        self._event(job, "finish", t, status=status)
        self._event(job, "release", ranks="all", final=True)
        self._event(job, "free")
        self._event(job, "clean")
        self._schedule_soon()

    def _time_out(self, job: _Job) -> None:
        job.limit = None
        self._exception(job, "timeout", "resource allocation expired")
        self._signal(job, signal.SIGALRM, KILL_TIMEOUT)

    # acting on jobs

    def _act(self, ensemble: str, action: Cancel | Kill, act: Callable[[_Job, Any], Optional[str]]) -> None:
        job = self._jobs.get(action.id)
        if job is not None and job.owner.id == ensemble:
            error = act(job, action)
        elif job is None and 0 < action.id < len(self._sets):
            error = "job is inactive"
        else:
            error = f"no job {action.id}"
        self._put(ensemble, ActionDone(time.time(), action.id, type(action).__name__.lower(), error))

    def _cancel(self, job: _Job, action: Cancel) -> Optional[str]:
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

    def _kill(self, job: _Job, action: Kill) -> Optional[str]:
        if action.signal not in signal.valid_signals():
            return f"invalid signal number {action.signal}"
        if job.state == PENDING:
            return "job is not running"
        self._signal(job, action.signal, None)
        return None

    def _signal(self, job: _Job, number: int, grace: Optional[float]) -> None:
        if self._launcher is not None:
            self._launcher.send({"op": "kill", "id": job.id, "signal": int(number), "grace": grace})

    # telling of it

    def _exception(self, job: _Job, type: str, note: str) -> None:
        self._event(job, "exception", type=type, severity=0, note=note, userid=os.getuid())

    def _event(self, job: _Job, name: str, t: Optional[float] = None, **context: Any) -> None:
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
        finally:
            if self._outbox and not self._draining:
                self._draining = True
                self.loop.call_soon(self._drain)


def _names(spec: JobSet, id: JobId) -> Dict[str, str]:
    return {"id": str(id), "jobid": str(id), "id.dec": str(id), "name": spec.name}


def _fill(path: str, names: Dict[str, str]) -> str:
    """The path with its `{{name}}`s filled in; unknown ones stay, as in Flux."""
    return _MUSTACHE.sub(lambda match: names.get(match[1], match[0]), path)
