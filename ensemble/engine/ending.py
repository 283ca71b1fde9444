# SPDX-License-Identifier: MIT
"""Submissions let go, limits, and the way to the end.

Law of this file: called by `Engine.handle` alone, on its way. An ensemble heads for an end (`ending`) and reaches it
(`final`) when its jobs have ended, and those that the rules of the end submitted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterable, Optional

from ensemble.engine import acting, life, resources, scaling, verdict
from ensemble.engine.jobs import Job
from ensemble.engine.occasion import Occasion
from ensemble.engine.rules import COOLDOWN
from ensemble.engine.submissions import Batch

if TYPE_CHECKING:
    from ensemble.engine.engine import Engine

#: submissions of one ensemble that may be unanswered at a time: one that has 100000 to make neither floods the
#: member's queue nor holds up the others, and the cost of one event stays bounded
WINDOW = 1024

#: how the reason begins where a person has to look
IN_DOUBT = "in doubt"

#: timers: of a rule, by number; for what an event's own actions changed
TIMER = "timer:"
AGAIN = "again"
#: the next submission that `submit_rate` allows
RATE = "rate"


def pump(engine: Engine) -> None:
    """Send what is held, as far as the pause and the limits allow; at the end, what its rules have asked for.

    A limit that halts keeps no rule of the end from cleaning up: these fire once, and have no `max_jobs`.
    """
    while engine.final is None and engine.held.total:
        if not engine.held.last if engine.concluding else engine.ending is not None or engine.paused:
            return
        if engine.unanswered >= WINDOW:
            return
        if engine.limits["max_active"] is not None and len(engine.jobs) >= engine.limits["max_active"]:
            return
        wait = _rate(engine)
        if wait is not None:
            engine.set_timer(RATE, engine.t + wait)
            return
        if not engine.concluding and engine.sent >= engine.limits["max_jobs"]:
            halt(engine, "max_jobs", f"{engine.sent} jobs have been submitted")
            return
        batch = engine.held.take()
        assert batch is not None
        engine.emit(acting.make_job(engine, batch))


def _rate(engine: Engine) -> Optional[float]:
    """Seconds until the next submission is allowed, None for now. At most one second's worth goes at once."""
    rate = engine.limits["submit_rate"]
    if rate is None:
        return None
    engine.allowance = min(max(1.0, rate), engine.allowance + (engine.t - engine.t_allowance) * rate)
    engine.t_allowance = engine.t
    # a timer's time is rounded, and so may come a hair before the whole job is allowed
    if engine.allowance < 0.999:
        return float((1 - engine.allowance) / rate)
    engine.allowance -= 1
    return None


def halt(engine: Engine, limit: str, text: str) -> None:
    """A limit is reached: nothing more is submitted, and once the jobs have ended the state is halted."""
    if engine.ending is None and engine.final is None:
        how = f"resume with --limit {limit}=N to carry on"
        end(engine, "halted", f"limit {limit} ({engine.limits[limit]}) reached: {text}; {how}")


def doubt(engine: Engine, text: str) -> None:
    """A crash left it open whether a job ran: a person has to look, so nothing more is submitted."""
    if engine.ending in (None, "halted") and engine.final is None:
        if engine.reason and len(engine.reason) > 1000:
            return
        before = f"{engine.reason}; " if engine.ending == "halted" and engine.reason else f"{IN_DOUBT}: "
        end(engine, "halted", f"{before}{text}; resume to carry on without it")


def end(engine: Engine, state: str, reason: str) -> None:
    """Head for an end; it is reached when the jobs have ended. A later call outranks an earlier one."""
    if engine.final is not None:
        return
    engine.ending, engine.reason = state, reason
    if state != "halted":
        drop(engine, result="cancelled" if state == "cancelled" else "failed")
    engine.state_record()


def drop(engine: Engine, group: Optional[str] = None, result: str = "failed") -> int:
    """Forget the submissions that are held, of one group or of all; how many.

    A job that was to be tried again counts as `result`.
    """
    return _forget(engine, (*engine.held.drop(group), *engine.waiting.drop(group)), result)


def drop_retry(engine: Engine, job: Job) -> int:
    """Forget the next attempt of a job, if there is one that was not sent yet: it counts as cancelled. 0 or 1."""
    if job.result != "retried":
        return 0
    return drop_attempt(engine, *job.key[1:4], attempt=job.key.attempt + 1)


def drop_attempt(engine: Engine, rule: str, firing: int, index: int, attempt: Optional[int] = None) -> int:
    """Forget an attempt of that job that waits to be sent: the next one, or that one. It counts as cancelled. 0 or 1."""

    def meant(batch: Batch) -> bool:
        if (batch.rule, batch.firing, batch.first) != (rule, firing, index):
            return False
        return batch.attempt > 0 if attempt is None else batch.attempt == attempt

    return _forget(engine, (*engine.held.drop(None, meant), *engine.waiting.drop(None, meant)), "cancelled")


def _forget(engine: Engine, batches: Iterable[Batch], result: str) -> int:
    count = 0
    for batch in batches:
        if batch.attempt:
            life.give_up(engine, batch.group, result)
        life.less(engine, batch.group, batch.jobs)
        count += batch.jobs
    return count


def stopped(engine: Engine) -> bool:
    """Are timers and heartbeats dropped? While a limit halts it, rules go on and only submissions wait."""
    return engine.closed or engine.concluding or engine.ending not in (None, "halted")


def _busy(engine: Engine) -> bool:
    """Is anything active that keeps the ensemble from being idle?"""
    waiting = engine.held.total or engine.waiting or engine.calls.pending or engine.pending_signals
    if engine.jobs or waiting or AGAIN in engine.timers or resources.awaited(engine) or scaling.busy(engine):
        return True
    for name in engine.timers:
        kind, _, number = name.partition(":")
        if kind + ":" in (TIMER, COOLDOWN) and engine.book.rules[int(number)].live:
            return True
    return engine.accompanied


def look(engine: Engine) -> None:
    """After each event: has it fallen idle, and has it come to its end?"""
    if engine.ending is None and not engine.paused and engine.t_begin is not None:
        if _busy(engine):
            engine.idle_seen = False
            return
        if resources.held(engine):
            # what has happened may yet make it busy; it is not idle once more where it was idle before
            return
        if not engine.idle_seen:
            engine.idle_seen = True
            engine.falls += 1
            for number in engine.book.on("idle"):
                engine.occasion(engine.book.rules[number], Occasion("idle"))
            if _busy(engine):
                # one event, a refusal, may end all that was begun: that is another fall
                engine.idle_seen = False
        if engine.ending is None and not _busy(engine) and not any(r.keeps_alive for r in engine.book.rules):
            engine.ending, engine.reason = verdict.judge(engine)
    if engine.ending is not None and not _ending(engine):
        _conclude(engine)


def _ending(engine: Engine) -> bool:
    """Is there anything that the end waits for?"""
    busy = engine.jobs or engine.calls.pending or scaling.awaited(engine)
    # what happened before it was to end still fires
    busy = busy or (resources.held(engine) and not engine.closed)
    return bool(busy or (engine.concluding and engine.held.last))


def _conclude(engine: Engine) -> None:
    """All jobs have ended: the rules of the end, and the final state once what they submitted has ended too."""
    if engine.ending != "halted" and not engine.concluding:
        drop(engine)
    assert engine.ending is not None
    if engine.ending == "complete":
        engine.ending, engine.reason = verdict.judge(engine)
    if not engine.concluding:
        engine.concluding = True
        terminated, engine.closed = engine.closed and engine.ending != "cancelled", False
        if not terminated:
            for number in engine.book.on("end", engine.ending):
                # an ensemble that carried on from a limit ends twice; a rule on the end fires once in all
                if not engine.book.rules[number].fired:
                    engine.occasion(engine.book.rules[number], Occasion(f"end {engine.ending}", state=engine.ending))
        engine.closed = True
        if _ending(engine):
            return
    engine.final, engine.t_end = engine.ending, engine.t
    engine.ending = None
    scaling.over(engine)
    resources.over(engine)
    if engine.final != "halted":
        engine.timers.clear()
    engine.state_record()
