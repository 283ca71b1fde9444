# SPDX-License-Identifier: MIT
"""What the local queue promises beyond the members' contract: cores, order, refusals, files."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
from queues import CAUSE, Queue

from ensemble.engine.actions import Cancel
from ensemble.engine.events import Event, JobEvent, Refused
from ensemble.errors import MemberError
from ensemble.members.local import LocalMember


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
