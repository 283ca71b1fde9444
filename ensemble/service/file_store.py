# SPDX-License-Identifier: MIT
"""The store of the local queue: one SQLite file an ensemble, `<rundir>/<id>/ensemble.db`.

Law of this file: a commit is one SQLite transaction in WAL mode; after a crash of the process, or a power cut, the
file holds a prefix of the commits. What is submitted is written through to the disk (synchronous=FULL) before it is
acknowledged; later commits survive the death of the process, and the disk has them at the next checkpoint. Who
writes a file holds a lock on `<rundir>/<id>/lock` from the creation to the end.

A change that the disk refuses (it is full, say) is kept, with all that come behind it in that ensemble, and tried
again until it is done. What waits so, of all ensembles together, is counted in bytes: from FULL on the store asks for no
more events, until it is down to EASY. Only ensembles that were created here, or that `take` names, are loaded: others belong
to others.
Writing and reading stay in one file of more than 400 lines, because each is the other's explanation.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sqlite3
import syslog
import time
import zlib
from collections import deque
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Sequence, Tuple

from ensemble.errors import ServiceError
from ensemble.members.guard import Log
from ensemble.service.past import SHELF, Packer, superfluous, unpack
from ensemble.service.store import KEPT_RECORDS, Commit, Done, Snapshot, Store, Stored, damaged, sound

#: calls back after so many seconds
Defer = Callable[[float, Callable[[], None]], object]
_Write = Callable[[sqlite3.Connection], None]

#: version of the tables; a file with a greater one was written by a newer release
FORMAT = 1
_FILE, _LOCK = "ensemble.db", "lock"
#: seconds to wait for another process that reads or writes the file
_BUSY = 5.0
#: seconds before a change that was refused is tried again: at first, at most
_RETRY = (0.2, 10.0)
#: seconds for which a lock is tried: one who merely looks may hold it for a moment
_PATIENCE = 1.0
#: bytes of commits that wait, from which on there may be no more; and down to which
FULL, EASY = 16 << 20, 4 << 20

_TABLES = """
create table if not exists kept (name text primary key, value text not null) without rowid;
create table if not exists log (number integer primary key, event text not null, intents text not null);
create table if not exists records (seq integer primary key, record text not null);
create table if not exists rows (place integer primary key, row text not null);
create table if not exists past (first integer primary key, lines blob not null);
"""


class Locked(ServiceError):
    """Another process runs that ensemble."""

    errno = errno.EBUSY


class FileStore(Store):
    """Keeps ensembles in files below `rundir`. Used from the thread that `defer` calls back in."""

    def __init__(
        self,
        rundir: Path,
        defer: Optional[Defer] = None,
        log: Log = lambda level, text: None,
        take: Optional[Sequence[str]] = (),
    ) -> None:
        """`load` gives those that `take` names, all where it is None. Without `defer` nothing is written, only read
        and removed."""
        self._rundir = Path(rundir)
        self._defer = defer
        self._log = log
        self._take = take
        #: those that we write
        self._files: Dict[str, sqlite3.Connection] = {}
        self._locks: Dict[str, int] = {}
        #: the one that was read last and is not written by us
        self._reading: Optional[Tuple[str, sqlite3.Connection]] = None
        #: changes that the disk has refused, and those behind them; and why it began to
        self._waiting: Dict[str, Deque[Tuple[_Write, Done, int]]] = {}
        self._refused: Dict[str, str] = {}
        #: bytes of what waits
        self._size = 0
        self._full = False

    def trouble(self, id: str) -> Optional[str]:
        return f"stands still: {self.path(id)}: {self._refused[id]}" if id in self._waiting else None

    # ---- writing

    def create(self, id: str, given: Dict[str, Any], done: Done) -> None:
        if self.path(id).exists():
            done(f"{self.path(id)} is there already")
            return
        new = self.path(id).with_suffix(".new")
        try:
            self._place(id).mkdir(parents=True, exist_ok=True, mode=0o700)
            self.lock(id)
            new.unlink(missing_ok=True)
            self._make(new, given)
            # under its name it is there only as a whole
            new.rename(self.path(id))
            _sync(self._place(id))
            self._open(id)
        except (sqlite3.Error, OSError, Locked) as exc:
            if id in self._locks:
                new.unlink(missing_ok=True)
                self._erase(id)
            done(f"{self.path(id)}: {exc}")
            return
        done(None)

    @staticmethod
    def _make(path: Path, given: Dict[str, Any]) -> None:
        """A whole file with what was submitted, on the disk."""
        db = sqlite3.connect(path)
        try:
            # now, and not under its final name: a reader could not mend a change that was cut off half-way
            db.execute("pragma journal_mode=wal")
            db.execute("pragma synchronous=full")
            with db:
                db.executescript(_TABLES)
                db.execute("insert into kept values ('format', ?)", (json.dumps(FORMAT),))
                db.execute("insert into kept values ('given', ?)", (_dumps(given),))
        finally:
            db.close()

    def commit(self, id: str, commit: Commit, done: Done) -> None:
        event = (commit.number, _dumps(commit.event), _dumps(commit.intents))
        records = [(record["seq"], _dumps(record)) for record in commit.records]
        rows = [(_dumps(row),) for row in commit.rows]

        def write(db: sqlite3.Connection) -> None:
            db.execute("insert into log values (?, ?, ?)", event)
            db.executemany("insert into records values (?, ?)", records)
            db.executemany("insert into rows (row) values (?)", rows)

        size = len(event[1]) + len(event[2]) + sum(len(text) for _, text in records) + sum(len(row) for (row,) in rows)
        self._change(id, write, done, size)

    def snapshot(self, id: str, snapshot: Snapshot) -> None:
        def write(db: sqlite3.Connection) -> None:
            db.execute("insert or replace into kept values ('snapshot', ?)", (_dumps(list(snapshot)),))
            self._put_away(db, snapshot.number)
            db.execute("delete from records where seq <= ?", (snapshot.seq - KEPT_RECORDS,))

        self._change(id, write, lambda error: None)

    @staticmethod
    def _put_away(db: sqlite3.Connection, number: int) -> None:
        """Pack the events up to that number, which recovery needs no more."""
        packer = Packer()
        for found, event, intents in db.execute("select * from log where number <= ? order by number", (number,)):
            packer.add(found, f"[{found},{event},{intents}]")
            packer.pack()
        db.executemany("insert or replace into past values (?, ?)", packer.take())
        db.execute("delete from log where number <= ?", (number,))
        sizes = db.execute("select first / ?, sum(length(lines)) from past group by 1", (SHELF,))
        for shelf in superfluous(dict(sizes)):
            db.execute("delete from past where first / ? = ?", (SHELF, shelf))

    def end(self, id: str, status: Optional[Dict[str, Any]], done: Done) -> None:
        def write(db: sqlite3.Connection) -> None:
            if status is None:
                db.execute("delete from kept where name = 'status'")
            else:
                db.execute("insert or replace into kept values ('status', ?)", (_dumps(status),))

        def ended(error: Optional[str]) -> None:
            done(error)
            # a halted one may carry on here
            if error is None and status is not None and status["state"] != "halted":
                self._let_go(id)

        self._change(id, write, ended)

    def remove(self, id: str, done: Done) -> None:
        """Forget the ensemble; the output of its jobs stays."""
        self._weigh(-sum(size for _, _, size in self._waiting.pop(id, ())))
        try:
            self.lock(id)
            self._erase(id)
        except (OSError, Locked) as exc:
            done(f"{self.path(id)}: {exc}")
            return
        done(None)

    def close(self) -> None:
        """Try once more what was refused, and release the files and their locks."""
        for id, waiting in self._waiting.items():
            while waiting and self._try(id, waiting[0][0]) is None:
                waiting.popleft()
            if waiting:
                self._log(syslog.LOG_ERR, f"{self.path(id)}: {len(waiting)} changes could not be kept")
        self._waiting.clear()
        for id in list(self._locks):
            self._let_go(id)
        self._close_reading()

    def _change(self, id: str, write: _Write, done: Done, size: int = 0) -> None:
        """Make one change in one transaction, behind those that wait."""
        waiting = self._waiting.get(id)
        if waiting is not None:
            waiting.append((write, done, size))
            self._weigh(size)
            return
        error = self._try(id, write, done)
        if error is not None:
            self._log(syslog.LOG_ERR, f"{self.path(id)}: {error}: the ensemble stands still until it can be written")
            self._refused[id] = error
            self._waiting[id] = deque([(write, done, size)])
            self._weigh(size)
            self._later(id, _RETRY[0])

    def _weigh(self, bytes: int) -> None:
        """So much more waits, or less."""
        self._size += bytes
        full = self._size > (EASY if self._full else FULL)
        if full != self._full:
            self._full = full
            self.pressure(full)

    def _later(self, id: str, pause: float) -> None:
        assert self._defer is not None
        self._defer(pause, lambda: self._again(id, pause))

    def _again(self, id: str, pause: float) -> None:
        waiting = self._waiting.get(id)
        while waiting:
            write, done, size = waiting[0]
            # what `done` leads to comes behind what waits, so the queue stays until it is empty
            if self._try(id, write, lambda error: None) is not None:
                self._later(id, min(2 * pause, _RETRY[1]))
                return
            waiting.popleft()
            self._weigh(-size)
            done(None)
        if self._waiting.get(id) is waiting and waiting is not None:
            del self._waiting[id]
            self._log(syslog.LOG_NOTICE, f"{self.path(id)} can be written again")

    def _try(self, id: str, write: _Write, done: Done = lambda error: None) -> Optional[str]:
        """Write, and tell `done`; or why it could not be written now."""
        try:
            db = self._open(id)
            try:
                write(db)
                db.commit()
            except sqlite3.Error:
                db.rollback()
                raise
        except sqlite3.OperationalError as exc:
            return str(exc)
        except sqlite3.Error as exc:
            # no time will mend that: the file is damaged, or the fault is ours
            done(f"{self.path(id)}: {exc}")
            return None
        done(None)
        return None

    # ---- one writer

    def lock(self, id: str) -> None:
        """Become the one that runs this ensemble. Raises Locked where another process does, and OSError."""
        if id in self._locks:
            return
        fd = os.open(self._place(id) / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        give_up = time.monotonic() + _PATIENCE
        while not _locked(fd, fcntl.LOCK_EX):
            if time.monotonic() > give_up:
                os.close(fd)
                raise Locked(f"another process runs ensemble {id}")
            time.sleep(0.02)
        self._locks[id] = fd
        if self._reading is not None and self._reading[0] == id:
            self._close_reading()

    def alive(self, id: str) -> bool:
        """Does a process run it, be it we?"""
        if id in self._locks:
            return True
        try:
            fd = os.open(self._place(id) / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return not _locked(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)

    # ---- reading

    def ids(self) -> List[str]:
        """Those that are there, in no order."""
        try:
            return [entry.name for entry in os.scandir(self._rundir) if (Path(entry.path) / _FILE).is_file()]
        except OSError:
            return []

    def load(self) -> Iterator[Stored]:
        found = [self.load_one(id) for id in (self.ids() if self._take is None else self._take)]
        found.sort(key=lambda stored: (stored.given.get("t_submit", 0.0), stored.id))
        return iter(found)

    def load_one(self, id: str, whole: bool = False) -> Stored:
        """One ensemble; `damaged` where it cannot be read. `whole`: with the state also of one that has ended."""
        try:
            db = self._open(id)
            kept = {name: json.loads(value) for name, value in db.execute("select name, value from kept")}
            if kept["format"] > FORMAT:
                raise ValueError(f"written by a newer release, format {kept['format']}; this one reads up to {FORMAT}")
            stored = sound(Stored(id, kept["given"], status=kept.get("status")))
            stored.seq = db.execute("select coalesce(max(seq), 0) from records").fetchone()[0]
            # only a halted one may carry on, and not where nothing is written
            if not whole and stored.status is not None and (self._defer is None or stored.status["state"] != "halted"):
                return stored
            number = 0
            if "snapshot" in kept:
                stored.snapshot = Snapshot(*kept["snapshot"])
                number = stored.snapshot.number
            for found, event in db.execute("select number, event from log where number > ? order by number", (number,)):
                if found != number + 1:
                    raise ValueError(f"event {number + 1} is missing from the log")
                number = found
                stored.events.append((number, json.loads(event)))
        except (sqlite3.Error, ValueError, TypeError, KeyError, AttributeError) as exc:
            return damaged(id, f"{self.path(id)} cannot be read ({exc})")
        return stored

    def reload(self, id: str) -> Stored:
        return self.load_one(id, whole=True)

    def events(self, id: str, after: int, max: int) -> List[List[Any]]:
        found: List[List[Any]] = []
        try:
            db = self._open(id)
            begin = "select coalesce(max(first), 0) from past where first <= ?"
            for (data,) in db.execute(
                f"select lines from past where first >= ({begin}) order by first limit ?", (after + 1, max)
            ):
                found += [line for line in unpack(data) if line[0] > after]
                if len(found) >= max:
                    return found[:max]
            last = found[-1][0] if found else after
            query = "select number, event, intents from log where number > ? order by number limit ?"
            for number, event, intents in db.execute(query, (last, max - len(found))):
                found.append([number, json.loads(event), json.loads(intents)])
        except (sqlite3.Error, ValueError, EOFError, OSError, zlib.error):
            if id in self._locks:
                raise
        return found

    def rows(self, id: str, start: int, max: int) -> List[Dict[str, Any]]:
        return self._texts(id, "select row from rows order by place limit ? offset ?", (max, start))

    def row_count(self, id: str) -> int:
        count: List[int] = self._texts(id, "select count(*) from rows", ())
        return count[0] if count else 0

    def records(self, id: str, since: int, max: int) -> List[Dict[str, Any]]:
        return self._texts(id, "select record from records where seq > ? order by seq limit ?", (since, max))

    def _texts(self, id: str, query: str, values: Tuple[int, ...]) -> List[Any]:
        """What one column of JSON holds. Empty where the file cannot be read, which `load` has told."""
        try:
            return [json.loads(str(text)) for (text,) in self._open(id).execute(query, values)]
        except (sqlite3.Error, ValueError):
            if id in self._locks:
                raise
            return []

    def last_job(self, id: str) -> int:
        """The greatest id of a job that has ended; 0 where there is none, or it cannot be read."""
        try:
            found = [json.loads(row)["id"] for (row,) in self._open(id).execute("select row from rows")]
            return max((int(job) for job in found if job is not None), default=0)
        except (sqlite3.Error, ValueError, TypeError, KeyError):
            return 0

    # ---- files

    def path(self, id: str) -> Path:
        """Where the ensemble is kept."""
        return self._place(id) / _FILE

    def _place(self, id: str) -> Path:
        return self._rundir / id

    def _open(self, id: str) -> sqlite3.Connection:
        """A connection: one that writes for an ensemble that is ours, else one that reads."""
        if id in self._locks:
            db = self._files.get(id)
            if db is None:
                db = self._files[id] = self._connect(id, "rwc")
            return db
        if self._reading is None or self._reading[0] != id:
            self._close_reading()
            self._reading = id, self._connect(id, "ro")
        return self._reading[1]

    def _connect(self, id: str, mode: str) -> sqlite3.Connection:
        db = sqlite3.connect(f"{self.path(id).absolute().as_uri()}?mode={mode}", uri=True, timeout=_BUSY)
        if mode == "ro":
            return db
        try:
            db.execute("pragma journal_mode=wal")
            db.execute("pragma synchronous=normal")
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _close_reading(self) -> None:
        if self._reading is not None:
            self._reading[1].close()
            self._reading = None

    def _erase(self, id: str) -> None:
        """Remove the files of an ensemble that we have locked, and its folder if nothing else is in it."""
        db = self._files.pop(id, None)
        if db is not None:
            db.close()
        try:
            for name in (_FILE, f"{_FILE}-wal", f"{_FILE}-shm", _LOCK):
                (self._place(id) / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._place(id).rmdir()
        finally:
            self._let_go(id)

    def _let_go(self, id: str) -> None:
        db = self._files.pop(id, None)
        if db is not None:
            db.close()
        fd = self._locks.pop(id, None)
        if fd is not None:
            os.close(fd)


def _locked(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync(folder: Path) -> None:
    """Let the disk have the names in the folder."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
