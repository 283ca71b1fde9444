# SPDX-License-Identifier: MIT
"""Parameters that a function says: a submission waits for its points as for any answer."""

from __future__ import annotations

from typing import Any, Dict, List

import pytest

from ensemble.engine.events import Answered, Command
from t.engine.harness import act, rule

SOURCE = "def f(**kwargs): pass\ndef g(**kwargs): pass\n"
START = rule("start", act("submit", "a"), id="start")
A = {"name": "a", "command": "run {x}", "parameters": {"custom": "f"}}


def points(*xs: Any) -> Dict[str, Any]:
    return {"answer": [{"x": x} for x in xs]}


@pytest.fixture
def steered(world: Any) -> Any:
    def make(rules: Any, jobs: Any = (A,), **keys: Any) -> Any:
        return world(rules, list(jobs), custom=SOURCE, **keys)

    return make


def params(w: Any) -> List[Any]:
    return [submit.params for submit in w.submits()]


def test_the_answer_is_submitted(steered: Any) -> None:
    w = steered([START], functions={"f": lambda request: points(1, 2.5, "z")}).run()
    assert params(w) == [{"x": 1}, {"x": 2.5}, {"x": "z"}]
    assert [s.key.index for s in w.submits()] == [0, 1, 2]
    (request,) = w.called
    assert request["points"] is True
    assert request["action"] == {"name": "submit", "label": "a", "set": 0}
    assert w.engine.final == "complete"


def test_the_keys_of_the_action_go_along(steered: Any) -> None:
    rules = [rule("start", act("submit", "a", count=2, urgency=20))]
    w = steered(rules, functions={"f": lambda request: points(1, 2, 3)}).run()
    assert params(w) == [{"x": 1}, {"x": 2}], "what is left is for the next submission"
    assert {s.overrides["urgency"] for s in w.submits()} == {20}


def test_other_sets_of_the_group_do_not_wait(steered: Any) -> None:
    plain = {"name": "a", "command": "plain", "count": 2}
    w = steered([START], [A, plain, {**A, "parameters": {"custom": "g"}}], by_hand=True)
    assert [s.set for s in w.submits()] == [1, 1]
    w.feed(Answered(w.t, "start/1/1", points(7)))
    assert [(s.set, s.key.index) for s in w.submits()][2:] == [(2, 2)]
    w.feed(Answered(w.t, "start/1/0", points(8)))
    assert [(s.set, s.key.index) for s in w.submits()][3:] == [(0, 3)]


def test_points_of_the_action_need_no_function(steered: Any) -> None:
    w = steered([rule("start", act("submit", "a", parameters=[{"x": 1}]))]).run()
    assert (params(w), w.called) == ([{"x": 1}], [])


def test_generations(steered: Any) -> None:
    def f(request: Dict[str, Any]) -> Any:
        n = request["state"].get("n", 0)
        return {**points(*range(n, n + 3)), "state": {"n": n + 3}} if n < 9 else points()

    again = rule("group-complete", act("submit", "a"), name="a", repetitions="unlimited", id="again")
    w = steered([START, again], functions={"f": f}).run()
    assert sorted(p["x"] for p in params(w)) == list(range(9))
    assert len(w.fired("again")) == 3, "no points are no generation"
    assert w.records("action", text="f has no more points of a, so nothing is submitted")
    assert w.engine.final == "complete"


def test_a_group_is_complete_only_when_its_functions_have_answered(steered: Any) -> None:
    """A submission with its own points runs and ends while a function thinks about others."""
    rules = [
        rule("start", act("submit", "a"), act("submit", "a", parameters=[{"x": 1}]), id="start"),
        rule("group-complete", act("log", value="complete"), name="a"),
    ]
    answers = {"last": points()}
    w = steered(rules, functions={"f": lambda request: None})
    w.run(until=100)
    assert w.logged() == []
    assert w.engine.state == "running"
    w.feed(Answered(w.t, "start/1/0", answers["last"]))
    assert w.logged() == ["complete"]
    assert w.engine.final == "complete"


@pytest.mark.parametrize("how", ["cancel a", "cancel all", "user"])
def test_what_waits_for_points_is_dropped_with_the_rest(steered: Any, how: str) -> None:
    rules = [rule("start", act("submit", "a"), *([act("cancel", how[7:])] if how != "user" else []))]
    w = steered(rules, by_hand=True)
    if how == "user":
        w.feed(Command(w.t, "cancel", {}))
    assert w.engine.final == ("cancelled" if how == "user" else "complete")
    assert w.engine.calls.pending == {}


def test_stop_waits_for_the_answer_and_submits_nothing_of_it(steered: Any) -> None:
    w = steered([rule("start", act("submit", "a"), act("stop"), id="start")], by_hand=True)
    assert w.engine.state == "stopping"
    w.feed(Answered(w.t, "start/1/0", points(1)))
    assert (w.engine.final, w.submits()) == ("complete", [])


def test_a_cancel_of_another_group_drops_nothing(steered: Any) -> None:
    w = steered([rule("start", act("submit", "a"), act("cancel", "b"))], [A, "b"], by_hand=True)
    assert len(w.engine.calls.pending) == 1
    w.feed(Command(w.t, "cancel", {}))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"answer": [{"x": [1]}]}, "expected a number, a string"),
        ({"answer": [{"x": 1}, {"y": 1}]}, "expected"),
        ({"answer": 3}, "expected"),
        ({"error": "failed: KeyError: 'x'"}, "function 'f' failed: KeyError: 'x'"),
    ],
)
def test_wrong_points_fail_the_rule(steered: Any, answer: Any, told: str) -> None:
    w = steered([START], functions={"f": lambda request: answer}).run()
    assert w.engine.final == "failed"
    assert "rule 'start' failed: function 'f'" in w.engine.reason
    assert told in w.engine.reason
    assert w.submits() == []
