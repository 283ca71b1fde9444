# SPDX-License-Identifier: MIT
"""`evolve`: an evolution strategy over the parameters of a group.

(mu + lambda) with recombination, as in Beyer and Schwefel, "Evolution strategies: a comprehensive introduction" (2002):
the first generation is drawn from the group's own sample; of all jobs so far the `elite` best are the parents, and each
child takes every parameter from one of two of them and is mutated: a number by a normal step of `mutation` times its
range (in its logarithm for a loguniform one), a value of a list by another one of the list, with that probability. The
step follows the 1/5 rule in the form of Igel, Hansen and Roth (2007): times exp(2 (p - 0.2) / 0.8), where p is the share of
children that are better than the best parent. Draws are seeded by `seed` and the generation, and results are ordered by
their values, so that the same results, in whatever order they came, give the same next generation.

State: the parents with their values, the step, the generation, and whether that was drawn from the sample.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any, Dict, List, Mapping, Optional

from ensemble.algorithms.contract import Algorithm, Failed, Group, Told, WrongOption
from ensemble.algorithms.options import Option
from ensemble.algorithms.rungs import MODE, signed
from ensemble.custom import Action

#: share of better children at which the step stays
_TARGET = 0.2


class Evolve(Algorithm):
    """Submits generations."""

    OPTIONS = (
        Option("metric", "variable", "what is to be optimised: a reported variable, or duration", words=("duration",)),
        MODE,
        Option("population", "integer", "jobs of a generation", 20, low=2, high=1000, alias="popsize"),
        Option("elite", "integer", "the best of all so far, from which the next ones are made", 5, low=1, high=1000),
        Option("generations", "integer", "generations in all", 10, low=1, high=100_000, alias="maxiter"),
        Option("mutation", "number", "the first step, as a share of each parameter's range", 0.2, low=0, above=True, high=1),
        Option("recombination", "number", "the chance to take a parameter from a second parent", 0.5, low=0, high=1),
        Option("seed", "integer", "what draws the children", 0, low=0, high=2**63 - 1),
    )  # fmt: skip

    def expand(self, group: Group) -> List[Dict[str, Any]]:
        options = self.options
        if not group.parameters:
            message = f"the group '{group.name}' has no parameters of its own that could evolve"
            raise WrongOption("", message, "parameters in the group, such as {x: {uniform: [0, 1]}}")
        if options["elite"] > options["population"]:
            raise WrongOption("elite", f"elite {options['elite']} is above the population, {options['population']}")
        for name, axis in group.parameters.items():
            if axis["kind"] == "file":
                raise WrongOption(
                    "", f"the parameter '{name}' comes from a file, and cannot evolve", "a list, or a range"
                )
        if group.points is not None and group.points < options["population"]:
            message = f"the group '{group.name}' has {group.points} points alone for the first generation"
            raise WrongOption(
                "population", message, f"at most {group.points}, or sample: random", value=options["population"]
            )
        return [
            self.rule("start", "enabled", self.call("start", space=dict(group.parameters)), repetitions="unlimited"),
            self.rule(
                "next", "group-complete", self.call("next", space=dict(group.parameters)), name=group.name,
                repetitions="unlimited",
            ),
        ]  # fmt: skip

    def on_start(self, told: Told) -> List[Action]:
        """The first generation: of the group's own sample, or from what others have found in the group before.

        Where it was disabled in the middle, it goes on: with the generation that has ended meanwhile, or was never submitted.
        """
        if "generation" in self.state:
            return (self._next(told, again=True) or []) if self.idle(told) and not self.state.get("over") else []
        self._take(told.results)
        warm = len(self.state["parents"]) >= self.options["elite"]
        self.state.update(generation=1, step=self.options["mutation"], drawn=not warm)
        said = [self.log("begins with the best of the group so far")] if warm else []
        return [*said, self._generation(told)]

    def on_next(self, told: Told) -> Optional[List[Action]]:
        """A generation has ended."""
        if "generation" not in self.state or self.state.get("over"):
            return None  # jobs that others have submitted
        return self._next(told, again=False)

    def _next(self, told: Told, again: bool) -> Optional[List[Action]]:
        if again and not self._ran(told):
            return [self._generation(told)]
        better, number = self._take(told.results)
        if not self.state["parents"]:
            raise Failed(f"no job of the first generation has a {self.options['metric']}")
        best, point = self.state["parents"][0]
        best = signed(self, best)
        generation = self.state["generation"]
        said = self.log(
            f"generation {generation}: the best {self.options['metric']} so far is {best:.6g}, at {_shown(point)}"
        )
        if generation >= self.options["generations"]:
            self.state["over"] = True
            return [said, self.done(value=best, **point)]
        if generation > 1 and number and not again:
            self.state["step"] = min(
                1.0, self.state["step"] * math.exp(2 * (better / number - _TARGET) / (1 - _TARGET))
            )
        self.state.update(generation=generation + 1, drawn=False)
        return [said, self._generation(told)]

    def _generation(self, told: Told) -> Action:
        """Submit the present generation."""
        if self.state["drawn"]:
            return Action("submit", label=self.group, count=self.options["population"])
        return Action("submit", label=self.group, count=1, parameters=self._children(told.given["space"]))

    def _ran(self, told: Told) -> bool:
        """Have jobs of the present generation ended? What they are is drawn again."""
        if self.state["drawn"]:
            return bool(told.results)
        children = self._children(told.given["space"])
        return any(row["params"] in children for row in told.results)

    def _take(self, rows: List[Dict[str, Any]]) -> Any:
        """Choose the parents among those so far and these; how many of these are better than the best one, of how many."""
        parents: List[Any] = self.state.setdefault("parents", [])
        metric = self.options["metric"]
        new = []
        for row in rows:
            value = row["duration"] if metric == "duration" else row["values"].get(metric)
            if row["result"] == "success" and value is not None and row["params"]:
                new.append([signed(self, float(value)), row["params"]])
        best = parents[0][0] if parents else math.inf
        together = sorted([*parents, *new], key=lambda one: (one[0], sorted((k, str(v)) for k, v in one[1].items())))
        # one point counts once
        chosen: List[Any] = []
        for one in together:
            if all(one[1] != other[1] for other in chosen):
                chosen.append(one)
        self.state["parents"] = chosen[: self.options["elite"]]
        return sum(value < best for value, _ in new), len(new)

    def _children(self, space: Mapping[str, Mapping[str, Any]]) -> List[Dict[str, Any]]:
        """The points of the present generation, from its parents."""
        draw = Random(f"{self.options['seed']}/{self.state['generation']}")
        parents = [point for _, point in self.state["parents"]]
        points = []
        for _ in range(self.options["population"]):
            one, other = draw.choice(parents), draw.choice(parents)
            child = {}
            for name, axis in space.items():
                value = (other if draw.random() < self.options["recombination"] else one)[name]
                child[name] = self._mutated(value, axis, draw)
            points.append(child)
        return points

    def _mutated(self, value: Any, axis: Mapping[str, Any], draw: Random) -> Any:
        step = self.state["step"]
        if axis["kind"] == "list":
            others = [one for one in axis["values"] if one != value]
            return draw.choice(others) if others and draw.random() < step else value
        low, high = axis["low"], axis["high"]
        if axis["kind"] == "loguniform":
            turned = math.log(value) + draw.gauss(0, step * math.log(high / low))
            return min(high, max(low, math.exp(_inside(turned, math.log(low), math.log(high)))))
        return _inside(value + draw.gauss(0, step * (high - low)), low, high)


def _inside(x: float, low: float, high: float) -> float:
    """Reflected at the ends; what is still outside then stands at the end."""
    x = 2 * low - x if x < low else 2 * high - x if x > high else x
    return min(high, max(low, x))


def _shown(point: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} = {value:.6g}" if isinstance(value, float) else f"{name} = {value}" for name, value in point.items()
    )
