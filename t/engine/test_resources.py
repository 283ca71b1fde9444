# SPDX-License-Identifier: MIT
"""Nodes that come and go, the queue's numbers, and what the queue cannot do."""

from __future__ import annotations

import json
from typing import Any, Dict, List

import pytest

from ensemble.engine.actions import Look
from ensemble.engine.engine import Engine
from ensemble.engine.events import RESOURCES, Begin, Counted, Event, Resources, Scaled, Signal, from_json, to_json
from ensemble.engine.resources import PATIENCE
from ensemble.engine.snapshot import restore, snapshot
from t.engine.harness import T0, Plan, act, make_spec, rule

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


# ---- rules on what happens see the numbers from behind it

TOLD = act("log", value="{event.ranks}: {nodes.free}")
CHANGED = [rule(f"resource-{how}", TOLD, id=how, repetitions="unlimited") for how in ("up", "down")]


def test_a_rule_on_nodes_that_change_sees_the_numbers_of_behind_the_change(world: Any) -> None:
    enough = rule("resource-up", act("log", value="enough"), id="enough", when="nodes.free >= 3")
    w = world([START, *CHANGED, enough], plans={"a": Plan(run=50)})
    w.feed(Counted(T0 + 1, nodes(1)))
    w.feed(Resources(T0 + 2, "up", "3"))
    assert (w.logged(), len(w.of(Look))) == ([], 2), "it waits for the numbers"
    w.feed(Counted(T0 + 2.01, nodes(3)))
    assert w.logged() == ["3: 3", "enough"]
    w.run()


def test_the_picture_that_was_on_its_way_already_is_not_the_one_that_is_waited_for(world: Any) -> None:
    w = world([START, *CHANGED], plans={"a": Plan(run=50)})
    w.feed(Resources(T0 + 1, "up", "1"))
    assert len(w.of(Look)) == 1, "that of the begin is on its way"
    w.feed(Counted(T0 + 2, nodes(0)))
    assert (w.logged(), len(w.of(Look))) == ([], 2)
    w.feed(Resources(T0 + 3, "down", "2"))
    w.feed(Resources(T0 + 3, "up", "2"))
    w.feed(Counted(T0 + 4, nodes(1)))
    assert (w.logged(), len(w.of(Look))) == (["1: 1"], 3)
    w.feed(Counted(T0 + 5, nodes(2)))
    assert w.logged() == ["1: 1", "2: 2", "2: 2"]
    assert w.fired_rules() == ["start", "up", "down", "up"], (
        "in the order of what has happened, not in that of the file"
    )
    w.feed(Counted(T0 + 6, nodes(3)))
    assert (len(w.logged()), len(w.of(Look))) == (3, 3)
    w.run()


def test_a_rule_that_reads_no_number_waits_only_for_what_came_before_it(world: Any) -> None:
    rules = [START, CHANGED[0], rule("resource-down", act("log", value="down"), id="down", repetitions=2)]
    w = world(rules, plans={"a": Plan(run=50)})
    w.feed(Counted(T0 + 1, nodes(1)))
    w.feed(Resources(T0 + 2, "down", "3"))
    assert w.logged() == ["down"]
    w.feed(Counted(T0 + 2.1, nodes(1)))
    w.feed(Resources(T0 + 3, "up", "3"))
    w.feed(Resources(T0 + 3, "down", "3"))
    assert w.logged() == ["down"]
    w.feed(Counted(T0 + 4, nodes(2)))
    w.feed(Counted(T0 + 5, nodes(2)))
    assert w.logged() == ["down", "3: 2", "down"]
    w.run()


def test_numbers_that_do_not_come_are_not_waited_for_for_ever(world: Any) -> None:
    w = world([START, *CHANGED], plans={"a": Plan(run=100)})
    w.feed(Counted(T0 + 1, nodes(1)))
    w.feed(Resources(T0 + 2, "up", "3"))
    w.feed(Resources(T0 + 3, "down", "2"))
    w.run(until=2 + PATIENCE - 0.1)
    assert w.logged() == []
    w.run(until=2 + PATIENCE + 0.1)
    late = "the queue has not told its numbers for 10 s: rules go on with those told before"
    assert w.logged() == [late, "3: 1", "2: 1"]
    w.feed(Resources(T0 + 20, "up", "4"))
    assert len(w.of(Look)) == 3, "they are asked for all the same"
    w.run(until=20 + PATIENCE + 0.1)
    assert w.logged()[3:] == ["4: 1"], "and it is told once"
    w.feed(Resources(T0 + 40, "up", "5"))
    w.feed(Counted(T0 + 41, nodes(4)))
    assert w.logged()[4:] == ["5: 4"]
    w.run(until=60)
    assert len(w.logged()) == 5
    w.run()


def test_an_answer_of_nothing_is_an_answer(world: Any) -> None:
    w = world([START, *CHANGED], plans={"a": Plan(run=50)})
    w.feed(Counted(T0 + 1, nodes(1)))
    w.feed(Resources(T0 + 2, "up", "3"))
    w.feed(Counted(T0 + 3, {}))
    assert w.logged() == ["3: 1"]
    w.run()


def test_what_waits_keeps_the_ensemble_from_ending_and_from_falling_idle(world: Any) -> None:
    idle = rule("idle", act("log", value="idle"), id="idle", repetitions=5)
    again = rule("resource-up", act("submit", "a"), id="again", when="nodes.free > 2")
    w = world([START, idle, again], plans={"a": Plan(run=5)})
    w.feed(Counted(T0 + 1, nodes(1)))
    w.run(until=5)
    w.feed(Resources(T0 + 5, "up", "3"))
    w.run(until=8)
    assert (w.engine.final, w.fired("idle")) == (None, [])
    w.feed(Counted(T0 + 8, nodes(3)))
    assert w.fired("again") == [8]
    w.run()
    assert (len(w.submits()), len(w.fired("idle")), w.engine.final) == (2, 1, "complete")


def test_beats_of_an_idle_ensemble_are_no_falls_into_idleness(world: Any) -> None:
    idle = rule("idle", act("log", value="idle"), id="idle", repetitions=5)
    beat = rule("heartbeat", act("submit", "a"), id="beat", when="nodes.free > 2")
    w = world([idle, beat], logging={"heartbeat": "5s"})
    w.feed(Counted(T0, nodes(0)))
    for t in (5, 10, 15):
        w.run(until=t)
        w.feed(Counted(T0 + t, nodes(0)))
    assert w.fired("idle") == [0]
    w.run(until=20)
    w.feed(Counted(T0 + 20, nodes(3)))
    assert w.fired("beat") == [20]
    w.run()
    assert w.engine.final == "complete"


@pytest.mark.parametrize("every", [None, "7s"])
def test_a_beat_sees_the_numbers_that_were_counted_for_it(world: Any, every: Any) -> None:
    said = act("log", value="{nodes.free}")
    keys = {} if every is None else {"every": every}
    w = world([START, rule("heartbeat", said, id="beat", repetitions=3, **keys)],
              plans={"a": Plan(run=50)}, logging={"heartbeat": "60s" if every else "7s"})  # fmt: skip
    w.feed(Counted(T0 + 1, nodes(1)))
    for t in (7, 14):
        w.run(until=t)
        w.feed(Counted(T0 + t + 0.5, nodes(t % 4)))
    assert w.logged() == ["3", "2"]
    assert w.fired("beat") == [7.5, 14.5]
    w.command("cancel")
    w.run()


def test_beats_that_come_before_the_numbers_are_not_made_up_for(world: Any) -> None:
    said = act("log", value="{nodes.free}")
    w = world(
        [START, rule("heartbeat", said, id="beat", repetitions="unlimited", every="1s")], plans={"a": Plan(run=50)}
    )
    w.feed(Counted(T0 + 0.5, nodes(0)))
    w.run(until=8)
    w.feed(Counted(T0 + 8, nodes(1)))
    w.feed(Counted(T0 + 8.1, nodes(2)))
    assert w.logged() == ["1", "2"]
    w.command("cancel")
    w.run()


def test_what_a_grow_has_brought_is_counted_before_rules_hear_of_it(world: Any) -> None:
    heard = [rule(f"grow-{how}", act("log", value=f"{how} {{nodes.up}}"), id=how) for how in ("finish", "fail")]
    w = world([START, rule("job-start", act("grow"), act("grow"), id="g"), *heard], plans={"a": Plan(run=50)})
    w.feed(Counted(T0 + 1, {"nodes": {"up": 4}}))
    w.run(until=2)
    w.feed(Scaled(T0 + 2, "wanted", {"number": 1, "size": 4, "wanted": 5}))
    w.feed(Scaled(T0 + 3, "finish", {"wanted": 5, "size": 5}))
    w.feed(Scaled(T0 + 3, "refused", {"number": 2, "reason": "no"}))
    assert w.logged() == []
    w.feed(Counted(T0 + 4, {"nodes": {"up": 5}}))
    assert w.logged() == ["finish 5"]
    w.feed(Counted(T0 + 4, {"nodes": {"up": 6}}))
    assert w.logged() == ["finish 5", "fail 6"]
    w.run()


def test_what_waits_is_in_the_snapshot(world: Any) -> None:
    w = world([START, *CHANGED], plans={"a": Plan(run=50)})
    w.feed(Resources(T0 + 2, "up", "1"))
    w.feed(Counted(T0 + 3, nodes(1)))
    w.feed(Resources(T0 + 3, "down", "2"))
    again = restore(w.engine.spec, json.loads(json.dumps(snapshot(w.engine))))
    for event in (Counted(T0 + 4, nodes(2)), Counted(T0 + 5, nodes(3))):
        assert again.handle(event) == w.feed(event)
    assert w.logged() == ["1: 2", "2: 3"]
    w.run()


def test_what_happened_before_a_stop_still_fires_and_beats_do_not(world: Any) -> None:
    rules = [
        START,
        *CHANGED,
        rule("heartbeat", act("log", value="beat {nodes.free}"), every="5s", repetitions=9, id="b"),
    ]
    w = world([*rules, rule("signal", act("stop"), name="x")], plans={"a": Plan(run=6)})
    w.feed(Counted(T0 + 1, nodes(1)))
    w.run(until=5.5)
    w.feed(Resources(T0 + 5.5, "up", "1"))
    w.feed(Signal(T0 + 5.6, "x", {}, ""))
    w.run(until=9)
    assert (w.engine.state, w.logged()) == ("stopping", [])
    w.feed(Counted(T0 + 9, nodes(2)))
    assert (w.logged(), w.engine.final) == (["1: 2"], "complete")


def test_a_cancel_waits_for_no_numbers(world: Any) -> None:
    w = world([START, *CHANGED], plans={"a": Plan(run=50)})
    w.run(until=2)
    w.feed(Resources(T0 + 2, "up", "1"))
    w.command("cancel")
    w.run()
    assert (w.engine.final, w.logged()) == ("cancelled", [])
    assert w.t < T0 + 3


def test_logs_of_before_give_the_actions_that_they_gave(world: Any) -> None:
    spec = make_spec([START, *CHANGED])
    events: List[Event] = [
        from_json([1, "Begin", T0]),
        Counted(T0 + 1, nodes(1)),
        Resources(T0 + 2, "up", "3"),
        Counted(T0 + 3, nodes(2)),
    ]
    assert from_json(to_json(Begin(T0))) == Begin(T0, True)
    logged: Dict[int, List[str]] = {}
    engine = Engine(spec, "ens")
    for number, event in enumerate(events):
        answer = engine.handle(event)
        logged[number] = [a.data["text"] for a in answer if type(a).__name__ == "Record" and a.type == "log"]
        state = json.loads(json.dumps(snapshot(engine)))
        if number:
            # as that release has written it
            state = {name: value for name, value in state.items() if name not in ("fresh", "counting")}
        engine = restore(spec, state)
    assert logged == {0: [], 1: [], 2: ["3: 1"], 3: []}
