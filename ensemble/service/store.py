# SPDX-License-Identifier: MIT
"""Where ensembles are kept, so that they outlive what runs them.

Law of this file: everything that must outlive the service goes through a `Store`, and through nothing else. For each
event there is one `commit`: the event, what it caused, the lines it wrote and the rows of the jobs that ended, all
or nothing. Actions are performed only after their commit is done. A store answers by callback, `done(None)` or
`done(sentence)`, from the event loop or at once; commits of one ensemble are done in the order they were made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Callable, Deque, Dict, Iterator, List, NamedTuple, Optional

#: called with None, or with a sentence that says why it failed
Done = Callable[[Optional[str]], None]

#: lines of log kept of one ensemble by `MemoryStore`
_LINES = 100_000


class Commit(NamedTuple):
    """What one event did. All JSON-able."""

    #: `engine.events.to_json`
    event: List[Any]
    #: keys of the jobs that are to be submitted, and ids of those to be cancelled or killed, as text
    intents: List[str]
    #: RECORDs of the protocol, with their seq
    records: List[Dict[str, Any]]
    #: rows of jobs that have left the engine (JOB of the protocol)
    rows: List[Dict[str, Any]]


@dataclass
class Stored:
    """One ensemble as a store holds it."""

    id: str
    #: what was submitted: name, file, text, submitter, t_submit, version
    given: Dict[str, Any]
    #: STATUS of the protocol at the end; None while it has not ended
    status: Optional[Dict[str, Any]] = None
    #: `engine.snapshot.snapshot`, or None
    snapshot: Optional[Dict[str, Any]] = None
    #: events (JSON) consumed since the snapshot
    events: List[Any] = field(default_factory=list)


class Store(ABC):
    """Keeps what must outlive the service."""

    @abstractmethod
    def create(self, id: str, given: Dict[str, Any], done: Done) -> None:
        """Keep a new ensemble. Durable when done."""

    @abstractmethod
    def commit(self, id: str, commit: Commit, done: Done) -> None:
        """Keep what one event did."""

    @abstractmethod
    def snapshot(self, id: str, state: Dict[str, Any], done: Done) -> None:
        """Keep an engine's state; events committed before it need not be kept for recovery."""

    @abstractmethod
    def end(self, id: str, status: Optional[Dict[str, Any]], done: Done) -> None:
        """Keep the final status; None takes it back (a halted ensemble carries on)."""

    @abstractmethod
    def load(self) -> Iterator[Stored]:
        """All ensembles, oldest first."""

    @abstractmethod
    def rows(self, id: str) -> List[Dict[str, Any]]:
        """The rows of the jobs that have ended, in the order in which they did."""

    @abstractmethod
    def records(self, id: str, since: int, max: int) -> List[Dict[str, Any]]:
        """At most `max` records with seq > `since`, in order."""

    @abstractmethod
    def remove(self, id: str, done: Done) -> None:
        """Forget an ensemble."""

    @abstractmethod
    def close(self) -> None:
        """Release what the store holds."""


class MemoryStore(Store):
    """Keeps it for the life of the process: nothing outlives the service."""

    def __init__(self) -> None:
        self._stored: Dict[str, Stored] = {}
        self._rows: Dict[str, List[Dict[str, Any]]] = {}
        self._records: Dict[str, Deque[Dict[str, Any]]] = {}

    def create(self, id: str, given: Dict[str, Any], done: Done) -> None:
        self._stored[id] = Stored(id, given)
        self._rows[id] = []
        self._records[id] = Deque(maxlen=_LINES)
        done(None)

    def commit(self, id: str, commit: Commit, done: Done) -> None:
        # there is no recovery from memory, so the events themselves need not be kept
        self._records[id].extend(commit.records)
        self._rows[id].extend(commit.rows)
        done(None)

    def snapshot(self, id: str, state: Dict[str, Any], done: Done) -> None:
        done(None)

    def end(self, id: str, status: Optional[Dict[str, Any]], done: Done) -> None:
        self._stored[id].status = status
        done(None)

    def load(self) -> Iterator[Stored]:
        return iter(list(self._stored.values()))

    def rows(self, id: str) -> List[Dict[str, Any]]:
        return list(self._rows.get(id, ()))

    def records(self, id: str, since: int, max: int) -> List[Dict[str, Any]]:
        kept = self._records.get(id)
        if not kept:
            return []
        skip = since + 1 - int(kept[0]["seq"])
        if skip < 0:
            skip = 0
        if skip >= len(kept):
            return []
        if len(kept) - skip <= max:
            return [kept[i] for i in range(skip, len(kept))]
        return [kept[i] for i in range(skip, skip + max)]

    def remove(self, id: str, done: Done) -> None:
        for table in (self._stored, self._rows, self._records):
            table.pop(id, None)
        done(None)

    def close(self) -> None:
        return
