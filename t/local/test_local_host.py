# SPDX-License-Identifier: MIT
"""The local service as a process: where it listens, whom it serves, and when it ends, leaving nothing."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest

PATIENCE = 60.0
ONE_JOB = """
name: one
jobs: [{name: g, command: COMMAND, count: COUNT}]
rules: [{trigger: start, action: {name: submit, label: g}}]
"""


class Host:
    """A service in a process of its own."""

    def __init__(self, runtime: Path, rundir: Path, *options: str, hosted: bool = False) -> None:
        ready, tell = os.pipe()
        passed = [tell]
        words = [sys.executable, "-m", "ensemble.service.local_host", "--rundir", str(rundir), "--cores", "2"]
        words += ["--ready-fd", str(tell), *options]
        self.pipe: Optional[int] = None
        if hosted:
            reading, self.pipe = os.pipe()
            passed.append(reading)
            words += ["--hosted-fd", str(reading)]
        self.process = subprocess.Popen(
            words,
            pass_fds=passed,
            env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for end in passed:
            os.close(end)
        with os.fdopen(ready) as file:
            self.path = file.readline().strip()

    def close_pipe(self) -> None:
        if self.pipe is not None:
            os.close(self.pipe)
            self.pipe = None

    def wait(self) -> int:
        """Its exit status; it must end by itself, without a word above info, and leave no socket."""
        _, said = self.process.communicate(timeout=PATIENCE)
        assert not [line for line in said.splitlines() if " info: " not in line], said
        assert not os.path.exists(self.path)
        return self.process.returncode


class Client:
    """A connection that speaks the raw lines."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")
        self.last = 0

    def send(self, endpoint: str, payload: Any = None, **more: Any) -> int:
        self.last += 1
        self.raw(json.dumps({"id": self.last, "endpoint": endpoint, "payload": payload or {}, **more}).encode() + b"\n")
        return self.last

    def raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> Optional[Dict[str, Any]]:
        """The next line; None at the end of the connection."""
        try:
            line = self.file.readline()
        except ConnectionResetError:
            return None
        answer: Optional[Dict[str, Any]] = json.loads(line) if line else None
        return answer

    def call(self, endpoint: str, payload: Any = None) -> Dict[str, Any]:
        """The answer to one request, others' passed over."""
        id = self.send(endpoint, payload)
        while True:
            answer = self.read()
            assert answer is not None, "the connection was closed"
            if answer["id"] == id:
                return answer

    def submit(self, command: str, count: int = 1) -> str:
        text = ONE_JOB.replace("COMMAND", json.dumps(command)).replace("COUNT", str(count))
        submitter = {"environment": dict(os.environ), "cwd": "/"}
        answer = self.call("submit", {"text": text, "file": "one.yaml", "submitter": submitter})
        assert "ok" in answer, answer
        id: str = answer["ok"]["id"]
        return id

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture
def start(runtime_dir: Path, tmp_path: Path) -> Iterator[Callable[..., Host]]:
    made: List[Host] = []

    def make(*options: str, hosted: bool = False) -> Host:
        made.append(Host(runtime_dir, tmp_path / "run", *options, hosted=hosted))
        assert made[-1].path, made[-1].process.communicate(timeout=PATIENCE)
        return made[-1]

    yield make
    for host in made:
        host.close_pipe()
        if host.process.poll() is None:
            host.process.send_signal(signal.SIGTERM)
        host.process.communicate(timeout=PATIENCE)


@pytest.fixture
def connect() -> Iterator[Callable[[Host], Client]]:
    with contextlib.ExitStack() as made:

        def make(host: Host) -> Client:
            return made.enter_context(contextlib.closing(Client(host.path)))

        yield make


def until(predicate: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not predicate():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def running_job(client: Client, tmp_path: Path) -> int:
    """Submit a job that sleeps; returns its process id."""
    pids = tmp_path / "pids"
    client.submit(f"sh -c 'echo $$ > {pids}; exec sleep 300'")
    until(lambda: pids.exists() and pids.read_text().strip())
    return int(pids.read_text())


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


# from end to end


def test_an_ensemble_from_end_to_end(start: Callable[..., Host], connect: Callable[[Host], Client]) -> None:
    host = start()
    client = connect(host)
    id = client.submit("echo hello", 3)
    watch = client.send("watch", {"id": id})
    records: List[Dict[str, Any]] = []
    while True:
        answer = client.read()
        assert answer is not None
        assert answer["id"] == watch
        if "errno" in answer:
            break
        records += answer["ok"]["records"]
    assert answer["errno"] == errno.ENODATA
    assert records[-1]["state"] == "complete"
    jobs = client.call("jobs", {"id": id})["ok"]["jobs"]
    assert [Path(job["where"]).read_text() for job in jobs] == ["hello\n"] * 3
    stats = client.call("stats")["ok"]
    assert (stats["host"], stats["pid"], stats["supervisor_pid"]) == ("local", host.process.pid, None)
    assert client.call("quit") == {"id": client.last, "ok": {}}
    assert host.wait() == 0


# where it listens


def test_only_the_owner_gets_in(start: Callable[..., Host]) -> None:
    path = Path(start().path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_stale_sockets_are_removed_and_living_ones_kept(
    start: Callable[..., Host], connect: Callable[[Host], Client], runtime_dir: Path
) -> None:
    first = start()
    dead = start()
    dead.process.send_signal(signal.SIGKILL)
    dead.process.communicate(timeout=PATIENCE)
    assert os.path.exists(dead.path)
    other = runtime_dir / "ensemble" / "999999999.new"
    other.write_text("")
    start()
    assert not os.path.exists(dead.path)
    assert not other.exists()
    assert "ok" in connect(first).call("stats")


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_directory_that_others_can_enter(tmp_path: Path, runtime_dir: Path, mode: int) -> None:
    runtime = runtime_dir / f"open{mode:o}"
    (runtime / "ensemble").mkdir(parents=True)
    (runtime / "ensemble").chmod(mode)
    host = Host(runtime, tmp_path / "run")
    _, said = host.process.communicate(timeout=PATIENCE)
    assert (host.path, host.process.returncode) == ("", 1)
    assert f"chmod 700 {runtime / 'ensemble'}" in said
    assert "Traceback" not in said
    assert not list((runtime / "ensemble").iterdir())


def test_a_directory_that_is_a_link(tmp_path: Path, runtime_dir: Path) -> None:
    runtime = runtime_dir / "linked"
    runtime.mkdir()
    (tmp_path / "real").mkdir(mode=0o700)
    (runtime / "ensemble").symlink_to(tmp_path / "real")
    host = Host(runtime, tmp_path / "run")
    _, said = host.process.communicate(timeout=PATIENCE)
    assert host.process.returncode == 1
    assert "not a directory of yours" in said
    assert not list((tmp_path / "real").iterdir())


def test_a_path_that_is_too_long(tmp_path: Path, runtime_dir: Path) -> None:
    runtime = runtime_dir / ("x" * 100)
    runtime.mkdir()
    host = Host(runtime, tmp_path / "run")
    _, said = host.process.communicate(timeout=PATIENCE)
    assert host.process.returncode == 1
    assert "too long" in said
    assert "Traceback" not in said


# requests that make no sense


@pytest.mark.parametrize(
    "line",
    [
        b"this is no JSON\n",
        b"\xff\xfe\n",
        b"\n",
        b"[]\n",
        b'{"endpoint": "list"}\n',
        b'{"id": "one", "endpoint": "list"}\n',
        b'{"id": true, "endpoint": "list"}\n',
        b'{"id": NaN, "endpoint": "list"}\n',
        b"[" * 100_000 + b"\n",
        b'{"id": ' + b"9" * 10_000 + b"}\n",
    ],
)
def test_what_is_no_request_ends_its_connection_alone(
    start: Callable[..., Host], connect: Callable[[Host], Client], line: bytes
) -> None:
    host = start()
    good, bad = connect(host), connect(host)
    bad.raw(line)
    answer = bad.read()
    assert answer is not None
    assert answer["id"] is None
    assert answer["errno"] == errno.EPROTO
    assert answer["error"]
    assert bad.read() is None
    assert good.call("list") == {"id": 1, "ok": {"ensembles": []}}
    good.call("quit")
    assert host.wait() == 0


def test_a_line_without_end(start: Callable[..., Host], connect: Callable[[Host], Client]) -> None:
    host = start()
    good, bad = connect(host), connect(host)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(64):
            bad.raw(b"x" * (1 << 20))
    answer = bad.read()
    # The refusal may be lost behind what was still being sent: the end is not.
    assert answer is None or (answer["errno"] == errno.EMSGSIZE and "4 MiB" in answer["error"])
    assert "ok" in good.call("stats")


@pytest.mark.parametrize(
    ("request_", "number"),
    [
        ({"endpoint": "no-such"}, errno.ENOSYS),
        ({"endpoint": "__class__"}, errno.ENOSYS),
        ({"endpoint": 7}, errno.ENOSYS),
        ({}, errno.ENOSYS),
        ({"endpoint": "status", "payload": [1]}, errno.EINVAL),
        ({"endpoint": "status", "payload": {"id": "nobody"}}, errno.ENOENT),
        ({"endpoint": "status", "payload": {}}, errno.EPROTO),
        ({"cancel": 17}, errno.ENOENT),
        ({"cancel": []}, errno.ENOENT),
    ],
)
def test_a_bad_request_is_refused_and_the_connection_lives(
    start: Callable[..., Host], connect: Callable[[Host], Client], request_: Dict[str, Any], number: int
) -> None:
    client = connect(start())
    client.raw(json.dumps({"id": 41, **request_}).encode() + b"\n")
    answer = client.read()
    assert answer is not None
    assert (answer["id"], answer["errno"]) == (41, number)
    assert len(answer["error"]) > 10
    assert "ok" in client.call("list")


def test_many_requests_in_one_piece_and_one_in_many(
    start: Callable[..., Host], connect: Callable[[Host], Client]
) -> None:
    client = connect(start())
    client.raw(b"".join(b'{"id": %d, "endpoint": "list"}\n' % id for id in range(100, 200)))
    assert [client.read() for _ in range(100)] == [{"id": id, "ok": {"ensembles": []}} for id in range(100, 200)]
    for byte in b'{"id": 7, "endpoint": "list"}\n':
        client.raw(bytes([byte]))
    assert client.read() == {"id": 7, "ok": {"ensembles": []}}


# streams


def test_cancel_ends_one_stream_and_not_its_like(start: Callable[..., Host], connect: Callable[[Host], Client]) -> None:
    client = connect(start())
    id = client.submit("sleep 300")
    first, second = client.send("watch", {"id": id}), client.send("watch", {"id": id})
    client.last += 1
    client.raw(json.dumps({"id": client.last, "cancel": first}).encode() + b"\n")
    ended, answered, alive = False, False, 0
    until_ = time.monotonic() + PATIENCE
    while alive < 2 and time.monotonic() < until_:
        answer = client.read()
        assert answer is not None
        if answer["id"] == first and answer.get("errno") == errno.ENODATA:
            ended = True
        elif answer["id"] == client.last:
            answered = answer["ok"] == {}
        else:
            assert not (ended and answer["id"] == first)
            alive += ended and answer["id"] == second and "ok" in answer
    assert ended
    assert answered


def test_an_id_in_use_ends_the_connection(start: Callable[..., Host], connect: Callable[[Host], Client]) -> None:
    client = connect(start())
    id = client.submit("sleep 300")
    watch = client.send("watch", {"id": id})
    client.raw(json.dumps({"id": watch, "endpoint": "list"}).encode() + b"\n")
    while True:
        answer = client.read()
        assert answer is not None
        if answer["id"] is None:
            break
    assert "no open request has" in answer["error"]
    assert client.read() is None


def test_who_does_not_read_is_not_read_from_and_harms_nobody(
    start: Callable[..., Host], connect: Callable[[Host], Client]
) -> None:
    host = start()
    deaf, good = connect(host), connect(host)
    id = good.submit("true", 200)
    until(lambda: good.call("status", {"id": id})["ok"]["state"] == "complete")
    request = json.dumps({"id": 1, "endpoint": "jobs", "payload": {"id": id}}).encode() + b"\n"
    deaf.socket.settimeout(3)
    sent = 0
    with contextlib.suppress(socket.timeout):
        while sent < 50_000:
            deaf.raw(request * 100)
            sent += 100
    assert sent < 50_000
    memory = int(Path(f"/proc/{host.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert memory < 400 << 20
    assert "ok" in good.call("stats")
    # When it reads at last, it gets its answers.
    deaf.socket.settimeout(PATIENCE)
    for _ in range(50):
        answer = deaf.read()
        assert answer is not None
        assert len(answer["ok"]["jobs"]) == 200


# the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_its_jobs(
    start: Callable[..., Host], connect: Callable[[Host], Client], tmp_path: Path, number: signal.Signals
) -> None:
    host = start()
    pid = running_job(connect(host), tmp_path)
    host.process.send_signal(number)
    assert host.wait() == 0
    assert gone(pid)


def test_quit_ends_it_and_its_jobs_and_its_streams(
    start: Callable[..., Host], connect: Callable[[Host], Client], tmp_path: Path
) -> None:
    host = start()
    client, watcher = connect(host), connect(host)
    pid = running_job(client, tmp_path)
    watcher.send("watch", {"id": client.call("list")["ok"]["ensembles"][0]["id"]})
    assert watcher.read() is not None
    client.call("quit")
    assert host.wait() == 0
    assert gone(pid)
    answers = []
    while True:
        answer = watcher.read()
        if answer is None:
            break
        answers.append(answer)
    assert "errno" in answers[-1]


def test_it_dies_with_its_command(
    start: Callable[..., Host], connect: Callable[[Host], Client], tmp_path: Path
) -> None:
    host = start(hosted=True)
    client = connect(host)
    assert client.call("stats")["ok"]["supervisor_pid"] == os.getpid()
    pid = running_job(client, tmp_path)
    assert not gone(pid)
    host.close_pipe()
    assert host.wait() == 0
    assert gone(pid)


def test_it_lives_on_when_its_command_detaches(
    start: Callable[..., Host], connect: Callable[[Host], Client], tmp_path: Path
) -> None:
    host = start(hosted=True)
    client = connect(host)
    pid = running_job(client, tmp_path)
    assert host.pipe is not None
    os.write(host.pipe, b"deta")
    os.write(host.pipe, b"ch\n")
    host.close_pipe()
    until(lambda: client.call("stats")["ok"]["supervisor_pid"] is None)
    assert not gone(pid)
    host.process.send_signal(signal.SIGHUP)
    assert "ok" in client.call("list")
    client.call("quit")
    assert host.wait() == 0
    assert gone(pid)


def test_kill_9_leaves_no_job(start: Callable[..., Host], connect: Callable[[Host], Client], tmp_path: Path) -> None:
    host = start()
    pid = running_job(connect(host), tmp_path)
    host.process.kill()
    until(lambda: gone(pid))
    assert host.process.wait(PATIENCE) == -signal.SIGKILL


def test_idle(start: Callable[..., Host], connect: Callable[[Host], Client]) -> None:
    """Not while an ensemble is active, and not while it is asked."""
    host = start("--idle", "1")
    client = connect(host)
    client.submit("sleep 2.5")
    time.sleep(2)
    assert host.process.poll() is None
    until_ = time.monotonic() + 2
    while time.monotonic() < until_:
        assert "ok" in client.call("list")
        time.sleep(0.05)
    assert host.wait() == 0


def test_no_descriptor_is_left_to_the_jobs(start: Callable[..., Host], connect: Callable[[Host], Client]) -> None:
    """The pipe of the command that hosts it must end with that command, not with a job."""
    host = start(hosted=True)
    client = connect(host)
    id = client.submit("ls /proc/self/fd")
    until(lambda: client.call("status", {"id": id})["ok"]["state"] == "complete")
    (job,) = client.call("jobs", {"id": id})["ok"]["jobs"]
    assert Path(job["where"]).read_text().split() == ["0", "1", "2", "3"]
    ready, _, _ = select.select([host.process.stderr], [], [], 0)
    assert ready, "it logged where it listens"
