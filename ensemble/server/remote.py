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
import sqlite3
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

import grpc

from ensemble.server.journal import Journal
from ensemble.server.queues import Queue, Refused, Tell, Unsure
from ensemble.server.wire import MEMBERS, Stub, message

__all__ = ["Queue", "Refused", "RemoteMember", "Tell", "Unsure"]

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
        self._journal: Journal
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
                register={
                    "name": self._name,
                    "identity": self._journal.identity,
                    "capabilities": self._queue.capabilities,
                }
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
            self.begin()
        except Exception as exc:
            self._fail()
            if isinstance(exc, sqlite3.OperationalError):
                self._failure = f"the journal in {self._folder} cannot be used ({exc}): does another process hold it?"
            self._ready.set()
            return
        self._ready.set()
        try:
            while True:
                what, given = self._todo.get()
                if what == "end":
                    break
                self.step(what, given)
        except Exception:
            # half a step is not in the journal: the next process does it again
            self._fail()
        finally:
            with contextlib.suppress(Exception):
                self._queue.stop()
            self._db.close()

    def begin(self) -> None:
        """Open the journal, and take up what an earlier process began."""
        self._journal = Journal(self._folder)
        self._db = self._journal.db
        self._queue.start(self._tell)
        self._take_up()

    def step(self, what: str, given: Any) -> None:
        """One thing that the worker does."""
        steps: Dict[str, Callable[[Any], None]] = {
            "line": self._on_line,
            "unline": self._on_unline,
            "action": self._on_action,
            "acknowledged": self._journal.acknowledged,
            "news": self._on_news,
        }
        steps[what](given)

    def _fail(self) -> None:
        self._failure = traceback.format_exc()
        self.stop()

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
        for event in self._journal.events():
            line.put(_FromMember(event=event))
        self._line = line
        self._log(f"{self._name}: attached to {self._target}")

    def _on_unline(self, line: queue.Queue[Any]) -> None:
        if self._line is line:
            self._line = None

    def _on_news(self, news: Tuple[int, str, Dict[str, Any], float]) -> None:
        id, name, context, t = news
        row = self._journal.one("select key, ensemble from jobs where id = ? and over is null", id)
        if row is None:
            return
        with self._journal.step():
            if name in _ONCE:
                if self._journal.one("select 1 from seen where id = ? and name = ?", id, name):
                    return
                self._db.execute("insert into seen values (?, ?)", (id, name))
            event = self._journal.event(row[1], t=t, job={"id": id, "name": name, "context": json.dumps(context)})
            if name in ("clean", "invalidate"):
                self._db.execute("update jobs set over = ? where id = ?", (event.seq, id))
        self._ship(event)

    def _on_action(self, action: Any) -> None:
        what = action.WhichOneof("what")
        if what is None:
            return
        with self._journal.step():
            done = self._journal.one("select 1 from actions where id = ?", action.id)
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
        answered = self._journal.one("select answer from actions where id = ?", action.id)
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
        known = self._journal.one("select state from jobs where key = ?", job.key)
        if known is not None:
            # its outcome is on its way, or was taken
            return
        with self._journal.step():
            self._db.execute(
                "insert into jobs values (?, ?, null, ?, 'sending', null)",
                (job.key, ensemble, job.SerializeToString().hex()),
            )
            self._db.execute("insert or replace into kept values (?, ?)", (f"answers {job.key}", answers))
        self._send_job(ensemble, job)

    def _send_job(self, ensemble: str, job: Any) -> None:
        # what the queue tells of the job comes after that
        t = time.time()
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
        self._accepted(job.key, ensemble, id, t)

    def _accepted(self, key: str, ensemble: str, id: int, t: Optional[float] = None) -> None:
        with self._journal.step():
            self._db.execute("update jobs set id = ?, state = 'sent' where key = ?", (id, key))
            self._db.execute("insert or ignore into seen values (?, 'submit')", (id,))
            first = self._journal.event(ensemble, t=t, job={"id": id, "name": "submit", "context": "{}", "key": key})
            second = self._journal.event(ensemble, self._asked(key), acknowledged={"key": key, "id": id})
        self._ship(first, second)

    def _resolve(self, key: str, ensemble: str, **outcome: Any) -> None:
        """A submission that has become no job, as far as is known."""
        with self._journal.step():
            event = self._journal.event(ensemble, self._asked(key), **outcome)
            self._db.execute("update jobs set over = ?, state = 'over' where key = ?", (event.seq, key))
        self._ship(event)

    def _asked(self, key: str) -> str:
        """The id of the action that asked for that job, once."""
        name = f"answers {key}"
        row = self._journal.one("select value from kept where name = ?", name)
        self._db.execute("delete from kept where name = ?", (name,))
        return str(row[0]) if row else ""

    def _lose(self, ensemble: str, id: int) -> None:
        with self._journal.step():
            event = self._journal.event(ensemble, lost={"id": id, "reason": "the queue has this job no more"})
            self._db.execute("update jobs set over = ? where id = ?", (event.seq, id))
        self._ship(event)

    def _recover(self, action: Any, given: Any) -> None:
        """The server was restarted. What it does not know is on its way; it asks for what it does not know to exist."""
        for known in given.known:
            if self._journal.one("select 1 from jobs where key = ?", known.key) is None:
                self._lose(action.ensemble, known.id)
        for job in given.doubtful:
            self._submit(action.ensemble, job)
            row = self._journal.one("select id from jobs where key = ? and id is not null", job.key)
            if row is not None:
                # a server whose disk forgot what it had acknowledged; any other one takes the first
                with self._journal.step():
                    event = self._journal.event(action.ensemble, acknowledged={"key": job.key, "id": row[0]})
                self._ship(event)
        self._answer(action, recovered=True)

    def _answer(self, action: Any, **what: Any) -> None:
        with self._journal.step():
            event = self._journal.event(action.ensemble, action.id, **what)
        self._ship(event)

    def _ship(self, *events: Any) -> None:
        if self._line is not None:
            for event in events:
                self._line.put(_FromMember(event=event))
