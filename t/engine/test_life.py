# SPDX-License-Identifier: MIT
"""The life of a job, event by event, in every order in which a queue may tell it."""

from __future__ import annotations

import itertools
import json
from typing import Any, Dict, List

import pytest

from ensemble.engine import jobs as life
from ensemble.engine.actions import Cancel, Record, Submit
from ensemble.engine.events import (
    BASE_EVENTS,
    JOB_EVENTS,
    Acknowledged,
    JobEvent,
    Recovered,
    Refused,
)
from ensemble.engine.snapshot import snapshot
from ensemble.errors import InternalError, TransitionError
from t.engine.harness import EXIT1, T0, Plan, act, rule
from t.engine.lives import whole_life

START = rule("start", act("submit", "a"), id="start")
LOG = act("log", value="x")


@pytest.mark.parametrize("place", range(11))
def test_the_acknowledgement_may_come_anywhere(world: Any, place: int) -> None:
    w = world([START, rule("job-run", LOG)], by_hand=True)
    key = w.submits()[0].key
    events: List[Any] = whole_life(key)
    events.insert(place, Acknowledged(T0 + 1, key, 7))
    for event in events:
        w.feed(event)
    assert w.engine.final == "complete"
    (row,) = w.rows()
    assert row == {
        "id": 7, "group": "a", "state": "inactive", "result": "success", "exit_code": 0, "signal": None, "cause": None,
        "note": None, "attempt": 0, "rule": "start", "firing": 1, "index": 0, "t_submit": T0 + 1, "t_start": T0 + 6,
        "t_end": T0 + 7, "member": None, "ranks": "0-1", "params": {}, "values": {}, "ended": 1,
    }  # fmt: skip
    assert [r["event"] for r in w.records("job")] == ["submit", "start", "finish"]


def test_what_is_told_late_has_its_own_times(world: Any) -> None:
    """A member was away while a job began and ended; the ensemble's time has gone on."""
    w = world([START, rule("timer", LOG, after=60)], by_hand=True)
    key = w.submits()[0].key
    events: List[Any] = whole_life(key)
    w.feed(events[0])
    w.feed(Acknowledged(T0 + 50, key, 7))
    for event in events[1:]:
        w.feed(event)
    (row,) = w.rows()
    assert (row["t_submit"], row["t_start"], row["t_end"]) == (T0 + 1, T0 + 6, T0 + 7)
    assert [(r["event"], r.get("at")) for r in w.records("job")] == [
        ("submit", None), ("start", T0 + 6), ("finish", T0 + 7),
    ]  # fmt: skip
    times = [action.t for action in w.actions if isinstance(action, Record)]
    assert times == sorted(times), "records are looked for by their time"


@pytest.mark.parametrize("known", [True, False])
def test_a_start_that_nobody_knows_is_left_out(world: Any, known: bool) -> None:
    w = world([START], by_hand=True)
    key = w.submits()[0].key
    for event in whole_life(key):
        if event.name != "start" or known:
            w.feed(event)
    (row,) = w.rows()
    assert (row["t_start"], row["result"]) == (T0 + 6 if known else None, "success")


def test_debug_records_every_event_once(world: Any) -> None:
    w = world([START], by_hand=True, logging={"debug": True})
    assert w.engine.wanted_events == set(JOB_EVENTS) - set(BASE_EVENTS)
    key = w.submits()[0].key
    events = whole_life(key)
    for event in (*events[:-1], *events):
        w.feed(event)
    assert [r["event"] for r in w.records("job")] == [event.name for event in events]


def test_the_whole_backlog_may_come_twice(world: Any) -> None:
    w = world([START, *(rule(t, LOG, id=t, repetitions="unlimited") for t in ("job-submit", "job-run", "job-success"))],
              [{"name": "a", "count": 2}], by_hand=True)  # fmt: skip
    first, second = (s.key for s in w.submits())
    events = whole_life(first)
    for cut in range(1, len(events)):
        for event in events[:cut]:
            w.feed(event)
    w.feed(events[-1])
    for event in events:
        w.feed(event)
    assert w.counts()["submitted"] == w.counts()["success"] == 1
    assert [len(w.fired(t)) for t in ("job-submit", "job-run", "job-success")] == [1, 1, 1]
    for event in whole_life(second, id=8):
        w.feed(event)
    assert w.engine.final == "complete"


def test_a_queue_that_says_everything_twice(world: Any) -> None:
    plans = {"a": [Plan(twice=True), Plan(twice=True, status=EXIT1), Plan(twice=True, refuse="after")]}
    w = world([START, rule("job-fail", LOG, id="r", repetitions="unlimited")], [{"name": "a", "count": 3}], plans=plans)
    w.run()
    assert w.results() == {"success": 1, "failed": 2}
    assert len(w.fired("r")) == 2


def test_a_repeated_memo_is_heard_once(world: Any) -> None:
    """After a lost connection an event may be delivered twice; a rule fires once for it."""
    w = world([START, rule("job-memo", LOG, id="r", repetitions="unlimited")], by_hand=True)
    events = whole_life(w.submits()[0].key)
    for event in events[:6]:
        w.feed(event)
    memos = [JobEvent(T0 + 6.1, 7, "memo", {"x": 1}), JobEvent(T0 + 6.2, 7, "memo", {"x": 2})]
    for memo in [*memos, *memos]:
        w.feed(memo)
    assert len(w.fired("r")) == 2


REFUSALS: Dict[str, List[str]] = {
    "no job": ["refused"],
    "invalidate, answer": ["submit", "invalidate", "refused"],
    "answer, invalidate": ["submit", "refused", "invalidate"],
    "answer first": ["refused", "submit", "invalidate"],
    "all twice": ["submit", "submit", "invalidate", "submit", "invalidate", "refused", "submit", "invalidate"],
    "with a plugin's exception": ["submit", "exception", "invalidate", "refused"],
}


@pytest.mark.parametrize("order", REFUSALS.values(), ids=REFUSALS.keys())
def test_refused(world: Any, order: List[str]) -> None:
    rules = [START, rule("job-fail", LOG, id="fail", repetitions="unlimited"), rule("group-complete", LOG, id="done")]
    w = world(rules, by_hand=True)
    key = w.submits()[0].key
    w.take()
    for n, name in enumerate(order):
        t = T0 + 1 + n
        if name == "refused":
            w.feed(Refused(t, key, "too many nodes"))
        else:
            w.feed(JobEvent(t, 7, name, {}, key if name == "submit" else None))
    assert w.take() == []
    assert w.engine.final == "complete"
    (row,) = w.rows()
    assert (row["result"], row["cause"], row["note"]) == ("failed", "refused", "too many nodes")
    assert row["t_start"] is None
    assert w.counts()["submitted"] == w.counts()["finished"] == w.counts()["failed"] == 1
    assert len(w.fired("fail")) == len(w.fired("done")) == 1
    assert [r["text"] for r in w.records("error")] == ["a job of a was refused: too many nodes"]


@pytest.mark.parametrize(
    "order", [["submit", "invalidate", "ack"], ["submit", "ack", "invalidate"], ["ack", "submit", "invalidate"]]
)
def test_an_invalid_job_whose_refusal_was_lost(world: Any, order: List[str]) -> None:
    """The answer went with its module, and the journal has shown the job: what undoes it ends it, and no one waits."""
    w = world([START], by_hand=True)
    key = w.submits()[0].key
    for n, name in enumerate(order):
        t = T0 + 1 + n
        w.feed(
            Acknowledged(t, key, 7) if name == "ack" else JobEvent(t, 7, name, {}, key if name == "submit" else None)
        )
    assert w.engine.final == "failed"
    (row,) = w.rows()
    assert (row["id"], row["result"], row["cause"]) == (7, "failed", "refused")
    assert row["note"] == "the queue found it invalid"


@pytest.mark.parametrize(
    "order",
    [["submit", "invalidate", "recovered"], ["submit", "recovered", "invalidate"], ["submit", "recovered", "life"]],
)
def test_an_answer_that_went_with_its_service_is_not_waited_for(world: Any, order: List[str]) -> None:
    w = world([START], by_hand=True)
    key = w.submits()[0].key
    for n, name in enumerate(order):
        t = T0 + 1 + n
        if name == "life":
            for event in whole_life(key)[1:]:
                w.feed(event)
        else:
            w.feed(Recovered(t) if name == "recovered" else JobEvent(t, 7, name, {}, key if name == "submit" else None))
    (row,) = w.rows()
    refused = ("failed", "refused", "the queue found it invalid")
    assert (row["result"], row["cause"], row["note"]) == (("success", None, None) if "life" in order else refused)
    assert w.engine.final is not None


def test_once_submit_is_seen_the_journal_outranks_an_error(world: Any) -> None:
    w = world([START], by_hand=True)
    key = w.submits()[0].key
    events = whole_life(key)
    w.feed(events[0])
    w.feed(Refused(T0 + 2, key, "connection lost"))
    for event in events[1:]:
        w.feed(event)
    assert w.results() == {"success": 1}
    assert w.rows()[0]["note"] is None
    assert w.records("error") == []


def test_a_job_that_had_been_refused_and_runs_all_the_same_is_ended(world: Any) -> None:
    w = world([START], [{"name": "a", "count": 2}], by_hand=True)
    key = w.submits()[0].key
    w.take()
    w.feed(Refused(T0 + 1, key, "connection lost"))
    for event in whole_life(key)[:6]:
        w.feed(event)
    assert [a.id for a in w.take()] == [7]
    assert w.counts()["failed"] == 1
    w.feed(Acknowledged(T0 + 9, key, 7))
    for event in whole_life(key)[6:]:
        w.feed(event)
    assert w.take() == []
    for event in whole_life(w.submits()[1].key, id=8):
        w.feed(event)
    assert w.results() == {"success": 1, "failed": 1}


IMPOSSIBLE = [
    (["submit", "start"], "invalidate", life.RUNNING),
    (["submit", "start", "finish"], "invalidate", life.FINISHED),
    (["submit", "invalidate"], "start", life.WITHDRAWN),
    (["submit", "invalidate"], "finish", life.WITHDRAWN),
]


@pytest.mark.parametrize(("before", "event", "state"), IMPOSSIBLE)
def test_what_cannot_happen_is_told_and_changes_nothing(world: Any, before: List[str], event: str, state: str) -> None:
    w = world([START, rule(f"job-{event}", LOG, repetitions="unlimited")], by_hand=True)
    key = w.submits()[0].key
    for name in before:
        w.feed(JobEvent(T0 + 1, 7, name, {"status": 0}, key if name == "submit" else None))
    told = json.dumps(snapshot(w.engine))
    with pytest.raises(TransitionError) as caught:
        w.engine.handle(JobEvent(T0 + 1, 7, event, {"status": 0}))
    for part in (f"'{event}'", state, "job 7", str(key)):
        assert part in str(caught.value)
    assert json.dumps(snapshot(w.engine)) == told


def test_the_table_has_each_state_and_each_base_event() -> None:
    states = {state for state, _ in life.LIFE}
    assert {after for after, _ in life.LIFE.values()} - {life.INACTIVE} <= states
    for state, name in itertools.product((life.PENDING, life.RUNNING, life.FINISHED), ("acknowledged", "submit")):
        assert (state, name) in life.LIFE, f"{name} may come late, so also when {state}"


def test_two_jobs_of_one_key_are_our_fault(world: Any) -> None:
    w = world([START], by_hand=True)
    key = w.submits()[0].key
    w.feed(JobEvent(T0 + 1, 7, "submit", {}, key))
    with pytest.raises(InternalError, match="belongs to job 7, and came again with job 8"):
        w.engine.handle(JobEvent(T0 + 1, 8, "submit", {}, key))


def test_a_submit_without_a_key_is_our_fault(world: Any) -> None:
    w = world([START], by_hand=True)
    with pytest.raises(InternalError, match="without its key"):
        w.engine.handle(JobEvent(T0 + 1, 8, "submit"))


ENDED: List[Any] = [
    # plan, result, cause, exit code, signal
    (Plan(), "success", None, 0, None),
    (Plan(status=3 << 8), "failed", "fail", 3, None),
    (Plan(status=11), "failed", "signal", None, 11),
    (Plan(status=11 | 0x80), "failed", "signal", None, 11),
    (Plan(status=(128 + 9) << 8), "failed", "signal", 137, 9),
    (Plan(status=255 << 8), "failed", "fail", 255, None),
    (Plan(status=15, exception=("timeout", "resource allocation expired")), "failed", "timeout", None, 15),
    (Plan(status=15, exception=("cancel", "")), "cancelled", "cancel", None, 15),
    (Plan(status=127 << 8, exception=("exec", "no such file")), "failed", "exec", 127, None),
    (Plan(status=9, exception=("dependency", "x")), "failed", "exception", None, 9),
]


@pytest.mark.parametrize(("plan", "result", "cause", "code", "signal"), ENDED)
def test_how_it_ended(world: Any, plan: Plan, result: str, cause: Any, code: Any, signal: Any) -> None:
    w = world([START], plans={"a": plan}).run()
    (row,) = w.rows()
    assert (row["result"], row["cause"], row["exit_code"], row["signal"]) == (result, cause, code, signal)
    assert row["note"] == ((plan.exception[1] or None) if plan.exception else None)
    assert w.counts()["timeout"] == (cause == "timeout")


NEVER_RAN: List[Any] = [
    ([("exception", {"type": "cancel", "severity": 0})], "cancelled", "cancel"),
    ([("exception", {"type": "timeout", "severity": 0})], "failed", "timeout"),
    ([("exception", {"type": "alloc", "severity": 0, "note": "unsatisfiable"})], "failed", "exception"),
]


@pytest.mark.parametrize(("told", "result", "cause"), NEVER_RAN)
def test_a_job_that_never_ran(world: Any, told: Any, result: str, cause: str) -> None:
    w = world([START], by_hand=True)
    key = w.submits()[0].key
    w.feed(JobEvent(T0 + 1, 7, "submit", {}, key))
    w.feed(JobEvent(T0 + 2, 7, "flux-restart"))
    for name, context in told:
        w.feed(JobEvent(T0 + 3, 7, name, context))
    w.feed(JobEvent(T0 + 4, 7, "clean"))
    (row,) = w.rows()
    assert (row["result"], row["cause"], row["t_start"], row["exit_code"]) == (result, cause, None, None)


def test_finish_may_come_without_a_start(world: Any) -> None:
    w = world([START], by_hand=True)
    for event in whole_life(w.submits()[0].key, EXIT1):
        if event.name != "start":
            w.feed(event)
    assert w.rows()[0]["result"] == "failed"
    assert "duration" not in json.dumps(w.engine.tally.table())


def test_clean_may_come_without_a_finish(world: Any) -> None:
    w = world([START], by_hand=True)
    for event in whole_life(w.submits()[0].key):
        if event.name != "finish":
            w.feed(event)
    (row,) = w.rows()
    assert (row["result"], row["cause"]) == ("retried", "infrastructure")
    for event in whole_life(w.submits()[1].key, id=8):
        w.feed(event)
    assert w.results() == {"retried": 1, "success": 1}


def test_an_ensemble_waits_for_clean(world: Any) -> None:
    w = world([START], by_hand=True)
    events = whole_life(w.submits()[0].key)
    for event in events[:-1]:
        w.feed(event)
    assert w.counts()["success"] == 1
    assert w.engine.final is None
    w.feed(events[-1])
    assert w.engine.final == "complete"


def test_the_first_severe_exception_counts(world: Any) -> None:
    w = world([START], by_hand=True)
    events = whole_life(w.submits()[0].key, 15)
    for event in events[:6]:
        w.feed(event)
    w.feed(JobEvent(T0 + 6, 7, "exception", {"type": "timeout", "severity": 0, "note": "expired"}))
    w.feed(JobEvent(T0 + 6, 7, "exception", {"type": "cancel", "severity": 0, "note": "late"}))
    for event in events[6:]:
        w.feed(event)
    assert (w.rows()[0]["cause"], w.rows()[0]["note"]) == ("timeout", "expired")


def test_events_of_two_jobs_may_interleave_as_they_like(world: Any) -> None:
    w = world([START], [{"name": "a", "count": 2}], by_hand=True)
    one, two = (s.key for s in w.submits())
    pairs = [*itertools.zip_longest(whole_life(one), whole_life(two, EXIT1, 8))]
    for event in itertools.chain.from_iterable(pairs):
        w.feed(event)
    assert w.results() == {"success": 1, "failed": 1}
    assert {type(a) for a in w.actions if isinstance(a, (Submit, Cancel))} == {Submit}
