# SPDX-License-Identifier: MIT
"""Rules and algorithms that are switched on and off, jobs by their names, and what a report says of those before it."""

from __future__ import annotations

from typing import Any, List

import pytest

from ensemble.engine.actions import Cancel
from ensemble.engine.events import Report
from t.engine.harness import EXIT1, Plan, act, rule

START = rule("start", act("submit", "a"), id="start")
LOG = act("log", value="heard")


def texts(w: Any, id: str) -> List[str]:
    return [record["text"] for record in w.records("rule", rule=id)]


def test_a_rule_on_enabled_fires_at_the_start_if_it_is(world: Any) -> None:
    w = world([START, rule("enabled", LOG, id="on"), rule("enabled", LOG, id="off", enabled=False)]).run()
    assert w.fired_rules() == ["start", "on"]
    assert texts(w, "on") == ["enabled"]


def test_and_whenever_it_becomes_enabled(world: Any) -> None:
    rules = [
        START,
        rule("enabled", LOG, id="on", enabled=False, repetitions="unlimited"),
        rule(
            "job-start",
            act("enable", "on"),
            act("enable", "on"),
            act("disable", "on"),
            act("enable", "on"),
            id="switch",
        ),
    ]
    w = world(rules).run()
    # one event, one look: what was switched to and fro in it was enabled in the end
    assert w.fired_rules() == ["start", "switch", "on"]
    w = world([*rules[:2], rule("job-start", act("enable", "on"), act("disable", "on"), id="switch")]).run()
    assert w.fired_rules() == ["start", "switch"]


def test_its_condition_counts(world: Any) -> None:
    w = world([START, rule("enabled", LOG, id="on", when="count.a.finished > 0")]).run()
    assert w.fired_rules() == ["start"]


def test_an_algorithm_is_switched_as_a_whole(world: Any) -> None:
    part = {"algorithm": "alg", "enabled": False, "repetitions": "unlimited"}
    rules = [
        START,
        rule("enabled", act("submit", "b"), id="alg-start", **part),
        rule("job-success", LOG, id="alg-b", name="b", **part),
        rule("job-success", act("enable", "alg"), id="turn", name="a"),
        rule("job-success", act("disable", "alg"), act("submit", "b"), id="off", name="b"),
    ]
    w = world(rules, [{"name": "a"}, {"name": "b"}]).run()
    assert w.fired_rules() == ["start", "turn", "alg-start", "alg-b", "off"]
    assert texts(w, "alg-start") == ["enabled alg"]
    told = [record["text"] for record in w.records("action") if record["action"] in ("enable", "disable")]
    assert told == ["enable the algorithm alg", "disable the algorithm alg"]
    assert w.counts("b")["success"] == 2


def test_rules_that_enable_one_another_do_not_loop_inside_one_event(world: Any) -> None:
    one = rule("enabled", act("disable", "two"), act("enable", "two"), id="one", repetitions=5)
    two = rule("enabled", act("disable", "one"), act("enable", "one"), id="two", repetitions=5, enabled=False)
    w = world([START, one, two]).run()
    assert w.fired_rules() == ["start", *["one", "two"] * 5]
    assert w.engine.final == "complete"


def test_one_that_a_function_adds_is_looked_at(world: Any) -> None:
    w = world(
        [START, rule("start", act("custom", "f"), id="caller")],
        custom="def f(): pass",
        functions={"f": lambda request: {"answer": [{"rule": rule("enabled", LOG, id="new")}]}},
    ).run()
    assert w.fired_rules() == ["start", "caller", "new"]


@pytest.mark.parametrize("action", ["cancel", "kill"])
def test_jobs_are_named_in_answers(world: Any, action: str) -> None:
    def f(request: Any) -> Any:
        assert request["event"]["key"] == "start/1/2"
        return {"answer": [{"action": act(action, job=["start/1/0", "start/1/3", "start/9/9", "start/1/0"])}]}

    rules = [START, rule("job-start", act("custom", "f"), id="r", when="event.job.params.x == 2")]
    plans = {"a": [Plan(wait=1, run=20)] * 4}
    jobs = [{"name": "a", "command": "x {x}", "parameters": {"x": [0, 1, 2, 3]}}]
    w = world(rules, jobs, plans=plans, custom="def f(): pass", functions={"f": f}).run()
    assert sorted((row["index"], row["result"]) for row in w.rows()) == [
        (0, "cancelled"), (1, "success"), (2, "success"), (3, "cancelled"),
    ]  # fmt: skip
    (record,) = (r for r in w.records("action", rule="r") if r["action"] == action)
    assert record["count"] == 2
    assert record["text"].endswith("(2 of 4)") or "named jobs" in record["text"]


def test_a_job_is_named_whichever_attempt_of_it_there_is(world: Any) -> None:
    """The next attempt waits to be sent when its job is cancelled by name."""

    def f(request: Any) -> Any:
        return {"answer": [{"action": act("cancel", job=request["event"]["key"])}]}

    jobs = [{"name": "a", "retries": {"max": 3, "backoff": 50}}]
    w = world(
        [START, rule("job-retry", act("custom", "f"), id="r")],
        jobs, plans={"a": [Plan(status=EXIT1)]}, custom="def f(): pass", functions={"f": f},
    ).run()  # fmt: skip
    assert w.counts()["cancelled"] == 1
    assert not w.of(Cancel), "there was nothing to cancel in the queue"


def test_a_report_says_which_one_it_is_and_what_was_before(world: Any) -> None:
    when = "event.value >= 4 and (event.n == 1 or event.before < 4)"
    rules = [START, rule("report", LOG, id="rung", name="a.epoch", when=when, repetitions="unlimited")]
    w = world(
        [*rules], [{"name": "a", "count": 3, "metrics": {"epoch": {}, "loss": {}}}], plans={"a": [Plan(run=50)] * 3}
    )
    w.run(until=2.0)
    keys = [submit.key for submit in w.submits("a")]
    #: one that hits the rung, one that passes it, and one that begins beyond it; none comes twice
    for values in ((1, 2, 4, 5, 6), (1, 3, 9, 2, 4), (7, 8)):
        key = keys.pop(0)
        for n, x in enumerate(values):
            w.feed(Report(w.t, key, {"loss": 1.0, "epoch": x}, f"{key.index}:{n}"))
    assert texts(w, "rung") == ["report a.epoch = 4", "report a.epoch = 9", "report a.epoch = 7"]
    w.run()


def test_what_a_disabled_algorithm_answers_submits_nothing(world: Any) -> None:
    """Its call was under way when it was disabled; what it cancels and says still counts."""

    def f(request: Any) -> Any:
        return {"answer": [{"action": act("submit", "a")}, {"action": act("log", value="said")}]}

    rules = [
        START,
        rule("job-start", act("custom", "f"), act("disable", "alg"), id="alg-r", algorithm="alg"),
        rule("job-success", act("custom", "f"), id="free", name="a"),
    ]
    w = world(rules, custom="def f(): pass", functions={"f": f}).run()
    told = [(r["rule"], r["text"]) for r in w.records("action") if r["action"] == "submit"]
    assert told == [
        ("start", "submit a (1 job)"),
        ("alg-r", "nothing is submitted: the algorithm alg is disabled"),
        ("free", "submit a (1 job)"),
    ]
    assert w.logged() == ["said", "said"]
