# SPDX-License-Identifier: MIT
"""The engine of one ensemble: `handle(event) -> [action]`, the only mutator.

Theory of operation. An event first moves the job it speaks of (`jobs.LIFE`), which changes counts and statistics
and notes the job triggers that it fired. Then, in this order: job triggers, metric rules whose metrics changed,
group-complete, idle and the end; rules in file order, a rule's actions in order. Submissions go through `held`, so
that a pause or a limit keeps their order. What a firing asks for is sent as actions; what became of it comes back
as events. Time is the greatest timestamp seen so far. Nothing here reads a clock, draws a number, or does I/O, so
the same events in the same order give the same actions, and a snapshot restored answers as the original would.

An exception inside a rule marks that rule as failed and ends the ensemble as `stop` would, in state failed.
The steps of a job's life stand in `life.py`, what actions do in `acting.py`, timers in `timers.py`, what users ask in
`commands.py`, limits and the end in `ending.py`, snapshots in `snapshot.py`; they are this class's hands, and are called from `handle` alone. What is left are more than
400 lines, because each kind of event has its taker here, next to the state that it changes.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, List, Optional, Set, Tuple

from ensemble.engine import (
    acting,
    asking,
    calls,
    commands,
    enabling,
    ending,
    life,
    places,
    reports,
    resources,
    scaling,
    signals,
    timers,
)
from ensemble.engine.actions import Action, Record, SetTimer
from ensemble.engine.ending import AGAIN
from ensemble.engine.events import (
    BASE_EVENTS,
    JOB_EVENTS,
    RESOURCES,
    Acknowledged,
    ActionDone,
    Answered,
    Begin,
    Command,
    Counted,
    Event,
    Frozen,
    InDoubt,
    JobEvent,
    Key,
    Lost,
    MemberChanged,
    Printed,
    Recovered,
    Refused,
    Report,
    Resources,
    Scaled,
    Signal,
    TimerExpired,
)
from ensemble.engine.jobs import PENDING, RUNNING, Job
from ensemble.engine.occasion import Occasion
from ensemble.engine.points import Samples
from ensemble.engine.retries import Waiting, plan
from ensemble.engine.rules import CLOSED, FAILED, FALSE, FIRE, LATER, LIMITED, RESTING, RuleBook, RuleState
from ensemble.engine.submissions import Held
from ensemble.engine.tally import Tally
from ensemble.engine.values import Values
from ensemble.errors import InternalError, RuleError
from ensemble.spec.check import heartbeat_period
from ensemble.spec.models import EVENT_TRIGGERS, RESOURCE_TRIGGERS, STATE_TRIGGERS, Spec
from ensemble.spec.reports import declared

#: events of RFC 21 that a job has once; seen again, they are repeats after a lost connection
_ONCE = frozenset({"submit", "validate", "depend", "alloc", "start", "free", "clean", "invalidate"})


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
        #: name -> value, None while it has none; `set` changes them
        self.variables: Dict[str, Any] = dict(spec.variables)
        self.values = Values(self)
        #: seconds between two heartbeats; 0 is off
        self.period = heartbeat_period(spec)
        self.book = RuleBook(spec)
        reported = {group: declared(sets) for group, sets in self.groups.items()}
        self.tally = Tally(self.groups, self.book.reads, self.book.shows, reported)
        self.held = Held()
        self.waiting = Waiting()
        self.calls = calls.Calls()
        #: the points of groups with parameters; of each set how many were taken
        self.samples = Samples(self.groups)
        #: what functions have answered and nothing has taken yet: "group/set" to points
        self.answered: Dict[str, List[Any]] = {}
        self.taken: Dict[str, List[int]] = {group: [0] * len(sets) for group, sets in self.groups.items()}
        self.jobs: Dict[Key, Job] = {}
        self.group_jobs: Dict[str, Dict[Key, Job]] = {group: {} for group in self.groups}
        self.by_id: Dict[int, Job] = {}
        #: jobs of each group that have not ended: held, submitting, pending, running
        self.unfinished: Dict[str, int] = dict.fromkeys(self.groups, 0)
        #: jobs ever sent to the member
        self.sent = 0
        #: jobs sent and not answered yet
        self.unanswered = 0
        #: submissions that `submit_rate` allows now, and when that was counted
        self.allowance = 1.0
        self.t_allowance = 0.0
        #: when the instance began to go down; None while it is up
        self.t_frozen: Optional[float] = None
        #: timers that are set: name -> seconds since the epoch
        self.timers: Dict[str, float] = {}
        #: rules by number whose next firing waits for a greater `max_firings`, each with its `Occasion.to_json`
        self.postponed: List[Any] = []
        #: member -> up, down or gone; one that is not here has always been up
        self.places: Dict[str, str] = {}
        #: all jobs have ended, and what the rules of the end submitted is running
        self.concluding = False
        #: this fall into idleness has been looked at; and how many there were
        self.idle_seen = False
        self.falls = 0
        #: groups that have become complete since the last look
        self.completed: Set[str] = set()
        #: keys refused before their `submit` was seen, oldest first; value: the id once it is known
        self.refused: Dict[Key, Optional[int]] = {}
        #: signals of actions that are not events yet: name and data
        self.pending_signals: List[List[Any]] = []
        #: sources of signals, see `reports.told_before`
        self.signals_seen: Dict[str, Any] = {}
        #: the queue's numbers, `nodes`, `cores` and `queue`, as they were last told; and whether they are asked for
        self.resources: Dict[str, Dict[str, int]] = {}
        self.looking = False
        #: what waits for them, as `resources.py` has it; False: nothing does, in logs of before it did
        self.counting = resources.nothing()
        self.fresh = True
        #: the size of the queue that it wants, as `scaling.py` has it
        self.scaling = scaling.nothing()
        #: what firings do, by action, and what becomes of a job that has ended: a rehearsal has hands of its own
        self.hands = acting.ACTIONS
        self.plan = plan
        self.want()
        self._out: List[Action] = []
        self._occasions: List[Tuple[int, Occasion]] = []
        self._takers: Dict[type, Callable[[Any], None]] = {
            JobEvent: self._job_event,
            Acknowledged: self._acknowledged,
            Refused: self._refused,
            ActionDone: self._action_done,
            TimerExpired: lambda event: timers.take(self, event),
            Begin: self._begin,
            Command: lambda event: commands.take(self, event),
            Lost: self._lost,
            InDoubt: self._in_doubt,
            Frozen: self._freeze,
            Recovered: self._thaw,
            Answered: lambda event: calls.take(self, event),
            Report: lambda event: reports.take(self, event),
            Printed: lambda event: reports.printed(self, event),
            Signal: lambda event: signals.take(self, event),
            Resources: lambda event: resources.take(self, event),
            Counted: lambda event: resources.count(self, event),
            MemberChanged: lambda event: places.take(self, event),
            Scaled: lambda event: scaling.take(self, event),
        }

    @property
    def accompanied(self) -> bool:
        """Does another engine go on beside it, without which it does not fall idle? (`rehearsal.py`)"""
        return False

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
        self.fresh = event.fresh
        self.state_record()
        timers.arm(self)
        for rule in self.book.rules:
            timers.wind(self, rule)
        resources.look(self)
        enabling.begin(self)
        self.occur("start")

    def want(self) -> None:
        """Name the job events of RFC 21 that are needed beyond BASE_EVENTS."""
        needed = JOB_EVENTS if self.spec.logging.debug else self.book.on_event
        self.wanted_events = frozenset(needed) - {*BASE_EVENTS}
        if self.book.names_ranks:
            # only the allocation tells where a job runs
            self.wanted_events |= {"alloc"}
        if resources.wanted(self) or any(self.book.on(trigger) for trigger in RESOURCE_TRIGGERS):
            self.wanted_events |= {RESOURCES}

    def joined(self, rule: RuleState) -> None:
        """A rule was added while the ensemble runs: what it waits for counts from now on."""
        if not ending.stopped(self):
            timers.arm(self)
            timers.wind(self, rule)
            resources.look(self)
        if rule.rule.trigger == "start":
            self.occasion(rule, Occasion("start"))
        elif rule.rule.when is not None and rule.rule.trigger == "metric":
            self.tally.due.add(rule.number)
        enabling.joined(self, rule)

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
            life.identify(self, job, event.id)
        else:
            found = self.by_id.get(event.id)
            if found is None:
                if name == "start":
                    life.stray(self, event.id)
                return
            job = found
        if name == "alloc" and "ranks" in event.context:
            job.ranks = str(event.context["ranks"])
        life.advance(self, job, name, event)
        if self.spec.logging.debug:
            life.tell(self, job, event)
        triggers = self.book.on_event.get(name)
        if triggers:
            for trigger in triggers:
                self._job_trigger(job, trigger, event)

    def _job_trigger(self, job: Job, trigger: str, event: JobEvent) -> None:
        if trigger == "job-cleanup" and event.name == "exception" and event.context.get("severity", 0) != 0:
            return
        if trigger in STATE_TRIGGERS or event.name in _ONCE:
            if trigger in job.entered:
                return
            job.entered = (*job.entered, trigger)
        else:
            job.heard = job.heard or {}
            if event.t <= job.heard.get(trigger, -1.0):
                return
            job.heard[trigger] = event.t
        if trigger in EVENT_TRIGGERS:
            self.occur(trigger, job.group, job, data=event.context)
        else:
            self.occur(trigger, job.group, job)

    def _acknowledged(self, event: Acknowledged) -> None:
        job = self.jobs.get(event.key)
        if job is not None:
            life.identify(self, job, event.id)
            life.advance(self, job, "acknowledged", event)

    def _refused(self, event: Refused) -> None:
        job = self.jobs.get(event.key)
        if job is not None:
            life.advance(self, job, "refused", event)

    def _lost(self, event: Lost) -> None:
        job = self.by_id.get(event.id)
        if job is not None:
            life.advance(self, job, "lost", event)

    def _in_doubt(self, event: InDoubt) -> None:
        job = self.jobs.get(event.key)
        if job is not None:
            life.advance(self, job, "in-doubt", event)

    def _freeze(self, event: Frozen) -> None:
        if self.t_frozen is None:
            self.t_frozen = event.t

    def _thaw(self, event: Recovered) -> None:
        self.t_frozen = None
        life.answers_lost(self, event)

    def _action_done(self, event: ActionDone) -> None:
        job = self.by_id.get(event.id)
        # of one that has begun to run meanwhile the urgency says nothing more
        held = (PENDING,) if event.action == "urgency" else (PENDING, RUNNING)
        if event.error and job is not None and job.state in held:
            self.record("error", text=f"{event.action} of a job of {job.group} failed: {event.error}", job=event.id)

    # ---- rules

    def occur(self, trigger: str, name: Optional[str] = None, job: Optional[Job] = None, **fields: Any) -> None:
        """An event with that trigger, about that name: an occasion of the rules on it, once the event is taken in."""
        numbers = self.book.on(trigger, name)
        if numbers:
            occasion = Occasion(trigger if name is None else f"{trigger} {name}", job, **fields)
            self._occasions.extend((number, occasion) for number in numbers)

    def occasions(self, found: Iterable[Tuple[int, Occasion]]) -> None:
        """Occasions of rules, by number, once the event is taken in."""
        self._occasions.extend(found)

    def _settle(self) -> None:
        rules = self.book.rules
        if self._occasions:
            occasions, self._occasions = sorted(self._occasions, key=lambda o: o[0]), []
            for number, occasion in occasions:
                self.occasion(rules[number], occasion)
        if self.tally.due:
            due, self.tally.due = sorted(self.tally.due), set()
            for number in due:
                self._metric_occasion(rules[number])
        if self.completed:
            # a submission that waits for its points is unfinished too
            completed, self.completed = self.completed, {g for g in self.completed if asking.awaited(self, g)}
            done = (g for g in completed - self.completed if not self.unfinished[g])
            found = sorted((n, g) for g in done for n in self.book.on("group-complete", g))
            for number, group in found:
                self.occasion(rules[number], Occasion(f"group-complete {group}", group=group))
        if self.held.total:
            ending.pump(self)
        again = bool(self.tally.due) or any(not asking.awaited(self, g) for g in self.completed)
        if again and not self.closed and AGAIN not in self.timers:
            # what this event's own actions changed is looked at as an event of its own: no loop inside `handle`
            self.set_timer(AGAIN, self.t)
        ending.look(self)

    def _metric_occasion(self, rule: RuleState) -> None:
        if self.closed or not rule.live:
            rule.looked = (self.t, CLOSED if self.closed else RESTING, None, None)
            return
        value = None
        try:
            value = None if rule.metric is None else self.values.metric(rule.metric)
            occasion = self.values.due(rule, value)
        except Exception as exc:
            rule.looked = (self.t, FAILED, None, value)
            self.fail_rule(rule, exc)
            return
        if occasion is None:
            rule.looked = (self.t, FALSE, None, value)
        else:
            self.admit(rule, occasion)

    def occasion(self, rule: RuleState, occasion: Occasion) -> None:
        """An event that the trigger of the rule matches: if the condition holds, an occasion."""
        if self.closed or not rule.live:
            rule.looked = (self.t, CLOSED if self.closed else RESTING, occasion.text, None)
            return
        try:
            holds = self.values.holds(rule, occasion)
        except Exception as exc:
            rule.looked = (self.t, FAILED, occasion.text, None)
            self.fail_rule(rule, exc)
            return
        if holds:
            self.admit(rule, occasion)
        else:
            rule.looked = (self.t, FALSE, occasion.text, None)

    def admit(self, rule: RuleState, occasion: Occasion) -> None:
        """An occasion of the rule: through its gate, and perhaps a firing."""
        if self.closed or self.final is not None:
            return
        gate = rule.gate(self.t)
        rule.looked = (self.t, gate, occasion.text, None)
        if gate is LATER:
            timer = rule.cooldown_timer()
            self.set_timer(timer.timer, timer.at)
        if gate is not FIRE:
            return
        if rule.limited and rule.fired >= self.limits["max_firings"] and not self.concluding:
            self.postponed.append([rule.number, occasion.to_json()])
            rule.looked = (self.t, LIMITED, occasion.text, None)
            ending.halt(self, "max_firings", f"rule '{rule.id}' has fired {rule.fired} times")
            return
        self.fire(rule, occasion)

    def fire(self, rule: RuleState, occasion: Occasion) -> None:
        """A firing: spend it, and carry out the actions. An exception fails the rule."""
        firing = rule.fire(self.t)
        told = {"trigger": rule.rule.trigger, "firing": firing, "remaining": rule.remaining, "text": occasion.text}
        self.record("rule", rule=rule.id, **told)
        try:
            acting.act(self, rule, firing, occasion)
        except Exception as exc:
            self.fail_rule(rule, exc)

    def fail_rule(self, rule: RuleState, exc: Exception) -> None:
        """The rule raised: its `on_error` says whether the ensemble stops, to end failed, or it rests, or goes on."""
        text = str(exc) if isinstance(exc, (RuleError, calls.FunctionFailed)) else f"{type(exc).__name__}: {exc}"
        rule.fail(text, self.t)
        self.record("error", rule=rule.id, text=f"rule '{rule.id}' failed: {rule.error}")
        if rule.failed:
            self.decreed = "failed"
            ending.end(self, "failed", f"rule '{rule.id}' failed: {rule.error}")

    # ---- what goes out

    def emit(self, action: Action) -> None:
        self._out.append(action)

    def record(self, type: str, **data: Any) -> None:
        self._out.append(Record(self.t, type, data))

    def set_timer(self, name: str, at: float) -> None:
        self.timers[name] = at
        self._out.append(SetTimer(name, at))

    def state_record(self) -> None:
        self.record("state", state=self.state, reason=self.reason)
