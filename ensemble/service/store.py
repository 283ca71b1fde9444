# SPDX-License-Identifier: MIT
"""Where ensembles are kept, so that they outlive what runs them.

Law of this file: everything that must outlive the service goes through a `Store`, and through nothing else. For each
event there is one `commit`: the event, what it caused, the lines it wrote and the rows of the jobs that ended, all
or nothing. Actions are performed only after their commit is done. A store answers by callback, `done(None)` or
`done(sentence)`, from the event loop or at once; commits of one ensemble are done in the order they were made. A
commit that fails is tried again until it is done: nothing happens to that ensemble meanwhile, and nothing is lost.
What waits so is bounded: a store that has too much of it says so (`pressure`), and takes it back once it has less.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Callable, Deque, Dict, Iterator, List, NamedTuple, Optional, Tuple

#: called with None, or with a sentence that says why it failed
Done = Callable[[Optional[str]], None]

#: what a final status has at least
STATUS = ("id", "name", "state", "reason", "t_submit", "t_end", "jobs", "groups", "metrics", "rules", "variables")

#: records kept of one ensemble, at least: the oldest go first, a segment at a time. Rows stay, one a finished job
#: (`limits: max_jobs` bounds them); what recovery needs of the log of events is cut at each snapshot, and goes into packs
#: (`past.py`)
KEPT_RECORDS = 100_000
#: events that a store in memory keeps of one ensemble
_KEPT_EVENTS = 100_000


class Commit(NamedTuple):
    """What one event did. All JSON-able."""

    #: counts the ensemble's events from 1, without a gap
    number: int
    #: `engine.events.to_json`
    event: List[Any]
    #: keys of the jobs that are to be submitted, and what else is to be done, as text
    intents: List[str]
    #: RECORDs of the protocol, with their seq
    records: List[Dict[str, Any]]
    #: rows of jobs that have left the engine (JOB of the protocol)
    rows: List[Dict[str, Any]]
    #: nothing is done upon it, and the queue would tell the event again: it may be kept a moment later, with others
    patient: bool = False


class Snapshot(NamedTuple):
    """An engine's state after event `number`, when the last record was `seq`."""

    number: int
    seq: int
    #: `engine.snapshot.snapshot`
    state: Dict[str, Any]


@dataclass
class Stored:
    """One ensemble as a store holds it."""

    id: str
    #: what was submitted: name, file, text, submitter, t_submit, version
    given: Dict[str, Any]
    #: STATUS of the protocol at the end; None while it has not ended
    status: Optional[Dict[str, Any]] = None
    snapshot: Optional[Snapshot] = None
    #: events consumed since the snapshot: number and event (JSON), in order
    events: List[Tuple[int, List[Any]]] = field(default_factory=list)
    #: seq of the last record
    seq: int = 0
    #: why the record cannot be read; a sentence. Such an ensemble is quarantined
    damaged: Optional[str] = None


class Store(ABC):
    """Keeps what must outlive the service."""

    def trouble(self, id: str) -> Optional[str]:
        """Why nothing is kept of that ensemble at present, so that it stands still; None where all is well."""
        return None

    #: called with True when more commits wait than should, and with False once that is over
    pressure: Callable[[bool], None] = staticmethod(lambda full: None)

    @abstractmethod
    def create(self, id: str, given: Dict[str, Any], done: Done) -> None:
        """Keep a new ensemble. Durable when done; not kept at all if it fails."""

    @abstractmethod
    def commit(self, id: str, commit: Commit, done: Done) -> None:
        """Keep what one event did."""

    @abstractmethod
    def snapshot(self, id: str, snapshot: Snapshot) -> None:
        """Keep an engine's state; events up to its number are no longer needed for recovery."""

    @abstractmethod
    def end(self, id: str, status: Optional[Dict[str, Any]], done: Done) -> None:
        """Keep the final status; None takes it back (a halted ensemble carries on)."""

    @abstractmethod
    def load(self) -> Iterator[Stored]:
        """All ensembles, oldest first. What cannot be read comes as `damaged`; the others are not hurt by it."""

    @abstractmethod
    def rows(self, id: str, start: int, max: int) -> List[Dict[str, Any]]:
        """At most `max` rows of jobs that have ended, from number `start`, in the order in which they ended."""

    @abstractmethod
    def row_count(self, id: str) -> int:
        """How many rows there are."""

    @abstractmethod
    def records(self, id: str, since: int, max: int) -> List[Dict[str, Any]]:
        """At most `max` records with seq > `since`, in order."""

    @abstractmethod
    def events(self, id: str, after: int, max: int) -> List[List[Any]]:
        """At most `max` of the events that were consumed, with numbers > `after`, in order: number, event (JSON), intents.

        Also those before the snapshot. Where the oldest are not kept any more, the first one's number is greater than
        `after` + 1.
        """

    @abstractmethod
    def reload(self, id: str) -> Stored:
        """An ensemble as `load` gives one that has not ended: with its snapshot, and the events since then."""

    @abstractmethod
    def remove(self, id: str, done: Done) -> None:
        """Forget an ensemble."""

    @abstractmethod
    def close(self) -> None:
        """Release what the store holds. Commits that are not done by now may be lost."""


class MemoryStore(Store):
    """Keeps it for the life of the process: nothing outlives the service."""

    def __init__(self) -> None:
        self._stored: Dict[str, Stored] = {}
        self._rows: Dict[str, List[Dict[str, Any]]] = {}
        self._records: Dict[str, Deque[Dict[str, Any]]] = {}
        self._events: Dict[str, Deque[List[Any]]] = {}

    def create(self, id: str, given: Dict[str, Any], done: Done) -> None:
        self._stored[id] = Stored(id, given)
        self._rows[id] = []
        self._records[id] = deque(maxlen=KEPT_RECORDS)
        self._events[id] = deque(maxlen=_KEPT_EVENTS)
        done(None)

    def commit(self, id: str, commit: Commit, done: Done) -> None:
        self._events[id].append([commit.number, commit.event, commit.intents])
        self._records[id].extend(commit.records)
        self._rows[id].extend(commit.rows)
        done(None)

    def snapshot(self, id: str, snapshot: Snapshot) -> None:
        return

    def end(self, id: str, status: Optional[Dict[str, Any]], done: Done) -> None:
        self._stored[id].status = status
        done(None)

    def load(self) -> Iterator[Stored]:
        return iter(sorted(self._stored.values(), key=lambda stored: (stored.given.get("t_submit", 0.0), stored.id)))

    def rows(self, id: str, start: int, max: int) -> List[Dict[str, Any]]:
        return self._rows.get(id, [])[start : start + max]

    def row_count(self, id: str) -> int:
        return len(self._rows.get(id, ()))

    def records(self, id: str, since: int, max: int) -> List[Dict[str, Any]]:
        return recent(self._records.get(id, ()), since, max)

    def events(self, id: str, after: int, max: int) -> List[List[Any]]:
        return list(islice((event for event in self._events.get(id, ()) if event[0] > after), max))

    def reload(self, id: str) -> Stored:
        stored, records = self._stored[id], self._records[id]
        events = [(number, event) for number, event, _ in self._events[id]]
        if events and events[0][0] > 1:
            return damaged(id, f"event {events[0][0] - 1} is not kept any more")
        return Stored(id, stored.given, stored.status, None, events, records[-1]["seq"] if records else 0)

    def remove(self, id: str, done: Done) -> None:
        for table in (self._stored, self._rows, self._records, self._events):
            table.pop(id, None)
        done(None)

    def close(self) -> None:
        return


def recent(kept: Any, since: int, max: int) -> List[Dict[str, Any]]:
    """At most `max` of the records kept in a deque (their seqs have no gap) with seq > `since`."""
    if not kept or kept[-1]["seq"] <= since:
        return []
    skip = since + 1 - int(kept[0]["seq"])
    if skip <= 0:
        return list(islice(kept, max))
    # from the far end: the last few are what watchers ask for
    left = len(kept) - skip
    found = list(islice(reversed(kept), left))
    found.reverse()
    return found[:max]


def sound(stored: Stored) -> Stored:
    """The same, if what every reader counts on is there. Raises ValueError."""
    given, status = stored.given, stored.status
    kinds: Dict[str, Any] = {"name": str, "file": str, "text": str, "submitter": dict, "t_submit": (int, float)}
    for name, kind in kinds.items():
        if not isinstance(given.get(name), kind):
            raise ValueError(f"{name} of what was submitted is {given.get(name)!r:.50}")
    if status is not None and not set(STATUS) <= set(status):
        raise ValueError(f"the final status has only {', '.join(status) or 'nothing'}")
    # of earlier releases these may be missing
    members, scaling = (status or {}).get("members"), (status or {}).get("scaling")
    done = scaling.get("t_done") if isinstance(scaling, dict) else None
    if (
        not isinstance(members or {}, dict)
        or not isinstance(scaling or {}, dict)
        or not isinstance(done or 0, (int, float))
    ):
        raise ValueError(f"members or scaling of the final status are {members!r:.50}, {scaling!r:.50}")
    return stored


def damaged(id: str, why: str) -> Stored:
    """One of which nothing but its id can be trusted."""
    given = {"name": id, "file": "", "text": "", "submitter": {}, "t_submit": 0.0, "version": ""}
    return Stored(id, given, damaged=why)
