# SPDX-License-Identifier: MIT
"""Why a rule has fired or has not: the sentence, the terms and what is remembered, also of an engine that was restored."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional

import pytest

from ensemble.engine.events import JobEvent, Report, Signal
from ensemble.engine.explain import explain
from ensemble.engine.snapshot import restore, snapshot
from t.engine.harness import EXIT1, T0, Plan, World, act, make_spec, rule


def why(world: World, id: str, now: Optional[float] = None) -> Dict[str, Any]:
    """What is explained, which changes nothing, and is the same of an engine that was restored."""
    engine = world.engine
    before = snapshot(engine)
    found = explain(engine, engine.book.by_id[id], world.t if now is None else now)
    assert json.loads(json.dumps(found, allow_nan=False)) is not None
    assert snapshot(engine) == before
    again = restore(world.spec, json.loads(json.dumps(before)))
    assert json.dumps(explain(again, again.book.by_id[id], world.t if now is None else now)) == json.dumps(found)
    return found


def world(*rules: Dict[str, Any], jobs: Optional[List[Any]] = None, **top: Any) -> World:
    start = rule("start", act("submit", "a"), id="begin")
    return World(make_spec([start, *rules], jobs or [{"name": "a", "count": 3}], **top), {"a": Plan()})


def test_a_condition_that_does_not_hold() -> None:
    ens = world(rule("metric", act("log", value="x"), id="more", name="count.a.success", when="> 5"))
    found = why(ens, "more")
    assert found["why"] == "condition"
    assert found["looked"] is None
    assert found["holds"] is False
    assert found["answer"] == (
        "Rule 'more' has not fired: its condition does not hold, because count.a.success is 0, so "
        "'count.a.success > 5' is false."
    )
    ens.run()
    found = why(ens, "more")
    assert found["why"] == "ended"
    assert "because count.a.success is 3, so 'count.a.success > 5' is false" in found["answer"]
    assert found["answer"].endswith("The ensemble has ended (complete), and nothing fires any more.")
    assert found["looked"]["event"] == "count.a.success = 3"
    assert found["looked"]["outcome"] == "false"
    assert found["looked"]["t"] == pytest.approx(T0 + 11.0)
    assert found["condition"] == {
        "text": "count.a.success > 5", "kind": "comparison", "value": False, "why": None,
        "terms": [{"text": "count.a.success", "kind": "path", "value": 3, "why": None, "terms": []}],
    }  # fmt: skip


NONE = [
    ("mean.a.duration", "no job of a has succeeded yet"),
    ("mean.a.failed.duration", "no job of a has failed yet"),
    ("max.a.finished.pending", "no job of a has ended yet"),
    ("std.a.loss", "no job of a has reported loss yet"),
    ("last.a.success.loss", "no job of a has reported loss and succeeded yet"),
    ("max.a.waiting", "no heartbeat has found a pending job of a yet"),
    ("mean.a-pending", "no job of a has started yet"),
    ("nodes.free", "the queue has not been counted yet"),
    ("var.n", "nothing has set it"),
]


@pytest.mark.parametrize(("path", "reason"), NONE)
def test_what_has_no_value_says_why(path: str, reason: str) -> None:
    jobs = [{"name": "a", "metrics": {"loss": {}}}]
    ens = World(
        make_spec([rule("start", act("log", value="x"), id="it", when=f"{path} > 1")], jobs, variables={"n": None}),
        by_hand=True,
    )
    found = why(ens, "it")
    assert found["condition"]["value"] is None
    assert found["condition"]["terms"][0]["why"] == reason
    assert f"has no value ({reason})" in found["answer"]


def test_two_values_are_needed() -> None:
    ens = world(
        rule("metric", act("stop"), id="it", name="sem.a.duration", when="< 1"), jobs=[{"name": "a", "count": 1}]
    )
    ens.run()
    assert why(ens, "it")["condition"]["terms"][0]["why"] == "it takes two values"


def test_an_event_keeps_the_values_that_it_had() -> None:
    """Those of the job at the event, not those that it has now."""
    ens = World(
        make_spec(
            [
                rule("start", act("submit", "a")),
                rule(
                    "job-start",
                    act("log", value="x"),
                    id="it",
                    name="a",
                    when="event.job.exit_code == 0 or event.job.attempt > 5",
                ),
            ]
        ),
        {"a": Plan()},
    )
    assert "waits for the event job-start of a job of a" in why(ens, "it")["answer"]
    ens.run()
    found = why(ens, "it")
    assert [term["value"] for term in found["condition"]["terms"]] == [None, False]
    assert found["condition"]["terms"][0]["terms"][0]["why"] == "the event had none"


def test_a_term_that_was_not_reached_has_its_value_all_the_same() -> None:
    ens = world(
        rule("signal", act("log", value="x"), id="it", name="go", when="event.name == 'x' and event.data.n > 1")
    )
    assert why(ens, "it")["condition"]["terms"][0]["terms"][0]["why"] == "no event has been looked at yet"
    assert why(ens, "it")["why"] == "event"
    ens.feed(Signal(ens.t, "go", {"n": 7, "text": "long" * 2000}, ""))
    found = why(ens, "it")
    assert found["why"] == "condition"
    assert [term["terms"][0]["value"] for term in found["condition"]["terms"]] == ["go", 7]
    ens.run(until=60)


def test_it_waits_for_its_event() -> None:
    ens = world(
        rule("job-fail", act("stop"), id="fail", name="b"),
        rule("job-success", act("submit", "b"), id="chain", name="b"),
        rule("group-complete", act("log", value="x"), id="done", name="a"),
        jobs=[{"name": "a", "count": 3}, "b"],
    )
    assert why(ens, "fail")["why"] == "event"
    assert why(ens, "fail")["answer"] == (
        "Rule 'fail' has not fired: it waits for a job of b that fails: no job of b has been submitted yet: "
        "only rule 'chain' (not fired) would."
    )
    ens.run(until=5)
    assert "3 of them have not ended yet" in why(ens, "done")["answer"]
    ens.run()
    assert "no job of b has been submitted: only" in why(ens, "fail")["answer"]
    assert why(ens, "done")["why"] == "spent"


def test_spent_backoff_and_cooldown() -> None:
    ens = world(
        rule("job-success", act("log", value="x"), id="spent", name="a"),
        rule("job-success", act("log", value="x"), id="back", name="a", repetitions=5, backoff=2),
        rule("job-success", act("log", value="x"), id="cool", name="a", repetitions="unlimited", cooldown=60),
        jobs=[{"name": "a", "count": 3}],
        limits={"max_active": 1},
    )
    ens.run(until=25)
    found = why(ens, "spent")
    assert (found["why"], found["remaining"], found["looked"]["outcome"]) == ("spent", 0, "resting")
    assert found["answer"] == "Rule 'spent' has fired once, at +11.0s, which is all that its repetitions (1) allow."
    found = why(ens, "back")
    assert (found["why"], found["backoff"], found["looked"]["outcome"]) == ("backoff", {"of": 2, "left": 1}, "backoff")
    found = why(ens, "cool")
    assert (found["why"], found["looked"]["outcome"]) == ("cooldown", "cooldown")
    assert found["cooldown"] == {"of": 60.0, "left": pytest.approx(46.01), "until": pytest.approx(T0 + 71.01)}
    assert "in its cooldown for another 46.0 s" in found["answer"]
    assert why(ens, "cool", now=T0 + 80)["cooldown"]["left"] == 0
    ens.run()
    assert "of the last (+33.0s, job-success a) it made nothing, being in its cooldown" in why(ens, "cool")["answer"]
    assert why(ens, "cool")["cooldown"]["left"] == 0


def test_who_disabled_it() -> None:
    ens = world(
        rule("job-start", act("disable", "it"), id="off", name="a"),
        rule("job-success", act("log", value="x"), id="it", name="a"),
        rule("job-success", act("log", value="x"), id="file", name="a", enabled=False),
        rule(
            "job-success", act("set", "n", value="var.none + 1"), id="bad", name="a", on_error="disable", repetitions=2
        ),
        rule("job-success", act("set", "n", value="var.none + 1"), id="once", name="a", on_error="disable"),
        rule("signal", act("enable", "it"), id="on", name="on"),
        variables={"n": 1, "none": None},
        limits={"max_active": 2},
    )
    ens.run(until=12)
    found = why(ens, "it")
    assert (found["why"], found["enabled_by"]) == (
        "disabled",
        {"by": "rule", "rule": "off", "firing": 1, "t": T0 + 1.01},
    )
    assert found["answer"] == "Rule 'it' has not fired: it is disabled, by rule 'off' (firing 1, +1.0s)."
    assert found["looked"]["outcome"] == "resting"
    assert "by the file (enabled: false)" in why(ens, "file")["answer"]
    assert why(ens, "bad")["enabled_by"]["by"] == "on_error"
    assert "because it failed at +11.0s (on_error: disable): set: n has no value" in why(ens, "bad")["answer"]
    assert "repetitions (1) allow. It went wrong: set: n has no value" in why(ens, "once")["answer"]
    ens.feed(Signal(ens.t, "on", {}, ""))
    assert why(ens, "it")["enabled_by"]["rule"] == "on"
    assert why(ens, "it")["why"] == "event"


def test_a_rule_that_failed() -> None:
    ens = world(
        rule("job-success", act("set", "n", value="var.none + 1"), id="bad", name="a"), variables={"n": 1, "none": None}
    )
    ens.run()
    found = why(ens, "bad")
    assert (found["why"], found["state"]) == ("failed", "failed")
    assert "and fires no more, because it failed: set: n has no value" in found["answer"]


def test_its_limit_is_reached() -> None:
    ens = world(
        rule("job-success", act("submit", "b"), id="it", name="a", repetitions="unlimited"),
        jobs=[{"name": "a", "count": 3}, "b"],
        limits={"max_firings": 2},
    )
    ens.run()
    found = why(ens, "it")
    assert (found["why"], found["looked"]["outcome"]) == ("limit", "limit")
    assert "waits for a greater limit max_firings (2)" in found["answer"]
    ens.command("resume", limits={"max_firings": 10})
    ens.run()
    assert why(ens, "it")["fired"] == 3


def test_nothing_fires_any_more() -> None:
    ens = world(
        rule("job-start", act("terminate"), id="end", name="a"),
        rule("job-cancel", act("log", value="x"), id="late", name="a"),
        rule("heartbeat", act("log", value="x"), id="beat", every=5),
    )
    ens.run(until=1.011)
    assert why(ens, "late")["why"] == "closed"
    assert why(ens, "beat")["why"] == "closed"
    assert "the ensemble is stopping (terminated by rule 'end')" in why(ens, "late")["answer"]
    ens.run()
    assert why(ens, "late")["looked"]["outcome"] == "closed"


def test_timers_and_heartbeats_say_when() -> None:
    ens = world(
        rule("timer", act("log", value="x"), id="once", after=30),
        rule("heartbeat", act("log", value="x"), id="beat", every=5),
    )
    assert why(ens, "once")["next"] == T0 + 30
    assert "that is due at +30.0s" in why(ens, "once")["answer"]
    assert why(ens, "beat")["next"] == T0 + 5
    ens.run(until=20)


def test_its_condition_holds_now_and_did_not_then() -> None:
    ens = world(
        rule("job-start", act("log", value="x"), id="it", name="a", when="count.a.success > 0"),
        limits={"max_active": 2},
    )
    ens.run(until=11.5)
    found = why(ens, "it")
    assert (found["holds"], found["why"], found["looked"]["outcome"]) == (True, "event", "false")
    assert "its condition holds now, but did not at +1.0s (job-start a)" in found["answer"]
    ens.run()


def test_the_last_firings() -> None:
    ens = world(
        rule("job-success", act("log", value="x"), id="it", name="a", repetitions="unlimited"),
        jobs=[{"name": "a", "count": 5}],
        limits={"max_active": 1},
    )
    ens.run()
    assert [(one["firing"], round(one["t"] - T0)) for one in why(ens, "it")["firings"]] == [(3, 33), (4, 44), (5, 55)]


def test_reports_and_metrics_of_variables() -> None:
    ens = World(
        make_spec(
            [
                rule("start", act("submit", "a")),
                rule("report", act("log", value="x"), id="it", name="a.loss", when="event.value > 2"),
                rule("metric", act("log", value="x"), id="phase", name="var.phase", when="var.phase == 'warm'"),
            ],
            [{"name": "a", "metrics": {"loss": {}}}],
            variables={"phase": "cold"},
        ),
        {"a": Plan(run=20)},
    )
    assert (
        "none has come yet" in why(ens, "it")["answer"] or "no job of a has been submitted" in why(ens, "it")["answer"]
    )
    ens.run(until=5)
    ens.feed(Report(ens.t, ens.submits()[0].key, {"loss": 1.5}, "r:1"))
    found = why(ens, "it")
    assert found["looked"]["event"] == "report a.loss = 1.5"
    assert "event.value is 1.5, so 'event.value > 2' is false" in found["answer"]
    assert "var.phase is cold, so 'var.phase == 'warm'' is false" in why(ens, "phase")["answer"]
    ens.run()


def test_failures_count_for_their_rule() -> None:
    ens = World(
        make_spec([rule("start", act("submit", "a")), rule("job-fail", act("log", value="x"), id="it", name="a")]),
        {"a": Plan(status=EXIT1)},
    )
    assert (
        "a job of a that fails: no job of a has been submitted yet: only rule 'rule-1' (fired 1) would"
        in why(ens, "it")["answer"]
    )
    ens.run()
    assert why(ens, "it")["firings"][0]["t"] == pytest.approx(T0 + 11.0, abs=0.1)


def test_an_odd_event_is_no_look() -> None:
    ens = world(rule("job-start", act("log", value="x"), id="it", name="a"))
    ens.feed(JobEvent(ens.t, 424242, "start", {}))
    assert why(ens, "it")["looked"] is None
    ens.run()


def test_of_a_rule_that_waits_to_be_enabled() -> None:
    ens = world(
        rule("enabled", act("log", value="x"), id="it", enabled=False),
        rule("job-start", act("enable", "it"), id="on", name="a"),
        rule("enabled", act("log", value="x"), id="not", when="count.a.failed > 0"),
    )
    assert "it is disabled, by the file" in why(ens, "it")["answer"]
    assert why(ens, "not")["looked"]["event"] == "enabled"
    ens.run(until=5)
    found = why(ens, "it")
    assert (found["why"], found["firings"][0]["firing"], found["looked"]["event"]) == ("spent", 1, "enabled")
    assert "count.a.failed is 0, so 'count.a.failed > 0' is false" in why(ens, "not")["answer"]
    ens.run()
