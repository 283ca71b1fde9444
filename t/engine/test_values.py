# SPDX-License-Identifier: MIT
"""Conditions that are expressions, computed numbers, `keep_alive`: what the engine makes of them."""

from __future__ import annotations

from typing import Any, Dict

import pytest

from ensemble.engine.events import Command
from t.engine.harness import EXIT1, Plan, act, rule

START = rule("start", act("submit", "a"))
LOG = act("log", value="x")


def ending_at(*times: float) -> Any:
    return [Plan(wait=0.0, run=t - 0.01) for t in times]


def seconds(times: Any) -> Any:
    return [round(t) for t in times]


def put(label: str, value: Any) -> Dict[str, Any]:
    return act("set", label, value=value)


# ---- conditions


def test_a_metric_rule_is_looked_at_when_anything_that_it_reads_changes(world: Any) -> None:
    r = rule(
        "metric", LOG, id="r", name="count.a.success", when=">= 1 and count.b.failed >= 2", repetitions="unlimited"
    )
    rules = [rule("start", act("submit", "a"), act("submit", "b")), r, rule("job-fail", LOG)]
    plans = {"a": ending_at(10, 40), "b": [Plan(0.0, t, EXIT1) for t in (20, 30)]}
    w = world(rules, [{"name": "a", "count": 2}, {"name": "b", "count": 2}], plans=plans).run()
    assert seconds(w.fired("r")) == [30, 40]
    assert [rec["text"] for rec in w.records("rule", rule="r")] == ["count.a.success = 1", "count.a.success = 2"]


def test_a_rule_that_reads_a_metric_twice_has_one_occasion_a_change(world: Any) -> None:
    r = rule("metric", LOG, id="r", name="count.a.success", when="> 0 and count.a.success < 9", repetitions="unlimited")
    w = world([START, r], [{"name": "a", "count": 3}], plans={"a": ending_at(10, 20, 30)}).run()
    assert seconds(w.fired("r")) == [10, 20, 30]


@pytest.mark.parametrize(
    ("when", "fired"),
    [
        ("event.job.exit_code == 3", [10]),
        ("event.job.cause == 'signal'", [20]),
        ("event.job.signal == 9", [20]),
        ("event.job.exit_code != 3", []),
        ("not event.job.exit_code == 3", []),
        ("event.job.exit_code == 3 or true", [10, 20]),
        ("event.group == 'a' and event.job.attempt == 0", [10, 20]),
        ("event.job.ranks == '0'", [10, 20]),
        ("count.a.failed == 2", [20]),
        ("event.job.params.x > 0", []),
    ],
)
def test_conditions_on_what_became_of_a_job(world: Any, when: str, fired: Any) -> None:
    r = rule("job-fail", LOG, id="r", when=when, repetitions="unlimited")
    plans = {"a": [Plan(0.0, 9.9, 3 << 8), Plan(0.0, 19.9, 9)]}
    # `b` is there to make x known; a job of `a` has none
    w = world([START, r], [{"name": "a", "count": 2}, {"name": "b", "parameters": {"x": [1]}}], plans=plans).run()
    assert seconds(w.fired("r")) == fired


def test_an_event_brings_its_data(world: Any) -> None:
    r = rule(
        "job-exception",
        act("log", value="{event.data.note} ({event.data.type})"),
        id="r",
        when="event.data.severity == 0",
    )
    plan = Plan(0.0, 10.0, EXIT1, exception=("node-failure", "gone"))
    w = world([START, r, rule("job-fail", LOG)], plans={"a": plan}).run()
    assert w.logged()[0] == "gone (node-failure)"


def test_every_trigger_takes_a_condition(world: Any) -> None:
    never = {"when": "count.a.submitted > 5", "repetitions": "unlimited"}
    other = {"when": "count.a.submitted == 1", "repetitions": 1}
    rules = [
        START,
        *(
            rule(trigger, LOG, id=f"{trigger}-{which}", **keys, **more)
            for trigger, more in [
                ("job-run", {}), ("job-start", {}), ("job-success", {}), ("group-complete", {"name": "a"}),
                ("heartbeat", {"every": 5}), ("timer", {"after": 5}), ("idle", {}), ("end", {"name": "complete"}),
            ]
            for which, keys in (("never", never), ("once", other))
        ),
    ]  # fmt: skip
    w = world(rules, plans={"a": Plan(0.0, 10.0)}).run()
    assert sorted(name for name in w.fired_rules() if name != "rule-1") == sorted(
        r["id"] for r in rules[1:] if r["id"].endswith("-once")
    )


def test_a_condition_that_does_not_hold_spends_nothing(world: Any) -> None:
    r = rule("job-success", LOG, id="r", when="count.a.success >= 3", backoff=1, repetitions="unlimited", cooldown=1)
    w = world([START, r], [{"name": "a", "count": 6}], plans={"a": ending_at(10, 20, 30, 40, 50, 60)}).run()
    assert seconds(w.fired("r")) == [30, 50]


def test_the_end_knows_its_state(world: Any) -> None:
    rules = [START, rule("end", act("log", value="{event.state}"), when="event.state != 'complete'")]
    w = world(rules, plans={"a": Plan(0.0, 5.0, EXIT1)}).run()
    assert w.logged() == ["failed"]


def test_a_failed_count_in_any_condition_is_in_the_files_own_hands(world: Any) -> None:
    for r in (
        rule("job-finish", LOG, when="count.a.failed > 5"),
        rule("metric", LOG, name="count.a.success", when="count.a.failed > 5"),
    ):
        assert world([START, r], plans={"a": Plan(0.0, 5.0, EXIT1)}).run().engine.final == "complete"
    r = rule("job-finish", act("log", value="{count.a.failed}"))
    assert world([START, r], plans={"a": Plan(0.0, 5.0, EXIT1)}).run().engine.final == "failed"


def test_a_statistic_in_a_condition_is_kept(world: Any) -> None:
    r = rule("job-success", LOG, id="r", when="p90.a.duration > 15", repetitions="unlimited")
    w = world([START, r], [{"name": "a", "count": 3}], plans={"a": ending_at(10, 20, 30)}).run()
    assert seconds(w.fired("r")) == [20, 30]


def test_what_was_postponed_is_not_judged_again(world: Any) -> None:
    """The condition held when the limit was met; a `resume` makes good for it, whatever has changed."""
    r = rule("job-success", act("submit", "b"), id="r", when="count.a.success == 2", repetitions="unlimited")
    rules = [
        START,
        rule("job-success", act("submit", "b"), id="other", name="b", repetitions="unlimited", when="false"),
        r,
    ]
    w = world(rules, [{"name": "a", "count": 3}, "b"], plans={"a": ending_at(10, 20, 30)}, limits={"max_firings": 1})
    w.engine.book.by_id["r"].fired = 1
    w.run()
    assert w.engine.final == "halted"
    assert w.counts()["success"] == 3
    w.feed(Command(w.t, "resume", {"limits": {"max_firings": 9}}))
    w.run()
    assert len(w.submits("b")) == 1


# ---- computed numbers


def test_numbers_of_a_submission(world: Any) -> None:
    rules = [
        START,
        rule(
            "job-success",
            act("submit", "b", count="count.a.success + 1", duration="2 * mean.a.duration", nodes="var.n", tasks="var.n * 2", urgency="31 - var.n"),
            name="a",
        ),
    ]  # fmt: skip
    w = world(rules, ["a", "b"], plans={"a": Plan(0.0, 10.0)}, variables={"n": 2.0}).run()
    made = w.submits("b")
    assert len(made) == 2
    assert {**made[0].overrides, "duration": round(made[0].overrides["duration"])} == {
        "duration": 20, "nodes": 2, "tasks": 4, "urgency": 29,
    }  # fmt: skip
    assert type(made[0].overrides["nodes"]) is int


def test_a_duration_that_reads_as_one_is_one(world: Any) -> None:
    w = world(
        [
            rule("start", act("submit", "a", duration="5m")),
            rule("timer", act("submit", "a", duration="5 * 60"), after=1),
        ]
    ).run()
    assert [s.overrides["duration"] for s in w.submits()] == [300.0, 300.0]


def test_a_computed_count_of_none_submits_nothing(world: Any) -> None:
    rules = [START, rule("job-success", act("submit", "a", count="1 - count.a.success"), LOG)]
    w = world(rules).run()
    assert len(w.submits()) == 1
    assert [r["text"] for r in w.records("action")][-1] == "submit a (0 jobs)"
    assert w.engine.final == "complete"


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"count": "var.x"}, "submit: count has no value: var.x, where var.x has none"),
        ({"count": "1 / var.zero"}, "submit: count has no value: 1 / var.zero"),
        ({"count": "var.half"}, "submit: count is 0.5 (var.half); expected a whole number from 0 to 10000000"),
        ({"count": "var.zero - 1"}, "submit: count is -1 (var.zero - 1); expected a whole number from 0 to 10000000"),
        ({"count": "var.text"}, "submit: count is many (var.text); expected a whole number from 0 to 10000000"),
        ({"nodes": "var.zero"}, "submit: nodes is 0 (var.zero); expected a whole number from 1 to 1000000"),
        ({"urgency": "var.zero + 32"}, "submit: urgency is 32 (var.zero + 32); expected a whole number from 0 to 31"),
        ({"duration": "var.zero - 1"}, "submit: duration is -1 (var.zero - 1); expected a duration from 0 to 1000000000 seconds"),
        ({"nodes": "4 + var.zero", "tasks": "2 + var.zero"}, "submit: 2 tasks of b cannot fill 4 nodes"),
        ({"nodes": "4 + var.zero"}, "submit: 3 tasks of b cannot fill 4 nodes"),
    ],
)  # fmt: skip
def test_a_number_that_is_none_fails_the_rule(world: Any, keys: Any, why: str) -> None:
    rules = [START, rule("job-success", LOG, act("submit", "b", **keys), act("log", value="never"), id="r", name="a")]
    variables = {"x": None, "zero": 0, "half": 0.5, "text": "many"}
    w = world(rules, ["a", {"name": "b", "nodes": 3, "tasks": 3}], variables=variables).run()
    assert w.engine.final == "failed"
    assert w.engine.reason == f"rule 'r' failed: {why}"
    assert [r["text"] for r in w.records("error", rule="r")] == [w.engine.reason]
    assert w.logged() == ["x"]
    assert w.submits("b") == []


def test_a_set_without_a_value_fails_the_rule_and_changes_nothing(world: Any) -> None:
    w = world([START, rule("job-start", put("n", "mean.a.duration + 1"), id="r")], variables={"n": 5}).run()
    assert (
        w.engine.reason == "rule 'r' failed: set: n has no value: mean.a.duration + 1, where mean.a.duration has none"
    )
    assert w.engine.variables == {"n": 5}


# ---- keep_alive


def test_keep_alive_keeps_it_from_ending(world: Any) -> None:
    r = rule("heartbeat", LOG, id="r", every=10, repetitions=5, keep_alive=True)
    w = world([START, r], plans={"a": Plan(0.0, 5.0)}).run()
    assert seconds(w.fired("r")) == [10, 20, 30, 40, 50]
    assert w.engine.final == "complete"


def test_without_it_a_heartbeat_that_only_logs_does_not(world: Any) -> None:
    w = world([START, rule("heartbeat", LOG, id="r", every=10, repetitions=5)], plans={"a": Plan(0.0, 25.0)}).run()
    assert seconds(w.fired("r")) == [10, 20]


def test_keep_alive_false_lets_a_heartbeat_that_submits_go(world: Any) -> None:
    for keys, fired in (({}, [10, 20, 30]), ({"keep_alive": False}, []), ({"keep_alive": True}, [10, 20, 30])):
        r = rule("heartbeat", act("submit", "a"), id="r", every=10, repetitions=3, **keys)
        assert seconds(world([START, r], plans={"a": Plan(0.0, 5.0)}).run().fired("r")) == fired


def test_a_rule_that_cannot_fire_keeps_nothing_alive(world: Any) -> None:
    for keys in ({"repetitions": 0}, {"enabled": False}):
        w = world([START, rule("heartbeat", LOG, id="r", every=10, keep_alive=True, **keys)]).run()
        assert w.engine.final == "complete"


def test_keep_alive_on_any_rule_waits_for_a_command(world: Any) -> None:
    w = world([START, rule("job-fail", LOG, id="r", keep_alive=True)], plans={"a": Plan(0.0, 5.0)})
    w.run(until=100)
    assert w.engine.state == "running"
    w.feed(Command(w.t, "cancel"))
    assert w.engine.final == "cancelled"


def test_ages_are_looked_at_where_an_expression_reads_them(world: Any) -> None:
    r = rule("metric", LOG, id="r", name="count.a.submitted", when="max.a.waiting > 100", repetitions=1)
    w = world([START, r], plans={"a": Plan(wait=150.0)}).run()
    assert seconds(w.fired("r")) == [120]


def test_time_is_looked_at_where_an_expression_reads_it(world: Any) -> None:
    r = rule("metric", LOG, id="r", name="count.a.submitted", when="ensemble.elapsed > 100", repetitions=1)
    w = world([START, r], plans={"a": Plan(0.0, 150.0)}).run()
    assert seconds(w.fired("r")) == [120]


def test_adaptive_batches(world: Any) -> None:
    """Batches that double while they pay, by rules alone."""
    rules = [
        rule("start", act("submit", "a", count="var.size")),
        rule(
            "group-complete",
            put("size", "min(2 * var.size, 16)"),
            act("submit", "a", count="var.size"),
            when="count.a.failed == 0 and count.a.submitted + var.size <= 40",
            repetitions="unlimited",
            name="a",
        ),
    ]
    w = world(rules, variables={"size": 2}).run()
    assert w.engine.final == "complete"
    assert [r["count"] for r in w.records("action", action="submit")] == [2, 4, 8, 16]
