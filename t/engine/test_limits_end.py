# SPDX-License-Identifier: MIT
"""What rules of the end submit: it goes before what a halt holds back, and keeps to the limits that pace."""

from __future__ import annotations

from typing import Any

from t.engine.harness import act, rule

START = rule("start", act("submit", "a"), id="start")


def test_what_rules_of_the_end_submit_keeps_to_the_limits(world: Any) -> None:
    rules = [START, rule("end", act("submit", "b", count=9), id="end")]
    w = world(rules, [{"name": "a", "count": 3}, "b"], limits={"max_active": 2})
    most = 0
    while w.engine.final is None and w.step():
        most = max(most, len(w.engine.jobs))
    assert (w.engine.final, most) == ("complete", 2)
    assert w.counts("b")["success"] == 9


def test_a_halted_ensemble_cleans_up_before_what_it_holds(world: Any) -> None:
    rules = [START, rule("end", act("submit", "b", count=9), id="end", name="halted")]
    w = world(rules, [{"name": "a", "count": 6}, "b"], limits={"max_jobs": 4}).run()
    assert w.engine.final == "halted"
    assert (w.counts("a")["success"], w.counts("b")["success"]) == (4, 9)
    assert w.engine.held.total == 2
    w.command("resume", limits={"max_jobs": 20})
    w.run()
    assert (w.engine.final, w.counts("a")["success"]) == ("complete", 6)


def test_a_resume_while_it_cleans_up_loses_nothing(world: Any) -> None:
    rules = [START, rule("end", act("submit", "b", count=6), id="end", name="halted")]
    w = world(rules, [{"name": "a", "count": 5}, "b"], limits={"max_jobs": 4, "max_active": 2})
    while w.counts("b")["success"] < 2:
        assert w.step()
    w.command("resume", limits={"max_jobs": 50})
    w.run()
    assert (w.counts("a")["success"], w.counts("b")["success"]) == (5, 6)


def test_a_cancel_while_it_cleans_up_drops_the_rest(world: Any) -> None:
    rules = [START, rule("end", act("submit", "b", count=6), id="end")]
    w = world(rules, [{"name": "a", "count": 2}, "b"], limits={"submit_rate": 1})
    while w.counts("b")["success"] < 1:
        assert w.step()
    w.command("cancel")
    w.run()
    assert w.engine.final == "cancelled"
    assert w.counts("b")["success"] < 6
