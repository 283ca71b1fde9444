# SPDX-License-Identifier: MIT
"""Each action does what the language says, and carries its cause."""

from __future__ import annotations

from typing import Any

import pytest

from ensemble.engine.actions import Cancel, Kill, Submit
from ensemble.engine.events import Acknowledged, ActionDone, JobEvent, Key, Refused
from t.engine.harness import EXIT1, T0, Plan, act, rule

LOG = act("log", value="x")
START = rule("start", act("submit", "a"), id="start")


def test_submit_of_a_group_with_two_sets(world: Any) -> None:
    jobs = [{"name": "a", "count": 2}, {"name": "b"}, {"name": "a", "command": "y", "count": 1}]
    w = world([rule("start", act("submit", "a"), act("submit", "b"), id="r")], jobs, by_hand=True)
    assert [(s.key, s.group, s.set) for s in w.take()] == [
        (Key("ens", "r", 1, 0, 0), "a", 0),
        (Key("ens", "r", 1, 1, 0), "a", 0),
        (Key("ens", "r", 1, 2, 0), "a", 1),
        (Key("ens", "r", 1, 3, 0), "b", 0),
    ]


def test_submit_overrides_each_set(world: Any) -> None:
    jobs = [{"name": "a", "count": 5}, {"name": "a"}]
    submit = act("submit", "a", count=2, duration="1m", nodes=2, tasks=4, urgency=20)
    w = world([rule("start", submit, repetitions=1)], jobs, by_hand=True)
    assert [s.set for s in w.submits()] == [0, 0, 1, 1]
    assert {str(s.overrides) for s in w.submits()} == {
        str({"duration": 60.0, "nodes": 2, "tasks": 4, "urgency": 20}),
    }


def test_urgency_and_duration_of_zero_are_overrides(world: Any) -> None:
    w = world([rule("start", act("submit", "a", urgency=0, duration=0))], by_hand=True)
    assert w.submits()[0].overrides == {"urgency": 0, "duration": 0.0}


def test_no_overrides_no_keys(world: Any) -> None:
    w = world([START], by_hand=True)
    assert w.take() == [Submit(Key("ens", "start", 1, 0, 0), "a", 0, {})]


def test_firings_are_numbered_from_one(world: Any) -> None:
    again = rule("job-success", act("submit", "a"), id="again", repetitions=3)
    w = world([START, again]).run()
    assert [str(s.key) for s in w.submits()] == ["ens/start/1/0/0", *(f"ens/again/{n}/0/0" for n in (1, 2, 3))]
    assert [(r["firing"], r["remaining"]) for r in w.records("rule", rule="again")] == [(1, 2), (2, 1), (3, 0)]


#: three states of three jobs when the timer fires at 5 s, and one that is held
MIXED = [Plan(wait=1.0, run=50.0), Plan(wait=30.0, run=50.0), Plan(seen=20.0, ack=21.0, run=50.0)]
CASES = [
    (act("cancel", "a"), ["cancelled", "cancelled", "cancelled"]),
    (act("cancel", "all"), ["cancelled", "cancelled", "cancelled"]),
    (act("cancel", "a", state="pending"), ["cancelled", "cancelled", "success"]),
    (act("cancel", "all", state="running"), ["cancelled", "success", "success", "success"]),
    (act("cancel", "b"), ["success"] * 4),
]


@pytest.mark.parametrize(("cancel", "results"), CASES, ids=["group", "all", "pending", "running", "other"])
def test_cancel(world: Any, cancel: Any, results: Any) -> None:
    rules = [START, rule("timer", cancel, id="r", after=5)]
    w = world(rules, [{"name": "a", "count": 4}, "b"], plans={"a": [*MIXED, Plan()]}, limits={"max_active": 3}).run()
    assert sorted(row["result"] for row in w.rows()) == results
    assert all(row["cause"] == "cancel" for row in w.rows() if row["result"] == "cancelled")
    assert w.engine.final == "complete"
    causes = {(c.cause.rule, c.cause.firing) for c in w.of(Cancel)}
    assert causes <= {("r", 1), (None, 0)}


def test_an_intent_that_is_cancelled_is_cancelled_as_soon_as_it_is_a_job(world: Any) -> None:
    rules = [rule("start", act("submit", "a"), act("cancel", "a"), id="r")]
    w = world(rules, [{"name": "a", "count": 2}], by_hand=True)
    first, second = (s.key for s in w.submits())
    assert [type(a) for a in w.take()] == [Submit, Submit]
    w.feed(Acknowledged(T0 + 1, first, 7))
    assert [a.id for a in w.take()] == [7]
    w.feed(JobEvent(T0 + 1, 7, "submit", {}, first))
    w.feed(JobEvent(T0 + 2, 8, "submit", {}, second))
    assert [a.id for a in w.take()] == [8]
    w.feed(Acknowledged(T0 + 2, second, 8))
    assert w.take() == []


def test_an_intent_that_is_cancelled_and_then_refused_is_cancelled(world: Any) -> None:
    w = world([rule("start", act("submit", "a"), act("cancel", "a"))], by_hand=True)
    w.feed(Refused(T0 + 1, w.submits()[0].key, "no"))
    assert w.results() == {"cancelled": 1}
    assert w.engine.final == "complete"


def test_a_job_is_cancelled_once(world: Any) -> None:
    rules = [START, *(rule("timer", act("cancel", "all"), after=n) for n in (3, 3.001, 3.002))]
    w = world(rules, plans={"a": Plan(run=None)}).run()
    assert len(w.of(Cancel)) == 1


def test_what_a_cancel_ends_is_cancelled_also_where_the_queue_tells_no_exception(world: Any) -> None:
    w = world([START, rule("job-start", act("cancel", "a"))], by_hand=True)
    key = w.submits()[0].key
    w.feed(JobEvent(T0 + 1, 7, "submit", {}, key))
    for name in ("start", "finish", "clean"):
        w.feed(JobEvent(T0 + 2, 7, name, {"status": 15}))
    assert w.results() == {"cancelled": 1}


def test_what_has_finished_is_not_cancelled(world: Any) -> None:
    w = world([START, rule("job-finish", act("cancel", "all"))], by_hand=True)
    key = w.submits()[0].key
    w.feed(JobEvent(T0 + 1, 7, "submit", {}, key))
    for name in ("start", "finish", "clean"):
        w.feed(JobEvent(T0 + 2, 7, name, {"status": 0}))
    assert w.of(Cancel) == []
    assert w.results() == {"success": 1}
    assert [r["count"] for r in w.records("action", action="cancel")] == [0]


def test_cancel_tells_of_those_that_were_held(world: Any) -> None:
    rules = [START, rule("timer", act("cancel", "a"), after=5)]
    w = world(rules, [{"name": "a", "count": 9}], limits={"max_active": 2}).run()
    assert [r["count"] for r in w.records("action", action="cancel")] == [9]


KILLS = [
    # signal, plan, result, cause
    (None, Plan(run=50.0), "cancelled", "cancel"),
    ("SIGKILL", Plan(run=50.0), "cancelled", "cancel"),
    ("usr1", Plan(run=50.0), "cancelled", "cancel"),
    ("USR1", Plan(run=50.0, handles=(10,)), "success", None),
    (10, Plan(run=50.0, handles=(10,), status=EXIT1), "failed", "fail"),
    ("TERM", Plan(run=20.0, handles=(15,), status=EXIT1), "cancelled", "cancel"),
    ("TERM", Plan(run=20.0, handles=(15,)), "success", None),
    (40, Plan(run=50.0), "cancelled", "cancel"),
]


@pytest.mark.parametrize(("signal", "plan", "result", "cause"), KILLS)
def test_kill(world: Any, signal: Any, plan: Plan, result: str, cause: Any) -> None:
    kill = act("kill", "a", **({"signal": signal} if signal is not None else {}))
    w = world([START, rule("timer", kill, id="r", after=5)], plans={"a": plan}).run()
    assert [(row["result"], row["cause"]) for row in w.rows()] == [(result, cause)]
    assert [k.cause.rule for k in w.of(Kill)] == ["r"]
    assert w.engine.final == ("failed" if result == "failed" else "complete")


def test_a_later_signal_does_not_hide_a_deadly_one(world: Any) -> None:
    rules = [START, rule("timer", act("kill", "a"), act("kill", "a", signal="USR1"), after=5)]
    w = world(rules, plans={"a": Plan(run=20.0, handles=(15, 10), status=15)}).run()
    assert w.results() == {"cancelled": 1}


def test_kill_reaches_the_running_alone(world: Any) -> None:
    rules = [START, rule("timer", act("kill", "all", signal="KILL"), after=5)]
    w = world(rules, [{"name": "a", "count": 3}], plans={"a": MIXED}).run()
    assert [k.signal for k in w.of(Kill)] == [9]
    assert w.results() == {"cancelled": 1, "success": 2}


def test_what_the_queue_could_not_do_is_told(world: Any) -> None:
    w = world([START, rule("timer", act("kill", "a", signal="USR1"), after=5)], plans={"a": Plan(handles=(10,))})
    w.run(until=6.0)
    id = next(iter(w.engine.by_id))
    w.feed(ActionDone(w.t, id, "kill", "no shell"))
    assert w.records("error")[0]["text"] == "kill of a job of a failed: no shell"
    before = len(w.actions)
    w.feed(ActionDone(w.t, id, "kill"))
    w.feed(ActionDone(w.t, 999, "kill", "no such job"))
    assert len(w.actions) == before
    w.run()


def test_stop_lets_jobs_end_and_submits_no_more(world: Any) -> None:
    rules = [
        START,
        rule("job-success", act("stop"), act("submit", "b"), id="stop"),
        rule("job-success", act("submit", "b"), LOG, id="later", repetitions="unlimited"),
        rule("heartbeat", act("submit", "b"), id="beat", every=2, repetitions="unlimited"),
        rule("heartbeat", act("submit", "b"), id="common", repetitions="unlimited"),
        rule("timer", act("submit", "b"), id="timer", after=12.5),
    ]
    plans = {"a": [Plan(run=float(n)) for n in range(10, 15)], "b": Plan(run=1.0)}
    w = world(rules, [{"name": "a", "count": 5}, "b"], plans=plans, limits={"max_active": 4},
              logging={"heartbeat": 2}).run()  # fmt: skip
    assert w.counts("a")["success"] + w.counts("b")["success"] == len(w.submits())
    stopped = w.fired("stop")[0]
    assert all(t < stopped for t in w.fired("beat") + w.fired("common"))
    assert w.fired("timer") == []
    # what rules other than timers say is still heard, but it submits nothing
    assert len(w.logged()) >= 1
    assert all("nothing is submitted" in r["text"] for r in w.records("action", rule="later"))
    assert w.engine.final == "complete"
    assert "stop" in w.engine.reason


def test_stop_ends_as_failures_say(world: Any) -> None:
    w = world([START, rule("job-finish", act("stop"))], plans={"a": Plan(status=EXIT1)}).run()
    assert w.engine.final == "failed"


TERMINATES = [
    ({}, EXIT1, "failed"),
    ({}, 0, "complete"),
    ({"status": "success"}, EXIT1, "complete"),
    ({"status": "failure"}, 0, "failed"),
]


@pytest.mark.parametrize(("keys", "status", "state"), TERMINATES)
def test_terminate(world: Any, keys: Any, status: int, state: str) -> None:
    rules = [
        rule("start", act("submit", "a"), act("submit", "b")),
        rule("job-finish", LOG, act("terminate", **keys), LOG, id="t", name="a"),
        rule("job-finish", LOG, id="after", repetitions="unlimited"),
        rule("end", LOG, id="end"),
        rule("idle", LOG, id="idle"),
        rule("group-complete", LOG, id="done", repetitions="unlimited"),
    ]
    plans = {"a": Plan(status=status), "b": [Plan(run=None), Plan(wait=99.0), Plan(seen=30.0, ack=31.0)]}
    w = world(rules, ["a", {"name": "b", "count": 5}], plans=plans, limits={"max_active": 4}).run()
    assert w.logged() == ["x"]
    assert w.fired_rules() == ["rule-1", "t"]
    assert w.counts("b")["cancelled"] == 3
    assert w.engine.final == state


def test_log_fills_in_paths(world: Any) -> None:
    line = "{count.a.success} {mean.a.duration} {median.a.duration} {p90.a.failed.duration} {max.a-pending} {x} {} {{n.a.waiting}}"
    w = world([START, rule("job-success", act("log", value=line))], logging={"heartbeat": 100}).run()
    assert w.logged() == ["1 10 10 no value 1 {x} {} {0}"]
    assert w.records("log")[0]["rule"] == "rule-2"


def test_a_statistic_that_only_a_log_line_reads_is_kept(world: Any) -> None:
    rules = [START, rule("end", act("log", value="{iqr.a.finished.duration} {n.a.finished.pending}"))]
    w = world(rules, [{"name": "a", "count": 4}], plans={"a": [Plan(run=float(n)) for n in (1, 2, 3, 4)]}).run()
    assert w.logged()[0].split()[1] == "4"
    assert float(w.logged()[0].split()[0]) > 0


def test_a_log_line_is_no_watch_over_failures(world: Any) -> None:
    rules = [START, rule("end", act("log", value="{count.a.failed} failed"))]
    w = world(rules, plans={"a": Plan(status=EXIT1)}).run()
    assert w.engine.final == "failed"
    assert w.logged() == ["1 failed"]


def test_waiting_is_kept_for_a_log_line(world: Any) -> None:
    rules = [START, rule("timer", act("log", value="{max.a.waiting} {n.a.waiting}"), after=25)]
    w = world(rules, plans={"a": Plan(wait=30.0)}, logging={"heartbeat": 10}).run()
    assert w.logged() == ["19.99 1"]


def test_disable_and_enable(world: Any) -> None:
    rules = [
        START,
        rule("heartbeat", LOG, id="beat", every=1, repetitions="unlimited", enabled=False),
        rule("timer", act("enable", "beat"), id="on", after=2.5),
        rule("timer", act("disable", "beat"), id="off", after=5.5),
    ]
    w = world(rules).run()
    assert w.fired("beat") == [3.0, 4.0, 5.0]
    assert [r["label"] for r in w.records("action") if r["action"] in ("enable", "disable")] == ["beat", "beat"]


def test_a_rule_that_an_earlier_one_disables_does_not_fire_for_the_same_event(world: Any) -> None:
    rules = [rule("start", act("disable", "second"), act("submit", "a")), rule("start", LOG, id="second")]
    w = world(rules).run()
    assert w.logged() == []
