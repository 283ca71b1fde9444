# SPDX-License-Identifier: MIT
"""No process of the local queue outlives what it belongs to: its job, the queue, the process that hosts the queue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Iterator, List

import pytest
from queues import CAUSE, Queue, expect_gone, gone, read_pids

from ensemble.engine.actions import Cancel, Kill


def test_nothing_that_a_job_leaves_behind_outlives_it(queue: Callable[..., Queue], tmp_path: Path) -> None:
    pids, bye = tmp_path / "pids", tmp_path / "bye"
    left = f"trap 'echo bye > {bye}; kill $!; exit' TERM; sleep 300 & echo $$ $! > {pids}; wait"
    q = queue(
        {
            "name": "g",
            "script": f'sh -c "$LEFT" &\nwhile [ ! -s {pids} ]; do sleep 0.05; done\nexit 3\n',
            "environment": {"LEFT": left},
        }
    )
    id = q.id(q.submit("g"))
    assert q.wait(id, "finish").context["status"] == 3 << 8
    expect_gone(*read_pids(pids, 2, q.run))
    assert bye.read_text() == "bye\n", "it got no SIGTERM"


def test_what_ignores_sigterm_is_killed(queue: Callable[..., Queue], tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    stubborn = f"import os, signal, time; signal.signal(15, signal.SIG_IGN); open({str(pids)!r}, 'w').write(str(os.getpid())); time.sleep(300)"
    q = queue(
        {"name": "g", "script": f'{sys.executable} -c "{stubborn}" &\nwhile [ ! -s {pids} ]; do sleep 0.05; done\n'}
    )
    id = q.id(q.submit("g"))
    q.wait(id, "clean")
    expect_gone(*read_pids(pids, 1, q.run))


def test_a_cancelled_script_gives_its_program_time(queue: Callable[..., Queue], tmp_path: Path) -> None:
    """The shell dies of SIGTERM at once; what it runs may still write its checkpoint."""
    saved, up = tmp_path / "saved", tmp_path / "up"
    code = (
        "import signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(1)\n"
        f"    open({str(saved)!r}, 'w').write('yes')\n"
        "    sys.exit(0)\n"
        "signal.signal(15, save)\n"
        f"open({str(up)!r}, 'w').write('yes')\n"
        "time.sleep(300)\n"
    )
    (tmp_path / "program.py").write_text(code)
    q = queue({"name": "g", "script": f"{sys.executable} {tmp_path / 'program.py'}\necho not reached\n"})
    id = q.id(q.submit("g"))
    q.wait_for(up.exists)
    q.member.perform("e1", Cancel(id, CAUSE))
    q.wait(id, "finish")
    assert saved.read_text() == "yes"
    assert q.event(id, "finish").context["status"] == (128 + signal.SIGTERM) << 8  # type: ignore[union-attr]


def test_the_time_limit_ends_what_ignores_its_signal(queue: Callable[..., Queue]) -> None:
    q = queue({"name": "g", "script": "trap '' ALRM TERM\nwhile :; do sleep 1; done\n", "duration": 0.5})
    id = q.id(q.submit("g"))
    assert q.wait(id, "exception").context["type"] == "timeout"
    assert q.wait(id, "finish").context["status"] == (128 + signal.SIGKILL) << 8


def test_stop_leaves_no_process(queue: Callable[..., Queue], tmp_path: Path) -> None:
    """Nor one that left its session, nor the launcher."""
    pids = tmp_path / "pids"
    script = f"trap '' TERM\nsetsid sh -c 'trap \"\" TERM; echo $$ >> {pids}; sleep 300' &\necho $$ >> {pids}\nwait\nsleep 300\n"
    q = queue({"name": "g", "script": script})
    q.submit("g")
    q.submit("g")
    found = read_pids(pids, 4, q.run)
    launcher = q.member._launcher
    assert launcher is not None
    q.member.stop()
    assert all(gone(pid) for pid in [*found, launcher.pid])


HOST = """
import asyncio, os, sys
from pathlib import Path
from ensemble.engine.actions import Submit
from ensemble.engine.events import Key
from ensemble.members.base import Submitter
from ensemble.members.local import LocalMember
from ensemble.spec.models import JobSet, Spec
member = LocalMember(Path(sys.argv[1]), cores=2)
member.start(lambda *_: None)
spec = Spec(name="t", jobs=(JobSet(name="g", script=sys.argv[2]),), rules=())
member.open("e1", spec, Submitter(dict(os.environ), "/"), frozenset())
member.perform("e1", Submit(Key("e1", "r", 1, 0, 0), "g", 0))
print(member._launcher.pid, flush=True)
member.loop.run_forever()
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """A process of its own with a queue that runs one script."""
    made: List[subprocess.Popen[str]] = []

    def make(script: str) -> subprocess.Popen[str]:
        made.append(
            subprocess.Popen(
                [sys.executable, "-c", HOST, str(tmp_path / "run"), script], stdout=subprocess.PIPE, text=True
            )
        )
        return made[-1]

    yield make
    for process in made:
        process.kill()
        process.communicate()


def test_kill_9_of_the_host_kills_its_jobs(host: Callable[[str], subprocess.Popen[str]], tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    process = host(f"trap '' TERM HUP\nsetsid sleep 300 &\necho $$ $! > {pids}\nsleep 300\n")
    assert process.stdout is not None
    launcher = int(process.stdout.readline())
    found = read_pids(pids, 2, lambda: time.sleep(0.02))
    os.kill(process.pid, signal.SIGKILL)
    expect_gone(launcher, *found)


def test_kill_9_of_the_launcher_kills_its_tasks_without_help(
    host: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    process = host(f"echo $$ > {pids}\nexec sleep 300\n")
    assert process.stdout is not None
    launcher = int(process.stdout.readline())
    (task,) = read_pids(pids, 1, lambda: time.sleep(0.02))
    os.kill(process.pid, signal.SIGSTOP)
    os.kill(launcher, signal.SIGKILL)
    expect_gone(task)


def test_the_death_of_the_launcher(queue: Callable[..., Queue], tmp_path: Path) -> None:
    """Its jobs end with an exception, none of their processes live on, and the next job runs."""
    pids = tmp_path / "pids"
    q = queue(
        {"name": "long", "script": f"sleep 300 &\necho $$ $! > {pids}\nwait\n"}, {"name": "quick", "command": "true"}
    )
    long = q.id(q.submit("long", tasks=1))
    waiting = q.id(q.submit("quick"))
    q.wait(waiting, "clean")
    found = read_pids(pids, 2, q.run)
    launcher = q.member._launcher
    assert launcher is not None
    os.kill(launcher.pid, signal.SIGKILL)
    q.wait(long, "clean")
    exception = q.wait(long, "exception").context
    assert (exception["type"], exception["severity"]) == ("exec", 0)
    expect_gone(*found)
    after = q.id(q.submit("quick"))
    assert q.wait(after, "finish").context["status"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_signals_ignored_by_the_queue_reach_its_jobs(queue: Callable[..., Queue], number: signal.Signals) -> None:
    """A shell starts what it puts into the background with these ignored."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        q = queue({"name": "g", "command": "sleep 300"})
    finally:
        signal.signal(number, before)
    id = q.id(q.submit("g"))
    q.wait(id, "start")
    q.member.perform("e1", Kill(id, number, CAUSE))
    assert q.wait(id, "finish").context["status"] == (128 + number) << 8


def test_jobs_hold_no_descriptor_of_ours(queue: Callable[..., Queue]) -> None:
    q = queue({"name": "g", "command": ["sh", "-c", "ls /proc/self/fd"]})
    id = q.id(q.submit("g"))
    q.wait(id, "clean")
    # 3 is the directory that ls reads
    assert q.output(id).split() == ["0", "1", "2", "3"]
