# SPDX-License-Identifier: MIT
"""Jobs that are lost for no fault of their own, and those of which a crash left no certain word."""

from __future__ import annotations

from typing import Any, List

import pytest

from ensemble.engine.events import (
    Frozen,
    InDoubt,
    JobEvent,
    Recovered,
)
from t.engine.harness import T0, act, rule
from t.engine.lives import whole_life

START = rule("start", act("submit", "a"), id="start")
LOG = act("log", value="x")


LOSSES: List[Any] = [
    # what is told of a running job, and the exit status, if it has one
    ([("exception", {"type": "exec", "severity": 0, "note": "node failure on n1 (rank 1)"})], 9),
    ([("exception", {"type": "exec", "severity": 0, "note": "lost contact with job shell"})], 9),
    ([("exception", {"type": "node-failure", "severity": 0, "note": "lost contact"})], 9),
    ([("exception", {"type": "exec", "severity": 0, "note": "reattach to running job is not implemented"})], None),
    ([("exception", {"type": "exec", "severity": 0, "note": "sdexec: reattach failed"})], None),
    ([("exception", {"type": "exec", "severity": 0, "note": "job is not recoverable: no recoverable event"})], None),
    ([("exception", {"type": "exec", "severity": 0, "note": "failed to create guest ns: File exists"})], None),
    ([("exception", {"type": "note", "severity": 5})], None),
    ([], None),
]


@pytest.mark.parametrize("ran", [True, False])
@pytest.mark.parametrize(("told", "status"), LOSSES)
def test_a_job_lost_for_no_fault_of_its_own_is_tried_again_three_times(
    world: Any, told: Any, status: Any, ran: bool
) -> None:
    rules = [START, *(rule(t, LOG, id=t, repetitions="unlimited") for t in ("job-fail", "job-finish"))]
    w = world(rules, by_hand=True)
    first = w.submits()[0]
    for attempt in range(4):
        waits = w.submits()[-1].key.attempt < attempt
        assert waits == bool(attempt and told and "note" in told[0][1]), "a node that has just died would get it back"
        if waits:
            before = w.t
            assert w.step(), "where a node was lost the next attempt waits a little"
            assert 2.0 ** (attempt - 1) <= w.t - before <= 2.0**attempt
        submit = w.submits()[-1]
        assert submit == first._replace(key=first.key._replace(attempt=attempt))
        assert w.fired("job-fail") == w.fired("job-finish") == [], "a loss that is made good fires nothing"
        id = 10 + attempt
        w.feed(JobEvent(w.t + 1, id, "submit", {}, submit.key))
        if ran:
            w.feed(JobEvent(w.t + 1, id, "start"))
        for name, context in told:
            w.feed(JobEvent(w.t + 1, id, name, context))
        if ran and status is not None:
            w.feed(JobEvent(w.t + 1, id, "finish", {"status": status}))
        assert w.counts()["submitted"] == 1
        w.feed(JobEvent(w.t + 1, id, "clean"))
        row = w.rows()[-1]
        assert (row["attempt"], row["cause"]) == (attempt, "infrastructure")
        assert row["result"] == ("retried" if attempt < 3 else "failed")
        assert w.counts()["pending"] == (attempt < 3)
        assert w.counts()["retried"] == min(attempt + 1, 3)
    assert len(w.submits()) == 4
    assert len(w.fired("job-fail")) == len(w.fired("job-finish")) == 1
    assert w.engine.final == "complete"
    assert w.counts()["finished"] == w.counts()["failed"] == 1


def test_what_is_cancelled_by_a_shutdown_is_tried_again_and_what_the_user_cancels_is_not(world: Any) -> None:
    w = world([START], [{"name": "a", "count": 2}], by_hand=True)
    for id, submit in enumerate(w.submits(), 7):
        for event in whole_life(submit.key, id=id)[:6]:
            w.feed(event)
    cancelled = {"type": "cancel", "severity": 0, "note": ""}
    w.feed(JobEvent(T0 + 8, 7, "exception", cancelled))
    w.feed(Frozen(T0 + 9))
    w.feed(JobEvent(T0 + 10, 8, "exception", cancelled))
    for id in (7, 8):
        w.feed(JobEvent(T0 + 11, id, "finish", {"status": 15}))
        w.feed(JobEvent(T0 + 11, id, "clean"))
    w.feed(Recovered(T0 + 20))
    assert [(row["id"], row["result"], row["cause"]) for row in w.rows()] == [
        (7, "cancelled", "cancel"),
        (8, "retried", "infrastructure"),
    ]
    assert [s.key.attempt for s in w.submits()] == [0, 0, 1]
    key = w.submits()[-1].key
    for event in whole_life(key, 15, id=9)[:6]:
        w.feed(event)
    w.feed(JobEvent(T0 + 30, 9, "exception", cancelled))
    w.feed(JobEvent(T0 + 31, 9, "finish", {"status": 15}))
    w.feed(JobEvent(T0 + 31, 9, "clean"))
    assert w.rows()[-1]["result"] == "cancelled", "the instance is up again: this is the user's will"
    assert len(w.submits()) == 3


@pytest.mark.parametrize("events", [0, 1, 6])
def test_in_doubt_halts_and_resume_carries_on_without_it(world: Any, events: int) -> None:
    rules = [START, rule("job-success", act("submit", "b"), name="a", id="next", repetitions=3)]
    w = world(rules, [{"name": "a", "count": 2}, "b"], by_hand=True)
    one, two = (s.key for s in w.submits())
    for event in whole_life(one)[:events]:
        w.feed(event)
    w.feed(InDoubt(T0 + 20, one, "nobody knows"))
    assert w.engine.state == "stopping"
    for event in whole_life(two, id=8):
        w.feed(event._replace(t=event.t + 30))
    assert w.engine.final == "halted"
    assert "in doubt" in w.engine.reason
    assert str(one) in w.engine.reason
    assert [row["cause"] for row in w.rows()] == ["in-doubt", None]
    assert w.submits("b") == []
    w.command("resume")
    for event in whole_life(w.submits("b")[0].key, id=9):
        w.feed(event._replace(t=event.t + 60))
    assert len(w.submits("a")) == 2, "it is not submitted again"
    assert (w.counts()["success"], w.counts()["failed"]) == (1, 1)


def test_a_job_of_the_rules_of_the_end_that_is_lost_is_tried_again(world: Any) -> None:
    """It is to run before the state is final, whatever happens to the instance meanwhile."""
    w = world([START, rule("end", act("submit", "b"), id="last")], ["a", "b"], by_hand=True)
    for event in whole_life(w.submits("a")[0].key):
        w.feed(event)
    for event in whole_life(w.submits("b")[0].key, id=8)[:6]:
        w.feed(event)
    w.feed(JobEvent(w.t + 1, 8, "exception", {"type": "exec", "severity": 0, "note": "node failure on n1 (rank 1)"}))
    w.feed(JobEvent(w.t + 1, 8, "clean"))
    assert [s.key.attempt for s in w.submits("b")] == [0, 1]
    assert w.engine.final is None
    for event in whole_life(w.submits("b")[1].key, id=9):
        w.feed(event)
    assert w.engine.final == "complete"
    assert (w.counts("b")["success"], w.counts("b")["retried"]) == (1, 1)
