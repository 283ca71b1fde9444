# SPDX-License-Identifier: MIT
"""Instances that run in jobs of the service's own: finding one, starting one, ending one. Imports flux.

Law of this file: part of the process that drives a member (`flux_remote.py`), before it connects; so it may wait. What it
starts is known by the name of its job, which is that of the ensemble and its member: a process that comes after one that
died finds what that one has started. Whoever handles such a job has claimed its name as a service first, so there is only
one that does, and what the one before has sent has come to its end.
"""

from __future__ import annotations

import errno
import os
import platform
import time
from typing import Any, Callable, Dict, List, Tuple
from urllib.parse import urlparse

import flux
from flux.job import JobID, JobspecV1
from flux.uri import FluxURIResolver, JobURI

#: a job's state in job-list
_INACTIVE = 64
#: seconds that another process may hold on to a name
_HELD = 30.0
#: seconds until job-list has heard of what was sent before
_HEARD = 0.5
_TICK = 0.3
#: times that one is started, if each ends before its ensemble does
STARTS = 3


class Ended(Exception):
    """There is nothing to connect to, and will never be."""


def claim(handle: flux.Flux, name: str, what: str) -> None:
    """Be the only one with that name. Raises OSError where another one does not let go of it."""
    end = time.monotonic() + _HELD
    while True:
        try:
            handle.service_register(name).get()
            return
        except OSError as exc:
            if exc.errno != errno.EEXIST or time.monotonic() > end:
                raise OSError(exc.errno, f"another service drives {what}: {exc.strerror}") from exc
        time.sleep(0.05)


def of_job(home: flux.Flux, job: str) -> str:
    """The URI of the instance that runs in a job. Raises Ended, and OSError or ValueError where there is none yet."""
    try:
        id = int(JobID(job))
        state, _ = _look(home, id)
    except (ValueError, OSError) as exc:
        if isinstance(exc, OSError) and exc.errno != errno.ENOENT:
            raise
        raise Ended(f"there is no job {job} in the service's instance") from exc
    if state == _INACTIVE:
        raise Ended(f"the job {job} has ended")
    # the resolver asks the enclosing instance
    os.environ["FLUX_URI"] = str(home.attr_get("local-uri"))
    return from_here(str(FluxURIResolver().resolve(str(JobID(id)))))


def nested(home: flux.Flux, given: Dict[str, Any], waiting: Callable[[], None]) -> Tuple[str, bool]:
    """The URI of the instance of that description, and whether it was started by this call.

    `waiting` is called now and then. Raises Ended where it has been started often enough, and OSError.
    """
    claim(home, given["name"], f"the job {given['name']}")
    time.sleep(_HEARD)
    jobs = _named(home, given["name"])
    active = [one["id"] for one in jobs if one["state"] != _INACTIVE]
    fresh = not active
    if fresh and len(jobs) >= STARTS:
        raise Ended(f"it was started {STARTS} times, and has ended each time")
    id = int(flux.job.submit(home, _jobspec(given))) if fresh else int(active[0])
    until = time.monotonic() + _HELD
    while True:
        try:
            state, uri = _look(home, id)
        except OSError as exc:
            if exc.errno != errno.ENOENT or time.monotonic() > until:
                raise
            state, uri = 0, ""  # just submitted, and not listed yet
        if uri:
            return from_here(uri), fresh
        if state == _INACTIVE:
            why = _why(home, id)
            raise OSError(errno.ECONNREFUSED, f"its job {JobID(id).f58plain} has ended before it was up{why}")
        waiting()
        time.sleep(_TICK)


def end(home: flux.Flux, name: str) -> None:
    """End what was started under that name."""
    claim(home, name, f"the job {name}")
    time.sleep(_HEARD)
    for one in _named(home, name):
        if one["state"] != _INACTIVE:
            flux.job.cancel(home, one["id"], "its ensemble has ended")


def clear(home: flux.Flux, names: List[str]) -> None:
    """End what is still there of those names."""
    time.sleep(_HEARD)
    for name in sorted({str(one["name"]) for one in _named(home, *names) if one["state"] != _INACTIVE}):
        end(home, name)


def _named(home: flux.Flux, *names: str) -> List[Dict[str, Any]]:
    """The jobs of these names, latest first."""
    question = {"max_entries": 0, "attrs": ["state", "name"], "constraint": {"name": list(names)}}
    jobs: List[Dict[str, Any]] = home.rpc("job-list.list", question).get()["jobs"]
    return sorted(jobs, key=lambda one: -int(one["id"]))


def _look(home: flux.Flux, id: int) -> Tuple[int, str]:
    """A job's state, and the URI of the instance in it, '' before it has told that."""
    job = home.rpc("job-list.list-id", {"id": id, "attrs": ["state", "annotations"]}).get()["job"]
    return int(job["state"]), str(((job.get("annotations") or {}).get("user") or {}).get("uri") or "")


def _why(home: flux.Flux, id: int) -> str:
    """What Flux says of the end of a job, behind a colon; '' where it says nothing."""
    attrs = ["exception_type", "exception_note"]
    try:
        job = home.rpc("job-list.list-id", {"id": id, "attrs": attrs}).get()["job"]
    except OSError:
        return ""
    told = " ".join(str(job[word]) for word in attrs if job.get(word))
    return f": {told}" if told else ""


def _jobspec(given: Dict[str, Any]) -> Any:
    # without an initial program it runs until it is cancelled
    jobspec = JobspecV1.from_nest_command(
        [],
        num_slots=given["nodes"],
        num_nodes=given["nodes"],
        cores_per_slot=given["cores"] or 1,
        exclusive=not given["cores"],
        broker_opts=["-Sbroker.rc2_none=1"],
    )
    jobspec.setattr("system.job.name", given["name"])
    jobspec.environment = {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")}
    jobspec.cwd = "/"
    if given["duration"]:
        jobspec.duration = given["duration"]
    if given["queue"]:
        jobspec.setattr("system.queue", given["queue"])
    return jobspec


def from_here(uri: str) -> str:
    """The URI as this machine best reaches it: by the socket itself, where it is here."""
    found = JobURI(uri)
    return str(found.local if platform.node() == urlparse(found.remote).hostname else found)
