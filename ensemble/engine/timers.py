# SPDX-License-Identifier: MIT
"""The timers of an ensemble: its time limit, heartbeats, rules on timers, the ends of cooldowns and of waits for a retry.

Law of this file: called by `Engine.handle` alone, on its way. Which timers are set stands in `Engine.timers`; one that
expires is an event, as everything else is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Dict

from ensemble.engine import ending, resources, signals
from ensemble.engine.ending import TIMER
from ensemble.engine.events import TimerExpired
from ensemble.engine.jobs import PENDING
from ensemble.engine.occasion import Occasion
from ensemble.engine.retries import RETRY, due
from ensemble.engine.rules import COOLDOWN, RuleState
from ensemble.spec.units import fsd

if TYPE_CHECKING:
    from ensemble.engine.engine import Engine

#: names of timers; of one that beats for a rule the number follows
DURATION, _HEARTBEAT, _EVERY = "limit:duration", "heartbeat", "every:"


def wind(engine: Engine, rule: RuleState) -> None:
    """Set the timer of a rule on one."""
    if rule.rule.trigger == "timer":
        engine.set_timer(f"{TIMER}{rule.number}", engine.t + (rule.rule.after or 0.0))


def arm(engine: Engine) -> None:
    """Set the timer of the limit and those that beat, where they are not set."""
    period = engine.period
    if engine.limits["duration"] is not None and engine.t_begin is not None and DURATION not in engine.timers:
        engine.set_timer(DURATION, engine.t_begin + engine.limits["duration"])
    if period and _HEARTBEAT not in engine.timers:
        engine.set_timer(_HEARTBEAT, engine.t + period)
    for rule in engine.book.rules:
        name = f"{_EVERY}{rule.number}"
        if rule.rule.trigger == "heartbeat" and rule.rule.every and name not in engine.timers:
            engine.set_timer(name, engine.t + rule.rule.every)


def take(engine: Engine, event: TimerExpired) -> None:
    """A timer has expired."""
    name = event.timer
    at = engine.timers.get(name)
    # after the end a timer stays, so that a halted ensemble that carries on has it still
    if at is None or event.t < at or engine.final is not None:
        return
    del engine.timers[name]
    kind, colon, rest = name.partition(":")
    if name == DURATION:
        ending.halt(engine, "duration", f"{fsd(engine.limits['duration'], digits=True)} have passed")
    elif name == _HEARTBEAT:
        _heartbeat(engine, at)
    elif name == signals.TIMER:
        signals.sent(engine)
    elif name == resources.TIMER:
        resources.tired(engine)
    elif kind + colon in _EXPIRED and not ending.stopped(engine):
        _EXPIRED[kind + colon](engine, rest, at)


def _after(engine: Engine, number: str, at: float) -> None:
    rule = engine.book.rules[int(number)]
    engine.occasions([(rule.number, Occasion(f"timer of {fsd(rule.rule.after or 0.0, digits=True)}"))])


def _cooled(engine: Engine, number: str, at: float) -> None:
    rule = engine.book.rules[int(number)]
    rule.missed = False
    if engine.t >= rule.until:
        engine.tally.due.add(rule.number)


def _every(engine: Engine, number: str, at: float) -> None:
    rule = engine.book.rules[int(number)]
    engine.set_timer(f"{_EVERY}{number}", _next(engine, at, rule.rule.every or 0.0))
    resources.occur(engine, [rule.number], Occasion("heartbeat"), rule.counts and resources.look(engine))


def _heartbeat(engine: Engine, at: float) -> None:
    for group in engine.tally.aged:
        jobs = engine.group_jobs[group].values()
        submitted = [j.t_submit for j in jobs if j.state == PENDING and j.t_submit is not None]
        engine.tally.aging(group, [engine.t - t for t in submitted])
    engine.tally.touch("elapsed")
    coming = resources.look(engine)
    if not ending.stopped(engine):
        engine.set_timer(_HEARTBEAT, _next(engine, at, engine.period))
        beating = [n for n in engine.book.on("heartbeat") if not engine.book.rules[n].rule.every]
        resources.occur(engine, beating, Occasion("heartbeat"), coming)


def _next(engine: Engine, at: float, period: float) -> float:
    """The next beat after `at`; beats that were missed are not made up for."""
    return max(at + period, engine.t + period / 2) if at + period <= engine.t else at + period


#: what a timer is for, by the part of its name up to the colon; called with the rest of it and its time
_EXPIRED: Dict[str, Callable[[Engine, str, float], None]] = {
    TIMER: _after,
    COOLDOWN: _cooled,
    RETRY: lambda engine, rest, at: due(engine),
    _EVERY: _every,
}
