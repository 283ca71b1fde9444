# SPDX-License-Identifier: MIT
"""Other rules on the events of a run that is past: when would each have fired?

Theory of operation. Two engines go side by side. The recorded one is given the rules and the events of the run as they were,
and so does again what was done then. The rehearsal has the other rules, and is told of the same events. Its jobs are those
of the recorded run, made known to it when the recorded engine submits them, with their groups, points and attempts; each
takes the fate that it had. What its own rules ask of the queue is not carried out but told: a submission, a cancel, a
signal to a job. What they do to the ensemble itself is: `set`, `enable`, `disable`, `signal`, `log`, `stop`,
`terminate`. Its timers, heartbeats and cooldowns are its own, and run on the times of the events.

What follows from that, and must be told with the result (`docs: guide, Replaying`):
- A group of a name that the other rules do not know is left out, with the events of its jobs.
- A job that the other rules would have submitted, and that the recorded run has not, has no events.
- Once the other rules have stopped or ended the ensemble, jobs that were submitted later are left out.
- A function is not called. Where both files have the same functions and the same rule calls one at the same event, what it
  answered then is taken; else the call does nothing.
- It falls idle when the recorded run does, and only if no job is missing that it would have submitted.

Law of this file: nothing here is a part of a running ensemble; engines are told what happens through `handle`, and what a
rehearsal holds of jobs is changed between two events, here alone.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ensemble.engine import acting, calls, life, points, targets
from ensemble.engine.acting import Firing
from ensemble.engine.actions import Action, Call, Record, Submit
from ensemble.engine.engine import Engine
from ensemble.engine.events import Answered, Event, Key, TimerExpired, Unable
from ensemble.engine.jobs import FINISHED, RUNNING, Job
from ensemble.engine.submissions import Batch, Held
from ensemble.errors import TransitionError
from ensemble.spec.models import COUNTS, Spec
from ensemble.spec.models import Action as Said
from ensemble.spec.reports import declared

#: a timer that no engine sets: an event that changes nothing, after which an engine looks around
_NUDGE = "rehearsal"


class Did(NamedTuple):
    """What a firing did, and with how many jobs where it is about jobs."""

    action: str
    label: Optional[str]
    jobs: Optional[int]
    text: str


class Fired(NamedTuple):
    """One firing. `did` is what it did, as records tell it; answers of functions add to it later."""

    t: float
    rule: str
    firing: int
    trigger: str
    event: str
    did: List[Did]


class Firings:
    """The firings of an engine, in order, read from what it records."""

    def __init__(self) -> None:
        self.all: List[Fired] = []
        self._known: Dict[Tuple[str, int], Fired] = {}
        self._last: Dict[str, Fired] = {}

    def read(self, actions: List[Action]) -> None:
        for action in actions:
            if not isinstance(action, Record):
                continue
            data = action.data
            if action.type == "rule":
                fired = Fired(action.t, data["rule"], data["firing"], data["trigger"], data["text"], [])
                self.all.append(fired)
                self._known[fired.rule, fired.firing] = self._last[fired.rule] = fired
            elif action.type == "action":
                about = self._known.get((data["rule"], data["firing"]))
                if about is not None:
                    about.did.append(Did(data["action"], data["label"], data["count"], data["text"]))
            elif action.type in ("log", "error") and data.get("rule") in self._last:
                about = self._last[data["rule"]]
                if about.t == action.t:
                    about.did.append(Did(action.type, None, None, f"{action.type}: {data['text']}"))


class Recorded:
    """The run as it was: its own rules, on its own events."""

    def __init__(self, spec: Spec, id: str) -> None:
        self.engine = Engine(spec, id)
        self.engine.hands = {**acting.ACTIONS, "submit": self._submit}
        self.firings = Firings()
        #: jobs submitted by the last event, by group; and in all
        self.more: Dict[str, int] = {}
        self.submitted: Dict[str, int] = dict.fromkeys(self.engine.groups, 0)
        #: it is idle, or was for a moment of the last event
        self.idle = False

    def feed(self, event: Event) -> List[Action]:
        """Give it the next event; what it answers. Raises what a broken engine raises."""
        self.more = {}
        actions: List[Action] = []
        falls = self.engine.falls
        # such an event was dropped then, too
        with contextlib.suppress(TransitionError):
            actions = self.engine.handle(event)
        self.idle = self.engine.idle_seen or self.engine.falls > falls or self.engine.final is not None
        self.firings.read(actions)
        return actions

    def _submit(self, firing: Firing, action: Said, only: Optional[int] = None) -> None:
        group = action.label or ""
        before = self.engine.unfinished[group]
        acting.submit(firing, action, only)
        count = self.engine.unfinished[group] - before
        self.more[group] = self.more.get(group, 0) + count
        self.submitted[group] += count


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
        self._calls: Dict[str, str] = {}
        self._twin: Optional[Job] = None

    def feed(self, event: Event) -> None:
        """The next event of the run, to both."""
        if self.engine.final is None:
            self._run_timers(event.t)
        was = self._twin = self._job(event)
        fate = None if was is None else (was.doomed, was.killed)
        actions = self.recorded.feed(event)
        pending = self.recorded.engine.calls.pending
        self._calls = {a.call: pending[a.call].function for a in actions if isinstance(a, Call) and a.call in pending}
        if self.engine.final is None:
            self._expect()
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
        if isinstance(event, (TimerExpired, Unable)):
            return TimerExpired(event.t, _NUDGE)
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
            self._handle(TimerExpired(at, name))

    def _settle(self) -> None:
        """After an event: have the rules see what has changed between it and the next."""
        engine = self.engine
        if not self.recorded.engine.looking:
            # what was not counted then is not counted now
            engine.looking = False
        for group, unfinished in engine.unfinished.items():
            left = self.recorded.engine.unfinished.get(group, unfinished)
            if self._over:
                # what was held is dropped with the end; a limit that halts only holds it longer
                left = unfinished
                if engine.ending != "halted" and engine.final != "halted":
                    left = sum(job.result is None for job in engine.group_jobs[group].values())
            if left < unfinished:
                self._drop(group, unfinished - left)
        if engine.tally.due or engine.completed or self.recorded.idle:
            self._handle(TimerExpired(engine.t, _NUDGE))
        self._run_timers(engine.t)

    def _busy(self) -> bool:
        """Does something go on that these rules do not know of, the recorded run or jobs that were never submitted?"""
        return not self.recorded.idle or bool(self.unknown) or any(n > self.given[g] for g, n in self.would.items())

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

    def _expect(self) -> None:
        """What the recorded run submits at this event counts from its beginning on, as it did then."""
        if self._over:
            return
        tally = self.engine.tally
        for group, count in self.recorded.more.items():
            if group in self.engine.unfinished:
                self.engine.unfinished[group] += count
                tally.bump(group, "active", count)
                tally.touch("active")

    def _admit(self, actions: List[Action]) -> None:
        """The jobs that the recorded engine submits become jobs of these rules."""
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
                self.given[group] += not key.attempt

    def _make(self, key: Key, action: Submit, job: Optional[Job]) -> None:
        last = len(self.engine.groups[action.group]) - 1
        batch = Batch(
            key.rule, key.firing, action.group, min(action.set, last), key.index, 1, action.overrides, key.attempt,
            losses=job.losses if job is not None else 0, tries=job.tries if job is not None else 0,
            points=[action.params] if action.params else [],
        )  # fmt: skip
        acting.make_job(self.engine, batch)

    def _drop(self, group: str, count: int) -> None:
        """Submissions that were held, or waited to be tried again, are dropped: in the recorded run, or at an end here."""
        life.less(self.engine, group, count)
        if self._over:
            return
        counts, then = self.engine.tally.counts[group], self.recorded.engine.tally.counts[group]
        for name in COUNTS:
            if counts[name] != then[name]:
                self.engine.tally.bump(group, name, then[name] - counts[name])

    def _plan(self, engine: Engine, job: Job) -> Optional[Tuple[Batch, float]]:
        """Is the job tried again? As it was then, whatever these rules' file says of retries."""
        if self._twin is None or self._twin.key != job.key or self._twin.result != "retried" or engine.concluding:
            return None
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
        firing.tell(action, f"submit {group} ({total} job{'s' if total != 1 else ''})", total)

    @staticmethod
    def _told(verb: str, states: Tuple[str, ...]) -> Callable[[Firing, Said], None]:
        def tell(firing: Firing, action: Said) -> None:
            found = [job for job in targets.chosen(firing, action) if job.state != FINISHED]
            count = sum(not states or job.state in states for job in found)
            of = f"{action.label}" if action.job is None else "the job"
            firing.tell(action, f"{verb} {of} ({count} job{'s' if count != 1 else ''})", count)

        return tell

    def _custom(self, firing: Firing, action: Said) -> None:
        function = action.label or ""
        id = f"{firing.rule.id}/{firing.number}/{firing.calls}"
        if self._calls.get(id) == function and self.engine.spec.custom == self.recorded.engine.spec.custom:
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
