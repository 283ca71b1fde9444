# SPDX-License-Identifier: MIT
"""What can happen to an ensemble: the only input of the engine.

Law of this file: plain immutable records, comparable by value, with a JSON form that has a version. Outcomes are
events too: a refused submission is a `Refused`, a timer that ran out is a `TimerExpired`. Times (`t`) are seconds
since the epoch, as Flux puts them into eventlogs (RFC 18).
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, NamedTuple, Optional, Union

from ensemble.errors import RecordError

#: Version of the JSON form. A record with a greater one was written by a newer release.
FORMAT = 1

#: A member's own id of a job: an integer of Flux, a number of the local queue.
JobId = int

#: The events of RFC 21 that the engine itself needs; the rest is fetched only where a rule asks for it.
BASE_EVENTS = ("submit", "invalidate", "start", "finish", "exception", "clean", "flux-restart")

#: A member that is asked for this beside job events tells of changes of its nodes (`Resources`).
RESOURCES = "resources"

#: Every job event of RFC 21 by name.
JOB_EVENTS = (
    "submit",
    "jobspec-update",
    "resource-update",
    "validate",
    "invalidate",
    "set-flags",
    "dependency-add",
    "dependency-remove",
    "depend",
    "priority",
    "flux-restart",
    "urgency",
    "alloc",
    "prolog-start",
    "prolog-finish",
    "epilog-start",
    "epilog-finish",
    "free",
    "start",
    "release",
    "finish",
    "clean",
    "exception",
    "memo",
    "debug",
)


class Key(NamedTuple):
    """Names one attempt of one job for ever; the member carries it with the job.

    `firing` counts from 1 per rule, `index` from 0 within one firing (across its actions), `attempt` from 0.
    """

    ensemble: str
    rule: str
    firing: int
    index: int  # type: ignore[assignment]  # the word of the language; tuple.index is never used
    attempt: int

    def __str__(self) -> str:
        return f"{self.ensemble}/{self.rule}/{self.firing}/{self.index}/{self.attempt}"

    @classmethod
    def parse(cls, text: str) -> Key:
        """The key that `str` wrote. Raises ValueError for anything else."""
        ensemble, rule, firing, index, attempt = text.split("/")
        return cls(ensemble, rule, int(firing), int(index), int(attempt))


class Begin(NamedTuple):
    """The ensemble begins; always its first event, and seen once.

    `fresh`: rules see the numbers of the queue from behind their event. False in logs of before they did, which so give
    the actions that they gave.
    """

    t: float
    fresh: bool = True


class JobEvent(NamedTuple):
    """A member reports an event of a job's eventlog (RFC 18, 21).

    `key` is set with `submit` alone. `context` is that of RFC 21: `finish` has `status`, a wait status as of
    wait(2); `exception` has `type`, `severity` and `note`; `alloc` may have `ranks`, an idset as a string.
    """

    t: float
    id: JobId
    name: str
    context: Dict[str, Any] = {}
    key: Optional[Key] = None


class Acknowledged(NamedTuple):
    """The member took a submission; `id` is the new job. May come before or after the job's events."""

    t: float
    key: Key
    id: JobId


class Refused(NamedTuple):
    """The member refused a submission for good; `reason` is a sentence for the user."""

    t: float
    key: Key
    reason: str


class ActionDone(NamedTuple):
    """What became of a cancel, kill or urgency. `error` is None, or a sentence: why the member could not do it."""

    t: float
    id: JobId
    action: str
    error: Optional[str] = None


class TimerExpired(NamedTuple):
    """A timer that the engine set with `SetTimer` has run out. May come late; a stale one is ignored."""

    t: float
    timer: str


class Lost(NamedTuple):
    """The member no longer has a job that it had: its fate is not known, and nothing more is heard of it."""

    t: float
    id: JobId
    reason: str


class InDoubt(NamedTuple):
    """After a crash it cannot be told whether a submission became a job; `reason` is a sentence."""

    t: float
    key: Key
    reason: str


class Resources(NamedTuple):
    """Nodes of the queue have changed. `name` is up, down, drain or undrain; `ranks` an idset."""

    t: float
    name: str
    ranks: str


class Counted(NamedTuple):
    """What a `Look` has found: `nodes` and `cores`, each with up, down, free and allocated, and `queue` with pending and
    running. What could not be told is left out."""

    t: float
    counts: Dict[str, Any] = {}


class Scaled(NamedTuple):
    """Of the size of the queue: what `ensemble.engine.scaling` takes, by `name`.

    `wanted` and `refused` answer a `Resize`: data has its `number` and the present `size`, and the size `wanted`, or the
    `reason`, a sentence. `finish`, `fail` and `waits` are about a `Size`: data has what was `wanted`, the `size` there is,
    and the `reason`; `reached` with a finish is the size that was to be had, where that is another one.
    """

    t: float
    name: str
    data: Dict[str, Any]


class MemberChanged(NamedTuple):
    """One of the ensemble's members: `how` is down, up or gone (it will not be waited for any longer: its jobs are lost).

    `reason` is a sentence, or ''.
    """

    t: float
    name: str
    how: str
    reason: str = ""


class Frozen(NamedTuple):
    """The instance is going down: what is cancelled from here on is not the user's will."""

    t: float


class Recovered(NamedTuple):
    """After a restart: the member has told all that happened meanwhile."""

    t: float


class Command(NamedTuple):
    """A user's command: `cancel`, `pause`, `resume` (data: `limits`), `resize` (data: `by`)."""

    t: float
    name: str
    data: Dict[str, Any] = {}


class Report(NamedTuple):
    """A job reports values: variable to a number.

    What is not finite is a string. `id` names the report for ever: SOURCE:N, N a whole number that grows for each
    source, or a word of its own.
    """

    t: float
    key: Key
    values: Dict[str, Any]
    id: str


class Printed(NamedTuple):
    """Values were found in the output of a job: of each line where it begins in its source, and the values.

    A line may be told again, under the same offset; the offsets of one source grow. `note` is '' or a sentence for
    the ensemble's log.
    """

    t: float
    key: Key
    source: str
    lines: List[Any]
    note: str = ""


class Signal(NamedTuple):
    """A signal for the ensemble, or with `topic` an event of that topic on the Flux bus.

    `id` names it for ever, as that of a report; '' where it cannot be told twice.
    """

    t: float
    name: str
    data: Dict[str, Any]
    id: str
    topic: bool = False


class Answered(NamedTuple):
    """A function has answered the call of that id, or failed; `data` as `ensemble.engine.calls.take` reads it."""

    t: float
    call: str
    data: Dict[str, Any]


Event = Union[
    Begin,
    JobEvent,
    Acknowledged,
    Refused,
    ActionDone,
    TimerExpired,
    Command,
    Lost,
    InDoubt,
    Frozen,
    Recovered,
    Answered,
    Report,
    Printed,
    Signal,
    Resources,
    Counted,
    MemberChanged,
    Scaled,
]

_TYPES: Dict[str, Any] = {cls.__name__: cls for cls in Event.__args__}  # type: ignore[attr-defined]


def to_json(event: Event) -> List[Any]:
    """The event as a list that `json.dumps` takes: `[format, type, field, ...]`."""
    fields = [str(field) if isinstance(field, Key) else field for field in event]
    return [FORMAT, type(event).__name__, *fields]


_KINDS: Dict[str, Any] = {
    "counts": dict,
    "id": int,
    "key": Key,
    "context": dict,
    "data": dict,
    "values": dict,
    "lines": list,
}
_NAMED = (Report, Signal)
#: fields that records of earlier releases do not have, and what these meant
_BEFORE: Dict[Any, List[Any]] = {Begin: [False]}
_MAY_BE_NONE = {(JobEvent, "key"), (ActionDone, "error")}


def _sound(cls: Any, field: str, value: Any) -> bool:
    """May this stand in that field? What `_KINDS` does not name is a string."""
    if value is None:
        return (cls, field) in _MAY_BE_NONE
    if field == "t":
        return type(value) in (int, float) and math.isfinite(value)
    if field in ("topic", "fresh"):
        return isinstance(value, bool)
    kind = str if field == "id" and cls in _NAMED else _KINDS.get(field, str)
    return isinstance(value, kind) and not isinstance(value, bool)


def from_json(record: Any) -> Event:
    """The event that `to_json` wrote. Raises RecordError for a damaged record or one of a newer format."""
    try:
        version, name, *fields = record
        if type(version) is not int or version < 1:
            raise ValueError(f"{version!r} is no format")
        if version > FORMAT:
            raise RecordError(
                f"an event of format {version} was written by a newer release; this one reads up to {FORMAT}"
            )
        cls = _TYPES[name]
        if "key" in cls._fields:
            at = cls._fields.index("key")
            if at < len(fields) and fields[at] is not None:
                fields[at] = Key.parse(fields[at])
        if cls in _BEFORE and len(fields) == 1:
            fields += _BEFORE[cls]
        event: Event = cls(*fields)
        for field, value in zip(event._fields, event):
            if not _sound(cls, field, value):
                raise ValueError(f"{value!r} is no {field}")
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as exc:
        raise RecordError(f"this is no event record ({exc!r}): {str(record)[:120]}") from exc
    return event
