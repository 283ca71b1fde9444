# SPDX-License-Identifier: MIT
"""Actions on jobs: cancel, kill, urgency; which jobs each means, and what becomes of them.

Law of this file: called by `Engine.handle` alone, on its way. `label` means the jobs of a group, or all, those that
wait to be sent or to be tried again included; `job` with names of jobs means
their latest attempts; `job: event` means the job that the rule fired on, and does nothing to
one that has ended, but for a cancel on `job-retry`: that job ended to be tried again, and then is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterable, List, Optional, Tuple

from ensemble.engine import asking, ending
from ensemble.engine.actions import Cancel, Cause, Kill, Urgency
from ensemble.engine.jobs import FINISHED, PENDING, RUNNING, SUBMITTING, WITHDRAWN, Job
from ensemble.spec import units
from ensemble.spec.models import Action

if TYPE_CHECKING:
    from ensemble.engine.acting import Firing
    from ensemble.engine.engine import Engine

_WAITING = (SUBMITTING, WITHDRAWN, PENDING)


def cancel(firing: Firing, action: Action) -> None:
    """`cancel`: those that wait to be sent are dropped, the others are ended."""
    engine, count = firing.engine, 0
    if action.state in (None, "pending"):
        if action.job is None:
            count = ending.drop(engine, _group(action), "cancelled")
            asking.forget(engine, _group(action))
        elif action.job != "event":
            count = sum(ending.drop_attempt(engine, *key) for key in _keys(action))
        elif firing.occasion.job is not None:
            count = ending.drop_retry(engine, firing.occasion.job)
    count += cancel_jobs(chosen(firing, action), engine, firing.cause(action))
    _tell(firing, action, "cancel {}", count)


def kill(firing: Firing, action: Action) -> None:
    """`kill`: a signal to those that run."""
    number = units.signal_number(action.signal)
    count = 0
    for job in chosen(firing, action):
        if job.state == RUNNING and job.id is not None:
            job.killed_by(number)
            firing.engine.emit(Kill(job.id, number, firing.cause(action)))
            count += 1
    _tell(firing, action, f"kill {{}} with {units.signal_name(number)}", count)


def urgency(firing: Firing, action: Action) -> None:
    """`urgency`: of those that wait, wherever they do; a job that has its resources needs none."""
    engine, value = firing.engine, firing.amount(action, "value")
    count = 0
    if action.job is None and action.state != "running":
        group = _group(action)
        count = engine.held.override(group, urgency=value) + engine.waiting.override(group, urgency=value)
    for job in chosen(firing, action):
        if job.state in _WAITING:
            job.urgency = value
            # what is tried again has it too
            job.overrides = {**job.overrides, "urgency": value}
            if job.state == PENDING and job.id is not None:
                engine.emit(Urgency(job.id, value, firing.cause(action)))
            count += 1
    _tell(firing, action, f"urgency of {{}} to {value}", count)


def cancel_jobs(jobs: Iterable[Job], engine: Engine, cause: Cause) -> int:
    """Cancel those that have not ended; how many. One that has no id yet is cancelled as soon as it has one."""
    count = 0
    for job in jobs:
        if job.state == FINISHED:
            continue
        again = job.doomed
        job.doomed = True
        if job.id is not None and not again:
            engine.emit(Cancel(job.id, cause))
        count += 1
    return count


def _keys(action: Action) -> List[Tuple[str, int, int]]:
    """Rule, firing and index of the jobs that the action names."""
    names = (name.split("/") for name in action.job or ())
    return [(rule, int(firing), int(index)) for rule, firing, index in names]


def _group(action: Action) -> Optional[str]:
    """The group, None for all."""
    return None if action.label == "all" else action.label


def chosen(firing: Firing, action: Action) -> List[Job]:
    """The jobs that the action means, in whatever state it says."""
    engine = firing.engine
    if action.job is not None and action.job != "event":
        # of several attempts that are there at a time the last one counts
        latest = {key[1:4]: job for key, job in sorted(engine.jobs.items(), key=lambda entry: entry[0].attempt)}
        jobs = [latest[key] for key in dict.fromkeys(_keys(action)) if key in latest]
    elif action.job is not None:
        # the occasion may be older than a restart: what it carries is then a picture of the job
        job = engine.jobs.get(firing.occasion.job.key) if firing.occasion.job is not None else None
        jobs = [] if job is None else [job]
    else:
        groups: Iterable[str] = engine.group_jobs if action.label == "all" else [action.label or ""]
        jobs = [job for group in groups for job in engine.group_jobs[group].values()]
    if action.state == "pending":
        return [job for job in jobs if job.state in _WAITING]
    if action.state == "running":
        return [job for job in jobs if job.state == RUNNING]
    return jobs


def _tell(firing: Firing, action: Action, text: str, count: int) -> None:
    """Record it; `text` has braces where the jobs are named."""
    if action.job is None:
        firing.tell(action, f"{text.format(action.label)} ({count} job{'s' if count != 1 else ''})", count)
        return
    if action.job != "event":
        firing.tell(action, f"{text.format('named jobs')} ({count} of {len(action.job)})", count)
        return
    job = firing.occasion.job
    if job is None:
        firing.tell(action, f"{text.format('the job')}: this rule fired on no job, so nothing is done", 0)
        return
    named = text.format(f"the job of {job.group}")
    if count:
        firing.tell(action, named, count, job.id)
        return
    now = firing.engine.jobs.get(job.key)
    state = "has ended" if now is None or now.state == FINISHED else f"is {now.state}"
    firing.tell(action, f"{named}: nothing is done, it {state}", 0, job.id)
