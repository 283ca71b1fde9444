# SPDX-License-Identifier: MIT
"""The analysis of files held against what engines have done: what it calls impossible has not happened."""

from __future__ import annotations

from ensemble.engine.engine import Engine
from ensemble.spec.ranges import ANYTHING, exactly
from ensemble.spec.reach import Reach


def check(engine: Engine) -> None:
    """Raises AssertionError where a rule has fired, a job was submitted or a variable set that `reach` excludes."""
    reach = Reach(engine.spec)
    for number, rule in enumerate(engine.book.rules[: len(engine.spec.rules)]):
        assert not rule.fired or number in reach.fires, f"{rule.id} has fired, in spite of {reach.never[number]}"
        assert rule.fired <= reach.times(number), f"{rule.id} has fired {rule.fired} times"
    for group, counts in engine.tally.counts.items():
        assert counts["submitted"] <= reach.jobs[group], f"{group}: {counts}, foreseen {reach.jobs[group]}"
    for name, value in engine.variables.items():
        foreseen = ANYTHING if reach.anything else reach.variables[name]
        found = exactly(value)
        assert found.common(foreseen) == found, f"{name} is {value}, foreseen {foreseen}"
