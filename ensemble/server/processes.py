# SPDX-License-Identifier: MIT
"""A remote member that runs jobs as processes of this machine: `python -m ensemble.server.processes HOST:PORT`.

It is of use where one machine lends its cores to an ensemble elsewhere, and it is the example for those who plug in a
queue of their own: all that they write is the class `Processes`, here over folders, there over their queue's commands.

How it works. A job is a folder `jobs/N`, there under that name only as a whole; its `job.json` has the key. A keeper
process (this file again, with `--keep`) runs the job and outlives us: its first act is to make `begun`, which can be
made once, so that however often keepers are started the job runs once. It writes `start` and `end`; a thread of ours looks
for these files and tells of them. Jobs start first come, first served, as long as there are cores.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from ensemble.server.remote import Queue, Refused, RemoteMember, Tell

#: seconds between two looks at the folders
_LOOK = 0.1
#: seconds between the first signal of a cancel or time limit and SIGKILL
_GRACE = 5.0


class Processes(Queue):
    """Processes of this machine."""

    capabilities = ("submit", "cancel", "kill", "urgency")

    def __init__(self, folder: Path, cores: int) -> None:
        self._jobs = folder / "jobs"
        self._jobs.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._cores = cores
        self._lock = threading.Lock()
        #: jobs that have not ended: id -> what it is; in order of submission
        self._active: Dict[int, Dict[str, Any]] = {}
        self._last = max((int(path.name) for path in self._jobs.iterdir() if path.name.isdigit()), default=0)
        self._stopped = threading.Event()
        self._tell: Tell

    def start(self, tell: Tell) -> None:
        self._tell = tell
        threading.Thread(target=self._look, name="processes", daemon=True).start()

    def submit(self, job: Any) -> int:
        if job.queue:
            raise Refused(f"this machine has no queues, and the job asks for '{job.queue}'")
        cores = max(1, job.tasks * max(1, job.cores)) if not job.exclusive else self._cores
        if job.nodes > 1 or job.gpus or cores > self._cores:
            raise Refused(
                f"this machine is one node with {self._cores} cores and lends no gpus; the job asks for {job.nodes} "
                f"nodes, {cores} cores and {job.gpus} gpus a task"
            )
        id = self._last + 1
        environment = {name: value for name, value in os.environ.items() if name not in job.unset}
        # in paths, as in Flux
        names = {"id": str(id), "jobid": str(id), "id.dec": str(id), "name": job.group, "size": str(max(1, job.tasks))}
        about = {
            "key": job.key,
            "argv": list(job.argv),
            "workdir": job.workdir,
            "environment": {**environment, **job.environment},
            "output": _filled(job.output, names),
            "error": _filled(job.error, names),
            "input": _filled(job.input, names),
            "tasks": job.tasks,
            "cores": cores,
            "duration": job.duration,
            "urgency": job.urgency,
        }
        new = self._jobs / f"{id}.new"
        new.mkdir(exist_ok=True, mode=0o700)
        (new / "job.json").write_text(json.dumps(about))
        new.rename(self._jobs / str(id))
        self._last = id
        for event in ("validate", "depend", "priority"):
            self._tell(id, event)
        self._add(id, about)
        return id

    def find(self, key: str) -> Optional[int]:
        for path in self._jobs.iterdir():
            if path.name.isdigit() and _read(path / "job.json").get("key") == key:
                return int(path.name)
        return None

    def follow(self, id: int, key: str) -> bool:
        about = _read(self._jobs / str(id) / "job.json")
        if about.get("key") != key:
            return False
        self._add(id, about)
        return True

    def cancel(self, id: int) -> Optional[str]:
        with self._lock:
            about = self._active.get(id)
            if about is None:
                return "job is inactive"
            (self._jobs / str(id) / "cancel").touch()
            # the look that sees it tells of it
        return None

    def kill(self, id: int, signal: int) -> Optional[str]:
        started = _read(self._jobs / str(id) / "start")
        if id not in self._active:
            return "job is inactive"
        if not started:
            return "job is not running"
        _signal(started, signal)
        return None

    def urgency(self, id: int, value: int) -> Optional[str]:
        with self._lock:
            about = self._active.get(id)
            if about is None:
                return "job is inactive"
            if about["begun"]:
                return "job is running"
            about["urgency"] = value
            _write(self._jobs / str(id) / "urgency", {"value": value})
        self._tell(id, "urgency", {"urgency": value})
        self._tell(id, "priority", {"priority": value})
        return None

    def counts(self) -> Dict[str, Any]:
        with self._lock:
            used = sum(about["cores"] for about in self._active.values() if about["begun"])
            running = sum(about["begun"] for about in self._active.values())
            pending = len(self._active) - running
        cores = {"up": self._cores, "down": 0, "free": self._cores - used, "allocated": used}
        one = {"up": 1, "down": 0, "free": int(not used), "allocated": int(bool(used))}
        return {"nodes": one, "cores": cores, "queue": {"pending": pending, "running": running}}

    def stop(self) -> None:
        self._stopped.set()

    # ---- within

    def _add(self, id: int, about: Dict[str, Any]) -> None:
        begun = (self._jobs / str(id) / "begun").exists()
        urgency = _read(self._jobs / str(id) / "urgency").get("value", about.get("urgency", 16))
        about = {**about, "urgency": urgency}
        with self._lock:
            self._active[id] = {**about, "begun": begun, "told": set(), "keeper": None}

    def _look(self) -> None:
        while not self._stopped.wait(_LOOK):
            with self._lock:
                active = list(self._active.items())
            # a cancel or an end may come to any of them; those that wait start by urgency, and with 0 not at all
            active = [(id, about) for id, about in active if not self._see(id, about)]
            used = sum(about["cores"] for _, about in active if about["begun"])
            for id, about in sorted(active, key=lambda one: -int(one[1]["urgency"])):
                with self._lock:
                    if about["begun"] or not about["urgency"]:
                        continue
                    if used + about["cores"] > self._cores:
                        break
                    used += about["cores"]
                    about["begun"] = True
                    self._tell(id, "alloc")
                    about["keeper"] = subprocess.Popen(
                        [sys.executable, "-m", "ensemble.server.processes", "--keep", str(self._jobs / str(id))],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        start_new_session=True,
                    )

    def _see(self, id: int, about: Dict[str, Any]) -> bool:
        """Tell what is new of a job; is it over?"""
        folder = self._jobs / str(id)
        cancelled = (folder / "cancel").exists()
        if cancelled and "cancel" not in about["told"]:
            about["told"].add("cancel")
            self._tell(id, "exception", {"type": "cancel", "severity": 0, "note": "cancelled"})
        started, ended = _read(folder / "start"), _read(folder / "end")
        if cancelled and not about["begun"]:
            return self._over(id)
        if started and "start" not in about["told"]:
            about["told"].add("start")
            self._tell(id, "start", {}, started["t"])
        if not ended and _kept_no_more(folder, about["keeper"]):
            ended = _read(folder / "end")
            if not ended:
                note = "the process that kept the job has died"
                self._tell(id, "exception", {"type": "exec", "severity": 0, "note": note})
                return self._over(id)
        if not ended:
            return False
        if ended.get("note"):
            self._tell(id, "exception", {"type": ended["type"], "severity": 0, "note": ended["note"]}, ended["t"])
        if started:
            self._tell(id, "finish", {"status": ended["status"]}, ended["t"])
        return self._over(id)

    def _over(self, id: int) -> bool:
        with contextlib.suppress(KeyError):
            if self._active[id]["begun"]:
                self._tell(id, "release")
                self._tell(id, "free")
        self._tell(id, "clean")
        with self._lock:
            del self._active[id]
        return True


def keep(folder: Path) -> int:
    """Run the job in that folder, unless it was begun before."""
    own = folder / f"begun.{os.getpid()}"
    lock = os.open(own, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    # held as long as we live; it is there under its name only with the lock
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        os.link(own, folder / "begun")
    except FileExistsError:
        return 0
    finally:
        own.unlink()
    about = _read(folder / "job.json")
    if (folder / "cancel").exists():
        _write(folder / "end", {"t": time.time(), "status": 15})
        return 0
    children: List[subprocess.Popen[bytes]] = []
    end: Dict[str, Any] = {}
    #: of a job whose files cannot be opened; of one whose command cannot run 126, or 127 where there is none
    code = 1
    try:
        os.chdir(folder)
        cwd = about["workdir"] or str(folder)
        with contextlib.ExitStack() as files:
            out = files.enter_context(open(about["output"] or "out", "ab"))
            err = files.enter_context(open(about["error"], "ab")) if about["error"] else out
            given = files.enter_context(open(about["input"] or os.devnull, "rb"))
            size = max(1, about["tasks"])
            code = 126
            children = [
                subprocess.Popen(
                    about["argv"],
                    cwd=cwd,
                    # as Flux's shell has them
                    env={**about["environment"], "FLUX_TASK_RANK": str(rank), "FLUX_JOB_SIZE": str(size)},
                    stdin=given,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
                for rank in range(size)
            ]
    except OSError as exc:
        code = 127 if code == 126 and isinstance(exc, FileNotFoundError) else code
        end = {"type": "exec", "note": f"{shlex.join(about['argv'])[:200]}: {exc.strerror}: {exc.filename}"}
        for child in children:
            child.kill()
    _write(folder / "start", {"t": time.time(), "groups": [child.pid for child in children]})
    status = _wait(folder, about, children, end)
    end.update(t=time.time(), status=code << 8 if end.get("type") == "exec" else status)
    _write(folder / "end", end)
    return 0


def _wait(folder: Path, about: Dict[str, Any], children: List[subprocess.Popen[bytes]], end: Dict[str, Any]) -> int:
    """Until all processes have ended, by themselves, by a cancel or the time limit; the wait status of the worst."""
    limit = time.monotonic() + about["duration"] if about["duration"] else None
    killing: Optional[float] = None
    while any(child.poll() is None for child in children):
        time.sleep(0.02)
        now = time.monotonic()
        over = limit is not None and now > limit
        if killing is None and (over or (folder / "cancel").exists()):
            if over:
                end.update(type="timeout", note="resource allocation expired")
            first = signal.SIGALRM if over else signal.SIGTERM  # as Flux has it
            _signal({"groups": [child.pid for child in children]}, first)
            killing = now + _GRACE
        elif killing is not None and now > killing:
            _signal({"groups": [child.pid for child in children]}, signal.SIGKILL)
    # as the Flux shell does: death by signal N is the exit code 128 + N
    codes = [128 - child.returncode if child.returncode < 0 else child.returncode for child in children]
    return max(codes, default=0) << 8


def _kept_no_more(folder: Path, keeper: Optional[subprocess.Popen[bytes]]) -> bool:
    """Was the job begun, and has its keeper ended?"""
    gone = keeper is not None and keeper.poll() is not None
    try:
        lock = os.open(folder / "begun", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return gone
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def _filled(path: str, names: Dict[str, str]) -> str:
    """The path with its `{{name}}`s filled in; unknown ones stay."""
    return re.sub(r"\{\{([\w.]+)\}\}", lambda match: names.get(match[1], match[0]), path)


def _signal(started: Dict[str, Any], number: int) -> None:
    for group in started.get("groups", ()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)


def _write(path: Path, value: Dict[str, Any]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value))
    new.rename(path)


def _read(path: Path) -> Dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def main(argv: Optional[List[str]] = None) -> int:
    """Run the member until SIGTERM or SIGINT, or keep one job."""
    parser = argparse.ArgumentParser(
        prog="python -m ensemble.server.processes",
        description="Lend cores of this machine to an ensemble-server that was started with --member remote.",
    )
    parser.add_argument("server", nargs="?", metavar="HOST:PORT")
    parser.add_argument("--name", default="remote", help="what the server calls this member (default: %(default)s)")
    parser.add_argument(
        "--folder", type=Path, default=Path("remote-member"), help="journal and jobs (default: %(default)s)"
    )
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), help="cores to lend (default: all)")
    parser.add_argument("--cert", help="the server's certificate; without it there is no TLS")
    parser.add_argument("--token-file", type=Path, help="file with the server's token")
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.keep is not None:
        return keep(args.keep)
    if args.server is None:
        parser.error("name the server, HOST:PORT")
    folder = args.folder.absolute()
    try:
        token = args.token_file.read_text().strip() if args.token_file else None
        if args.cert is not None:
            Path(args.cert).read_bytes()
    except (OSError, ValueError) as exc:
        print(f"{parser.prog}: the certificate or the token cannot be read: {exc}", file=sys.stderr)
        return 1
    member = RemoteMember(args.server, args.name, Processes(folder, args.cores), folder, cert=args.cert, token=token)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: member.stop())
    try:
        member.run()
    except RuntimeError as exc:
        print(f"{parser.prog}: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
