# SPDX-License-Identifier: MIT
"""What jobs report: values into statistics, onto the job, and to the rules that wait for them.

Law of this file: called by `Engine.handle` alone, on its way. Every report has an id `SOURCE:N`; of each source the
greatest N is remembered, so that what is told again (a client that had no answer, output that is read anew) has no
second effect. A source that has been silent for `FORGET` seconds is forgotten, for nothing waits so long for an answer;
the sources that are read from output (`@...`) are not, for output is read from its beginning.
What is not a finite number is refused and counted, and feeds nothing. The values of one report are one event.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

from ensemble.engine.events import Key, Printed, Report
from ensemble.engine.jobs import PENDING, RUNNING, SUBMITTING, Job
from ensemble.engine.occasion import Occasion

if TYPE_CHECKING:
    from ensemble.engine.engine import Engine

#: seconds for which the source of a report is remembered; longer than any client waits for an answer
FORGET = 120.0
#: sources that are remembered of one job, or of an ensemble's signals
SOURCES = 4096
#: how the id begins of what was read from a job's output
OUTPUT = "@"


def told_before(seen: Dict[str, Any], id: str, t: float, forget: float = FORGET) -> bool:
    """Has this id been consumed already? Remembers it. `seen` is JSON-able; '' is an id of nothing, and always new."""
    if not id:
        return False
    source, _, number = id.rpartition(":")
    last = int(number) if source and number.isdecimal() else 0
    source = source if source and number.isdecimal() else id
    known = seen.pop(source, None)
    if known is not None and known[0] >= last:
        seen[source] = known
        return True
    # the oldest stand first
    while seen:
        oldest = next(iter(seen))
        if len(seen) < SOURCES and seen[oldest][1] > t - forget:
            break
        del seen[oldest]
    seen[source] = [last, t]
    return False


def refusal(engine: Engine, key: Any) -> Optional[str]:
    """Why no report of the job with this key is taken now; None where one is."""
    job = engine.jobs.get(key)
    if engine.final is not None:
        return f"ensemble {engine.id} has ended: {engine.final}"
    if job is None or job.state not in (SUBMITTING, PENDING, RUNNING):
        return f"the attempt {key} of a job has ended, or never was"
    return None


def take(engine: Engine, event: Report) -> None:
    """A job has reported values."""
    _consume(engine, event.key, ((event.id, event.values),))


def printed(engine: Engine, event: Printed) -> None:
    """Values were found in lines of a job's output."""
    job = engine.jobs.get(event.key)
    if event.note and job is not None:
        engine.record("error", text=f"a job of {job.group}: {event.note}", job=job.id)
    _consume(engine, event.key, [(f"{OUTPUT}{event.source}:{offset}", values) for offset, values in event.lines])


def _consume(engine: Engine, key: Key, found: Sequence[Tuple[str, Dict[str, Any]]]) -> None:
    if refusal(engine, key) is not None:
        return
    job = engine.jobs[key]
    if job.reported is None:
        job.reported = {"seen": {}, "read": {}, "n": {}, "top": {}}
    for id, values in found:
        if id.startswith(OUTPUT):
            again = told_before(job.reported["read"], id, engine.t, math.inf)
        else:
            again = told_before(job.reported["seen"], id, engine.t)
        if again:
            continue
        data: Dict[str, Any] = {}
        top = job.reported["top"]
        #: the greatest value of each before this report
        before: Dict[str, Optional[float]] = {}
        for variable, value in values.items():
            x = number(value)
            if engine.tally.reported(job.group, variable, x) and x is not None:
                keep(engine, job, variable, x)
                data[variable] = x
                before[variable] = top.get(variable)
                top[variable] = x if before[variable] is None else max(x, top[variable])
        if data:
            _tell(engine, job, data, before)


def number(value: Any) -> Optional[float]:
    """The value as a number, perhaps not a finite one; None where it is none."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def keep(engine: Engine, job: Job, variable: str, x: float) -> None:
    """A new value of the job's: what stands for it now, as `keep` says."""
    assert job.reported is not None
    counts = job.reported["n"]
    n = counts[variable] = counts.get(variable, 0) + 1
    had = job.values.get(variable)
    spec = engine.groups[job.group][job.set].metrics.get(variable) or engine.tally.declared[job.group].get(variable)
    how = spec.keep if spec is not None else "last"
    if had is None or how == "last":
        job.values[variable] = x
    elif how == "mean":
        job.values[variable] = had + (x - had) / n
    else:
        job.values[variable] = min(had, x) if how == "min" else max(had, x)


def ended(engine: Engine, job: Job) -> None:
    """The job has ended: what it kept counts once, for the state that it ended in."""
    if job.values and job.result is not None:
        engine.tally.kept(job.group, job.result, job.values)


def _tell(engine: Engine, job: Job, data: Dict[str, float], before: Dict[str, Optional[float]]) -> None:
    """Occasions of the rules on `report`: of those on a variable, and of those on the group or on any."""
    book, group = engine.book, job.group
    found: List[Tuple[int, Occasion]] = []
    for variable, x in data.items():
        numbers = book.exactly("report", f"{group}.{variable}")
        if numbers:
            found += _occasions(numbers, f"report {group}.{variable} = {x:.6g}", job, variable, data, before)
    numbers = [*book.exactly("report", group), *book.exactly("report", None)]
    if numbers:
        text = ", ".join(f"{name} = {x:.6g}" for name, x in list(data.items())[:5])
        found += _occasions(numbers, f"report {group}: {text}", job, next(iter(data)), data, before)
    engine.occasions(found)
    if engine.spec.logging.debug:
        engine.record("job", job=job.id, group=group, event="report", values=data)


def _occasions(
    numbers: Sequence[int],
    text: str,
    job: Job,
    variable: str,
    data: Dict[str, float],
    before: Dict[str, Optional[float]],
) -> List[Tuple[int, Occasion]]:
    assert job.reported is not None
    n = job.reported["n"][variable]
    occasion = Occasion(text, job, name=variable, value=data[variable], n=n, before=before[variable], data=data)
    return [(n, occasion) for n in numbers]
