# SPDX-License-Identifier: MIT
"""Between one ensemble and its custom functions: what a call is told, and what becomes of its answer and its output.

Law of this file: an answer is an event like any other, and takes the whole path of one. What a function prints is kept as
lines of the ensemble's log, which no event has caused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Optional

from ensemble.engine import calls
from ensemble.engine.actions import Record
from ensemble.engine.events import Answered
from ensemble.errors import MemberError
from ensemble.members.base import Member, Submitter
from ensemble.members.guard import Log
from ensemble.service.functions import Functions, Surroundings, results
from ensemble.service.store import Store

if TYPE_CHECKING:
    from ensemble.service.running import Running


class Calling:
    """The custom functions of one ensemble; a worker is there only while there are calls."""

    def __init__(self, running: Running, member: Member, store: Store, log: Log) -> None:
        self._running = running
        self._member = member
        self._store = store
        self._log = log
        self._functions: Optional[Functions] = None
        #: job events that the member was asked for beyond BASE_EVENTS
        self.followed = running.engine.wanted_events
        self.heard = frozenset(running.engine.book.topics)

    def follow(self) -> None:
        """Rules that functions have added may wait for other events than those before them: ask for these too."""
        running = self._running
        topics = frozenset(running.engine.book.topics)
        if (running.engine.wanted_events, topics) == (self.followed, self.heard):
            return
        self.followed, self.heard = running.engine.wanted_events, topics
        try:
            self._member.want(running.id, self.followed)
            self._member.hear(running.id, self.heard)
        except MemberError as exc:
            running.note([Record(running.clock(), "error", {"text": str(exc), "rule": None})])

    def call(self, id: str) -> None:
        """Have a function called; its answer comes as an event."""
        running = self._running
        if self._functions is None:
            submitter = Submitter(**running.given["submitter"])
            self._functions = Functions(
                self._member,
                Surroundings(running.engine.spec.custom, submitter, running.given["file"]),
                request=self._request,
                answered=self._answered,
                printed=self._printed,
                log=lambda level, text: self._log(level, f"ensemble {running.id}: {text}"),
                clock=running.clock,
            )
        self._functions.call(id)

    def stop(self) -> None:
        """End the worker: nothing is waited for any more."""
        if self._functions is not None:
            self._functions.close()
            self._functions = None

    def _request(self, id: str) -> Optional[Dict[str, Any]]:
        running = self._running
        request = calls.request(running.engine, id)
        if request is not None:
            here = [running.shown_row(job.row()) for job in running.engine.jobs.values() if job.ended is not None]
            here += running.leaving_rows()
            request["results"] = results(running.engine.calls.pending[id], self._store, running.id, here)
        return request

    def _answered(self, id: str, data: Dict[str, Any]) -> None:
        self._running.feed(Answered(self._running.clock(), id, data))

    def _printed(self, id: str, lines: List[str]) -> None:
        running, rule = self._running, id.split("/")[0]
        if running.broken is None and not running.frozen:
            running.note([Record(running.clock(), "log", {"text": line, "rule": rule}) for line in lines])
