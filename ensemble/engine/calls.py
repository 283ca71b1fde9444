# SPDX-License-Identifier: MIT
"""Custom functions as the engine sees them: calls that are pending, what their answers do, rules that they add.

Law of this file: called by `Engine.handle` alone, on its way, but for `request`, which only looks. A call that an action
asks for becomes a `Call`, and counts as activity until its `Answered` comes; that takes effect once, whatever is
delivered twice. A call is described by data alone, so that it can be made again after a crash. Of finished jobs only
numbers are kept: a function's `results` are the jobs that ended in a span of them, whose rows are the store's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Set

from ensemble.engine import acting
from ensemble.engine.actions import Call
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
    #: of a submission that waits for its points: the number of the set; None for a function that an action calls
    set: Optional[int] = None


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
        #: groups without unfinished jobs that are complete only once their functions have answered
        self.owed: Set[str] = set()
        #: jobs that have ended, and rows that have left the engine
        self.ended = 0
        self.rows = 0

    def drop(self) -> None:
        """No answer is waited for any more."""
        self.pending.clear()
        self.firings.clear()
        self.owed.clear()

    def asking(self, group: str) -> bool:
        """Does a submission of the group wait for its points?"""
        return any(one.set is not None and one.action["label"] == group for one in self.pending.values())

    def complete(self, groups: Set[str]) -> Set[str]:
        """Those of the groups that are complete, as far as functions have a say; the others are owed."""
        owed = {group for group in groups if self.asking(group)}
        self.owed |= owed
        return groups - owed

    def to_json(self) -> List[Any]:
        return [
            [list(one) for one in self.pending.values()],
            self.firings,
            self.states,
            self.told,
            self.added,
            sorted(self.owed),
            self.ended,
            self.rows,
        ]

    def restore(self, engine: Engine, state: Any) -> None:
        """Take up what `to_json` wrote, and add the rules that had been added. Raises RecordError."""
        try:
            pending, self.firings, self.states, self.told, added, owed, self.ended, self.rows = state
            self.owed = set(owed)
            self.pending = {record[0]: Pending(*record) for record in pending}
            for plain in added:
                _put(engine, answers.rule(plain), plain)
        except (TypeError, ValueError, KeyError, IndexError) as exc:
            raise RecordError(f"this is no state of custom functions ({exc!r}): {str(state)[:120]}") from exc


def call(firing: acting.Firing, action: Action) -> None:
    """The action `custom`: call the function, and go on without waiting for it."""
    _call(firing, action, action.label or "", None)


def ask(firing: acting.Firing, action: Action, function: str, number: int) -> None:
    """A submission of a set whose points a function says: it waits for them."""
    _call(firing, action, function, number)


def forget(engine: Engine, group: Optional[str]) -> None:
    """Submissions that wait for their points are dropped, of one group or of all."""
    found = [p for p in engine.calls.pending.values() if p.set is not None and group in (None, p.action["label"])]
    for pending in found:
        del engine.calls.pending[pending.id]
        if not any(p.rule == pending.rule and p.firing == pending.firing for p in engine.calls.pending.values()):
            engine.calls.firings.pop(f"{pending.rule}/{pending.firing}", None)
        _settled(engine, pending)


def _settled(engine: Engine, pending: Pending) -> None:
    """A submission waits for its points no more: what it kept from being complete may be so."""
    group = pending.action.get("label", "")
    if pending.set is not None and group in engine.calls.owed and not engine.calls.asking(group):
        engine.calls.owed.discard(group)
        if not engine.unfinished[group]:
            engine.completed.add(group)


def _call(firing: acting.Firing, action: Action, function: str, number: Optional[int]) -> None:
    calls = firing.engine.calls
    if firing.calls >= MOST_CALLS:
        raise FunctionFailed(f"one firing may call functions {MOST_CALLS} times, and this one calls on and on")
    id = f"{firing.rule.id}/{firing.number}/{firing.calls}"
    firing.calls += 1
    group = _group(firing.rule, firing.occasion)
    told = calls.told.setdefault(function, {}).setdefault(group or "", [0, 0])
    said = action.model_dump(exclude_none=True)
    occasion = firing.occasion.to_json()
    calls.pending[id] = Pending(
        id, firing.rule.id, firing.number, function, said, occasion, group, told[0], calls.ended, told[1], number
    )
    told[:] = calls.ended, calls.rows
    firing.tell(action, f"call {function}" if number is None else f"call {function} for points of {action.label}")
    firing.engine.emit(Call(id, firing.cause(action)))


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
        _settled(engine, pending)


def _answer(firing: acting.Firing, pending: Pending, data: Dict[str, Any]) -> None:
    engine, rule, function = firing.engine, firing.rule, pending.function
    if "error" in data:
        if data.get("traceback"):
            engine.record("error", rule=rule.id, text=str(data["traceback"]))
        raise FunctionFailed(f"function '{function}' {data['error']}")
    try:
        given = data.get("answer")
        if pending.set is not None:
            # points are read as those of an action are
            given = [{"action": {**pending.action, "parameters": given}}] if given else []
        items = answers.read(engine.spec, engine.book.by_id, given, f"{rule.id}-{firing.number}")
    except answers.WrongAnswer as exc:
        raise FunctionFailed(f"function '{function}' gave a wrong answer: {exc}") from None
    if "state" in data:
        engine.calls.states[function] = data["state"]
    if pending.set is not None and not items:
        engine.record("action", rule=rule.id, firing=firing.number, action="submit", label=pending.action["label"],
                      count=0, text=f"{function} answered no points, so nothing is submitted")  # fmt: skip
    for item in items:
        if item.rule is not None:
            _add(firing, item)
        elif item.action is not None and pending.set is not None:
            acting.submit(firing, item.action, pending.set)
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
        event["id"] = occasion.job.id
    return {
        "call": id,
        "function": pending.function,
        "points": pending.set is not None,
        "args": pending.action.get("args"),
        "action": {key: value for key, value in pending.action.items() if key != "args"},
        "event": {**event, "trigger": rule.rule.trigger},
        "rule": {
            **rule.rule.model_dump(exclude_none=True, exclude_defaults=True, exclude={"actions"}),
            "firing": pending.firing,
            "remaining": rule.remaining,
        },
        "params": job.get("params") or {},
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
