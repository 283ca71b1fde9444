# SPDX-License-Identifier: MIT
"""When the KVS takes no changes: what waits is bounded, the journal is not read meanwhile, and nothing is lost by it."""

# Without Flux nothing of this can be imported: the skip has to come first.
# ruff: noqa: E402

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import pytest

pytestmark = [pytest.mark.flux, pytest.mark.timeout(300)]
try:
    import flux
except ImportError as exc:
    pytest.skip(f"Flux tests: the bindings do not load ({exc})", allow_module_level=True)

from _flux._core import lib

from ensemble.engine.events import InDoubt, Printed, Signal
from ensemble.members.flux import FluxMember
from ensemble.service import kvs_writer
from ensemble.service.core import Service
from ensemble.service.kvs_store import KvsStore
from ensemble.service.protocol import Host
from t.contract.flux_driver import LIFE, MOCK, FluxDriver, ended
from t.flux_instance import FluxInstance
from t.unit.fake_member import FakeReply

JOBS = 300
BAG = f"""
jobs:
  - {{name: work, command: "true", count: {JOBS}, attributes: {{system.exec.test.run_duration: 0.001s}}}}
  - {{name: last, command: "true", attributes: {{system.exec.test.run_duration: 0.001s}}}}
rules:
  - {{trigger: start, action: {{name: submit, label: work}}}}
  - {{trigger: metric, name: count.work.success, when: {JOBS}, action: {{name: submit, label: last}}}}
"""


class InProcess:
    """The real service over the real member and store, on a reactor that the test turns."""

    def __init__(self, uri: str) -> None:
        self.handle = flux.Flux(uri)
        self.logged: List[Tuple[int, str]] = []
        self.store = KvsStore(self.handle, self.log)
        self.member = FluxMember(self.handle, uri)
        self.service = Service(self.member, self.store, Host("process"), log=self.log, on_quit=lambda: None)
        self.service.start()

    def log(self, level: int, text: str) -> None:
        self.logged.append((level, text))

    def ask(self, endpoint: str, payload: Any) -> FakeReply:
        reply = FakeReply()
        self.service.handle(endpoint, payload, reply)
        return reply

    def turn(self, until: Callable[[], Any], patience: float = 120.0) -> None:
        end = time.monotonic() + patience
        with self.handle.timer_watcher_create(0.0, lambda *_: None, repeat=0.01):
            while not until():
                assert time.monotonic() < end, f"in vain; {self.logged[-5:]}"
                self.handle.reactor_run(flags=lib.FLUX_REACTOR_ONCE)

    def status(self, id: str) -> Dict[str, Any]:
        return self.ask("status", {"id": id}).answer


def test_what_waits_for_the_kvs_is_bounded_and_nothing_is_lost(flux_instance: FluxInstance, monkeypatch: Any) -> None:
    monkeypatch.setattr(kvs_writer, "FULL", 40_000)
    monkeypatch.setattr(kvs_writer, "EASY", 10_000)
    monkeypatch.setattr(kvs_writer, "_RETRY", (0.05, 0.2))
    house = InProcess(flux_instance.uri)
    reply = house.ask(
        "submit",
        {"text": BAG, "file": "bag.yaml", "submitter": {"environment": dict(os.environ), "cwd": "/", "umask": 0o22}},
    )
    house.turn(lambda: reply.sent)
    id = reply.answer["id"]
    house.turn(lambda: house.status(id)["jobs"]["finished"] >= 20)
    plain, refused, largest = house.store._writer._transact, [True], 0

    def refusing(puts: Any, sync: bool) -> Any:
        nonlocal largest
        largest = max(largest, house.store._writer._size)
        if refused[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(puts, sync)

    monkeypatch.setattr(house.store._writer, "_transact", refusing)
    house.turn(lambda: house.store._writer._full)
    assert house.ask("cancel", {"id": id}).refusal[0] == errno.EAGAIN
    assert house.ask("list", {}).answer["ensembles"], "who only asks is answered"
    journal = house.member._journal
    assert not journal._streams
    # all that was submitted ends meanwhile; nothing of it is taken in
    flux_instance.run("flux", "queue", "idle")
    house.turn(lambda: any("refuses changes" in text for _, text in house.logged))
    size, waiting = house.store._writer._size, len(house.member._outbox)
    end = time.monotonic() + 1.0
    house.turn(lambda: time.monotonic() > end)
    assert house.store._writer._size == size, "it stands still"
    assert size < 2 * kvs_writer.FULL
    assert len(house.member._outbox) <= waiting + JOBS
    refused[0] = False
    house.turn(lambda: house.status(id)["t_end"] is not None)
    status = house.status(id)
    assert status["state"] == "complete"
    assert status["groups"]["work"]["success"] == JOBS
    assert status["groups"]["last"]["success"] == 1
    assert largest < 2 * kvs_writer.FULL
    told = [text for _, text in house.logged if text.startswith("the store")]
    assert "events are held" in told[0]
    assert "caught up" in told[-1]
    # an engine is ahead of its store
    house.turn(lambda: house.store.row_count(id) > JOBS)
    rows = house.ask("jobs", {"id": id, "max": 1000}).answer["jobs"]
    assert len({row["id"] for row in rows}) == len(rows) == JOBS + 1
    house.service.stop()
    flux_instance.run("flux", "job", "purge", "--force", "--num-limit=0")


def test_a_held_member_tells_all_of_it_later_and_once(driver: FluxDriver) -> None:
    driver.open("e1", MOCK, events=["alloc"])
    keys = [driver.submit("e1", "mock") for _ in range(60)]
    for _ in range(3):
        driver.wait_for(lambda: ended(driver) >= 5)
        driver.member.hold(True)
        driver.member.hold(True)
        before = len(driver.delivered)
        keys += [driver.submit("e1", "mock") for _ in range(20)]
        driver.run_for(0.5)
        assert len(driver.delivered) <= before
        driver.member.hold(False)
    driver.wait_for(lambda: ended(driver) >= len(keys))
    driver.run_for(0.3)
    for key in keys:
        assert len(driver.answers(key)) == 1
        assert without_alloc(driver.names(driver.id(key))) == LIFE
    assert driver.of(InDoubt) == []


def test_neither_output_nor_the_bus_goes_round_a_held_member(driver: FluxDriver, tmp_path: Path) -> None:
    """Both come without being asked for, and as fast as they please."""
    go = tmp_path / "go"
    wait = f"until [ -e {go} ]; do sleep 0.05; done"
    talks = {"name": "talks", "command": ["sh", "-c", f"echo x=1; {wait}; seq -f x=%g 2 500"]}
    driver.open("talk", {**talks, "metrics": {"x": {"regex": r"x=(\S+)"}}})
    driver.member.hear("talk", frozenset(("storm.*",)))
    id = driver.submit_id("talk", "talks")
    driver.wait_for(lambda: values(driver) == [1])
    driver.instance.run("flux", "event", "pub", "storm.first")
    driver.wait_for(lambda: [event.name for event in driver.of(Signal)] == ["storm.first"])
    driver.member.hold(True)
    before = len(driver.delivered)
    go.touch()
    driver.instance.run("flux", "event", "pub", "storm.second")
    driver.instance.run("flux", "job", "wait-event", str(id), "clean")
    driver.run_for(1.0)
    assert len(driver.delivered) == before
    assert not driver.member._outbox
    driver.member.hold(False)
    driver.wait_event(id, "clean")
    assert values(driver) == list(range(1, 501))
    printed = [n for n, (_, event) in enumerate(driver.delivered) if isinstance(event, Printed)]
    assert driver.delivered.index(("talk", driver.event(id, "finish"))) > printed[-1], "what it printed comes before"
    driver.instance.run("flux", "event", "pub", "storm.third")
    driver.wait_for(lambda: [event.name for event in driver.of(Signal)] == ["storm.first", "storm.third"])


def values(driver: FluxDriver) -> List[Any]:
    return [found["x"] for event in driver.of(Printed) for _, found in event.lines]


def without_alloc(names: List[str]) -> List[str]:
    assert names.count("alloc") == 1
    return [name for name in names if name != "alloc"]


def test_a_job_that_was_purged_while_it_was_held_is_in_doubt(driver: FluxDriver) -> None:
    driver.open("e1", MOCK)
    slow = {"name": "slow", "command": "true", "attributes": {"exec.test.run_duration": "2s"}}
    driver.open("e2", slow)
    stays = driver.submit_id("e1", "mock", urgency=0)
    key = driver.submit("e2", "slow")
    driver.wait_for(lambda: driver.answers(key))
    id = driver.id(key)
    driver.wait_event(id, "start")
    driver.member.hold(True)
    driver.instance.run("flux", "job", "wait-event", str(id), "clean")
    driver.instance.run("flux", "job", "purge", "--force", "--num-limit=0")
    driver.member.hold(False)
    driver.wait_for(lambda: driver.of(InDoubt))
    ((doubt),) = driver.of(InDoubt)
    assert doubt.key == key
    assert "not known to Flux any more" in doubt.reason
    driver.run_for(0.3)
    assert driver.names(stays) == ["submit"]
    assert [event.name for event in driver.of_job(id)] == ["submit", "start"]
