# SPDX-License-Identifier: MIT
"""What goes wrong: requests of any shape, engines that break, members and stores that fail, a frozen service."""

from __future__ import annotations

import errno
import syslog
from typing import Any, Dict, List

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemble.engine import timers
from ensemble.engine.engine import Engine
from ensemble.engine.events import Acknowledged, JobEvent
from ensemble.service.protocol import ENDPOINTS
from ensemble.service.store import Commit, Done, MemoryStore
from t.unit.fake_member import CHAIN, T0, THREE, FakeReply, House

jsonable = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
WORDS = ("id", "since", "max", "start", "group", "limits", "text", "file", "submitter", "environment", "cwd", "umask")
payloads = st.one_of(
    jsonable,
    st.dictionaries(
        st.sampled_from(WORDS), st.one_of(jsonable, st.sampled_from(("ID", "chain", THREE, 0, 5))), max_size=5
    ),
    st.fixed_dictionaries({"id": st.just("ID")}, optional=dict.fromkeys(WORDS[1:6], jsonable)),
    st.fixed_dictionaries({"text": jsonable | st.text(), "submitter": st.just({})}, optional={"file": st.text()}),
)
#: endpoints that take no keys: what is not {} is an error
BARE = ("list", "stats", "quit")


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(ENDPOINTS), payloads)
def test_any_payload_gets_one_answer_and_nothing_raises(endpoint: str, payload: Any) -> None:
    house = House()
    id = house.submit(CHAIN)
    if isinstance(payload, dict) and payload.get("id") == "ID":
        payload["id"] = id
    reply = house.ask(endpoint, payload)
    if endpoint == "watch" and not reply.errors:
        assert all(set(message) == {"records"} for message in reply.sent)
    else:
        assert len(reply.sent) + len(reply.errors) == 1
    if endpoint in BARE and payload not in ({}, None):
        assert reply.errors
    for number, _ in reply.errors:
        assert number in (errno.EINVAL, errno.EPROTO, errno.ENOENT)
    assert [text for level, text in house.logged if level <= syslog.LOG_ERR] == []
    assert house.status(id)["id"] == id


MALFORMED: Dict[str, List[Any]] = {
    "submit": [{}, {"text": 5, "submitter": {}}, {"text": THREE}, {"text": THREE, "submitter": {"umask": 0o1000}},
               {"text": THREE, "submitter": {"environment": {"A": 1}}}, {"text": THREE, "submitter": {}, "x": 1},
               {"text": THREE, "submitter": []}],
    "status": [{}, {"id": None}, {"id": 5}, {"id": ""}, {"id": "x" * 999}, {"id": "chain", "x": 1}, [], "chain", 5],
    "jobs": [{"id": "chain", "start": -1}, {"id": "chain", "max": 0}, {"id": "chain", "max": 10**9},
             {"id": "chain", "start": 1.5}, {"id": "chain", "group": 5}],
    "watch": [{"id": "chain", "since": -1}, {"id": "chain", "since": "1"}, {"id": "chain", "since": None}],
    "log": [{"id": "chain", "since": True}, {"id": "chain", "max": "many"}],
    "explain": [{"id": "chain"}, {"id": "chain", "rule": 1}, {"id": "chain", "rule": "x" * 999}, {"rule": "rule-1"}],
    "events": [{}, {"id": "chain", "after": -1}, {"id": "chain", "max": 0}, {"id": "chain", "max": 10**9}],
    "cancel": [{"ids": "chain"}],
    "pause": [{"id": ["chain"]}],
    "resume": [{"id": "chain", "limits": []}, {"id": "chain", "limits": 5}],
    "resize": [{}, {"id": "chain"}, {"id": "chain", "by": 1.5}, {"id": "chain", "by": "2"}, {"id": "chain", "by": 10**9}],
    "list": [[], {"all": True}],
    "put": [{}, {"key": "k", "values": {"x": 1}}, {"key": "k", "values": {}, "token": "t"}],
    "signal": [{"id": "chain"}, {"id": "chain", "name": "x", "data": [1]}],
    "stats": [5],
    "purge": [{"ids": "chain"}, {"older_than": -1}, {"keep": -1}, {"keep": 1.5}, {"id": "chain"}],
    "quit": [{"now": True}],
}  # fmt: skip


@pytest.mark.parametrize(("endpoint", "payload"), [(e, p) for e, ps in MALFORMED.items() for p in ps])
def test_malformed(endpoint: str, payload: Any) -> None:
    house = House()
    house.submit(CHAIN)
    number, sentence = house.ask(endpoint, payload).refusal
    assert number == errno.EPROTO
    assert sentence.startswith(("bad request: ", "the request's payload"))
    assert len(sentence) < 300
    # these are words of the library that checks, not ours
    assert not any(word in sentence for word in ("Input", "should", "Field required", "Extra"))


def test_every_endpoint_has_a_malformed_case() -> None:
    assert set(MALFORMED) == set(ENDPOINTS)


def test_a_request_that_trips_over_a_bug_is_answered(monkeypatch: Any) -> None:
    house = House()
    monkeypatch.setattr(house.store, "records", lambda *args: 1 / 0)
    id = house.submit(THREE)
    assert house.ask("log", {"id": id}).refusal == (
        errno.EIO,
        "request 'log' failed by a bug in ensemble; see the service's log",
    )
    assert "ZeroDivisionError" in house.logged[-1][1]
    assert house.ask("list").answer["ensembles"]


def broken(house: House, id: str, monkeypatch: Any) -> None:
    """Let the engine of that ensemble raise from now on."""
    handle = Engine.handle

    def raising(engine: Engine, event: Any) -> Any:
        if engine.id == id:
            raise ZeroDivisionError("it was zero")
        return handle(engine, event)

    monkeypatch.setattr(Engine, "handle", raising)


def test_a_broken_engine_is_quarantined_and_the_others_go_on(monkeypatch: Any) -> None:
    house = House()
    bad, good = house.submit(THREE), house.submit(CHAIN)
    job, other = house.member.submit(bad), house.member.submit(good)
    stream = house.watch(bad)
    broken(house, bad, monkeypatch)
    house.member.run(bad, job)
    status = house.status(bad)
    assert status["state"] == "failed"
    assert "ZeroDivisionError: it was zero" in status["reason"]
    assert "report it" in status["reason"]
    assert status["t_end"] is not None
    assert house.member.cancels(bad) == [job]
    assert any("quarantined" in text and "Traceback" in text for _, text in house.logged)
    assert stream.ended
    assert [r["type"] for r in stream.records[-2:]] == ["error", "state"]
    assert [r["seq"] for r in stream.records] == list(range(1, len(stream.records) + 1))
    house.member.run(good, other)
    assert len(house.member.keys(good)) == 2
    assert house.service.active == 1
    assert [e["state"] for e in house.ask("list").answer["ensembles"]] == ["failed", "running"]
    for endpoint in ("cancel", "resume", "pause"):
        assert house.ask(endpoint, {"id": bad}).refusal[0] == errno.EINVAL


def test_a_quarantined_one_leaves_no_job_behind(monkeypatch: Any) -> None:
    """Submissions that were on their way are cancelled as soon as they are jobs."""
    house = House()
    bad = house.submit(THREE)
    known = house.member.submit(bad)
    keys = house.member.keys(bad)
    broken(house, bad, monkeypatch)
    house.member.tell(bad, JobEvent(house.member.t, known, "start"))
    assert house.member.closed == [], "two answers are to come"
    house.member.tell(bad, JobEvent(house.member.t, 7, "submit", {}, keys[1]))
    house.member.tell(bad, Acknowledged(house.member.t, keys[1], 7))
    assert house.member.closed == []
    assert house.status(bad)["state"] == "failed"
    house.member.refuse(bad, 2)
    assert house.member.cancels(bad) == [known, 7]
    assert house.member.closed == [bad]
    assert house.service.active == 0


def test_the_first_event_may_break_an_engine(monkeypatch: Any) -> None:
    house = House()
    monkeypatch.setattr(Engine, "_begin", lambda engine, event: 1 / 0)
    id = house.submit(THREE)
    assert house.status(id)["state"] == "failed"
    assert house.member.closed == [id]


def test_a_timer_that_breaks_an_engine(monkeypatch: Any) -> None:
    house = House()
    id = house.submit(THREE + "logging: {heartbeat: 10}\n")
    monkeypatch.setattr(timers, "_heartbeat", lambda engine, at: 1 / 0)
    house.member.advance(11)
    assert house.status(id)["state"] == "failed"


def test_a_command_that_breaks_an_engine_is_answered(monkeypatch: Any) -> None:
    house = House()
    id = house.submit(THREE)
    broken(house, id, monkeypatch)
    assert house.ask("pause", {"id": id}).answer == {"id": id, "state": "failed"}


def test_an_impossible_event_is_dropped_and_told() -> None:
    house = House()
    id = house.submit(THREE)
    job = house.member.submit(id)
    house.member.tell(id, JobEvent(T0, job, "start"))
    house.member.tell(id, JobEvent(T0, job, "invalidate"))
    error = house.ask("log", {"id": id}).answer["records"][-1]
    assert error["type"] == "error"
    assert "'invalidate'" in error["text"]
    assert "dropped" in error["text"]
    assert house.status(id)["state"] == "running"
    house.member.tell(id, JobEvent(T0 + 1, job, "finish", {"status": 0}))
    assert house.status(id)["jobs"]["success"] == 1


def test_a_member_that_raises_hurts_its_ensemble_alone() -> None:
    house = House()
    good = house.submit(CHAIN)
    house.member.bug = OSError("no more room")
    bad = house.submit(THREE)
    house.member.bug = None
    status = house.status(bad)
    assert status["state"] == "failed"
    assert "no more room" in status["reason"]
    house.member.run(good, house.member.submit(good))
    assert house.status(good)["state"] == "running"


class Failing(MemoryStore):
    """Refuses when told to; may hold its answers back."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Any = None
        self.late = False
        self.waiting: List[Any] = []

    def create(self, id: str, given: Dict[str, Any], done: Done) -> None:
        if self.fault:
            done(self.fault)
        else:
            super().create(id, given, done)

    def commit(self, id: str, commit: Commit, done: Done) -> None:
        super().commit(id, commit, lambda error: None)
        if self.late:
            self.waiting.append(done)
        else:
            done(self.fault)


def test_what_cannot_be_stored_is_not_begun() -> None:
    store = Failing()
    house = House(store)
    store.fault = "the disk is full"
    number, sentence = house.ask("submit", {"text": THREE, "submitter": {}}).refusal
    assert (number, sentence) == (errno.EIO, "the ensemble could not be stored: the disk is full")
    assert house.member.performed == []
    assert len(house.member.closed) == 1
    assert house.ask("list").answer == {"ensembles": []}


def test_an_event_that_cannot_be_stored_quarantines() -> None:
    store = Failing()
    house = House(store)
    id = house.submit(THREE)
    house.member.submit(id)
    store.fault = "the disk is full"
    house.member.submit(id, 1)
    status = house.status(id)
    assert status["state"] == "failed"
    assert "the disk is full" in status["reason"]


def test_nothing_is_performed_before_it_is_stored() -> None:
    store = Failing()
    house = House(store)
    store.late = True
    id = house.submit(THREE)
    assert house.member.keys(id) == []
    while store.waiting:
        store.waiting.pop(0)(None)
    assert len(house.member.keys(id)) == 3


def test_nothing_is_performed_once_it_is_frozen() -> None:
    store = Failing()
    house = House(store)
    store.late = True
    id = house.submit(THREE)
    house.service.freeze("the instance is shutting down")
    while store.waiting:
        store.waiting.pop(0)(None)
    assert house.member.performed == []
    assert house.status(id)["id"] == id


def test_frozen() -> None:
    """The instance goes down: no event acts, no timer, no command; what is asked is answered."""
    house = House()
    text = CHAIN + "  - {trigger: heartbeat, every: 5, repetitions: unlimited, action: {name: submit, label: a}}\n"
    id = house.submit(text)
    job = house.member.submit(id)
    house.service.freeze("the instance is shutting down")
    house.service.freeze("again")
    done = len(house.member.performed)
    before = house.status(id)
    house.member.run(id, job)
    house.member.advance(100)
    assert len(house.member.performed) == done
    assert house.status(id) == before
    for endpoint, payload in (
        ("submit", {"text": THREE, "submitter": {}}), ("cancel", {"id": id}), ("pause", {"id": id}), ("resume", {"id": id}),
    ):  # fmt: skip
        number, sentence = house.ask(endpoint, payload).refusal
        assert number == errno.ESHUTDOWN
        assert "the instance is shutting down" in sentence
    assert len(house.ask("list").answer["ensembles"]) == 1
    assert house.ask("jobs", {"id": id}).answer["total"] == 1
    assert house.ask("quit").answer == {}
    assert any("ensembles left as they are: 1" in text for _, text in house.logged)


def test_an_ensemble_that_cannot_be_brought_back_is_quarantined() -> None:
    """The store has it without its end, and what was submitted is damaged: each request is answered all the same."""
    store = MemoryStore()
    store.create("bcdfgh", {"name": "old", "t_submit": T0}, lambda error: None)
    store.create("bcdfgj", {"name": "hello", "file": "hello.yaml", "text": THREE, "submitter": {}, "t_submit": T0},
                 lambda error: None)  # fmt: skip
    house = House(store)
    for endpoint in ("cancel", "pause", "resume"):
        number, sentence = house.ask(endpoint, {"id": "old"}).refusal
        assert number == errno.EINVAL
        assert "bcdfgh" in sentence
    status = house.status("old")
    assert status["state"] == "failed"
    assert status["reason"].startswith("quarantined: it cannot be brought back")
    assert house.ask("jobs", {"id": "old"}).answer == {"jobs": [], "total": 0}
    assert house.watch("old").ended
    assert [one["state"] for one in house.ask("list").answer["ensembles"]] == ["failed", "running"]
    assert any("bcdfgh is quarantined" in text for _, text in house.logged)
    assert len(house.member.keys("bcdfgj")) == 3, "the other one was kept, and its first event was not"


def test_an_answer_to_a_caller_that_raises_is_no_harm() -> None:
    house = House()
    id = house.submit(THREE)

    class Gone(FakeReply):
        def send(self, payload: Dict[str, Any]) -> None:
            raise BrokenPipeError("gone")

    reply = Gone()
    house.service.handle("status", {"id": id}, reply)
    assert reply.errors[0][0] == errno.EIO
    assert house.status(id)["state"] == "running"
