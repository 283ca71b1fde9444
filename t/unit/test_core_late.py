# SPDX-License-Identifier: MIT
"""A store that is behind, and a service that comes back behind others: ends, and what is told of a shutdown."""

from __future__ import annotations

from typing import Any, Dict, List

import pytest

from ensemble.engine.engine import Engine
from ensemble.engine.events import Counted, Frozen, JobEvent, Recovered, Resources, to_json
from ensemble.engine.snapshot import snapshot
from ensemble.service.store import Commit, Done, MemoryStore, Snapshot
from t.unit.fake_member import T0, THREE, House


def test_a_stream_ends_behind_the_last_line_and_not_before_it_is_stored() -> None:
    store = Behind()
    house = House(store)
    id = house.submit(THREE)
    reply = house.watch(id)
    for number in range(3):
        store.late = number == 2
        house.member.run(id, house.member.submit(id, number))
        # those who watch are sent lines in between
        house.member.advance(1)
    assert not reply.ended, "its last lines are not stored"
    assert not house.watch(id, caller="another").ended
    store.catch_up()
    assert reply.ended
    assert reply.records[-1]["state"] == "complete"
    assert [r["seq"] for r in reply.records] == list(range(1, len(reply.records) + 1))


@pytest.mark.parametrize("rows", [10_000, 1], ids=["one page", "more than are read at once"])
def test_a_job_has_a_row_also_while_the_store_is_behind(monkeypatch: Any, rows: int) -> None:
    monkeypatch.setattr("ensemble.service.endpoints._ROWS", rows)
    store = Behind()
    house = House(store)
    id = house.submit(THREE)
    jobs = [house.member.submit(id, number) for number in range(3)]
    house.member.run(id, jobs[0])
    house.member.advance(1)
    store.late = True
    house.member.run(id, jobs[1])
    for _ in range(2):
        pages = [house.ask("jobs", {"id": id, "start": start, "max": 1}).answer for start in range(4)]
        assert [page["total"] for page in pages] == [3] * 4
        found = [row["id"] for page in pages for row in page["jobs"]]
        assert found == [house.member.show(job) for job in jobs]
        store.catch_up()


def test_a_stream_of_a_quarantined_one_ends_with_the_reason(monkeypatch: Any) -> None:
    store = Behind()
    house = House(store)
    id = house.submit(THREE)
    job = house.member.submit(id)
    reply = house.watch(id)
    store.late = True
    monkeypatch.setattr(Engine, "handle", lambda engine, event: 1 // 0)
    house.member.run(id, job)
    assert not reply.ended
    assert house.member.cancels(id) == [], "nothing is done before it is stored"
    store.catch_up()
    assert reply.ended
    assert reply.records[-1]["state"] == "failed"
    assert house.member.cancels(id) == [job]


def test_no_snapshot_is_taken_of_what_has_ended(monkeypatch: Any) -> None:
    """The store may have let go of it, and would try for ever."""
    monkeypatch.setattr("ensemble.service.running._SNAPSHOT", 1)
    store = Behind()
    house = House(store)
    id = house.submit(THREE)
    for number in range(3):
        house.member.run(id, house.member.submit(id, number))
    assert house.status(id)["state"] == "complete"
    assert store.snapshots
    assert all(one.state["final"] is None for one in store.snapshots)


class Behind(MemoryStore):
    """Writes late when told to: what is not done cannot be read either."""

    def __init__(self) -> None:
        super().__init__()
        self.late = False
        self.waiting: List[Any] = []
        self.snapshots: List[Snapshot] = []

    def commit(self, id: str, commit: Commit, done: Done) -> None:
        if self.late:
            self.waiting.append((id, commit, done))
        else:
            super().commit(id, commit, done)

    def snapshot(self, id: str, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    def catch_up(self) -> None:
        while self.waiting:
            super().commit(*self.waiting.pop(0))


def test_what_a_shutdown_cancelled_before_the_service_was_back_is_no_will_of_the_user() -> None:
    """It died in the shutdown, and the next one is told of the shutdown only once it is there."""
    store = Logging()
    house = House(store)
    id = house.submit(THREE)
    job = house.member.submit(id)
    house.member.tell(id, JobEvent(T0 + 1, job, "start"))
    again = House(store)
    again.member.advance(60)
    again.service.freeze("the instance is shutting down")
    assert store.events[id][-1][1] == to_json(Frozen(T0 + 1)), "since it was last heard of, and not since now"
    third = House(store)
    third.member.advance(60)
    third.member.tell(id, Recovered(T0 + 50))
    third.service.freeze("the instance is shutting down")
    assert store.events[id][-1][1] == to_json(Frozen(T0 + 60)), "the past had been told"


class Logging(MemoryStore):
    """Keeps the events, so that a next service takes up from here."""

    def __init__(self) -> None:
        super().__init__()
        self.events: Dict[str, List[Any]] = {}

    def commit(self, id: str, commit: Commit, done: Done) -> None:
        self.events.setdefault(id, []).append((commit.number, commit.event))
        self._stored[id].events = list(self.events[id])
        super().commit(id, commit, done)


@pytest.mark.parametrize(
    "what", ["newer event", "damaged event", "newer snapshot", "damaged snapshot", "another's snapshot"]
)
def test_a_record_that_cannot_be_read_quarantines_its_ensemble_alone(what: str) -> None:
    store = Logging()
    house = House(store)
    bad, good = house.submit(THREE), house.submit(THREE)
    state = snapshot(house.service._running[bad].engine)
    stored = store._stored[bad]
    if "event" in what:
        record = [99, "Begin", T0] if what == "newer event" else [1, "Begin", "long ago"]
        stored.events[-1] = stored.events[-1][0], record
    else:
        other = {"newer": {"format": 99}, "damaged": {"jobs": 5}, "another's": {"id": "bcdfgh"}}[what.split()[0]]
        stored.snapshot, stored.events = Snapshot(2, 5, {**state, **other}), []
    again = House(store)
    status = again.status(bad)
    assert status["state"] == "failed"
    assert status["reason"].startswith("quarantined: it cannot be brought back")
    assert {"newer": "a newer release", "damaged": "this is no", "another's": "ensemble bcdfgh"}[
        what.split()[0]
    ] in status["reason"]
    assert again.member.closed == [bad]
    assert set(again.member.recovered) == {good}
    assert again.status(good)["state"] == "running"


NODES = """
jobs: [{name: a, command: x}]
rules:
  - {trigger: start, action: {name: submit, label: a}}
  - {trigger: resource-up, repetitions: 9, action: {name: log, value: "{event.ranks}: {nodes.up}"}}
"""


def test_what_is_told_late_waits_for_the_numbers_of_now() -> None:
    """What happened while there was no service has a time that is long past; its numbers are asked for now."""
    house = House()
    id = house.submit(NODES)
    house.member.submit(id)
    house.member.tell(id, Counted(house.member.t, {"nodes": {"up": 1}}))
    house.member.advance(100)
    house.member.tell(id, Resources(T0 + 3, "up", "1"))
    house.member.advance(5)

    def said() -> List[str]:
        return [r["text"] for r in house.ask("log", {"id": id}).answer["records"] if r["type"] == "log"]

    assert said() == []
    house.member.tell(id, Counted(house.member.t, {"nodes": {"up": 2}}))
    assert said() == ["1: 2"]
    house.member.tell(id, Resources(T0 + 4, "up", "2"))
    house.member.advance(11)
    assert said()[1:] == ["the queue has not told its numbers for 10 s: rules go on with those told before", "2: 2"]
