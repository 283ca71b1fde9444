# SPDX-License-Identifier: MIT
"""The process that starts, signals and reaps the processes of the local queue.

Law of this file: a program of its own, standard library only, one thread, run by path (`python -I -S`), so that it
starts fast and may fork. It knows no queue and no cores; `local_process.py` tells it what to run. Its few lines that
`keeper.py` of the service has too stand in both, since neither can import anything of the package.

Theory of operation. Standard input is a socket to the queue that started it; both sides write JSON lines:

    {"op": "run", "id", "argv", "cwd", "umask", "rlimits", "environment", "input", "tasks": [TASK, ...]}
        TASK: {"environment", "output", "error"}; one process each, in a session of its own
    {"op": "kill", "id", "signal", "grace"}     SIGKILL follows after `grace` seconds, unless it is None

    {"event": "start", "id", "t", "pids"}
    {"event": "failed", "id", "t", "status", "note"}    it could not be started (instead of start)
    {"event": "finish", "id", "t", "status"}            the highest status of its tasks, coded as the Flux shell does

No process outlives this one: at the end of the socket (the queue stopped, or was killed) every process group gets
SIGKILL; this process is the reaper of all its descendants, so that those which left their session are found too; and
a task dies by the kernel's hand (PR_SET_PDEATHSIG) if this process is killed itself.

A task has ended when its whole process group has: what a task leaves behind gets SIGTERM and, GRACE seconds later,
SIGKILL.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import time
from typing import Any, Callable, Dict, List, NoReturn, Optional

#: seconds that the processes a task left behind have between SIGTERM and SIGKILL
GRACE = 5.0
#: seconds to wait, at the end, for killed processes to be gone
_LAST = 10.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
#: signals that a task must not find ignored because the queue was started in the background
_RESET = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD)

_libc = ctypes.CDLL(None, use_errno=True)


class CannotStart(Exception):
    """A job that could not be started: the sentence, and the wait status that it ends with."""

    def __init__(self, note: str, status: int) -> None:
        super().__init__(note)
        self.status = status


class Task:
    """One process and the group that it leads."""

    def __init__(self, job: Job, process: subprocess.Popen[bytes]) -> None:
        self.job = job
        self.process = process
        #: also the id of its process group and session
        self.pid = process.pid
        #: wait status of the leader, None while it runs
        self.status: Optional[int] = None
        #: monotonic time of SIGKILL, None if none is due
        self.deadline: Optional[float] = None

    def signal(self, number: int) -> bool:
        """Signal the whole group; False if no process is left in it."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # a process that changed its user; it counts as alive
        return True


class Job:
    """The tasks of one job that have not ended yet, and the worst status so far."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.tasks: List[Task] = []
        self.status = 0
        #: why it could not be started; reported when the tasks that did start are gone
        self.failure: Optional[CannotStart] = None


class Launcher:
    """The loop of this program. `run` is its only entry."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.jobs: Dict[int, Job] = {}
        self.leaders: Dict[int, Task] = {}
        self.stopping = False

    def run(self) -> None:
        """Serve until the socket ends or SIGTERM comes; then leave no process behind."""
        wake, wakened = os.pipe()
        for end in (wake, wakened):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wakened, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        pending = b""
        try:
            while not self.stopping:
                ready, _, _ = select.select([self.peer.fileno(), wake], [], [], self._timeout())
                if wake in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 4096)
                if self.peer.fileno() in ready:
                    data = self.peer.recv(1 << 16)
                    if not data:
                        break
                    *lines, pending = (pending + data).split(b"\n")
                    for line in lines:
                        self._request(json.loads(line))
                self._reap()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the queue is gone
        finally:
            self._kill_all()

    def _stop(self, *_: Any) -> None:
        self.stopping = True

    def _timeout(self) -> Optional[float]:
        deadlines = [task.deadline for job in self.jobs.values() for task in job.tasks if task.deadline is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _send(self, **message: Any) -> None:
        self.peer.sendall(json.dumps({"t": time.time(), **message}).encode() + b"\n")

    def _request(self, request: Dict[str, Any]) -> None:
        if request["op"] == "run":
            self._run(request)
            return
        job = self.jobs.get(request["id"])
        for task in job.tasks if job else ():
            task.signal(request["signal"])
            if request["grace"] is not None and task.deadline is None:
                task.deadline = time.monotonic() + request["grace"]

    def _run(self, request: Dict[str, Any]) -> None:
        job = self.jobs[request["id"]] = Job(request["id"])
        try:
            with contextlib.ExitStack() as files:
                self._start_tasks(job, request, files)
        except CannotStart as failure:
            job.failure = failure
            for task in job.tasks:
                task.signal(signal.SIGKILL)
        else:
            self._send(event="start", id=job.id, pids=[task.pid for task in job.tasks])
        self._finish_if_ended(job)

    def _start_tasks(self, job: Job, request: Dict[str, Any], files: contextlib.ExitStack) -> None:
        """Start every task, or raise CannotStart with those that did start in `job`."""
        files.callback(os.chdir, "/")
        trouble = ""
        try:
            os.chdir(request["cwd"])
        except (OSError, ValueError) as exc:
            os.chdir("/tmp")
            trouble = f"could not change directory to {request['cwd']!r} ({_reason(exc)}): running in /tmp\n"
        if request["umask"] is not None:
            files.callback(os.umask, os.umask(request["umask"]))
        opened: Dict[str, int] = {}

        def stream(path: str, flags: int, what: str) -> int:
            if path not in opened:
                try:
                    # Without O_NONBLOCK a FIFO that nobody reads would stop every job of the queue.
                    opened[path] = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
                except (OSError, ValueError) as exc:
                    raise CannotStart(f"error opening {what} file '{path}': {_reason(exc)}", 1 << 8) from exc
                files.callback(os.close, opened[path])
                os.set_blocking(opened[path], True)
            return opened[path]

        stdin = stream(request["input"] or os.devnull, os.O_RDONLY, "input")
        write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        prepare = _prepare(request["rlimits"])
        for rank, one in enumerate(request["tasks"]):
            stdout = stream(one["output"], write, "output")
            stderr = stream(one["error"] or one["output"], write, "error")
            if trouble:
                os.write(stderr, f"ensemble: {trouble}".encode(errors="replace"))
            environment = {**request["environment"], **one["environment"]}
            try:
                process = _popen(request["argv"], environment, prepare, stdin, stdout, stderr)
            except (OSError, ValueError, subprocess.SubprocessError) as exc:
                code = 127 if isinstance(exc, FileNotFoundError) else 126
                note = f"task {rank}: start failed: {request['argv'][0]}: {_reason(exc)}"
                with contextlib.suppress(OSError):
                    os.write(stderr, f"ensemble: {note}\n".encode(errors="replace"))
                raise CannotStart(note, code << 8) from exc
            task = self.leaders[process.pid] = Task(job, process)
            job.tasks.append(task)

    def _reap(self) -> None:
        """Collect what has died, push what lingers, and report the jobs that have ended."""
        touched: Dict[int, Job] = {}
        with contextlib.suppress(ChildProcessError):
            while True:
                # WNOWAIT: as long as the leader is not reaped, the id of its group cannot mean another one.
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if dead is None:
                    break
                task = self.leaders.pop(dead.si_pid, None)
                if task is not None and task.deadline is None:
                    task.signal(signal.SIGTERM)
                    task.deadline = time.monotonic() + GRACE
                status = os.waitpid(dead.si_pid, 0)[1]
                if task is not None:  # else an orphan that a task left behind
                    task.process.returncode = task.status = status
        now = time.monotonic()
        for job in self.jobs.values():
            for task in job.tasks:
                if task.deadline is not None and now >= task.deadline:
                    task.signal(signal.SIGKILL)
                    task.deadline = now + 1.0  # again, for what was forked meanwhile
                if task.status is not None:
                    touched[job.id] = job
        for job in touched.values():
            self._finish_if_ended(job)

    def _finish_if_ended(self, job: Job) -> None:
        alive = []
        for task in job.tasks:
            if task.status is None or task.signal(0):
                alive.append(task)
            else:
                job.status = max(job.status, _coded(task.status))
        job.tasks = alive
        if alive:
            return
        del self.jobs[job.id]
        if job.failure is not None:
            self._send(event="failed", id=job.id, status=job.failure.status, note=str(job.failure))
        else:
            self._send(event="finish", id=job.id, status=job.status)

    def _kill_all(self) -> None:
        for job in self.jobs.values():
            for task in job.tasks:
                task.signal(signal.SIGKILL)
        end = time.monotonic() + _LAST
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < end:
                for pid in _children():
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
                time.sleep(0.005)


def _popen(
    argv: List[str], environment: Dict[str, str], prepare: Callable[[], None], stdin: int, stdout: int, stderr: int
) -> subprocess.Popen[bytes]:
    def start(words: List[str]) -> subprocess.Popen[bytes]:
        # preexec_fn is safe here: this process has one thread.
        return subprocess.Popen(
            words,
            env=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=prepare,
        )

    try:
        return start(argv)
    except OSError as exc:
        if exc.errno != errno.ENOEXEC:
            raise
        # A script without a #! line: execvp(3), and so Flux, hands it to the shell.
        return start(["/bin/sh", shutil.which(argv[0], path=environment.get("PATH")) or argv[0], *argv[1:]])


def _prepare(rlimits: Dict[str, int]) -> Callable[[], None]:
    """What the child does between fork and exec."""
    parent = os.getpid()
    limits = []
    for name, soft in rlimits.items():
        number = getattr(resource, f"RLIMIT_{name.upper()}", None)
        if number is not None:
            limits.append((number, resource.RLIM_INFINITY if soft == -1 else soft))

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)
        for number in _RESET:
            signal.signal(number, signal.SIG_DFL)
        for number, wanted in limits:
            hard = resource.getrlimit(number)[1]
            if hard != resource.RLIM_INFINITY and (wanted == resource.RLIM_INFINITY or wanted > hard):
                wanted = hard
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(number, (wanted, hard))

    return prepare


def _coded(status: int) -> int:
    """A task's wait status as the Flux shell passes it on: death by signal N is exit code 128 + N."""
    return (128 + os.WTERMSIG(status)) << 8 if os.WIFSIGNALED(status) else status


def _reason(exc: BaseException) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)


def _children() -> List[int]:
    """The process ids of this process's children, adopted ones included."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def main() -> NoReturn:
    """Run until the queue at the other end of standard input is gone."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.chdir("/")
    # Standard input is the socket: keep it from the tasks under another number.
    peer = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    Launcher(peer).run()
    raise SystemExit(0)


if __name__ == "__main__":
    main()
