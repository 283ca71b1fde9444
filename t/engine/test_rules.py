# SPDX-License-Identifier: MIT
"""When an occasion becomes a firing: conditions, repetitions, backoff, cooldown, and the order of things."""

from __future__ import annotations

from typing import Any, List

import pytest

from ensemble.engine import acting, ending
from ensemble.engine.actions import SetTimer, Submit
from ensemble.engine.events import Acknowledged, JobEvent, Refused, TimerExpired
from t.engine.harness import T0, Plan, World, act, make_spec, rule

LOG = act("log", value="x")
START = rule("start", act("submit", "a"), id="start")


def ending_at(*times: float, status: int = 0) -> List[Plan]:
    """Plans of jobs that end that many seconds after the begin."""
    return [Plan(wait=0.5, seen=0.0, run=t - 0.5, status=status) for t in times]


def seconds(found: List[float]) -> List[float]:
    return [round(t, 2) for t in found]


WHENS = [
    (2, [2]),
    (2.0, [2]),
    ("2", [2]),
    ("== 2", [2]),
    ("= 2", [2]),
    ("!= 2", [1, 3, 4]),
    ("> 2", [3, 4]),
    (">2.5", [3, 4]),
    ("> 5.7", []),
    (">= 2", [2, 3, 4]),
    ("< 2", [1]),
    ("<= 2e0", [1, 2]),
    ("> -0.5", [1, 2, 3, 4]),
    ("<= -0.5", []),
]


@pytest.mark.parametrize(("when", "values"), WHENS)
def test_when(world: Any, when: Any, values: List[int]) -> None:
    r = rule(
        "metric", act("log", value="{count.a.success}"), name="count.a.success", when=when, repetitions="unlimited"
    )
    w = world([START, r], [{"name": "a", "count": 4}], plans={"a": ending_at(10, 20, 30, 40)}).run()
    assert w.logged() == [str(v) for v in values]


@pytest.mark.parametrize("when", ["< 1000", ">= 0", "!= 7", 0])
def test_no_value_is_false(world: Any, when: Any) -> None:
    r = rule("metric", LOG, id="r", name="variance.a.duration", when=when, repetitions="unlimited")
    w = world([START, r], plans={"a": Plan()}).run()
    assert w.fired("r") == []


def test_a_value_from_the_second_on(world: Any) -> None:
    r = rule("metric", LOG, id="r", name="std.a.duration", when=">= 0", repetitions="unlimited")
    w = world([START, r], [{"name": "a", "count": 3}], plans={"a": ending_at(10, 20, 30)}).run()
    assert seconds(w.fired("r")) == [20.0, 30.0]


def test_repetitions_one_by_default_and_none(world: Any) -> None:
    rules = [
        START,
        rule("job-success", LOG, id="one"),
        rule("job-success", LOG, id="two", repetitions=2),
        rule("job-success", LOG, id="all", repetitions="unlimited"),
        rule("job-success", LOG, id="none", repetitions=0),
    ]
    w = world(rules, [{"name": "a", "count": 4}], plans={"a": ending_at(10, 20, 30, 40)}).run()
    assert [len(w.fired(r)) for r in ("one", "two", "all", "none")] == [1, 2, 4, 0]
    states = {r.id: (r.state(w.t), r.remaining) for r in w.engine.book.rules}
    assert states["one"] == ("spent", 0)
    assert states["all"] == ("ready", None)
    assert states["none"] == ("spent", 0)


def test_backoff_skips_occasions_between_two_firings(world: Any) -> None:
    rules = [START, rule("job-success", LOG, id="r", repetitions="unlimited", backoff=2)]
    w = world(rules, [{"name": "a", "count": 9}], plans={"a": ending_at(*range(10, 100, 10))}).run()
    assert seconds(w.fired("r")) == [10.0, 40.0, 70.0]


def test_backoff_inside_a_lone_action(world: Any) -> None:
    lone = {"trigger": "job-success", "id": "r", "action": {**LOG, "repetitions": 2, "backoff": 1}}
    w = world([START, lone], [{"name": "a", "count": 5}], plans={"a": ending_at(10, 20, 30, 40, 50)}).run()
    assert seconds(w.fired("r")) == [10.0, 30.0]


def test_only_occasions_count_for_backoff(world: Any) -> None:
    """An event at which the condition does not hold is no occasion."""
    r = rule("metric", LOG, id="r", name="count.a.success", when=">= 3", repetitions="unlimited", backoff=1)
    w = world([START, r], [{"name": "a", "count": 6}], plans={"a": ending_at(10, 20, 30, 40, 50, 60)}).run()
    assert seconds(w.fired("r")) == [30.0, 50.0]


def test_cooldown_drops_occasions(world: Any) -> None:
    rules = [START, rule("job-success", LOG, id="r", repetitions="unlimited", cooldown="15s")]
    w = world(rules, [{"name": "a", "count": 4}], plans={"a": ending_at(10, 20, 24.9, 26)}).run()
    assert seconds(w.fired("r")) == [10.0, 26.0]


def test_a_metric_is_looked_at_once_more_at_the_end_of_a_cooldown(world: Any) -> None:
    r = rule("metric", LOG, id="r", name="count.a.success", when=">= 1", repetitions="unlimited", cooldown=15)
    w = world([START, r], [{"name": "a", "count": 4}], plans={"a": ending_at(10, 20, 21, 100)}).run()
    # at 10 and, since one was dropped at 20, at 25; nothing was dropped then; at 100
    assert [s.at - T0 for s in w.of(SetTimer) if s.timer == "cooldown:1"] == [pytest.approx(25.0)]
    assert seconds(w.fired("r")) == [10.0, 25.0, 100.0]


def test_a_cooldown_in_which_nothing_was_dropped_brings_nothing(world: Any) -> None:
    r = rule("metric", LOG, id="r", name="count.a.success", when=">= 1", repetitions="unlimited", cooldown=15)
    w = world([START, r], [{"name": "a", "count": 2}], plans={"a": ending_at(10, 60)}).run()
    assert seconds(w.fired("r")) == [10.0, 60.0]


def test_the_look_back_finds_the_condition_gone(world: Any) -> None:
    r = rule("metric", LOG, id="r", name="count.a.running", when=">= 1", repetitions="unlimited", cooldown=50)
    plans = {"a": [Plan(seen=0.0, wait=1.0, run=9.0), Plan(seen=0.0, wait=20.0, run=10.0)]}
    w = world([START, r, rule("timer", LOG, after=90)], [{"name": "a", "count": 2}], plans=plans).run()
    assert seconds(w.fired("r")) == [1.0]


def test_a_dropped_metric_occasion_is_waited_for(world: Any) -> None:
    """The ensemble does not end while the look at the end of a cooldown is to come."""
    r = rule("metric", act("submit", "b"), id="r", name="count.a.success", when=">= 1", repetitions=2, cooldown=500)
    w = world([START, r], [{"name": "a", "count": 2}, "b"], plans={"a": ending_at(10, 20)}).run()
    assert seconds(w.fired("r")) == [10.0, 510.0]


def test_order_within_one_event(world: Any) -> None:
    """Counts, job triggers, metric rules, group-complete, idle; within each, file order."""
    rules = [
        rule("end", LOG, id="end"),
        rule("idle", LOG, id="idle"),
        rule("group-complete", LOG, id="complete-any"),
        rule("group-complete", LOG, id="complete", name="a"),
        rule("metric", LOG, id="metric-2", name="mean.a.duration"),
        rule("metric", LOG, id="metric-1", name="count.a.success"),
        rule("job-finish", act("log", value="{count.a.success}"), id="finish"),
        rule("job-success", LOG, id="success"),
        rule("job-cleanup", LOG, id="cleanup"),
        START,
    ]
    w = world(rules).run()
    assert w.fired_rules() == [
        "start", "finish", "success", "cleanup", "metric-2", "metric-1", "complete-any", "complete", "idle", "end",
    ]  # fmt: skip
    assert w.logged()[0] == "1"


def test_file_order_within_the_job_triggers_of_one_event(world: Any) -> None:
    triggers = ["job-cleanup", "job-success", "job-finish"]
    w = world([*(rule(t, LOG, id=t) for t in triggers), START]).run()
    assert w.fired_rules() == ["start", *triggers]


def test_file_order_of_groups_that_are_complete_at_once(world: Any) -> None:
    groups = ["d", "b", "a", "c"]
    rules = [rule("group-complete", LOG, id=g, name=g) for g in groups]
    first = rule("start", act("submit", "e"), *(act("submit", g) for g in "abcd"))
    drop = rule("job-success", act("cancel", "all", state="pending"), name="e")
    w = world([*rules, first, drop], ["a", "b", "c", "d", "e"], limits={"max_active": 1}).run()
    assert [r for r in w.fired_rules() if len(r) == 1] == groups


def test_actions_in_order_and_seen_by_the_rules_behind_them(world: Any) -> None:
    rules = [
        rule("start", act("submit", "b"), act("log", value="{ensemble.active}"), act("submit", "a"), id="first"),
        rule("start", act("log", value="{ensemble.active}"), id="second"),
    ]
    w = world(rules, ["a", "b"])
    assert [s.group for s in w.submits()] == ["b", "a"]
    assert w.logged() == ["1", "2"]
    w.run()


def test_metric_rules_that_feed_themselves_are_bounded(world: Any) -> None:
    again = rule("metric", act("submit", "a"), id="r", name="ensemble.active", repetitions="unlimited")
    w = world([START, again], limits={"max_jobs": 20, "max_firings": 40}).run()
    assert w.engine.final == "halted"
    assert len(w.submits()) == 20
    assert len(w.fired("r")) == 40


@pytest.mark.parametrize("where", ["action", "metric"])
def test_a_rule_that_raises_fails_and_harms_no_other(world: Any, monkeypatch: Any, where: str) -> None:
    bad = rule("metric", act("log", value="boom"), id="bad", name="count.a.success", when=1)
    rules = [START, bad, rule("job-success", LOG, id="good", repetitions="unlimited"), rule("end", LOG, id="end")]
    w = world(rules, [{"name": "a", "count": 2}], plans={"a": ending_at(10, 20)})
    if where == "action":
        log = acting.ACTIONS["log"]

        def boom(firing: Any, action: Any) -> None:
            if action.value == "boom":
                raise ZeroDivisionError("it was zero")
            log(firing, action)

        monkeypatch.setitem(acting.ACTIONS, "log", boom)
    else:

        class Odd:
            def holds(self, x: Any) -> bool:
                raise ZeroDivisionError("it was zero")

        w.engine.book.by_id["bad"].condition = Odd()
    w.run()
    assert w.engine.final == "failed"
    assert w.engine.reason == "rule 'bad' failed: ZeroDivisionError: it was zero"
    assert [r["text"] for r in w.records("error", rule="bad")] == [w.engine.reason]
    assert w.engine.book.by_id["bad"].state(w.t) == "failed"
    assert len(w.fired("good")) == 2
    assert len(w.fired("end")) == 1
    assert w.counts()["success"] == 2, "as stop: what runs may end"


@pytest.mark.parametrize("keys", [{}, {"status": "success"}, {"status": "failure"}])
def test_a_failed_rule_is_not_undone_by_a_terminate(world: Any, keys: Any) -> None:
    rules = [START, rule("timer", LOG, id="bad", after=5), rule("timer", act("submit", "a"), after=99)]
    w = world([*rules, rule("job-success", act("terminate", **keys))], [{"name": "a", "count": 2}])
    w.engine.fail_rule(w.engine.book.by_id["bad"], ValueError("x"))
    w.run()
    assert w.engine.final == "failed"
    assert "rule 'bad' failed" in w.engine.reason


def test_timers_that_are_late_stale_or_doubled(world: Any) -> None:
    rules = [START, rule("timer", LOG, id="r", after=10, repetitions=9)]
    w = world(rules, by_hand=True)
    w.feed(TimerExpired(T0 + 9, "timer:1"))
    assert w.fired("r") == []
    w.feed(TimerExpired(T0 + 500, "timer:1"))
    assert w.fired("r") == [500.0]
    w.feed(TimerExpired(T0 + 501, "timer:1"))
    for name in ("timer:7", "never", "cooldown:0", "again", "limit:duration", ""):
        w.feed(TimerExpired(T0 + 502, name))
    assert w.fired("r") == [500.0]


def test_missed_beats_are_not_made_up_for(world: Any) -> None:
    w = world([START, rule("heartbeat", LOG, id="r", every=10, repetitions="unlimited")], by_hand=True)
    w.feed(TimerExpired(T0 + 95, "every:1"))
    assert w.fired("r") == [95.0]
    assert T0 + 95 < w.engine.timers["every:1"] <= T0 + 105


def test_a_clock_that_goes_backwards(world: Any) -> None:
    w = world([START, rule("job-success", LOG, id="r", cooldown=10, repetitions=2)], by_hand=True)
    key = w.submits()[0].key
    w.feed(JobEvent(T0 + 100, 7, "submit", {}, key))
    w.feed(Acknowledged(T0 + 50, key, 7))
    w.feed(JobEvent(T0 + 90, 7, "start"))
    w.feed(JobEvent(T0 + 80, 7, "finish", {"status": 0}))
    w.feed(JobEvent(T0 + 70, 7, "clean"))
    assert w.engine.t == T0 + 100
    assert w.fired("r") == [100.0]
    stats = w.engine.tally.table()["a"]["success"]
    assert stats["duration"]["mean"] == stats["pending"]["mean"] == 0.0
    times = [r.t for r in w.actions if hasattr(r, "t")]
    assert times == sorted(times)


def test_the_window_of_unanswered_submissions(world: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(ending, "WINDOW", 50)
    w = world([START], [{"name": "a", "count": 120}], by_hand=True)
    sent: List[Any] = []
    for let_go in (50, 50, 20):
        new = [s.key for s in w.take() if isinstance(s, Submit)]
        assert len(new) == let_go
        for key in new[:-1]:
            w.feed(Acknowledged(w.t + 0.001, key, 100 + len(sent)))
            sent.append(key)
        w.feed(Refused(w.t + 0.001, new[-1], "no"))
        sent.append(new[-1])
    assert [key.index for key in sent] == list(range(120))


def test_failed_rules_of_two_worlds_are_apart(monkeypatch: Any) -> None:
    spec = make_spec([START, rule("job-success", LOG, id="r")])
    one, two = World(spec), World(spec)
    one.engine.fail_rule(one.engine.book.by_id["r"], ValueError("x"))
    one.run()
    two.run()
    assert (one.engine.final, two.engine.final) == ("failed", "complete")


def test_a_refused_firing_spends_a_repetition(world: Any) -> None:
    rules = [START, rule("job-fail", act("submit", "a"), id="r", repetitions=2)]
    w = world(rules, plans={"a": Plan(refuse="before")}).run()
    assert len(w.submits()) == 3
    assert w.engine.book.by_id["r"].remaining == 0
    assert w.engine.final == "complete", "a rule watches the failures of this group"
