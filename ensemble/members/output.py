# SPDX-License-Identifier: MIT
"""A member's end of the line to the process that reads the output of jobs (`output_reader.py`).

Law of this file: whose output is followed, and how long an end waits for it. The reader is started with the first job that
declares a `regex`, and anew where it dies: it then reads from the beginning, and what it tells again has no second effect.
Callers give the loop in form of two functions, since members have loops of different kinds.
"""

from __future__ import annotations

import json
import socket
import subprocess
import syslog
import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

from ensemble.engine.events import Event, JobId, Key, Printed
from ensemble.members.base import Timer
from ensemble.members.channel import Channel, Lines, Watching, inherited, started
from ensemble.members.guard import Log, guarded

#: seconds for which the end of a job waits for the rest of its output
PATIENCE = 10.0
#: seconds between two readers, where one dies
_PAUSE = 1.0
#: bytes of a message from the reader
_LONGEST = 4 << 20


class Loop(NamedTuple):
    """What is needed of an event loop."""

    #: call back whenever there is something to read, or room to write
    watch: Watching
    #: call back after so many seconds
    after: Callable[[float, Callable[[], None]], Timer]


class _Followed:
    """A job whose output is read."""

    __slots__ = ("ended", "ensemble", "key", "limit", "request")

    def __init__(self, ensemble: str, key: Key, request: Dict[str, Any]) -> None:
        self.ensemble = ensemble
        self.key = key
        self.request = request
        #: what to do once all has been read; None while it runs
        self.ended: Optional[Callable[[], None]] = None
        self.limit: Optional[Timer] = None


class Outputs:
    """Follows the output of jobs and delivers what is found in it."""

    def __init__(
        self,
        loop: Loop,
        log: Log,
        deliver: Callable[[str, Event], None],
        program: str = "ensemble.members.output_reader",
        environment: Optional[Mapping[str, str]] = None,
    ) -> None:
        """`program` is the module that reads, `environment` is its own on top of ours."""
        self._program = program
        self._loop = loop
        self._log = log
        self._deliver = deliver
        self._environment = dict(environment or {})
        self._jobs: Dict[JobId, _Followed] = {}
        self._channel: Optional[Channel] = None
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._lines = Lines()
        self._restart: Optional[Timer] = None
        self._held = False

    def follow(
        self,
        ensemble: str,
        id: JobId,
        key: Key,
        patterns: Mapping[str, str],
        files: Sequence[str],
        since: float = 0.0,
        kvs: bool = False,
    ) -> None:
        """Read a job's output from now on: these files (`*` is any part of a name), or what is in the KVS.

        Files that were last changed before `since` (seconds since the epoch) are left alone.
        """
        request = {
            "op": "follow",
            "job": id,
            "patterns": dict(patterns),
            "files": list(files),
            "since": since,
            "kvs": kvs,
        }
        self._jobs[id] = _Followed(ensemble, key, request)
        if self._channel is None and self._restart is None:
            self._start()
        else:
            self._send(request)

    def follows(self, id: JobId) -> bool:
        """Is the output of that job being read?"""
        return id in self._jobs

    def of(self, ensemble: str) -> List[JobId]:
        """The jobs of an ensemble whose output is being read."""
        return [id for id, job in self._jobs.items() if job.ensemble == ensemble]

    def end(self, id: JobId, then: Callable[[], None]) -> None:
        """The job has ended: call `then` once the rest of its output has been read, or after PATIENCE seconds."""
        job = self._jobs[id]
        if job.ended is not None:
            return
        job.ended = then
        self._limit(id, job)
        self._send({"op": "end", "job": id})

    def forget(self, id: JobId) -> None:
        """Of that job nothing is wanted any more."""
        job = self._jobs.pop(id, None)
        if job is not None and job.limit is not None:
            job.limit.cancel()

    def hold(self, on: bool) -> None:
        """While it is on nothing is taken from the reader, which then waits: what it has not read stays in the files."""
        self._held = on
        if self._channel is not None:
            self._channel.listen(not on)
        if not on:
            for id, job in self._jobs.items():
                if job.ended is not None:
                    self._limit(id, job)

    def stop(self) -> None:
        """End the reader."""
        for id in list(self._jobs):
            self.forget(id)
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        self._disconnect()

    def _start(self) -> None:
        self._restart = None
        ours, theirs = socket.socketpair()
        try:
            self._process = started(["-m", self._program], theirs, inherited(self._environment))
        except OSError as exc:
            ours.close()
            self._log(syslog.LOG_ERR, f"the process that reads the output of jobs cannot be started: {exc}")
            self._retry()
            return
        self._lines = Lines()
        self._channel = Channel(ours, self._loop.watch, self._came, self._log)
        self._channel.listen(not self._held)
        for id, job in list(self._jobs.items()):
            self._send(job.request)
            if job.ended is not None:
                self._send({"op": "end", "job": id})

    def _limit(self, id: JobId, job: _Followed) -> None:
        """From now on an end waits for PATIENCE seconds."""
        if job.limit is not None:
            job.limit.cancel()
        job.limit = self._loop.after(PATIENCE, lambda: self._late(id))

    def _retry(self) -> None:
        if self._restart is None and self._jobs:
            self._restart = self._loop.after(_PAUSE, guarded(self._log, self._start))

    def _send(self, message: Dict[str, Any]) -> None:
        if self._channel is not None:
            self._channel.send(json.dumps(message).encode() + b"\n")

    def _came(self, data: bytes) -> None:
        if not data:
            self._lost("it ended")
            return
        lines = self._lines.feed(data)
        if len(self._lines.rest) > _LONGEST:
            self._lost("it makes no sense")
        for line in lines:
            self._told(json.loads(line))

    def _told(self, message: Dict[str, Any]) -> None:
        id = message["job"]
        job = self._jobs.get(id)
        if job is None:
            return
        if "lines" in message:
            self._deliver(job.ensemble, Printed(time.time(), job.key, message["source"], message["lines"]))
        elif "error" in message:
            self._deliver(job.ensemble, Printed(time.time(), job.key, "", [], str(message["error"])))
        elif job.ended is not None:
            self.forget(id)
            job.ended()

    def _late(self, id: JobId) -> None:
        job = self._jobs.get(id)
        # while nothing is taken from it, the reader is not to blame
        if job is not None and job.ended is not None and not self._held:
            self._log(syslog.LOG_WARNING, f"the output of job {id} is not read to its end within {PATIENCE:g} s")
            self.forget(id)
            job.ended()

    def _lost(self, why: str) -> None:
        self._disconnect()
        self._log(syslog.LOG_WARNING, f"the process that reads the output of jobs is started anew: {why}")
        self._retry()

    def _disconnect(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
