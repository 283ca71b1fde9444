# SPDX-License-Identifier: MIT
"""How the contract's cases drive a member: submit, run its loop until something holds, look at what was delivered.

A member joins the suite with a subclass of `MemberDriver` that makes it and runs its loop for a moment, and a fixture
`driver` that answers `driven(request, ...)`.
"""

from __future__ import annotations

import itertools
import os
import time
from abc import ABC, abstractmethod
from typing import Any, Callable, Dict, FrozenSet, Iterable, Iterator, List, Optional, Tuple, Type, TypeVar

import pytest

from ensemble.engine.actions import Action, Cancel, Cause, Kill, Submit, Urgency
from ensemble.engine.events import Acknowledged, ActionDone, Event, JobEvent, JobId, Key, Refused
from ensemble.members.base import Member, Submitter
from ensemble.spec.models import JobSet, Spec

CAUSE = Cause("r", 1, "the test said so")
#: seconds; generous, because a test that waits for it fails anyway
PATIENCE = 60.0

_Case = TypeVar("_Case", bound=Callable[..., None])
#: the cases that need a queue whose jobs' commands run
_WITH_COMMANDS: List[str] = []


def commands(case: _Case) -> _Case:
    """Marks a case that needs commands to run."""
    _WITH_COMMANDS.append(case.__name__)
    return case


class MemberDriver(ABC):
    """One member, started, with all that it has delivered."""

    #: short name of the member
    name: str
    member: Member

    def __init__(self) -> None:
        self.delivered: List[Tuple[str, Event]] = []
        #: deliveries that came from inside `perform` or `open`
        self.reentered: List[Event] = []
        self._inside = False
        self._firing = itertools.count(1)

    @abstractmethod
    def run_for(self, seconds: float) -> None:
        """Run the member's loop for about so long."""

    @abstractmethod
    def close(self) -> None:
        """Stop the member if it is not stopped yet, and release what this driver made."""

    @abstractmethod
    def output(self, ensemble: str, id: JobId) -> str:
        """What a finished job without `output` wrote."""

    def foreign(self, command: List[str]) -> Optional[Callable[[], bool]]:
        """Submit a job that belongs to no ensemble; returns a function that tells whether it has ended. None where
        nobody but an ensemble can use the queue."""
        return None

    #: cores that the queue has
    cores: int = 2
    #: do its jobs' commands run? Some cases need that
    runs_commands: bool = True

    def now(self) -> float:
        """What the member's clock shows, seconds since the epoch."""
        return time.time()

    # what the cases call

    def deliver(self, ensemble: str, event: Event) -> None:
        """Give this to `Member.start`."""
        if self._inside:
            self.reentered.append(event)
        self.delivered.append((ensemble, event))

    def open(
        self,
        ensemble: str,
        *sets: Dict[str, Any],
        events: Iterable[str] = (),
        submitter: Optional[Submitter] = None,
    ) -> Spec:
        """Open an ensemble whose file has these entries under `jobs:`."""
        spec = Spec(name=ensemble, jobs=tuple(JobSet(**one) for one in sets), rules=())
        if submitter is None:
            submitter = Submitter(environment=dict(os.environ), cwd="/")
        wanted: FrozenSet[str] = frozenset(events)
        self._inside = True
        try:
            self.member.open(ensemble, spec, submitter, wanted)
        finally:
            self._inside = False
        return spec

    def perform(self, ensemble: str, action: Action) -> None:
        """`Member.perform`, watching that nothing is delivered from inside."""
        self._inside = True
        try:
            self.member.perform(ensemble, action)
        finally:
            self._inside = False

    def submit(self, ensemble: str, group: str, set: int = 0, **overrides: Any) -> Key:
        """Submit one job; returns its key."""
        key = Key(ensemble, "r", next(self._firing), 0, 0)
        self.perform(ensemble, Submit(key, group, set, overrides))
        return key

    def submit_id(self, ensemble: str, group: str, set: int = 0, **overrides: Any) -> JobId:
        """Submit one job and wait for its acknowledgement; returns its id."""
        key = self.submit(ensemble, group, set, **overrides)
        self.wait_for(lambda: self.answers(key))
        return self.id(key)

    def cancel(self, ensemble: str, id: JobId) -> None:
        """Cancel a job."""
        self.perform(ensemble, Cancel(id, CAUSE))

    def kill(self, ensemble: str, id: JobId, signal: int) -> None:
        """Signal a job."""
        self.perform(ensemble, Kill(id, signal, CAUSE))

    def urgency(self, ensemble: str, id: JobId, value: int) -> None:
        """Change the urgency of a job."""
        self.perform(ensemble, Urgency(id, value, CAUSE))

    def wait_for(self, predicate: Callable[[], Any], what: str = "", patience: float = PATIENCE) -> None:
        """Run the loop until the predicate holds; fails after `patience` seconds."""
        end = time.monotonic() + patience
        while not predicate():
            assert time.monotonic() < end, f"in vain for {patience:g} s: {what or predicate}; {self.delivered[-20:]}"
            self.run_for(0.01)

    def wait_event(self, id: JobId, name: str) -> JobEvent:
        """Run the loop until the job has that event; returns the event."""
        self.wait_for(lambda: self.event(id, name) is not None, f"{name} of job {id}")
        return self.had(id, name)

    # what was delivered

    def of(self, type: Type[Any], ensemble: Optional[str] = None) -> List[Any]:
        """All delivered events of a type, in order."""
        return [event for to, event in self.delivered if isinstance(event, type) and ensemble in (None, to)]

    def answers(self, key: Key) -> List[Event]:
        """Every acknowledgement and refusal of a submission."""
        return [event for event in self.of((Acknowledged, Refused)) if event.key == key]  # type: ignore[arg-type]

    def id(self, key: Key) -> JobId:
        """The id of an acknowledged submission."""
        (answer,) = self.answers(key)
        assert isinstance(answer, Acknowledged), answer
        return answer.id

    def of_job(self, id: JobId) -> List[JobEvent]:
        """The job's events, in order of delivery."""
        return [event for event in self.of(JobEvent) if event.id == id]

    def names(self, id: JobId) -> List[str]:
        """The names of the job's events, in order of delivery."""
        return [event.name for event in self.of_job(id)]

    def event(self, id: JobId, name: str) -> Optional[JobEvent]:
        """The job's first event of that name, None if there is none yet."""
        return next((event for event in self.of_job(id) if event.name == name), None)

    def had(self, id: JobId, name: str) -> JobEvent:
        """The job's first event of that name, which was delivered."""
        event = self.event(id, name)
        assert event is not None, f"no {name} among {self.names(id)}"
        return event

    def done(self, id: JobId) -> List[ActionDone]:
        """What became of cancels, kills and urgencies of the job."""
        return [event for event in self.of(ActionDone) if event.id == id]


def driven(request: pytest.FixtureRequest, driver: MemberDriver) -> Iterator[MemberDriver]:
    """For a fixture `driver`: the driver of one case, closed at its end; nothing may have been delivered from inside a
    call of ours. Cases that need commands to run are skipped where none do."""
    try:
        if not driver.runs_commands and request.function.__name__ in _WITH_COMMANDS:
            pytest.skip(f"the queue {driver.name} runs no commands")
        yield driver
    finally:
        driver.close()
    assert not driver.reentered, f"delivered from inside perform or open: {driver.reentered}"
