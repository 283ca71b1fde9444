# SPDX-License-Identifier: MIT
"""The process that reads the output of jobs as they write it, and finds values in its lines.

Law of this file: a program of its own, so that neither a job that prints without end nor a regular expression that never
comes to one can hold up the service. It imports nothing but the standard library. Memory is bounded by the jobs it
follows: what is not read yet stays in the file. `flux_output_reader.py` adds what Flux keeps in its KVS.

Theory of operation. Standard input is a socket to the member that started it (`output.py`); both sides write JSON lines:

    {"op": "follow", "job", "patterns": {NAME: REGEX}, "files": [PATH], "since", "kvs": bool}
        a `*` of a path stands for a part that is not known; what was last changed before `since` is an older file
    {"op": "end", "job"}                            it has ended: read what is left, and say so

    {"job", "source", "lines": [[OFFSET, {NAME: value}], ...]}
    {"job", "error"}                                a sentence
    {"job", "end": true}                            nothing more comes of it

A file is looked at every `_TICK` seconds, and opened only where it has grown, so that any number may be followed. A job gets
`_RATE` lines with values a second; the rest waits in its file, and what lies more than `_FAR` bytes back is skipped. A line
is looked at up to `LONGEST` bytes. A search that takes longer than `_SLOW` seconds is broken off by SIGALRM, and its
expression is given up for that job.
"""

from __future__ import annotations

import glob
import json
import os
import re
import select
import signal
import socket
import time
import zlib
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

_TICK = 0.1
#: bytes read at a time
_CHUNK = 64 * 1024
LONGEST = 4096
#: lines with values, a second and at once
_RATE = 1000.0
#: and those that may still be taken at a job's end
_LAST = 20_000
_FAR = 64 * 1024 * 1024
#: of what is skipped, so much of the end is kept
_NEAR = 1024 * 1024
_SLOW = 1.0
#: files of one job
_MOST_FILES = 1000
_MESSAGE = 500


class Slow(Exception):
    """A search took too long."""


class Alarm:
    """Breaks off what takes longer than `_SLOW`: only between `begin` and `end`."""

    def __init__(self) -> None:
        self.begun: Optional[float] = None
        signal.signal(signal.SIGALRM, self._rings)
        signal.setitimer(signal.ITIMER_REAL, _SLOW / 4, _SLOW / 4)

    def _rings(self, *_: Any) -> None:
        if self.begun is not None and time.monotonic() - self.begun > _SLOW:
            self.begun = None
            raise Slow


class Stream:
    """One source of lines: cuts bytes into lines, each with the offset of its first byte."""

    def __init__(self, source: str) -> None:
        self.source = source
        #: of the next byte to be read
        self.offset = 0
        self._begin = 0
        self._line = bytearray()

    def cut(self, data: bytes) -> Iterator[Tuple[int, bytes]]:
        """The lines that are complete by now. A progress bar's carriage return ends one as well."""
        *lines, rest = data.replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._add(line)
            yield self._begin, bytes(self._line)
            self._line.clear()
            self.offset += 1
            self._begin = self.offset
        self._add(rest)

    def last(self) -> Iterator[Tuple[int, bytes]]:
        """The last line, which has no end."""
        if self._line:
            yield self._begin, bytes(self._line)
            self._line.clear()
            self._begin = self.offset

    def skip(self, to: int) -> None:
        """Go on there, in the middle of a line perhaps."""
        self._line.clear()
        self._begin = self.offset = to

    def _add(self, part: bytes) -> None:
        self.offset += len(part)
        self._line += part[: max(0, LONGEST - len(self._line))]


class Job:
    """A job that is followed."""

    def __init__(self, message: Dict[str, Any]) -> None:
        self.id = message["job"]
        self.patterns: Dict[str, re.Pattern[str]] = {n: re.compile(r) for n, r in message["patterns"].items()}
        self.files: List[str] = message.get("files") or []
        self.since: float = message.get("since") or 0.0
        self.kvs = bool(message.get("kvs"))
        #: by path, or by stream and rank
        self.streams: Dict[str, Stream] = {}
        self.allowance, self.t = _RATE, time.monotonic()
        self.ending = False
        #: it was told that something is left out
        self.skipped = False
        #: the stream from the KVS has come to its end, or there is none
        self.closed = not self.kvs
        self.future: Any = None

    def may(self) -> bool:
        """May it get one more line with values now?"""
        now = time.monotonic()
        if not self.ending:
            self.allowance = min(_RATE, self.allowance + (now - self.t) * _RATE)
        self.t = now
        return self.allowance >= 1.0


class Reader:
    """The loop of this program. `run` is its only entry."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._jobs: Dict[int, Job] = {}
        self._alarm = Alarm()
        self._read = b""

    def run(self) -> None:
        """Serve until the socket ends."""
        busy = False
        while True:
            ready, _, _ = select.select([self._peer], [], [], 0.0 if busy else _TICK)
            if ready:
                data = self._peer.recv(1 << 16)
                if not data:
                    return
                *lines, self._read = (self._read + data).split(b"\n")
                for line in lines:
                    self._take(json.loads(line))
            busy = self.turn()
            for job in list(self._jobs.values()):
                more = self._files(job)
                busy = busy or more
                if job.ending and job.closed and not more:
                    self._end(job)

    def _take(self, message: Dict[str, Any]) -> None:
        if message["op"] == "follow":
            job = self._jobs[message["job"]] = Job(message)
            if job.kvs:
                self.watch(job)
        elif message["job"] in self._jobs:
            job = self._jobs[message["job"]]
            job.ending, job.allowance = True, _LAST
        else:
            self.say({"job": message["job"], "end": True})

    def say(self, message: Dict[str, Any]) -> None:
        """A message to the member."""
        self._peer.sendall(json.dumps(message).encode() + b"\n")

    def _end(self, job: Job) -> None:
        for stream in job.streams.values():
            self.search(job, stream, list(stream.last()))
        del self._jobs[job.id]
        self.say({"job": job.id, "end": True})

    # files

    def _files(self, job: Job) -> bool:
        """Read on in its files; is there more?"""
        more = False
        for path in self._paths(job):
            stream = job.streams.get(path)
            if stream is None:
                if len(job.streams) >= _MOST_FILES:
                    break
                stream = job.streams[path] = Stream(f"{zlib.crc32(path.encode(errors='surrogateescape')):08x}")
            try:
                about = os.stat(path)
            except OSError:
                continue
            if about.st_size == stream.offset or about.st_mtime < job.since:
                continue
            if not job.may():
                if job.ending:
                    text = f"it has printed more values than can be taken: the rest of {path} was skipped"
                    self.say({"job": job.id, "error": text})
                continue
            if about.st_size < stream.offset:
                # written anew, by whoever else has this file as its output: its offsets are others now
                stream.source += "+"
                stream.skip(0)
            if about.st_size - stream.offset > _FAR:
                if not job.skipped:
                    job.skipped = True
                    text = f"it prints faster than {path} can be read: what lies far back is skipped, now and later"
                    self.say({"job": job.id, "error": text})
                stream.skip(about.st_size - _NEAR)
            try:
                with open(path, "rb") as file:
                    file.seek(stream.offset)
                    data = file.read(_CHUNK)
            except OSError as exc:
                if job.ending:
                    self.say({"job": job.id, "error": f"{path} cannot be read: {exc.strerror}"})
                continue
            self.search(job, stream, list(stream.cut(data)))
            more = more or bool(data)
        return more

    @staticmethod
    def _paths(job: Job) -> List[str]:
        found = []
        for path in job.files:
            if "*" in path:
                pattern = "*".join(map(glob.escape, path.split("*")))
                found += sorted(glob.glob(pattern))
            else:
                found.append(path)
        return found

    # lines

    def search(self, job: Job, stream: Stream, lines: List[Tuple[int, bytes]]) -> None:
        """Look for values in lines, each with its offset."""
        found: List[Any] = []
        for offset, line in lines:
            values = self._values(job, line.decode("utf-8", "replace")) if line else {}
            if values:
                job.allowance -= 1.0
                found.append([offset, values])
        for begin in range(0, len(found), _MESSAGE):
            self.say({"job": job.id, "source": stream.source, "lines": found[begin : begin + _MESSAGE]})

    def _values(self, job: Job, line: str) -> Dict[str, Any]:
        values: Dict[str, Any] = {}
        for name, pattern in list(job.patterns.items()):
            try:
                self._alarm.begun = time.monotonic()
                match = pattern.search(line)
                self._alarm.begun = None
            except Slow:
                del job.patterns[name]
                text = (
                    f"the regex of '{name}' took longer than {_SLOW:g} s for a line and is given up: {pattern.pattern}"
                )
                self.say({"job": job.id, "error": text})
                continue
            if match is not None and match.group(1) is not None:
                values[name] = _number(match.group(1))
        return values

    # what a queue has that keeps output elsewhere

    def watch(self, job: Job) -> None:
        """Have the output told that is in no file; here there is none."""
        job.closed = True

    def turn(self) -> bool:
        """Take what has come of it by now; may there be more?"""
        return False


def _number(text: str) -> Any:
    """The number as JSON has it, else the text, to be refused and counted."""
    try:
        value = float(text)
    except ValueError:
        return text[:100]
    return value if value - value == 0.0 else text[:100]


def main(reader: Callable[[socket.socket], Reader]) -> None:
    """Run as the program that is told on standard input."""
    # the jobs come first
    os.nice(5)
    reader(socket.socket(fileno=os.dup(0))).run()


if __name__ == "__main__":
    main(Reader)
