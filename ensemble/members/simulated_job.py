# SPDX-License-Identifier: MIT
"""What the simulated queue knows of an ensemble and of a job: what it asks for, and its fate.

Law of this file: pure description. When a job runs, and what is told of it, is `simulated.py`'s.
"""

from __future__ import annotations

from typing import Any, Callable, FrozenSet, Iterator, Mapping, NamedTuple, Optional, Tuple

from ensemble.engine.actions import Submit
from ensemble.engine.events import BASE_EVENTS, JobId
from ensemble.members.simulated_nodes import Placement, Request
from ensemble.spec import templates
from ensemble.spec.models import JobSet, Spec

PENDING, RUNNING = "pending", "running"


class Fate(NamedTuple):
    """What becomes of a job that runs."""

    #: seconds; `math.inf` runs until it is ended
    duration: float
    #: wait status of its end
    status: int = 0
    #: type and note of an exception before its end
    exception: Optional[Tuple[str, str]] = None
    #: what it reports, in order of time: seconds since its start, and values by variable
    reports: Optional[Iterator[Tuple[float, Mapping[str, float]]]] = None
    #: signals that it survives
    survives: FrozenSet[int] = frozenset()


#: what becomes of a job of that submission
Draw = Callable[[Submit], Fate]


class OpenEnsemble:
    """An open ensemble."""

    def __init__(self, id: str, spec: Spec, events: FrozenSet[str]) -> None:
        self.id = id
        self.groups = spec.groups
        self.events = frozenset(BASE_EVENTS) | events
        sets = [(group, n, one) for group, sets in self.groups.items() for n, one in enumerate(sets)]
        #: (group, set) -> what its jobs ask for where an action says nothing else
        self.requests = {(group, n): request(one, {}) for group, n, one in sets}
        #: and the places for parameters that do not take any value
        self._formats = {
            (group, n): [hole for _, text in templates.texts(one) for hole in templates.holes(text) if hole.format]
            for group, n, one in sets
        }

    def unfit(self, action: Submit) -> Optional[str]:
        """Why a job's values cannot stand where its texts want them; None where they can."""
        try:
            for hole in self._formats[action.group, action.set]:
                if hole.name in action.params:
                    templates.formatted(action.params[hole.name], hole)
        except ValueError as exc:
            return str(exc)
        return None


class Job:
    """A job that has not ended."""

    __slots__ = (
        "act",
        "asked",
        "doomed",
        "fate",
        "id",
        "owner",
        "place",
        "report",
        "reported",
        "state",
        "t",
        "t_start",
        "urgency",
    )

    def __init__(self, id: JobId, owner: OpenEnsemble, act: Submit, asked: Request, urgency: int) -> None:
        self.id = id
        self.owner = owner
        #: its submission
        self.act = act
        self.asked = asked
        self.urgency = urgency
        self.state = PENDING
        #: of its last event that a job may have more than once
        self.t = -1.0
        self.t_start = 0.0
        self.place: Placement = ()
        self.fate: Optional[Fate] = None
        #: the next one, and how many there were
        self.report: Optional[Tuple[float, Mapping[str, float]]] = None
        self.reported = 0
        #: the signal that was sent to end it, with its wait status; None until then
        self.doomed: Optional[int] = None

    def time_of(self, name: str, now: float) -> float:
        """When an event of that name happens: now, or a moment later. Two of a job never have the same time."""
        if name not in _OFTEN:
            return now
        self.t = now if self.t < now else self.t + _TICK
        return self.t


#: what a job may have several times; one of the same time would be taken for a repeat
_OFTEN = frozenset(("urgency", "priority", "exception"))
#: seconds between two of these
_TICK = 1e-6


def death(number: int) -> int:
    """The wait status of a job that a signal has ended, as the Flux shell codes it."""
    return (128 + int(number)) << 8


def request(jobs: JobSet, overrides: Mapping[str, Any]) -> Request:
    """What a job of that set asks for."""
    nodes = overrides.get("nodes", jobs.nodes) or 0
    tasks = overrides.get("tasks", jobs.tasks) or max(1, nodes)
    return Request(nodes, tasks, jobs.cores, jobs.gpus, jobs.exclusive)
