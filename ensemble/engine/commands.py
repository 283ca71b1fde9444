# SPDX-License-Identifier: MIT
"""What a user asks of an ensemble: pause, resume, resize, cancel.

Law of this file: called by `Engine.handle` alone, on its way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict

from ensemble.engine import acting, ending, scaling, timers
from ensemble.engine.actions import Cause
from ensemble.engine.events import Command
from ensemble.engine.occasion import Occasion

if TYPE_CHECKING:
    from ensemble.engine.engine import Engine


def take(engine: Engine, event: Command) -> None:
    """What a user asks of the ensemble."""
    if event.name == "resume" and engine.final in (None, "halted"):
        _resume(engine, event.data.get("limits") or {})
    elif engine.final is not None:
        return
    elif event.name == "pause" and engine.ending is None:
        engine.paused = True
        engine.state_record()
    elif event.name == "resize" and engine.ending is None:
        scaling.by_operator(engine, int(event.data["by"]))
    elif event.name == "cancel":
        ending.end(engine, "cancelled", "cancelled by the user")
        engine.closed = True
        acting.cancel_all(engine, Cause(None, 0, "cancelled by the user"))


def _resume(engine: Engine, limits: Dict[str, Any]) -> None:
    in_doubt = (engine.reason or "").startswith(ending.IN_DOUBT)
    if engine.final is not None and not (limits or in_doubt):
        return
    engine.limits.update(limits)
    if "duration" in limits:
        engine.timers.pop(timers.DURATION, None)
    if (limits or in_doubt) and "halted" in (engine.final, engine.ending):
        engine.final = engine.ending = engine.reason = engine.t_end = None
        engine.closed = engine.idle_seen = engine.concluding = False
        for name, at in list(engine.timers.items()):
            engine.set_timer(name, at)
    if engine.ending is None:
        timers.arm(engine)
    engine.paused = False
    engine.state_record()
    postponed, engine.postponed = engine.postponed, []
    for number, state in postponed:
        engine.admit(engine.book.rules[number], Occasion.from_json(state))
    ending.pump(engine)
