# SPDX-License-Identifier: MIT
"""What the engine answers: the only output of the engine.

Law of this file: plain immutable records. Each action that reaches a member carries its cause, the rule and firing
that asked for it; a `Submit` carries it in its key.
"""

from __future__ import annotations

from typing import Any, Dict, NamedTuple, Optional, Union

from ensemble.engine.events import JobId, Key


class Cause(NamedTuple):
    """Why an action is taken. `rule` is None where no rule asked: a user's command, a limit, the end."""

    rule: Optional[str]
    firing: int
    text: str


class Submit(NamedTuple):
    """Submit one job of set number `set` (from 0, in file order) of `group`.

    `overrides` holds the keys of the action that outrank the group's: `duration` (seconds), `nodes`, `tasks`,
    `urgency`. `params` is the job's point: the value of each of its parameters. `member` is where it goes, '' for the
    service's own queue.
    """

    key: Key
    group: str
    set: int
    overrides: Dict[str, Any] = {}
    params: Dict[str, Any] = {}
    member: str = ""


class Cancel(NamedTuple):
    """Cancel a job, pending or running."""

    id: JobId
    cause: Cause


class Kill(NamedTuple):
    """Send a signal (a number) to all processes of a running job."""

    id: JobId
    signal: int
    cause: Cause


class Urgency(NamedTuple):
    """Change the urgency of a pending job: 0 to 31, where 0 holds it."""

    id: JobId
    value: int
    cause: Cause


class Call(NamedTuple):
    """Have a function called; `Answered` with this id comes of it. What it needs stands in the engine's state."""

    call: str
    cause: Cause


class Look(NamedTuple):
    """Count the queue's nodes, cores and jobs: `Counted` comes of it."""


class Resize(NamedTuple):
    """Say what size of the queue so many more nodes make, or fewer where `by` is negative: `Scaled` with that number,
    wanted or refused, comes of it. `held` is the size that the ensemble has wanted so far, None where it has not."""

    number: int
    by: int
    held: Optional[int]
    cause: Cause


class Size(NamedTuple):
    """Have that many nodes: `Scaled` finish or fail comes of it. `action` is grow or shrink."""

    wanted: int
    action: str
    cause: Cause


class SetTimer(NamedTuple):
    """Deliver `TimerExpired(timer)` at `at` (seconds since the epoch). A timer of the same name is replaced."""

    timer: str
    at: float


class Record(NamedTuple):
    """A line for those who watch, and for the ensemble's log.

    `type` is one of submitted, rule, action, job, state, log, error; `data` is JSON-able.
    """

    t: float
    type: str
    data: Dict[str, Any]


class Finished(NamedTuple):
    """A job has left the engine: the row to keep of it. JSON-able; see `ensemble.engine.jobs.Job.row`."""

    row: Dict[str, Any]


Action = Union[Submit, Cancel, Kill, Urgency, Call, Look, Resize, Size, SetTimer, Record, Finished]

#: Those that a member performs; the service itself handles the rest.
FOR_MEMBER = (Submit, Cancel, Kill, Urgency, Look)
