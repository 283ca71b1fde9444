# SPDX-License-Identifier: MIT
"""What the local queue promises beyond the members' contract: cores, order, refusals, and that no process leaks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest

from ensemble.engine.actions import Cancel, Cause, Kill, Submit
from ensemble.engine.events import Acknowledged, Event, JobEvent, Key, Refused
from ensemble.errors import MemberError
from ensemble.members.base import Submitter
from ensemble.members.local import LocalMember
from ensemble.spec.models import JobSet, Spec

PATIENCE = 60.0
CAUSE = Cause(None, 0, "the test said so")


class Queue:
    """A local queue of so many cores with one ensemble `e1`, and what it delivered."""

    def __init__(self, rundir: Path, cores: int) -> None:
        self.member = LocalMember(rundir, cores=cores)
        self.events: List[Event] = []
        self.member.start(lambda ensemble, event: self.events.append(event))
        self._firing = 0

    def open(self, *sets: Dict[str, Any], **submitter: Any) -> None:
        spec = Spec(name="t", jobs=tuple(JobSet(**one) for one in sets), rules=())
        where = Submitter(**{"environment": dict(os.environ), "cwd": "/", **submitter})
        self.member.open("e1", spec, where, frozenset(("alloc", "release", "free")))

    def submit(self, group: str, **overrides: Any) -> Key:
        self._firing += 1
        key = Key("e1", "r", self._firing, 0, 0)
        self.member.perform("e1", Submit(key, group, 0, overrides))
        return key

    def run(self, seconds: float = 0.01) -> None:
        self.member.loop.run_until_complete(asyncio.sleep(seconds))

    def wait_for(self, predicate: Callable[[], Any]) -> None:
        end = time.monotonic() + PATIENCE
        while not predicate():
            assert time.monotonic() < end, f"waited in vain: {self.events[-20:]}"
            self.run()

    def id(self, key: Key) -> int:
        self.wait_for(lambda: any(isinstance(e, (Acknowledged, Refused)) and e.key == key for e in self.events))
        return next(e.id for e in self.events if isinstance(e, Acknowledged) and e.key == key)

    def event(self, id: int, name: str) -> Optional[JobEvent]:
        return next((e for e in self.events if isinstance(e, JobEvent) and e.id == id and e.name == name), None)

    def wait(self, id: int, name: str) -> JobEvent:
        self.wait_for(lambda: self.event(id, name))
        event = self.event(id, name)
        assert event is not None
        return event

    def all(self, name: str) -> List[int]:
        return [e.id for e in self.events if isinstance(e, JobEvent) and e.name == name]

    def output(self, id: int) -> str:
        return Path(self.member.where("e1", id)).read_text()


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Callable[..., Queue]]:
    made: List[Queue] = []

    def make(*sets: Dict[str, Any], cores: int = 2) -> Queue:
        made.append(Queue(tmp_path / f"run{len(made)}", cores))
        if sets:
            made[-1].open(*sets)
        return made[-1]

    yield make
    for one in made:
        one.member.stop()
        one.member.loop.close()


def gone(pid: int) -> bool:
    """Is the process dead? A zombie is."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def expect_gone(*pids: int) -> None:
    end = time.monotonic() + PATIENCE
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < end, f"still alive: {[pid for pid in pids if not gone(pid)]}"
        time.sleep(0.02)


def read_pids(path: Path, count: int, run: Callable[[], None]) -> List[int]:
    """The process ids that a job has written, one a line."""
    end = time.monotonic() + PATIENCE
    while not path.exists() or len(path.read_text().split()) < count:
        assert time.monotonic() < end, f"no {count} ids in {path}"
        run()
    return [int(word) for word in path.read_text().split()]


# cores and order


def test_no_more_cores_than_there_are(queue: Callable[..., Queue]) -> None:
    q = queue({"name": "one", "command": "true"}, {"name": "two", "command": "true", "tasks": 2, "cores": 2}, cores=4)
    for group in ("one", "two", "one", "one", "two", "one") * 3:
        q.submit(group)
    q.wait_for(lambda: len(q.all("clean")) == 18)
    used, most = 0, 0
    sizes = {}
    for event in q.events:
        if isinstance(event, JobEvent) and event.name == "submit" and event.key is not None:
            sizes[event.id] = 4 if event.key.firing % 6 in (2, 5) else 1
        elif isinstance(event, JobEvent) and event.name == "alloc":
            assert event.context == {"ranks": "0"}
            used += sizes[event.id]
        elif isinstance(event, JobEvent) and event.name == "free":
            used -= sizes[event.id]
        most = max(most, used)
    assert most == 4
    assert used == 0
    # Strictly in order of submission: a job that does not fit holds back those behind it.
    assert q.all("alloc") == sorted(q.all("submit"))


def test_exclusive_takes_the_machine(queue: Callable[..., Queue]) -> None:
    q = queue({"name": "whole", "command": "sleep 300", "exclusive": True}, {"name": "one", "command": "true"}, cores=8)
    first, second = q.id(q.submit("whole")), q.id(q.submit("one"))
    q.wait(first, "start")
    q.run(0.2)
    assert q.all("alloc") == [first]
    q.member.perform("e1", Cancel(first, CAUSE))
    q.wait(second, "clean")


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"nodes": 2}, ["2 nodes", "nodes: 1"]),
        ({"cores": 3}, ["3 cores", "2"]),
        ({"tasks": 2, "cores": 2}, ["4 cores"]),
        ({"gpus": 1}, ["gpus"]),
        ({"queue": "debug"}, ["'debug'", "queue"]),
    ],
)
def test_what_it_refuses(queue: Callable[..., Queue], job: Dict[str, Any], words: List[str]) -> None:
    q = queue({"name": "odd", "command": "true", **job})
    key = q.submit("odd")
    q.wait_for(lambda: q.events)
    q.run(0.1)
    (refused,) = q.events
    assert isinstance(refused, Refused)
    assert refused.key == key
    assert all(word in refused.reason for word in [*words, "'odd'"]), refused.reason


def test_what_it_ignores(queue: Callable[..., Queue]) -> None:
    """As Flux without accounting does; and what it is told for the Flux job shell."""
    q = queue(
        {"name": "g", "command": "true", "bank": "b", "nodes": 1, "shell": {"verbose": 1}, "attributes": {"x.y": 1}}
    )
    assert q.wait(q.id(q.submit("g")), "finish").context["status"] == 0


def test_thousands_of_pending_jobs_do_not_hold_up_the_loop(queue: Callable[..., Queue]) -> None:
    """Between two of the loop's turns little is delivered, and all of it comes."""
    q = queue({"name": "g", "command": "true", "urgency": 0}, cores=1)
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        q.member.loop.call_soon(turn)

    q.member.loop.call_soon(turn)
    per_turn: Dict[int, int] = {}

    def slow(ensemble: str, event: Event) -> None:
        per_turn[turns] = per_turn.get(turns, 0) + 1
        time.sleep(0.00005)

    q.member._deliver = slow
    for _ in range(10_000):
        q.submit("g")
    assert not per_turn
    q.wait_for(lambda: sum(per_turn.values()) == 20_000)
    assert max(per_turn.values()) < 1000


# processes


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


# files


def test_a_missing_directory_is_replaced_as_flux_does(queue: Callable[..., Queue]) -> None:
    q = queue({"name": "g", "command": "pwd", "workdir": "/no/such/place"})
    id = q.id(q.submit("g"))
    assert q.wait(id, "finish").context["status"] == 0
    *_, told, place = q.output(id).splitlines()
    assert place == "/tmp"
    assert "/no/such/place" in told


def test_missing_input(queue: Callable[..., Queue]) -> None:
    q = queue({"name": "g", "command": "cat", "input": "/no/such/file"})
    id = q.id(q.submit("g"))
    assert "/no/such/file" in q.wait(id, "exception").context["note"]
    assert q.wait(id, "finish").context["status"] == 1 << 8


def test_a_pipe_as_output_does_not_stop_the_queue(queue: Callable[..., Queue], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    q = queue({"name": "g", "command": "true", "output": str(tmp_path / "fifo")}, {"name": "h", "command": "true"})
    bad, good = q.id(q.submit("g")), q.id(q.submit("h"))
    assert q.wait(good, "finish").context["status"] == 0
    assert q.wait(bad, "exception").context["type"] == "exec"


def test_a_file_for_each_task(queue: Callable[..., Queue], tmp_path: Path) -> None:
    q = queue(
        {
            "name": "g",
            "command": ["sh", "-c", "echo $FLUX_TASK_RANK"],
            "tasks": 2,
            "output": str(tmp_path / "{{name}}.{{size}}.{{taskid}}.{{what}}"),
        }
    )
    id = q.id(q.submit("g"))
    q.wait(id, "clean")
    assert {path.name: path.read_text() for path in tmp_path.glob("g.*")} == {
        "g.2.0.{{what}}": "0\n",
        "g.2.1.{{what}}": "1\n",
    }


def test_a_script_without_an_interpreter_line(queue: Callable[..., Queue], tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("exit 7\n")
    program.chmod(0o755)
    q = queue({"name": "g", "command": str(program)})
    assert q.wait(q.id(q.submit("g")), "finish").context["status"] == 7 << 8


def test_strange_words_reach_the_job(queue: Callable[..., Queue]) -> None:
    job = {"name": "g", "command": ["printf", "%s|", "a b", "", "ü\n", "$HOME"]}
    q = queue(job)
    good = q.id(q.submit("g"))
    q.wait(good, "clean")
    assert q.output(good) == "a b||ü\n|$HOME|"
    # what the kernel cannot take fails the job, with a reason
    q.open(job, environment={"A=B": "x"})
    bad = q.id(q.submit("g"))
    assert q.wait(bad, "exception").context["type"] == "exec"
    q.wait(bad, "clean")


def test_where_the_output_lies(queue: Callable[..., Queue], tmp_path: Path) -> None:
    q = queue()
    q.open(
        {"name": "a", "command": "true"},
        {"name": "b", "command": "true", "output": "x-{{id}}-{{taskid}}"},
        cwd=str(tmp_path),
    )
    a, b = q.id(q.submit("a")), q.id(q.submit("b"))
    q.wait(a, "clean")
    q.wait(b, "clean")
    assert q.member.where("e1", a) == f"{q.member.rundir}/e1/a-{a}.out"
    assert q.member.where("e1", b) == f"{tmp_path}/x-{b}-*"
    assert q.member.where("e1", 4711) == ""
    assert q.member.where("nobody", a) == ""


# what cannot be


def test_a_place_for_output_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    member = LocalMember(tmp_path / "file" / "run")
    with contextlib.closing(member.loop), pytest.raises(MemberError, match="name another"):
        member.start(lambda *_: None)


def test_a_script_that_is_too_long(queue: Callable[..., Queue]) -> None:
    q = queue()
    with pytest.raises(MemberError, match=r"script of 'g' has 200001 bytes.*put it into a file"):
        q.open({"name": "g", "script": "#" * 200_000 + "\n"})
    with pytest.raises(MemberError, match="not open"):
        q.submit("g")


def test_finished_jobs_leave_memory(queue: Callable[..., Queue]) -> None:
    q = queue({"name": "g", "command": "true"})
    for _ in range(20):
        q.submit("g")
    q.wait_for(lambda: len(q.all("clean")) == 20)
    launcher = q.member._launcher
    assert launcher is not None
    assert (len(q.member._jobs), len(q.member._queue), len(q.member._outbox), len(launcher._groups)) == (0, 0, 0, 0)
