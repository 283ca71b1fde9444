# SPDX-License-Identifier: MIT
"""Each trigger fires when the language says so, as often as it says, and not otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from ensemble.engine.events import Acknowledged, Begin, JobEvent, Refused, TimerExpired
from ensemble.spec.models import END_TRIGGERS, EVENT_TRIGGERS, STATE_TRIGGERS
from t.engine.harness import EXIT1, T0, Plan, act, rule

LOG = act("log", value="x")
START = rule("start", act("submit", "a"), id="start")


def submitted(w: Any, group: str = "a", number: int = 0, id: int = 7) -> int:
    """Let the queue take one of the submissions; the job's id."""
    key = w.submits(group)[number].key
    w.feed(JobEvent(w.t + 1, id, "submit", {}, key))
    w.feed(Acknowledged(w.t, key, id))
    return id


def ended(w: Any, id: int, status: int = 0, exception: Any = None) -> None:
    """From the start to the end of a job."""
    w.feed(JobEvent(w.t + 1, id, "start"))
    if exception:
        w.feed(JobEvent(w.t + 1, id, "exception", {"type": exception, "severity": 0, "note": ""}))
    w.feed(JobEvent(w.t + 1, id, "finish", {"status": status}))
    w.feed(JobEvent(w.t + 1, id, "clean"))


def test_start_fires_once_and_first(world: Any) -> None:
    w = world([rule("start", LOG, id="r", repetitions="unlimited", name="a title"), START], by_hand=True)
    assert w.fired("r") == [0.0]
    w.feed(Begin(T0 + 1))
    submitted(w)
    assert w.fired("r") == [0.0]


def test_metric_fires_at_each_change_while_it_holds(world: Any) -> None:
    r = rule("metric", LOG, id="r", name="count.a.success", when=">= 2", repetitions="unlimited")
    w = world([START, r], [{"name": "a", "count": 4}], plans={"a": [Plan(run=10.0 * (n + 1)) for n in range(4)]})
    w.run()
    assert [x["text"] for x in w.records("rule", rule="r")] == [f"count.a.success = {n}" for n in (2, 3, 4)]


def test_metric_without_a_condition_fires_at_each_change(world: Any) -> None:
    r = rule("metric", LOG, id="r", name="count.a.finished", repetitions="unlimited")
    w = world([START, r], [{"name": "a", "count": 3}], plans={"a": [Plan(run=10.0 * (n + 1)) for n in range(3)]})
    w.run()
    assert len(w.fired("r")) == 3


def test_metric_of_the_ensemble(world: Any) -> None:
    rules = [
        START,
        rule("metric", LOG, id="active", name="ensemble.active", when=0),
        rule("metric", LOG, id="sent", name="ensemble.submitted", repetitions="unlimited"),
        rule("metric", LOG, id="late", name="ensemble.elapsed", when="> 12"),
    ]
    w = world(rules, [{"name": "a", "count": 3}], logging={"heartbeat": 5})
    w.run()
    assert len(w.fired("active")) == 1
    assert w.fired("late") == [15.0] or w.engine.t_end - T0 < 15
    # three were sent by one event: one change
    assert [x["text"] for x in w.records("rule", rule="sent")] == ["ensemble.submitted = 3"]


def test_elapsed_is_looked_at_with_heartbeats(world: Any) -> None:
    late = rule("metric", LOG, id="late", name="ensemble.elapsed", when="> 12")
    w = world([START, late], plans={"a": Plan(run=100.0)}, logging={"heartbeat": 5}).run()
    assert w.fired("late") == [15.0]


@pytest.mark.parametrize(("trigger", "event"), STATE_TRIGGERS.items())
def test_a_state_is_entered_once(world: Any, trigger: str, event: str) -> None:
    everywhere = rule(trigger, LOG, id="all", repetitions="unlimited")
    named = rule(trigger, LOG, id="named", name="a", repetitions="unlimited")
    other = rule(trigger, LOG, id="other", name="b", repetitions="unlimited")
    w = world([START, everywhere, named, other], ["a", "b"], by_hand=True)
    id = submitted(w)
    before = ["submit", "validate", "depend", "priority", "alloc", "start", "finish", "clean"]
    for name in before:
        context = {"status": 0} if name == "finish" else {}
        if name == event:
            assert w.fired("all") == []
        if name != "submit":
            w.feed(JobEvent(w.t + 1, id, name, context))
        if name == event:
            assert len(w.fired("all")) == len(w.fired("named")) == 1
        if name in ("priority", "alloc"):  # again: a new priority, or a repeat
            w.feed(JobEvent(w.t + 1, id, name))
    assert len(w.fired("all")) == len(w.fired("named")) == 1
    assert w.fired("other") == []
    assert {event} - {"submit", "start", "finish", "exception", "clean"} <= w.engine.wanted_events


def test_an_event_that_no_rule_wants_is_not_asked_for(world: Any) -> None:
    w = world([START, rule("job-run", LOG), rule("job-memo", LOG)], by_hand=True)
    assert w.engine.wanted_events == {"alloc", "memo"}


def test_a_severe_exception_is_cleanup(world: Any) -> None:
    w = world([START, rule("job-cleanup", LOG, id="r", repetitions="unlimited")], by_hand=True)
    id = submitted(w)
    w.feed(JobEvent(w.t + 1, id, "exception", {"type": "x", "severity": 3, "note": ""}))
    assert w.fired("r") == []
    ended(w, id, EXIT1, "cancel")
    assert len(w.fired("r")) == 1


ONCE = {"submit", "validate", "depend", "alloc", "start", "free", "clean", "invalidate"}


@pytest.mark.parametrize(("trigger", "event"), EVENT_TRIGGERS.items())
def test_the_other_events_by_name(world: Any, trigger: str, event: str) -> None:
    w = world([START, rule(trigger, LOG, id="r", name="a", repetitions="unlimited")], by_hand=True)
    key = w.submits()[0].key
    w.feed(JobEvent(w.t + 1, 7, "submit", {}, key))
    if event != "submit":
        assert w.fired("r") == []
        context = {"type": "x", "severity": 3, "note": ""} if event == "exception" else {}
        if event == "clean":
            # without an end before it the job would count as lost, and be tried again
            w.feed(JobEvent(w.t + 1, 7, "finish", {"status": 0}))
        w.feed(JobEvent(w.t + 1, 7, event, context))
    assert len(w.fired("r")) == 1
    if event not in ("clean", "invalidate"):
        repeat = JobEvent(w.t + 1, 7, event, {}, key if event == "submit" else None)
        w.feed(repeat)
        assert len(w.fired("r")) == (1 if event in ONCE else 2)


def test_a_foreign_job_fires_nothing(world: Any) -> None:
    triggers = [*STATE_TRIGGERS, *END_TRIGGERS, *EVENT_TRIGGERS]
    w = world([START, *(rule(trigger, LOG) for trigger in triggers)], by_hand=True)
    before = len(w.actions)
    for event in ("start", "alloc", "finish", "clean", "memo"):
        w.feed(JobEvent(w.t + 1, 999, event, {"status": 0}))
    assert len(w.actions) == before


ENDINGS = [
    ("success", Plan(), {"job-finish", "job-success"}),
    ("exit", Plan(status=EXIT1), {"job-finish", "job-fail"}),
    ("signal", Plan(status=11), {"job-finish", "job-fail"}),
    ("timeout", Plan(status=15, exception=("timeout", "")), {"job-finish", "job-fail", "job-timeout"}),
    ("cancel", Plan(status=15, exception=("cancel", "")), {"job-finish", "job-cancel"}),
    ("refused", Plan(refuse="before"), {"job-finish", "job-fail"}),
    ("invalid", Plan(refuse="after"), {"job-finish", "job-fail"}),
]


@pytest.mark.parametrize(("plan", "fires"), [e[1:] for e in ENDINGS], ids=[e[0] for e in ENDINGS])
def test_how_a_job_ends(world: Any, plan: Plan, fires: Any) -> None:
    rules = [rule(trigger, LOG, id=trigger, name="a", repetitions="unlimited") for trigger in END_TRIGGERS]
    others = [rule(trigger, LOG, name="b", repetitions="unlimited") for trigger in END_TRIGGERS]
    w = world([START, *rules, *others], ["a", "b"], plans={"a": plan}).run()
    assert set(w.fired_rules()) == {"start", *fires}
    assert all(len(w.fired(trigger)) == 1 for trigger in fires)


def test_group_complete_is_armed_again_by_a_submission(world: Any) -> None:
    rules = [
        START,
        rule("group-complete", act("submit", "a"), id="again", name="a", repetitions=2),
        rule("group-complete", LOG, id="any", repetitions="unlimited"),
        rule("group-complete", LOG, id="never", name="b", repetitions="unlimited"),
    ]
    plans = {"a": [Plan(run=10.0), Plan(run=20.0), *[Plan(run=5.0)] * 10]}
    w = world(rules, [{"name": "a", "count": 2}, {"name": "b"}], plans=plans).run()
    assert len(w.submits("a")) == 6
    # the rule that stands first has submitted again when the second one is asked: an occasion all the same
    assert len(w.fired("any")) == 3
    assert w.fired("any")[0] == pytest.approx(21.01, abs=0.05)
    assert w.fired("never") == []


def test_group_complete_waits_for_intents_and_held_ones(world: Any) -> None:
    w = world(
        [START, rule("group-complete", LOG, id="r")],
        [{"name": "a", "count": 3}],
        by_hand=True,
        limits={"max_active": 2},
    )
    ended(w, submitted(w))
    w.feed(Refused(w.t + 1, w.submits()[1].key, "no"))
    assert w.fired("r") == []
    ended(w, submitted(w, number=2, id=8))
    assert len(w.fired("r")) == 1


def test_group_complete_when_what_was_held_is_cancelled(world: Any) -> None:
    rules = [
        START,
        rule("job-success", act("cancel", "a"), id="drop"),
        rule("group-complete", LOG, id="r", name="a"),
    ]
    w = world(rules, [{"name": "a", "count": 9}], limits={"max_active": 1}).run()
    assert w.results() == {"success": 1}
    assert len(w.fired("r")) == 1


def test_heartbeat_of_the_ensemble_and_of_a_rule(world: Any) -> None:
    rules = [
        START,
        rule("heartbeat", LOG, id="common", repetitions="unlimited"),
        rule("heartbeat", LOG, id="own", every=7, repetitions=3),
    ]
    w = world(rules, plans={"a": Plan(run=33.0)}, logging={"heartbeat": "10s"}).run()
    assert w.fired("common") == [10.0, 20.0, 30.0]
    assert w.fired("own") == [7.0, 14.0, 21.0]


def test_a_heartbeat_rule_has_a_period_without_being_told(world: Any) -> None:
    w = world([START, rule("heartbeat", LOG, id="r", repetitions="unlimited")], plans={"a": Plan(run=130.0)}).run()
    assert w.fired("r") == [60.0, 120.0]


def test_a_late_heartbeat_does_not_move_those_behind_it(world: Any) -> None:
    w = world([START, rule("heartbeat", LOG, id="r", repetitions="unlimited")], by_hand=True, logging={"heartbeat": 10})
    w.feed(TimerExpired(T0 + 10.4, "heartbeat"))
    assert w.engine.timers["heartbeat"] == T0 + 20


def test_a_heartbeat_that_submits_keeps_the_ensemble_alive(world: Any) -> None:
    w = world([rule("heartbeat", act("submit", "a"), id="r", every=100, repetitions=3)]).run()
    assert w.fired("r") == [100.0, 200.0, 300.0]
    assert w.engine.final == "complete"
    assert w.engine.t_end - T0 == pytest.approx(311, abs=1)


def test_a_heartbeat_that_only_logs_keeps_nothing_alive(world: Any) -> None:
    w = world([rule("heartbeat", LOG, id="r", every=100, repetitions=3)])
    assert w.engine.final == "complete"
    assert w.fired("r") == []


def test_timer_fires_once_and_is_waited_for(world: Any) -> None:
    w = world([rule("timer", act("submit", "a"), id="r", after="5m", repetitions="unlimited")]).run()
    assert w.fired("r") == [300.0]
    assert w.results() == {"success": 1}


def test_a_disabled_timer_rule_is_not_waited_for(world: Any) -> None:
    w = world([rule("timer", act("submit", "a"), after="5m", enabled=False)])
    assert w.engine.final == "complete"


def test_idle_is_looked_at_once_per_fall(world: Any) -> None:
    rules = [START, rule("idle", act("submit", "a"), id="r", repetitions=3)]
    w = world(rules).run()
    assert len(w.submits("a")) == 4
    assert len(w.fired("r")) == 3
    assert w.engine.final == "complete"


def test_idle_comes_again_after_a_refusal(world: Any) -> None:
    w = world(
        [START, rule("idle", act("submit", "a"), id="r", repetitions=3)], plans={"a": Plan(refuse="before")}
    ).run()
    assert len(w.fired("r")) == 3


def test_idle_once_while_something_else_keeps_it_alive(world: Any) -> None:
    rules = [
        rule("idle", LOG, id="r", repetitions="unlimited"),
        rule("heartbeat", act("submit", "a"), id="beat", every=50, repetitions=1),
    ]
    w = world(rules).run()
    assert w.fired("r") == [0.0, pytest.approx(61, abs=1)]


def test_idle_with_nothing_to_do_ends(world: Any) -> None:
    w = world([rule("idle", LOG, id="r", repetitions="unlimited")])
    assert w.fired("r") == [0.0]
    assert w.engine.final == "complete"


def test_what_an_idle_rule_brings_about_is_looked_at_too(world: Any) -> None:
    rules = [
        rule("idle", act("submit", "a"), act("cancel", "a"), id="idle"),
        rule("group-complete", LOG, id="done", name="a"),
    ]
    w = world(rules, limits={"max_active": 1}).run()
    assert w.fired_rules() == ["idle", "done"]


ENDS = [
    ("complete", [START], Plan()),
    ("failed", [START], Plan(status=EXIT1)),
    ("halted", [START, rule("job-success", act("submit", "a"))], Plan()),
]


@pytest.mark.parametrize(("state", "rules", "plan"), ENDS, ids=[e[0] for e in ENDS])
def test_end_by_name_once_and_its_jobs_run_before_the_state_is_final(
    world: Any, state: str, rules: Any, plan: Plan
) -> None:
    more = [
        rule("end", act("submit", "b"), id=s, name=s, repetitions=9)
        for s in ("complete", "failed", "cancelled", "halted")
    ]
    any_end = rule("end", LOG, id="any", repetitions=9)
    w = world(
        [*rules, *more, any_end], ["a", {"name": "b", "count": 2}], plans={"a": plan}, limits={"max_jobs": 1}
    ).run()
    assert w.engine.final == state
    assert [r for r in w.fired_rules() if r in ("complete", "failed", "cancelled", "halted", "any")] == [state, "any"]
    assert w.counts("b")["success"] == 2


def test_end_after_a_cancel_by_the_user(world: Any) -> None:
    w = world([START, rule("end", act("submit", "b"), id="r", name="cancelled")], ["a", "b"])
    w.run(until=5.0)
    w.command("cancel")
    w.run()
    assert w.engine.final == "cancelled"
    assert w.counts("a")["cancelled"] == 1
    assert w.counts("b")["success"] == 1


def test_end_rules_fire_nothing_else(world: Any) -> None:
    rules = [START, rule("end", act("submit", "b"), id="end"), rule("job-success", LOG, id="r", name="b")]
    w = world(rules, ["a", "b"]).run()
    assert w.fired_rules() == ["start", "end"]


def test_a_failing_job_of_the_end_makes_it_failed(world: Any) -> None:
    w = world(
        [START, rule("end", act("submit", "b"), name="complete")], ["a", "b"], plans={"b": Plan(status=EXIT1)}
    ).run()
    assert w.engine.final == "failed"
