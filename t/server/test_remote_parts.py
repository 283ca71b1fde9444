# SPDX-License-Identifier: MIT
"""The two ends of a remote member's line, each alone: what is sent again, what is dropped, and what is never done twice."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest

from ensemble.engine.actions import Cancel, Cause, Submit
from ensemble.engine.events import Acknowledged, JobEvent, Key, Recovered
from ensemble.members.base import Submitter
from ensemble.members.remote import Link, Refusal, RemoteMember
from ensemble.server import remote
from ensemble.server.wire import message
from ensemble.spec.models import JobSet, Spec

CAUSE = Cause("r", 1, "the test said so")
KEYS = [Key("e", "r", 1, index, 0) for index in range(3)]


# ---- the server's end


class FakeLink(Link):
    def __init__(self) -> None:
        self.actions: List[Tuple[str, str]] = []
        self.acknowledged: List[int] = []
        self.closed = ""

    def welcome(self) -> None:
        assert not self.actions, "the first word of all"

    def action(self, id: str, ensemble: str, what: str, data: Dict[str, Any]) -> None:
        self.actions.append((id, what))

    def acknowledge(self, seq: int) -> None:
        self.acknowledged.append(seq)

    def close(self, why: str) -> None:
        self.closed = why


class ServerEnd:
    def __init__(self, folder: Path, epoch: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.delivered: List[Any] = []
        self.kept = True
        self.member = RemoteMember("far", folder, self.loop, lambda level, text: None, epoch, lambda e: self.kept)
        self.member.open("e", Spec(name="e", jobs=(JobSet(name="a", command="x"),), rules=()), Submitter(), frozenset())

    def start(self) -> None:
        self.member.start(lambda ensemble, event: self.delivered.append(event))

    def attach(self) -> FakeLink:
        link = FakeLink()
        self.member.attach(link, "far", "journal")
        return link

    def take(self, link: FakeLink, seq: int, what: str, answers: str = "", **data: Any) -> Optional[str]:
        answer: List[Optional[str]] = []
        self.member.take(link, seq, 1.0, "e", answers, what, data, answer.append)
        return answer[0] if answer else "held"

    def run(self, seconds: float = 0.0) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Any]:
    made: List[ServerEnd] = []

    def make(epoch: str = "one") -> ServerEnd:
        made.append(ServerEnd(tmp_path, epoch))
        return made[-1]

    yield make
    for one in made:
        one.member.stop()
        one.loop.close()


def test_actions_are_sent_to_each_line_until_they_are_answered(ends: Any) -> None:
    end = ends()
    end.start()
    for key in KEYS[:2]:
        end.member.perform("e", Submit(key, "a", 0))
    end.member.perform("e", Cancel(7, CAUSE))
    first = end.attach()
    assert first.actions == [("one.1", "submit"), ("one.2", "submit"), ("one.3", "cancel")]
    assert end.take(first, 1, "acknowledged", "one.1", key=str(KEYS[0]), id=1) is None
    second = end.attach()
    assert first.closed
    assert second.actions == [("one.2", "submit"), ("one.3", "cancel")]
    # of the line that is no more nothing is taken
    end.take(first, 2, "done", "one.3", id=7, action="cancel")
    assert end.delivered == [Acknowledged(1.0, KEYS[0], 1)]


def test_an_event_is_taken_once(ends: Any) -> None:
    end = ends()
    end.start()
    link = end.attach()
    start = {"id": 1, "name": "start", "context": {}}
    for _ in range(2):
        assert end.take(link, 1, "job", **start) is None
    assert end.delivered == [JobEvent(1.0, 1, "start")]
    assert link.acknowledged == [1, 1]
    assert "without a gap" in str(end.take(link, 3, "job", **start))
    assert len(end.delivered) == 1


def test_an_outcome_that_was_kept_before_a_restart_is_dropped_after_it(ends: Any) -> None:
    end = ends("two")
    end.member.recover("e", {1: KEYS[0]}, [Submit(KEYS[1], "a", 0)], 0.0)
    end.start()
    link = end.attach()
    assert link.actions == [("two.1", "recover")]
    # the first was kept, and its acknowledgement got lost
    end.take(link, 5, "acknowledged", "one.1", key=str(KEYS[0]), id=1)
    end.take(link, 6, "acknowledged", "one.2", key=str(KEYS[1]), id=2)
    end.take(link, 7, "acknowledged", "", key=str(KEYS[1]), id=2)
    end.take(link, 8, "recovered", "two.1")
    assert end.delivered == [Acknowledged(1.0, KEYS[1], 2), Recovered(1.0)]
    assert link.acknowledged == [5, 6, 7, 8]
    assert end.attach().actions == []


def test_an_outcome_is_told_behind_the_job_that_it_is_of(ends: Any) -> None:
    end = ends()
    end.start()
    link = end.attach()
    end.member.perform("e", Submit(KEYS[0], "a", 0))
    end.take(link, 1, "job", id=1, name="submit", context={}, key=str(KEYS[0]))
    end.take(link, 2, "acknowledged", "one.1", key=str(KEYS[0]), id=1)
    end.take(link, 3, "acknowledged", key=str(KEYS[0]), id=1)
    assert [type(event).__name__ for event in end.delivered] == ["JobEvent", "Acknowledged"], "exactly one"


def test_nothing_is_acknowledged_before_it_is_kept(ends: Any) -> None:
    end = ends()
    end.start()
    link = end.attach()
    end.kept = False
    end.take(link, 1, "job", id=1, name="start", context={})
    end.run(0.1)
    assert link.acknowledged == []
    end.kept = True
    end.run(1.0)
    assert link.acknowledged == [1]


def test_what_the_service_cannot_take_waits(ends: Any) -> None:
    end = ends()
    end.start()
    link = end.attach()
    end.member.hold(True)
    assert end.take(link, 1, "job", id=1, name="start", context={}) == "held"
    end.member.hold(False)
    assert end.take(link, 2, "job", id=1, name="finish", context={"status": 0}) == "held"
    end.run(0.1)
    assert [event.name for event in end.delivered] == ["start", "finish"]


def test_whom_it_does_not_know_it_does_not_take(ends: Any) -> None:
    end = ends()
    end.attach()
    for name, identity in (("near", "journal"), ("far", "another"), ("far", "")):
        with pytest.raises(Refusal):
            end.member.attach(FakeLink(), name, identity)
    # nor does another process of the same server
    with pytest.raises(Refusal, match="another journal"):
        ends("two").member.attach(FakeLink(), "far", "another")


def test_what_it_can_do_is_what_the_other_side_says(ends: Any) -> None:
    member = ends().member
    assert "urgency" in member.capabilities
    member.attach(FakeLink(), "far", "journal", ["cancel", "fly"])
    assert member.capabilities == {"submit", "cancel"}


def test_an_event_of_another_ensemble(ends: Any) -> None:
    end = ends()
    end.start()
    link = end.attach()
    assert "another's" in str(end.take(link, 1, "refused", key="x/r/1/0/0", reason="no"))
    assert "makes no sense" in str(end.take(link, 1, "refused", key="x", reason="no"))
    assert end.delivered == []


# ---- the member's end


class FakeQueue(remote.Queue):
    """Jobs are keys; `dies` is how the process ends in the middle of a submission."""

    capabilities = ("submit", "cancel", "kill")

    def __init__(self) -> None:
        self.jobs: List[str] = []
        self.done: List[Any] = []
        self.followed: List[int] = []
        self.dies = ""
        self.sure = True

    def start(self, tell: Any) -> None:
        return

    def submit(self, job: Any) -> int:
        if self.dies == "before":
            raise KeyboardInterrupt
        self.jobs.append(job.key)
        if self.dies == "after":
            raise KeyboardInterrupt
        return len(self.jobs)

    def find(self, key: str) -> Optional[int]:
        if not self.sure:
            raise remote.Unsure("the queue's memory is gone")
        return self.jobs.index(key) + 1 if key in self.jobs else None

    def follow(self, id: int, key: str) -> bool:
        self.followed.append(id)
        return id <= len(self.jobs)

    def cancel(self, id: int) -> Optional[str]:
        self.done.append(("cancel", id))
        return None

    def kill(self, id: int, signal: int) -> Optional[str]:
        self.done.append(("kill", id, signal))
        return None


class FarEnd:
    """The worker of a member, a step at a time; `events` is what goes over its line."""

    def __init__(self, folder: Path, queue_: FakeQueue) -> None:
        self.member = remote.RemoteMember("nowhere:1", "far", queue_, folder, log=lambda text: None)
        self.member.begin()
        self.line: queue.Queue[Any] = queue.Queue()

    def attach(self) -> List[Tuple[int, str]]:
        self.line = queue.Queue()
        self.member.step("line", self.line)
        return self.events()

    def events(self) -> List[Tuple[int, str]]:
        found = []
        while not self.line.empty():
            event = self.line.get().event
            what = event.WhichOneof("what")
            found.append((event.seq, event.job.name if what == "job" else what))
        return found

    def action(self, id: str, **what: Any) -> None:
        self.member.step("action", message("MemberAction")(id=id, ensemble="e", **what))

    def tell(self, id: int, name: str) -> None:
        self.member.step("news", (id, name, {}, 1.0))

    def left(self) -> int:
        """Rows of the journal beside its identity and number."""
        db = self.member._db
        tables = ("actions", "jobs", "seen", "events")
        return sum(db.execute(f"select count(*) from {name}").fetchone()[0] for name in tables)

    def die(self) -> None:
        self.member._db.close()


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Any]:
    made: List[FarEnd] = []

    def make(queue_: FakeQueue) -> FarEnd:
        if made:
            made[-1].die()
        made.append(FarEnd(tmp_path / "far", queue_))
        return made[-1]

    yield make
    made[-1].die()


JOB = {"key": str(KEYS[0]), "argv": ["x"]}


def test_an_action_that_comes_again_is_not_done_again(far: Any) -> None:
    q = FakeQueue()
    end = far(q)
    assert end.attach() == []
    for _ in range(2):
        end.action("1", submit=JOB)
        end.action("2", cancel={"id": 1})
        end.action("3", kill={"id": 1, "signal": 9})
    end.action("4", submit=JOB)
    assert (len(q.jobs), q.done) == (1, [("cancel", 1), ("kill", 1, 9)])
    assert end.events() == [(1, "submit"), (2, "acknowledged"), (3, "done"), (4, "done")]
    # nor by the next process
    end = far(q)
    end.action("1", submit=JOB)
    end.action("3", kill={"id": 1, "signal": 9})
    assert (len(q.jobs), len(q.done)) == (1, 2)


def test_events_are_sent_until_they_are_acknowledged_and_then_forgotten(far: Any) -> None:
    q = FakeQueue()
    end = far(q)
    end.action("1", submit=JOB)
    for name in ("start", "start", "finish", "finish", "clean", "clean"):
        end.tell(1, name)
    whole = [(1, "submit"), (2, "acknowledged"), (3, "start"), (4, "finish"), (5, "clean")]
    assert end.attach() == whole
    end.member.step("acknowledged", 2)
    assert end.attach() == whole[2:]
    end = far(q)
    assert end.attach() == whole[2:]
    end.member.step("acknowledged", 5)
    assert end.attach() == []
    # one acknowledgement covers what is before it, and numbers go on
    end.action("9", look=True)
    assert end.events() == [(6, "counted")]
    end.member.step("acknowledged", 6)
    assert end.left() == 0


@pytest.mark.parametrize(
    ("dies", "sure", "jobs", "told"),
    [
        ("before", True, 1, [(1, "submit"), (2, "acknowledged")]),
        ("after", True, 1, [(1, "submit"), (2, "acknowledged")]),
        ("before", False, 0, [(1, "in_doubt")]),
        ("after", False, 1, [(1, "in_doubt")]),
    ],
)
def test_it_dies_while_the_queue_gets_a_job(far: Any, dies: str, sure: bool, jobs: int, told: Any) -> None:
    q = FakeQueue()
    end = far(q)
    q.dies = dies
    with pytest.raises(KeyboardInterrupt):
        end.action("1", submit=JOB)
    q.dies, q.sure = "", sure
    end = far(q)
    assert len(q.jobs) == jobs
    assert end.attach() == told
    # the server, which has no answer yet, asks again
    end.action("1", submit=JOB)
    assert (len(q.jobs), end.events()) == (jobs, [])


def test_a_server_that_was_restarted_asks_for_what_it_does_not_know(far: Any) -> None:
    q = FakeQueue()
    end = far(q)
    end.attach()
    end.action("one.1", submit=JOB)
    end.events()
    other = {"key": str(KEYS[1]), "argv": ["x"]}
    end.action("two.1", recover={"known": [{"id": 9, "key": str(KEYS[2])}], "doubtful": [JOB, other]})
    assert [what for _, what in end.events()] == [
        "lost",
        "acknowledged",
        "submit",
        "acknowledged",
        "acknowledged",
        "recovered",
    ]
    assert q.jobs == [str(KEYS[0]), str(KEYS[1])]


def test_a_job_that_the_queue_has_lost_meanwhile(far: Any) -> None:
    q = FakeQueue()
    end = far(q)
    end.action("1", submit=JOB)
    q.jobs.clear()
    assert far(q).attach() == [(1, "submit"), (2, "acknowledged"), (3, "lost")]


def test_a_refusal_and_a_queue_that_fails(far: Any) -> None:
    class Broken(FakeQueue):
        def submit(self, job: Any) -> int:
            raise remote.Refused("too large") if job.key == str(KEYS[0]) else OSError("no route")

    end = far(Broken())
    end.attach()
    end.action("1", submit=JOB)
    end.action("2", submit={"key": str(KEYS[1])})
    end.action("3", urgency={"id": 1, "value": 3})
    assert [what for _, what in end.events()] == ["refused", "in_doubt", "done"]


def test_a_journal_has_one_process(far: Any) -> None:
    end = far(FakeQueue())
    with pytest.raises(sqlite3.OperationalError):
        FarEnd(end.member._folder, FakeQueue())
