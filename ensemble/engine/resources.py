# SPDX-License-Identifier: MIT
"""What the queue has: nodes that come and go, and the metrics of `queue`, `nodes` and `cores`.

Law of this file: called by `Engine.handle` alone, on its way. The numbers are the queue's, and a picture of one moment:
the engine asks for one (`Look`) at the begin, at heartbeats and when nodes change, and only where something reads
them; the answer is an event. Until the first answer they have no value, and a rule that waits for it keeps the ensemble
from ending.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from ensemble.engine import ending
from ensemble.engine.actions import Look
from ensemble.engine.events import Counted, Resources
from ensemble.engine.occasion import Occasion
from ensemble.spec.metrics import OF_QUEUE

if TYPE_CHECKING:
    from ensemble.engine.engine import Engine


def wanted(engine: Engine) -> bool:
    """Does anything read these numbers?"""
    book = engine.book
    return any(metric.stat in OF_QUEUE for metrics in (book.reads, book.shows) for metric in metrics)


def look(engine: Engine) -> None:
    """Ask for the numbers, if anything reads them."""
    if wanted(engine) and not ending.stopped(engine):
        engine.looking = True
        engine.emit(Look())


def take(engine: Engine, event: Resources) -> None:
    """Nodes have changed: an occasion of the rules on it, and the numbers are asked for anew."""
    if engine.final is not None:
        return
    trigger = f"resource-{event.name}"
    occasion = Occasion(f"{trigger} {event.ranks}", ranks=event.ranks)
    engine.occasions((number, occasion) for number in engine.book.on(trigger))
    look(engine)


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


def value(engine: Engine, stat: str, name: str) -> Optional[int]:
    """The latest number of `stat.name`, None before the first."""
    return engine.resources.get(stat, {}).get(name)


def awaited(engine: Engine) -> bool:
    """Is the first answer still to come?"""
    return engine.looking and not engine.resources
