# SPDX-License-Identifier: MIT
"""Custom functions as the engine sees them: calls that are pending, what their answers do, rules that they add.

Law of this file: called by `Engine.handle` alone, on its way, but for `request`, which only looks. A call that an action
asks for becomes a `Call`, and counts as activity until its `Answered` comes; that takes effect once, whatever is
delivered twice. A call is described by data alone, so that it can be made again after a crash. Of finished jobs only
numbers are kept: a function's `results` are the jobs that ended in a span of them, whose rows are the store's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional

from ensemble.engine import acting, asking, enabling
from ensemble.engine.actions import Call, Cause
from ensemble.engine.events import Answered
from ensemble.engine.occasion import Occasion
from ensemble.errors import RecordError
from ensemble.spec import answers, reading
from ensemble.spec.check import heartbeat_period
from ensemble.spec.models import Action

if TYPE_CHECKING:
    from ensemble.engine.engine import Engine
    from ensemble.engine.rules import RuleState

#: rules that functions may add to an ensemble
MOST_RULES = 10_000
#: calls of one firing, its answers' own calls included: a function that calls itself for ever is stopped
MOST_CALLS = 1000


class FunctionFailed(Exception):
    """A function failed, or answered what makes no sense; the message is a sentence for people."""


class Pending(NamedTuple):
    """A call that has not been answered."""

    #: names it for ever
    id: str
    rule: str
    firing: int
    function: str
    #: the action as data
    action: Dict[str, Any]
    #: `Occasion.to_json`
    occasion: List[Any]
    #: whose jobs its results are; None is all of the ensemble's
    group: Optional[str]
    #: its results are the jobs that ended after this number, up to the other one
    after: int
    upto: int
    #: rows that had left the engine when `after` was the last number: the place to look from
    row: int


class Calls:
    """The functions' side of an ensemble's state."""

    def __init__(self) -> None:
        self.pending: Dict[str, Pending] = {}
        #: "rule/firing" that has pending calls -> index of its next job, and calls so far
        self.firings: Dict[str, List[int]] = {}
        #: function -> what it keeps
        self.states: Dict[str, Dict[str, Any]] = {}
        #: function -> group ('' is all) -> number of the last ended job that it was told of, and rows by then
        self.told: Dict[str, Dict[str, List[int]]] = {}
        #: rules that answers have added, in their plain form, in order
        self.added: List[Any] = []
        #: jobs that have ended, and rows that have left the engine
        self.ended = 0
        self.rows = 0

    def drop(self) -> None:
        """No answer is waited for any more."""
        self.pending.clear()
        self.firings.clear()

    def forget(self, ids: List[str]) -> None:
        """No answer to these calls is waited for any more."""
        for id in ids:
            del self.pending[id]
        left = {f"{one.rule}/{one.firing}" for one in self.pending.values()}
        self.firings = {name: found for name, found in self.firings.items() if name in left}

    def to_json(self) -> List[Any]:
        return [
            [list(one) for one in self.pending.values()],
            self.firings,
            self.states,
            self.told,
            self.added,
            self.ended,
            self.rows,
        ]

    def restore(self, engine: Engine, state: Any) -> None:
        """Take up what `to_json` wrote, and add the rules that had been added. Raises RecordError."""
        try:
            pending, self.firings, self.states, self.told, added, self.ended, self.rows = state
            self.pending = {record[0]: Pending(*record) for record in pending}
            for plain in added:
                _put(engine, answers.rule(plain), plain)
        except (TypeError, ValueError, KeyError, IndexError) as exc:
            raise RecordError(f"this is no state of custom functions ({exc!r}): {str(state)[:120]}") from exc


def call(firing: acting.Firing, action: Action) -> None:
    """The action `custom`: call the function, and go on without waiting for it."""
    ask(firing, action.label or "", action.model_dump(exclude_none=True))
    firing.tell(action, f"call {action.label}")


def ask(firing: acting.Firing, function: str, said: Dict[str, Any]) -> None:
    """Have the function called for an action of the firing, which is given as data."""
    calls = firing.engine.calls
    if firing.calls >= MOST_CALLS:
        raise FunctionFailed(f"one firing may call functions {MOST_CALLS} times, and this one calls on and on")
    id = f"{firing.rule.id}/{firing.number}/{firing.calls}"
    firing.calls += 1
    group = _group(firing.rule, firing.occasion)
    told = calls.told.setdefault(function, {}).setdefault(group or "", [0, 0])
    occasion = firing.occasion.to_json()
    calls.pending[id] = Pending(
        id, firing.rule.id, firing.number, function, said, occasion, group, told[0], calls.ended, told[1]
    )
    told[:] = calls.ended, calls.rows
    cause = Cause(firing.rule.id, firing.number, f"{said['name']} by rule '{firing.rule.id}', firing {firing.number}")
    firing.engine.emit(Call(id, cause))


def done(firing: acting.Firing) -> None:
    """The firing, or an answer to it, has been carried out: keep what its pending calls need."""
    calls, name = firing.engine.calls, f"{firing.rule.id}/{firing.number}"
    if any(one.rule == firing.rule.id and one.firing == firing.number for one in calls.pending.values()):
        calls.firings[name] = [firing.index, firing.calls]
    else:
        calls.firings.pop(name, None)


def take(engine: Engine, event: Answered) -> None:
    """A function has answered or failed. `data` has `answer` and perhaps `state`, or `error` and perhaps `traceback`."""
    pending = engine.calls.pending.pop(event.call, None)
    if pending is None:
        return
    rule = engine.book.by_id[pending.rule]
    firing = acting.Firing(engine, rule, pending.firing, Occasion.from_json(pending.occasion))
    firing.index, firing.calls = engine.calls.firings.get(f"{pending.rule}/{pending.firing}", [0, 1])
    closed, engine.closed = engine.closed, engine.closed and not engine.concluding
    try:
        _answer(firing, pending, event.data)
    except Exception as exc:
        engine.fail_rule(rule, exc)
    finally:
        engine.closed = engine.closed or closed
        done(firing)


def _answer(firing: acting.Firing, pending: Pending, data: Dict[str, Any]) -> None:
    engine, rule, function = firing.engine, firing.rule, pending.function
    if "error" in data:
        if data.get("traceback"):
            engine.record("error", rule=rule.id, text=str(data["traceback"]))
        raise FunctionFailed(f"function '{function}' {data['error']}")
    if pending.action["name"] == "submit":
        if "state" in data:
            engine.calls.states[function] = data["state"]
        asking.answer(firing, pending, data.get("answer"))
        return
    try:
        items = answers.read(engine.spec, engine.book.by_id, data.get("answer"), f"{rule.id}-{firing.number}")
    except answers.WrongAnswer as exc:
        raise FunctionFailed(f"function '{function}' gave a wrong answer: {exc}") from None
    if "state" in data:
        engine.calls.states[function] = data["state"]
    for item in items:
        if item.rule is not None:
            _add(firing, item)
        elif item.action is not None and enabling.held_back(rule, item.action):
            firing.tell(item.action, f"nothing is submitted: the algorithm {rule.rule.algorithm} is disabled", 0)
        elif item.action is not None:
            acting.perform(firing, item.action)
        if engine.closed:
            return


def _add(firing: acting.Firing, item: answers.Item) -> None:
    """A rule joins those of the file: what it waits for counts from now on."""
    engine = firing.engine
    if len(engine.calls.added) >= MOST_RULES:
        raise FunctionFailed(f"functions may add {MOST_RULES} rules to an ensemble, and this is one more")
    assert item.rule is not None
    rule = _put(engine, item.rule, item.plain)
    firing.engine.record("action", rule=firing.rule.id, firing=firing.number, action="rule", label=rule.id, count=None,
                         text=f"add rule {rule.id} on {rule.rule.trigger}")  # fmt: skip
    engine.joined(rule)


def _put(engine: Engine, rule: Any, plain: Any) -> RuleState:
    engine.calls.added.append(plain)
    engine.spec = engine.spec.model_copy(update={"rules": (*engine.spec.rules, rule)})
    alone = engine.spec.model_copy(update={"rules": (rule,)})
    engine.period = engine.period or heartbeat_period(alone)
    state = engine.book.add(rule)
    for metric in reading.wakes(rule, engine.groups):
        engine.tally.watch(metric, state.number)
    engine.tally.show(reading.looks(rule, engine.groups))
    engine.want()
    return state


def _group(rule: RuleState, occasion: Occasion) -> Optional[str]:
    """The group that an occasion is about, None where it is about no one of them."""
    group = occasion.event.get("group")
    if group is None and rule.metric is not None:
        group = rule.metric.group or None
    return group


def request(engine: Engine, id: str) -> Optional[Dict[str, Any]]:
    """What a worker needs for that call but its results, JSON-able; None where nobody waits for the answer any more."""
    pending = engine.calls.pending.get(id)
    if pending is None:
        return None
    rule = engine.book.by_id[pending.rule]
    occasion = Occasion.from_json(pending.occasion)
    event = occasion.event
    job = event.get("job") or {}
    if occasion.job is not None:
        key = occasion.job.key
        event["id"] = occasion.job.id
        event["key"] = f"{key.rule}/{key.firing}/{key.index}"
        event["result"] = occasion.job.result
        event["values"] = dict(occasion.job.values)
    return {
        "call": id,
        "function": pending.function,
        "args": pending.action.get("args"),
        "action": {key: value for key, value in pending.action.items() if key != "args"},
        "event": {**event, "trigger": rule.rule.trigger},
        "rule": {
            **rule.rule.model_dump(exclude_none=True, exclude_defaults=True, exclude={"actions"}),
            "firing": pending.firing,
            "remaining": rule.remaining,
        },
        "params": job.get("params") or {},
        # it is to answer points
        "points": pending.action["name"] == "submit",
        "state": engine.calls.states.get(pending.function) or {},
        "metrics": _metrics(engine),
        "ensemble": {"id": engine.id, "name": engine.spec.name, "t": engine.t},
    }


def _metrics(engine: Engine) -> Dict[str, Any]:
    counts = engine.tally.counts
    elapsed = None if engine.t_begin is None else engine.t - engine.t_begin
    return {
        "counts": {group: dict(states) for group, states in counts.items()},
        "statistics": engine.tally.rows(),
        "ensemble": {"active": sum(engine.unfinished.values()), "submitted": engine.sent, "elapsed": elapsed},
        "variables": engine.variables,
    }
