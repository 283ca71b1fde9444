# SPDX-License-Identifier: MIT
"""Jobs that ended while nobody listened, one by one from the KVS. Imports flux.

How it works. After a restart the ids of the jobs that matter are known, and most of them are still active. The past of
all that ended is not: with 100000 of them the journal takes half a minute to tell it. So the few that ended meanwhile are
looked up by id, WINDOW at a time. What is found has the form of a message of the journal. A job that has ended has its
last event in the KVS a moment after it had it; until then it is looked up again.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any, Callable, Deque, Dict, Optional, Set

import flux
from flux.core.inner import ffi, lib
from flux.future import Future

from ensemble.members.flux_timers import Timers
from ensemble.members.guard import Log, guarded

#: jobs that are looked up at once
WINDOW = 64
#: the last event of a job
LAST = frozenset(("clean", "invalidate"))
#: seconds to the next look at a job whose last event is not there, and how often
_AGAIN, _TIMES = 0.1, 50
#: seconds for one answer
_PATIENCE = 30.0
_KEYS = ("eventlog", "jobspec", "R")


class _Job:
    __slots__ = ("id", "left", "texts", "tries")

    def __init__(self, id: int) -> None:
        self.id = id
        self.tries = 0
        self.left = 0
        self.texts: Dict[str, Optional[bytes]] = {}


class Lookup:
    """One search at a time."""

    def __init__(self, handle: flux.Flux, timers: Timers, log: Log) -> None:
        self._handle = handle
        self._timers = timers
        self._log = log
        self._on_answer = guarded(log, self._answer)
        self._waiting: Deque[_Job] = deque()
        self._under_way: Set[int] = set()
        self._missing: Set[int] = set()
        #: counts searches, so that answers to one that was given up are not taken for another's
        self._search = 0
        self._found: Callable[[Dict[str, Any]], None] = lambda data: None
        self._end: Callable[[Set[int]], None] = lambda missing: None

    def begin(self, ids: Set[int], found: Callable[[Dict[str, Any]], None], end: Callable[[Set[int]], None]) -> None:
        """Call `found` for each job that is there and has ended, then `end` with the ids of the others."""
        self.cancel()
        # what one makes of a job must not keep the others from being found, nor the end from coming
        self._found, self._end = guarded(self._log, found), end
        self._waiting = deque(_Job(id) for id in sorted(ids))
        self._pump()

    def cancel(self) -> None:
        """Give the search up; nothing is called any more."""
        self._search += 1
        self._waiting.clear()
        self._under_way.clear()
        self._missing = set()

    def _pump(self) -> None:
        while self._waiting and len(self._under_way) < WINDOW:
            job = self._waiting.popleft()
            self._under_way.add(job.id)
            self._ask(job)

    def _ask(self, job: _Job) -> None:
        path = ffi.new("char[256]")
        job.left = len(_KEYS)
        for name in _KEYS:
            lib.flux_job_kvs_key(path, 256, job.id, name.encode())
            future = lib.flux_kvs_lookup(self._handle.handle, b"primary", 0, path)
            Future(future).then(self._on_answer, self._search, job, name, timeout=_PATIENCE)

    def _answer(self, future: Any, search: int, job: _Job, name: str) -> None:
        future.cb_handle = None
        value = ffi.new("void **")
        size = ffi.new("size_t *")
        there = lib.flux_kvs_lookup_get_raw(future.pimpl.handle, value, size) == 0
        job.texts[name] = bytes(ffi.buffer(value[0], size[0])) if there and size[0] else None
        job.left -= 1
        if search != self._search or job.left:
            return
        data = _message(job)
        if data is not None and not any(entry["name"] in LAST for entry in data["events"]) and job.tries < _TIMES:
            job.tries += 1
            self._timers.after(_AGAIN, lambda: self._ask(job) if search == self._search else None)
            return
        self._under_way.discard(job.id)
        if data is None or job.tries == _TIMES:
            self._missing.add(job.id)
        else:
            self._found(data)
        self._pump()
        if not self._under_way:
            self._end(self._missing)


def _message(job: _Job) -> Optional[Dict[str, Any]]:
    """The job as the journal has it; None where the KVS has none, or what it has cannot be read."""
    log, jobspec, R = (job.texts[name] for name in _KEYS)
    if log is None or jobspec is None:
        return None
    try:
        data = {"id": job.id, "events": [json.loads(line) for line in log.splitlines()], "jobspec": json.loads(jobspec)}
        return data if R is None else {**data, "R": json.loads(R)}
    except ValueError:
        return None
