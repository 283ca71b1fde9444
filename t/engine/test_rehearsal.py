# SPDX-License-Identifier: MIT
"""Other rules on a run that is past: what they would have done, and what a replay leaves out."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional, Sequence

import pytest

from ensemble.engine.events import Counted, Report, Resources, Signal, TimerExpired, from_json, to_json
from ensemble.engine.recorded import Fired, Recorded
from ensemble.engine.rehearsal import Rehearsal
from ensemble.spec.models import Spec
from t.engine.harness import EXIT1, OK, T0, Plan, World, act, make_spec, rule

START = rule("start", act("submit", "a"), id="begin")


def run(
    *rules: Dict[str, Any], jobs: Any = None, plans: Any = None, until: Optional[float] = None, **top: Any
) -> World:
    spec = make_spec([START, *rules], jobs or [{"name": "a", "count": 3}], **top)
    return World(spec, plans or {"a": Plan()}, checks=False).run(until)


def rehearse(world: World, spec: Spec) -> Rehearsal:
    """The other rules on the events of that world, as they are stored."""
    found = Rehearsal(spec, Recorded(world.spec, "ens"))
    for event in world.events:
        found.feed(from_json(json.loads(json.dumps(to_json(event)))))
    theirs = [(one.rule, one.firing, one.t) for one in found.recorded.firings.all]
    assert theirs == [(r["rule"], r["firing"], pytest.approx(r["t"] + T0)) for r in world.records("rule")]
    return found


def other(*rules: Dict[str, Any], jobs: Any = None, **top: Any) -> Spec:
    return make_spec([START, *rules], jobs or [{"name": "a", "count": 3}], **top)


def times(firings: Sequence[Fired], rule: str) -> List[float]:
    return [round(one.t - T0, 2) for one in firings if one.rule == rule]


def did(firings: Sequence[Fired], rule: str) -> List[List[str]]:
    return [[did.text for did in one.did] for one in firings if one.rule == rule]


RULES = {
    "chain": [
        rule("job-success", act("submit", "a", count=1), id="more", name="a", repetitions=4),
        rule("group-complete", act("submit", "b"), id="then", name="a"),
        rule("metric", act("set", "n", value="var.n + 1"), id="count", name="count.a.finished", when="> 2", repetitions=3),
        rule("metric", act("log", value="n {var.n}"), id="seen", name="var.n", repetitions="unlimited"),
    ],
    "sweep": [
        rule("enabled", act("submit", "b", count=1), id="on"),
        rule("metric", act("submit", "a", count=1), id="next", name="count.a.finished", when="count.a.active < 3", repetitions=6),
        rule("group-complete", act("signal", "done"), id="done", name="a"),
        rule("signal", act("log", value="done"), id="told", name="done", keep_alive=False),
    ],
    "stop": [rule("job-success", act("stop"), id="stop", name="a"), rule("end", act("log", value="x"), id="end")],
    "terminate": [rule("job-start", act("terminate", status="failure"), id="now", name="a"), rule("end", act("log", value="x"), id="end")],
    "kill": [
        rule("job-start", act("kill", job="event"), id="kill", name="a", repetitions=2),
        rule("job-cancel", act("log", value="x"), id="gone", name="a", repetitions="unlimited"),
    ],
    "idle": [rule("idle", act("submit", "b"), id="idle"), rule("idle", act("log", value="x"), id="twice", repetitions=2)],
    "cooldown": [rule("metric", act("log", value="x"), id="cool", name="count.a.success", when="> 0", cooldown=3, repetitions=9, backoff=1)],
    "phases": [
        rule("job-success", act("disable", "one"), act("enable", "two"), id="switch", name="a"),
        rule("job-success", act("log", value="x"), id="one", name="a", repetitions="unlimited"),
        rule("job-success", act("log", value="x"), id="two", name="a", repetitions="unlimited", enabled=False),
    ],
    "failed": [rule("job-success", act("set", "n", value="var.none + 1"), id="bad", name="a", on_error="disable", repetitions=2)],
}  # fmt: skip
VARIABLES = {"n": 0, "none": None}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("limits", [{}, {"max_active": 1}, {"max_active": 2, "submit_rate": 0.5}])
def test_the_same_rules_do_the_same(name: str, limits: Dict[str, Any]) -> None:
    """Their own timers aside, which run on the times of events: what they fire on is what it was."""
    jobs = [{"name": "a", "count": 3}, "b"]
    world = run(*RULES[name], jobs=jobs, variables=VARIABLES, limits=limits)
    found = rehearse(world, other(*RULES[name], jobs=jobs, variables=VARIABLES, limits=limits))
    mine, theirs = found.firings.all, found.recorded.firings.all
    assert sorted({one.rule for one in mine}) == sorted({one.rule for one in theirs})
    for id in {one.rule for one in mine}:
        assert times(mine, id) == pytest.approx(times(theirs, id), abs=0.05), id
    assert found.would == found.recorded.submitted
    if name not in ("stop", "terminate"):
        assert found.given == found.would
    assert found.engine.final == world.engine.final
    assert {g: dict(c) for g, c in found.engine.tally.counts.items()} == {
        g: dict(c) for g, c in world.engine.tally.counts.items()
    }
    # what an event's own actions change is looked at behind a timer, and so perhaps behind the next event, or not
    if name not in ("kill", "chain"):
        for id in {one.rule for one in mine}:
            assert did(mine, id) == did(theirs, id)


def test_a_rule_that_would_have_fired_earlier() -> None:
    world = run(rule("metric", act("stop"), id="stop", name="count.a.success", when=">= 3"), limits={"max_active": 1})
    found = rehearse(world, other(rule("metric", act("stop"), id="stop", name="count.a.success", when=">= 2")))
    assert times(found.recorded.firings.all, "stop") == [pytest.approx(33, abs=0.1)]
    assert times(found.firings.all, "stop") == [pytest.approx(22, abs=0.1)]
    assert found.ending is not None
    assert (round(found.ending[0] - T0), found.ending[1:]) == (22, ("complete", "stopped by rule 'stop'"))
    assert found.late == 1, "the third job was submitted at that very event"


def test_jobs_after_a_stop_are_left_out() -> None:
    world = run(jobs=[{"name": "a", "count": 9}], limits={"max_active": 2})
    found = rehearse(
        world, other(rule("job-success", act("stop"), id="stop", name="a"), jobs=[{"name": "a", "count": 9}])
    )
    assert (found.given, found.late) == ({"a": 2}, 7)
    assert found.engine.final == "complete"
    assert found.engine.tally.counts["a"]["success"] == 2
    assert found.engine.tally.counts["a"]["active"] == 0


def test_what_would_have_been_submitted_is_told_and_not_done() -> None:
    world = run()
    found = rehearse(
        world,
        other(
            rule("job-success", act("submit", "b", count=2), id="more", name="a", repetitions=2),
            rule("job-success", act("log", value="x"), id="b", name="b"),
            rule("group-complete", act("log", value="x"), id="complete", name="b"),
            jobs=[{"name": "a", "count": 3}, "b"],
        ),
    )
    assert found.would == {"a": 3, "b": 4}
    assert found.given == {"a": 3, "b": 0}
    assert did(found.firings.all, "more") == [["submit b (2 jobs)"]] * 2
    assert times(found.firings.all, "b") == times(found.firings.all, "complete") == []
    assert found.ending is None, "with jobs that nobody knows of it would not have ended there"
    assert found.engine.jobs == {}


def test_groups_that_the_rules_do_not_know() -> None:
    world = run(rule("start", act("submit", "c", count=4)), jobs=[{"name": "a", "count": 3}, "c"])
    found = rehearse(world, other(rule("job-success", act("log", value="x"), id="any", repetitions="unlimited")))
    assert found.ignored == {"c": 4}
    assert len(times(found.firings.all, "any")) == 3


def test_jobs_that_the_rules_would_not_have_submitted_count_all_the_same() -> None:
    world = run(rule("job-success", act("submit", "a", count=1), name="a", repetitions=5))
    found = rehearse(world, other(rule("metric", act("log", value="x"), id="it", name="count.a.success", when=8)))
    assert (found.would, found.given) == ({"a": 3}, {"a": 8})
    assert len(times(found.firings.all, "it")) == 1


def test_attempts_are_those_that_were() -> None:
    """Whatever the other file says of retries."""
    tried = {"name": "a", "count": 2, "retries": {"max": 2, "causes": ["fail"], "backoff": 5}}
    plans = {"a": [Plan(status=EXIT1), Plan(status=EXIT1), Plan(status=EXIT1), Plan(status=OK)]}
    world = run(jobs=[tried], plans=plans)
    watch = [rule(trigger, act("log", value="x"), id=trigger, name="a", repetitions="unlimited")
             for trigger in ("job-retry", "job-fail", "job-success", "group-complete")]  # fmt: skip
    for jobs in (
        [{"name": "a", "count": 2}],
        [tried],
        [{"name": "a", "retries": {"max": 9}}, {"name": "a", "count": 1}],
    ):
        found = rehearse(world, other(*watch, jobs=jobs))
        counts = found.engine.tally.counts["a"]
        assert {name: counts[name] for name in ("submitted", "retried", "success", "failed", "pending", "active")} == {
            "submitted": 2, "retried": world.counts()["retried"], "success": world.counts()["success"],
            "failed": world.counts()["failed"], "pending": 0, "active": 0,
        }  # fmt: skip
        assert len(times(found.firings.all, "job-retry")) == world.counts()["retried"] > 1
        assert len(times(found.firings.all, "group-complete")) == 1


def test_what_was_dropped_then_would_be_dropped_by_the_same_rule_alone() -> None:
    drop = rule("job-success", act("cancel", "a", state="pending"), id="drop", name="a")
    done = rule("group-complete", act("log", value="x"), id="done", name="a")
    jobs = [{"name": "a", "count": 9}]
    world = run(drop, jobs=jobs, limits={"max_active": 1})
    assert world.counts()["active"] == 0
    found = rehearse(world, other(drop, done, jobs=jobs))
    assert found.engine.tally.counts["a"]["active"] == 0
    assert times(found.firings.all, "done") == [pytest.approx(11, abs=0.1)]
    assert did(found.firings.all, "drop") == [["cancel a (8 jobs)"]]
    assert found.engine.final == "complete"
    found = rehearse(world, other(done, jobs=jobs))
    assert found.engine.tally.counts["a"]["active"] == 8, "these would have run, and nobody knows how"
    assert times(found.firings.all, "done") == []
    assert found.ending is None


def test_a_retry_that_was_dropped_is_gone() -> None:
    tried = {"name": "a", "count": 1, "retries": {"max": 2, "causes": ["fail"], "backoff": 50}}
    world = run(rule("job-retry", act("cancel", job="event"), name="a"), jobs=[tried], plans={"a": Plan(status=EXIT1)})
    found = rehearse(world, other(rule("group-complete", act("log", value="x"), id="done", name="a"), jobs=[tried]))
    counts = found.engine.tally.counts["a"]
    assert (counts["active"], counts["pending"], counts["cancelled"]) == (0, 0, 1)
    assert len(times(found.firings.all, "done")) == 1


def test_a_job_of_the_run_takes_the_place_of_one_that_would_have_been_submitted() -> None:
    """The run submits one after the other, these rules all at once: the group is complete when the last has ended."""
    world = run(
        rule("job-success", act("submit", "a", count=1), name="a", repetitions=2), jobs=[{"name": "a", "count": 1}]
    )
    done = rule("group-complete", act("log", value="x"), id="done", name="a", repetitions="unlimited")
    found = rehearse(world, other(done, jobs=[{"name": "a", "count": 3}]))
    assert times(found.firings.all, "done") == [pytest.approx(33, abs=0.2)]
    assert found.engine.final == "complete"
    found = rehearse(world, other(done, jobs=[{"name": "a", "count": 1}]))
    assert len(times(found.firings.all, "done")) == 3


def test_a_job_that_the_recorded_rules_have_ended_counts_as_it_did() -> None:
    world = run(rule("job-start", act("kill", job="event", signal="SIGTERM"), name="a", repetitions=2))
    found = rehearse(
        world, other(rule("job-cancel", act("log", value="x"), id="it", name="a", repetitions="unlimited"))
    )
    assert len(times(found.firings.all, "it")) == world.counts()["cancelled"] == 2


def test_acts_on_jobs_are_counted() -> None:
    world = run(jobs=[{"name": "a", "count": 4}], limits={"max_active": 2}, plans={"a": Plan(wait=1, run=10)})
    found = rehearse(
        world,
        other(
            rule(
                "job-success",
                act("cancel", "a"),
                act("kill", "all", signal=10),
                act("urgency", "a", value=3),
                id="it",
                name="a",
            ),
            rule("job-start", act("cancel", job="event"), id="own", name="a"),
            jobs=[{"name": "a", "count": 4}],
        ),
    )
    assert did(found.firings.all, "it") == [["cancel a (3 jobs)", "kill all (1 job)", "urgency of a (1 job)"]]
    assert did(found.firings.all, "own") == [["cancel the job (1 job)"]]
    assert found.engine.tally.counts["a"]["success"] == 4, "nothing was done to them"


def test_timers_and_heartbeats_are_their_own() -> None:
    world = run(rule("timer", act("log", value="x"), id="then", after=7), limits={"max_active": 1})
    found = rehearse(
        world,
        other(
            rule("timer", act("log", value="x"), id="once", after=4),
            rule("heartbeat", act("log", value="x"), id="beat", every=10, repetitions="unlimited"),
            rule(
                "metric", act("log", value="x"), id="old", name="ensemble.elapsed", when="> 9", repetitions="unlimited"
            ),
            logging={"heartbeat": 12},
        ),
    )
    assert times(found.firings.all, "once") == [4.0]
    assert times(found.firings.all, "beat") == [10.0, 20.0, 30.0]
    assert times(found.firings.all, "old") == [12.0, 24.0]


def test_signals_and_reports() -> None:
    spec = make_spec([START], [{"name": "a", "count": 1, "metrics": {"loss": {}}}])
    world = World(spec, {"a": Plan(run=30)}, checks=False).run(until=5)
    for n in range(1, 6):
        world.feed(Report(world.t, world.submits()[0].key, {"loss": 10.0 - n}, f"r:{n}"))
        world.feed(Signal(world.t, "go", {"n": n}, ""))
    world.run()
    found = rehearse(
        world,
        other(
            rule("report", act("log", value="loss {event.value}"), id="low", name="a.loss", when="event.value < 7"),
            rule(
                "signal",
                act("log", value="n {event.data.n}"),
                id="go",
                name="go",
                when="event.data.n > 3",
                keep_alive=False,
            ),
            jobs=[{"name": "a", "metrics": {"loss": {}}}],
        ),
    )
    assert did(found.firings.all, "low") == [["log: loss 6"]]
    assert did(found.firings.all, "go") == [["log: n 4"]]


def test_it_falls_idle_with_the_recorded_run() -> None:
    """A signal rule kept the run alive; these rules have none, and would have ended when nothing was left to do."""
    keeps = rule("signal", act("submit", "a", count=1), id="more", name="more")
    world = World(make_spec([START, keeps], [{"name": "a", "count": 3}]), {"a": Plan()}, checks=False).run(until=50)
    world.feed(Signal(world.t, "more", {}, ""))
    world.run()
    found = rehearse(world, other(rule("idle", act("log", value="x"), id="idle")))
    assert times(found.firings.all, "idle") == [pytest.approx(11, abs=0.1)]
    assert found.ending is not None
    assert found.ending[1] == "complete"
    assert found.late == 1


def test_limits_of_failures_and_firings_hold() -> None:
    plans = {"a": [Plan(status=EXIT1, run=n) for n in range(1, 7)]}
    jobs = [{"name": "a", "count": 6}]
    world = run(jobs=jobs, plans=plans, failures="all")
    found = rehearse(world, other(jobs=jobs, limits={"max_failures": 3}))
    assert found.ending is not None
    assert (found.ending[1], round(found.ending[0] - T0)) == ("halted", 4)
    found = rehearse(
        world,
        other(
            rule("job-fail", act("submit", "a", count=1), id="it", repetitions="unlimited"),
            jobs=jobs,
            limits={"max_firings": 2},
        ),
    )
    assert len(times(found.firings.all, "it")) == 2
    assert "max_firings" in found.ending[2]  # type: ignore[index]


def test_commands_of_the_user_are_heard() -> None:
    world = World(make_spec([START], [{"name": "a", "count": 3}]), {"a": Plan()}, checks=False).run(until=5)
    world.command("cancel")
    world.run()
    found = rehearse(world, other(rule("end", act("log", value="x"), id="end", name="cancelled")))
    assert found.engine.final == "cancelled"
    assert len(times(found.firings.all, "end")) == 1


def test_a_queue_that_was_not_counted_keeps_nothing_waiting() -> None:
    world = run()
    found = rehearse(world, other(rule("metric", act("log", value="x"), id="it", name="nodes.free", when="> 0")))
    assert found.engine.final == "complete"
    counted = World(
        make_spec([START, rule("metric", act("stop"), name="queue.pending", when="> 99")]),
        {"a": Plan()},
        by_hand=True,
        checks=False,
    )
    counted.feed(Counted(counted.t, {"nodes": {"free": 4}}))
    again = rehearse(counted, other(rule("metric", act("log", value="x"), id="it", name="nodes.free", when="> 0")))
    assert len(times(again.firings.all, "it")) == 1


@pytest.mark.parametrize("read", ["job-start", "resource-up"])
def test_what_waits_for_numbers_waits_as_long_as_they_took_then(read: str) -> None:
    """Whatever rules of the run have read them, those of others fire with what was counted, or at once if nothing was."""
    said = act("log", value="{nodes.free}")
    world = run(rule(read, said, id="then", repetitions=9), until=2, plans={"a": Plan(run=50)})
    for event in (
        Counted(T0 + 2, {"nodes": {"free": 1}}),
        Resources(T0 + 3, "up", "1"),
        Resources(T0 + 4, "up", "2"),
        Counted(T0 + 5, {"nodes": {"free": 2}}),
        Counted(T0 + 6, {"nodes": {"free": 3}}),
    ):
        world.feed(event)
    world.run()
    rules = [
        rule("resource-up", said, id="it", repetitions=9),
        rule("heartbeat", said, id="beat", every="20s", repetitions=9),
    ]
    found = rehearse(world, other(*rules))
    assert times(found.firings.all, "it") == [5, 6]
    assert did(found.firings.all, "it") == [["log: 2"], ["log: 3"]]
    assert times(found.firings.all, "beat")[:2] == [20, 40]
    assert found.engine.final == "complete"
    unread = run(rule("resource-up", act("log", value="x"), id="then", repetitions=9), until=2)
    unread.feed(Resources(T0 + 3, "up", "1"))
    unread.run()
    found = rehearse(unread, other(*rules))
    assert (times(found.firings.all, "it"), did(found.firings.all, "it")) == ([3], [["log: no value"]])


def test_points_are_counted() -> None:
    world = run()
    jobs = [{"name": "a", "count": 3}, {"name": "p", "command": "x {x}", "count": 2, "parameters": {"x": [1, 2, 3]}}]
    found = rehearse(world, other(rule("job-success", act("submit", "p"), id="it", name="a", repetitions=3), jobs=jobs))
    assert [texts[-1] for texts in did(found.firings.all, "it")] == [
        "submit p (2 jobs)",
        "submit p (1 job)",
        "submit p (0 jobs)",
    ]
    assert found.would["p"] == 3


def test_a_stray_timer_of_the_run_is_none_of_these_rules() -> None:
    world = run(rule("timer", act("log", value="x"), id="t", after=3))
    assert any(isinstance(event, TimerExpired) for event in world.events)
    found = rehearse(world, other(rule("timer", act("log", value="x"), id="t", after=9000)))
    assert times(found.firings.all, "t") == []
    assert found.ending is None, "its timer is still to come"
