# SPDX-License-Identifier: MIT
"""The reader of output for Flux: also follows what jobs print into the KVS. Imports flux.

Law of this file: as `output_reader.py`, whose program it extends. The output is an eventlog of the job (RFC 24), which
job-info streams as it grows. One stream is a source: stdout or stderr of some ranks; an offset counts its bytes.

The stream of a job that ends while it is being opened may stay silent until something else changes the KVS, which at the end
of an ensemble nothing does. So where a job has ended and its stream has not, the eventlog is looked up as a whole.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any, Dict

import flux
from flux.constants import FLUX_NODEID_ANY, FLUX_POLLIN, FLUX_RPC_STREAMING
from flux.core.inner import lib

from ensemble.members.output_reader import Job, Reader, Stream, main

#: of job-info.eventlog-watch: wait for the eventlog to be there
_WAIT_CREATE = 1
#: seconds after a job's end for which its stream is waited for, before the eventlog is looked up, and again
_SILENCE = 0.3
#: messages taken before the other side is looked at
_MESSAGES = 100


class FluxReader(Reader):
    """The loop, with a handle of the instance beside it."""

    _handle: Any = None

    def __init__(self, peer: Any) -> None:
        super().__init__(peer)
        #: of jobs whose output is streamed: entries of the eventlog that were taken
        self._taken: Dict[int, int] = {}
        #: ended jobs whose stream has not: when to look its eventlog up
        self._silent: Dict[int, float] = {}

    def watch(self, job: Job) -> None:
        """Have the job's output told as it is written."""
        try:
            if self._handle is None:
                self._handle = flux.Flux()
            payload = {"id": job.id, "path": "guest.output", "flags": _WAIT_CREATE}
            job.future = self._handle.rpc("job-info.eventlog-watch", payload, FLUX_NODEID_ANY, FLUX_RPC_STREAMING)
            job.future.then(self._told, job)
        except OSError as exc:
            job.closed = True
            self.say({"job": job.id, "error": f"its output cannot be read: {exc}"})

    def turn(self) -> bool:
        """Take what has come from Flux by now, some of it; may there be more? Raises OSError once the instance is gone."""
        if self._handle is None:
            return False
        self._look_up()
        # one message a run, which is a line where a job writes line by line
        for _ in range(_MESSAGES):
            if lib.flux_reactor_run(lib.flux_get_reactor(self._handle.handle), lib.FLUX_REACTOR_NOWAIT) < 0:
                raise OSError("the Flux instance is gone")
            if not lib.flux_pollevents(self._handle.handle) & FLUX_POLLIN:
                return False
        return True

    def _told(self, future: Any, job: Job) -> None:
        try:
            entries = future.get()["event"]
        except OSError:
            # ENODATA: all has been told. Anything else ends it just the same.
            job.closed = True
            return
        future.reset()
        self._entries(job, entries.splitlines())

    def _look_up(self) -> None:
        """Ask for the eventlogs of those that have been silent for too long."""
        now = time.monotonic()
        for job in self._jobs.values():
            if job.ending and not job.closed and now >= self._silent.setdefault(job.id, now + _SILENCE):
                self._silent[job.id] = now + 10 * _SILENCE
                payload = {"id": job.id, "keys": ["guest.output"], "flags": 0}
                self._handle.rpc("job-info.lookup", payload).then(self._found, job)
        for id in [id for id in self._silent if id not in self._jobs]:
            del self._silent[id]
        for id in [id for id in self._taken if id not in self._jobs]:
            del self._taken[id]

    def _found(self, future: Any, job: Job) -> None:
        try:
            entries = future.get()["guest.output"].splitlines()
        except OSError:
            return  # it is not there yet; asked for again
        if not job.closed:
            self._entries(job, entries[self._taken.get(job.id, 0) :])
            # without an end of any stream it may go on
            job.closed = any('"eof":true' in entry for entry in entries)

    def _entries(self, job: Job, entries: Any) -> None:
        """The next entries of a job's eventlog."""
        if job.closed:
            return
        self._taken[job.id] = self._taken.get(job.id, 0) + len(entries)
        for line in entries:
            entry = json.loads(line)
            context = entry.get("context") or {}
            if entry.get("name") == "data" and "data" in context:
                self._data(job, context)

    def _data(self, job: Job, context: Any) -> None:
        data = context["data"].encode("utf-8", "surrogateescape")
        if context.get("encoding") == "base64":
            data = base64.b64decode(context["data"])
        name = f"{context.get('stream')}-{context.get('rank')}"
        stream = job.streams.setdefault(name, Stream(name))
        if job.may():
            self.search(job, stream, list(stream.cut(data)))
        else:
            stream.skip(stream.offset + len(data))


if __name__ == "__main__":
    main(FluxReader)
