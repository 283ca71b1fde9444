# SPDX-License-Identifier: MIT
"""The members of an ensemble: which are there, where a job goes, and what becomes of its jobs when one is given up.

Law of this file: called by `Engine.handle` alone, on its way. A job is given its member when it becomes an intent, and
keeps it: which one that was is part of the state, so that after a crash it is looked for there and nowhere else. A member
that is down may come back with all that it had, so its jobs wait. One that is gone does not count any more: its
unfinished jobs are lost, as with a node, and are tried again out of the budget for that; should it come back after all,
what it still has of them is nobody's, and the queue ends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ensemble.engine import life
from ensemble.engine.events import MemberChanged
from ensemble.engine.occasion import Occasion
from ensemble.spec.places import HOME

if TYPE_CHECKING:
    from ensemble.engine.engine import Engine

UP, DOWN, GONE = "up", "down", "gone"
_TOLD = {UP: "is back", DOWN: "cannot be reached", GONE: "is given up, and its unfinished jobs with it"}


def choose(engine: Engine, group: str, set: int) -> str:
    """The member that the next job of that set goes to; '' is the service's own queue."""
    names = engine.groups[group][set].member
    if not names:
        return ""
    found = next((name for name in names if engine.places.get(name, UP) != GONE), names[0])
    return "" if found == HOME else found


def take(engine: Engine, event: MemberChanged) -> None:
    """A member has gone away, come back, or is given up. What is no news changes nothing."""
    before = engine.places.get(event.name, UP)
    if event.how == GONE:
        # also where it was so before: an earlier service may have said it, and this one has waited anew
        for job in [job for job in engine.jobs.values() if job.member == event.name]:
            life.advance(engine, job, "lost", event)
    if event.how == before or (event.how == DOWN and before == GONE):
        return
    engine.places[event.name] = event.how
    if engine.final is None:
        who = f"the member '{event.name}'"
        if event.how == GONE and event.reason.startswith(who):
            # its jobs are told the same, so it says of whom it speaks
            text = f"{event.reason}; its unfinished jobs go with it"
        else:
            text = f"{who} {_TOLD[event.how]}{f': {event.reason}' if event.reason else ''}"
        engine.record("log", text=text, rule=None)
    if engine.final is None:
        trigger = f"member-{event.how}"
        occasion = Occasion(f"{trigger} {event.name}", name=event.name)
        engine.occasions((number, occasion) for number in engine.book.on(trigger, event.name))
