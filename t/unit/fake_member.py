# SPDX-License-Identifier: MIT
"""A member without jobs and a reply without a wire, for tests of the service's core.

Nothing runs: a test says which events the member delivers, and moves its clock. All that the service asks of either
is written down.
"""

from __future__ import annotations

import errno
import json
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from ensemble.engine.actions import Action, Cancel, Submit
from ensemble.engine.events import Acknowledged, Event, JobEvent, Key, Refused
from ensemble.errors import MemberError
from ensemble.members.base import Deliver, Member, Submitter, Timer
from ensemble.service.core import Service
from ensemble.service.protocol import Host, Reply
from ensemble.service.store import MemoryStore, Store
from ensemble.spec.models import Spec

T0 = 1_700_000_000.0


class FakeTimer(Timer):
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeMember(Member):
    """Takes all down, does nothing."""

    name = "fake"
    capabilities = frozenset({"submit", "cancel", "kill", "urgency"})

    def __init__(self) -> None:
        self.t = T0
        self.opened: Dict[str, Tuple[Spec, Submitter, FrozenSet[str]]] = {}
        #: known jobs and doubtful submissions of ensembles that were taken up again
        self.recovered: Dict[str, Tuple[Dict[int, Key], List[Submit]]] = {}
        self.closed: List[str] = []
        self.performed: List[Tuple[str, Action]] = []
        self.timers: List[FakeTimer] = []
        self.started = self.stopped = False
        #: what `open` raises
        self.fault: Optional[str] = None
        #: what `perform` raises, against its contract
        self.bug: Optional[Exception] = None
        self._deliver: Deliver = lambda id, event: None
        self._id = 100

    def start(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self.started = True

    def open(self, ensemble: str, spec: Spec, submitter: Submitter, events: FrozenSet[str]) -> None:
        if self.fault is not None:
            raise MemberError(self.fault)
        self.opened[ensemble] = (spec, submitter, events)

    def recover(self, ensemble: str, known: Mapping[int, Key], doubtful: Sequence[Submit], t: float) -> None:
        assert ensemble in self.opened
        assert not self.started
        self.recovered[ensemble] = (dict(known), list(doubtful))

    def perform(self, ensemble: str, action: Action) -> None:
        self.performed.append((ensemble, action))
        if self.bug is not None:
            raise self.bug

    def close(self, ensemble: str) -> None:
        self.closed.append(ensemble)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        timer = FakeTimer(when, callback)
        self.timers.append(timer)
        return timer

    def stop(self) -> None:
        self.stopped = True

    def show(self, id: int) -> str:
        return f"f{id}"

    def where(self, ensemble: str, id: int, params: Optional[Dict[str, Any]] = None) -> str:
        return f"/out/{ensemble}/{id}"

    # ---- what a test does

    def advance(self, seconds: float) -> None:
        """Let time pass, and call back in order."""
        until = self.t + seconds
        while True:
            due = [timer for timer in self.timers if not timer.cancelled and timer.when <= until]
            if not due:
                break
            timer = min(due, key=lambda timer: timer.when)
            self.timers.remove(timer)
            self.t = max(self.t, timer.when)
            timer.callback()
        self.t = until

    def tell(self, ensemble: str, event: Event) -> None:
        self._deliver(ensemble, event)

    def keys(self, ensemble: str) -> List[Key]:
        return [a.key for e, a in self.performed if e == ensemble and isinstance(a, Submit)]

    def cancels(self, ensemble: str) -> List[int]:
        return [a.id for e, a in self.performed if e == ensemble and isinstance(a, Cancel)]

    def submit(self, ensemble: str, number: int = 0) -> int:
        """The queue takes that submission of the ensemble; the job's id."""
        self._id += 1
        key = self.keys(ensemble)[number]
        self.tell(ensemble, JobEvent(self.t, self._id, "submit", {}, key))
        self.tell(ensemble, Acknowledged(self.t, key, self._id))
        return self._id

    def run(self, ensemble: str, id: int, status: int = 0, seconds: float = 1.0) -> None:
        """A job starts, and ends after so many seconds."""
        self.tell(ensemble, JobEvent(self.t, id, "start"))
        self.advance(seconds)
        self.tell(ensemble, JobEvent(self.t, id, "finish", {"status": status}))
        self.tell(ensemble, JobEvent(self.t, id, "clean"))

    def refuse(self, ensemble: str, number: int = 0) -> None:
        self.tell(ensemble, Refused(self.t, self.keys(ensemble)[number], "no"))


class FakeReply(Reply):
    """Keeps the answers. An answer that could not be sent as JSON, or one behind the last, fails at once."""

    def __init__(self, caller: str = "caller") -> None:
        self.caller = caller
        self.sent: List[Dict[str, Any]] = []
        self.errors: List[Tuple[int, str]] = []

    def send(self, payload: Dict[str, Any]) -> None:
        assert not self.errors, f"an answer behind the end of the stream: {payload}"
        self.sent.append(json.loads(json.dumps(payload, allow_nan=False)))

    def error(self, errno: int, text: str) -> None:
        assert not self.errors, f"a second error: {text}"
        assert isinstance(errno, int)
        assert text
        json.dumps(text)
        self.errors.append((errno, text))

    # ---- what a test asks

    @property
    def answer(self) -> Dict[str, Any]:
        """The one answer of a request that is no stream."""
        assert not self.errors, self.errors
        assert len(self.sent) == 1, self.sent
        return self.sent[0]

    @property
    def refusal(self) -> Tuple[int, str]:
        assert not self.sent, self.sent
        assert len(self.errors) == 1
        return self.errors[0]

    @property
    def records(self) -> List[Dict[str, Any]]:
        """All records of a stream, pictures left out."""
        return [r for message in self.sent for r in message["records"] if r["type"] != "metric"]

    @property
    def ended(self) -> bool:
        return bool(self.errors) and self.errors[0][0] == errno.ENODATA


class House:
    """A service over a fake member."""

    def __init__(self, store: Optional[Store] = None) -> None:
        self.member = FakeMember()
        self.store = store or MemoryStore()
        self.logged: List[Tuple[int, str]] = []
        self.quits = 0
        self.service = Service(
            self.member,
            self.store,
            Host("process", 42, 3),
            log=lambda level, text: self.logged.append((level, text)),
            on_quit=self._quit,
            clock=lambda: self.member.t,
        )
        self.service.start()

    def _quit(self) -> None:
        self.quits += 1

    def ask(self, endpoint: str, payload: Any = None, caller: str = "caller") -> FakeReply:
        """A request, and what came of it."""
        reply = FakeReply(caller)
        self.service.handle(endpoint, payload, reply)
        return reply

    def submit(self, text: str, file: str = "hello.yaml") -> str:
        """Submit a file; the new id."""
        answer = self.ask("submit", {"text": text, "file": file, "submitter": {}}).answer
        return str(answer["id"])

    def status(self, id: str) -> Dict[str, Any]:
        return self.ask("status", {"id": id}).answer

    def watch(self, id: str, caller: str = "caller", **keys: Any) -> FakeReply:
        return self.ask("watch", {"id": id, **keys}, caller)


#: three jobs at the start
THREE = """
jobs:
  - {name: a, command: x, count: 3}
rules:
  - {trigger: start, action: {name: submit, label: a}}
"""
#: one job, and one more at each success
CHAIN = """
name: chain
jobs:
  - {name: a, command: x}
rules:
  - {trigger: start, action: {name: submit, label: a}}
  - {trigger: job-success, repetitions: unlimited, action: {name: submit, label: a}}
"""
