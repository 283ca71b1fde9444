# SPDX-License-Identifier: MIT
"""Limits, pause and resume, the user's cancel, and how an ensemble is judged."""

from __future__ import annotations

from typing import Any, List

import pytest

from ensemble.engine.actions import Cancel, Submit
from ensemble.engine.events import TimerExpired
from t.engine.harness import EXIT1, T0, Plan, act, rule

LOG = act("log", value="x")
START = rule("start", act("submit", "a"), id="start")


def keys(w: Any, group: str = "a") -> List[str]:
    return [str(s.key) for s in w.submits(group)]


def test_max_jobs_halts_and_carries_on_with_what_was_held(world: Any) -> None:
    again = rule("job-success", act("submit", "b"), id="again", name="a", repetitions="unlimited")
    w = world([START, again], [{"name": "a", "count": 5}, "b"], limits={"max_jobs": 3}).run()
    assert w.engine.final == "halted"
    assert "max_jobs" in w.engine.reason
    assert "3" in w.engine.reason
    assert keys(w) == [f"ens/start/1/{n}/0" for n in range(3)]
    # the successes of these three fired the rule; that waits behind the two that were held first
    assert len(w.fired("again")) == 3
    assert w.counts("a")["active"] == 2
    assert w.counts("b")["active"] == 3
    w.command("resume", limits={"max_jobs": 4})
    assert w.engine.state == "stopping", "one more, then the limit again"
    w.run()
    assert w.engine.final == "halted"
    w.command("resume", limits={"max_jobs": 100})
    w.run()
    assert w.engine.final == "complete"
    assert keys(w) == [f"ens/start/1/{n}/0" for n in range(5)]
    assert keys(w, "b") == [f"ens/again/{n}/0/0" for n in range(1, 6)]


def test_no_firing_is_lost_at_max_firings(world: Any) -> None:
    again = rule("job-success", act("submit", "b"), id="again", name="a", repetitions="unlimited")
    w = world([START, again], [{"name": "a", "count": 6}, "b"], limits={"max_firings": 2}).run()
    assert w.engine.final == "halted"
    assert "'again'" in w.engine.reason
    assert len(keys(w, "b")) == 2
    w.command("resume", limits={"max_firings": 3})
    w.run()
    assert w.engine.final == "halted"
    w.command("resume", limits={"max_firings": 50})
    w.run()
    assert keys(w, "b") == [f"ens/again/{n}/0/0" for n in range(1, 7)]
    assert w.engine.final == "complete"


def test_max_firings_is_of_rules_that_submit(world: Any) -> None:
    rules = [START, rule("job-success", LOG, id="r", repetitions="unlimited")]
    w = world(rules, [{"name": "a", "count": 6}], limits={"max_firings": 2}).run()
    assert w.engine.final == "complete"
    assert len(w.fired("r")) == 6


def test_max_active(world: Any) -> None:
    w = world([START], [{"name": "a", "count": 9}], limits={"max_active": 2})
    most = 0
    while w.engine.final is None:
        w.step()
        counts = w.counts()
        most = max(most, counts["pending"] + counts["running"] + w.engine.unanswered)
        assert counts["active"] == 9 - counts["finished"]
    assert most == 2
    assert w.results() == {"success": 9}
    assert keys(w) == [f"ens/start/1/{n}/0" for n in range(9)]


def test_submit_rate(world: Any) -> None:
    """One second's worth at once, then one at a time; what waits goes at once when the limit is lifted."""
    w = world([START], [{"name": "a", "count": 30}], limits={"submit_rate": 2})
    sent = []
    for until in (0.2, 0.7, 1.2, 1.7, 2.2, 5.2):
        w.run(until=until)
        sent.append(len(keys(w)))
    assert sent == [2, 3, 4, 5, 6, 12]
    w.command("resume", limits={"submit_rate": 10})
    w.run(until=6.2)
    assert 20 <= len(keys(w)) <= 24
    w.command("resume", limits={"submit_rate": None})
    assert len(keys(w)) == 30
    w.run()
    assert w.engine.final == "complete"
    assert keys(w) == [f"ens/start/1/{n}/0" for n in range(30)]


def test_a_raised_max_active_lets_go_at_once(world: Any) -> None:
    w = world([START], [{"name": "a", "count": 9}], limits={"max_active": 2}, by_hand=True)
    assert len(w.take()) == 2
    w.command("resume", limits={"max_active": 5})
    assert len(w.take()) == 3
    w.command("resume", limits={"max_active": None})
    assert len(w.take()) == 4


FAILURES = [
    # limit, statuses in the order of ending, jobs that have ended when it is reached (None: never)
    (1, [0, 1], 2),
    (2, [1, 0, 1, 0], 3),
    (3, [1, 0, 1, 0], None),
    ("50%", [1, 0, 0, 0, 1, 1], None),
    ("50%", [1, 1, 0, 0, 0], 2),
    ("10%", [1] * 5 + [0] * 7, 10),
    ("0%", [0, 0, 1, 0], 3),
]


@pytest.mark.parametrize(("limit", "statuses", "reached"), FAILURES)
def test_max_failures(world: Any, limit: Any, statuses: List[int], reached: Any) -> None:
    plans = {"a": [Plan(run=10.0 * (n + 1), status=s << 8) for n, s in enumerate(statuses)]}
    jobs = [{"name": "a", "count": len(statuses)}]
    w = world([START], jobs, plans=plans, limits={"max_failures": limit}, failures="all").run()
    stopping = [r["t"] for r in w.records("state", state="stopping")]
    if reached is None:
        assert w.engine.final == "complete"
    else:
        assert w.engine.final == "halted"
        assert "max_failures" in w.engine.reason
        assert stopping[0] == pytest.approx(1.01 + 10.0 * reached, abs=0.1)


def test_duration_halts_and_may_be_raised(world: Any) -> None:
    rules = [START, rule("job-success", act("submit", "a"), id="again", repetitions=4)]
    w = world(rules, limits={"duration": 25}).run()
    assert w.engine.final == "halted"
    assert "duration" in w.engine.reason
    # at 25 s the third job was running; its success is heard, and what it brings about waits
    assert len(keys(w)) == 3
    w.command("resume", limits={"duration": 100.0})
    w.run()
    assert w.engine.final == "complete"
    assert len(keys(w)) == 5


def test_a_duration_that_has_passed_halts_again(world: Any) -> None:
    w = world([START, rule("job-success", act("submit", "a"), repetitions=4)], limits={"duration": 25}).run()
    w.command("resume", limits={"max_jobs": 1000})
    w.run()
    assert w.engine.final == "halted"
    assert "duration" in w.engine.reason


def test_a_duration_that_is_lifted(world: Any) -> None:
    w = world([START, rule("job-success", act("submit", "a"), repetitions=4)], limits={"duration": 25})
    w.run(until=5.0)
    w.command("resume", limits={"duration": None})
    w.run()
    assert w.engine.final == "complete"


def test_a_duration_that_is_raised_while_it_runs(world: Any) -> None:
    w = world([START], plans={"a": Plan(run=50.0)}, limits={"duration": 25})
    w.run(until=5.0)
    w.command("resume", limits={"duration": 100.0})
    w.run()
    assert w.engine.final == "complete"


def test_while_it_halts_the_other_rules_go_on(world: Any) -> None:
    rules = [
        rule("start", act("submit", "a"), act("submit", "b"), act("submit", "a")),
        rule("heartbeat", LOG, id="beat", every=4, repetitions="unlimited"),
        rule("job-success", act("cancel", "b"), id="r", name="a"),
    ]
    w = world(rules, ["a", "b"], plans={"b": Plan(run=None)}, limits={"max_jobs": 2})
    w.run()
    assert w.engine.final == "halted"
    assert len(w.fired("beat")) >= 2
    assert w.results() == {"success": 1, "cancelled": 1}
    w.command("resume", limits={"max_jobs": 9})
    w.run()
    assert w.engine.final == "complete"
    assert w.results() == {"success": 2, "cancelled": 1}


def test_timers_and_heartbeats_carry_on_after_a_halt(world: Any) -> None:
    rules = [
        rule("start", act("submit", "a", count=2)),
        rule("timer", LOG, id="timer", after=300),
        rule("heartbeat", LOG, id="beat", every=7, repetitions="unlimited"),
        rule("heartbeat", LOG, id="common", repetitions="unlimited"),
    ]
    w = world(rules, limits={"max_jobs": 1}, logging={"heartbeat": 5}).run()
    assert w.engine.final == "halted"
    ended = w.engine.t_end
    w.run(until=60.0)
    assert w.engine.t_end == ended
    w.command("resume", limits={"max_jobs": 2})
    w.run()
    assert w.engine.final == "complete"
    assert w.fired("timer") == [300.0]
    for beat in ("beat", "common"):
        assert [t for t in w.fired(beat) if t > 60], "it beats again"


def test_a_limit_while_the_last_jobs_clean_up_may_be_raised_as_well(world: Any) -> None:
    rules = [START, rule("end", act("submit", "b"), id="end")]
    w = world(rules, [{"name": "a", "count": 3}, "b"], plans={"b": Plan(run=500.0)}, limits={"max_jobs": 1})
    w.run(until=100.0)
    assert w.engine.state == "stopping"
    w.command("resume", limits={"max_jobs": 10})
    w.run()
    assert w.engine.final == "complete"
    assert len(keys(w)) == 3
    assert w.fired("end") != []


def test_a_rule_on_the_end_that_a_limit_was_not_still_fires(world: Any) -> None:
    rules = [START, rule("end", act("submit", "b"), id="done", name="complete")]
    rules.append(rule("end", LOG, id="halted", name="halted", repetitions="unlimited"))
    w = world(rules, [{"name": "a", "count": 3}, "b"], limits={"max_jobs": 1}).run()
    assert (len(w.fired("done")), len(w.fired("halted"))) == (0, 1)
    w.command("resume", limits={"max_jobs": 9})
    w.run()
    assert w.engine.final == "complete"
    assert (len(w.fired("done")), len(w.fired("halted"))) == (1, 1)
    assert w.counts("b")["success"] == 1


def test_the_rules_of_the_end_fire_once_in_all(world: Any) -> None:
    rules = [START, rule("end", LOG, id="end", repetitions="unlimited")]
    w = world(rules, [{"name": "a", "count": 2}], limits={"max_jobs": 1}).run()
    w.command("resume", limits={"max_jobs": 2})
    w.run()
    assert w.engine.final == "complete"
    assert len(w.fired("end")) == 1


def test_no_postponed_firing_is_lost_by_a_resume_without_a_limit(world: Any) -> None:
    again = rule("job-success", act("submit", "b"), id="again", name="a", repetitions="unlimited")
    w = world([START, again], [{"name": "a", "count": 3}, "b"], limits={"max_firings": 1})
    while w.engine.ending != "halted":
        w.step()
    w.command("resume")
    w.run()
    assert w.engine.final == "halted"
    w.command("resume", limits={"max_firings": 9})
    w.run()
    assert len(keys(w, "b")) == 3


def test_stop_outranks_a_halt(world: Any) -> None:
    """What a rule has stopped does not carry on: the firing would be lost else."""
    rules = [START, rule("job-success", act("stop"), id="stop")]
    w = world(rules, [{"name": "a", "count": 3}], limits={"max_jobs": 1}).run()
    assert w.engine.final == "complete"
    assert w.results() == {"success": 1}


def test_pause_holds_in_order_and_resume_lets_go(world: Any) -> None:
    rules = [
        START,
        rule("job-success", act("submit", "b"), id="r", name="a", repetitions="unlimited"),
        rule("metric", LOG, id="m", name="count.a.success", when=3),
        rule("timer", act("cancel", "c"), id="t", after=50),
    ]
    jobs = [{"name": "a", "count": 3}, {"name": "b", "count": 2}, "c"]
    w = world([*rules, rule("start", act("submit", "c"))], jobs, plans={"c": Plan(run=None)})
    w.run(until=5.0)
    w.command("pause")
    assert w.engine.state == "paused"
    w.run(until=100.0)
    assert keys(w, "b") == []
    assert len(w.fired("r")) == 3
    assert len(w.fired("m")) == 1, "metrics go on"
    assert w.counts("c")["cancelled"] == 1, "other actions act"
    assert w.engine.state == "paused", "it does not end"
    w.command("resume")
    assert w.engine.state == "running"
    w.run()
    assert keys(w, "b") == [f"ens/r/{n}/{i}/0" for n in (1, 2, 3) for i in (0, 1)]


def test_a_paused_one_with_nothing_left_does_not_end(world: Any) -> None:
    w = world([START, rule("idle", LOG, id="idle")])
    w.command("pause")
    w.run(until=1000.0)
    assert w.engine.state == "paused"
    assert w.fired("idle") == []
    w.command("resume")
    assert w.engine.final == "complete"
    assert len(w.fired("idle")) == 1


def test_a_limit_is_reached_while_paused(world: Any) -> None:
    w = world([START], limits={"duration": 5}, plans={"a": Plan(run=50.0)})
    w.command("pause")
    w.run()
    assert w.engine.final == "halted"
    w.command("resume", limits={"duration": 500.0})
    assert w.engine.final == "complete"


def test_a_rule_ends_a_paused_one(world: Any) -> None:
    w = world([START, rule("job-success", act("terminate", status="failure"))])
    w.command("pause")
    w.run()
    assert w.engine.final == "failed"


def test_cancel_by_the_user(world: Any) -> None:
    rules = [START, rule("job-cancel", LOG, id="r", repetitions="unlimited")]
    plans = {"a": [Plan(run=None), Plan(wait=99.0), Plan(seen=30.0, ack=31.0), Plan(run=0.5), Plan(run=None)]}
    w = world(rules, [{"name": "a", "count": 9}], plans=plans, limits={"max_active": 4})
    w.run(until=5.0)
    w.command("cancel")
    sent = len(w.of(Submit))
    w.command("cancel")
    assert w.command("pause") == []
    w.command("resume")
    assert w.engine.state == "stopping"
    w.run()
    assert w.engine.final == "cancelled"
    assert w.engine.reason == "cancelled by the user"
    assert len(w.of(Submit)) == sent
    assert w.fired("r") == []
    assert all(c.cause.rule is None for c in w.of(Cancel))
    assert w.results()["cancelled"] == sent - 1
    for command in ("cancel", "pause", "resume"):
        assert w.command(command) == []


def test_a_halted_one_ignores_what_comes_late(world: Any) -> None:
    w = world([START], [{"name": "a", "count": 2}], limits={"max_jobs": 1}).run()
    assert w.command("cancel") == []
    assert w.command("pause") == []
    assert w.feed(TimerExpired(T0 + 1e6, "heartbeat")) == []


JUDGED = [
    # failures, statuses, state
    ("none", [0, 0, 0], "complete"),
    ("none", [0, 1, 0], "failed"),
    ("all", [1, 1, 1], "complete"),
    (1, [1, 0, 0], "complete"),
    (1, [1, 1, 0], "failed"),
    ("50%", [1, 1, 0, 0], "complete"),
    ("50%", [1, 1, 1, 0], "failed"),
    ("0%", [0, 1], "failed"),
]


@pytest.mark.parametrize(("failures", "statuses", "state"), JUDGED)
def test_failures(world: Any, failures: Any, statuses: List[int], state: str) -> None:
    plans = {"a": [Plan(status=s << 8) for s in statuses]}
    w = world([START], [{"name": "a", "count": len(statuses)}], plans=plans, failures=failures).run()
    assert w.engine.final == state
    if state == "failed":
        assert f"{sum(statuses)} of a" in w.engine.reason


WATCHED = [
    (rule("job-fail", LOG, name="a"), "complete"),
    (rule("job-fail", LOG), "complete"),
    (rule("job-fail", LOG, name="b"), "failed"),
    (rule("metric", LOG, name="count.a.failed", when="> 99"), "complete"),
    (rule("metric", LOG, name="count.b.failed", when="> 99"), "failed"),
    (rule("metric", LOG, name="count.a.finished", when="> 99"), "failed"),
    (rule("job-finish", LOG, name="a"), "failed"),
]


@pytest.mark.parametrize(("watching", "state"), WATCHED)
def test_a_group_that_a_rule_watches_is_in_the_files_own_hands(world: Any, watching: Any, state: str) -> None:
    w = world([START, watching], ["a", "b"], plans={"a": Plan(status=EXIT1)}).run()
    assert w.engine.final == state


def test_a_cancelled_job_is_no_failure(world: Any) -> None:
    w = world([START], plans={"a": Plan(status=15, exception=("cancel", "by hand"))}).run()
    assert w.engine.final == "complete"


def test_a_postponed_firing_is_of_a_job_that_may_have_left(world: Any) -> None:
    """What gave the rule its occasion is kept with it, through a snapshot, and the job is gone by then."""
    again = rule("job-inactive", act("submit", "b"), id="again", repetitions="unlimited")
    w = world([rule("start", act("submit", "a")), again], ["a", "b"], limits={"max_firings": 1}).run()
    assert w.engine.final == "halted"
    assert w.engine.postponed
    w.command("resume", limits={"max_firings": 2})
    w.run()
    assert len(w.fired("again")) == 2
