# SPDX-License-Identifier: MIT
"""How an ensemble is judged at its end: `failures`, `max_failures`, and what a rule or a user has decreed.

A group whose failures a rule watches by name (`job-fail`, or `count.<group>.failed` in a condition) is in the
file's own hands: its failures are not counted. A `job-fail` rule without a name watches every group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, FrozenSet, Optional, Tuple, Union

from ensemble.spec.models import Spec

if TYPE_CHECKING:
    from ensemble.engine.engine import Engine

#: result of a job -> trigger
TRIGGER = {"success": "job-success", "failed": "job-fail", "cancelled": "job-cancel"}


def watched(engine: Engine) -> FrozenSet[str]:
    """The groups whose failures the file handles itself."""
    groups = set()
    for metric in engine.book.judged:
        if metric.stat == "count" and metric.state == "failed":
            groups.add(metric.group)
    for rule in engine.spec.rules:
        if rule.trigger == "job-fail":
            groups.update([rule.name] if rule.name else engine.groups)
    return frozenset(groups)


def judge(engine: Engine) -> Tuple[str, str]:
    """Complete or failed, and a sentence that says why."""
    if engine.decreed is not None:
        return engine.decreed, engine.reason or ""
    counts = engine.tally.counts
    own = watched(engine)
    judged = [group for group in counts if group not in own]
    failed = {group: counts[group]["failed"] for group in judged if counts[group]["failed"]}
    total = sum(failed.values())
    finished = sum(counts[group]["finished"] for group in judged)
    if total > _allowed(engine.spec, finished):
        per_group = ", ".join(f"{n} of {group}" for group, n in failed.items())
        return (
            "failed",
            f"{total} job{'s' if total != 1 else ''} failed ({per_group}); failures: {engine.spec.failures}",
        )
    return "complete", engine.reason or "all jobs have ended and no rule has anything left to do"


def too_many_failures(engine: Engine) -> Optional[str]:
    """A sentence if the limit `max_failures` is reached, else None."""
    limit = engine.limits["max_failures"]
    if limit is None:
        return None
    failed = sum(counts["failed"] for counts in engine.tally.counts.values())
    finished = sum(counts["finished"] for counts in engine.tally.counts.values())
    if isinstance(limit, str):
        allowed = _number(limit, finished)
        # a share means nothing before one job alone could stay below it
        reached = failed > allowed and (allowed >= 1 or _number(limit, 1) == 0)
    else:
        reached = failed >= limit
    if not reached:
        return None
    return f"{failed} of {finished} finished jobs failed"


def _allowed(spec: Spec, finished: int) -> float:
    if spec.failures == "none":
        return 0
    if spec.failures == "all":
        return float("inf")
    return _number(spec.failures, finished)


def _number(limit: Union[int, str], finished: int) -> float:
    """A number of jobs, from a number or a share of the finished ones."""
    if isinstance(limit, str):
        return float(limit.rstrip("%")) / 100 * finished
    return limit
