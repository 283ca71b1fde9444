# SPDX-License-Identifier: MIT
"""The store of the local queue: one SQLite file an ensemble, `<rundir>/<id>/ensemble.db`.

Law of this file: a commit is one SQLite transaction in WAL mode; after a crash of the process, or a power cut, the
file holds a prefix of the commits. What is submitted is written through to the disk (synchronous=FULL) before it is
acknowledged; later commits survive the death of the process, and the disk has them at the next checkpoint. One
process at a time writes a file: it holds a lock on `<rundir>/<id>/lock` as long as it lives.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from ensemble.service.store import Commit, Done, Snapshot, Store, Stored

#: version of the tables; a file with a greater one was written by a newer release
FORMAT = 1
_FILE = "ensemble.db"
_LOCK = "lock"
#: seconds to wait for another process that reads or writes the file
_BUSY = 5.0

_TABLES = """
create table if not exists kept (name text primary key, value text not null) without rowid;
create table if not exists log (number integer primary key, event text not null, intents text not null);
create table if not exists records (seq integer primary key, record text not null);
create table if not exists rows (place integer primary key, row text not null);
"""


class Locked(Exception):
    """Another process runs that ensemble."""


class FileStore(Store):
    """Keeps ensembles in files below `rundir`. `load` gives all that are there; only what is opened is locked."""

    def __init__(self, rundir: Path) -> None:
        self._rundir = Path(rundir)
        self._files: Dict[str, sqlite3.Connection] = {}
        self._locks: Dict[str, int] = {}

    # ---- writing

    def create(self, id: str, given: Dict[str, Any], done: Done) -> None:
        try:
            self._place(id).mkdir(parents=True, exist_ok=True, mode=0o700)
            self.lock(id)
            db = self._open(id)
            with db:
                db.execute("pragma synchronous=full")
                db.executescript(_TABLES)
                db.execute("insert into kept values ('format', ?)", (json.dumps(FORMAT),))
                db.execute("insert into kept values ('given', ?)", (_dumps(given),))
            db.execute("pragma wal_checkpoint(truncate)")
            db.execute("pragma synchronous=normal")
        except (sqlite3.Error, OSError, Locked) as exc:
            self._let_go(id)
            done(f"{self._place(id) / _FILE}: {exc}")
            return
        done(None)

    def commit(self, id: str, commit: Commit, done: Done) -> None:
        try:
            with self._open(id) as db:
                db.execute(
                    "insert into log values (?, ?, ?)", (commit.number, _dumps(commit.event), _dumps(commit.intents))
                )
                db.executemany("insert into records values (?, ?)", [(r["seq"], _dumps(r)) for r in commit.records])
                db.executemany("insert into rows (row) values (?)", [(_dumps(row),) for row in commit.rows])
        except sqlite3.Error as exc:
            done(f"{self._place(id) / _FILE}: {exc}")
            return
        done(None)

    def snapshot(self, id: str, snapshot: Snapshot) -> None:
        with self._open(id) as db:
            db.execute("insert or replace into kept values ('snapshot', ?)", (_dumps(list(snapshot)),))
            db.execute("delete from log where number <= ?", (snapshot.number,))

    def end(self, id: str, status: Optional[Dict[str, Any]], done: Done) -> None:
        try:
            with self._open(id) as db:
                if status is None:
                    db.execute("delete from kept where name = 'status'")
                else:
                    db.execute("insert or replace into kept values ('status', ?)", (_dumps(status),))
        except sqlite3.Error as exc:
            done(f"{self._place(id) / _FILE}: {exc}")
            return
        done(None)

    def remove(self, id: str, done: Done) -> None:
        """Forget the ensemble; the output of its jobs stays."""
        self._let_go(id)
        try:
            for name in (_FILE, f"{_FILE}-wal", f"{_FILE}-shm", _LOCK):
                (self._place(id) / name).unlink(missing_ok=True)
        except OSError as exc:
            done(str(exc))
            return
        done(None)

    def close(self) -> None:
        for id in list(self._files):
            self._let_go(id)

    # ---- one writer

    def lock(self, id: str) -> None:
        """Become the one that runs this ensemble. Raises Locked where another process does."""
        if id in self._locks:
            return
        fd = os.open(self._place(id) / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise Locked(f"another process runs ensemble {id}") from None
        self._locks[id] = fd

    def release(self, id: str) -> None:
        """Let another process run it."""
        self._let_go(id)

    # ---- reading

    def ids(self) -> List[str]:
        """Those that are there, in no order."""
        try:
            return [entry.name for entry in os.scandir(self._rundir) if (Path(entry.path) / _FILE).is_file()]
        except OSError:
            return []

    def load(self) -> Iterator[Stored]:
        found = [self.load_one(id) for id in self.ids()]
        found.sort(key=lambda stored: (stored.given.get("t_submit", 0.0), stored.id))
        return iter(found)

    def load_one(self, id: str) -> Stored:
        """One ensemble; `damaged` where it cannot be read."""
        given: Dict[str, Any] = {
            "name": id, "file": "", "text": "", "submitter": {}, "t_submit": 0.0, "version": ""
        }  # fmt: skip
        try:
            db = self._open(id)
            kept = {name: json.loads(value) for name, value in db.execute("select name, value from kept")}
            given = {**given, **kept["given"]}
            if kept["format"] > FORMAT:
                raise ValueError(f"written by a newer release, format {kept['format']}; this one reads up to {FORMAT}")
            stored = Stored(id, given, status=kept.get("status"))
            number = 0
            if "snapshot" in kept:
                stored.snapshot = Snapshot(*kept["snapshot"])
                number = stored.snapshot.number
            for found, event in db.execute("select number, event from log where number > ? order by number", (number,)):
                if found != number + 1:
                    raise ValueError(f"event {number + 1} is missing from the log")
                number = found
                stored.events.append((number, json.loads(event)))
            stored.seq = db.execute("select coalesce(max(seq), 0) from records").fetchone()[0]
        except (sqlite3.Error, ValueError, TypeError, KeyError) as exc:
            return Stored(id, given, damaged=f"{self._place(id) / _FILE} cannot be read ({exc})")
        return stored

    def rows(self, id: str, start: int, max: int) -> List[Dict[str, Any]]:
        found = self._open(id).execute("select row from rows order by place limit ? offset ?", (max, start))
        return [json.loads(row) for (row,) in found]

    def row_count(self, id: str) -> int:
        count: int = self._open(id).execute("select count(*) from rows").fetchone()[0]
        return count

    def records(self, id: str, since: int, max: int) -> List[Dict[str, Any]]:
        query = "select record from records where seq > ? order by seq limit ?"
        return [json.loads(record) for (record,) in self._open(id).execute(query, (since, max))]

    # ---- files

    def _place(self, id: str) -> Path:
        return self._rundir / id

    def _open(self, id: str) -> sqlite3.Connection:
        db = self._files.get(id)
        if db is None:
            db = sqlite3.connect(self._place(id) / _FILE, timeout=_BUSY)
            try:
                db.execute("pragma journal_mode=wal")
                db.execute("pragma synchronous=normal")
            except sqlite3.Error:
                db.close()
                raise
            self._files[id] = db
        return db

    def _let_go(self, id: str) -> None:
        db = self._files.pop(id, None)
        if db is not None:
            db.close()
        fd = self._locks.pop(id, None)
        if fd is not None:
            os.close(fd)


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
