# SPDX-License-Identifier: MIT
"""Rules that wait for the queue's numbers, in stories that chance has made: the same after a restart, in order, and never for ever."""

from __future__ import annotations

import json
import random
from typing import Any, List

import pytest

from ensemble.engine import resources
from ensemble.engine.actions import Record
from ensemble.engine.engine import Engine
from ensemble.engine.events import (
    Begin,
    Command,
    Counted,
    Event,
    Resources,
    Scaled,
    Signal,
    TimerExpired,
    from_json,
    to_json,
)
from ensemble.engine.snapshot import restore, snapshot
from t.engine.harness import T0, act, make_spec, rule


def says(text: str) -> Any:
    return act("log", value=text)


#: of these only `blind` reads no number
RULES = [
    rule("start", says("begin"), id="start"),
    rule("resource-down", says("nodes {event.ranks} {nodes.up}"), id="down", repetitions="unlimited"),
    rule("resource-up", says("nodes {event.ranks} {nodes.free}"), id="up", repetitions="unlimited"),
    rule("resource-up", act("grow", value=1), id="grow", repetitions=4, cooldown="3s", when="nodes.free < 3"),
    rule("heartbeat", says("beat {nodes.free}"), id="beat", repetitions=8),
    rule("heartbeat", says("every {queue.pending}"), id="every", every="7s", repetitions=6),
    rule("heartbeat", says("blind"), id="blind", every="4s", repetitions=6),
    rule("grow-finish", says("grown {event.size} {nodes.up}"), id="grown", repetitions="unlimited"),
    rule("grow-fail", says("failed {nodes.up}"), id="failed", repetitions="unlimited"),
    rule("metric", says("free {nodes.free}"), name="nodes.free", when="> 2", id="free", repetitions=5),
    rule("signal", act("terminate"), name="die", id="die"),
    rule("signal", act("stop"), name="stop", id="stop"),
    rule("idle", says("idle"), id="idle", repetitions="unlimited"),
    rule("end", says("end {nodes.up}"), id="end"),
]


class Story:
    """One engine that is never stopped, and one that is restored from its snapshot now and then."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        rules = [one for one in RULES if one["id"] == "start" or self.chance.random() < 0.75]
        limits = {"duration": self.chance.choice([20, 60])} if self.chance.random() < 0.3 else {}
        self.spec = make_spec(rules, logging={"heartbeat": "10s"}, limits=limits)
        self.engine, self.other = Engine(self.spec, "bcdfgh"), Engine(self.spec, "bcdfgh")
        self.log: List[Event] = []
        self.answers: List[str] = []
        self.said: List[str] = []
        self.nodes = self.signals = 0
        self.t = T0
        self.feed(Begin(T0))

    def feed(self, event: Event) -> None:
        event = from_json(json.loads(json.dumps(to_json(event))))
        engine = self.engine
        actions = engine.handle(event)
        assert repr(self.other.handle(event)) == repr(actions), event
        self.log.append(event)
        self.answers.append(repr(actions))
        self.said += [one.data["text"] for one in actions if isinstance(one, Record) and one.type == "log"]
        # nothing waits without a timer that ends it
        assert resources.held(engine) == (resources.TIMER in engine.timers)
        assert not (engine.final and resources.held(engine))
        if self.chance.random() < 0.3:
            kept = json.dumps(snapshot(engine))
            assert json.loads(json.dumps(snapshot(self.other))) == json.loads(kept)
            self.other = restore(self.spec, json.loads(kept))

    def one(self) -> None:
        """Something happens, or a while passes."""
        chance, engine = self.chance, self.engine
        self.t += chance.choice([0, 0, 0.1, 1, 3, 11])
        what = chance.random()
        if what < 0.25:
            self.nodes += 1
            self.feed(Resources(self.t, chance.choice(["up", "down"]), str(self.nodes)))
        elif what < 0.45:
            numbers = {"nodes": {"up": chance.randrange(5), "free": chance.randrange(5)}}
            self.feed(Counted(self.t, numbers if chance.random() < 0.8 else {}))
        elif what < 0.8 and engine.timers:
            self.expire()
        elif what < 0.9:
            self.scaled(chance.choice(["finish", "fail"]))
        elif what < 0.96:
            limits = {"limits": {"duration": 1000}} if chance.random() < 0.3 else {}
            self.feed(Command(self.t, chance.choice(["pause", "resume", "resume"]), limits))
        elif chance.random() < 0.3:
            self.signals += 1
            self.feed(Signal(self.t, chance.choice(["die", "stop"]), {}, f"x:{self.signals}"))

    def expire(self) -> None:
        at, name = min((at, name) for name, at in self.engine.timers.items())
        self.t = max(self.t, at)
        self.feed(TimerExpired(self.t, name))

    def scaled(self, how: str) -> None:
        state = self.engine.scaling
        if state["asked"]:
            number = int(next(iter(state["asked"])))
            self.feed(Scaled(self.t, "wanted", {"number": number, "size": 2, "wanted": 3}))
        elif state["open"]:
            self.feed(Scaled(self.t, how, {"wanted": state["open"]["wanted"], "size": 3, "reason": "r"}))


@pytest.mark.parametrize("seed", range(40))
def test_rules_that_wait_for_numbers(seed: int) -> None:
    story = Story(seed)
    for _ in range(100):
        story.one()
    told = [int(text.split()[1]) for text in story.said if text.startswith("nodes ")]
    assert told == sorted(told), "in the order of the events"
    again = Engine(story.spec, "bcdfgh")
    assert [repr(again.handle(event)) for event in story.log] == story.answers
    # now the queue says nothing any more
    engine = story.engine
    if engine.paused:
        story.feed(Command(story.t, "resume", {}))
    for _ in range(200):
        if resources.held(engine):
            story.expire()
    assert not resources.held(engine)
