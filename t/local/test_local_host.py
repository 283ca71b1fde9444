# SPDX-License-Identifier: MIT
"""The local service as a process: where it listens, and when it ends, leaving nothing."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
from hosts import PATIENCE, Client, Host, running_job, until
from queues import gone


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
