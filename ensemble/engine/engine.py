# SPDX-License-Identifier: MIT
"""The engine of one ensemble: `handle(event) -> [action]`, the only mutator.

Theory of operation. An event first moves the job it speaks of (`jobs.LIFE`), which changes counts and statistics
and notes the job triggers that it fired. Then, in this order: job triggers, metric rules whose metrics changed,
group-complete, idle and the end; rules in file order, a rule's actions in order. Submissions go through `held`, so
that a pause or a limit keeps their order. What a firing asks for is sent as actions; what became of it comes back
as events. Time is the greatest timestamp seen so far. Nothing here reads a clock, draws a number, or does I/O, so
the same events in the same order give the same actions, and a snapshot restored answers as the original would.

An exception inside a rule marks that rule as failed and ends the ensemble as `stop` would, in state failed.
The carrying out of a rule's actions stands in `acting.py`, snapshots in `snapshot.py`.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from ensemble.engine import acting, verdict
from ensemble.engine.actions import Action, Cancel, Cause, Finished, Record, SetTimer
from ensemble.engine.events import (
    BASE_EVENTS,
    Acknowledged,
    ActionDone,
    Begin,
    Command,
    Event,
    JobEvent,
    Key,
    Refused,
    TimerExpired,
)
from ensemble.engine.jobs import INACTIVE, MOVING, PENDING, RUNNING, Job
from ensemble.engine.rules import COOLDOWN, FIRE, LATER, RuleBook, RuleState
from ensemble.engine.submissions import Held
from ensemble.engine.tally import Tally
from ensemble.errors import InternalError
from ensemble.spec.check import heartbeat_period
from ensemble.spec.metrics import Metric
from ensemble.spec.models import STATE_TRIGGERS, Spec

#: events of RFC 21 that a job has once; seen again, they are repeats after a lost connection
_ONCE = frozenset({"submit", "validate", "depend", "alloc", "start", "free", "clean", "invalidate"})
#: refused keys that are remembered, for a `submit` that comes after the refusal
_REMEMBERED = 1000

#: submissions of one ensemble that may be unanswered at a time: one that has 100000 to make neither floods the
#: member's queue nor holds up the others, and the cost of one event stays bounded
WINDOW = 512

_HEARTBEAT = "heartbeat"
_EVERY = "every:"
_TIMER = "timer:"
_DURATION = "limit:duration"
_AGAIN = "again"


class Engine:
    """The state machine of one ensemble. Only `handle` changes it."""

    def __init__(self, spec: Spec, id: str) -> None:
        self.spec = spec
        #: the sets of each group; the file's `groups` is made anew at every look
        self.groups = spec.groups
        #: the ensemble's id, the first part of every key
        self.id = id
        #: seconds since the epoch: the greatest timestamp seen
        self.t = 0.0
        self.t_begin: Optional[float] = None
        self.t_end: Optional[float] = None
        #: one of complete, failed, cancelled, halted once it has ended
        self.final: Optional[str] = None
        #: the end it is heading for, while it stops
        self.ending: Optional[str] = None
        #: why it stops or has ended; a sentence
        self.reason: Optional[str] = None
        self.paused = False
        #: no rule fires any more
        self.closed = False
        #: an end that an action has decreed; None leaves it to `failures`
        self.decreed: Optional[str] = None
        self.limits: Dict[str, Any] = spec.limits.model_dump()
        self.book = RuleBook(spec)
        self.tally = Tally(self.groups, self.book.reads)
        self.held = Held()
        self.jobs: Dict[Key, Job] = {}
        self.group_jobs: Dict[str, Dict[Key, Job]] = {group: {} for group in self.groups}
        self.by_id: Dict[int, Job] = {}
        #: jobs of each group that have not ended: held, submitting, pending, running
        self.unfinished: Dict[str, int] = dict.fromkeys(self.groups, 0)
        #: jobs ever sent to the member
        self.sent = 0
        #: jobs sent and not answered yet
        self.unanswered = 0
        #: timers that are set: name -> seconds since the epoch
        self.timers: Dict[str, float] = {}
        #: numbers of rules whose next firing waits for a greater `max_firings`
        self.postponed: List[int] = []
        #: the rules of the end have fired; they do so once
        self.end_fired = False
        #: all jobs have ended, and what the rules of the end submitted is running
        self.concluding = False
        #: this fall into idleness has been looked at
        self.idle_seen = False
        #: groups that have become complete since the last look
        self.completed: Set[str] = set()
        #: keys refused before their `submit` was seen, oldest first; value: the id once it is known
        self.refused: Dict[Key, Optional[int]] = {}
        #: job events of RFC 21 that the rules need beyond BASE_EVENTS
        self.wanted_events = frozenset(self.book.on_event) - frozenset(BASE_EVENTS)
        self._out: List[Action] = []
        self._occasions: List[Tuple[int, str]] = []
        self._steps: Dict[str, Callable[[Job, Event], None]] = {
            "submitted": self._submitted,
            "dated": self._dated,
            "refused": self._job_refused,
            "excepted": self._excepted,
            "started": self._started,
            "finished": self._finished,
            "cleaned": self._cleaned,
            "cleaned_unrun": self._cleaned_unfinished,
            "cleaned_unfinished": self._cleaned_unfinished,
        }
        self._takers: Dict[type, Callable[[Any], None]] = {
            JobEvent: self._job_event,
            Acknowledged: self._acknowledged,
            Refused: self._refused,
            ActionDone: self._action_done,
            TimerExpired: self._timer_expired,
            Begin: self._begin,
            Command: self._command,
        }

    @property
    def state(self) -> str:
        """running, paused, stopping, or an end."""
        if self.final is not None:
            return self.final
        if self.ending is not None:
            return "stopping"
        return "paused" if self.paused else "running"

    def handle(self, event: Event) -> List[Action]:
        """Take in one event and answer with the actions to carry out, in order.

        Raises TransitionError for an event that cannot happen to its job; nothing has changed then but the time.
        """
        out: List[Action] = []
        self._out = out
        if event.t > self.t:
            self.t = event.t
        self._takers[type(event)](event)
        if self.final is None:
            self._settle()
        return out

    # ---- what comes in

    def _begin(self, event: Begin) -> None:
        if self.t_begin is not None:
            return
        self.t_begin = self.t
        self._state_record()
        self._arm()
        if self.limits["duration"] is not None:
            self.set_timer(_DURATION, self.t + self.limits["duration"])
        for rule in self.book.rules:
            if rule.rule.trigger == "timer":
                self.set_timer(f"{_TIMER}{rule.number}", self.t + (rule.rule.after or 0.0))
        self._occur("start")

    def _arm(self) -> None:
        """Set the timers that beat, where they are not set."""
        period = heartbeat_period(self.spec)
        if period and _HEARTBEAT not in self.timers:
            self.set_timer(_HEARTBEAT, self.t + period)
        for rule in self.book.rules:
            name = f"{_EVERY}{rule.number}"
            if rule.rule.trigger == "heartbeat" and rule.rule.every and name not in self.timers:
                self.set_timer(name, self.t + rule.rule.every)

    def _job_event(self, event: JobEvent) -> None:
        name = event.name
        if name == "submit":
            if event.key is None:
                raise InternalError(f"a submit event of job {event.id} came without its key")
            job = self.jobs.get(event.key)
            if job is None:
                if event.key in self.refused:
                    self.refused[event.key] = event.id
                    self.by_id.pop(event.id, None)
                return
            self._identify(job, event.id)
        else:
            found = self.by_id.get(event.id)
            if found is None:
                if name == "start":
                    self._stray(event.id)
                return
            job = found
        if name == "alloc" and "ranks" in event.context:
            job.ranks = str(event.context["ranks"])
        self._advance(job, name, event)
        triggers = self.book.on_event.get(name)
        if triggers:
            for trigger in triggers:
                self._job_trigger(job, trigger, event)

    def _advance(self, job: Job, name: str, event: Event) -> None:
        if name in MOVING:
            step = job.move(name)
            if step:
                self._steps[step](job, event)

    def _job_trigger(self, job: Job, trigger: str, event: JobEvent) -> None:
        if trigger == "job-cleanup" and event.name == "exception" and event.context.get("severity", 0) != 0:
            return
        if trigger in STATE_TRIGGERS or event.name in _ONCE:
            if trigger in job.entered:
                return
            job.entered = (*job.entered, trigger)
        self._occur(trigger, job.group, job)

    def _acknowledged(self, event: Acknowledged) -> None:
        job = self.jobs.get(event.key)
        if job is not None:
            self._identify(job, event.id)
            self._advance(job, "acknowledged", event)

    def _refused(self, event: Refused) -> None:
        job = self.jobs.get(event.key)
        if job is not None:
            self._advance(job, "refused", event)

    def _action_done(self, event: ActionDone) -> None:
        job = self.by_id.get(event.id)
        if event.error and job is not None and job.state in (PENDING, RUNNING):
            self.record("error", text=f"{event.action} of a job of {job.group} failed: {event.error}", job=event.id)

    def _timer_expired(self, event: TimerExpired) -> None:
        name = event.timer
        at = self.timers.get(name)
        # after the end a timer stays, so that a halted ensemble that carries on has it still
        if at is None or event.t < at or self.final is not None:
            return
        del self.timers[name]
        kind, _, number = name.partition(":")
        if name == _DURATION:
            self.halt("duration", f"{self.limits['duration']:g} s have passed")
        elif name == _HEARTBEAT:
            self._heartbeat()
        elif self._stopped:
            return
        elif kind + ":" == COOLDOWN:
            rule = self.book.rules[int(number)]
            rule.missed = False
            if self.t >= rule.until:
                self.tally.due.add(rule.number)
        elif kind + ":" == _EVERY:
            rule = self.book.rules[int(number)]
            self.set_timer(name, self._next(at, rule.rule.every or 0.0))
            self._occasions.append((rule.number, "heartbeat"))
        elif kind + ":" == _TIMER:
            rule = self.book.rules[int(number)]
            self._occasions.append((rule.number, f"timer of {rule.rule.after:g} s"))

    def _heartbeat(self) -> None:
        for group in self.tally.aged:
            self.tally.aging(
                group,
                [self.t - j.t_submit for j in self.group_jobs[group].values() if j.state == PENDING and j.t_submit],
            )
        self.tally.touch("elapsed")
        if not self._stopped:
            self.set_timer(_HEARTBEAT, self._next(self.t, heartbeat_period(self.spec)))
            self._occasions.extend(
                (n, "heartbeat") for n in self.book.on("heartbeat") if not self.book.rules[n].rule.every
            )

    def _next(self, at: float, period: float) -> float:
        """The next beat after `at`; beats that were missed are not made up for."""
        return max(at + period, self.t + period / 2) if at + period <= self.t else at + period

    def _command(self, event: Command) -> None:
        if event.name == "resume" and self.final in (None, "halted"):
            self._resume(event.data.get("limits") or {})
        elif self.final is not None:
            return
        elif event.name == "pause" and self.ending is None:
            self.paused = True
            self._state_record()
        elif event.name == "cancel":
            self.end("cancelled", "cancelled by the user")
            self.closed = True
            acting.cancel_all(self, Cause(None, 0, "cancelled by the user"))

    def _resume(self, limits: Dict[str, Any]) -> None:
        self.limits.update(limits)
        if limits.get("duration") is not None and self.t_begin is not None:
            self.set_timer(_DURATION, self.t_begin + limits["duration"])
        if limits and (self.final == "halted" or (self.ending == "halted" and not self.concluding)):
            self.final = self.ending = self.reason = self.t_end = None
            self.closed = self.idle_seen = self.concluding = False
            for name, at in list(self.timers.items()):
                self.set_timer(name, at)
            self._arm()
        self.paused = False
        self._state_record()
        postponed, self.postponed = self.postponed, []
        for number in postponed:
            self._occasion(self.book.rules[number], "carried on")
        self.pump()

    # ---- the life of a job

    def _identify(self, job: Job, id: int) -> None:
        if job.id is None:
            job.id = id
            self.by_id[id] = job
        elif job.id != id:
            raise InternalError(f"key {job.key} belongs to job {job.id}, and came again with job {id}")

    def _submitted(self, job: Job, event: Event) -> None:
        job.t_submit = event.t
        self.unanswered -= 1
        self.tally.bump(job.group, "submitted")
        self.tally.bump(job.group, "pending")
        self.tally.touch("submitted")
        self._job_record(job, "submit")
        if job.doomed and job.id is not None:
            self._out.append(Cancel(job.id, Cause(None, 0, "its end was asked for before it was submitted")))

    def _dated(self, job: Job, event: Event) -> None:
        job.t_submit = event.t

    def _job_refused(self, job: Job, event: Event) -> None:
        withdrawn = job.t_submit is not None
        reason = event.reason if isinstance(event, Refused) else ""
        job.refuse(self.t, reason)
        if withdrawn:
            self.tally.bump(job.group, "pending", -1)
        else:
            self.unanswered -= 1
            self.tally.bump(job.group, "submitted")
            self.tally.touch("submitted")
            self.refused[job.key] = None
            if len(self.refused) > _REMEMBERED:
                del self.refused[next(iter(self.refused))]
        if job.result == "failed":
            self.record("error", text=f"a job of {job.group} was refused: {reason}", rule=job.key.rule)
        self._count_end(job)
        self._leave(job)

    def _excepted(self, job: Job, event: Event) -> None:
        context = event.context if isinstance(event, JobEvent) else {}
        if context.get("severity", 0) == 0 and job.exception is None:
            job.exception = str(context.get("type", "unknown"))
            job.note = str(context.get("note") or "")[:500] or None

    def _started(self, job: Job, event: Event) -> None:
        job.t_start = event.t
        self.tally.bump(job.group, "pending", -1)
        self.tally.bump(job.group, "running")
        if job.t_submit is not None:
            self.tally.started(job.group, max(0.0, event.t - job.t_submit))
        self._job_record(job, "start")

    def _finished(self, job: Job, event: Event) -> None:
        status = event.context.get("status", 0) if isinstance(event, JobEvent) else None
        job.end(event.t, status)
        self.tally.bump(job.group, "pending" if job.t_start is None else "running", -1)
        self._count_end(job)

    def _cleaned_unfinished(self, job: Job, event: Event) -> None:
        job.end(event.t, None)
        self.tally.bump(job.group, "pending" if job.t_start is None else "running", -1)
        self._count_end(job)
        self._leave(job)

    def _cleaned(self, job: Job, event: Event) -> None:
        self._leave(job)

    def _count_end(self, job: Job) -> None:
        """It has ended: counts, statistics, and the triggers that say how."""
        group, result = job.group, job.result or "failed"
        self.tally.bump(group, result)
        self.tally.bump(group, "finished")
        if job.cause == "timeout":
            self.tally.bump(group, "timeout")
        duration = pending = None
        if job.t_start is not None and job.t_end is not None:
            duration = max(0.0, job.t_end - job.t_start)
            pending = max(0.0, job.t_start - job.t_submit) if job.t_submit is not None else None
        self.tally.ended(group, result, duration, pending)
        self._job_record(job, "finish")
        self._occur("job-finish", group, job)
        self._occur(verdict.TRIGGER[result], group, job)
        if job.cause == "timeout":
            self._occur("job-timeout", group, job)
        self._less(group, 1)
        if result == "failed" and self.final is None:
            text = verdict.too_many_failures(self)
            if text:
                self.halt("max_failures", text)

    def _leave(self, job: Job) -> None:
        job.state = INACTIVE
        del self.jobs[job.key]
        del self.group_jobs[job.group][job.key]
        if job.id is not None:
            self.by_id.pop(job.id, None)
        self._out.append(Finished(job.row()))

    def _less(self, group: str, by: int) -> None:
        self.unfinished[group] -= by
        self.tally.bump(group, "active", -by)
        self.tally.touch("active")
        if not self.unfinished[group]:
            self.completed.add(group)

    def _stray(self, id: int) -> None:
        """A job whose submission was reported as refused runs all the same: nothing waits for it, so end it."""
        if id in self.refused.values():
            self._out.append(Cancel(id, Cause(None, 0, "its submission had been refused")))

    # ---- rules

    def _occur(self, trigger: str, name: Optional[str] = None, job: Optional[Job] = None) -> None:
        numbers = self.book.on(trigger, name)
        if numbers:
            text = trigger if name is None else f"{trigger} {name}"
            self._occasions.extend((number, text) for number in numbers)

    def _settle(self) -> None:
        rules = self.book.rules
        if self._occasions:
            occasions, self._occasions = sorted(self._occasions, key=lambda o: o[0]), []
            for number, text in occasions:
                self._occasion(rules[number], text)
        if self.tally.due:
            due, self.tally.due = sorted(self.tally.due), set()
            for number in due:
                self._metric_occasion(rules[number])
        if self.completed:
            completed, self.completed = self.completed, set()
            done = (group for group in completed if not self.unfinished[group])
            found = sorted((n, g) for g in done for n in self.book.on("group-complete", g))
            for number, group in found:
                self._occasion(rules[number], f"group-complete {group}")
        if self.held.total:
            self.pump()
        if (self.tally.due or self.completed) and not self.closed and _AGAIN not in self.timers:
            # what this event's own actions changed is looked at as an event of its own: no loop inside `handle`
            self.set_timer(_AGAIN, self.t)
        self._look_at_end()

    def _metric_occasion(self, rule: RuleState) -> None:
        if self.closed or not rule.live:
            return
        try:
            assert rule.metric is not None
            value = self.value(rule.metric)
            if rule.condition is not None and not rule.condition.holds(value):
                return
        except Exception as exc:
            self.fail_rule(rule, exc)
            return
        self._occasion(rule, str(rule.metric) if value is None else f"{rule.metric} = {value:.6g}")

    def _occasion(self, rule: RuleState, text: str) -> None:
        """An occasion of the rule: through its gate, and perhaps a firing."""
        if self.closed or self.final is not None:
            return
        gate = rule.gate(self.t)
        if gate is LATER:
            timer = rule.cooldown_timer()
            self.set_timer(timer.timer, timer.at)
        if gate is not FIRE:
            return
        if rule.submits and rule.fired >= self.limits["max_firings"] and not self.concluding:
            self.postponed.append(rule.number)
            self.halt("max_firings", f"rule '{rule.id}' has fired {rule.fired} times")
            return
        self.fire(rule, text)

    def fire(self, rule: RuleState, text: str) -> None:
        """A firing: spend it, and carry out the actions. An exception fails the rule."""
        firing = rule.fire(self.t)
        self.record("rule", rule=rule.id, trigger=rule.rule.trigger, firing=firing, remaining=rule.remaining, text=text)
        try:
            acting.act(self, rule, firing)
        except Exception as exc:
            self.fail_rule(rule, exc)

    def fail_rule(self, rule: RuleState, exc: Exception) -> None:
        """The rule raised: it never fires again, and the ensemble stops, to end failed."""
        rule.error = f"{type(exc).__name__}: {exc}"
        self.record("error", rule=rule.id, text=f"rule '{rule.id}' failed: {rule.error}")
        self.decreed = "failed"
        self.end("failed", f"rule '{rule.id}' failed: {rule.error}")

    def value(self, metric: Metric) -> Optional[float]:
        """The present value of a metric, None while it has none."""
        if metric.stat != "ensemble":
            return self.tally.get(metric)
        if metric.variable == "elapsed":
            return None if self.t_begin is None else self.t - self.t_begin
        return sum(self.unfinished.values()) if metric.variable == "active" else self.sent

    # ---- submissions, limits, the end

    def pump(self) -> None:
        """Send what is held, as far as the pause and the limits allow."""
        while self.held.total and self.ending is None and not self.paused and self.final is None:
            if self.unanswered >= WINDOW:
                return
            if self.limits["max_active"] is not None and len(self.jobs) >= self.limits["max_active"]:
                return
            if self.sent >= self.limits["max_jobs"]:
                self.halt("max_jobs", f"{self.sent} jobs have been submitted")
                return
            batch = self.held.take()
            assert batch is not None
            self._out.append(acting.make_job(self, batch))

    def halt(self, limit: str, text: str) -> None:
        """A limit is reached: nothing more is submitted, and once the jobs have ended the state is halted."""
        if self.ending is None and self.final is None:
            how = f"resume with --limit {limit}=N to carry on"
            self.end("halted", f"limit {limit} ({self.limits[limit]}) reached: {text}; {how}")

    def end(self, state: str, reason: str) -> None:
        """Head for an end; it is reached when the jobs have ended. An end already decreed stays."""
        if self.final is not None:
            return
        self.ending, self.reason = state, reason
        if state != "halted":
            self.drop()
        self._state_record()

    def drop(self, group: Optional[str] = None) -> None:
        """Forget the submissions that are held, of one group or of all."""
        for name, count in self.held.drop(group).items():
            self._less(name, count)

    @property
    def _stopped(self) -> bool:
        """Are timers and heartbeats dropped? While a limit halts it, rules go on and only submissions wait."""
        return self.closed or self.concluding or self.ending not in (None, "halted")

    def _busy(self) -> bool:
        """Is anything active that keeps the ensemble from being idle?"""
        if self.jobs or self.held.total or _AGAIN in self.timers:
            return True
        for name in self.timers:
            kind, _, number = name.partition(":")
            if kind + ":" in (_TIMER, COOLDOWN) and self.book.rules[int(number)].live:
                return True
        return False

    def _look_at_end(self) -> None:
        if self.ending is None and not self.paused and self.t_begin is not None:
            if self._busy():
                self.idle_seen = False
                return
            if not self.idle_seen:
                self.idle_seen = True
                for number in self.book.on("idle"):
                    self._occasion(self.book.rules[number], "idle")
            if self.ending is None and not self._busy() and not any(r.keeps_alive for r in self.book.rules):
                self.ending, self.reason = verdict.judge(self)
        if self.ending is not None and not self.jobs:
            self._conclude()

    def _conclude(self) -> None:
        """All jobs have ended: the rules of the end, and the final state once what they submitted has ended too."""
        if self.ending != "halted":
            self.drop()
        assert self.ending is not None
        if self.ending == "complete":
            self.ending, self.reason = verdict.judge(self)
        if not self.concluding:
            self.concluding = True
            terminated, self.closed = self.closed and self.ending != "cancelled", False
            if not terminated and not self.end_fired:
                self.end_fired = True
                for number in self.book.on("end", self.ending):
                    self._occasion(self.book.rules[number], f"end {self.ending}")
            self.closed = True
            if self.jobs:
                return
        self.final, self.t_end = self.ending, self.t
        self.ending = None
        if self.final != "halted":
            self.timers.clear()
        self._state_record()

    # ---- what goes out

    def emit(self, action: Action) -> None:
        self._out.append(action)

    def record(self, type: str, **data: Any) -> None:
        self._out.append(Record(self.t, type, data))

    def set_timer(self, name: str, at: float) -> None:
        self.timers[name] = at
        self._out.append(SetTimer(name, at))

    def _state_record(self) -> None:
        self.record("state", state=self.state, reason=self.reason)

    def _job_record(self, job: Job, event: str) -> None:
        data = {"job": job.id, "group": job.group, "event": event}
        if job.result is not None:
            data.update(result=job.result, cause=job.cause, exit_code=job.exit_code, signal=job.signal)
            if job.note:
                data["text"] = job.note
        self._out.append(Record(self.t, "job", data))
