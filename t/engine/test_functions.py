# SPDX-License-Identifier: MIT
"""Custom functions as the engine has them: calls, answers that act once, rules that join, what failures lead to."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List

import pytest

from ensemble.engine import calls
from ensemble.engine.actions import Call
from ensemble.engine.events import Answered, Command, from_json, to_json
from ensemble.engine.snapshot import restore, snapshot
from t.engine.harness import EXIT1, T0, Plan, act, rule

#: functions are not looked into by the engine: their source says only that they are there
SOURCE = "def f(**kwargs): pass\ndef g(**kwargs): pass\n"
START = rule("start", act("submit", "a"))
CALL = rule("start", act("custom", "f"), id="caller")


def answer(*items: Any, **state: Any) -> Dict[str, Any]:
    return {"answer": list(items), **({"state": state} if state else {})}


def action(name: str, label: Any = None, **keys: Any) -> Dict[str, Any]:
    return {"action": act(name, label, **keys)}


def added(trigger: str, *actions: Dict[str, Any], **keys: Any) -> Dict[str, Any]:
    return {"rule": rule(trigger, *actions, **keys)}


def says(*answers: Any) -> Callable[[Dict[str, Any]], Any]:
    """A function that gives these answers, one after the other, and then the last one again."""
    left = list(answers)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


@pytest.fixture
def steered(world: Any) -> Any:
    def make(rules: Any, jobs: Any = None, **keys: Any) -> Any:
        return world(rules, jobs, custom=SOURCE, **keys)

    return make


def test_none_does_nothing(steered: Any) -> None:
    w = steered([CALL], functions={"f": says(answer())}).run()
    assert w.engine.final == "complete"
    assert [request["function"] for request in w.called] == ["f"]
    assert w.submits() == []


def test_an_action_is_done_and_its_index_runs_on(steered: Any) -> None:
    rules = [rule("start", act("submit", "a", count=2), act("custom", "f"), act("submit", "a"), id="r")]
    w = steered(rules, functions={"f": says(answer(action("submit", "a", count=2)))}).run()
    assert [s.key.index for s in w.submits()] == [0, 1, 2, 3, 4]
    assert {s.key.rule for s in w.submits()} == {"r"}
    assert len({s.key for s in w.submits()}) == 5


def test_two_functions_of_one_firing_share_its_indices(steered: Any) -> None:
    rules = [rule("start", act("custom", "f"), act("custom", "g"))]
    w = steered(rules, functions={name: says(answer(action("submit", "a", count=2))) for name in "fg"}).run()
    assert [s.key.index for s in w.submits()] == [0, 1, 2, 3]


def test_an_answer_takes_effect_once(steered: Any) -> None:
    w = steered([CALL], by_hand=True)
    (call,) = w.of(Call)
    assert call.cause.rule == "caller"
    w.feed(Answered(w.t, call.call, answer(action("submit", "a"))))
    assert len(w.submits()) == 1
    assert w.feed(Answered(w.t, call.call, answer(action("submit", "a")))) == []
    assert w.feed(Answered(w.t, "caller/1/7", answer(action("submit", "a")))) == []


def test_an_answer_survives_as_a_record() -> None:
    event = Answered(T0, "caller/1/0", {"answer": [{"action": {"name": "stop"}}], "state": {"n": 1}})
    assert from_json(json.loads(json.dumps(to_json(event)))) == event


def test_a_pending_call_keeps_it_from_being_idle_and_from_ending(steered: Any) -> None:
    rules = [CALL, rule("idle", act("log", value="idle"))]
    w = steered(rules, by_hand=True)
    assert w.logged() == []
    assert w.engine.state == "running"
    w.feed(Answered(w.t, "caller/1/0", answer()))
    assert w.logged() == ["idle"]
    assert w.engine.final == "complete"


def test_stop_waits_for_answers_and_terminate_does_not(steered: Any) -> None:
    rules = [rule("start", act("custom", "f"), act("stop"), id="r")]
    w = steered(rules, by_hand=True)
    assert w.engine.state == "stopping"
    w.feed(Answered(w.t, "r/1/0", answer(action("log", value="late"), action("submit", "a"))))
    assert w.logged() == ["late"]
    assert (w.engine.final, w.submits()) == ("complete", [])
    w = steered([rule("start", act("custom", "f"), act("terminate"), id="r")], by_hand=True)
    assert w.engine.final == "complete"
    assert w.feed(Answered(w.t, "r/1/0", answer(action("submit", "a")))) == []


def test_a_cancelled_ensemble_waits_for_no_answer(steered: Any) -> None:
    w = steered([CALL], by_hand=True)
    w.feed(Command(w.t, "cancel", {}))
    assert w.engine.final == "cancelled"


def test_a_function_at_the_end_may_still_submit(steered: Any) -> None:
    rules = [START, rule("end", act("custom", "f"))]
    w = steered(rules, ["a", "b"], functions={"f": says(answer(action("submit", "b"), action("submit", "b")))}).run()
    assert len(w.submits("b")) == 2
    assert w.engine.final == "complete"


# ---- what a function is given


def test_it_is_given_what_happened(steered: Any) -> None:
    rules = [START, rule("job-fail", act("custom", "f", args={"x": [1]}, value=3), name="a", id="r")]
    w = steered(rules, plans={"a": Plan(status=EXIT1)}, functions={"f": says(answer())}).run()
    (request,) = w.called
    assert request["args"] == {"x": [1]}
    assert request["action"] == {"name": "custom", "label": "f", "value": 3}
    assert request["event"]["id"] == w.rows()[0]["id"]
    assert (request["event"]["group"], request["event"]["job"]["exit_code"]) == ("a", 1)
    assert request["event"]["trigger"] == "job-fail"
    assert (request["rule"]["id"], request["rule"]["firing"], request["rule"]["remaining"]) == ("r", 1, 0)
    assert request["metrics"]["counts"]["a"]["failed"] == 1
    assert request["metrics"]["ensemble"]["submitted"] == 1


def test_statistics_are_kept_for_functions(steered: Any) -> None:
    rules = [START, rule("group-complete", act("custom", "f"), name="a")]
    w = steered(rules, [{"name": "a", "count": 3}], functions={"f": says(answer())}).run()
    kept = {(g, s, v): stats for g, s, v, stats in w.called[0]["metrics"]["statistics"]}
    assert kept["a", "success", "duration"]["mean"] == pytest.approx(10.0)
    assert kept["a", "success", "duration"]["variance"] == pytest.approx(0.0, abs=1e-9)
    assert {"iqr", "mad", "median", "max"} <= set(kept["a", "", "-pending"])


def test_it_keeps_a_state(steered: Any) -> None:
    rules = [rule("start", act("custom", "f"), act("custom", "f"), act("custom", "g"))]
    w = steered(rules, functions={"f": says(answer(n=1), answer(n=2)), "g": says(answer())}).run()
    assert [request["state"] for request in w.called] == [{}, {"n": 1}, {}]
    assert w.engine.calls.states == {"f": {"n": 2}}


def test_results_are_those_since_the_last_call(steered: Any) -> None:
    seen: List[Any] = []

    def look(request: Dict[str, Any]) -> Any:
        p = w.engine.calls.pending[request["call"]]
        seen.append((p.group, p.after, p.upto, p.row))
        return answer(action("submit", "a")) if p.group == "a" and len(seen) < 4 else answer()

    rules = [
        rule("start", act("submit", "a"), act("submit", "b")),
        rule("group-complete", act("custom", "f"), name="a", repetitions=3),
        rule("group-complete", act("custom", "g"), name="b"),
    ]
    told = {"f": look, "g": look}
    w = steered(rules, [{"name": "a", "count": 2}, {"name": "b", "count": 3}], functions=told)
    w.run()
    of_a = [(after, upto) for group, after, upto, _ in seen if group == "a"]
    assert [after for after, _ in of_a][1:] == [upto for _, upto in of_a][:-1]
    rows = {row["ended"]: row for row in w.rows()}
    assert sorted(rows) == list(range(1, 10))
    for (after, upto), count in zip(of_a, (2, 2, 2)):
        assert sum(rows[n]["group"] == "a" for n in range(after + 1, upto + 1)) == count
    for group, after, _, row in seen:
        # what ended before was in the store, or is not wanted
        assert all(n <= after or rows[n]["group"] != group for n in [r["ended"] for r in w.rows()[:row]])


# ---- rules that join


def test_a_rule_on_start_fires_at_once(steered: Any) -> None:
    w = steered([CALL], functions={"f": says(answer(added("start", act("submit", "a"))))}).run()
    assert len(w.submits("a")) == 1
    assert w.submits()[0].key.rule == "caller-1"
    assert [r.id for r in w.engine.book.rules] == ["caller", "caller-1"]


def test_several_rules_have_ids_of_their_own(steered: Any) -> None:
    two = answer(added("idle", act("log", value="1")), added("idle", act("log", value="2"), id="mine"))
    rules = [rule("start", act("custom", "f"), id="caller", repetitions=2), rule("idle", act("log", value="x"))]
    w = steered(rules, functions={"f": says(two)}).run()
    assert [r.id for r in w.engine.book.rules] == ["caller", "rule-2", "caller-1-1", "mine"]
    assert w.logged() == ["x", "1", "2"]


def test_every_kind_of_rule_may_join(steered: Any) -> None:
    items = [
        added("job-success", act("log", value="success"), name="a"),
        added("job-alloc", act("log", value="alloc"), name="a"),
        added("metric", act("log", value="metric"), name="p90.a.duration", when="> 0"),
        added("group-complete", act("log", value="complete"), name="a"),
        added("timer", act("log", value="timer"), after=100),
        added("heartbeat", act("log", value="beat"), every=7, repetitions=2),
        added("end", act("log", value="end")),
    ]
    w = steered([CALL], functions={"f": says(answer(action("submit", "a"), *items))}).run()
    assert sorted(w.logged()) == sorted(["success", "alloc", "metric", "complete", "timer", "beat", "beat", "end"])
    assert w.engine.wanted_events == {"alloc"}
    (timer,) = [r["t"] for r in w.records("log", text="timer")]
    assert timer == pytest.approx(100, abs=1)


def test_a_rule_on_heartbeats_brings_them(steered: Any) -> None:
    w = steered([CALL], functions={"f": says(answer(added("heartbeat", act("submit", "a"))))}).run()
    assert w.fired("caller-1") == [pytest.approx(60, abs=1)]


def test_a_rule_whose_condition_holds_already_is_looked_at(steered: Any) -> None:
    late = added("metric", act("log", value="late"), name="count.a.success", when=2)
    never = added("metric", act("log", value="never"), name="count.a.success")
    rules = [START, rule("group-complete", act("custom", "f"), name="a")]
    w = steered(rules, [{"name": "a", "count": 2}], functions={"f": says(answer(late, never))}).run()
    assert w.logged() == ["late"]


def test_a_new_statistic_is_kept_from_then_on(steered: Any) -> None:
    item = added("metric", act("log", value="{p90.a.duration} {ewm.a.duration}"), name="ewm.a.duration", when="> 0",
                 repetitions="unlimited")  # fmt: skip
    plans = {"a": lambda submit, number: Plan(run=[10.0, 20.0, 30.0][number])}
    rules = [START, rule("group-complete", act("custom", "f"), name="a")]
    w = steered(rules, plans=plans, functions={"f": says(answer(item, action("submit", "a", count=2)))}).run()
    assert w.logged()[0].startswith("20 20")
    assert len(w.logged()) == 2


def test_added_rules_survive_a_restart(steered: Any) -> None:
    item = added("group-complete", act("log", value="{max.a.duration} s"), name="a", id="after")
    w = steered([CALL], functions={"f": says(answer(item, action("submit", "a")))})
    w.run(until=5)
    again = restore(w.spec, json.loads(json.dumps(snapshot(w.engine))))
    assert [r.id for r in again.book.rules] == ["caller", "after"]
    assert again.book.by_id["after"].rule == w.engine.book.by_id["after"].rule
    w.run()
    assert w.logged() == ["10 s"]


def test_rules_are_bounded(steered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_RULES", 2)
    w = steered([CALL], functions={"f": says(answer(*[added("idle", act("stop"))] * 3))}).run()
    assert w.engine.final == "failed"
    assert "functions may add 2 rules" in w.engine.reason


def test_a_function_that_calls_itself_for_ever_is_stopped(steered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_CALLS", 5)
    w = steered([CALL], functions={"f": says(answer(action("custom", "f")))}).run()
    assert len(w.called) == 5
    assert "calls on and on" in w.engine.reason


# ---- failures

FAILED = {"error": "failed: ZeroDivisionError: division by zero", "traceback": "Traceback\n  line\nZeroDivisionError"}
WRONG = [
    (action("submit", "b"), "no group is called 'b'; expected one of a"),
    (action("submt", "a"), "no action is called 'submt'; expected one of"),
    (action("submit", "a", count=0), "count cannot be '0'; expected a whole number"),
    (action("submit"), "submit has no label"),
    (action("enable", "nobody"), "no rule has the id 'nobody'"),
    (action("custom", "h"), "no function is called 'h'"),
    (added("never", act("stop")), "no trigger is called 'never'"),
    (added("metric", act("stop"), name="mean.b.duration"), "no group is called 'b'"),
    (added("start", act("stop"), wehn=3), "a rule has no key 'wehn'"),
    ({"rule": {"trigger": "start"}}, "this rule has no action"),
    (added("start", act("stop"), id="caller"), "a rule has the id 'caller' already"),
    ({"cancel": {}}, "item 1 is neither an action nor a rule"),
    ("submit", "item 1 is neither an action nor a rule"),
]


@pytest.mark.parametrize(("item", "told"), WRONG)
def test_a_wrong_answer_fails_the_rule(steered: Any, item: Any, told: str) -> None:
    w = steered([CALL], functions={"f": says(answer(item))}).run()
    assert w.engine.final == "failed"
    assert w.engine.reason.startswith("rule 'caller' failed: function 'f' gave a wrong answer: ")
    assert told in w.engine.reason
    assert w.submits() == []


def test_a_wrong_answer_does_nothing_at_all(steered: Any) -> None:
    w = steered(
        [CALL], functions={"f": says({**answer(action("submit", "a"), action("submit", "b")), "state": {"n": 1}})}
    )
    w.run()
    assert (w.submits(), w.engine.calls.states) == ([], {})
    assert "action 2: no group is called 'b'" in w.engine.reason


@pytest.mark.parametrize("data", [{"answer": None}, {"answer": {}}, {}, {"answer": [{"action": {}}] * 1001}])
def test_what_is_no_list_is_wrong(steered: Any, data: Any) -> None:
    w = steered([CALL], functions={"f": says(data)}).run()
    assert "expected a list of at most 1000 actions and rules" in w.engine.reason


def test_deep_answers_are_refused(steered: Any) -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    w = steered([CALL], functions={"f": says(answer(action("custom", "f", args=deep)))}).run()
    assert "nested deeper" in w.engine.reason


def test_a_failure_stops_the_ensemble(steered: Any) -> None:
    rules = [START, CALL]
    w = steered(rules, functions={"f": says(FAILED)}).run()
    assert w.engine.final == "failed"
    assert w.counts()["success"] == 1, "what runs is let end"
    assert w.engine.reason == "rule 'caller' failed: function 'f' failed: ZeroDivisionError: division by zero"
    texts = [r["text"] for r in w.records("error")]
    assert texts == [FAILED["traceback"], w.engine.reason]
    assert w.engine.book.by_id["caller"].state(w.t) == "failed"


@pytest.mark.parametrize(("on_error", "calls_made", "state"), [("disable", 1, "disabled"), ("ignore", 3, "spent")])
def test_on_error_goes_on(steered: Any, on_error: str, calls_made: int, state: str) -> None:
    again = rule("job-success", act("custom", "f"), id="r", repetitions=3, on_error=on_error)
    plans = {"a": lambda submit, number: Plan(run=number + 1.0)}
    w = steered([START, again], [{"name": "a", "count": 5}], plans=plans, functions={"f": says(FAILED)}).run()
    assert (w.engine.final, len(w.called)) == ("complete", calls_made)
    one = w.engine.book.by_id["r"]
    assert (one.state(w.t), one.error) == (state, "function 'f' failed: ZeroDivisionError: division by zero")


def test_a_heartbeat_rule_that_calls_keeps_it_alive(steered: Any) -> None:
    beat = rule("heartbeat", act("custom", "f"), every=10, repetitions=3)
    w = steered([beat], functions={"f": says(answer())}).run()
    assert len(w.called) == 3
    assert w.t - T0 == pytest.approx(30, abs=1)


def test_a_bare_list_of_an_ensemble_without_custom_is_a_fault() -> None:
    from t.engine.harness import make_spec

    with pytest.raises(Exception, match="no function is called 'f'"):
        make_spec([CALL])
