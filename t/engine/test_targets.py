# SPDX-License-Identifier: MIT
"""Actions on the job that the rule fired on, and on those of a group: cancel, kill, urgency."""

from __future__ import annotations

from typing import Any

import pytest

from ensemble.engine.actions import Cancel, Kill, Submit, Urgency
from ensemble.engine.events import Acknowledged, ActionDone, JobEvent
from t.engine.harness import EXIT1, T0, Plan, act, rule
from t.engine.lives import whole_life

START = rule("start", act("submit", "a"), id="start")


def on_start(*actions: Any, **keys: Any) -> Any:
    return rule("job-start", *actions, id="r", name="a", **keys)


def told(w: Any, **having: Any) -> Any:
    return [(r["text"], r["count"], r.get("job")) for r in w.records("action", rule="r", **having)]


@pytest.mark.parametrize(("action", "kind"), [("cancel", Cancel), ("kill", Kill)])
def test_the_job_that_fired_alone(world: Any, action: str, kind: Any) -> None:
    plans = {"a": [Plan(wait=2), Plan(wait=1, run=20), Plan(wait=3)]}
    w = world([START, on_start(act(action, job="event"))], [{"name": "a", "count": 3}], plans=plans).run()
    assert len(w.of(kind)) == 1
    assert [(row["index"], row["result"]) for row in w.rows()] == [(1, "cancelled"), (0, "success"), (2, "success")]
    ((text, count, job),) = told(w)
    assert count == 1
    assert job == w.of(kind)[0].id
    assert text.startswith(f"{action} the job of a")
    assert w.of(kind)[0].cause.rule == "r"


@pytest.mark.parametrize("action", [act("cancel"), act("kill"), act("urgency", value=3)])
@pytest.mark.parametrize("trigger", ["job-finish", "job-clean"])
def test_nothing_is_done_to_one_that_has_ended(world: Any, action: Any, trigger: str) -> None:
    w = world([START, rule(trigger, {**action, "job": "event"}, id="r")]).run()
    assert not w.of(Cancel) + w.of(Kill) + w.of(Urgency)
    ((text, count, job),) = told(w)
    assert text.endswith("nothing is done, it has ended")
    assert (count, job) == (0, 100)
    assert w.results() == {"success": 1}


@pytest.mark.parametrize(
    ("trigger", "action", "state"),
    [
        ("job-start", act("cancel", state="pending"), "running"),
        ("job-submit", act("cancel", state="running"), "pending"),
        ("job-submit", act("kill"), "pending"),
        ("job-start", act("urgency", value=0), "running"),
    ],
)
def test_nothing_is_done_to_one_in_another_state(world: Any, trigger: str, action: Any, state: str) -> None:
    w = world([START, rule(trigger, {**action, "job": "event"}, id="r")]).run()
    assert told(w)[0][0].endswith(f"nothing is done, it is {state}")
    assert w.results() == {"success": 1}


def test_the_event_of_a_firing_that_waited_for_a_limit_is_still_about_its_job(world: Any) -> None:
    rules = [START, on_start(act("submit", "b"), act("cancel", job="event"), repetitions="unlimited")]
    plans = {"a": Plan(run=None)}
    w = world(rules, [{"name": "a", "count": 2}, "b"], plans=plans, limits={"max_firings": 1})
    w.run(until=50)
    assert w.counts()["running"] == 1
    w.command("resume", limits={"max_firings": 10})
    w.run()
    assert w.results() == {"cancelled": 2, "success": 2}


def test_urgency_reaches_all_that_wait_wherever_they_do(world: Any) -> None:
    rules = [START, rule("timer", act("urgency", "a", value=20), id="r", after=5)]
    jobs = [{"name": "a", "count": 4, "retries": {"max": 1, "backoff": "1m"}}]
    plans = {"a": [Plan(wait=1, run=60), Plan(wait=30), Plan(wait=0, run=1, status=EXIT1), Plan(seen=20, ack=21)]}
    plans["a"].append(Plan())
    w = world(rules, jobs, plans=plans, limits={"max_active": 3}).run()
    # one runs; one is pending; one is sent and has no id yet; one waits to be tried again
    assert told(w) == [("urgency of a to 20 (3 jobs)", 3, None)]
    assert [(u.id, u.value) for u in w.of(Urgency)] == [(101, 20), (103, 20)]
    assert w.of(Urgency)[0].cause.rule == "r"
    assert [s.overrides for s in w.submits()] == [{}, {}, {}, {}, {"urgency": 20}]


def test_urgency_of_what_is_held(world: Any) -> None:
    jobs = [{"name": "a", "count": 3}, {"name": "b", "count": 2}]
    rules = [rule("start", act("submit", "a"), act("submit", "b"), act("urgency", "a", value=1), id="r")]
    w = world(rules, jobs, limits={"max_active": 1}).run()
    assert [s.overrides for s in w.submits("a")] == [{}, {"urgency": 1}, {"urgency": 1}]
    assert [s.overrides for s in w.submits("b")] == [{}, {}]
    assert [(u.id, u.value) for u in w.of(Urgency)] == [(100, 1)]
    w = world([rule("start", act("submit", "b"), act("urgency", "all", value=0))], jobs, limits={"max_active": 1})
    assert w.submits()[0].overrides == {}
    w.command("cancel")
    w.run()


def test_what_is_tried_again_keeps_its_urgency(world: Any) -> None:
    rules = [START, rule("job-submit", act("urgency", job="event", value=30))]
    w = world(rules, [{"name": "a", "retries": 1}], plans={"a": [Plan(status=EXIT1), Plan()]}).run()
    assert [s.overrides for s in w.submits()] == [{}, {"urgency": 30}]


def test_state_running_leaves_those_that_wait(world: Any) -> None:
    rules = [rule("start", act("submit", "a"), act("urgency", "a", value=1, state="running"), id="r")]
    w = world(rules, [{"name": "a", "count": 3}], limits={"max_active": 1}).run()
    assert not w.of(Urgency)
    assert {str(s.overrides) for s in w.submits()} == {"{}"}


def test_an_urgency_that_came_too_late_is_no_error_and_another_is(world: Any) -> None:
    w = world([START, rule("job-submit", act("urgency", job="event", value=30))], by_hand=True)
    for event in whole_life(w.submits()[0].key)[:4]:
        w.feed(event)
    w.feed(ActionDone(w.t, 7, "urgency", "Flux did not do it"))
    assert len(w.records("error")) == 1
    for event in whole_life(w.submits()[0].key)[4:7]:
        w.feed(event)
        if event.name == "start":
            w.feed(ActionDone(w.t, 7, "urgency", "it runs"))
    assert len(w.records("error")) == 1
    w.feed(JobEvent(T0 + 60, 7, "clean"))


def test_the_last_urgency_counts_for_an_intent(world: Any) -> None:
    rules = [rule("start", act("submit", "a"), act("urgency", "a", value=5), act("urgency", "a", value=6))]
    w = world(rules, by_hand=True)
    key = w.submits()[0].key
    assert [type(a) for a in w.take()] == [Submit]
    w.feed(Acknowledged(T0 + 1, key, 7))
    assert [(a.id, a.value) for a in w.take()] == [(7, 6)]
    w.feed(JobEvent(T0 + 1, 7, "submit", {}, key))
    assert w.take() == []
    for event in whole_life(key)[1:]:
        w.feed(event)


#: signal sent, exit status that follows, result
KILLED: Any = [
    ("TERM", 15, "cancelled"),
    ("TERM", (128 + 15) << 8, "cancelled"),
    ("TERM", 3 << 8, "cancelled"),
    ("INT", EXIT1, "cancelled"),
    ("KILL", (128 + 9) << 8, "cancelled"),
    ("USR1", (128 + 10) << 8, "cancelled"),
    # a message, to which the program does not have to react by its end
    ("USR1", EXIT1, "failed"),
    ("TERM", 0, "success"),
]


@pytest.mark.parametrize(("signal", "status", "result"), KILLED)
def test_a_job_that_a_rule_killed_is_cancelled_however_it_ends(
    world: Any, signal: str, status: int, result: str
) -> None:
    w = world([START, on_start(act("kill", job="event", signal=signal))], by_hand=True)
    for event in whole_life(w.submits()[0].key, status):
        w.feed(event)
    assert w.results() == {result: 1}
    assert w.engine.final == ("failed" if result == "failed" else "complete")
