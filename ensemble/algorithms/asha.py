# SPDX-License-Identifier: MIT
"""`asha`: stop poor jobs early, without waiting for the others.

The stopping variant of asynchronous successive halving (Li et al., MLSys 2020, algorithm 2; as Ray Tune, Syne Tune and
Optuna have it): a job cannot be paused here, so that instead of promoting a job later it is decided at once, when the
job reaches a rung, whether it goes on. It does if it is among the best floor(m / eta) of the m jobs that have reached
the rung so far, itself included, and always if it is the best of them. The decisions follow from the order in which the
ensemble has heard of the jobs, which is the order of its log, and from nothing else: after a crash they are the same.

State: of each rung the number of jobs that have reached it, the values of the best, as many as may ever matter, and the
jobs that are on their way to the next one: a job that was stopped may report once more before it hears of that.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Any, Dict, List

from ensemble.algorithms import rungs
from ensemble.algorithms.contract import Algorithm, Group, Told
from ensemble.algorithms.sweep import MAX_CONCURRENT, NUM_SAMPLES, feeding, total
from ensemble.custom import Action

#: jobs that are remembered between two rungs
MOST_BETWEEN = 5_000
#: jobs that may reach a rung before its early values are forgotten
MOST = 20_000


class Asha(Algorithm):
    """Stops jobs one by one."""

    OPTIONS = (
        rungs.METRIC, rungs.MODE, rungs.RESOURCE, rungs.MIN_RESOURCE, rungs.MAX_RESOURCE, rungs.REDUCTION_FACTOR,
        rungs.RATE, MAX_CONCURRENT, NUM_SAMPLES,
    )  # fmt: skip

    def expand(self, group: Group) -> List[Dict[str, Any]]:
        found = rungs.apart(self, rungs.resources(self.options)[:-1])
        most = min(total(self, group) or MOST, MOST)
        rules = [rungs.rule(self, group, number, resource) for number, resource in enumerate(found)]
        for rule in rules:
            rule["action"]["args"]["given"].update(most=most, last=rule is rules[-1])
        return [*feeding(self, group), *rules]

    def on_rung(self, told: Told) -> List[Action]:
        """A job has reached a rung."""
        x, rung, key = rungs.value(self, told), told.given["rung"], told.event["key"]
        again = told.event["job"]["attempt"] > 0
        if rung and not again:
            before = self.state.setdefault(f"on {rung - 1}", [])
            if key not in before:
                # it was stopped, and had not heard of it yet
                return []
            before.remove(key)
        on = self.state.setdefault(f"on {rung}", [])
        if x is None:
            on.append(key)
            return [self.log(f"{key} goes on: it has reached rung {rung} without any {self.options['metric']}")]
        m, best = self.state.get(f"rung {rung}") or [0, []]
        place, m = bisect_left(best, x) + 1, m + 1
        goes_on = place <= max(1, rungs.kept(m, self.options["reduction_factor"]))
        # the worst of many are not kept
        number = f"number {place}" if place <= len(best) or len(best) == m - 1 else f"behind the best {len(best)}"
        if not again:
            # one that is tried again has its say once
            insort(best, x)
            del best[1 + rungs.kept(told.given["most"], self.options["reduction_factor"]) :]
            self.state[f"rung {rung}"] = [m, best]
        said = f"{self.options['metric']} {rungs.signed(self, x):.6g} is {number} of {m} at rung {rung}"
        if goes_on:
            if not again and not told.given["last"]:
                on.append(key)
                del on[:-MOST_BETWEEN]
            return [self.log(f"{key} goes on: {said}")]
        return [self.log(f"{key} is stopped: {said}"), Action("cancel", job=key)]
