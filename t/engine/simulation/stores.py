# SPDX-License-Identifier: MIT
"""Stores that promise what `service/store.py` says and not a bit more, and remember all that was ever kept.

`Disk` is what outlives the service. `SimStore` writes to it late, in batches, in order within an ensemble; it can
refuse for a while, and a crash keeps of what was on its way a prefix. `Recorded` puts the same memory around any
other store. The history of commits is for the checks at the end of a story alone: no service reads it.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Set, Tuple

from ensemble.engine.events import Key
from ensemble.service.store import Commit, Done, Snapshot, Store, Stored
from t.engine.simulation.world import Violation, World

#: writes that wait: more than the first, and events are to be held; less than the second, and no longer
_FULL, _ROOM = 12, 3


class Kept:
    """One ensemble on the disk."""

    def __init__(self, given: Dict[str, Any]) -> None:
        self.given = given
        self.status: Optional[Dict[str, Any]] = None
        self.snapshot: Optional[Snapshot] = None
        self.log: List[Tuple[int, List[Any]]] = []
        self.rows: List[Dict[str, Any]] = []
        self.records: List[Dict[str, Any]] = []
        #: every commit that was ever kept
        self.history: List[Commit] = []
        self.intents: Set[str] = set()

    def take(self, commit: Commit) -> None:
        number = self.history[-1].number + 1 if self.history else 1
        if commit.number != number:
            raise Violation(f"commit {commit.number} comes where {number} is due")
        self.history.append(commit)
        self.intents.update(commit.intents)
        self.log.append((commit.number, commit.event))
        self.rows.extend(commit.rows)
        self.records.extend(commit.records)


def events(kept: Kept, after: int, most: int) -> List[List[Any]]:
    """The events of its history, as stores answer them."""
    found = [[commit.number, commit.event, commit.intents] for commit in kept.history if commit.number > after]
    return found[:most]


class Disk:
    """What outlives the service."""

    def __init__(self) -> None:
        self.kept: Dict[str, Kept] = {}
        #: until then nothing can be written, by the world's time
        self.refuses_until = 0.0

    def intended(self, key: Key) -> bool:
        return key.ensemble in self.kept and str(key) in self.kept[key.ensemble].intents


class SimStore(Store):
    """One incarnation over a disk."""

    def __init__(self, world: World, disk: Disk, slow: float) -> None:
        """A write takes up to `slow` seconds, now and then much longer; 0 is at once."""
        self._world = world
        self._disk = disk
        self._slow = slow
        self._waiting: Dict[str, Deque[Tuple[Callable[[], None], Done]]] = {}
        self._working: Set[str] = set()
        self._full = False
        self._dead = False

    def create(self, id: str, given: Dict[str, Any], done: Done) -> None:
        text = json.dumps(given, allow_nan=False)

        def write() -> None:
            self._disk.kept[id] = Kept(json.loads(text))

        self._write(id, write, done)

    def commit(self, id: str, commit: Commit, done: Done) -> None:
        text = json.dumps(commit, allow_nan=False)
        self._write(id, lambda: self._disk.kept[id].take(Commit(*json.loads(text))), done)

    def snapshot(self, id: str, snapshot: Snapshot) -> None:
        text = json.dumps(snapshot, allow_nan=False)

        def write() -> None:
            kept = self._disk.kept[id]
            kept.snapshot = Snapshot(*json.loads(text))
            kept.log = [entry for entry in kept.log if entry[0] > snapshot.number]

        self._write(id, write, lambda error: None)

    def end(self, id: str, status: Optional[Dict[str, Any]], done: Done) -> None:
        text = json.dumps(status, allow_nan=False)

        def write() -> None:
            self._disk.kept[id].status = json.loads(text)

        self._write(id, write, done)

    def load(self) -> Iterator[Stored]:
        for id, kept in list(self._disk.kept.items()):
            seq = kept.records[-1]["seq"] if kept.records else 0
            snapshot = None if kept.snapshot is None else Snapshot(*json.loads(json.dumps(kept.snapshot)))
            events = json.loads(json.dumps(kept.log))
            yield Stored(id, kept.given, kept.status, snapshot, [(n, e) for n, e in events], seq)

    def rows(self, id: str, start: int, max: int) -> List[Dict[str, Any]]:
        return self._disk.kept[id].rows[start : start + max]

    def row_count(self, id: str) -> int:
        return len(self._disk.kept[id].rows)

    def records(self, id: str, since: int, max: int) -> List[Dict[str, Any]]:
        return [record for record in self._disk.kept[id].records if record["seq"] > since][:max]

    def events(self, id: str, after: int, max: int) -> List[List[Any]]:
        return events(self._disk.kept[id], after, max)

    def reload(self, id: str) -> Stored:
        return next(stored for stored in self.load() if stored.id == id)

    def remove(self, id: str, done: Done) -> None:
        del self._disk.kept[id]
        done(None)

    def close(self) -> None:
        self.die()

    def die(self) -> None:
        """The process is gone: of what was on its way, a prefix arrives."""
        self._dead = True
        for waiting in self._waiting.values():
            for _ in range(self._world.random.randrange(len(waiting) + 1)):
                waiting.popleft()[0]()
        self._waiting.clear()

    def is_writing(self, id: str) -> bool:
        return bool(self._waiting.get(id))

    def _write(self, id: str, write: Callable[[], None], done: Done) -> None:
        self._world.point("before it is kept")
        waiting = self._waiting.setdefault(id, deque())
        waiting.append((write, done))
        self._press()
        if len(waiting) > 1 or id in self._working:
            return
        if self._slow or self._world.now < self._disk.refuses_until:
            self._later(id)
        else:
            self._work(id)

    def _press(self) -> None:
        waiting = sum(map(len, self._waiting.values()))
        full = waiting > _FULL or (self._full and waiting >= _ROOM)
        if full != self._full:
            self._full = full
            self._world.injected["store behind"] += full
            self.pressure(full)

    def _later(self, id: str) -> None:
        self._world.soon(lambda: self._work(id), self._slow or 0.05)

    def _work(self, id: str) -> None:
        if self._dead:
            return
        if self._world.now < self._disk.refuses_until:
            self._later(id)
            return
        waiting = self._waiting[id]
        batch = 1 + self._world.random.randrange(len(waiting))
        dones = []
        for write, done in list(waiting)[:batch]:
            write()
            dones.append(done)
        # kept, and nobody has heard of it
        for _ in dones:
            waiting.popleft()
        # what a `done` leads to comes behind the others
        self._working.add(id)
        for done in dones:
            self._world.point("once it is kept")
            done(None)
        self._working.discard(id)
        self._press()
        if waiting:
            self._later(id)


class Recorded(Store):
    """Another store, and the memory of a disk beside it."""

    def __init__(self, world: World, disk: Disk, store: Store) -> None:
        self.store = store
        self._world = world
        self._disk = disk

    def create(self, id: str, given: Dict[str, Any], done: Done) -> None:
        def kept(error: Optional[str]) -> None:
            if error is None:
                self._disk.kept[id] = Kept(given)
            self._world.point("once it is kept")
            done(error)

        self._world.point("before it is kept")
        self.store.create(id, given, kept)

    def commit(self, id: str, commit: Commit, done: Done) -> None:
        text = json.dumps(commit, allow_nan=False)

        def kept(error: Optional[str]) -> None:
            if error is None:
                self._disk.kept[id].take(Commit(*json.loads(text)))
            self._world.point("once it is kept")
            done(error)

        self._world.point("before it is kept")
        self.store.commit(id, commit, kept)

    def snapshot(self, id: str, snapshot: Snapshot) -> None:
        self._world.point("before it is kept")
        self.store.snapshot(id, snapshot)

    def end(self, id: str, status: Optional[Dict[str, Any]], done: Done) -> None:
        def kept(error: Optional[str]) -> None:
            if error is None:
                self._disk.kept[id].status = json.loads(json.dumps(status))
            done(error)

        self._world.point("before it is kept")
        self.store.end(id, status, kept)

    def load(self) -> Iterator[Stored]:
        return self.store.load()

    def rows(self, id: str, start: int, max: int) -> List[Dict[str, Any]]:
        return self.store.rows(id, start, max)

    def row_count(self, id: str) -> int:
        return self.store.row_count(id)

    def records(self, id: str, since: int, max: int) -> List[Dict[str, Any]]:
        return self.store.records(id, since, max)

    def events(self, id: str, after: int, max: int) -> List[List[Any]]:
        return self.store.events(id, after, max)

    def reload(self, id: str) -> Stored:
        return self.store.reload(id)

    def remove(self, id: str, done: Done) -> None:
        self.store.remove(id, done)

    def close(self) -> None:
        self.store.close()
