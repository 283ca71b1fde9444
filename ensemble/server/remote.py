# SPDX-License-Identifier: MIT
"""The far end of a remote member: what plugs a queue of any kind into an `ensemble-server start --member remote`.

Write a `Queue`, and run it::

    RemoteMember("host:50051", "mine", MyQueue(), "/var/lib/mine", cert="cert.pem", token="...").run()

How it works. `run` holds the line to the server and opens it again whenever it breaks. One thread, the worker, does
everything else in turn: the server's actions, what the queue tells, what the server has acknowledged. It keeps a
journal in `folder` (one SQLite file), and each step is in the journal before it shows outside:

- an action's id before the action is done, so that it is done once, whoever dies in between;
- a job's key before the queue gets the job. Where this process ends right then, the next one asks the queue for the
  key (`Queue.find`): a job that is there is taken up, one that certainly is not is submitted, and where the queue
  cannot tell the submission is reported as in doubt, and never tried again;
- an event with its number before it is sent, and until the server says that it has kept it.
"""

from __future__ import annotations

import contextlib
import json
import queue
import secrets
import sqlite3
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Tuple

import grpc

from ensemble.server.wire import MEMBERS, Stub, message

#: seconds before the line is opened again: at first, at most
_RETRY = (0.2, 10.0)
#: statuses after which another try is in vain
_VAIN = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INVALID_ARGUMENT,
)
#: events of RFC 21 that a job has once; of others each one that is told is another
_ONCE = ("submit", "validate", "depend", "alloc", "start", "finish", "release", "free", "clean", "invalidate")
_FromMember = message("FromMember")
_OPTIONS = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.max_receive_message_length", 64 << 20),
]

_TABLES = """
create table if not exists kept (name text primary key, value text not null) without rowid;
create table if not exists actions (id text primary key, answer integer) without rowid;
create table if not exists jobs (key text primary key, ensemble text not null, id integer unique, job text not null,
                                 state text not null, over integer) without rowid;
create table if not exists seen (id integer, name text, primary key (id, name)) without rowid;
create table if not exists events (seq integer primary key, event blob not null);
"""

#: what a queue tells: id of the job, name of the event (RFC 21), its context, and when (seconds since the epoch)
Tell = Callable[..., None]


class Refused(Exception):
    """A queue will not have a job; the sentence says why. Nothing has become of it."""


class Unsure(Exception):
    """A queue cannot tell whether it has a job of some key; the sentence says why."""


class Queue(ABC):
    """What a third party writes. All methods but `start` are called from one thread, and may take a while."""

    #: what it can do, of submit, cancel, kill, urgency
    capabilities: Tuple[str, ...] = ("submit", "cancel", "kill")

    @abstractmethod
    def start(self, tell: Tell) -> None:
        """From now on `tell(id, name, context={}, t=None)` may be called, from any thread, and never blocks.

        Of each job the events `start`, `finish` (context: `status`, as of wait(2)) and `clean` are told, and
        `exception` (`type`, `severity`, `note`) for what befell it; `submit` is told by the member itself.
        """

    @abstractmethod
    def submit(self, job: Any) -> int:
        """Have this job (`Job` of members.proto) run; returns its id: a positive number that no other job ever had.

        Raises Refused. Keep `job.key` with it: that is what `find` looks for.
        """

    @abstractmethod
    def find(self, key: str) -> Optional[int]:
        """The id of the job of that key, None where there certainly is none. Raises Unsure."""

    @abstractmethod
    def follow(self, id: int, key: str) -> bool:
        """Tell again of a job of an earlier process, all events or the new ones. False where it is there no more."""

    @abstractmethod
    def cancel(self, id: int) -> Optional[str]:
        """End the job, pending or running; None, or why it cannot be. An `exception` of type cancel is told too."""

    def kill(self, id: int, signal: int) -> Optional[str]:
        """Send a signal to all of its processes; None, or why it cannot be."""
        return "this queue sends no signals"

    def urgency(self, id: int, value: int) -> Optional[str]:
        """Change the urgency, 0 to 31, of a pending job; None, or why it cannot be."""
        return "this queue knows no urgency"

    def counts(self) -> Dict[str, Any]:
        """`nodes`, `cores` (each with up, down, free, allocated) and `queue` (pending, running), as far as known."""
        return {}

    def stop(self) -> None:  # noqa: B027 - some hold nothing
        """Release what is held. Jobs go on where the queue outlives this process."""


class RemoteMember:
    """Holds the line between a server and a queue."""

    def __init__(
        self,
        target: str,
        name: str,
        queue_: Queue,
        folder: Any,
        *,
        cert: Optional[str] = None,
        token: Optional[str] = None,
        log: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
    ) -> None:
        """`target` is host:port; `cert` the server's certificate (a file, None where it goes without TLS)."""
        self._target = target
        self._name = name
        self._queue = queue_
        self._folder = Path(folder)
        self._cert = cert
        self._metadata = [("authorization", f"Bearer {token}")] if token else []
        self._log = log
        self._todo: queue.Queue[Tuple[str, Any]] = queue.Queue()
        self._line: Optional[queue.Queue[Any]] = None
        self._stopped = threading.Event()
        self._db: sqlite3.Connection
        self._seq = 0
        self._identity = ""
        self._failure: Optional[str] = None
        self._ready = threading.Event()
        self._call: Any = None

    def run(self) -> None:
        """Serve until `stop`. Raises RuntimeError with the server's sentence where another try would be in vain."""
        worker = threading.Thread(target=self._work, name="member", daemon=True)
        worker.start()
        self._ready.wait()
        wait = _RETRY[0]
        try:
            while not self._stopped.is_set():
                begun = time.monotonic()
                with self._channel() as channel:
                    why = self._hold_line(channel)
                if self._stopped.is_set():
                    break
                if time.monotonic() - begun > _RETRY[1]:
                    wait = _RETRY[0]
                self._log(f"{self._name}: no line to {self._target} ({why}); trying again")
                self._stopped.wait(wait)
                wait = min(2 * wait, _RETRY[1])
        finally:
            self._stopped.set()
            self._todo.put(("end", None))
            worker.join()
        if self._failure is not None:
            raise RuntimeError(self._failure)

    def stop(self) -> None:
        """End `run`; from any thread."""
        self._stopped.set()
        if self._call is not None:
            self._call.cancel()

    # ---- the line

    def _channel(self) -> Any:
        if self._cert is None:
            return grpc.insecure_channel(self._target, options=_OPTIONS)
        shown = grpc.ssl_channel_credentials(Path(self._cert).read_bytes())
        return grpc.secure_channel(self._target, shown, options=_OPTIONS)

    def _hold_line(self, channel: Any) -> str:
        """Attach, and hand over what comes, until the line breaks; why it did."""
        line: queue.Queue[Any] = queue.Queue()
        line.put(
            _FromMember(
                register={"name": self._name, "identity": self._identity, "capabilities": self._queue.capabilities}
            )
        )
        self._call = Stub(channel, MEMBERS).Attach(iter(line.get, None), metadata=self._metadata)
        try:
            for given in self._call:
                what = given.WhichOneof("what")
                if what == "welcome":
                    self._todo.put(("line", line))
                elif what is not None:
                    self._todo.put((what, getattr(given, what)))
            return "the server has ended it"
        except grpc.RpcError as exc:
            if exc.code() in _VAIN:
                self._failure = f"{exc.code().name}: {exc.details()}"
                self._stopped.set()
            return f"{exc.code().name}: {exc.details()}"
        finally:
            self._todo.put(("unline", line))
            line.put(None)

    # ---- the worker

    def _work(self) -> None:
        try:
            self._open_journal()
            self._queue.start(self._tell)
            self._take_up()
        except Exception as exc:
            self._fail()
            if isinstance(exc, sqlite3.OperationalError):
                self._failure = f"the journal in {self._folder} cannot be used ({exc}): does another process hold it?"
            self._ready.set()
            return
        self._ready.set()
        steps: Dict[str, Callable[[Any], None]] = {
            "line": self._on_line,
            "unline": self._on_unline,
            "action": self._on_action,
            "acknowledged": self._on_acknowledged,
            "news": self._on_news,
        }
        try:
            while True:
                what, given = self._todo.get()
                if what == "end":
                    break
                steps[what](given)
        except Exception:
            # half a step is not in the journal: the next process does it again
            self._fail()
        finally:
            with contextlib.suppress(Exception):
                self._queue.stop()
            self._db.close()

    def _fail(self) -> None:
        self._failure = traceback.format_exc()
        self.stop()

    def _open_journal(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._db = sqlite3.connect(self._folder / "member.db", isolation_level=None)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=full")
        # one process at a time: the lock is held as long as this one lives
        self._db.execute("pragma locking_mode=exclusive")
        with self._step():
            for table in _TABLES.split(";"):
                self._db.execute(table)
            self._db.execute("insert or ignore into kept values ('identity', ?)", (secrets.token_hex(16),))
            self._db.execute("insert or ignore into kept values ('seq', '0')")
        kept = dict(self._db.execute("select name, value from kept"))
        self._identity, self._seq = kept["identity"], int(kept["seq"])

    @contextlib.contextmanager
    def _step(self) -> Iterator[None]:
        """All that is written in the block, or nothing."""
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def _take_up(self) -> None:
        """What an earlier process began."""
        for key, ensemble, id, job, state in list(
            self._db.execute("select key, ensemble, id, job, state from jobs where over is null")
        ):
            if state == "sending":
                self._settle(key, ensemble, job)
            elif id is not None and not self._queue.follow(id, key):
                self._lose(ensemble, id)

    def _settle(self, key: str, ensemble: str, job: str) -> None:
        """Whether the queue has got a job is not known here."""
        try:
            id = self._queue.find(key)
        except Unsure as exc:
            self._resolve(key, ensemble, in_doubt={"key": key, "reason": str(exc)})
            return
        if id is None:
            self._send_job(ensemble, message("Job").FromString(bytes.fromhex(job)))
            return
        self._accepted(key, ensemble, id)
        self._queue.follow(id, key)

    def _tell(self, id: int, name: str, context: Optional[Mapping[str, Any]] = None, t: Optional[float] = None) -> None:
        self._todo.put(("news", (id, name, dict(context or {}), time.time() if t is None else t)))

    # steps

    def _on_line(self, line: queue.Queue[Any]) -> None:
        """A new line: all that is not acknowledged goes over it first."""
        for (event,) in self._db.execute("select event from events order by seq"):
            line.put(_FromMember(event=message("MemberEvent").FromString(event)))
        self._line = line
        self._log(f"{self._name}: attached to {self._target}")

    def _on_unline(self, line: queue.Queue[Any]) -> None:
        if self._line is line:
            self._line = None

    def _on_acknowledged(self, seq: int) -> None:
        with self._step():
            self._db.execute("delete from events where seq <= ?", (seq,))
            self._db.execute("delete from actions where answer <= ?", (seq,))
            for key, id in list(self._db.execute("select key, id from jobs where over <= ?", (seq,))):
                self._db.execute("delete from jobs where key = ?", (key,))
                self._db.execute("delete from seen where id = ?", (id,))

    def _on_news(self, news: Tuple[int, str, Dict[str, Any], float]) -> None:
        id, name, context, t = news
        row = self._db.execute("select key, ensemble from jobs where id = ? and over is null", (id,)).fetchone()
        if row is None:
            return
        with self._step():
            if name in _ONCE:
                if self._db.execute("select 1 from seen where id = ? and name = ?", (id, name)).fetchone():
                    return
                self._db.execute("insert into seen values (?, ?)", (id, name))
            event = self._event(row[1], t=t, job={"id": id, "name": name, "context": json.dumps(context)})
            if name in ("clean", "invalidate"):
                self._db.execute("update jobs set over = ? where id = ?", (event.seq, id))
        self._ship(event)

    def _on_action(self, action: Any) -> None:
        what = action.WhichOneof("what")
        if what is None:
            return
        with self._step():
            done = self._db.execute("select 1 from actions where id = ?", (action.id,)).fetchone()
            if done is None:
                self._db.execute("insert into actions values (?, null)", (action.id,))
        given = getattr(action, what)
        if what == "submit":
            # by its key: that names it across all servers, and an action's id across the lives of this one only
            self._submit(action.ensemble, given, action.id)
        elif done is not None:
            self._repeat(action, what, given)
        elif what == "recover":
            self._recover(action, given)
        elif what == "look":
            self._answer(action, counted=json.dumps(self._queue.counts()))
        else:
            self._act(action, what, given)

    def _repeat(self, action: Any, what: str, given: Any) -> None:
        """An action that was begun. One that was answered needs no word: its answer is sent again until it is taken."""
        answered = self._db.execute("select answer from actions where id = ?", (action.id,)).fetchone()
        if answered is not None and answered[0] is not None:
            return
        if what == "recover":
            self._recover(action, given)
        elif what == "look":
            self._answer(action, counted=json.dumps(self._queue.counts()))
        elif what in ("cancel", "urgency"):
            self._act(action, what, given)  # twice is as once
        else:
            why = "it is not known whether the signal was sent: the member was restarted in the middle"
            self._answer(action, done={"id": given.id, "action": what, "error": why})

    def _act(self, action: Any, what: str, given: Any) -> None:
        try:
            if what not in self._queue.capabilities:
                error: Optional[str] = f"the queue '{self._name}' has no way to do that"
            elif what == "cancel":
                error = self._queue.cancel(given.id)
            elif what == "kill":
                error = self._queue.kill(given.id, given.signal)
            else:
                error = self._queue.urgency(given.id, given.value)
        except Exception as exc:
            self._log(traceback.format_exc())
            error = f"the queue failed: {type(exc).__name__}: {exc}"
        self._answer(action, done={"id": given.id, "action": what, "error": error or ""})

    def _submit(self, ensemble: str, job: Any, answers: str = "") -> None:
        known = self._db.execute("select state from jobs where key = ?", (job.key,)).fetchone()
        if known is not None:
            # its outcome is on its way, or was taken
            return
        with self._step():
            self._db.execute(
                "insert into jobs values (?, ?, null, ?, 'sending', null)",
                (job.key, ensemble, job.SerializeToString().hex()),
            )
            self._db.execute("insert or replace into kept values (?, ?)", (f"answers {job.key}", answers))
        self._send_job(ensemble, job)

    def _send_job(self, ensemble: str, job: Any) -> None:
        try:
            id = self._queue.submit(job)
        except Refused as exc:
            self._resolve(job.key, ensemble, refused={"key": job.key, "reason": str(exc)})
            return
        except Exception as exc:
            self._log(traceback.format_exc())
            why = f"the queue failed in the middle: {type(exc).__name__}: {exc}"
            self._resolve(job.key, ensemble, in_doubt={"key": job.key, "reason": why})
            return
        self._accepted(job.key, ensemble, id)

    def _accepted(self, key: str, ensemble: str, id: int) -> None:
        with self._step():
            self._db.execute("update jobs set id = ?, state = 'sent' where key = ?", (id, key))
            self._db.execute("insert or ignore into seen values (?, 'submit')", (id,))
            first = self._event(ensemble, job={"id": id, "name": "submit", "context": "{}", "key": key})
            second = self._event(ensemble, self._asked(key), acknowledged={"key": key, "id": id})
        self._ship(first, second)

    def _resolve(self, key: str, ensemble: str, **outcome: Any) -> None:
        """A submission that has become no job, as far as is known."""
        with self._step():
            event = self._event(ensemble, self._asked(key), **outcome)
            self._db.execute("update jobs set over = ?, state = 'over' where key = ?", (event.seq, key))
        self._ship(event)

    def _asked(self, key: str) -> str:
        """The id of the action that asked for that job, once."""
        name = f"answers {key}"
        row = self._db.execute("select value from kept where name = ?", (name,)).fetchone()
        self._db.execute("delete from kept where name = ?", (name,))
        return str(row[0]) if row else ""

    def _lose(self, ensemble: str, id: int) -> None:
        with self._step():
            event = self._event(ensemble, lost={"id": id, "reason": "the queue has this job no more"})
            self._db.execute("update jobs set over = ? where id = ?", (event.seq, id))
        self._ship(event)

    def _recover(self, action: Any, given: Any) -> None:
        """The server was restarted. What it does not know is on its way; it asks for what it does not know to exist."""
        for known in given.known:
            if self._db.execute("select 1 from jobs where key = ?", (known.key,)).fetchone() is None:
                self._lose(action.ensemble, known.id)
        for job in given.doubtful:
            self._submit(action.ensemble, job)
            row = self._db.execute("select id from jobs where key = ? and id is not null", (job.key,)).fetchone()
            if row is not None:
                # a server whose disk forgot what it had acknowledged; any other one takes the first
                with self._step():
                    event = self._event(action.ensemble, acknowledged={"key": job.key, "id": row[0]})
                self._ship(event)
        self._answer(action, recovered=True)

    def _answer(self, action: Any, **what: Any) -> None:
        with self._step():
            event = self._event(action.ensemble, action.id, **what)
        self._ship(event)

    def _event(self, ensemble: str, answers: str = "", t: Optional[float] = None, **what: Any) -> Any:
        """The next event, in the journal."""
        self._seq = int(self._db.execute("select value from kept where name = 'seq'").fetchone()[0]) + 1
        event = message("MemberEvent")(
            seq=self._seq, t=time.time() if t is None else t, ensemble=ensemble, answers=answers, **what
        )
        self._db.execute("update kept set value = ? where name = 'seq'", (str(self._seq),))
        self._db.execute("insert into events values (?, ?)", (self._seq, event.SerializeToString()))
        if answers:
            self._db.execute("update actions set answer = ? where id = ?", (self._seq, answers))
        return event

    def _ship(self, *events: Any) -> None:
        if self._line is not None:
            for event in events:
                self._line.put(_FromMember(event=event))
