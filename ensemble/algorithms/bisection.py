# SPDX-License-Identifier: MIT
"""`bisect`: find the value of one parameter at which the jobs' outcome changes, to a tolerance.

The outcome is whether a job succeeds; or, with `metric`, whether its value is at least `target`. Both ends of the bracket
are tried first: they must differ. Then the middle of what is left is tried, until it is at most `xtol` wide; the
names are those of scipy.optimize.bisect and root_scalar. With `max_concurrent` n probes go at once, and what is left
shrinks n + 1 times in a round. State: the bracket, its outcomes, and the rounds.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, Optional, Tuple

from ensemble.algorithms.contract import Algorithm, Failed, Group, Told, WrongOption
from ensemble.algorithms.options import Option
from ensemble.custom import Action


class Bisect(Algorithm):
    """Probes in rounds."""

    OPTIONS = (
        Option("parameter", "parameter", "the parameter that is searched"),
        Option("bracket", "bounds", "where to search: [low, high]"),
        Option("xtol", "number", "the width that is small enough", low=0, above=True),
        Option(
            "metric", "variable", "a reported variable that decides, in place of success", None, words=("duration",)
        ),
        Option("target", "number", "with metric: the outcome is whether it is at least this", None),
        Option("integer", "boolean", "try whole numbers alone", False),
        Option("max_concurrent", "integer", "probes at a time", 1, low=1, high=1000),
        Option("maxiter", "integer", "rounds at most", 100, low=1, high=10_000),
    )

    def expand(self, group: Group) -> List[Dict[str, Any]]:
        name, options = group.name, self.options
        if (options["metric"] is None) != (options["target"] is None):
            given = "metric" if options["target"] is None else "target"
            raise WrongOption(given, "metric and target go together", "both, or none of them")
        if any(parameter != options["parameter"] for parameter in group.parameters):
            others = ", ".join(one for one in group.parameters if one != options["parameter"])
            message = f"the group '{name}' has other parameters ({others}), of which bisect knows no value"
            raise WrongOption("parameter", message, "a group with this one alone", tuple(group.parameters))
        low, high = options["bracket"]
        if options["integer"] and (low != int(low) or high != int(high) or options["xtol"] < 1):
            raise WrongOption("integer", "a search for whole numbers has whole ends, and an xtol from 1", "false")
        if high - low <= options["xtol"]:
            raise WrongOption("xtol", f"the bracket is no wider than xtol, {options['xtol']:g}", "a smaller one")
        return [
            self.rule("start", "enabled", self.call("start"), repetitions="unlimited"),
            # the failures of a probe are an outcome: a rule that reads their number has them in hand
            self.rule(
                "round", "group-complete", self.call("round"), name=name, when=f"count.{name}.failed >= 0",
                repetitions="unlimited",
            ),
        ]  # fmt: skip

    def on_start(self, told: Told) -> List[Action]:
        """The ends first. Where it was disabled in the middle, it goes on where it was."""
        if "bracket" in self.state:
            if self.state.get("found") is not None or not self.idle(told):
                return []
            asked = self.state.get("asked") or self.options["bracket"]
            tried = {row["params"].get(self.options["parameter"]) for row in told.results}
            return self.on_round(told) or [] if set(asked) <= tried else [self._submit(asked)]
        self.state.update(bracket=list(self.options["bracket"]), outcomes=None, rounds=0)
        return [self._submit(self.options["bracket"])]

    def on_round(self, told: Told) -> Any:
        """All probes have ended."""
        if "bracket" not in self.state or self.state.get("found") is not None:
            return None  # jobs that others have submitted
        known = dict(self._outcome(row) for row in told.results if self.options["parameter"] in row["params"])
        low, high = self.state["bracket"]
        if self.state["outcomes"] is None:
            if low not in known or high not in known:
                raise Failed(
                    f"the ends of the bracket, {low:g} and {high:g}, have no outcome: their jobs were cancelled"
                )
            if known[low] == known[high]:
                raise Failed(
                    f"the outcome is {_said(known[low])} at both ends, {low:g} and {high:g}: no change between them"
                )
            self.state["outcomes"] = [known[low], known[high]]
        asked = [x for x in self.state.get("asked", []) if x in known]
        if self.state.get("asked") and not asked:
            raise Failed(f"none of the probes of round {self.state['rounds']} has an outcome: they were cancelled")
        # where the outcome changes more than once, the first change from the left is followed
        for x in asked:
            if known[x] != self.state["outcomes"][0]:
                high = x
                break
            low = x
        self.state["bracket"] = [low, high]
        if high - low <= self.options["xtol"] or self.state["rounds"] >= self.options["maxiter"]:
            return self._end(low, high)
        probes = self._probes(low, high)
        if not probes:
            return self._end(low, high)
        self.state["rounds"] += 1
        self.state["asked"] = probes
        return [self.log(f"between {low:.10g} and {high:.10g}"), self._submit(probes)]

    def _probes(self, low: float, high: float) -> List[float]:
        """The values that cut the bracket into equal parts."""
        parts = self.options["max_concurrent"] + 1
        if self.options["integer"]:
            step = (high - low) / parts
            return sorted({x for k in range(1, parts) for x in (round(low + k * step),) if low < x < high})
        found = [low + (high - low) * k / parts for k in range(1, parts)]
        return [x for x in found if low < x < high]

    def _submit(self, values: List[float]) -> Action:
        points = [{self.options["parameter"]: x} for x in values]
        return Action("submit", label=self.group, count=1, parameters=points)

    def _outcome(self, row: Dict[str, Any]) -> Tuple[float, bool]:
        x, metric = row["params"][self.options["parameter"]], self.options["metric"]
        if metric is None or row["result"] != "success":
            if row["result"] == "cancelled":
                return math.nan, False
            if metric is not None:
                raise Failed(f"the job at {x:g} failed, and so has no {metric}")
            return x, row["result"] == "success"
        value: Optional[float] = row["duration"] if metric == "duration" else row["values"].get(metric)
        if value is None:
            raise Failed(f"the job at {x:g} reported no {metric}")
        return x, value >= self.options["target"]

    def _end(self, low: float, high: float) -> List[Action]:
        self.state["found"] = [low, high]
        first, second = map(_said, self.state["outcomes"])
        text = f"the outcome is {first} at {low:.10g} and {second} at {high:.10g}, after {self.state['rounds']} rounds"
        return [self.log(text), self.done(low=low, high=high, x=(low + high) / 2)]


def _said(outcome: bool) -> str:
    return "success" if outcome else "failure"
