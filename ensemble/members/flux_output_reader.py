# SPDX-License-Identifier: MIT
"""The reader of output for Flux: also follows what jobs print into the KVS. Imports flux.

Law of this file: as `output_reader.py`, whose program it extends. The output is an eventlog of the job (RFC 24), which
job-info streams as it grows. One stream is a source: stdout or stderr of some ranks; an offset counts its bytes.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import flux
from flux.constants import FLUX_NODEID_ANY, FLUX_POLLIN, FLUX_RPC_STREAMING
from flux.core.inner import lib

from ensemble.members.output_reader import Job, Reader, Stream, main

#: of job-info.eventlog-watch: wait for the eventlog to be there
_WAIT_CREATE = 1
#: messages taken before the other side is looked at
_MESSAGES = 100


class FluxReader(Reader):
    """The loop, with a handle of the instance beside it."""

    _handle: Any = None

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
        for line in entries.splitlines():
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
