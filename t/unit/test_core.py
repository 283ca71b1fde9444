# SPDX-License-Identifier: MIT
"""The service's core over a member that a test drives: what each request answers, in the shapes of the protocol."""

from __future__ import annotations

import errno
import os
from typing import Any, Dict

import pytest

from ensemble import __version__
from ensemble.engine.events import Begin, JobEvent
from ensemble.members.base import Submitter
from ensemble.service.protocol import ENDPOINTS
from ensemble.spec.scaler import site
from t.unit.fake_member import CHAIN, T0, THREE, House
from t.unit.fake_scaler import FakeScaler

COUNTS = {"submitted", "pending", "running", "active", "finished", "success", "failed", "cancelled", "retried"}
SUMMARY = {"id", "name", "state", "reason", "t_submit", "t_end", "jobs"}
JOB = {
    "id", "group", "state", "result", "exit_code", "signal", "cause", "note", "attempt", "rule", "firing", "index", "t_submit",
    "t_start", "t_end", "member", "ranks", "params", "values", "ended", "where",
}  # fmt: skip
RULE = {"id", "trigger", "fired", "remaining", "state", "error"}
STATES = {"held", "submitting", "pending", "running", "finished", "inactive"}


@pytest.fixture
def house() -> House:
    return House()


def test_submit(house: House) -> None:
    submitter = {"environment": {"A": "b"}, "cwd": "/home/u", "umask": 0o22, "rlimits": {"nofile": 1024}}
    answer = house.ask("submit", {"text": THREE, "file": "some/hello.yaml", "submitter": submitter}).answer
    assert set(answer) == {"id", "name", "warnings"}
    assert answer["name"] == "hello"
    assert answer["warnings"] == []
    spec, given, events = house.member.opened[answer["id"]]
    assert given == Submitter(**submitter)
    assert [job.name for job in spec.jobs] == ["a"]
    assert events == frozenset()
    assert len(house.member.keys(answer["id"])) == 3
    assert all(key.ensemble == answer["id"] for key in house.member.keys(answer["id"]))


def test_submit_tells_warnings(house: House) -> None:
    text = THREE + "  - {trigger: heartbeat, action: {name: log, value: x}}\n"
    (warning,) = house.ask("submit", {"text": text, "submitter": {}}).answer["warnings"]
    assert "ensemble.yaml:" in warning


def test_ids_are_short_typeable_and_never_a_counter(house: House) -> None:
    ids = {house.submit(THREE) for _ in range(50)}
    assert len(ids) == 50
    assert all(len(id) == 6 and id[0].isalpha() and id.isalnum() and id == id.lower() for id in ids)
    assert not set("".join(ids)) & set("01lioaeu")


def test_a_faulty_file_is_refused_with_all_its_faults(house: House) -> None:
    text = "jobs:\n  - {name: a, comand: x}\nrules:\n  - {trigger: strat, action: {name: submit, label: b}}\n"
    number, sentence = house.ask("submit", {"text": text, "file": "bad.yaml", "submitter": {}}).refusal
    assert number == errno.EINVAL
    for part in ("bad.yaml:2:", "comand", "bad.yaml:4:", "strat", "'b'"):
        assert part in sentence
    assert house.member.opened == {}
    assert house.ask("list").answer == {"ensembles": []}


def test_what_the_member_cannot_describe_is_refused(house: House) -> None:
    house.member.fault = "there is no queue 'big'"
    number, sentence = house.ask("submit", {"text": THREE, "file": "f.yaml", "submitter": {}}).refusal
    assert (number, sentence) == (errno.EINVAL, "f.yaml: there is no queue 'big'")
    assert house.ask("list").answer == {"ensembles": []}


def test_list_is_oldest_first(house: House) -> None:
    one = house.submit(THREE)
    house.member.advance(1)
    two = house.submit(CHAIN)
    listed = house.ask("list", {}).answer["ensembles"]
    assert [e["id"] for e in listed] == [one, two]
    assert all(set(e) == SUMMARY and set(e["jobs"]) == COUNTS for e in listed)
    assert listed[0] == {
        "id": one, "name": "hello", "state": "running", "reason": None, "t_submit": T0, "t_end": None,
        "jobs": {**dict.fromkeys(COUNTS, 0), "active": 3},
    }  # fmt: skip


def test_status_while_it_runs_and_behind_its_end(house: House) -> None:
    id = house.submit(THREE)
    jobs = [house.member.submit(id, n) for n in range(3)]
    house.member.run(id, jobs[0], seconds=4.0)
    status = house.status(id)
    assert set(status) == SUMMARY | {"groups", "metrics", "rules", "variables", "members", "parameters", "scaling"}
    assert status["state"] == "running"
    assert status["groups"]["a"] == {**dict.fromkeys(COUNTS, 0), "submitted": 3, "pending": 2, "active": 2,
                                     "finished": 1, "success": 1}  # fmt: skip
    assert status["metrics"]["a"]["success"]["duration"] == {"n": 1, "mean": 4.0, "min": 4.0, "max": 4.0}
    assert status["rules"] == [
        {"id": "rule-1", "trigger": "start", "fired": 1, "remaining": 0, "state": "spent", "error": None}
    ]
    for job in jobs[1:]:
        house.member.run(id, job, status=256)
    ended = house.status(id)
    assert set(ended) == set(status)
    assert (ended["state"], ended["t_end"]) == ("failed", T0 + 6.0)
    assert "2 jobs failed" in ended["reason"]
    assert ended["jobs"] == ended["groups"]["a"]
    assert all(set(r) == RULE for r in ended["rules"])
    assert {n: v for n, v in ended.items() if n in SUMMARY} == house.ask("list").answer["ensembles"][0]
    assert house.member.closed == [id]


def test_jobs_in_every_state(house: House) -> None:
    text = THREE.replace("count: 3", "count: 7") + "limits: {max_active: 5}\n"
    id = house.submit(text)
    pending, running, finished, done = (house.member.submit(id, n) for n in range(4))
    for job in (running, finished):
        house.member.tell(id, JobEvent(T0, job, "start"))
    house.member.tell(id, JobEvent(T0, finished, "finish", {"status": 256}))
    house.member.run(id, done)
    rows = house.ask("jobs", {"id": id}).answer
    assert set(rows) == {"jobs", "total"}
    assert rows["total"] == 7
    assert all(set(row) == JOB and row["state"] in STATES for row in rows["jobs"])
    assert len({frozenset(row) for row in rows["jobs"]}) == 1, "all rows have the same keys"
    by_id = {row["id"]: row for row in rows["jobs"] if row["id"]}
    assert [by_id[f"f{n}"]["state"] for n in (pending, running, finished, done)] == [
        "pending", "running", "finished", "inactive",
    ]  # fmt: skip
    assert by_id[f"f{finished}"]["result"] == "failed"
    assert by_id[f"f{finished}"]["exit_code"] == 1
    assert by_id[f"f{done}"]["where"] == f"/out/{id}/{done}"
    assert [row["state"] for row in rows["jobs"]].count("submitting") == 2
    assert [row["state"] for row in rows["jobs"]].count("held") == 1
    assert sorted(row["index"] for row in rows["jobs"]) == list(range(7))


def test_jobs_by_group_and_page(house: House) -> None:
    text = """
jobs:
  - {name: a, command: x, count: 5}
  - {name: b, command: x, count: 2}
rules:
  - {trigger: start, actions: [{name: submit, label: b}, {name: submit, label: a}]}
"""
    id = house.submit(text)
    taken = []
    for n in range(7):
        taken.append(house.member.submit(id, n))
        house.member.advance(0.1)
    for job in reversed(taken):
        house.member.run(id, job)
    groups = [row["group"] for row in house.ask("jobs", {"id": id}).answer["jobs"]]
    assert groups == ["b", "b", *["a"] * 5], "in order of submission"
    page = house.ask("jobs", {"id": id, "group": "a", "start": 1, "max": 2}).answer
    assert page["total"] == 5
    assert [row["index"] for row in page["jobs"]] == [3, 4]
    assert house.ask("jobs", {"id": id, "group": "none"}).answer == {"jobs": [], "total": 0}
    assert house.ask("jobs", {"id": id, "start": 99}).answer == {"jobs": [], "total": 7}


def test_log_and_its_pages(house: House) -> None:
    id = house.submit(THREE)
    first = house.ask("log", {"id": id, "max": 2}).answer
    assert set(first) == {"records", "last"}
    assert [r["seq"] for r in first["records"]] == [1, 2]
    assert first["last"] == 2
    assert [r["type"] for r in first["records"]] == ["submitted", "state"]
    assert first["records"][0] == {
        "seq": 1,
        "t": T0,
        "type": "submitted",
        "id": id,
        "name": "hello",
        "file": "hello.yaml",
        "debug": False,
    }
    rest = house.ask("log", {"id": id, "since": 2}).answer
    assert [(r["seq"], r["type"]) for r in rest["records"]] == [(3, "rule"), (4, "action")]
    assert {"rule", "trigger", "firing", "remaining", "text"} <= set(rest["records"][0])
    assert {"rule", "firing", "action", "label", "count", "text"} <= set(rest["records"][1])
    assert house.ask("log", {"id": id, "since": 4}).answer == {"records": [], "last": 4}
    job = house.member.submit(id)
    (record,) = house.ask("log", {"id": id, "since": 4}).answer["records"]
    assert (record["job"], record["event"], record["group"]) == (f"f{job}", "submit", "a")


def test_cancel_pause_resume(house: House) -> None:
    id = house.submit(CHAIN)
    assert house.ask("pause", {"id": id}).answer == {"id": id, "state": "paused"}
    house.member.run(id, house.member.submit(id))
    assert len(house.member.keys(id)) == 1
    assert house.ask("resume", {"id": "chain"}).answer == {"id": id, "state": "running"}
    assert len(house.member.keys(id)) == 2
    job = house.member.submit(id, 1)
    assert house.ask("cancel", {"id": id}).answer == {"id": id, "state": "stopping"}
    assert house.member.cancels(id) == [job]
    house.member.run(id, job, status=15)
    assert house.status(id)["state"] == "cancelled"
    for endpoint in ("cancel", "pause", "resume"):
        number, sentence = house.ask(endpoint, {"id": id}).refusal
        assert number == errno.EINVAL
        assert "has ended: cancelled" in sentence


def test_resume_of_a_halted_one(house: House) -> None:
    id = house.submit(CHAIN + "limits: {max_jobs: 1}\n")
    house.member.run(id, house.member.submit(id))
    assert house.status(id)["state"] == "halted"
    assert house.member.closed == []
    for payload in ({"id": id}, {"id": id, "limits": {}}):
        number, sentence = house.ask("resume", payload).refusal
        assert number == errno.EINVAL
        assert "max_jobs" in sentence
    for endpoint in ("cancel", "pause"):
        assert house.ask(endpoint, {"id": id}).refusal[0] == errno.EINVAL
    answer = house.ask("resume", {"id": id, "limits": {"max_jobs": 2}}).answer
    assert answer == {"id": id, "state": "running"}
    assert house.status(id)["t_end"] is None
    house.member.run(id, house.member.submit(id, 1))
    assert house.status(id)["state"] == "halted"
    records = house.ask("log", {"id": id}).answer["records"]
    assert [r["seq"] for r in records] == list(range(1, len(records) + 1))
    assert [r["state"] for r in records if r["type"] == "state"] == [
        "running", "stopping", "halted", "running", "stopping", "halted",
    ]  # fmt: skip


def test_a_resume_that_changes_nothing_ends_halted_again(house: House) -> None:
    id = house.submit(CHAIN + "limits: {max_jobs: 1}\n")
    house.member.run(id, house.member.submit(id))
    before = next(s for s in house.store.load() if s.id == id).status
    assert before is not None
    assert house.ask("resume", {"id": id, "limits": {"max_failures": 9}}).answer["state"] == "halted"
    stored = next(s for s in house.store.load() if s.id == id)
    assert stored.status is not None, "its end is stored again"
    assert house.service.active == 0


BAD_LIMITS = [
    ({"max_job": 5}, "max_job"),
    ({"max_jobs": "many"}, "max_jobs"),
    ({"max_jobs": 0}, "max_jobs"),
    ({"max_failures": "200%"}, "max_failures"),
    ({"duration": "soon"}, "duration"),
    ({"max_jobs": None}, "max_jobs"),
]


@pytest.mark.parametrize(("limits", "named"), BAD_LIMITS)
def test_resume_with_limits_that_make_no_sense(house: House, limits: Dict[str, Any], named: str) -> None:
    id = house.submit(CHAIN)
    number, sentence = house.ask("resume", {"id": id, "limits": limits}).refusal
    assert number == errno.EINVAL
    assert named in sentence
    # pydantic's own words
    assert "Value error" not in sentence


def test_stats(house: House) -> None:
    house.submit(THREE)
    done = house.submit(CHAIN)
    house.ask("cancel", {"id": done})
    house.member.refuse(done)
    assert house.ask("stats", {}).answer == {
        "host": "process", "pid": os.getpid(), "supervisor_pid": 42, "version": __version__, "t_start": T0,
        "restarts": 3, "ensembles": 2, "active": 1, "watchers": 0, "member": "fake", "capabilities": ["cancel", "kill", "submit", "urgency"],
    }  # fmt: skip


def test_quit_answers_first(house: House) -> None:
    assert house.ask("quit", {}).answer == {}
    assert house.quits == 0
    house.member.advance(0.1)
    assert house.quits == 1


def test_stop_ends_what_is_open(house: House) -> None:
    id = house.submit(THREE)
    stream = house.watch(id)
    house.service.stop()
    assert stream.errors == [(errno.ECONNRESET, "the service is stopping")]
    assert house.member.stopped
    assert all(timer.cancelled for timer in house.member.timers)


def test_a_shutdown_is_told_to_those_who_watch(house: House) -> None:
    """There will be no service to wait for."""
    stream = house.watch(house.submit(THREE))
    house.service.freeze("the instance is shutting down")
    house.service.stop()
    assert stream.errors == [(errno.ESHUTDOWN, "the instance is shutting down")]


def test_find_by_id_by_name_by_prefix(house: House) -> None:
    old, new = house.submit(CHAIN), house.submit(CHAIN)
    assert house.status("chain")["id"] == new, "the latest of that name"
    assert house.status(old)["id"] == old
    letters = 1
    while new.startswith(old[:letters]):
        letters += 1
    assert house.status(old[:letters])["id"] == old


def test_an_ambiguous_prefix_names_the_candidates(house: House) -> None:
    ids = [house.submit(CHAIN) for _ in range(30)]
    first = next(c for c in {id[0] for id in ids} if sum(id[0] == c for id in ids) > 1)
    number, sentence = house.ask("status", {"id": first}).refusal
    assert number == errno.ENOENT
    assert any(id in sentence for id in ids)


@pytest.mark.parametrize("endpoint", ["status", "jobs", "watch", "log", "cancel", "pause", "resume"])
def test_an_unknown_id(house: House, endpoint: str) -> None:
    number, sentence = house.ask(endpoint, {"id": "zzz"}).refusal
    assert number == errno.ENOENT
    assert "'zzz'" in sentence


def test_an_unknown_endpoint(house: House) -> None:
    number, sentence = house.ask("sumbit", {}).refusal
    assert number == errno.ENOSYS
    assert all(name in sentence for name in ENDPOINTS)


def test_an_event_of_nobody_is_dropped(house: House) -> None:
    house.member.tell("nobody", Begin(T0))
    assert house.logged == []
    assert house.member.performed == []


GROW = """
jobs:
  - {name: a, command: x}
rules:
  - {trigger: start, action: {name: submit, label: a}}
  - {trigger: job-start, id: r, action: {name: grow, value: 2}}
"""


def test_what_the_queue_cannot_do_is_warned_of_and_refused_when_it_fires(house: House) -> None:
    answer = house.ask("submit", {"text": GROW, "file": "f.yaml", "submitter": {}}).answer
    (warning,) = answer["warnings"]
    assert "the queue has no way to grow" in warning
    id = answer["id"]
    house.member.run(id, house.member.submit(id))
    records = house.ask("log", {"id": id}).answer["records"]
    (error,) = (r for r in records if r["type"] == "error")
    assert (error["rule"], error["text"]) == ("r", "grow: the queue 'fake' has no way to grow, so nothing was done")
    assert house.status(id)["state"] == "complete"
    assert all(type(action).__name__ in ("Submit", "Cancel") for _, action in house.member.performed)


def test_what_the_queue_cannot_do_is_a_fault_of_a_strict_file(house: House) -> None:
    errno_, text = house.ask("submit", {"text": "strict: true\n" + GROW, "file": "f.yaml", "submitter": {}}).refusal
    assert errno_ == errno.EINVAL
    assert "the queue has no way to grow" in text


def test_a_queue_with_a_scaler_grows_and_an_ensemble_that_ends_wants_nothing_any_more(
    house: House, monkeypatch: Any
) -> None:
    scaler = FakeScaler(house.member)
    monkeypatch.setattr(house.member, "scaler", lambda table, submitter: scaler)
    house.member.size = 4  # type: ignore[attr-defined]
    house.member.capabilities = house.member.capabilities | {"scaler"}
    text = "strict: true\nscaler: {name: drain}\n" + GROW
    answer = house.ask("submit", {"text": text, "file": "f.yaml", "submitter": {}}).answer
    assert answer["warnings"] == []
    house.member.run(answer["id"], house.member.submit(answer["id"]))
    house.member.advance(0.0)
    assert [(order.action, order.wanted, order.ensemble) for order in scaler.orders] == [("grow", 6, answer["id"])]
    assert house.status(answer["id"])["state"] == "running"
    assert scaler.done is not None
    scaler.done(6, "")
    assert house.status(answer["id"])["state"] == "complete"
    assert house.service._scaling._wishes == {}


def test_resize(house: House, monkeypatch: Any) -> None:
    id = house.submit(THREE)
    number, text = house.ask("resize", {"id": id, "by": 2}).refusal
    assert (number, "no way to grow" in text) == (errno.EOPNOTSUPP, True)
    scaler = FakeScaler(house.member)
    monkeypatch.setattr(house.member, "scaler", lambda table, submitter: scaler)
    house.member.size = 4  # type: ignore[attr-defined]
    house.member.site = site({"name": "drain"})
    house.member.capabilities = house.member.capabilities | {"grow"}
    assert house.ask("resize", {"id": id, "by": 2}).answer == {"id": id, "state": "running"}
    house.member.advance(0.0)
    assert [(order.action, order.wanted) for order in scaler.orders] == [("grow", 6)]
    assert house.ask("resize", {"id": id, "by": 0}).refusal[0] == errno.EINVAL
    assert house.ask("resize", {"id": id, "by": -1}).refusal[0] == errno.EOPNOTSUPP
