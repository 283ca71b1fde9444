# SPDX-License-Identifier: MIT
"""Rules as the engine keeps them: what each reads, and the gates between an occasion and a firing.

Law of this file: a rule decides alone whether an occasion becomes a firing (`gate`); what a firing does is the
engine's. Rules are indexed by what they read, so that an event costs what it touches.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Mapping, Optional, Set, Tuple, Union

from ensemble.engine.actions import SetTimer
from ensemble.errors import RecordError
from ensemble.spec import arithmetic, expression, metrics, reading
from ensemble.spec import condition as conditions
from ensemble.spec.condition import Condition
from ensemble.spec.expression import Expression, Read
from ensemble.spec.metrics import Metric
from ensemble.spec.models import EVENT_TRIGGERS, JOB_TRIGGERS, SCALE_TRIGGERS, STATE_TRIGGERS, JobSet, Rule, Spec
from ensemble.spec.places import MEMBER_TRIGGERS
from ensemble.spec.reports import declared

COOLDOWN = "cooldown:"
#: trigger -> actions that may lead to it at once
_WAKES = {"metric": ("set",), "signal": ("signal",)}
#: triggers whose rules may be about one name
_NAMED = frozenset((*JOB_TRIGGERS, "group-complete", "end", "report", "signal", *MEMBER_TRIGGERS))
#: statistics that are kept of every group where functions take part
FOR_FUNCTIONS = ("n", "last", "sum", "mean", "variance", "std", "sem", "min", "max", "iqr", "mad", "median")

#: heartbeat rules with one of these actions keep an ensemble alive, and rules on one of these triggers do
_LASTING = ("submit", "custom")
_AWAITED = ("signal",)

#: answers of `RuleState.gate`: a firing, or why there is none; LATER is a cooldown whose end is looked at once more
FIRE, LATER, COOLING, SKIPPED, RESTING = "fired", "later", "cooldown", "backoff", "resting"
#: what else may become of an event that a rule looks at: its condition does not hold or cannot be computed, it has
#: fired as often as `max_firings` allows, or nothing fires any more
FALSE, FAILED, LIMITED, CLOSED = "false", "error", "limit", "closed"

#: firings whose times are remembered of each rule
_TIMES = 3
#: characters kept of a text that an event had: more than any text of an expression, which none of these equals
_LONGEST = 2001


class RuleState:
    """One rule: its file's words compiled, and how far it has come."""

    __slots__ = (
        "condition",
        "counts",
        "enabled",
        "error",
        "events",
        "failed",
        "fired",
        "looked",
        "metric",
        "missed",
        "number",
        "rule",
        "seen",
        "skip",
        "switched",
        "times",
        "until",
    )

    def __init__(
        self, number: int, rule: Rule, metric: Optional[Metric], condition: Union[Condition, Expression, None]
    ) -> None:
        #: place in the file, from 0
        self.number = number
        self.rule = rule
        self.metric = metric
        self.condition = condition
        self.enabled = rule.enabled
        #: it reads the numbers of the queue, or calls a function, which may
        self.counts = False
        #: firings so far
        self.fired = 0
        #: occasions still to be skipped
        self.skip = 0
        #: end of the cooldown, seconds since the epoch; 0 is none
        self.until = 0.0
        #: an occasion was dropped in this cooldown, and its end is looked at once more
        self.missed = False
        #: a failed rule never fires again
        self.failed = False
        #: why it failed, or went wrong the last time where it goes on all the same
        self.error: Optional[str] = None
        # the rest answers people who ask why it has fired or has not: nothing here decides by it
        #: the event looked at last: its time, what became of it, its text, and where that is None the metric's value
        self.looked: Optional[Tuple[float, str, Optional[str], Any]] = None
        #: what its condition reads of events, and the last event looked at, where it reads anything
        self.events: Tuple[Tuple[str, ...], ...] = ()
        if isinstance(condition, Expression) and rule.trigger != "metric":
            self.events = condition.events
        self.seen: Optional[Dict[str, Any]] = None
        #: times of the last firings, oldest first
        self.times: Tuple[float, ...] = ()
        #: when it was enabled or disabled last, and by which firing of which rule; None: as the file says
        self.switched: Optional[Tuple[float, str, int]] = None

    @property
    def id(self) -> str:
        return self.rule.id

    @property
    def remaining(self) -> Optional[int]:
        """Firings left; None is unlimited."""
        if self.rule.repetitions is None:
            return None
        return max(0, self.rule.repetitions - self.fired)

    @property
    def live(self) -> bool:
        """Can it still fire, if an occasion comes?"""
        return self.enabled and not self.failed and self.remaining != 0

    @property
    def submits(self) -> bool:
        """Does it submit, or call a function, which may?"""
        return any(action.name in ("submit", "custom") for action in self.rule.actions)

    @property
    def limited(self) -> bool:
        """Does `max_firings` end it? It submits, or could for ever set, send or ask for what wakes it."""
        trigger = self.rule.trigger
        wakes = ("grow", "shrink") if trigger in SCALE_TRIGGERS else _WAKES.get(trigger, ())
        return self.submits or any(action.name in wakes for action in self.rule.actions)

    @property
    def keeps_alive(self) -> bool:
        """Does it keep the ensemble from ending? Only while it can fire."""
        if self.rule.keep_alive is False or not self.live:
            return False
        return self.rule.keep_alive is True or self._waited_for

    @property
    def _waited_for(self) -> bool:
        """What `keep_alive` is where the file does not say."""
        if self.rule.trigger == "heartbeat":
            return any(action.name in _LASTING for action in self.rule.actions)
        return self.rule.trigger in _AWAITED

    def gate(self, t: float) -> str:
        """What becomes of an occasion at `t`: FIRE, or why it is dropped."""
        if not self.live:
            return RESTING
        if t < self.until:
            first = not self.missed
            self.missed = True
            return LATER if first and self.rule.trigger == "metric" else COOLING
        if self.skip:
            self.skip -= 1
            return SKIPPED
        return FIRE

    def fire(self, t: float) -> int:
        """Spend a firing; its number."""
        self.fired += 1
        self.times = (*self.times[1 - _TIMES :], t)
        self.skip = self.rule.backoff
        self.missed = False
        self.until = t + self.rule.cooldown if self.rule.cooldown else 0.0
        return self.fired

    def fail(self, error: str, t: float) -> None:
        """It has gone wrong; `on_error` says what that means for it."""
        self.error = error
        if self.rule.on_error == "fail":
            self.failed = True
        elif self.rule.on_error == "disable":
            self.enabled = False
            self.switched = (t, self.id, self.fired)

    def state(self, t: float) -> str:
        """For people: failed, disabled, spent, cooldown or ready."""
        if self.failed:
            return "failed"
        if self.remaining == 0:
            return "spent"
        if not self.enabled:
            return "disabled"
        return "cooldown" if t < self.until else "ready"

    def cooldown_timer(self) -> SetTimer:
        return SetTimer(f"{COOLDOWN}{self.number}", self.until)

    def to_json(self) -> List[Any]:
        state = [self.id, self.enabled, self.fired, self.skip, self.until, self.missed, self.failed, self.error]
        seen = None if self.seen is None else [_cut(_within(self.seen, words)) for words in self.events]
        return [*state, self.looked, self.times, self.switched, seen]

    def restore(self, state: Any) -> None:
        """Take up what `to_json` wrote. Raises RecordError."""
        try:
            id, self.enabled, self.fired, self.skip, self.until, self.missed, self.failed, self.error, *past = state
            looked, times, switched, seen = past
            self.looked = None if looked is None else (float(looked[0]), looked[1], looked[2], looked[3])
            self.times = tuple(times)
            self.switched = None if switched is None else (switched[0], switched[1], switched[2])
            if seen is not None:
                self.seen = {}
                for words, value in zip(self.events, seen):
                    _put(self.seen, words, value)
        except (TypeError, ValueError, IndexError, KeyError) as exc:
            raise RecordError(f"this is no state of a rule: {str(state)[:120]}") from exc
        if id != self.id:
            raise RecordError(f"a state of rule '{id}' where the file has rule '{self.id}'")


def _within(event: Dict[str, Any], words: Tuple[str, ...]) -> Any:
    """What an event has there, as expressions read it."""
    found: Any = event
    for word in words:
        found = found.get(word) if isinstance(found, dict) else None
    return arithmetic.scalar(found)


def _cut(value: Any) -> Any:
    return value[:_LONGEST] if isinstance(value, str) else value


def _put(event: Dict[str, Any], words: Tuple[str, ...], value: Any) -> None:
    """Have `_within` find that value there."""
    *before, last = words
    for word in before:
        inner = event.setdefault(word, {})
        if not isinstance(inner, dict):
            return
        event = inner
    event[last] = value


def _for_functions(groups: Mapping[str, Tuple[JobSet, ...]]) -> Iterator[Metric]:
    """What a function may read of every group, whatever it asks for."""
    for group, sets in groups.items():
        for variable in declared(sets):
            for stat in FOR_FUNCTIONS:
                yield Metric(stat, group, "", variable)
                yield Metric(stat, group, "success", variable)
        for stat in FOR_FUNCTIONS:
            yield Metric(stat, group, "success", "duration")
            yield Metric(stat, group, "success", "pending")
            yield Metric(stat, group, "", metrics.LEGACY_PENDING)


class RuleBook:
    """All rules of a file, indexed by what they read."""

    def __init__(self, spec: Spec) -> None:
        groups = spec.groups
        self.rules: List[RuleState] = []
        self.by_id: Dict[str, RuleState] = {}
        #: metric -> numbers of the rules that read it
        self.reads: Dict[Metric, List[int]] = {}
        #: metrics that rules look at when something else wakes them
        self.shows: Set[Metric] = set()
        #: metrics in conditions, and those that rules are on
        self.judged: Set[Metric] = set()
        #: text -> the compiled form of each expression of an action
        self._expressions: Dict[str, Expression] = {}
        #: path in a `log` line -> what it names
        self._shown: Dict[str, Read] = {}
        self._groups = groups
        #: trigger and group -> numbers; group None is any
        self._by_trigger: Dict[Tuple[str, Optional[str]], List[int]] = {}
        #: a rule says where a job runs, in whatever key of its
        self.names_ranks = False
        #: topics on the Flux bus, as the rules write them -> numbers
        self.topics: Dict[str, List[int]] = {}
        for rule in spec.rules:
            self._put(rule)
        if spec.asks:
            self.shows.update(_for_functions(groups))
        self._index()

    def add(self, rule: Rule) -> RuleState:
        """A rule joins the others while the ensemble runs."""
        state = self._put(rule)
        self._index()
        return state

    def _put(self, rule: Rule) -> RuleState:
        number, groups = len(self.rules), self._groups
        metric: Optional[Metric] = None
        condition = conditions.compile(rule.when, groups, rule.trigger, rule.name)
        judged = conditions.metrics_of(condition)
        self.judged.update(judged)
        done: Set[Metric] = set()
        if rule.trigger == "metric":
            metric = metrics.parse(rule.name or "", groups)
            self.judged.add(metric)
            for read in dict.fromkeys((metric, *judged)):
                self.reads.setdefault(read, []).append(number)
        else:
            named = rule.name if rule.trigger in _NAMED else None
            if rule.topic is None:
                self._by_trigger.setdefault((rule.trigger, named), []).append(number)
            else:
                self.topics.setdefault(rule.topic, []).append(number)
            self.shows.update(judged)
        for action in rule.actions:
            for _, text in reading.texts(action):
                done.update(self.expression(text).metrics)
            for shown in reading.log_reads(action, groups):
                self._shown[shown.path] = shown
                if shown.metric is not None:
                    done.add(shown.metric)
        self.shows.update(done)
        state = RuleState(number, rule, metric, condition)
        calls = any(action.name == "custom" for action in rule.actions)
        state.counts = calls or any(read.stat in metrics.OF_QUEUE for read in (*judged, *done))
        self.names_ranks = self.names_ranks or "event.job.ranks" in repr(rule)
        self.rules.append(state)
        self.by_id[rule.id] = state
        return state

    def _index(self) -> None:
        #: event of RFC 21 -> triggers that rules have on it, apart from how jobs end
        self.on_event: Dict[str, Tuple[str, ...]] = {}
        used = {trigger for trigger, _ in self._by_trigger}
        for trigger, event in (*STATE_TRIGGERS.items(), *EVENT_TRIGGERS.items()):
            if trigger in used:
                self.on_event[event] = (*self.on_event.get(event, ()), trigger)
        # a severe exception takes a job into CLEANUP before its processes have ended
        if "job-cleanup" in used:
            self.on_event["exception"] = (*self.on_event.get("exception", ()), "job-cleanup")

    def exactly(self, trigger: str, name: Optional[str]) -> List[int]:
        """Numbers of the rules on this trigger that have this name, None for those that have none, in file order."""
        return self._by_trigger.get((trigger, name), [])

    def expression(self, text: str) -> Expression:
        """The compiled form of an expression of the file. Raises ExpressionError for what is none."""
        made = self._expressions.get(text)
        if made is None:
            made = self._expressions[text] = expression.compile(text, self._groups)
        return made

    def shown(self, path: str) -> Optional[Read]:
        """What a path in a `log` line names; None if it names nothing, and stays as it is."""
        return self._shown.get(path)

    def on(self, trigger: str, name: Optional[str] = None) -> List[int]:
        """Numbers of the rules on this trigger, for this name or any, in file order."""
        found = self._by_trigger.get((trigger, None), [])
        if name is not None:
            named = self._by_trigger.get((trigger, name))
            if named:
                return sorted((*found, *named)) if found else named
        return found
