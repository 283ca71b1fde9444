# SPDX-License-Identifier: MIT
"""The life of a job, as one table.

Law of this file: `LIFE` names, for a state and an event, the next state and the step that the engine takes. What
is not in the table cannot happen: a missing entry is a TransitionError that names event, state and job. Rules of
the table: every event may come before the acknowledgement; whatever a member repeats after a lost connection is a
step of its own that does nothing; `invalidate` undoes `submit`; once `submit` is seen the journal outranks an error
reply. Events that move nothing (validate, alloc, memo, ...) are not in it.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

from ensemble.engine.events import Key
from ensemble.errors import RecordError, TransitionError

#: states of a job
SUBMITTING = "submitting"  # an intent: sent, and nothing heard of it
WITHDRAWN = "withdrawn"  # submitted, then found invalid: the answer is on its way
PENDING = "pending"
RUNNING = "running"
FINISHED = "finished"  # all processes have ended, resources not yet free
INACTIVE = "inactive"  # leaves memory

_NOTHING = ""
LIFE: Dict[Tuple[str, str], Tuple[str, str]] = {
    (SUBMITTING, "submit"): (PENDING, "submitted"),
    (SUBMITTING, "acknowledged"): (PENDING, "submitted"),
    (SUBMITTING, "refused"): (INACTIVE, "refused"),
    (SUBMITTING, "in-doubt"): (INACTIVE, "in doubt"),
    (SUBMITTING, "lost"): (INACTIVE, "never heard of"),
    (PENDING, "submit"): (PENDING, "dated"),
    (PENDING, "acknowledged"): (PENDING, "answered"),
    (PENDING, "refused"): (PENDING, "doubted"),
    (PENDING, "invalidate"): (WITHDRAWN, "withdrawn"),
    (PENDING, "flux-restart"): (PENDING, _NOTHING),
    (PENDING, "exception"): (PENDING, "excepted"),
    (PENDING, "start"): (RUNNING, "started"),
    (PENDING, "finish"): (FINISHED, "finished"),
    (PENDING, "clean"): (INACTIVE, "cleaned_unfinished"),
    (PENDING, "lost"): (INACTIVE, "lost"),
    (PENDING, "in-doubt"): (INACTIVE, "in doubt"),
    (WITHDRAWN, "submit"): (WITHDRAWN, _NOTHING),
    (WITHDRAWN, "acknowledged"): (INACTIVE, "refused"),
    (WITHDRAWN, "invalidate"): (WITHDRAWN, _NOTHING),
    (WITHDRAWN, "exception"): (WITHDRAWN, _NOTHING),
    (WITHDRAWN, "clean"): (WITHDRAWN, _NOTHING),
    (WITHDRAWN, "refused"): (INACTIVE, "refused"),
    (WITHDRAWN, "lost"): (INACTIVE, "refused"),
    (WITHDRAWN, "in-doubt"): (INACTIVE, "refused"),
    (RUNNING, "submit"): (RUNNING, _NOTHING),
    (RUNNING, "acknowledged"): (RUNNING, _NOTHING),
    (RUNNING, "refused"): (RUNNING, _NOTHING),
    (RUNNING, "start"): (RUNNING, _NOTHING),
    (RUNNING, "flux-restart"): (RUNNING, _NOTHING),
    (RUNNING, "exception"): (RUNNING, "excepted"),
    (RUNNING, "finish"): (FINISHED, "finished"),
    (RUNNING, "clean"): (INACTIVE, "cleaned_unfinished"),
    (RUNNING, "lost"): (INACTIVE, "lost"),
    (RUNNING, "in-doubt"): (INACTIVE, "in doubt"),
    (FINISHED, "submit"): (FINISHED, _NOTHING),
    (FINISHED, "acknowledged"): (FINISHED, _NOTHING),
    (FINISHED, "refused"): (FINISHED, _NOTHING),
    (FINISHED, "start"): (FINISHED, _NOTHING),
    (FINISHED, "finish"): (FINISHED, _NOTHING),
    (FINISHED, "flux-restart"): (FINISHED, _NOTHING),
    (FINISHED, "exception"): (FINISHED, _NOTHING),
    (FINISHED, "clean"): (INACTIVE, "cleaned"),
    (FINISHED, "lost"): (INACTIVE, "cleaned"),
    (FINISHED, "in-doubt"): (INACTIVE, "cleaned"),
}
#: the events that the table speaks of
MOVING = frozenset(event for _, event in LIFE)

#: those of a job; an occasion may keep one that has left
STATES = frozenset(state for state, _ in LIFE) | {INACTIVE}

#: signals that end a process unless it says otherwise: HUP INT QUIT KILL TERM
FATAL = frozenset({1, 2, 3, 9, 15})

#: exception types of ours for jobs that ended for no fault of their own
SHUTDOWN, GONE = "shutdown", "lost"
_LOSSES = (SHUTDOWN, GONE)
#: its broker or job-exec was restarted and could not take up what ran, or the KVS had its namespace no more or still
_NOT_TAKEN_UP = ("reattach", "not recoverable", "failed to create guest ns")


class Job:
    """One attempt of one job, from intent to inactive."""

    __slots__ = (
        "cause",
        "doomed",
        "ended",
        "entered",
        "exception",
        "exit_code",
        "group",
        "heard",
        "id",
        "key",
        "killed",
        "losses",
        "member",
        "note",
        "overrides",
        "params",
        "ranks",
        "refusal",
        "reported",
        "result",
        "set",
        "signal",
        "state",
        "t_end",
        "t_start",
        "t_submit",
        "tries",
        "urgency",
        "values",
    )

    def __init__(
        self,
        key: Key,
        group: str,
        set: int,
        overrides: Optional[Dict[str, Any]] = None,
        losses: int = 0,
        tries: int = 0,
    ) -> None:
        self.key = key
        self.group = group
        self.set = set
        #: what the action said over the group's keys
        self.overrides = overrides or {}
        #: its point of the group's parameters: name to value
        self.params: Dict[str, Any] = {}
        #: what it has reported: variable to the value that stands for it so far
        self.values: Dict[str, Any] = {}
        #: of its reports, which have been told and how many there were of each variable; None before the first
        self.reported: Optional[Dict[str, Any]] = None
        #: attempts before this one that were lost for no fault of the job
        self.losses = losses
        #: attempts before this one that were tried again out of the set's `retries`
        self.tries = tries
        #: the urgency that a rule asked for; None if none did
        self.urgency: Optional[int] = None
        #: the member's id; None until submit or acknowledgement
        self.id: Optional[int] = None
        #: where it was sent; '' is the service's own queue
        self.member = ""
        self.state = SUBMITTING
        #: seconds since the epoch; None until it happened
        self.t_submit: Optional[float] = None
        self.t_start: Optional[float] = None
        self.t_end: Optional[float] = None
        #: type of the first exception of severity 0
        self.exception: Optional[str] = None
        #: the exception's note, or the reason of a refusal
        self.note: Optional[str] = None
        #: what to say of it should the queue find it invalid; None until the submission is answered
        self.refusal: Optional[str] = None
        #: which of the ensemble's jobs it was to end, from 1; None until then, and for an attempt that is tried again
        self.ended: Optional[int] = None
        #: a rule or the user has asked for its end
        self.doomed = False
        #: the signal that a rule sent, the first one that ends a process or else the last; 0 is none
        self.killed = 0
        #: states of RFC 21 entered before (triggers that fired)
        self.entered: Tuple[str, ...] = ()
        #: trigger on an event that a job may have more than once -> time of the last one, to know a repeat
        self.heard: Optional[Dict[str, float]] = None
        self.ranks: Optional[str] = None
        #: success, failed, cancelled or retried, once it has ended
        self.result: Optional[str] = None
        #: why it did not succeed: exit, signal, timeout, cancel, refused, exec, infrastructure, exception
        self.cause: Optional[str] = None
        self.exit_code: Optional[int] = None
        self.signal: Optional[int] = None

    def move(self, event: str) -> str:
        """Take the table's step for this event and return its name. Raises TransitionError and changes nothing."""
        try:
            self.state, step = LIFE[self.state, event]
        except KeyError:
            raise TransitionError(
                f"event '{event}' cannot happen to a job that is {self.state} (job {self.id}, key {self.key})"
            ) from None
        return step

    def end(self, t: float, status: Optional[int]) -> None:
        """Judge how it ended. `status` is a wait status, None for a job that never ran."""
        self.t_end = t
        if status is not None:
            code = status >> 8 & 0xFF
            self.signal = status & 0x7F or (code - 128 if 128 < code <= 192 else None)
            self.exit_code = code if not status & 0x7F else None
        if status == 0:
            self.result = "success"
            return
        if self.exception == "cancel" or self.ended_by_rule:
            self.result, self.cause = "cancelled", "cancel"
            return
        self.result = "failed"
        if self.exception == "timeout":
            self.cause = "timeout"
        elif self.exception is not None and self.node_lost():
            self.cause = "infrastructure"
        elif self.exception == "exec":
            self.cause = "exec"
        elif self.exception in _LOSSES:
            self.cause = "infrastructure"
        elif self.exception is not None:
            self.cause = "exception"
        elif status is None:
            self.cause = "infrastructure"
        else:
            self.cause = "signal" if self.signal else "fail"

    def killed_by(self, signal: int) -> None:
        """A rule sends it that signal."""
        if self.killed not in FATAL:
            self.killed = signal

    def refuse(self, t: float, reason: str) -> None:
        """The member would not take it."""
        self.t_end = t
        self.note = reason
        self.result, self.cause = ("cancelled", "cancel") if self.doomed else ("failed", "refused")

    def node_lost(self) -> bool:
        """Flux tells the loss of a node, or of the module that ran the job, as type exec, and only its note says so."""
        note = self.note or ""
        if self.exception == "exec" and any(words in note for words in _NOT_TAKEN_UP):
            return True
        return self.exception == "node-failure" or note.startswith(("node failure", "lost contact"))

    @property
    def ended_by_rule(self) -> bool:
        """Was its end, if it is no success, what a rule or a cancel of the ensemble asked for?

        A signal that ends a process may be caught, and then shows as any exit code. Of other signals, which programs
        take as messages, only a death by that signal counts.
        """
        return self.doomed or (bool(self.killed) and (self.signal == self.killed or self.killed in FATAL))

    def facts(self) -> Dict[str, Any]:
        """What `event.job` has. JSON-able."""
        return {
            "id": self.id,
            "params": self.params,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "cause": self.cause,
            "attempt": self.key.attempt,
            "ranks": self.ranks,
        }

    def row(self) -> Dict[str, Any]:
        """What is kept and shown of it (JOB of the protocol, without `where`)."""
        key = self.key
        return {
            "id": self.id,
            "group": self.group,
            "state": PENDING if self.state == WITHDRAWN else self.state,
            "result": self.result,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "cause": self.cause,
            "note": self.note,
            "attempt": key.attempt,
            "rule": key.rule,
            "firing": key.firing,
            "index": key.index,
            "t_submit": self.t_submit,
            "t_start": self.t_start,
            "t_end": self.t_end,
            "member": self.member or None,
            "ranks": self.ranks,
            "params": self.params,
            "values": self.values,
            "ended": self.ended,
        }

    def to_json(self) -> List[Any]:
        """The state as a list in the order of `__slots__`."""
        return [str(self.key) if name == "key" else getattr(self, name) for name in self.__slots__]

    @classmethod
    def from_json(cls, state: Any) -> Job:
        """The job that `to_json` wrote. Raises RecordError."""
        try:
            values = dict(zip(cls.__slots__, state))
            self = cls(Key.parse(values.pop("key")), values["group"], values["set"])
            for name, value in values.items():
                setattr(self, name, tuple(value) if name == "entered" else value)
            if len(state) != len(cls.__slots__) or self.state not in STATES:
                raise ValueError("not the fields of a job")
        except (TypeError, ValueError, KeyError, AttributeError) as exc:
            raise RecordError(f"this is no state of a job ({exc!r}): {str(state)[:120]}") from exc
        return self
