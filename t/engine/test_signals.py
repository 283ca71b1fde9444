# SPDX-License-Identifier: MIT
"""Signals: who hears which, what `event` has, each once; those of actions are events of their own; who waits for one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ensemble.engine import signals
from ensemble.engine.events import Signal, from_json, to_json
from ensemble.engine.snapshot import restore, snapshot
from t.engine.harness import T0, Plan, act, rule

LOG = act("log", value="x")
START = rule("start", act("submit", "a"), id="start")


def send(w: Any, name: str, id: str = "", topic: bool = False, **data: Any) -> Any:
    return w.feed(Signal(w.t, name, data, id, topic))


def test_rules_hear_their_signal_and_those_without_a_name_any(world: Any) -> None:
    w = world(
        [
            START,
            rule("signal", LOG, id="go", name="go", repetitions=9),
            rule("signal", LOG, id="any", repetitions=9),
            rule("signal", LOG, id="bus", topic="a.*", repetitions=9),
            rule("signal", act("terminate"), id="end", name="end"),
        ]
    )
    send(w, "go")
    send(w, "else")
    send(w, "a.b")
    assert w.fired_rules() == ["start", "go", "any", "any", "any"]
    send(w, "a.b", topic=True)
    send(w, "go", topic=True)
    assert w.fired_rules()[5:] == ["bus"]
    send(w, "end")
    w.run()


def test_what_the_event_of_a_signal_has(world: Any) -> None:
    w = world([START, rule("signal", act("terminate"), id="r", name="go")])
    seen = []
    occasion = w.engine.occasion
    w.engine.occasion = lambda rule, what: (seen.append(what.event), occasion(rule, what))[1]
    send(w, "go", x=3, why={"a": [1]})
    assert seen == [{"name": "go", "data": {"x": 3, "why": {"a": [1]}}}]
    del w.engine.occasion
    w.run()


def test_a_signal_takes_effect_once(world: Any) -> None:
    w = world(
        [
            START,
            rule("signal", LOG, id="r", name="go", repetitions=9),
            rule("signal", act("terminate"), id="end", name="end"),
        ]
    )
    for id in ("x:1", "x:1", "x:2", "y", "y", "", ""):
        send(w, "go", id)
    assert len(w.fired("r")) == 5
    again = restore(w.spec, json.loads(json.dumps(snapshot(w.engine))))
    assert not again.handle(Signal(w.t, "go", {}, "x:2"))
    send(w, "end")
    w.run()


def test_a_signal_of_an_action_is_an_event_of_its_own_behind_this_one(world: Any) -> None:
    w = world(
        [
            rule(
                "start", act("signal", "go", data={"n": 1}), act("signal", "then"), LOG, act("submit", "a"), id="first"
            ),
            rule("signal", LOG, id="go", name="go"),
            rule("signal", LOG, id="then", name="then"),
        ]
    )
    assert w.fired_rules() == ["first"]
    assert w.engine.pending_signals == [["go", {"n": 1}], ["then", {}]]
    w.step()
    assert w.fired_rules() == ["first", "go"]
    w.step()
    assert w.fired_rules() == ["first", "go", "then"]
    assert [r["text"] for r in w.records("action", action="signal")] == ["signal go", "signal then"]
    w.run()
    assert w.engine.final == "complete"


def test_a_signal_on_its_way_keeps_the_ensemble_alive_and_survives_a_crash(world: Any) -> None:
    rules = [
        rule("start", act("signal", "go"), id="first"),
        rule("signal", act("submit", "a"), id="go", name="go", keep_alive=False),
    ]
    w = world(rules)
    assert w.engine.final is None
    again = restore(w.spec, json.loads(json.dumps(snapshot(w.engine))))
    assert again.pending_signals == [["go", {}]]
    assert signals.TIMER in again.timers
    w.run()
    assert w.results() == {"success": 1}


def test_signals_that_send_signals_have_a_bound(world: Any) -> None:
    double = rule("signal", act("signal", "go"), act("signal", "go"), id="r", name="go", repetitions="unlimited")
    w = world([rule("start", act("signal", "go"), id="start"), double])
    w.run()
    assert w.engine.final == "failed"
    assert "signals wait already" in w.engine.reason


def test_rules_that_signal_each_other_for_ever_are_halted(world: Any) -> None:
    ping = rule("signal", act("signal", "pong"), id="ping", name="ping", repetitions="unlimited")
    pong = rule("signal", act("signal", "ping"), id="pong", name="pong", repetitions="unlimited")
    first = rule("start", act("submit", "a"), act("signal", "ping"), id="start")
    w = world([first, ping, pong], limits={"max_firings": 20}).run()
    assert w.engine.final == "halted"
    assert "rule 'ping' has fired 20 times" in w.engine.reason


@pytest.mark.parametrize(
    ("keys", "ends"),
    [({}, False), ({"keep_alive": False}, True), ({"keep_alive": True}, False), ({"enabled": False}, True)],
)
def test_who_waits_for_a_signal(world: Any, keys: Any, ends: bool) -> None:
    w = world([START, rule("signal", act("submit", "a"), id="r", name="go", **keys)])
    w.run(until=1000)
    assert (w.engine.final is not None) is ends
    if not ends:
        send(w, "go")
        w.run()
        assert w.engine.final == "complete"
        assert len(w.submits()) == 2


def test_any_rule_may_keep_the_ensemble_alive(world: Any) -> None:
    w = world([START, rule("job-fail", LOG, id="r", name="a", keep_alive=True)])
    w.run(until=1000)
    assert w.engine.final is None
    w.command("cancel")
    w.run()


def test_a_signal_does_not_revive_what_has_ended(world: Any) -> None:
    w = world([START, rule("signal", act("submit", "a"), id="r", name="go", keep_alive=False)])
    w.run()
    assert send(w, "go") == []
    assert len(w.submits()) == 1


def test_while_it_stops_signals_are_heard(world: Any) -> None:
    stop = rule("signal", act("stop"), act("signal", "log"), id="stop", name="stop")
    w = world([START, stop, rule("signal", LOG, id="log", name="log")], plans={"a": Plan(run=50)})
    w.run(until=10)
    send(w, "stop")
    w.run()
    assert w.fired("log") == [10.0]


def test_topics() -> None:
    assert signals.matches("a.b", "a.b")
    assert signals.matches("a.b.c", "a.*")
    assert signals.matches("a[1]", "a[1]")
    assert not signals.matches("a.b.c", "a.b")
    assert [signals.subscription(p) for p in ("a.b", "a.*", "job-[ab]", "x?")] == ["a.b", "a.", "job-", "x"]


def test_a_signal_is_an_event_record() -> None:
    event = Signal(T0, "go", {"x": 1}, "id", True)
    assert from_json(json.loads(json.dumps(to_json(event)))) == event
