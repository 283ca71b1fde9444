# SPDX-License-Identifier: MIT
"""Other rules on the events of a run that is past: when would each have fired?

Theory of operation. Two engines go side by side. The recorded one is given the rules and the events of the run as they were,
and so does again what was done then. The rehearsal has the other rules, and is told of the same events. Its jobs are those
of the recorded run, made known to it when the recorded engine sends them, with their groups, points and attempts; each
takes the fate that it had, and the place of one that the other rules would have submitted, where they would have. What its own rules ask of the queue is not carried out but told: a submission, a cancel, a
signal to a job. What they do to the ensemble itself is: `set`, `enable`, `disable`, `signal`, `log`, `stop`,
`terminate`. Its timers, heartbeats and cooldowns are its own, and run on the times of the events.

What follows from that, and must be told with the result (`docs: guide, Replaying`):
- A group of a name that the other rules do not know is left out, with the events of its jobs.
- A job that the other rules would have submitted, and that the recorded run has not, has no events: it stays unfinished, and
  keeps its group from being complete and the ensemble from falling idle.
- Once the other rules have stopped or ended the ensemble, jobs that were submitted later are left out.
- A function is not called. Where both files have the same functions and the same rule calls one with the same arguments at the
  same event, what it answered then is taken; else the call does nothing.
- It falls idle only when the recorded run does.

Law of this file: nothing here is a part of a running ensemble; engines are told what happens through `handle`, and what a
rehearsal holds of jobs is changed between two events, here alone.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from ensemble.engine import acting, calls, life, points, targets
from ensemble.engine.acting import Firing
from ensemble.engine.actions import Action, Call, Submit
from ensemble.engine.engine import Engine
from ensemble.engine.events import Answered, Counted, Event, Key, Scaled, TimerExpired
from ensemble.engine.jobs import FINISHED, RUNNING, Job
from ensemble.engine.recorded import Firings, Recorded
from ensemble.engine.submissions import Batch, Held
from ensemble.errors import TransitionError
from ensemble.spec.models import COUNTS, Spec
from ensemble.spec.models import Action as Said
from ensemble.spec.reports import declared

#: a timer that no engine sets: an event that changes nothing, after which an engine looks around
_NUDGE = "rehearsal"


class _Nothing(Held):
    """Holds no submission: those of a rehearsal are not carried out."""

    def put(self, batch: Batch) -> None:
        return


class _Accompanied(Engine):
    """An engine that falls idle only when it may."""

    def __init__(self, spec: Spec, id: str, busy: Callable[[], bool]) -> None:
        self._busy = busy
        super().__init__(spec, id)

    @property
    def accompanied(self) -> bool:
        return self._busy()


class Rehearsal:
    """The other rules beside the recorded run."""

    def __init__(self, spec: Spec, recorded: Recorded) -> None:
        self.recorded = recorded
        self.engine: Engine = _Accompanied(spec, recorded.engine.id, self._busy)
        engine = self.engine
        engine.held = _Nothing()
        engine.plan = self._plan
        engine.hands = {
            **acting.ACTIONS,
            "submit": self._submit,
            "cancel": self._told("cancel", ()),
            "kill": self._told("kill", (RUNNING,)),
            "urgency": self._told("urgency of", ()),
            "custom": self._custom,
            "grow": self._resize,
            "shrink": self._resize,
        }
        self.firings = Firings()
        #: jobs that the rules would have submitted, by group; and those whose number a function would have said
        self.would: Dict[str, int] = dict.fromkeys(engine.groups, 0)
        self.unknown: Dict[str, int] = {}
        #: jobs of the recorded run that these rules were told of, by group
        self.given: Dict[str, int] = dict.fromkeys(engine.groups, 0)
        #: jobs of groups that these rules do not know, and jobs submitted after these rules had ended the ensemble
        self.ignored: Dict[str, int] = {}
        self.late = 0
        #: calls that were not made, by function, and those whose recorded answers were taken
        self.not_called: Dict[str, int] = {}
        self.answered: Dict[str, int] = {}
        #: when these rules, or a limit, have set it on its way to an end, and to which
        self.ending: Optional[Tuple[float, str, str]] = None
        #: calls that the recorded run has made at this event
        self._calls: Dict[str, calls.Pending] = {}
        self._twin: Optional[Job] = None
        #: of the jobs that the rules would have submitted, those that they would have dropped before they were sent
        self._dropped: Dict[str, int] = dict.fromkeys(engine.groups, 0)
        #: of the unfinished jobs of a group, those that are none here: not sent, missing, or waiting to be tried again
        self._extra: Dict[str, int] = dict.fromkeys(engine.groups, 0)
        #: jobs that wait to be tried again
        self._again: Dict[str, int] = dict.fromkeys(engine.groups, 0)
        #: groups whose `_extra` is to be looked at, and what it depended on then
        self._touched: Set[str] = set()
        self._held: Tuple[Dict[str, int], int] = ({}, 0)
        #: the change of the queue's size that was on its way then, and the requests that were not answered
        self._scaling: Tuple[Any, Dict[str, Any]] = (None, {})

    def feed(self, event: Event) -> None:
        """The next event of the run, to both."""
        if self.engine.final is None:
            self._run_timers(event.t)
        was = self._twin = self._job(event)
        fate = None if was is None else (was.doomed, was.killed)
        then = self.recorded.engine.scaling
        self._scaling = then["open"], dict(then["asked"])
        actions = self.recorded.feed(event)
        pending = self.recorded.engine.calls.pending
        self._calls = {a.call: pending[a.call] for a in actions if isinstance(a, Call) and a.call in pending}
        if self.engine.final is None:
            if fate is not None and was is not None:
                job = self.engine.jobs.get(was.key)
                if job is not None:
                    job.doomed, job.killed = fate
            self._handle(self._mine(event))
        self._admit(actions)
        if self.engine.final is None:
            self._settle()

    # ---- events

    def _mine(self, event: Event) -> Event:
        """The event as these rules hear of it: timers are not theirs, nor answers to calls that they have not made."""
        if isinstance(event, TimerExpired):
            return TimerExpired(event.t, _NUDGE)
        if isinstance(event, Scaled):
            # what became of the queue then is a fact for these rules as well, whoever has asked for it
            if event.name in ("finish", "fail"):
                self.engine.scaling["open"] = self._scaling[0]
            else:
                self.engine.scaling["asked"] = self._scaling[1] if event.name == "refused" else {}
        if isinstance(event, Answered):
            if event.call not in self.engine.calls.pending:
                return TimerExpired(event.t, _NUDGE)
            function = self.engine.calls.pending[event.call].function
            self.answered[function] = self.answered.get(function, 0) + 1
        return event

    def _handle(self, event: Event) -> None:
        actions: List[Action] = []
        with contextlib.suppress(TransitionError):
            actions = self.engine.handle(event)
        self.firings.read(actions)
        engine = self.engine
        if engine.ending is None and engine.final is None:
            self.ending = None
        else:
            t = engine.t if self.ending is None else self.ending[0]
            self.ending = (t, engine.final or engine.ending or "", engine.reason or "")

    def _run_timers(self, until: float) -> None:
        """Let the timers run out whose time comes before then."""
        engine = self.engine
        while engine.final is None and engine.timers:
            at, name = min((at, name) for name, at in engine.timers.items())
            if at > until:
                return
            if at > engine.t and self._uncounted():
                continue
            self._handle(TimerExpired(at, name))

    def _settle(self) -> None:
        """After an event: have the rules see what has changed between it and the next."""
        engine = self.engine
        self._uncounted()
        self._balance()
        if engine.tally.due or engine.completed or self.recorded.idle:
            self._handle(TimerExpired(engine.t, _NUDGE))
        self._run_timers(engine.t)

    def _uncounted(self) -> bool:
        """What was not counted then is not counted now, and not waited for; was anything?"""
        if not self.engine.looking or self.recorded.engine.looking:
            return False
        self.engine.counting["again"] = False
        self._handle(Counted(self.engine.t))
        return True

    def _busy(self) -> bool:
        """Does something go on that these rules do not know of, the recorded run or jobs that were never submitted?"""
        return not self.recorded.idle or bool(self.unknown) or any(map(self._missing, self.would))

    # ---- jobs

    def _job(self, event: Event) -> Optional[Job]:
        """The recorded job that the event is about."""
        key: Any = getattr(event, "key", None)
        if key is not None:
            return self.recorded.engine.jobs.get(key)
        id: Any = getattr(event, "id", None)
        return self.recorded.engine.by_id.get(id) if isinstance(id, int) else None

    @property
    def _over(self) -> bool:
        """Would nothing more be submitted?"""
        return self.engine.closed or self.engine.ending is not None or self.engine.final is not None

    def _missing(self, group: str) -> int:
        """Jobs that the rules would have submitted, and the run has not until now."""
        return max(0, self.would[group] - self._dropped[group] - self.given[group])

    def _balance(self) -> None:
        """Count as unfinished what is: jobs of the run that are held or wait to be tried again, and those that are missing."""
        run, groups = self.recorded.engine, self._touched
        held = (dict(run.held.waiting), len(run.waiting))
        if held != self._held:
            groups |= {*held[0], *self._held[0], *(group for group, n in self._again.items() if n)}
            self._held = held
        if self._over:
            # what was held is dropped with the end; a limit that halts only holds it longer
            halted = "halted" in (self.engine.ending, self.engine.final)
            groups = set() if halted else {group for group, extra in self._extra.items() if extra}
        self._touched = set()
        for group in sorted(groups & set(self._extra)):
            waiting = run.held.waiting.get(group, 0) + sum(batch.group == group for batch in run.waiting)
            again = min(self._again[group], waiting)
            want = 0 if self._over else again + max(self._missing(group), waiting - again)
            self._unfinished(group, want - self._extra[group])
            self._extra[group] = want

    def _unfinished(self, group: str, by: int) -> None:
        """So many more are unfinished, or fewer."""
        engine = self.engine
        if by > 0:
            engine.unfinished[group] += by
            engine.tally.bump(group, "active", by)
            engine.tally.touch("active")
        elif by < 0:
            life.less(engine, group, -by)
            counts, then = engine.tally.counts[group], self.recorded.engine.tally.counts.get(group)
            for name in COUNTS if then is not None and not self._over else ():
                # one that waited to be tried again and was dropped has ended
                if name != "active" and counts[name] != then[name]:  # type: ignore[index]
                    engine.tally.bump(group, name, then[name] - counts[name])  # type: ignore[index]

    def _admit(self, actions: List[Action]) -> None:
        """The jobs that the recorded engine sends become jobs of these rules."""
        for action in actions:
            if not isinstance(action, Submit):
                continue
            key, group = action.key, action.group
            if group not in self.engine.groups:
                self.ignored[group] = self.ignored.get(group, 0) + (not key.attempt)
            elif self._over:
                self.late += not key.attempt
            else:
                self._make(key, action, self.recorded.engine.jobs.get(key))
                self._touched.add(group)
                if key.attempt:
                    self._again[group] -= 1
                else:
                    self.given[group] += 1
                if self._extra[group]:
                    self._extra[group] -= 1
                else:
                    self._unfinished(group, 1)

    def _make(self, key: Key, action: Submit, job: Optional[Job]) -> None:
        last = len(self.engine.groups[action.group]) - 1
        batch = Batch(
            key.rule, key.firing, action.group, min(action.set, last), key.index, 1, action.overrides, key.attempt,
            losses=job.losses if job is not None else 0, tries=job.tries if job is not None else 0,
            points=[action.params] if action.params else [],
        )  # fmt: skip
        acting.make_job(self.engine, batch)

    def _plan(self, engine: Engine, job: Job) -> Optional[Tuple[Batch, float]]:
        """Is the job tried again? As it was then, whatever these rules' file says of retries."""
        if self._twin is None or self._twin.key != job.key or self._twin.result != "retried" or engine.concluding:
            return None
        self._again[job.group] += 1
        self._extra[job.group] += 1
        self._touched.add(job.group)
        return Batch(job.key.rule, job.key.firing, job.group, job.set, job.key.index, 1, {}), 0.0

    # ---- what is told and not done

    def _submit(self, firing: Firing, action: Said, only: Optional[int] = None) -> None:
        engine, group = self.engine, action.label or ""
        asked = firing.amount(action, "count")
        total = unknown = 0
        for number, jobs in enumerate(engine.groups[group]):
            space = jobs.parameters
            if action.parameters is None and space is not None and space.custom is not None:
                # it takes what the function answers, up to that many
                unknown += 1
                firing.tell(action, f"submit {group}, as many as {space.custom} would have said points")
                self._count(space.custom)
                continue
            total += points.take(engine, action, asked, group, number, jobs).jobs
        if self._over and engine.ending != "halted" and not engine.concluding:
            firing.tell(action, f"nothing is submitted: the ensemble is {engine.state}", 0)
            return
        if unknown:
            self.unknown[group] = self.unknown.get(group, 0) + unknown
            if not total:
                return
        self.would[group] += total
        if not self._over:
            self._extra[group] += total
            self._unfinished(group, total)
            self._touched.add(group)
        firing.tell(action, f"submit {group} ({total} job{'s' if total != 1 else ''})", total)

    def _told(self, verb: str, states: Tuple[str, ...]) -> Callable[[Firing, Said], None]:
        def tell(firing: Firing, action: Said) -> None:
            found = [job for job in targets.chosen(firing, action) if job.state != FINISHED]
            count = sum(not states or job.state in states for job in found)
            if verb == "cancel" and action.job is None and action.state != "running":
                count += self._drop(None if action.label == "all" else action.label)
            of = f"{action.label}" if action.job is None else "the job"
            firing.tell(action, f"{verb} {of} ({count} job{'s' if count != 1 else ''})", count)

        return tell

    def _drop(self, wanted: Optional[str]) -> int:
        """The rules would have dropped what was not sent yet, of that group or of all; how many."""
        count = 0
        for group in self.would if wanted is None else (wanted,):
            missing = self._missing(group)
            self._dropped[group] += missing
            self._touched.add(group)
            count += missing
        return count

    def _custom(self, firing: Firing, action: Said) -> None:
        function = action.label or ""
        id = f"{firing.rule.id}/{firing.number}/{firing.calls}"
        then = self._calls.get(id)
        same = then is not None and then.function == function and then.action == action.model_dump(exclude_none=True)
        if same and self.engine.spec.custom == self.recorded.engine.spec.custom:
            # with the same arguments, which for an algorithm are its options
            calls.call(firing, action)
            return
        self._count(function)
        firing.tell(action, f"call {function} (not called)")

    def _count(self, function: str) -> None:
        self.not_called[function] = self.not_called.get(function, 0) + 1

    def _resize(self, firing: Firing, action: Said) -> None:
        by = firing.amount(action, "value") or 1
        firing.tell(action, f"{action.name} by {by} node{'s' if by != 1 else ''}")


def parsed_elsewhere(recorded: Engine, other: Engine) -> List[str]:
    """Variables that rules of `other` read, and of which the recorded run has parsed no output."""
    found = []
    for group, sets in other.groups.items():
        then = declared(recorded.groups.get(group, ()))
        for name, variable in declared(sets).items():
            if variable.regex is not None and (name not in then or then[name].regex != variable.regex):
                found.append(f"{group}.{name}")
    return found
