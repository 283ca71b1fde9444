# SPDX-License-Identifier: MIT
"""Starts services of the local queue: one that belongs to this command, or one in the background.

A service of ours (`Hosted`) holds the other end of a pipe: when this command dies, however it dies, the service
reads the end of the pipe, ends its jobs and goes. `detach` lets it live on. The service tells through a second pipe
that it is ready, and where its socket is.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, List, Optional

from ensemble.errors import MemberError, NoService
from ensemble.service.local_client import LocalConnection, socket_dir, sockets

#: seconds until a new service must have answered
READY = 30.0
#: seconds after which a service in the background ends, if it had nothing to do for so long
IDLE = 3600


def run_dir(wanted: Optional[str]) -> Path:
    """Where services keep the output of jobs that name no file: `wanted`, else a folder of the user's state."""
    if wanted:
        return Path(wanted).absolute()
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state and os.path.isabs(state) else Path.home() / ".local" / "state") / "ensemble"


class Hosted:
    """A service that lives as long as this object's owner."""

    def __init__(
        self, process: subprocess.Popen[bytes], pipe: Optional[IO[bytes]], connection: LocalConnection
    ) -> None:
        self.connection = connection
        self.pid = process.pid
        self._process = process
        self._pipe = pipe

    def detach(self) -> None:
        """Let the service live on without us."""
        if self._pipe is not None:
            with contextlib.suppress(OSError):
                self._pipe.write(b"detach\n")
                self._pipe.flush()
            self._close_pipe()
        self.connection.close()

    def end(self) -> None:
        """Let the service end its jobs and go, and wait for that, within reason."""
        self.connection.close()
        self._close_pipe()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(READY)

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            with contextlib.suppress(OSError):
                self._pipe.close()
            self._pipe = None


def start_hosted(wanted: Optional[str], resume: Optional[str] = None) -> Hosted:
    """Start a service that ends with us, and takes up the ensemble `resume` of the same folder. Raises MemberError with what it said if it does not come up."""
    reading, writing = os.pipe()
    try:
        options = ["--hosted-fd", str(reading), *([] if resume is None else ["--resume", resume])]
        return _start(wanted, options, reading, os.fdopen(writing, "wb", buffering=0))
    finally:
        os.close(reading)


def start_background(wanted: Optional[str]) -> Hosted:
    """Start a service that outlives us. Raises MemberError with what it said if it does not come up."""
    return _start(wanted, ["--idle", str(IDLE)], None, None)


def background() -> Optional[LocalConnection]:
    """A connection to the newest service that lives in the background, None if there is none."""
    for path in reversed(sockets()):
        try:
            connection = LocalConnection(path)
        except NoService:
            continue
        # one of a `run` ends with it, and would take others' jobs along
        if connection.call("stats").get("supervisor_pid") is None:
            return connection
        connection.close()
    return None


def _start(wanted: Optional[str], options: List[str], reading: Optional[int], pipe: Optional[IO[bytes]]) -> Hosted:
    folder = run_dir(wanted)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise MemberError(f"cannot keep output in {folder}: {exc.strerror}; name another folder by --rundir") from None
    ready, tell = os.pipe()
    command = [sys.executable, "-m", "ensemble.service.local_host", "--rundir", str(folder)]
    command += ["--ready-fd", str(tell), *options]
    passed = (tell,) if reading is None else (tell, reading)
    log = folder / "service.log"
    try:
        with open(log, "ab") as errors:
            start = errors.tell()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=passed,
                start_new_session=True,
                cwd="/",
            )
    except OSError as exc:
        raise MemberError(f"cannot start the local service: {exc}") from None
    finally:
        os.close(tell)
    try:
        told = _line(ready)
    finally:
        os.close(ready)
    path = socket_dir() / f"{process.pid}.sock"
    try:
        return Hosted(process, pipe, LocalConnection(path))
    except NoService as exc:
        if process.poll() is None:
            process.terminate()
        raise MemberError(f"the local service did not start: {_last_words(log, start) or told or exc}") from None


def _line(ready: int) -> str:
    """What the new service wrote to say that it is ready; empty if it ended, or said nothing in time."""
    told = b""
    give_up = time.monotonic() + READY
    while b"\n" not in told and time.monotonic() < give_up:
        if not select.select([ready], [], [], 0.25)[0]:
            continue
        data = os.read(ready, 4096)
        if not data:
            break
        told += data
    return told.decode(errors="replace").strip()


def _last_words(log: Path, start: int) -> str:
    """The last line that the service wrote into its log behind `start`, without its time and level."""
    try:
        with open(log, "rb") as file:
            file.seek(start)
            lines = file.read(1 << 20).decode(errors="replace").split("\n")
    except OSError:
        return ""
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return re.sub(r"^\d[\dT:-]+ [a-z]+: ", "", last)
