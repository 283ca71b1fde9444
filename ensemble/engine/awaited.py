# SPDX-License-Identifier: MIT
"""What a rule waits for, in words, and why that has not come yet.

Law of this file: it looks and changes nothing. A part of `explain.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, List, Optional, Tuple

from ensemble.engine import ending
from ensemble.engine.rules import COOLDOWN, RuleState
from ensemble.spec.explained import Term, paths

if TYPE_CHECKING:
    from ensemble.engine.engine import Engine

#: trigger -> what a job does then, and the count of such jobs
_JOBS: Dict[str, Tuple[str, str, str]] = {
    "job-success": ("succeeds", "succeeded", "success"),
    "job-fail": ("fails", "failed", "failed"),
    "job-cancel": ("is cancelled", "been cancelled", "cancelled"),
    "job-timeout": ("runs into its time limit", "run into its time limit", "timeout"),
    "job-finish": ("ends", "ended", "finished"),
    "job-retry": ("is tried again", "been tried again", "retried"),
    "job-submit": ("is submitted", "been submitted", "submitted"),
}
#: the others that are about nothing
_WORDS = {
    "start": "the start",
    "idle": "nothing to be active",
    "heartbeat": "its next heartbeat",
    "timer": "its timer",
    "enabled": "being enabled",
}


def occasion(rule: RuleState, condition: Optional[Term]) -> str:
    """What gives the rule its next occasion, as the object of "waits for"."""
    said = rule.rule
    group = f"of {said.name}" if said.name else "of any group"
    if said.trigger == "metric":
        reads = [str(rule.metric), *(path.text for path in (paths(condition) if condition else ()))]
        return f"a change of {' or '.join(dict.fromkeys(path for path in reads if not path.startswith('event.')))}"
    if said.trigger in _JOBS:
        return f"a job {group} that {_JOBS[said.trigger][0]}"
    if said.trigger.startswith("job-"):
        return f"the event {said.trigger} of a job {group}"
    if said.trigger == "report":
        return f"a report of {said.name or 'any job'}"
    if said.trigger == "signal":
        return f"an event of the topic {said.topic}" if said.topic else f"the signal {said.name or '(any)'}"
    if said.trigger == "group-complete":
        return f"the last unfinished job {group} to end"
    if said.trigger.startswith("resource-"):
        return f"nodes of the queue ({said.trigger})"
    if said.trigger == "end":
        return f"the end{f' in state {said.name}' if said.name else ''}"
    return _WORDS[said.trigger]


def why_not_yet(engine: Engine, rule: RuleState) -> str:
    """Why what it waits for has not come; empty where that says itself."""
    trigger, name, counts = rule.rule.trigger, rule.rule.name or "", engine.tally.counts
    about_jobs = trigger.startswith("job-") or trigger in ("group-complete", "report")
    # the name of a rule on reports may go on with a variable
    group = name.partition(".")[0] if about_jobs else ""
    groups, of = ([group], f"of {group}") if group else (list(counts), "of any group")
    if about_jobs and not any(counts[one]["submitted"] for one in groups):
        return f"no job {of} has been submitted yet{_submitters(engine, group)}"
    if trigger in _JOBS and not sum(counts[one][_JOBS[trigger][2]] for one in groups):
        return f"no job {of} has {_JOBS[trigger][1]} yet"
    if trigger == "group-complete":
        left = sum(engine.unfinished[one] for one in groups)
        return f"{left} of them {'have' if left != 1 else 'has'} not ended yet" if left else ""
    return "none has come yet" if rule.looked is None and trigger in ("report", "signal") else ""


def _submitters(engine: Engine, group: str) -> str:
    """The rules that would submit the group, and how often they have fired."""
    found: List[str] = [
        f"'{rule.id}' ({'not fired' if not rule.fired else f'fired {rule.fired}'})"
        for rule in engine.book.rules
        if any(action.name == "submit" and action.label == group for action in rule.rule.actions)
    ]
    if not group or engine.spec.asks:  # a function may answer to submit it
        return ""
    return f": only rule {' and '.join(found[:3])} would" if found else ": no rule submits it"


def due(engine: Engine, rule: RuleState) -> Optional[float]:
    """When its timer, its heartbeat or the look at its cooldown's end is due; None where none is set."""
    names = {
        "timer": f"{ending.TIMER}{rule.number}",
        "heartbeat": f"every:{rule.number}" if rule.rule.every else "heartbeat",
        "metric": f"{COOLDOWN}{rule.number}",
    }
    return engine.timers.get(names.get(rule.rule.trigger, ""))
