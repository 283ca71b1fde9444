# SPDX-License-Identifier: MIT
"""Records a journal: what a queue with so many slots would have told an engine, in the order of its telling.

How it works. An engine is driven by a queue of discrete events on a virtual clock; each event is written down as it
is handed over. Another engine of the same file and id, fed with that list, asks for the same jobs, so the list can
be replayed by itself, with nothing but the engine in the loop.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from typing import Deque, Iterator, List, Tuple

from ensemble.engine.actions import SetTimer, Submit
from ensemble.engine.engine import Engine
from ensemble.engine.events import Acknowledged, Begin, Event, JobEvent, Key, TimerExpired
from ensemble.spec.load import load
from ensemble.spec.models import Spec

#: the ensemble's id in every recorded key
ID = "bench1"


def spec(text: str) -> Spec:
    """The file's spec. Raises SpecError."""
    return load(text, "bench.yaml").spec


def record(spec: Spec, slots: int = 64, seed: int = 1) -> List[Event]:
    """All events of one whole run: base events of every job, acknowledgements, timers."""
    return list(_run(Engine(spec, ID), slots, random.Random(seed)))


def job_events(events: List[Event]) -> int:
    """How many of them are a job's."""
    return sum(type(event) is JobEvent for event in events)


def _run(engine: Engine, slots: int, dice: random.Random) -> Iterator[Event]:
    coming: List[Tuple[float, int, Event]] = []
    waiting: Deque[int] = deque()
    free, number, ids = slots, 0, 1000

    def at(t: float, event: Event) -> None:
        nonlocal number
        number += 1
        heapq.heappush(coming, (t, number, event))

    at(1e9, Begin(1e9))
    while coming:
        t, _, event = heapq.heappop(coming)
        yield event
        if isinstance(event, JobEvent):
            if event.name == "submit":
                waiting.append(event.id)
            elif event.name == "finish":
                free += 1
                at(t + 0.001, JobEvent(t + 0.001, event.id, "clean"))
        while free and waiting:
            free -= 1
            id, start = waiting.popleft(), t + 0.002
            end = start + dice.uniform(0.5, 1.5)
            at(start, JobEvent(start, id, "start"))
            at(end, JobEvent(end, id, "finish", {"status": 0}))
        for action in engine.handle(event):
            if isinstance(action, Submit):
                ids += 1
                taken = t + 0.01
                # a copy, as one that came over a wire would be
                key = Key(*action.key)
                at(taken, JobEvent(taken, ids, "submit", {}, key))
                at(taken, Acknowledged(taken, key, ids))
            elif isinstance(action, SetTimer):
                at(max(t, action.at), TimerExpired(max(t, action.at), action.timer))
