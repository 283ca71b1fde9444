# SPDX-License-Identifier: MIT
"""What a firing does: the actions of the language, one function each.

Law of this file: called by `Engine.handle` alone, on its way. A job's index runs on across the actions of a firing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Optional

from ensemble.engine import asking, calls, enabling, ending, places, points, scaling, signals, targets
from ensemble.engine.actions import Cause, Submit
from ensemble.engine.events import JobId, Key
from ensemble.engine.jobs import Job
from ensemble.engine.submissions import Batch
from ensemble.engine.values import shown
from ensemble.errors import RuleError
from ensemble.spec import reading
from ensemble.spec.models import Action, JobSet

if TYPE_CHECKING:
    from ensemble.engine.engine import Engine
    from ensemble.engine.occasion import Occasion
    from ensemble.engine.rules import RuleState

_OVERRIDES = ("duration", "nodes", "tasks", "urgency")


class Firing:
    """One firing on its way through its actions."""

    def __init__(self, engine: Engine, rule: RuleState, number: int, occasion: Occasion) -> None:
        self.engine = engine
        self.rule = rule
        self.number = number
        #: what it fired on
        self.occasion = occasion
        #: of its next job
        self.index = 0
        #: functions that it has called
        self.calls = 0

    def amount(self, action: Action, key: str) -> Any:
        """The number behind a key of the action, computed where an expression stands there. Raises RuleError."""
        return self.engine.values.number(action, key, self.occasion)

    def cause(self, action: Action) -> Cause:
        return Cause(self.rule.id, self.number, f"{action.name} by rule '{self.rule.id}', firing {self.number}")

    def tell(self, action: Action, text: str, count: Optional[int] = None, job: Optional[JobId] = None) -> None:
        """Record what the action does, and to which job if it is about one alone."""
        about = {} if job is None else {"job": job}
        self.engine.record(
            "action",
            rule=self.rule.id,
            firing=self.number,
            action=action.name,
            label=action.label,
            count=count,
            text=text,
            **about,
        )


def act(engine: Engine, rule: RuleState, number: int, occasion: Occasion) -> None:
    """Carry out the actions of a rule's firing, in order; after a `terminate` nothing more."""
    firing = Firing(engine, rule, number, occasion)
    try:
        for action in rule.rule.actions:
            perform(firing, action)
            if engine.closed:
                return
    finally:
        calls.done(firing)


def perform(firing: Firing, action: Action) -> None:
    """Carry out one action."""
    firing.engine.hands[action.name](firing, action)


def make_job(engine: Engine, batch: Batch) -> Submit:
    """One job becomes an intent."""
    key = Key(engine.id, batch.rule, batch.firing, batch.first, batch.attempt)
    job = Job(key, batch.group, batch.set, batch.overrides, batch.losses, batch.tries)
    job.params = engine.samples.params(batch)
    job.member = places.choose(engine, batch.group, batch.set)
    engine.jobs[key] = job
    engine.group_jobs[batch.group][key] = job
    engine.sent += 1
    engine.unanswered += 1
    engine.tally.touch("submitted")
    return Submit(key, batch.group, batch.set, batch.overrides, job.params, job.member)


def cancel_all(engine: Engine, cause: Cause) -> int:
    """Cancel every job, unacknowledged ones included; how many."""
    ending.drop(engine, result="cancelled")
    engine.calls.drop()
    return targets.cancel_jobs([job for jobs in engine.group_jobs.values() for job in jobs.values()], engine, cause)


def submit(firing: Firing, action: Action, only: Optional[int] = None) -> None:
    """Submit the group, or `only` that set of it."""
    engine, group = firing.engine, action.label or ""
    total = waiting = 0
    overrides = {name: firing.amount(action, name) for name in _OVERRIDES if getattr(action, name) is not None}
    asked = firing.amount(action, "count")
    _fits(action, engine.groups[group], overrides)
    # while it ends only the rules of the end may submit; while it halts, submissions wait for a `resume`
    refused = engine.ending not in (None, "halted") and not engine.concluding
    for number, jobs in enumerate(engine.groups[group]):
        if refused:
            break
        if only not in (None, number):
            continue
        function = None if action.parameters is not None else asking.function(jobs)
        taken: Optional[points.Taken]
        if function is None:
            taken = points.take(engine, action, asked, group, number, jobs)
        else:
            taken = asking.take(firing, action, asked, number, jobs)
            if taken is None:
                asking.ask(firing, action, asked, overrides, number, function)
                waiting += 1
                continue
        count = taken.jobs
        if count:
            batch = Batch(
                firing.rule.id,
                firing.number,
                group,
                number,
                firing.index,
                count,
                overrides,
                point=taken.point,
                points=taken.points,
                last=engine.concluding,
            )
            engine.unfinished[group] += count
            engine.tally.bump(group, "active", count)
            engine.held.put(batch)
        firing.index += count
        total += count
    if refused:
        firing.tell(action, f"nothing is submitted: the ensemble is {engine.state}", 0)
        return
    if waiting and not total:
        return
    if not total and asked != 0:
        firing.tell(action, points.spent(engine, group), 0)
        return
    firing.tell(action, f"submit {group} ({total} job{'s' if total != 1 else ''})", total)
    engine.tally.touch("active")
    ending.pump(engine)


def _fits(action: Action, sets: Iterable[JobSet], overrides: Dict[str, Any]) -> None:
    """Fewer tasks than nodes are refused by Flux; what an expression came to is known only now. Raises RuleError."""
    if "nodes" not in overrides and "tasks" not in overrides:
        return
    for jobs in sets:
        nodes, tasks = overrides.get("nodes", jobs.nodes), overrides.get("tasks", jobs.tasks)
        if nodes is not None and tasks is not None and tasks < nodes:
            raise RuleError(f"submit: {tasks} tasks of {jobs.name} cannot fill {nodes} nodes")


def _set(firing: Firing, action: Action) -> None:
    values, name, value = firing.engine.values, action.label or "", action.value
    text = reading.set_text(value)
    if text is not None:
        value = values.computed(text, f"set: {name}", firing.occasion)
    values.set(name, value)
    firing.tell(action, f"set {name} to {shown(value)}")


def _stop(firing: Firing, action: Action) -> None:
    engine = firing.engine
    firing.tell(action, "stop")
    # what has been stopped does not carry on after a limit either
    if engine.ending is None or (engine.ending == "halted" and not engine.concluding):
        ending.end(engine, "complete", f"stopped by rule '{firing.rule.id}'")


def _terminate(firing: Firing, action: Action) -> None:
    engine = firing.engine
    firing.tell(action, f"terminate{f' ({action.status})' if action.status else ''}")
    reason = f"terminated by rule '{firing.rule.id}'"
    if engine.decreed is not None:  # a rule has failed: nothing makes that undone
        reason = engine.reason or reason
    elif action.status:
        engine.decreed = "complete" if action.status == "success" else "failed"
    ending.drop(engine, result="cancelled")
    ending.end(engine, engine.decreed or "complete", reason)
    engine.closed = True
    cancel_all(engine, firing.cause(action))


def _log(firing: Firing, action: Action) -> None:
    engine = firing.engine

    scope = engine.values.at(firing.occasion)

    def fill(match: re.Match[str]) -> str:
        read = engine.book.shown(match.group(1))
        return match.group(0) if read is None else shown(read.value(scope))

    engine.record("log", rule=firing.rule.id, text=reading.BRACES.sub(fill, str(action.value)))


def _signal(firing: Firing, action: Action) -> None:
    firing.tell(action, f"signal {action.label}")
    signals.send(firing.engine, action.label or "", dict(action.data or {}))


ACTIONS: Dict[str, Callable[..., None]] = {
    "submit": submit,
    "cancel": targets.cancel,
    "kill": targets.kill,
    "urgency": targets.urgency,
    "stop": _stop,
    "terminate": _terminate,
    "log": _log,
    "enable": enabling.switch,
    "disable": enabling.switch,
    "custom": lambda firing, action: calls.call(firing, action),
    "signal": _signal,
    "grow": scaling.resize,
    "shrink": scaling.resize,
    "set": _set,
}
