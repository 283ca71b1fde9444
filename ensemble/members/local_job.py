# SPDX-License-Identifier: MIT
"""What the local queue knows of an ensemble and of a job: its size, its environment, its files.

Law of this file: pure description. When a job runs is `local.py`'s, how is the launcher's, which gets `Job.request`.
"""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Any, Dict, FrozenSet, List, Mapping, Optional

from ensemble.engine.actions import Submit
from ensemble.engine.events import BASE_EVENTS, JobId
from ensemble.errors import MemberError
from ensemble.members.base import Submitter
from ensemble.spec import templates
from ensemble.spec.models import JobSet, Spec
from ensemble.spec.reports import declared, patterns
from ensemble.spec.templates import PARAM

#: an argument of execve(2) is shorter than this on Linux, its NUL included
_MAX_ARGUMENT = 131072
_MUSTACHE = re.compile(r"\{\{([a-z0-9.]+)\}\}")

PENDING, RUNNING, CANCELLED = "pending", "running", "cancelled"


class OpenEnsemble:
    """An open ensemble; its jobs' output goes to `directory` where the file says nothing else."""

    def __init__(
        self,
        id: str,
        spec: Spec,
        submitter: Submitter,
        events: FrozenSet[str],
        directory: Path,
        environment: Optional[Dict[str, str]] = None,
    ) -> None:
        """Raises MemberError for what cannot be handed to a process."""
        for job in spec.jobs:
            size = len((job.script or "").encode(errors="surrogateescape"))
            if size >= _MAX_ARGUMENT:
                raise MemberError(
                    f"the script of '{job.name}' has {size} bytes, the local queue takes less than {_MAX_ARGUMENT}: "
                    "put it into a file and name that as the command"
                )
        self.id = id
        self.directory = directory
        self.submitter = submitter
        #: what every job's environment has, of this queue
        self.environment = environment or {}
        self.events = frozenset(BASE_EVENTS) | events
        self.groups = spec.groups
        #: what is looked for in the output of a group's jobs: variable to expression
        self.patterns = {group: patterns(declared(sets)) for group, sets in self.groups.items()}
        #: all sets of the file, and where among them each group's begin
        self.sets = tuple(job for sets in self.groups.values() for job in sets)
        self.first: Dict[str, int] = {}
        begin = 0
        for name, sets in self.groups.items():
            self.first[name] = begin
            begin += len(sets)

    def output(self, set: JobSet, id: JobId) -> str:
        """The path of a job's output, as a template."""
        return set.output if set.output is not None else str(self.directory / f"{set.name}-{id}.out")

    def where(self, number: int, id: JobId, params: Mapping[str, Any]) -> str:
        """The path of the output of a job of that set; `*` stands for the task where each has its own."""
        job = with_values(self.sets[number], params)
        path = _fill(self.output(job, id), {**_names(job, id), "taskid": "*"})
        return os.path.join(self.submitter.cwd, job.workdir or "", path)


class Job:
    """A job that has not ended."""

    __slots__ = (
        "admitted",
        "cores",
        "duration",
        "id",
        "key",
        "limit",
        "nodes",
        "owner",
        "params",
        "set",
        "state",
        "t",
        "tasks",
        "urgency",
    )

    def __init__(self, id: JobId, owner: OpenEnsemble, action: Submit, whole: int) -> None:
        """`whole` is the number of cores that `exclusive` takes."""
        self.id = id
        self.owner = owner
        self.key = action.key
        self.set = owner.groups[action.group][action.set]
        self.params = action.params
        self.state = PENDING
        #: its owner knows of it, and so it may run
        self.admitted = False
        #: of its latest event, seconds since the epoch
        self.t = 0.0
        given = action.overrides
        self.nodes: int = given.get("nodes") or self.set.nodes or 1
        self.tasks: int = given.get("tasks") or self.set.tasks or self.nodes
        self.cores: int = whole if self.set.exclusive else self.tasks * self.set.cores
        #: seconds, 0 for no limit
        self.duration: float = given.get("duration", self.set.duration) or 0.0
        self.urgency: int = given.get("urgency", self.set.urgency)
        #: runs out when the time limit is reached; None while there is none to wait for
        self.limit: Optional[asyncio.TimerHandle] = None

    def infeasible(self, cores: int) -> Optional[str]:
        """Why one node with so many cores can never run it, or None."""
        try:
            with_values(self.set, self.params)
        except ValueError as exc:
            return str(exc)
        if self.nodes > 1:
            return (
                f"the job asks for {self.nodes} nodes and the local queue has one: ask for nodes: 1, or run inside Flux"
            )
        if self.cores > cores:
            return f"the job asks for {self.cores} cores and this machine gives {cores}: ask for fewer tasks or cores"
        if self.set.gpus > 0:
            return "the job asks for gpus and the local queue counts none: leave out gpus, or run inside Flux"
        if self.set.queue is not None:
            return f"'{self.set.queue}' is not a valid queue, the local queue has no named ones: leave out queue"
        return None

    def files(self) -> List[str]:
        """The files that its output and error go to."""
        request = self.request()
        names = [
            task[stream] for task in request["tasks"] for stream in ("output", "error") if task[stream] is not None
        ]
        return list(dict.fromkeys(os.path.join(request["cwd"], name) for name in names))

    def request(self) -> Dict[str, Any]:
        """What the launcher must know to run it."""
        spec, submitter = with_values(self.set, self.params), self.owner.submitter
        names = {**_names(spec, self.id), "size": str(self.tasks)}
        output = self.owner.output(spec, self.id)
        tasks = []
        for rank in range(self.tasks):
            each = {**names, "taskid": str(rank)}
            tasks.append(
                {
                    "environment": {"FLUX_TASK_RANK": str(rank), "FLUX_TASK_LOCAL_ID": str(rank)},
                    "output": _fill(output, each),
                    "error": None if spec.error is None else _fill(spec.error, each),
                }
            )
        return {
            "op": "run",
            "id": self.id,
            "argv": list(spec.command) if spec.script is None else ["/bin/sh", "-c", spec.script, spec.name],
            "cwd": os.path.join(submitter.cwd, spec.workdir or ""),
            "umask": submitter.umask,
            "rlimits": submitter.rlimits,
            "environment": self._environment(spec),
            "input": None if spec.input is None else _fill(spec.input, names),
            "tasks": tasks,
        }

    def _environment(self, spec: JobSet) -> Dict[str, str]:
        outer = self.owner.submitter.environment.items()
        # those of a job that we are inside of are its own
        environment = {name: value for name, value in outer if not name.startswith(PARAM) and name != "ENSEMBLE_SOCKET"}
        for name, value in spec.environment.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        environment.update(
            self.owner.environment,
            ENSEMBLE_JOB=str(self.key),
            ENSEMBLE_ID=self.owner.id,
            FLUX_JOB_ID=str(self.id),
            FLUX_JOB_SIZE=str(self.tasks),
            FLUX_JOB_NNODES="1",
            **templates.variables(self.params),
        )
        return environment


def with_values(spec: JobSet, params: Mapping[str, Any]) -> JobSet:
    """The set with these values in the places of its parameters. Raises ValueError where one does not fit."""
    if not params:
        return spec
    filled: JobSet = templates.filled(spec, lambda text: templates.fill(text, params))
    return filled


def _names(spec: JobSet, id: JobId) -> Dict[str, str]:
    return {"id": str(id), "jobid": str(id), "id.dec": str(id), "name": spec.name}


def _fill(path: str, names: Dict[str, str]) -> str:
    """The path with its `{{name}}`s filled in; unknown ones stay, as in Flux."""
    return _MUSTACHE.sub(lambda match: names.get(match[1], match[0]), path)
