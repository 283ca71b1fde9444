# SPDX-License-Identifier: MIT
"""What `event.*` has, by trigger: the third column of the language's table of triggers.

Law of this file: names and kinds alone, known at load. What a path has at run time is the engine's
(`ensemble.engine.occasion.Occasion.event`), and may be no value.
"""

from __future__ import annotations

from typing import Dict, Optional, Tuple

from ensemble.spec.arithmetic import NUMBER, STRING
from ensemble.spec.faults import shown
from ensemble.spec.metrics import PathError, dunder
from ensemble.spec.models import END_STATES, EVENT_TRIGGERS, JOB_TRIGGERS, SCALE_TRIGGERS
from ensemble.spec.places import MEMBER_TRIGGERS
from ensemble.spec.retries import CAUSES

#: what an event may have -> the kind of its value; None is any
_FIELDS: Dict[str, Optional[str]] = {
    "group": STRING,
    "value": None,
    "n": NUMBER,
    "before": NUMBER,
    "name": STRING,
    "state": STRING,
    "ranks": STRING,
    "wanted": NUMBER,
    "size": NUMBER,
    "reason": STRING,
}
#: the words behind event.job
_JOB: Dict[str, Optional[str]] = {
    "id": NUMBER,
    "exit_code": NUMBER,
    "signal": NUMBER,
    "cause": STRING,
    "attempt": NUMBER,
    "ranks": STRING,
}

#: words behind `event` -> all that can stand there, where it is one of a few words
AMONG: Dict[Tuple[str, ...], Tuple[str, ...]] = {
    ("state",): END_STATES,
    ("job", "cause"): (*CAUSES, "infrastructure", "refused", "in-doubt"),
}

#: trigger -> the first words behind `event`; a trigger that is not here has none
FIELDS: Dict[str, Tuple[str, ...]] = {
    "metric": ("value",),
    **dict.fromkeys(JOB_TRIGGERS, ("group", "job")),
    "job-retry": ("group", "job"),
    **dict.fromkeys(EVENT_TRIGGERS, ("group", "job", "data")),
    "report": ("group", "job", "name", "value", "n", "before", "data"),
    "group-complete": ("group",),
    "end": ("state",),
    "signal": ("name", "data"),
    **{f"resource-{how}": ("ranks",) for how in ("down", "up", "drain", "undrain")},
    **dict.fromkeys(MEMBER_TRIGGERS, ("name",)),
    **dict.fromkeys(SCALE_TRIGGERS, ("wanted", "size", "reason")),
}
_ANY = tuple(sorted({field for fields in FIELDS.values() for field in fields}))


def parse(path: str, trigger: Optional[str]) -> Tuple[Tuple[str, ...], Optional[str]]:
    """The words behind `event` of such a path, and the kind of its value (None: any).

    `trigger` is that of the rule; None where it is not known, and any event will do. Raises PathError.
    """
    words = tuple(path.split(".")[1:])
    fields = _ANY if trigger is None else FIELDS.get(trigger, ())
    expected = f"one of {', '.join(f'event.{field}' for field in fields)}" if fields else ""
    if not words:
        raise PathError("the path ends behind 'event'", len(path), expected)
    if words[0] not in fields:
        if words[0] in _ANY or not fields:
            raise PathError(f"a rule on {trigger} has no event.{shown(words[0])[1:-1]}", 0, expected or "no event.*")
        raise PathError(f"event has no {shown(words[0])}", 6, expected, words[0], fields)
    if words[0] == "data" or words[:2] == ("job", "params"):
        if words == ("job", "params"):
            raise PathError("event.job.params is a mapping", len(path), "a parameter, as in event.job.params.x")
        for index, word in enumerate(words):
            if not word or dunder(word):
                raise PathError(f"event has no {shown(word)}", 6 + sum(len(w) + 1 for w in words[:index]), expected)
        return words, None
    if words[0] != "job":
        known = words[:1]
        kind = _FIELDS[words[0]]
    else:
        names = (*_JOB, "params")
        expected = f"one of {', '.join(f'event.job.{name}' for name in names)}"
        if len(words) == 1:
            raise PathError("event.job is a mapping", len(path), expected)
        if words[1] not in _JOB:
            raise PathError(f"event.job has no {shown(words[1])}", len("event.job."), expected, words[1], names)
        known = words[:2]
        kind = _JOB[words[1]]
    if len(words) > len(known):
        before = ".".join(("event", *known))
        raise PathError(f"the path goes on behind '{before}'", len(before), before)
    return words, kind
