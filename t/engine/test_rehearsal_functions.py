# SPDX-License-Identifier: MIT
"""Other rules that call functions, on a run that is past: none is called, and answers that were given may be taken."""

from __future__ import annotations

from typing import Any, Dict

from t.engine.harness import Plan, World, act, make_spec, rule
from t.engine.test_rehearsal import START, did, other, rehearse, run, times

FUNCTION = "def more(metrics):\n    return None\n"


def answering(*answers: Any) -> Dict[str, Any]:
    left = list(answers)
    return {"more": lambda request: {"answer": left.pop(0)}}


def test_functions_are_not_called() -> None:
    asks = rule("job-success", act("custom", "more"), id="ask", name="a", repetitions="unlimited")
    spec = make_spec([START, asks], [{"name": "a", "count": 3}], custom=FUNCTION)
    said = [[{"action": {"name": "submit", "label": "a", "count": 1}}]] + [[]] * 9
    world = World(spec, {"a": Plan()}, checks=False, functions=answering(*said)).run()
    assert world.counts()["success"] == 4
    same = rehearse(world, spec)
    assert same.answered == {"more": 4}
    assert same.not_called == {}
    assert times(same.firings.all, "ask") == times(same.recorded.firings.all, "ask")
    assert same.would == {"a": 4}
    elsewhere = make_spec([START, {**asks, "trigger": "job-start"}], [{"name": "a", "count": 3}], custom=FUNCTION)
    found = rehearse(world, elsewhere)
    assert found.not_called == {"more": 4}
    assert found.answered == {}
    assert did(found.firings.all, "ask") == [["call more (not called)"]] * 4
    changed = make_spec([START, asks], [{"name": "a", "count": 3}], custom=FUNCTION + "\n# another\n")
    assert rehearse(world, changed).not_called == {"more": 4}


def test_points_that_a_function_says_are_not_known() -> None:
    world = run()
    jobs = [{"name": "a", "count": 3}, {"name": "p", "command": "x {x}", "parameters": {"custom": "more"}}]
    found = rehearse(
        world, other(rule("job-success", act("submit", "p"), id="it", name="a"), jobs=jobs, custom=FUNCTION)
    )
    assert found.unknown == {"p": 1}
    assert found.not_called == {"more": 1}
    assert did(found.firings.all, "it") == [["submit p, as many as more would have said points"]]
