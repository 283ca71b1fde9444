# SPDX-License-Identifier: MIT
"""The program between the service and a worker of custom functions: starts it, hears it, and leaves nothing of it behind.

Law of this file: a program of its own, standard library only, one thread, run by path (`python -I -S`). It stands
between the two so that the worker's parent, and that parent's process group, are this process and not the service. Its
few lines that `local_launcher.py` has too stand in both, since neither can import anything of the package.

Theory of operation. Standard input is a socket to the service. Both sides write frames (four bytes of length, then
JSON). The service's first frame has the worker's surroundings, each one after it is a call and passed on. What goes back:

    {"event": "answer", ...}              the worker's frame
    {"event": "output", "lines": [...]}   what the functions print, bounded for each call
    {"event": "exit", "status": S}        the worker has ended, a wait status; nothing follows

At the end of the socket (the service ended the worker, or was killed) the worker and all that it started get SIGKILL:
its process group at once, and whatever left the group because this process is the reaper of all its descendants. The
worker dies by the kernel's hand if this process is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, NoReturn, Optional

#: bytes of one frame of the worker's
MOST_FRAME = 4 << 20
#: what is passed on of the output of one call: lines, and characters of a line
MOST_LINES, MOST_WIDTH = 200, 1000
#: seconds to wait, at the end, for killed processes to be gone
_LAST = 10.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
#: in the environment of all that a worker starts: by it they are found should this process be killed
MARK = "ENSEMBLE_WORKER"

_libc = ctypes.CDLL(None, use_errno=True)


class Keeper:
    """The loop of this program. `run` is its only entry."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.ours: Optional[socket.socket] = None
        self.process: Optional[subprocess.Popen[bytes]] = None
        self.output = -1
        self.from_service = b""
        self.from_worker = b""
        self.line = b""
        self.lines: List[str] = []
        self.told = 0

    def run(self) -> None:
        """Serve until the service is gone or the worker has ended; then leave no process behind."""
        wake, wakened = os.pipe()
        for end in (wake, wakened):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wakened, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        status: Optional[int] = None
        try:
            while status is None:
                watched = [self.peer.fileno(), wake]
                if self.ours is not None:
                    watched += [self.ours.fileno(), self.output]
                ready, _, _ = select.select(watched, [], [], 1.0)
                if wake in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 4096)
                if self.output in ready:
                    self._hear()
                if self.ours is not None and self.ours.fileno() in ready:
                    self._worker()
                if self.peer.fileno() in ready and not self._service():
                    break
                status = self._reap()
            if status is not None:
                while self.output >= 0 and self._hear():
                    continue
                self._flush()
        except OSError:
            pass  # the service is gone
        finally:
            self._kill_all()
        if status is not None:
            with contextlib.suppress(OSError):
                self._tell({"event": "exit", "status": status})

    def _service(self) -> bool:
        """Something came from the service; False at its end."""
        data = self.peer.recv(1 << 20)
        if not data:
            return False
        self.from_service += data
        while len(self.from_service) >= 4:
            (size,) = struct.unpack("!I", self.from_service[:4])
            if len(self.from_service) < 4 + size:
                break
            frame, self.from_service = self.from_service[: 4 + size], self.from_service[4 + size :]
            if self.process is None:
                self._start(json.loads(frame[4:]), frame)
            elif self.ours is not None:
                self.told = 0
                with contextlib.suppress(OSError):
                    self.ours.sendall(frame)
        return True

    def _start(self, settings: Dict[str, Any], frame: bytes) -> None:
        self.ours, theirs = socket.socketpair()
        self.output, output = os.pipe()
        os.set_blocking(self.output, False)
        os.set_inheritable(theirs.fileno(), True)
        note = ""
        try:
            os.chdir(settings["cwd"])
        except (OSError, ValueError) as exc:
            note = f"functions run in /, since {settings['cwd']} cannot be entered ({exc})"
        if settings["umask"] is not None:
            os.umask(settings["umask"])
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")
        self.process = subprocess.Popen(
            [settings["python"], program, str(theirs.fileno())],
            env={**settings["environment"], MARK: settings["mark"]},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
            preexec_fn=_prepare(settings["memory"]),
        )
        os.chdir("/")
        theirs.close()
        os.close(output)
        if note:
            self._tell({"event": "output", "lines": [note]})
        self.ours.sendall(frame)

    def _worker(self) -> None:
        assert self.ours is not None
        try:
            data = self.ours.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            # it has ended, or has closed what it answers through
            self._garbage()
            return
        self.from_worker += data
        while len(self.from_worker) >= 4:
            (size,) = struct.unpack("!I", self.from_worker[:4])
            if size > MOST_FRAME:
                self._garbage()
                return
            if len(self.from_worker) < 4 + size:
                return
            body, self.from_worker = self.from_worker[4 : 4 + size], self.from_worker[4 + size :]
            try:
                answer = json.loads(body)
                assert isinstance(answer, dict)
            except (ValueError, AssertionError, RecursionError):
                self._garbage()
                return
            # what it printed before it answered comes before the answer
            while self._hear():
                continue
            self._flush()
            self._tell({**answer, "event": "answer"})

    def _garbage(self) -> None:
        """A function has closed the worker's socket, or written into it: what comes cannot be trusted any more."""
        self._close()
        if self.process is not None:
            # not by `Popen.kill`, which would collect its status
            with contextlib.suppress(OSError):
                os.kill(self.process.pid, signal.SIGKILL)

    def _close(self) -> None:
        if self.ours is not None:
            self.ours.close()
            self.ours = None

    def _hear(self) -> bool:
        """Take what was printed; False where nothing is left for now."""
        try:
            data = os.read(self.output, 1 << 16)
        except (BlockingIOError, OSError):
            return False
        if not data:
            return False
        *lines, self.line = (self.line + data).split(b"\n")
        self.line = self.line[-MOST_WIDTH:]
        for line in lines:
            self._line(line)
        self._pass_on()
        return True

    def _line(self, line: bytes) -> None:
        self.told += 1
        if self.told <= MOST_LINES:
            self.lines.append(line[:MOST_WIDTH].decode("utf-8", "backslashreplace"))
        elif self.told == MOST_LINES + 1:
            self.lines.append(f"(what this call prints after {MOST_LINES} lines is left out)")

    def _flush(self) -> None:
        """Also a last line without an end."""
        if self.line:
            line, self.line = self.line, b""
            self._line(line)
        self._pass_on()

    def _pass_on(self) -> None:
        if self.lines:
            lines, self.lines = self.lines, []
            self._tell({"event": "output", "lines": lines})

    def _tell(self, message: Dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        self.peer.sendall(struct.pack("!I", len(body)) + body)

    def _reap(self) -> Optional[int]:
        """Collect what has died; the worker's wait status if it was it."""
        found = None
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                if self.process is not None and pid == self.process.pid:
                    self.process.returncode = found = status
        return found

    def _kill_all(self) -> None:
        if self.process is None:
            return
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        end = time.monotonic() + _LAST
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < end:
                for pid in _children():
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
                time.sleep(0.002)


def sweep(mark: str) -> None:
    """Kill whatever carries that mark in its environment: what a worker left behind whose keeper was killed."""
    wanted = f"{MARK}={mark}".encode()
    for _ in range(100):
        found = False
        for name in os.listdir("/proc"):
            if not name.isdecimal() or int(name) == os.getpid():
                continue
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    found = True
                    os.kill(int(name), signal.SIGKILL)
        if not found:
            return
        time.sleep(0.05)


def _children() -> List[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def _prepare(memory: int) -> Callable[[], None]:
    """What the worker does between fork and exec."""
    parent = os.getpid()

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if memory:
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            most = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        # where memory runs out all the same, let it be this process that the kernel ends
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("800")

    return prepare


def main() -> NoReturn:
    """Keep one worker; with an argument, sweep up what carries that mark."""
    if len(sys.argv) > 1:
        sweep(sys.argv[1])
        raise SystemExit(0)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.chdir("/")
    peer = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    Keeper(peer).run()
    raise SystemExit(0)


if __name__ == "__main__":
    main()
