# SPDX-License-Identifier: MIT
"""Custom functions of one ensemble: calls in, answers out, with a worker process between.

Law of this file: nothing of the user's runs here, nothing here blocks, and whatever a worker does ends at worst that
worker. Calls are made one after the other, in their order, each with the state as the last one left it. A call that is not
answered within TIME_LIMIT is ended with its worker; the next call starts another one. A worker is `worker.py` under
`keeper.py`, which tells the frames; it ends when it has had nothing to do for IDLE.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import syslog
from collections import deque
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterable, List, NamedTuple, Optional

from ensemble.engine.calls import Pending
from ensemble.errors import MemberError
from ensemble.members.base import Loop, Submitter, Timer
from ensemble.members.channel import Channel, Frames, framed, started
from ensemble.members.guard import Log
from ensemble.service.store import Store
from ensemble.spec.custom import ENTRY_POINTS
from ensemble.spec.models import Custom

#: seconds that a call may take, the start of its worker included
TIME_LIMIT = 60.0
#: seconds after which a worker without a call is ended
IDLE = 300.0
#: rows of results in one call: the latest
MOST_RESULTS = 10_000
#: seconds that a keeper has to end its worker before it is ended itself
_GRACE = 2.0
#: bytes of a frame of the keeper's
_MOST_FRAME = 8 << 20
_KEEPER = Path(__file__).with_name("keeper.py")
_RESULT = (
    "id", "group", "params", "values", "result", "exit_code", "signal", "cause", "attempt", "t_submit", "t_start", "t_end",
    "where", "ended",
)  # fmt: skip


class Surroundings(NamedTuple):
    """Where functions come from, and where the user stood who submitted them."""

    custom: Optional[Custom]
    submitter: Submitter
    #: the ensemble's file, as the user named it
    file: str

    def settings(self, uri: Optional[str], mark: str) -> Dict[str, Any]:
        """The first frame of a worker."""
        custom = self.custom or Custom()
        cwd = self.submitter.cwd
        folder = os.path.dirname(os.path.join(cwd, self.file))
        path = os.path.join(folder, custom.file) if custom.file else f"{self.file}, custom"
        environment = {
            name: x for name, x in self.submitter.environment.items() if name not in ("PYTHONHOME", "FLUX_URI")
        }
        if uri is not None:
            environment["FLUX_URI"] = uri
        memory = self.submitter.rlimits.get("as", -1)
        return {
            "python": sys.executable,
            "cwd": cwd,
            "umask": self.submitter.umask,
            "environment": {"PATH": os.defpath, **environment},
            "memory": min(most_memory(), memory) if memory >= 0 else most_memory(),
            "first": [*([os.path.dirname(path)] if custom.file else []), cwd],
            "last": [place for place in sys.path if place],
            "source": custom.source,
            "file": custom.file,
            "module": custom.module,
            "path": path,
            "uri": uri,
            "entry_points": ENTRY_POINTS,
            "mark": mark,
        }


def most_memory() -> int:
    """Bytes of address space that a worker may have: half of what the machine has of memory."""
    return max(1 << 30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


class Functions:
    """Calls the functions of one ensemble. All methods are called from the member's event loop."""

    def __init__(
        self,
        member: Loop,
        where: Surroundings,
        *,
        request: Callable[[str], Optional[Dict[str, Any]]],
        answered: Callable[[str, Dict[str, Any]], None],
        printed: Callable[[str, List[str]], None],
        log: Log,
        clock: Callable[[], float],
    ) -> None:
        """`request(id)` is what a call needs, None if nobody waits for its answer any more; `answered(id, data)` gets
        the data of an `Answered`, never from inside `call`; `printed(id, lines)` what functions print."""
        self._member = member
        self._where = where
        self._request = request
        self._answered = answered
        self._printed = printed
        self._log = log
        self._clock = clock
        self._queue: Deque[str] = deque()
        #: the call that is being made, and the last one
        self._active: Optional[str] = None
        self._last = ""
        self._worker: Optional[_Worker] = None
        self._ended: Optional[_Worker] = None
        self._timer: Optional[Timer] = None
        self._soon: Optional[Timer] = None

    def call(self, id: str) -> None:
        """Make that call once those before it are answered."""
        self._queue.append(id)
        self._next()

    def close(self) -> None:
        """End the worker; nothing is answered any more."""
        self._queue.clear()
        self._active = None
        self._set_timer(None)
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        self._end_worker()

    def wait(self) -> None:
        """After `close`, where no event loop runs any more: block until the last worker has ended, which is soon."""
        if self._ended is not None:
            self._ended.wait()

    def _next(self) -> None:
        """Make the next call from the event loop: the engine is at rest then, and all that it did is in its state."""
        if self._active is None and self._queue and self._soon is None:
            self._soon = self._member.call_at(self._clock(), self._make)

    def _make(self) -> None:
        self._soon = None
        while self._queue and self._active is None:
            id = self._queue.popleft()
            request = self._request(id)
            if request is None:
                continue
            self._active = self._last = id
            self._set_timer(self._clock() + TIME_LIMIT, self._too_late)
            try:
                if self._worker is None:
                    self._worker = _Worker(self._member, self._where, self._heard, self._lost, self._log, self._clock)
                self._worker.send(request)
            except (OSError, MemberError) as exc:
                self._end_worker()
                self._answer({"error": f"cannot be called: its process cannot be started ({exc})"})

    def _set_timer(self, when: Optional[float], callback: Callable[[], None] = lambda: None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if when is None else self._member.call_at(when, callback)

    def _too_late(self) -> None:
        self._timer = None
        self._end_worker()
        self._answer({"error": f"took longer than {TIME_LIMIT:g} s, and was killed"})

    def _idle(self) -> None:
        self._timer = None
        self._end_worker()

    def _heard(self, message: Dict[str, Any]) -> None:
        if message["event"] == "output":
            self._printed(self._last, message["lines"])
        elif message["event"] == "exit":
            self._end_worker()
            if self._active is not None:
                self._answer({"error": f"has ended its process ({_how(message['status'])})"})
        elif message.get("call") == self._active and self._active is not None:
            self._answer(_sound(message))

    def _lost(self) -> None:
        self._end_worker()
        if self._active is not None:
            self._answer({"error": "has lost its process: that which keeps it was killed"})

    def _answer(self, data: Dict[str, Any]) -> None:
        id, self._active = self._active, None
        self._set_timer(self._clock() + IDLE if self._worker is not None else None, self._idle)
        if id is not None:
            self._answered(id, data)
        self._next()

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._ended, self._worker = self._worker, None
            self._ended.end()


def _sound(data: Dict[str, Any]) -> Dict[str, Any]:
    """What the engine may take in: an error that is a sentence, or an answer, and a state that is a mapping."""
    if "error" in data:
        return {key: str(data[key]) for key in ("error", "traceback") if key in data}
    if "state" in data and not isinstance(data["state"], dict):
        return {"error": "keeps a state that is no mapping"}
    return {key: data[key] for key in ("answer", "state") if key in data}


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"killed by {signal.Signals(number).name}"
        except ValueError:
            return f"killed by signal {number}"
    return f"exit code {os.WEXITSTATUS(status)}"


class _Worker:
    """One worker process and its keeper, at the other end of a socket."""

    def __init__(
        self,
        member: Loop,
        where: Surroundings,
        heard: Callable[[Dict[str, Any]], None],
        lost: Callable[[], None],
        log: Log,
        clock: Callable[[], float],
    ) -> None:
        """Raises OSError where no process can be started, MemberError where the queue cannot run functions."""
        self._member = member
        self._heard = heard
        self._lost = lost
        self._log = log
        self._clock = clock
        self._mark = secrets.token_hex(16)
        self._frames = Frames(_MOST_FRAME)
        ours, theirs = socket.socketpair()
        with theirs:
            # before the process: a queue that cannot watch refuses here
            self._channel = Channel(ours, member.watch, self._came)
            try:
                self._process = started(["-I", "-S", str(_KEEPER)], theirs, {})
            except OSError:
                self._channel.close()
                raise
        self.send(where.settings(member.uri, self._mark))

    def send(self, message: Dict[str, Any]) -> None:
        """Pass a frame on; never blocks."""
        self._channel.send(framed(json.dumps(message).encode()))

    def _came(self, data: bytes) -> None:
        self._frames.feed(data)
        while self._channel.open:
            try:
                body = self._frames.next()
            except ValueError:
                data = b""
                break
            if body is None:
                break
            self._heard(json.loads(body))
        if not data and self._channel.open:
            self._lost()

    def end(self) -> None:
        """Have it killed, with all that it started; calls back no more."""
        if not self._channel.open:
            return
        self._channel.close()
        if self._process.poll() is None:
            # the end of its socket tells the keeper
            self._member.call_at(self._clock() + _GRACE, self._make_sure)
        elif self._process.returncode != 0:
            self._sweep()

    def wait(self) -> None:
        """Block until it has ended, and have it killed where it does not."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        self._make_sure()

    def _make_sure(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.returncode != 0:
            self._sweep()

    def _sweep(self) -> None:
        """Its keeper was killed: look for what the worker has left behind."""
        try:
            sweeper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_KEEPER), self._mark],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
                start_new_session=True,
            )
        except OSError as exc:
            self._log(syslog.LOG_WARNING, f"what a function has left behind cannot be ended: {exc}")
            return
        self._member.call_at(self._clock() + 30.0, lambda: _reap(sweeper))


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.poll()


def results(pending: Pending, store: Store, id: str, here: Iterable[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """The jobs that a call is told of, in the order in which they ended; the latest MOST_RESULTS.

    `here` are rows of jobs that have ended and are still in the engine, or on their way to the store; the others are in it.
    """
    found: Dict[int, Dict[str, Any]] = {}

    def gather(rows: Iterable[Dict[str, Any]]) -> None:
        for row in rows:
            ended = row.get("ended")
            if ended is not None and pending.after < ended <= pending.upto and pending.group in (None, row["group"]):
                found[ended] = row
        if len(found) > MOST_RESULTS:
            for old in sorted(found)[:-MOST_RESULTS]:
                del found[old]

    for start in range(pending.row, store.row_count(id), _PAGE):
        gather(store.rows(id, start, _PAGE))
    gather(here)
    return [_result(found[ended]) for ended in sorted(found)]


_PAGE = 5_000


def _result(row: Dict[str, Any]) -> Dict[str, Any]:
    known = {key: row.get(key) for key in _RESULT}
    ran = row.get("t_start") is not None and row.get("t_end") is not None
    return {**known, "duration": max(0.0, row["t_end"] - row["t_start"]) if ran else None}
