# SPDX-License-Identifier: MIT
"""What becomes of simulated jobs: durations, failures and reports, drawn for each job by itself.

Law of this file: the fate of a job follows from the seed, its group and its key alone, never from what others have drawn
before it. So two files that differ in one rule see the same jobs do the same things, and the order of events changes no
job's luck. An amount that has no value for a job (a parameter that it does not have) is that job's default.
"""

from __future__ import annotations

import heapq
from random import Random
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Set, Tuple
from zlib import crc32

from ensemble.engine.actions import Submit
from ensemble.members.simulated_job import Fate
from ensemble.spec import amounts, simulate_check
from ensemble.spec.amounts import Amount, Known
from ensemble.spec.models import Spec
from ensemble.spec.simulate import DURATION, Simulated, Told

_DEFAULT = amounts.read(DURATION, ())
_MASK = (1 << 64) - 1
_PRIME = 0x9E3779B97F4A7C15


class Failing(NamedTuple):
    """One way to fail, ready for use."""

    rate: Amount
    #: wait status
    status: int


class Reporting(NamedTuple):
    """One variable that is reported, ready for use."""

    name: str
    value: Amount
    noise: Optional[Amount]
    #: seconds; None is once, at the end
    every: Optional[float]


class Group:
    """What the jobs of one group do."""

    def __init__(self, said: Simulated, names: Optional[Set[str]]) -> None:
        """Raises PathError where an amount is none."""
        self.given = said.duration is not None
        self.duration = _DEFAULT if said.duration is None else amounts.read(said.duration, names, seconds=True)
        self.fails = [
            Failing(amounts.share(one.rate, names), (128 + one.signal if one.signal else one.exit) << 8)
            for one in said.fail
        ]
        self.reports = [_reporting(name, told, names) for name, told in said.metrics.items()]
        constant = self.duration.constant
        #: all jobs do the same
        self.fate: Optional[Fate] = None
        if constant is not None and not self.fails and not self.reports:
            self.fate = Fate(max(0.0, constant))
        self.random = self.duration.random or any(of.rate.constant not in (0.0, 1.0) for of in self.fails)


def _reporting(name: str, told: Told, names: Optional[Set[str]]) -> Reporting:
    noise = None if told.noise is None else amounts.read(told.noise, names)
    return Reporting(name, amounts.read(told.value, names), noise, told.every)


class Fates:
    """The fates of all jobs of one file under one seed."""

    def __init__(self, spec: Spec, said: Mapping[str, Simulated], seed: int) -> None:
        """`said` is what there is to say of some groups; the others have the defaults. Raises PathError."""
        names = simulate_check.parameters(spec)
        self.groups: Dict[str, Group] = {
            group: Group(said.get(group, Simulated()), names[group]) for group in spec.groups
        }
        self._seed = seed
        #: rule's id -> a number that stands for it
        self._rules: Dict[str, int] = {}
        self._random = Random()
        #: that of C alone: what it leaves out, `gauss`, is not used
        self._reseed = super(Random, self._random).seed

    def draw(self, submission: Submit) -> Fate:
        """What becomes of that job."""
        group = self.groups[submission.group]
        if group.fate is not None:
            return group.fate
        known = Known(submission.params, submission.key.attempt)
        random = self._random
        mark = self._mark(submission)
        if group.random:
            self._reseed(mark)
        duration = group.duration.draw(random, known)
        duration = DURATION if duration is None else max(0.0, duration)
        status = 0
        for way in group.fails:
            rate = way.rate.draw(random, known)
            # drawn even where it is not needed, so that one way more changes nothing of the others
            drawn = random.random() if group.random else 0.5
            if rate is not None and not status and drawn < rate:
                status = way.status
        if not group.reports:
            return Fate(duration, status)
        known.duration = duration
        return Fate(duration, status, reports=_reports(group.reports, known, mark, status == 0))

    def _mark(self, submission: Submit) -> int:
        """A number that is this job's alone."""
        key = submission.key
        rule = self._rules.get(key.rule)
        if rule is None:
            rule = self._rules[key.rule] = crc32(key.rule.encode())
        mark = self._seed
        for part in (rule, key.firing, key.index, key.attempt):
            mark = ((mark ^ part) * _PRIME) & _MASK
            mark ^= mark >> 29
        return mark


def _reports(
    wanted: List[Reporting], known: Known, mark: int, succeeds: bool
) -> Iterator[Tuple[float, Mapping[str, float]]]:
    """The reports of a job in order of time; what is due at one time is one report."""
    random = Random(mark ^ _PRIME)
    assert known.duration is not None
    due: List[Tuple[float, int]] = []
    for number, one in enumerate(wanted):
        if one.every is not None:
            due.append((one.every, number))
        elif succeeds:
            due.append((known.duration, number))
    heapq.heapify(due)
    reported = 0
    # how often each has been reported, so that the time of one does not add up errors
    times = [1] * len(wanted)
    while due and due[0][0] <= known.duration:
        at = due[0][0]
        values: Dict[str, float] = {}
        reported += 1
        known.elapsed, known.report = at, reported
        while due and due[0][0] == at:
            _, number = heapq.heappop(due)
            one = wanted[number]
            value = one.value.draw(random, known)
            if value is not None and one.noise is not None:
                added = one.noise.draw(random, known)
                value = None if added is None else value + added
            if value is not None:
                values[one.name] = value
            if one.every is not None:
                times[number] += 1
                heapq.heappush(due, (one.every * times[number], number))
        if values:
            yield at, values
