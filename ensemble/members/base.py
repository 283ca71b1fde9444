# SPDX-License-Identifier: MIT
"""The contract between the service and a queue that runs jobs and delivers events.

What a member promises:

- `perform` never blocks and never raises for the queue's reasons: what became of the action is delivered as an
  event (`Acknowledged` or `Refused` for a `Submit`; `ActionDone` for a `Cancel`, `Kill` or `Urgency`, `Counted` for a `Look`).
- Every event of a job that carries an ensemble's key is delivered to that ensemble, in the order in which the job
  had them: at least `BASE_EVENTS`, and what `open` asked for beyond them. Events of different jobs may come in any
  order, and a job's events may come before its `Acknowledged`. An event may be delivered twice after the
  connection was lost, never skipped.
- A submission whose fate is known is acknowledged or refused exactly once.
- `deliver` is called from the member's own event loop, never from inside `perform` or `open`, so that the caller
  is never re-entered.
- Jobs without a key of an open ensemble are never delivered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, FrozenSet, Mapping, Optional, Sequence

from typing_extensions import Protocol

from ensemble.engine.actions import Action, Submit
from ensemble.engine.events import Event, JobId, Key
from ensemble.errors import MemberError
from ensemble.members.scaler import Scaler
from ensemble.spec.models import Spec
from ensemble.spec.scaler import Scaler as Table
from ensemble.spec.scaler import Site

#: seconds between the first signal of a cancel or time limit and SIGKILL, where a member sends these: Flux's kill-timeout
KILL_TIMEOUT = 5.0

#: Called with the ensemble's id and the event.
Deliver = Callable[[str, Event], None]


@dataclass(frozen=True)
class Submitter:
    """Where the user stood when submitting; the jobs inherit it.

    `rlimits` maps names of RLIMIT_* (lower case, no prefix) to soft limits, -1 for none. `umask` is None where
    unknown.
    """

    environment: Dict[str, str] = field(default_factory=dict)
    cwd: str = "/"
    umask: Optional[int] = None
    rlimits: Dict[str, int] = field(default_factory=dict)


class Timer(ABC):
    """A pending `call_at`."""

    @abstractmethod
    def cancel(self) -> None:
        """Never call back. Harmless when it already has."""


class Watch(ABC):
    """A file descriptor that is being watched."""

    @abstractmethod
    def cancel(self) -> None:
        """Never call back. Harmless when called again; call it before the descriptor is closed."""


class Loop(Protocol):
    """What calls back: a member, or what stands for one."""

    #: as of a member
    uri: Optional[str]

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """As of a member."""

    def watch(self, fd: int, callback: Callable[[], None], *, write: bool = False) -> Watch:
        """As of a member."""


class Member(ABC):
    """A queue. One service drives one member from one thread, the thread that runs the member's event loop."""

    #: short name for messages: flux, local
    name: str
    #: what it can do: names of actions of the language, such as submit, cancel, kill, urgency; grow and shrink where it
    #: has a scaler of its own, and `scaler` where it takes that of a file
    capabilities: FrozenSet[str]
    #: does it take ensembles whose file names `members`?
    takes_members: bool = False
    #: what it is scaled by where a file says nothing else; None for nothing
    site: Optional[Site] = None
    #: when the queue came up, seconds since the epoch; 0 where it goes up and down with the service
    t_up: float = 0.0
    #: what `flux.Flux` takes to reach the instance that this is the queue of; None where it is none of Flux
    uri: Optional[str] = None

    @abstractmethod
    def start(self, deliver: Deliver) -> None:
        """Begin to deliver events. Raises MemberError if the queue cannot be reached."""

    @abstractmethod
    def open(self, ensemble: str, spec: Spec, submitter: Submitter, events: FrozenSet[str]) -> None:
        """Make an ensemble known. `events` names the job events (RFC 21) that it needs beyond BASE_EVENTS; RESOURCES
        among them asks for `Resources`, where nodes come and go.

        Raises MemberError if a group's jobs cannot be described to this queue at all; nothing is open then.
        """

    @abstractmethod
    def recover(self, ensemble: str, known: Mapping[JobId, Key], doubtful: Sequence[Submit], t: float) -> None:
        """Take up the jobs of an earlier service: between `open` and `start`, once for each such ensemble.

        `known` are its jobs that had not ended when it was last heard of, at `t`; of each `doubtful` submission it is not
        known whether it was sent. After `start` the member delivers the events that it has of those jobs (all, or
        those it thinks new), then `Lost` for a known job that it has no longer; for each doubtful one
        `Acknowledged`, `Refused` or `InDoubt`, submitting it where it is certain that it was not; and at last, once
        what the queue has told of the past is delivered, `Recovered`.
        """

    def want(self, ensemble: str, events: FrozenSet[str]) -> None:
        """From now on an open ensemble needs these events (RFC 21) beyond BASE_EVENTS: those that it had, and more."""
        raise MemberError(f"the queue '{self.name}' cannot follow more events of a job than those asked for at first")

    def watch(self, fd: int, callback: Callable[[], None], *, write: bool = False) -> Watch:
        """Call back from the event loop whenever `fd` can be read, or with `write` written, until it is cancelled."""
        raise MemberError(f"the queue '{self.name}' runs no custom functions")

    @abstractmethod
    def perform(self, ensemble: str, action: Action) -> None:
        """Carry out a `Submit`, `Cancel`, `Kill`, `Urgency` or `Look` of an open ensemble."""

    def foresee(self, ensemble: str, action: Submit) -> None:  # noqa: B027 - for most there is nothing to gain
        """`perform` will be asked for this one, once it is kept, or never: what has no effect may be done by now.

        Never raises.
        """

    def scaler(self, table: Table, submitter: Optional[Submitter]) -> Scaler:
        """What changes the number of nodes as that table says; `submitter` wrote it, None is the site itself.

        Raises MemberError where the queue cannot be scaled so.
        """
        raise MemberError(f"the queue '{self.name}' has as many nodes as it has, and no scaler can change that")

    def freeze(self) -> None:  # noqa: B027 - most have nothing to hold back
        """The queue is going down: what was not sent yet is not sent any more."""

    def hold(self, on: bool) -> None:  # noqa: B027 - some have nothing more to tell than what they were asked for
        """While it is on, deliver as little as can be: the service cannot take it. Nothing is lost, it comes later."""

    def hear(self, ensemble: str, topics: FrozenSet[str]) -> None:
        """Deliver events of these topics of the queue's bus as signals (`*` as in a shell), from now on.

        Raises MemberError where there is no bus.
        """
        if topics:
            raise MemberError(
                f"a rule waits for the topic '{min(topics)}', and there is no bus of Flux here: run inside Flux, or give the "
                "rule a signal's name"
            )

    @abstractmethod
    def close(self, ensemble: str) -> None:
        """Forget an ensemble: its jobs are no longer delivered, and are left as they are."""

    def clear(self, ended: Mapping[str, Sequence[str]]) -> None:  # noqa: B027 - most start nothing but jobs
        """Once, after `start`: ensembles that have ended, and the names of their members. What the member had started for
        one of them and could not end, because the service died, is ended now."""

    @abstractmethod
    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call back from the event loop at `when` (seconds since the epoch), or at once if that is past."""

    @abstractmethod
    def stop(self) -> None:
        """Stop delivering and release what the member holds. Jobs of a queue that outlives us go on."""

    def show(self, id: JobId) -> str:
        """The id as users of this queue write it."""
        return str(id)

    def where(self, ensemble: str, id: JobId, params: Optional[Mapping[str, Any]] = None) -> str:
        """Where the output of a job with these parameters lies: a path, or a command that prints it."""
        return ""
