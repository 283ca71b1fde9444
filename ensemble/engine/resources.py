# SPDX-License-Identifier: MIT
"""What the queue has: nodes that come and go, and the metrics of `queue`, `nodes` and `cores`.

Law of this file: called by `Engine.handle` alone, on its way. The numbers are the queue's, and a picture of one moment:
the engine asks for one (`Look`) at the begin, at heartbeats, when nodes change and when the queue has changed its size, and
only where something reads them; the answer is an event. Until the first answer they have no value, and a rule that waits
for it keeps the ensemble from ending.

Rules on such an event that read the numbers are to see those from behind it. So their occasions are held until a picture
comes that was asked for at the event or later, and fire in the order of their events, after the numbers have changed. One
picture is on its way at a time: what happens meanwhile has the next one taken, and waits for that. Nothing waits longer
than PATIENCE for a picture: then rules go on with what is known. What is held keeps the ensemble from falling idle and
from ending, and is a part of its snapshot.

`engine.counting` is plain data: when the picture on its way was asked for (`t`), whether another one is to follow (`again`),
the events that are `held`, those for the one on its way and those for the next, each the numbers of its rules and its
`Occasion.to_json`; and whether it was told that pictures are `late`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Optional

from ensemble.engine import ending
from ensemble.engine.actions import Look
from ensemble.engine.events import Counted, Resources
from ensemble.engine.occasion import Occasion
from ensemble.spec.metrics import OF_QUEUE

if TYPE_CHECKING:
    from ensemble.engine.engine import Engine

#: the timer behind which nothing waits for a picture any longer, and how long that is, in seconds
TIMER = "numbers"
PATIENCE = 10.0


def nothing() -> Dict[str, Any]:
    """The state of an ensemble that waits for no picture."""
    return {"t": 0.0, "again": False, "held": [[], []], "late": False}


def wanted(engine: Engine) -> bool:
    """Does anything read these numbers?"""
    book = engine.book
    return any(metric.stat in OF_QUEUE for metrics in (book.reads, book.shows) for metric in metrics)


def look(engine: Engine) -> bool:
    """Ask for the numbers, if anything reads them. True: a picture will come that is none from before now."""
    if not wanted(engine) or ending.stopped(engine):
        return False
    counting = engine.counting
    if engine.fresh and engine.looking and engine.t < counting["t"] + PATIENCE:
        counting["again"] = True
        return True
    if engine.looking:
        # the one before never came: all that waits, in order, waits for this one
        counting["held"] = [counting["held"][0] + counting["held"][1], []]
    engine.looking = True
    counting["t"], counting["again"] = engine.t, False
    engine.emit(Look())
    return engine.fresh


def take(engine: Engine, event: Resources) -> None:
    """Nodes have changed: the numbers are asked for anew, and it is an occasion of the rules on it."""
    if engine.final is None:
        trigger = f"resource-{event.name}"
        occasion = Occasion(f"{trigger} {event.ranks}", ranks=event.ranks)
        occur(engine, engine.book.on(trigger), occasion, look(engine))


def occur(engine: Engine, numbers: List[int], occasion: Occasion, coming: bool) -> None:
    """An occasion of these rules. If they read the numbers it waits for them where they are `coming` (see `look`), and
    if others wait already it does so too, for they came first."""
    reads = any(engine.book.rules[number].counts for number in numbers)
    if not numbers or not ((reads and coming) or held(engine)):
        engine.occasions((number, occasion) for number in numbers)
        return
    counting = engine.counting
    waiting, one = counting["held"][counting["again"]], [list(numbers), occasion.to_json()]
    # beats that are missed are not made up for
    if occasion.text != "heartbeat" or one not in waiting:
        waiting.append(one)
    if TIMER not in engine.timers:
        engine.set_timer(TIMER, engine.t + PATIENCE)


def count(engine: Engine, event: Counted) -> None:
    """The numbers of one moment. What has changed wakes those who read it; what is not told keeps its value."""
    engine.looking = False
    if engine.final is not None:
        return
    for stat, numbers in event.counts.items():
        known = engine.resources.setdefault(stat, {})
        for name, number in numbers.items():
            if known.get(name) != number:
                known[name] = number
                engine.tally.touch(name, stat)
    engine.counting["late"] = False
    engine.timers.pop(TIMER, None)
    _go_on(engine, again=engine.counting["again"] and look(engine))


def tired(engine: Engine) -> None:
    """No picture has come for too long."""
    engine.looking = False
    if not engine.counting["late"]:
        engine.counting["late"] = True
        text = f"the queue has not told its numbers for {PATIENCE:g} s: rules go on with those told before"
        engine.record("log", text=text, rule=None)
    _go_on(engine, again=False)


def _go_on(engine: Engine, again: bool) -> None:
    """Fire what is held, but for what waits for the next picture where that comes."""
    counting = engine.counting
    ready, following = counting["held"]
    counting["again"], counting["held"] = False, [[], []]
    if again:
        counting["held"][0] = following
        if following:
            engine.set_timer(TIMER, engine.t + PATIENCE)
    else:
        ready += following
    for numbers, state in ready:
        occasion = Occasion.from_json(state)
        for number in numbers:
            rule = engine.book.rules[number]
            if rule.rule.trigger != "heartbeat" or not ending.stopped(engine):
                engine.occasion(rule, occasion)


def held(engine: Engine) -> bool:
    """Does an occasion wait for the numbers?"""
    return any(engine.counting["held"])


def value(engine: Engine, stat: str, name: str) -> Optional[int]:
    """The latest number of `stat.name`, None before the first."""
    return engine.resources.get(stat, {}).get(name)


def awaited(engine: Engine) -> bool:
    """Is the first answer still to come?"""
    return engine.looking and not engine.resources


def over(engine: Engine) -> None:
    """The ensemble has ended: what is held does not fire any more."""
    engine.counting = nothing()
