# SPDX-License-Identifier: MIT
"""Variables and `set`: what they hold, who is woken, and what is kept."""

from __future__ import annotations

from typing import Any, Dict

import pytest

from ensemble.engine.engine import Engine
from ensemble.engine.events import JobEvent, TimerExpired
from ensemble.engine.snapshot import restore, snapshot
from ensemble.engine.values import shown
from ensemble.spec.metrics import parse
from t.engine.harness import T0, Plan, World, act, make_spec, rule

START = rule("start", act("submit", "a"))
LOG = act("log", value="x")


def ending_at(*times: float) -> Any:
    return [Plan(wait=0.0, run=t - 0.01) for t in times]


def seconds(times: Any) -> Any:
    return [round(t) for t in times]


def put(label: str, value: Any) -> Dict[str, Any]:
    return act("set", label, value=value)


def test_variables_begin_as_declared_and_are_in_the_snapshot() -> None:
    spec = make_spec([START], variables={"n": 1, "x": 0.5, "s": "two words", "t": True, "none": None})
    engine = Engine(spec, "ens")
    assert engine.variables == {"n": 1, "x": 0.5, "s": "two words", "t": True, "none": None}
    engine.values.set("n", 7)
    again = restore(spec, snapshot(engine))
    assert again.variables == engine.variables
    assert again.values.metric(parse("var.n", [])) == 7
    assert engine.variables is not again.variables
    assert spec.variables["n"] == 1


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (5, 5), (0.5, 0.5), (True, True), ("fast", "fast"), ("phase-2", "phase-2"), ("'two words'", "two words"),
        ("'3'", "3"), ("3", 3), ("true", True), ("var.n * 2 + 1", 5), ("var.n / 4", 0.5), ("count.a.submitted", 1),
        ("var.s", "old"), ("var.n > 1", True), ("min(var.n, 1)", 1), ("-var.n", -2), ("max", "max"),
    ],
)  # fmt: skip
def test_set(world: Any, value: Any, kept: Any) -> None:
    w = world([START, rule("job-success", put("x", value))], variables={"x": None, "n": 2, "s": "old"}).run()
    assert w.engine.variables["x"] == kept
    assert type(w.engine.variables["x"]) is type(kept)
    assert [r["text"] for r in w.records("action", action="set")] == [f"set x to {shown(kept)}"]


def test_set_is_visible_at_once(world: Any) -> None:
    rules = [
        START,
        rule(
            "job-success",
            put("n", "var.n + 1"),
            put("n", "var.n * 10"),
            act("log", value="{var.n}"),
            act("submit", "b", count="var.n"),
        ),
        rule("job-success", act("log", value="next"), name="a", when="var.n == 20"),
        rule("metric", act("log", value="seen {event.value}"), name="var.n", when="> 5"),
    ]
    w = world(rules, ["a", {"name": "b", "count": 1}], variables={"n": 1}).run()
    assert w.logged() == ["20", "next", "seen 20"]
    assert len(w.submits("b")) == 20


def test_a_rule_before_it_in_the_file_sees_it_with_the_next_event(world: Any) -> None:
    rules = [
        START,
        rule("metric", act("log", value="first"), name="var.n", when=">= 1"),
        rule("metric", put("n", 1), act("log", value="second"), name="count.a.success", when=1),
    ]
    w = world(rules, variables={"n": 0}).run()
    assert w.logged() == ["second", "first"]
    assert w.engine.final == "complete"


def test_set_to_what_it_was_is_no_change(world: Any) -> None:
    rules = [
        START,
        rule("job-success", put("n", 3), repetitions="unlimited"),
        rule("metric", LOG, id="r", name="var.n", repetitions="unlimited"),
    ]
    w = world(rules, [{"name": "a", "count": 3}], plans={"a": ending_at(10, 20, 30)}, variables={"n": 1}).run()
    assert seconds(w.fired("r")) == [10]


def test_true_and_one_are_two_values(world: Any) -> None:
    rules = [
        START,
        rule("job-success", put("n", True), id="set"),
        rule("metric", LOG, id="r", name="var.n", repetitions="unlimited"),
    ]
    assert len(world(rules, variables={"n": 1}).run().fired("r")) == 1


def test_a_comparison_with_a_variable_of_another_kind_does_not_hold(world: Any) -> None:
    rules = [
        START,
        rule("job-success", put("n", "fast")),
        rule("metric", LOG, id="number", name="var.n", when="> 1"),
        rule("metric", LOG, id="text", name="var.n", when="var.n == 'fast'"),
        rule("metric", LOG, id="event", name="var.n", when="event.value == 'fast'"),
    ]
    w = world(rules, variables={"n": 1}).run()
    assert (len(w.fired("number")), len(w.fired("text")), len(w.fired("event"))) == (0, 1, 1)
    assert [r["text"] for r in w.records("rule", rule="text")] == ["var.n = fast"]


def test_a_rule_that_wakes_itself_for_ever_meets_a_limit(world: Any) -> None:
    """One step an event, so that nothing else waits for it, and `max_firings` in the end."""
    rules = [
        START,
        rule("job-start", put("n", "var.n + 1")),
        rule("metric", put("n", "var.n + 1"), id="r", name="var.n", repetitions="unlimited"),
    ]
    w = world(rules, plans={"a": Plan(0.0, 1.0)}, variables={"n": 0}, limits={"max_firings": 50}).run()
    assert w.engine.final == "halted"
    assert "max_firings" in w.engine.reason
    assert len(w.fired("r")) == 50
    per_answer = [sum(1 for a in answer if getattr(a, "type", "") == "rule") for answer in w.answers]
    assert max(per_answer) <= 2


def test_a_variable_that_was_never_set_has_no_value(world: Any) -> None:
    rules = [
        START,
        rule("job-success", act("log", value="is {var.n}, {var.s}, {var.t}"), when="not var.n == 1", id="r"),
        rule("job-success", act("log", value="is {var.n}, {var.s}, {var.t}")),
    ]
    w = world(rules, variables={"n": None, "s": "a b", "t": False}).run()
    assert w.fired("r") == []
    assert w.logged() == ["is no value, a b, false"]


def test_log_lines(world: Any) -> None:
    line = "{event.group} {event.job.id} {event.job.exit_code} {event.job.cause} {count.a.failed} {var.x} {mean.a.duration} {a}"
    rules = [START, rule("job-fail", act("log", value=line))]
    w = world(rules, plans={"a": Plan(0.0, 5.0, 3 << 8)}, variables={"x": 1 / 3}).run()
    assert w.logged() == ["a 100 3 fail 1 0.333333 no value {a}"]


def test_two_worlds_of_one_spec_have_variables_of_their_own() -> None:
    spec = make_spec([START, rule("job-success", put("n", "var.n + 1"))], variables={"n": 1})
    one, two = World(spec), World(spec)
    one.run()
    assert (one.engine.variables["n"], two.engine.variables["n"]) == (2, 1)
    two.run()


def test_events_that_come_late_read_what_is_now(world: Any) -> None:
    rules = [START, rule("timer", act("log", value="{var.n}"), after=10), rule("signal", act("set", "n", value=4))]
    w = world(rules, by_hand=True, variables={"n": 1})
    key = w.submits()[0].key
    w.feed(JobEvent(T0 + 1, 7, "submit", {}, key))
    w.engine.values.set("n", 4)
    w.feed(TimerExpired(T0 + 10, "timer:1"))
    assert w.logged() == ["4"]
