# SPDX-License-Identifier: MIT
"""Signals: named events that a user, a job, an action or the Flux bus sends to an ensemble.

Law of this file: called by `Engine.handle` alone, on its way. A signal fires the rules that wait for it and changes
nothing else. One that an action sends is kept in `pending_signals` and is an event of its own, behind a timer that is
set at once: no loop inside `handle`, and nothing is lost when the service dies in between. A signal neither revives an
ensemble that has ended nor keeps one alive; rules that wait for signals do.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Dict

from ensemble.engine.events import Signal
from ensemble.engine.occasion import Occasion
from ensemble.engine.reports import told_before

if TYPE_CHECKING:
    from ensemble.engine.engine import Engine

#: the timer behind which signals of actions wait
TIMER = "signal"
#: signals of actions that may wait at a time
_MOST = 1000


def take(engine: Engine, event: Signal) -> None:
    """A signal has come, from outside."""
    if engine.final is not None or told_before(engine.signals_seen, event.id, engine.t):
        return
    _fire(engine, event.name, event.data, event.topic)


def send(engine: Engine, name: str, data: Dict[str, Any]) -> None:
    """An action sends a signal. Raises RuntimeError, which fails its rule, where too many wait already."""
    if len(engine.pending_signals) >= _MOST:
        raise RuntimeError(f"{_MOST} signals wait already; rules that send signals to one another have no end")
    engine.pending_signals.append([name, data])
    if TIMER not in engine.timers:
        engine.set_timer(TIMER, engine.t)


def sent(engine: Engine) -> None:
    """The timer has run out: the first of those that wait."""
    if not engine.pending_signals:
        return
    name, data = engine.pending_signals.pop(0)
    if engine.pending_signals:
        engine.set_timer(TIMER, engine.t)
    _fire(engine, name, data, False)


def _fire(engine: Engine, name: str, data: Dict[str, Any], topic: bool) -> None:
    book = engine.book
    if topic:
        numbers = [n for pattern, rules in book.topics.items() if matches(name, pattern) for n in rules]
    else:
        numbers = [*book.exactly("signal", name), *book.exactly("signal", None)]
    if numbers:
        occasion = Occasion(f"signal {name}", name=name, data=data)
        engine.occasions([(n, occasion) for n in numbers])


def matches(topic: str, pattern: str) -> bool:
    """Is this a topic that the rule means? `*`, `?` and `[...]` as in a shell; they match dots as well."""
    return topic == pattern or fnmatchcase(topic, pattern)


def subscription(pattern: str) -> str:
    """The part of a pattern before its first wildcard, which is what Flux can be asked for: it takes prefixes."""
    ends = [pattern.index(c) for c in "*?[" if c in pattern]
    return pattern[: min(ends)] if ends else pattern
