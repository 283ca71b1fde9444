# SPDX-License-Identifier: MIT
"""An engine's state as plain JSON-able data, and back.

Law of this file: a restored engine answers every event as the one it was taken from would have. Nothing is pickled.
"""

from __future__ import annotations

from typing import Any, Dict

from ensemble.engine import resources, scaling
from ensemble.engine.engine import Engine
from ensemble.engine.events import Key
from ensemble.engine.jobs import Job
from ensemble.errors import RecordError
from ensemble.spec.models import Spec

#: version of the form; a greater one was written by a newer release
FORMAT = 1
_PLAIN = (
    "t",
    "t_begin",
    "t_end",
    "final",
    "ending",
    "reason",
    "paused",
    "closed",
    "decreed",
    "limits",
    "unfinished",
    "sent",
    "taken",
    "answered",
    "unanswered",
    "allowance",
    "t_allowance",
    "t_frozen",
    "timers",
    "postponed",
    "concluding",
    "idle_seen",
    "falls",
    "resources",
    "looking",
    "counting",
    "fresh",
    "places",
    "scaling",
    "pending_signals",
    "signals_seen",
    "variables",
)
#: what snapshots of before do not have, and what that meant
_BEFORE: Dict[str, Any] = {"counting": resources.nothing(), "fresh": False}


def snapshot(engine: Engine) -> Dict[str, Any]:
    """The state between two events."""
    state: Dict[str, Any] = {name: getattr(engine, name) for name in _PLAIN}
    state.update(
        format=FORMAT,
        id=engine.id,
        rules=[rule.to_json() for rule in engine.book.rules],
        tally=engine.tally.to_json(),
        due=sorted(engine.tally.due),
        completed=sorted(engine.completed),
        held=engine.held.to_json(),
        waiting=engine.waiting.to_json(),
        calls=engine.calls.to_json(),
        jobs=[job.to_json() for job in engine.jobs.values()],
        refused=[[str(key), id] for key, id in engine.refused.items()],
    )
    # a copy that later events cannot change; the caller may keep it
    copied: Dict[str, Any] = _copy(state)
    return copied


def restore(spec: Spec, state: Any) -> Engine:
    """The engine that `snapshot` was taken of. Raises RecordError for a damaged record or one of a newer format.

    Timers that were set are in `engine.timers`; it is the caller's to set them again.
    """
    try:
        if state["format"] > FORMAT:
            raise RecordError(
                f"a snapshot of format {state['format']} was written by a newer release; this one reads up to {FORMAT}"
            )
        engine = Engine(spec, state["id"])
        older = {} if any(name in state for name in _BEFORE) else _BEFORE
        for name in _PLAIN:
            setattr(engine, name, _copy(older[name] if name in older else state[name]))
        engine.scaling = {**scaling.nothing(), **engine.scaling}
        engine.calls.restore(engine, _copy(state["calls"]))
        if len(state["rules"]) != len(engine.book.rules):
            raise RecordError(f"a snapshot of {len(state['rules'])} rules for a file of {len(engine.book.rules)}")
        for rule, record in zip(engine.book.rules, state["rules"]):
            rule.restore(record)
        engine.tally.restore(state["tally"])
        engine.tally.due = set(state["due"])
        engine.completed = set(state["completed"])
        engine.held.restore(state["held"])
        engine.waiting.restore(_copy(state["waiting"]))
        for record in state["jobs"]:
            job = Job.from_json(_copy(record))
            engine.jobs[job.key] = job
            engine.group_jobs[job.group][job.key] = job
            if job.id is not None:
                engine.by_id[job.id] = job
        engine.refused = {Key.parse(key): id for key, id in state["refused"]}
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as exc:
        raise RecordError(f"this is no snapshot of an ensemble ({exc!r})") from exc
    return engine


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copy(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy(item) for item in value]
    return value
