# SPDX-License-Identifier: MIT
"""Nodes that come and go, the queue's numbers, and what the queue cannot do."""

from __future__ import annotations

from typing import Any

import pytest

from ensemble.engine.actions import Look
from ensemble.engine.events import RESOURCES, Counted, Resources
from t.engine.harness import T0, Plan, act, rule

START = rule("start", act("submit", "a"), id="start")
LOG = act("log", value="x")
FREE = rule("metric", act("submit", "a"), name="nodes.free", when="> 2", id="free", repetitions=3)


def nodes(free: int) -> Any:
    return {"nodes": {"up": 4, "down": 0, "free": free, "allocated": 4 - free}}


def test_nobody_looks_where_nothing_reads(world: Any) -> None:
    w = world([START, rule("heartbeat", LOG, every="5s", repetitions=2)]).run()
    assert not w.of(Look)
    assert RESOURCES not in w.engine.wanted_events


@pytest.mark.parametrize("reader", [
    rule("metric", LOG, name="queue.pending"),
    rule("job-start", LOG, when="cores.free > 3"),
    rule("job-start", act("log", value="{nodes.up} are up")),
    rule("job-start", act("submit", "a", count="nodes.free")),
])  # fmt: skip
def test_who_reads_has_a_look_at_the_begin_and_at_heartbeats(world: Any, reader: Any) -> None:
    w = world([START, reader], plans={"a": Plan(run=35)}, logging={"heartbeat": "10s"}, by_hand=True)
    assert len(w.of(Look)) == 1
    assert RESOURCES in w.engine.wanted_events
    w.feed(Counted(T0 + 1, {}))
    w.run(until=25)
    assert len(w.of(Look)) == 3
    w.command("cancel")


def test_numbers_wake_the_rules_that_read_them_and_only_when_they_change(world: Any) -> None:
    w = world([START, FREE, rule("timer", LOG, after=50)], plans={"a": Plan(run=1)})
    for t, free in ((1, 2), (2, 3), (3, 3), (4, 4), (5, 1)):
        w.at(t, Counted(T0 + t, nodes(free)))
    w.run()
    assert w.fired("free") == [2, 4]
    assert [r["text"] for r in w.records("rule", rule="free")] == ["nodes.free = 3", "nodes.free = 4"]


def test_a_rule_that_waits_for_the_first_numbers_keeps_the_ensemble_alive(world: Any) -> None:
    w = world([FREE])
    assert w.engine.final is None
    w.feed(Counted(T0 + 1, nodes(3)))
    assert w.fired("free") == [1]
    w.run()
    assert w.engine.final == "complete"
    for answer in (nodes(1), {}):
        w = world([FREE])
        w.feed(Counted(T0 + 1, answer))
        assert w.engine.final == "complete", "it was answered, and nothing came of it"


def test_without_numbers_there_is_no_value(world: Any) -> None:
    w = world([START, rule("job-start", act("log", value="{nodes.free} {queue.running} {cores.up}"))])
    w.at(0.5, Counted(T0 + 0.5, {"queue": {"pending": 0, "running": 7}}))
    w.run()
    assert w.logged() == ["no value 7 no value"]


@pytest.mark.parametrize("how", ["down", "up", "drain", "undrain"])
def test_nodes_that_change_fire_their_rules(world: Any, how: str) -> None:
    said = act("log", value="{event.ranks}")
    rules = [START, *(rule(f"resource-{h}", said, id=h, repetitions=2) for h in ("down", "up", "drain", "undrain"))]
    w = world(rules, plans={"a": Plan(run=50)})
    assert RESOURCES in w.engine.wanted_events
    for t in (5, 6, 7):
        w.at(t, Resources(T0 + t, how, f"1-{t}"))
    w.run()
    assert w.fired(how) == [5, 6]
    assert w.logged() == ["1-5", "1-6"]
    assert w.fired_rules() == ["start", how, how]
    assert not w.of(Look)


def test_numbers_are_looked_at_anew_when_nodes_change(world: Any) -> None:
    w = world([START, FREE], plans={"a": Plan(run=50)})
    w.feed(Counted(T0 + 1, nodes(1)))
    w.feed(Resources(T0 + 2, "up", "3"))
    assert len(w.of(Look)) == 2
    w.command("cancel")
    w.run()


def test_neither_looks_nor_nodes_revive_what_has_ended(world: Any) -> None:
    w = world([START, rule("resource-up", act("submit", "a"))]).run()
    assert w.feed(Resources(w.t + 1, "up", "3")) == []
    assert w.feed(Counted(w.t + 1, nodes(4))) == []


@pytest.mark.parametrize("reader", [
    rule("job-retry", act("log", value="on {event.job.ranks}")),
    rule("job-fail", LOG, when="event.job.ranks == '3'"),
])  # fmt: skip
def test_who_says_where_a_job_runs_hears_of_its_allocation(world: Any, reader: Any) -> None:
    assert "alloc" in world([START, reader], by_hand=True).engine.wanted_events
    assert "alloc" not in world([START, rule("job-fail", LOG)], by_hand=True).engine.wanted_events
