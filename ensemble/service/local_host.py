# SPDX-License-Identifier: MIT
"""The local service as a process: `python -m ensemble.service.local_host --rundir DIR`.

How it works. One thread and one loop carry the local queue, the service over it and the socket (`local_server.py`).
It ends, and kills its jobs, when `quit` asks for it, at SIGTERM or SIGINT, when the command that hosts it dies, or
when it has been idle; it leaves neither process nor socket behind.

With `--hosted-fd N` it belongs to the command at the other end of that pipe: the end of the pipe is the end of the
service, unless a line `detach` came first. From then on it lives in the background, and ends as one that was started
so. With `--resume ID` it takes up an ensemble of the same folder whose service has died; others that lie there it
leaves alone. In the background it ends `--idle` seconds after its last ensemble ended and the last request came. Its log goes
to standard error. With `--ready-fd N` the path of its socket is written there once it answers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import syslog
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from ensemble.errors import EnsembleError, NotFound
from ensemble.members.guard import guarded
from ensemble.members.local import LocalMember
from ensemble.service.core import Service
from ensemble.service.file_store import FileStore
from ensemble.service.local_server import LocalServer, socket_path
from ensemble.service.protocol import Host, Reply

#: idle seconds after which a service ends whose command has detached
DETACHED_IDLE = 3600.0
_LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


def default_rundir() -> Path:
    """Where jobs' output goes: `ensemble` in $XDG_STATE_HOME, or in ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state and os.path.isabs(state) else Path.home() / ".local" / "state") / "ensemble"


def log(level: int, text: str) -> None:
    """Write to standard error; `level` is one of syslog's."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
    with contextlib.suppress(OSError):
        print(f"{stamp} {_LEVELS[level]}: {text}", file=sys.stderr, flush=True)


class _Probe(Reply):
    """Asks the service how many ensembles are active."""

    caller = "idle"

    def __init__(self) -> None:
        #: also until it has answered, and if it cannot: then it is not idle
        self.active = 1

    def send(self, payload: Dict[str, Any]) -> None:
        self.active = int(payload.get("active", 1))

    def error(self, errno: int, text: str) -> None:
        log(syslog.LOG_WARNING, f"cannot tell whether the service is idle: {text}")


class LocalService(Service):
    """A service whose host can let go of it."""

    def detach(self) -> None:
        """From now on it belongs to no command: that is what `stats` says by a `supervisor_pid` of None."""
        self._host = self._host._replace(supervisor_pid=None)


class LocalHost:
    """Runs one service over a local queue until its end."""

    def __init__(
        self,
        rundir: Path,
        cores: Optional[int],
        hosted_fd: Optional[int],
        idle: Optional[float],
        resume: Optional[str] = None,
    ) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._on_exception)
        self._hosted_fd = hosted_fd
        self._idle = idle
        self._busy_until = self.loop.time()
        self._told = b""
        self._why = ""
        #: the loop runs until `stop`; before and after that it runs only for a moment at a time
        self._serving = False
        # where the jobs find this service, see `inside.py`
        reach = {"ENSEMBLE_SOCKET": str(socket_path())}
        self.member = LocalMember(rundir, cores=cores, loop=self.loop, environment=reach)
        self._resume = resume
        taken = () if resume is None else (resume,)
        self.store = FileStore(self.member.rundir, self.loop.call_later, log, taken)
        # As long as the command lives, the service is its own: others' ensembles do not belong here.
        owner = None if hosted_fd is None else os.getppid()
        self.service = LocalService(
            self.member,
            self.store,
            Host("local", supervisor_pid=owner),
            log=log,
            on_quit=lambda: self.stop("quit"),
        )
        self.server = LocalServer(self.service, self.loop, log)

    def run(self, ready_fd: Optional[int]) -> str:
        """Serve until the end, and say why it came. Raises EnsembleError for what keeps it from starting."""
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                self.loop.add_signal_handler(number, self._on_signal, number)
            if self._resume is not None:
                self._take_up(self._resume)
            self.service.start()
            path = self.server.open()
            if self._hosted_fd is not None:
                os.set_blocking(self._hosted_fd, False)
                self.loop.add_reader(self._hosted_fd, guarded(log, self._on_pipe))
            self._watch_idleness()
            if ready_fd is not None:
                with contextlib.suppress(OSError):
                    os.write(ready_fd, os.fsencode(path) + b"\n")
                os.close(ready_fd)
            log(syslog.LOG_INFO, f"listening at {path}, jobs' output is in {self.member.rundir}")
            if not self._why:
                self._serving = True
                self.loop.run_forever()
        finally:
            self._farewell()
        return self._why

    def _take_up(self, id: str) -> None:
        """Become the one that runs this ensemble, and let its new jobs be numbered behind those that it had."""
        if not self.store.path(id).is_file():
            raise NotFound(f"there is no ensemble {id} in {self.member.rundir}")
        self.store.lock(id)
        self.member.skip(self.store.last_job(id))

    def stop(self, why: str) -> None:
        """End the run; the first reason stands."""
        self._why = self._why or why
        if self._serving:
            self._serving = False
            self.loop.stop()

    def _farewell(self) -> None:
        self.server.hide()
        guarded(log, self.service.stop)()
        # Whatever the service did: no job outlives us.
        guarded(log, self.member.stop)()
        guarded(log, self.server.close)()
        self.loop.close()

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP and self._hosted_fd is None:
            return  # a terminal has gone, and a service in the background has none
        self.stop(signal.Signals(number).name)

    def _on_exception(self, _loop: asyncio.AbstractEventLoop, context: Dict[str, Any]) -> None:
        log(syslog.LOG_ERR, f"{context.get('message')}, going on: {context.get('exception')!r}")

    def _on_pipe(self) -> None:
        """Something came from the command that hosts us, or it is gone."""
        assert self._hosted_fd is not None
        try:
            data = os.read(self._hosted_fd, 4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._told = (self._told + data)[-4096:]
        if b"detach" in self._told.split(b"\n")[:-1]:
            self._detach()
        elif not data:
            self.loop.remove_reader(self._hosted_fd)
            self.stop("the command that hosts it is gone")

    def _detach(self) -> None:
        assert self._hosted_fd is not None
        self.loop.remove_reader(self._hosted_fd)
        os.close(self._hosted_fd)
        self._hosted_fd = None
        self.service.detach()
        self._busy_until = self.loop.time()
        if self._idle is None:
            self._idle = DETACHED_IDLE
            self._watch_idleness()
        log(syslog.LOG_INFO, "detached: it lives on in the background")

    def _watch_idleness(self) -> None:
        """Look, now and again and again, whether there is nothing to do."""
        if self._idle is None:
            return
        now = self.loop.time()
        probe = _Probe()
        guarded(log, self.service.handle)("stats", {}, probe)
        if probe.active:
            self._busy_until = now
        if now - max(self._busy_until, self.server.last_request) >= self._idle:
            self.stop(f"idle for {self._idle:g} s")
            return
        self.loop.call_later(min(max(self._idle / 10, 0.05), 5.0), self._watch_idleness)


def main(argv: Optional[List[str]] = None) -> int:
    """Run the service; returns the exit status: 0, or 1 when it could not start (the reason is in the log)."""
    parser = argparse.ArgumentParser(prog="python -m ensemble.service.local_host", description=main.__doc__)
    parser.add_argument("--rundir", type=Path, help="directory for the jobs' output (default: %(default)s)")
    parser.add_argument("--cores", type=int, help="cores for jobs (default: what this process may use)")
    parser.add_argument("--hosted-fd", type=int, metavar="N", help="end when this pipe ends")
    parser.add_argument("--ready-fd", type=int, metavar="N", help="write the socket's path there when ready")
    parser.add_argument("--idle", type=float, metavar="SECONDS", help="end when idle for so long (default: never)")
    parser.add_argument("--resume", metavar="ID", help="take up this ensemble, whose service has died")
    parser.set_defaults(rundir=default_rundir())
    args = parser.parse_args(argv)
    try:
        why = LocalHost(args.rundir, args.cores, args.hosted_fd, args.idle, args.resume).run(args.ready_fd)
    except EnsembleError as exc:
        log(syslog.LOG_ERR, str(exc))
        return 1
    log(syslog.LOG_INFO, f"ended: {why}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
