# SPDX-License-Identifier: MIT
"""`successive-halving`: of n jobs the best n / eta go on at each rung; the same ones whatever the order of events.

Li et al. (MLSys 2020), algorithm 1, with `max_resource`; Jamieson and Talwalkar (AISTATS 2016), figure 3, with `budget`.
Jobs do not wait for one another: a job is stopped as soon as it is certain that it is not among those that go on, which
is when as many certain members of its rung are better as will go on. So those that go to the end are exactly those
of the papers, in whatever order the jobs report, and most poor jobs are stopped long before the last one has reported.

A job that ends by itself before a rung keeps its last value there if it succeeded, and is the worst if not. Equal values
stand in the order of the jobs. State: the values of each rung by job, and the jobs that have ended by themselves.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Set, Tuple

from ensemble.algorithms import rungs
from ensemble.algorithms.contract import Algorithm, Group, Told, WrongOption
from ensemble.algorithms.options import Option
from ensemble.algorithms.sweep import MAX_CONCURRENT, NUM_SAMPLES, feeding, total
from ensemble.custom import Action

#: jobs of one algorithm: their values are its state
MOST = 5_000
_BUDGET = Option(
    "budget",
    "number",
    "resource of all jobs together (B), in place of min_resource and max_resource",
    None,
    low=0,
    above=True,
)


class SuccessiveHalving(Algorithm):
    """Stops jobs once it is certain that they are out."""

    OPTIONS = (
        rungs.METRIC, rungs.MODE, rungs.RESOURCE, rungs.MIN_RESOURCE, rungs.MAX_RESOURCE, rungs.REDUCTION_FACTOR,
        rungs.RATE, _BUDGET, MAX_CONCURRENT, NUM_SAMPLES,
    )  # fmt: skip

    def expand(self, group: Group) -> List[Dict[str, Any]]:
        n = total(self, group)
        if n is None:
            raise WrongOption("", f"there is no end of points of '{group.name}'", "num_samples, a number of jobs")
        if n > MOST:
            at = "num_samples" if self.options["num_samples"] is not None else ""
            raise WrongOption(at, f"{self.name} has {n} jobs to compare", f"at most {MOST}; asha takes any number")
        resources, sizes = self._plan(n)
        rules = [rungs.rule(self, group, k, resource) for k, resource in enumerate(resources)]
        ended = self.rule("ended", "job-finish", self.call("ended"), name=group.name, repetitions="unlimited")
        for rule in (*rules, ended):
            rule["action"]["args"].setdefault("given", {})["sizes"] = sizes
        return [*feeding(self, group), *rules, ended]

    def _plan(self, n: int) -> Tuple[List[float], List[int]]:
        """The resource of each rung at which jobs are stopped, and how many jobs are at each and behind the last."""
        options = self.options
        eta, budget = options["reduction_factor"], options["budget"]
        if budget is None:
            resources = rungs.resources(options)
            sizes = rungs.halvings(n, eta, len(resources))
            if sizes[-1] < 1:
                message = f"{n} jobs are too few for {len(resources)} rungs: none would be left at the last"
                raise WrongOption("", message, f"at least {round(eta ** (len(resources) - 1))} jobs")
            return rungs.apart(self, resources[:-1]), sizes
        for name in ("max_resource", "min_early_stopping_rate"):
            if options[name]:
                raise WrongOption(name, f"budget says it all, so {name} means nothing", "one of them")
        resources, sizes = rungs.budgeted(n, eta, budget)
        if n < 2 or resources[0] < 1:
            message = f"a budget of {budget:g} gives {n} jobs nothing at the first rung"
            raise WrongOption("budget", message, "a greater one", value=f"{budget:g}")
        return resources, sizes

    def on_rung(self, told: Told) -> List[Action]:
        """A job has reached a rung."""
        x, key = rungs.value(self, told), self._short(told.event["key"])
        if key in self._out():
            return []  # it had not heard of it yet
        self._values(told.given["rung"]).setdefault(key, _WORST if x is None else x)
        return self._judge(told.given["sizes"])

    def on_ended(self, told: Told) -> List[Action]:
        """A job has ended for good: what it has stands for all rungs that it has not reached."""
        key = self._short(told.event["key"])
        if key in self._out():
            return []
        self.state.setdefault("ended", []).append(key)
        succeeded = told.event["result"] == "success"
        last = told.event["values"].get(self.options["metric"]) if succeeded else None
        for rung in range(len(told.given["sizes"]) - 1):
            self._values(rung).setdefault(key, None if last is None else rungs.signed(self, float(last)))
        return self._judge(told.given["sizes"])

    def _values(self, rung: int) -> _Values:
        values: _Values = self.state.setdefault(f"rung {rung}", {})
        return values

    def _out(self) -> Set[str]:
        """Those that have failed, or are stopped: their values do not matter any more, and are not kept."""
        rungs = [values for name, values in self.state.items() if name.startswith("rung ")]
        return {key for values in rungs for key, x in values.items() if x is None}

    def _judge(self, sizes: List[int]) -> List[Action]:
        """Stop those that are certain to be out."""
        gone, found = self._out(), []
        #: those that are certain to be members of the rung; None is all
        members: Optional[Set[str]] = None
        for rung, size in enumerate(sizes[:-1]):
            values = self._values(rung)
            ranked = sorted(
                (key for key in values if members is None or key in members), key=lambda k: _order(values, k)
            )
            unknown = size - len(ranked)
            going = sizes[rung + 1]
            # behind so many certain members
            bar = _order(values, ranked[going - 1]) if len(ranked) >= going else None
            for key in values:
                if bar is not None and key not in gone and _order(values, key) > bar:
                    gone.add(key)
                    found.append((rung, key))
            members = set(ranked[: max(0, going - unknown)])
        return [*self._stopped(found), *self._settled(members, sizes[-1])]

    def _stopped(self, found: List[Tuple[int, str]]) -> List[Action]:
        actions, ended = [], set(self.state.get("ended", ()))
        for rung in sorted({rung for rung, _ in found}):
            keys = [self._full(key) for one, key in found if one == rung and key not in ended]
            if keys:
                actions += [self.log(f"stopped at rung {rung}: {', '.join(keys)}"), Action("cancel", job=keys)]
        for rung, key in found:
            # behind the bar is all that matters of it
            self._values(rung)[key] = None
            if key in ended:
                self.state["ended"].remove(key)
        return actions

    def _settled(self, members: Optional[Set[str]], number: int) -> List[Action]:
        """Say once who goes to the end."""
        if members is None or len(members) < number or self.state.get("settled"):
            return []
        self.state["settled"] = True
        return [self.log(f"to the end go: {', '.join(self._full(key) for key in sorted(members, key=_place))}")]

    def _short(self, key: str) -> str:
        """The name of a job as the state has it: most are of this algorithm's own rules."""
        own = f"{self.id}-"
        return key[len(own) :] if key.startswith(own) else f"={key}"

    def _full(self, key: str) -> str:
        return key[1:] if key.startswith("=") else f"{self.id}-{key}"


#: value at a rung; None: it does not go on, whatever comes
_Values = Dict[str, Optional[float]]
#: of a job that has reported no metric at all
_WORST = 1.7e308


def _order(values: _Values, key: str) -> Tuple[bool, float, bool, str, int, int]:
    x = values[key]
    return (x is None, 0.0 if x is None else x, *_place(key))


def _place(key: str) -> Tuple[bool, str, int, int]:
    """In the order of submission: first those of the rule that begins."""
    rule, firing, index = key.split("/")
    return rule != "start", rule, int(firing), int(index)
