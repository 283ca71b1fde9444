# SPDX-License-Identifier: MIT
"""Submissions, and what is done to jobs (cancel, kill, urgency): sent without waiting, so many at a time. Imports flux.

How it works. At most `WINDOW` requests are on their way; the rest waits here, acts on jobs before submissions,
and the submissions of different ensembles take turns. An answer makes room for the next request. Flux answers in the
order of asking, so a newcomer waits for all that is on its way: an ensemble may send WINDOW submissions in a burst,
but one that has more to send is kept at STEADY, until all of it was answered.

A submission that is answered by an error was refused, for good: its job does not exist. But some have no answer at
all: the module that takes submissions was unloaded with them (it then says nothing, or one of `_NO_ANSWER`), or is not
there. Such a submission may have become a job or not. It is set aside until an inquiry (`flux_inquiry.py`) has made
sure that its job would be in the journal. If the journal has shown the key by then, the submission is acknowledged
with the id found there; if not, it is sent again. While anything is set aside, no submission is sent.

An act on a job without an answer is simply sent again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import syslog
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple, Union

import flux
from flux.core.inner import ffi, lib
from flux.future import Future

from ensemble.engine.actions import Cancel, Kill, Urgency
from ensemble.engine.events import Acknowledged, ActionDone, Event, InDoubt, Key, Refused
from ensemble.members.flux_facts import f58
from ensemble.members.flux_inquiry import Inquiry
from ensemble.members.flux_jobspec import Template
from ensemble.members.flux_journal import Journal
from ensemble.members.flux_sign import Signer
from ensemble.members.flux_timers import Timers
from ensemble.members.guard import Log, guarded

#: what is done to a job
Act = Union[Cancel, Kill, Urgency]
#: requests on their way at once
WINDOW = 1024
#: submissions of one ensemble on their way at once, behind a first burst of WINDOW
STEADY = 256

#: seconds after which a request counts as not answered
_PATIENCE = 15.0
#: errors that are no answer
_NO_ANSWER = frozenset((errno.ENOSYS, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ETIMEDOUT))
#: seconds to the next inquiry, at first and at most
_BACKOFF = (0.1, 5.0)
#: jobspecs that are written before their turn
_FORESEEN = 64
#: characters of a cause that go into a job's exception
_LONGEST_NOTE = 200


class _Submission:
    __slots__ = ("ensemble", "id", "key", "params", "since", "template")

    def __init__(
        self, ensemble: str, key: Key, template: Template, params: Dict[str, Any], since: Optional[float] = None
    ) -> None:
        self.ensemble = ensemble
        self.key = key
        self.template = template
        self.params = params
        #: an earlier service may have sent it, after this time
        self.since = since
        #: the job, once the journal has shown it
        self.id: Optional[int] = None


class _Queue:
    """Submissions of one ensemble that wait, and how many are on their way."""

    __slots__ = ("burst", "flying", "waiting")

    def __init__(self) -> None:
        self.waiting: Deque[_Submission] = deque()
        self.flying = 0
        #: how many may go beyond STEADY
        self.burst = WINDOW - STEADY

    def may(self) -> bool:
        """May one more go?"""
        return bool(self.waiting) and (self.flying < STEADY or self.burst > 0)

    def take(self) -> _Submission:
        if self.flying >= STEADY:
            self.burst -= 1
        self.flying += 1
        return self.waiting.popleft()

    def answered(self) -> None:
        self.flying -= 1
        if not self.flying and not self.waiting:
            self.burst = WINDOW - STEADY


class Requests:
    """`post(ensemble, event)` gets the outcomes; it must not deliver before the reactor's next turn."""

    def __init__(
        self,
        handle: flux.Flux,
        journal: Journal,
        timers: Timers,
        clock: Callable[[], float],
        log: Log,
        post: Callable[[str, Event], None],
    ) -> None:
        self._handle = handle
        self._journal = journal
        self._timers = timers
        self._clock = clock
        self._log = log
        self._post = post
        self._signer = Signer()
        self._on_submitted = guarded(log, self._submitted)
        self._on_done = guarded(log, self._done)
        self._inquiry = Inquiry(handle, journal, timers, log, self._inquired)
        #: what is to be sent for a key, written before it was asked for; some will never be
        self._foreseen: Dict[Key, bytes] = {}
        self._queues: Dict[str, _Queue] = {}
        #: ensembles whose queue may be served, next first
        self._turns: Deque[str] = deque()
        self._acts: Deque[Tuple[str, Act]] = deque()
        self._on_their_way = 0
        #: submissions without a known fate, by key
        self._unanswered: Dict[Key, _Submission] = {}
        #: those without an answer; the first `_asked` of them were so before the inquiry that is under way
        self._aside: List[_Submission] = []
        self._asked = 0
        #: there is something set aside, and an inquiry is arranged or under way
        self._holding = False
        self._backoff = _BACKOFF[0]
        self._id = ffi.new("flux_jobid_t[1]")
        self._stopped = False
        self._frozen = False

    def open(self, ensemble: str) -> None:
        """Make room for an ensemble."""
        self._queues[ensemble] = _Queue()

    def close(self, ensemble: str) -> None:
        """Drop what was not sent yet."""
        self._queues.pop(ensemble, None)

    def release(self, ensemble: str) -> None:
        """The journal listens for this ensemble now: its submissions may go."""
        self._line_up(ensemble)
        self._pump()

    def foresee(self, key: Key, template: Template, params: Dict[str, Any]) -> None:
        """This will be submitted, or never: write it."""
        with contextlib.suppress(ValueError):
            self._foreseen[key] = self._written(key, template, params)
        if len(self._foreseen) > _FORESEEN:
            del self._foreseen[next(iter(self._foreseen))]

    def _written(self, key: Key, template: Template, params: Dict[str, Any]) -> bytes:
        return self._signer.sign(template.fill(str(key), params))

    def submit(self, ensemble: str, key: Key, template: Template, params: Dict[str, Any]) -> None:
        """Send a submission, now or when it is its turn."""
        self._queue(_Submission(ensemble, key, template, params))
        self._pump()

    def act(self, ensemble: str, action: Act) -> None:
        """Send an act on a job, now or when there is room."""
        self._acts.append((ensemble, action))
        self._pump()

    def doubt(self, ensemble: str, key: Key, template: Template, params: Dict[str, Any], since: float) -> None:
        """A submission of which an earlier service does not tell whether it was sent: find out, then send or not.

        The ensemble was last heard of at `since`. Where its job may have been purged after that, nobody can tell.
        """
        submission = _Submission(ensemble, key, template, params, since)
        self._unanswered[key] = submission
        self._aside.append(submission)
        if not self._holding:
            self._holding = True
            self._timers.after(self._backoff, self._inquire)

    def seen(self, key: Key, id: int) -> None:
        """The journal shows the job with this key."""
        submission = self._unanswered.get(key)
        if submission is not None:
            submission.id = id

    def freeze(self) -> None:
        """Send nothing more; answers are still passed on."""
        self._frozen = True

    def stop(self) -> None:
        """Send nothing more, and pass on no answer."""
        self._stopped = True
        self._queues.clear()
        self._turns.clear()
        self._acts.clear()

    def _queue(self, submission: _Submission, first: bool = False) -> None:
        ensemble = submission.ensemble
        queue = self._queues.get(ensemble)
        if queue is None:
            return
        (queue.waiting.appendleft if first else queue.waiting.append)(submission)
        self._line_up(ensemble)

    def _line_up(self, ensemble: str) -> None:
        """Give an ensemble its turn, if it has something to send and may."""
        queue = self._queues.get(ensemble)
        if queue is not None and queue.may() and ensemble not in self._turns and self._journal.ready(ensemble):
            self._turns.append(ensemble)

    def _pump(self) -> None:
        while self._on_their_way < WINDOW and not (self._stopped or self._frozen):
            if self._acts:
                self._send_act(*self._acts.popleft())
            elif self._turns and not self._holding:
                ensemble = self._turns.popleft()
                queue = self._queues.get(ensemble)
                if queue is None or not queue.may():
                    continue
                submission = queue.take()
                if queue.may():
                    self._turns.append(ensemble)
                self._send_submission(submission)
            else:
                break

    def _send_submission(self, submission: _Submission) -> None:
        template = submission.template
        try:
            written = self._foreseen.pop(submission.key, None)
            if written is None:
                written = self._written(submission.key, template, submission.params)
        except ValueError as exc:
            self._refuse(submission, str(exc))
            return
        future = self._signer.submit(self._handle.handle, written, template.urgency)
        if future == ffi.NULL:
            error = ffi.errno
            self._landed(submission)
            self._refuse(submission, os.strerror(error))
            return
        self._unanswered[submission.key] = submission
        self._on_their_way += 1
        Future(future).then(self._on_submitted, submission, timeout=_PATIENCE)

    def _landed(self, submission: _Submission) -> None:
        queue = self._queues.get(submission.ensemble)
        if queue is not None:
            queue.answered()
            self._line_up(submission.ensemble)

    def _submitted(self, future: Future, submission: _Submission) -> None:
        self._answered(future)
        self._landed(submission)
        if self._stopped:
            return
        if lib.flux_job_submit_get_id(future.pimpl.handle, self._id) == 0:
            self._backoff = _BACKOFF[0]
            self._acknowledge(submission, self._id[0])
        else:
            error = ffi.errno
            if error in _NO_ANSWER:
                self._set_aside(submission, error)
            else:
                self._refuse(submission, _reason(future, error))
        self._pump()

    def _answered(self, future: Future) -> None:
        self._on_their_way -= 1
        # Ends a cycle of references, so that the future is freed now.
        future.cb_handle = None

    def _acknowledge(self, submission: _Submission, id: int) -> None:
        self._unanswered.pop(submission.key, None)
        self._post(submission.ensemble, Acknowledged(self._clock(), submission.key, id))

    def _refuse(self, submission: _Submission, reason: str) -> None:
        self._unanswered.pop(submission.key, None)
        self._post(
            submission.ensemble, Refused(self._clock(), submission.key, f"Flux refused the job: {reason.strip()}")
        )

    # Submissions without an answer

    def _set_aside(self, submission: _Submission, error: int) -> None:
        self._aside.append(submission)
        if not self._holding:
            self._holding = True
            self._log(
                syslog.LOG_NOTICE, f"a submission got no answer ({os.strerror(error)}): looking whether its job exists"
            )
            self._timers.after(self._backoff, self._inquire)

    def _inquire(self) -> None:
        self._asked = len(self._aside)
        self._inquiry.begin(count=any(submission.since is not None for submission in self._aside))

    def _may_be_purged(self, submission: _Submission) -> bool:
        # None: it was not counted, since it does not matter
        purged = submission.since is not None and bool(self._inquiry.purged)
        return purged and not self._journal.whole_since(submission.since or 0.0)

    def _inquired(self, known: bool) -> None:
        """An inquiry has ended; if all is known, what the journal has not shown does not exist."""
        if self._stopped:
            return
        asked = self._asked if known else 0
        again = []
        for submission in self._aside[:asked]:
            if submission.id is not None:
                self._acknowledge(submission, submission.id)
            elif self._may_be_purged(submission):
                self._unanswered.pop(submission.key, None)
                reason = "jobs were purged while the service was down, and whether this one ran cannot be told"
                self._post(submission.ensemble, InDoubt(self._clock(), submission.key, reason))
            else:
                self._unanswered.pop(submission.key, None)
                again.append(submission)
        del self._aside[:asked]
        for submission in reversed(again):
            self._queue(submission, first=True)
        self._holding = bool(self._aside)
        # Should the next try meet the same error, it waits longer.
        self._backoff = min(2 * self._backoff, _BACKOFF[1])
        if self._holding:
            self._timers.after(self._backoff, self._inquire)
        self._pump()

    # Acts on jobs

    def _send_act(self, ensemble: str, action: Act) -> None:
        if isinstance(action, Cancel):
            note = action.cause.text[:_LONGEST_NOTE].encode(errors="replace")
            future = lib.flux_job_cancel(self._handle.handle, action.id, note)
        elif isinstance(action, Kill):
            future = lib.flux_job_kill(self._handle.handle, action.id, action.signal)
        else:
            future = lib.flux_job_set_urgency(self._handle.handle, action.id, action.value)
        if future == ffi.NULL:
            self._report(ensemble, action, os.strerror(ffi.errno))
            return
        self._on_their_way += 1
        Future(future).then(self._on_done, ensemble, action, timeout=_PATIENCE)

    def _done(self, future: Future, ensemble: str, action: Act) -> None:
        self._answered(future)
        if self._stopped:
            return
        if lib.flux_future_get(future.pimpl.handle, ffi.NULL) == 0:
            self._report(ensemble, action, None)
        else:
            error = ffi.errno
            if error in _NO_ANSWER:
                self._timers.after(1.0, lambda: self.act(ensemble, action))
            else:
                self._report(ensemble, action, _reason(future, error))
        self._pump()

    def _report(self, ensemble: str, action: Act, reason: Optional[str]) -> None:
        name = type(action).__name__.lower()
        told = "change the urgency of" if isinstance(action, Urgency) else name
        error = None if reason is None else f"Flux did not {told} job {f58(action.id)}: {reason}"
        self._post(ensemble, ActionDone(self._clock(), action.id, name, error))


def _reason(future: Any, error: int) -> str:
    text = lib.flux_future_error_string(future.pimpl.handle)
    return ffi.string(text).decode(errors="replace") if text != ffi.NULL else os.strerror(error)
