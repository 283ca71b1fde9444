# SPDX-License-Identifier: MIT
"""Finding out whether submissions that got no answer became jobs. Imports flux.

A module that is unloaded may take requests with it unanswered, whose jobs may exist or not. This asks one question
after the other, each sent only when the last was answered, such that after the last one every submission that had
been sent before the first is either in the journal or lost for good:

1. job-ingest has read all that was sent to it before, and has nothing left to validate;
2. a moment later it has also sent its batch of jobs to the KVS (it does so every 10 ms);
3. the KVS has stored that batch, because it stores in order of arrival;
4. job-ingest has heard so, and has passed the batch on to the job manager;
5. the job manager has taken it. This goes over the journal's connection, on which the jobs' `submit` came first.

Where jobs may have been purged unseen, two more questions tell how many were:

6. an event was published, and so all those that the job manager published before: with each purge it publishes one;
7. job-list counts what is purged. It has read the journal and those events in the order in which they were sent, so
   no purge is missed that happened before the fifth answer, however short the job's life was.

The count begins anew with job-list, so it does not tell of what was purged before that, or the instance, was restarted.
"""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, Optional, Tuple

import flux
from flux.core.inner import ffi, lib

from ensemble.members.flux_journal import Journal
from ensemble.members.flux_timers import Timers
from ensemble.members.guard import Log, guarded

#: topic, payload, and seconds to wait after the answer
_QUESTIONS: Tuple[Tuple[str, Optional[Dict[str, Any]], float], ...] = (
    ("job-ingest.stats-get", None, 0.2),
    ("job-ingest.stats-get", None, 0.0),
    ("kvs.commit", {"ops": [], "namespace": "primary", "flags": 0}, 0.0),
    ("job-ingest.stats-get", None, 0.0),
    ("job-manager.getinfo", None, 0.0),
)
_COUNT: Tuple[Tuple[str, Optional[Dict[str, Any]], float], ...] = (
    ("event.publish", {"topic": "ensemble-inquiry", "flags": 0}, 0.0),
    ("job-list.job-stats", {}, 0.0),
)
#: seconds for one answer
_PATIENCE = 10.0


class Inquiry:
    """Asks all questions once for each `begin`; `end(known)` is called with whether all could be answered."""

    def __init__(
        self, handle: flux.Flux, journal: Journal, timers: Timers, log: Log, end: Callable[[bool], None]
    ) -> None:
        self._handle = handle
        self._journal = journal
        self._timers = timers
        self._end = end
        self._on_answer = guarded(log, self._answer)
        self._questions = _QUESTIONS
        #: jobs that Flux has purged until the last inquiry that counted them; None before
        self.purged: Optional[int] = None

    def begin(self, count: bool) -> None:
        """Start with the first question, and `count` what was purged; one inquiry at a time."""
        self._questions = _QUESTIONS + _COUNT if count else _QUESTIONS
        self._ask(0)

    def _ask(self, number: int) -> None:
        if number == len(self._questions):
            self._end(self._journal.live())
            return
        topic, payload, _ = self._questions[number]
        handle = self._journal.handle if topic.startswith("job-manager.") else self._handle
        handle.rpc(topic, payload).then(self._on_answer, number, timeout=_PATIENCE)

    def _answer(self, future: Any, number: int) -> None:
        future.cb_handle = None
        text = ffi.new("char *[1]")
        if lib.flux_rpc_get(future.pimpl.handle, text) < 0:
            self._end(False)
            return
        if number == 0 and _backlog(json.loads(ffi.string(text[0]))):
            self._end(False)
            return
        topic, _, pause = self._questions[number]
        if topic == "job-list.job-stats":
            self.purged = int(json.loads(ffi.string(text[0]))["inactive_purged"])
        if pause:
            self._timers.after(pause, lambda: self._ask(number + 1))
        else:
            self._ask(number + 1)


def count_purged(handle: flux.Flux, log: Log, end: Callable[[Optional[int]], None]) -> None:
    """The last two questions alone: `end(number)` of the jobs that Flux has purged by now; None where it does not say."""

    def ask(number: int) -> None:
        topic, payload, _ = _COUNT[number]
        handle.rpc(topic, payload).then(guarded(log, answer), number, timeout=_PATIENCE)

    def answer(future: Any, number: int) -> None:
        future.cb_handle = None
        text = ffi.new("char *[1]")
        if lib.flux_rpc_get(future.pimpl.handle, text) < 0:
            end(None)
        elif number + 1 < len(_COUNT):
            ask(number + 1)
        else:
            end(json.loads(ffi.string(text[0])).get("inactive_purged"))

    ask(0)


def _backlog(stats: Dict[str, Any]) -> int:
    """Jobs that job-ingest has yet to validate."""
    stages = stats.get("pipeline") or {}
    return sum(stage.get("backlog", 0) for stage in stages.values() if isinstance(stage, dict))
