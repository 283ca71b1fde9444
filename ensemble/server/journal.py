# SPDX-License-Identifier: MIT
"""The journal of a remote member: one SQLite file, `member.db`, written through to the disk.

Law of this file: what is written, and how it leaves; when is `remote.py`'s. `kept` has the identity of the journal, the
number of the last event, and the actions that asked for jobs; `actions` those that were begun, with the number of the
event that answers; `jobs` all whose last event is not acknowledged; `seen` the events that they had; `events` what is
not acknowledged. Nothing grows with history.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import time
from pathlib import Path
from typing import Any, Iterator, List, Optional, Tuple

from ensemble.server.wire import message

_TABLES = """
create table if not exists kept (name text primary key, value text not null) without rowid;
create table if not exists actions (id text primary key, answer integer) without rowid;
create table if not exists jobs (key text primary key, ensemble text not null, id integer unique, job text not null,
                                 state text not null, over integer) without rowid;
create table if not exists seen (id integer, name text, primary key (id, name)) without rowid;
create table if not exists events (seq integer primary key, event blob not null);
"""


class Journal:
    """Used from one thread, the one that opened it."""

    def __init__(self, folder: Path) -> None:
        """Raises sqlite3.OperationalError where another process has it open."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.db = sqlite3.connect(folder / "member.db", isolation_level=None)
        self.db.execute("pragma locking_mode=exclusive")
        self.db.execute("pragma journal_mode=wal")
        self.db.execute("pragma synchronous=full")
        with self.step():
            for table in _TABLES.split(";"):
                self.db.execute(table)
            self.db.execute("insert or ignore into kept values ('identity', ?)", (secrets.token_hex(16),))
            self.db.execute("insert or ignore into kept values ('seq', '0')")
        kept = dict(self.db.execute("select name, value from kept where name in ('identity', 'seq')"))
        self.identity = str(kept["identity"])
        self._seq = int(kept["seq"])

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """All that is written in the block, or nothing."""
        before = getattr(self, "_seq", 0)
        self.db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._seq = before
            self.db.execute("rollback")
            raise
        self.db.execute("commit")

    def one(self, query: str, *values: Any) -> Optional[Tuple[Any, ...]]:
        """The first row, if there is one."""
        row: Optional[Tuple[Any, ...]] = self.db.execute(query, values).fetchone()
        return row

    def event(self, ensemble: str, answers: str = "", t: Optional[float] = None, **what: Any) -> Any:
        """The next event; inside of a step."""
        self._seq += 1
        event = message("MemberEvent")(
            seq=self._seq, t=time.time() if t is None else t, ensemble=ensemble, answers=answers, **what
        )
        self.db.execute("update kept set value = ? where name = 'seq'", (str(self._seq),))
        self.db.execute("insert into events values (?, ?)", (self._seq, event.SerializeToString()))
        if answers:
            self.db.execute("update actions set answer = ? where id = ?", (self._seq, answers))
        return event

    def events(self) -> Iterator[Any]:
        """All that are not acknowledged, in order."""
        for (event,) in self.db.execute("select event from events order by seq"):
            yield message("MemberEvent").FromString(event)

    def acknowledged(self, seq: int) -> None:
        """The server has kept all events up to this one: what only they needed goes."""
        with self.step():
            self.db.execute("delete from events where seq <= ?", (seq,))
            self.db.execute("delete from actions where answer <= ?", (seq,))
            over: List[Tuple[str, Optional[int]]] = self.db.execute(
                "select key, id from jobs where over <= ?", (seq,)
            ).fetchall()
            for key, id in over:
                self.db.execute("delete from jobs where key = ?", (key,))
                self.db.execute("delete from seen where id = ?", (id,))
