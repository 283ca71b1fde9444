# SPDX-License-Identifier: MIT
"""The steps of a job's life: what each entry of `jobs.LIFE` does to counts, statistics and triggers.

Law of this file: called by `Engine.handle` alone, on its way, with a job whose state has just moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, Optional

from ensemble.engine import ending, reports, retries, verdict
from ensemble.engine.actions import Cancel, Cause, Finished, Record, Urgency
from ensemble.engine.events import Acknowledged, Event, InDoubt, JobEvent, JobId, Lost, MemberChanged, Refused
from ensemble.engine.jobs import GONE, INACTIVE, MOVING, SHUTDOWN, WITHDRAWN, Job
from ensemble.errors import InternalError

if TYPE_CHECKING:
    from ensemble.engine.engine import Engine

#: refused keys that are remembered, for a `submit` that comes after the refusal
_REMEMBERED = 1000
#: seconds: an event that is told later than that after it happened has the record say when it did
_LATE = 1.0
#: of a job that became invalid, where the answer that says why was lost
_INVALID = "the queue found it invalid"


def advance(engine: Engine, job: Job, name: str, event: Event) -> None:
    """Take the table's step for an event of that name. Raises TransitionError, and nothing has changed then."""
    if name in MOVING:
        step = job.move(name)
        if step:
            _STEPS[step](engine, job, event)


def identify(engine: Engine, job: Job, id: JobId) -> None:
    """The job has that id of the member. Raises InternalError where it has another."""
    if job.id is None:
        job.id = id
        engine.by_id[id] = job
    elif job.id != id:
        raise InternalError(f"key {job.key} belongs to job {job.id}, and came again with job {id}")


def _submitted(engine: Engine, job: Job, event: Event) -> None:
    job.t_submit = event.t
    if isinstance(event, Acknowledged):
        _answered(engine, job, event)
    engine.unanswered -= 1
    if not job.key.attempt:
        # a job that is tried again was submitted once, and is pending already
        engine.tally.bump(job.group, "submitted")
        engine.tally.bump(job.group, "pending")
    _record(engine, job, "submit", event.t)
    if job.urgency is not None and job.id is not None:
        engine.emit(Urgency(job.id, job.urgency, Cause(None, 0, "asked for before it was submitted")))
    if job.doomed and job.id is not None:
        engine.emit(Cancel(job.id, Cause(None, 0, "its end was asked for before it was submitted")))


def _dated(engine: Engine, job: Job, event: Event) -> None:
    job.t_submit = event.t


def _answered(engine: Engine, job: Job, event: Event) -> None:
    """No other answer comes, so what undoes the submission later ends the job."""
    job.refusal = _INVALID


def answers_lost(engine: Engine, event: Event) -> None:
    """What an earlier service was to be answered about jobs that the queue has shown is not said again."""
    for job in list(engine.jobs.values()):
        if job.id is not None and job.refusal is None:
            job.refusal = _INVALID
            if job.state == WITHDRAWN:
                _job_refused(engine, job, event)


def _doubted(engine: Engine, job: Job, event: Event) -> None:
    """The answer says no and the journal yes. The journal is right, but its `invalidate` may be on its way."""
    job.refusal = event.reason if isinstance(event, Refused) else ""


def _withdrawn(engine: Engine, job: Job, event: Event) -> None:
    if job.refusal is not None:
        _job_refused(engine, job, event)


def _job_refused(engine: Engine, job: Job, event: Event) -> None:
    withdrawn = job.t_submit is not None
    reason = event.reason if isinstance(event, Refused) else job.refusal or _INVALID
    job.refuse(engine.t, reason)
    if withdrawn or job.key.attempt:
        engine.tally.bump(job.group, "pending", -1)
    else:
        engine.tally.bump(job.group, "submitted")
    if not withdrawn:
        engine.unanswered -= 1
        engine.refused[job.key] = None
        if len(engine.refused) > _REMEMBERED:
            del engine.refused[next(iter(engine.refused))]
    if job.result == "failed":
        engine.record("error", text=f"a job of {job.group} was refused: {reason}", rule=job.key.rule)
    _count_end(engine, job)
    _leave(engine, job)


def _excepted(engine: Engine, job: Job, event: Event) -> None:
    context = event.context if isinstance(event, JobEvent) else {}
    if context.get("severity", 0) == 0 and job.exception is None:
        job.exception = str(context.get("type", "unknown"))
        if job.exception == "cancel" and not job.doomed and engine.t_frozen is not None and event.t >= engine.t_frozen:
            # a shutdown cancels all jobs, and nothing in its exception tells it from the user's cancel
            job.exception = SHUTDOWN
        job.note = str(context.get("note") or "")[:500] or None


def _started(engine: Engine, job: Job, event: Event) -> None:
    job.t_start = event.t
    engine.tally.bump(job.group, "pending", -1)
    engine.tally.bump(job.group, "running")
    if job.t_submit is not None:
        engine.tally.started(job.group, max(0.0, event.t - job.t_submit))
    _record(engine, job, "start", event.t)


def _finished(engine: Engine, job: Job, event: Event) -> None:
    status = event.context.get("status", 0) if isinstance(event, JobEvent) else None
    _end(engine, job, event.t, status)


def _cleaned_unfinished(engine: Engine, job: Job, event: Event) -> None:
    _end(engine, job, event.t, None)
    _leave(engine, job)


def _lost(engine: Engine, job: Job, event: Event) -> None:
    job.exception = job.exception or GONE
    job.note = job.note or (event.reason if isinstance(event, (Lost, MemberChanged)) else None)
    if job.t_start is None:
        # it had only waited in a queue that is no more: that costs it none of its attempts
        job.losses -= 1
    _cleaned_unfinished(engine, job, event)


def _never_heard_of(engine: Engine, job: Job, event: Event) -> None:
    """It was sent to a member that is given up: whether it became a job there, nobody will say."""
    _submitted(engine, job, event)
    _lost(engine, job, event)


def _in_doubt(engine: Engine, job: Job, event: Event) -> None:
    reason = event.reason if isinstance(event, InDoubt) else ""
    if job.id is None:
        engine.unanswered -= 1
    job.refuse(engine.t, reason)
    job.cause = "in-doubt"
    if job.t_start is not None:
        engine.tally.bump(job.group, "running", -1)
    elif job.id is not None or job.key.attempt:
        engine.tally.bump(job.group, "pending", -1)
    else:
        engine.tally.bump(job.group, "submitted")
    _count_end(engine, job)
    _leave(engine, job)
    ending.doubt(engine, f"job {job.key} of {job.group}: {reason}")


def _end(engine: Engine, job: Job, t: float, status: Optional[int]) -> None:
    """Its processes have ended, or never were: judge it, and count it or try it again."""
    job.end(t, status)
    engine.tally.bump(job.group, "pending" if job.t_start is None else "running", -1)
    again = engine.plan(engine, job)
    if again is None:
        _count_end(engine, job)
        return
    job.result = "retried"
    engine.tally.bump(job.group, "retried")
    engine.tally.bump(job.group, "pending")
    retries.put(engine, *again)
    _record(engine, job, "retry")
    engine.occur("job-retry", job.group, job)


def give_up(engine: Engine, group: str, result: str) -> None:
    """A job that waited to be tried again will not be: it has failed with its last attempt, or was cancelled."""
    engine.tally.bump(group, "pending", -1)
    engine.tally.bump(group, result)
    engine.tally.bump(group, "finished")


def _cleaned(engine: Engine, job: Job, event: Event) -> None:
    _leave(engine, job)


def _count_end(engine: Engine, job: Job) -> None:
    """It has ended: counts, statistics, and the triggers that say how."""
    group, result = job.group, job.result or "failed"
    engine.tally.bump(group, result)
    engine.tally.bump(group, "finished")
    if job.cause == "timeout":
        engine.tally.bump(group, "timeout")
    duration = pending = None
    if job.t_start is not None and job.t_end is not None:
        duration = max(0.0, job.t_end - job.t_start)
        pending = max(0.0, job.t_start - job.t_submit) if job.t_submit is not None else None
    engine.tally.ended(group, result, duration, pending)
    reports.ended(engine, job)
    engine.calls.ended += 1
    job.ended = engine.calls.ended
    _record(engine, job, "finish", job.t_end)
    engine.occur("job-finish", group, job)
    engine.occur(verdict.TRIGGER[result], group, job)
    if job.cause == "timeout":
        engine.occur("job-timeout", group, job)
    less(engine, group, 1)
    # a share of the finished ones may be passed by a success too, while they are few
    if engine.final is None and (result == "failed" or isinstance(engine.limits["max_failures"], str)):
        text = verdict.too_many_failures(engine)
        if text:
            ending.halt(engine, "max_failures", text)


def _leave(engine: Engine, job: Job) -> None:
    job.state = INACTIVE
    del engine.jobs[job.key]
    del engine.group_jobs[job.group][job.key]
    if job.id is not None:
        engine.by_id.pop(job.id, None)
    engine.calls.rows += 1
    engine.emit(Finished(job.row()))


def less(engine: Engine, group: str, by: int) -> None:
    """So many jobs of the group have ended, or will never be."""
    engine.unfinished[group] -= by
    engine.tally.bump(group, "active", -by)
    engine.tally.touch("active")
    if not engine.unfinished[group]:
        engine.completed.add(group)


def stray(engine: Engine, id: JobId) -> None:
    """A job whose submission was reported as refused runs all the same: nothing waits for it, so end it."""
    if id in engine.refused.values():
        engine.emit(Cancel(id, Cause(None, 0, "its submission had been refused")))


def tell(engine: Engine, job: Job, event: JobEvent) -> None:
    """A record of an event as the queue told it, for `logging.debug`; those that are recorded anyway are left out."""
    if event.name in ("submit", "start", "finish"):
        return
    job.heard = job.heard or {}
    # told again after a lost connection
    if event.t > job.heard.get(event.name, -1.0):
        job.heard[event.name] = event.t
        engine.record("job", job=job.id, group=job.group, event=event.name)


def _record(engine: Engine, job: Job, event: str, t: Optional[float] = None) -> None:
    """A record's own time never goes back: what is told late, by a member that was away, has its time as `at`."""
    data: Dict[str, Any] = {"job": job.id, "group": job.group, "event": event}
    if t is not None and t < engine.t - _LATE:
        data["at"] = t
    if job.result is not None:
        data.update(result=job.result, cause=job.cause, exit_code=job.exit_code, signal=job.signal)
        if job.note:
            data["text"] = job.note
    engine.emit(Record(engine.t, "job", data))


_STEPS: Dict[str, Callable[[Engine, Job, Event], None]] = {
    "submitted": _submitted,
    "dated": _dated,
    "answered": _answered,
    "doubted": _doubted,
    "withdrawn": _withdrawn,
    "refused": _job_refused,
    "excepted": _excepted,
    "started": _started,
    "finished": _finished,
    "cleaned": _cleaned,
    "in doubt": _in_doubt,
    "lost": _lost,
    "never heard of": _never_heard_of,
    "cleaned_unfinished": _cleaned_unfinished,
}
