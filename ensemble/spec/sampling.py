# SPDX-License-Identifier: MIT
"""What must fit where parameters are used: the sample and its size, formats, points of actions, misspelt places.

Law of this file: `check_set` looks at one set of the tree, before the models; `settle` at a spec that has no faults
otherwise; `seeded` completes it with what is not in the file. A warning is true, and rare in files that work.
"""

from __future__ import annotations

import math
from typing import Callable, Dict, Iterable, List, Mapping, Optional, Set, Tuple

from ensemble.spec import templates
from ensemble.spec.faults import Report, listed, nearest
from ensemble.spec.models import Action, JobSet, Spec
from ensemble.spec.reader import Node
from ensemble.spec.space import MOST_LHS, MOST_POINTS, QMC, WALKS, Space, Value

_Formats = List[Tuple[str, templates.Hole]]
#: seeds that are drawn are below this
SEEDS = 2**32


def check_set(job: Node, report: Report) -> None:
    """Tell what does not go together in a set of the tree; what is wrong by itself was told, and stands as None."""
    space: Optional[Space] = None
    if "parameters" in job.value:
        space = job.value["parameters"][1].value
        if not isinstance(space, Space):
            return
    given = {key: job.get(key) for key in ("sample", "samples", "seed")}
    for key, node in given.items():
        if node is not None and (space is None or space.custom is not None):
            why = "without parameters" if space is None else "where a function answers the points"
            report.add(job.key(key), f"{key} means nothing {why}", value=key, expected="parameters beside it")
    if space is None or space.custom is not None:
        return
    sample = given["sample"].text if given["sample"] is not None else default_sample(space)
    at = given["sample"] or job.key("parameters")
    number = given["samples"]
    if sample in WALKS:
        _check_walk(space, sample, at, report)
        if number is not None:
            message = f"a sample of '{sample}' takes every point, so that samples means nothing"
            report.add(job.key("samples"), message, value="samples", expected="sample: random, lhs, sobol or halton")
    elif number is None:
        if sample == "lhs":
            report.add(at, "a latin hypercube (lhs) is made for a number of points", expected="samples: that number")
    elif sample == "lhs" and isinstance(number.value, int) and number.value * len(space.axes) > MOST_LHS:
        expected = f"samples times parameters of at most {MOST_LHS}, or sample: sobol"
        report.add(number, "a latin hypercube of that size would be too large", expected=expected)


def known(jobs: Iterable[Node], rules: Iterable[Node]) -> Optional[Dict[str, Set[str]]]:
    """The parameters that jobs of each group may have; None where a function has a hand in it, or a shape is wrong.

    The nodes are the entries of the file.
    """
    names: Dict[str, Set[str]] = {}
    for job in jobs:
        name, space = job.get("name"), job.get("parameters")
        if name is None or (space is not None and (not isinstance(space.value, Space) or space.value.custom)):
            return None
        names.setdefault(name.text, set()).update(space.value.names if space is not None else ())
    for rule in rules:
        for action in _entries(rule, "actions"):
            what, label, given = (action.get(key) for key in ("name", "label", "parameters"))
            if what is None or what.text == "custom":
                return None
            if given is not None and label is not None:
                points = [point.value for point in (given.items if given.kind == "list" else (given,))]
                for point in points:
                    names.setdefault(label.text, set()).update(point if isinstance(point, dict) else ())
    return names


def default_sample(space: Space) -> str:
    """What `sample` is where the file does not say it."""
    return "random" if space.drawn else "grid"


def _check_walk(space: Space, sample: str, at: Node, report: Report) -> None:
    endless = [axis.names[0] for axis in space.axes if axis.size is None]
    if endless:
        message = f"'{endless[0]}' has no end of values, so that a {sample} cannot walk through them"
        report.add(at, message, expected="a list, range or linspace, or sample: random, lhs, sobol or halton")
        return
    sizes = {axis.names[0]: axis.size or 0 for axis in space.axes}
    if sample == "zip" and len(set(sizes.values())) > 1:
        told = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        report.add(at, f"a zip needs equally many values ({told})", expected="as many values of each parameter")
    elif sample == "grid" and math.prod(sizes.values()) > MOST_POINTS:
        report.add(at, f"the grid has {math.prod(sizes.values())} points", expected=f"at most {MOST_POINTS}")


def total(jobs: JobSet) -> Optional[int]:
    """The points of a set that has parameters; None where there is no end of them, or a function says them."""
    space = jobs.parameters
    if space is None or space.custom is not None:
        return None
    sample = jobs.sample or default_sample(space)
    sizes = [axis.size or 0 for axis in space.axes]
    return sizes[0] if sample == "zip" else math.prod(sizes) if sample == "grid" else jobs.samples


def settle(spec: Spec, root: Node, report: Report) -> None:
    """Tell what does not fit in the use of parameters, and what looks like an accident."""
    _Settler(spec, root, report).run()


def settle_actions(spec: Spec, root: Node, report: Report) -> None:
    """As `settle`, of the actions alone: those of rules that join a file that was settled before."""
    _Settler(spec, root, report).actions()


class _Settler:
    def __init__(self, spec: Spec, root: Node, report: Report) -> None:
        self._spec = spec
        self._report = report
        self._sets = list(zip(_entries(root, "jobs"), spec.jobs))
        self._actions: List[Tuple[Node, Action]] = [
            (place, action)
            for item, rule in zip(_entries(root, "rules"), spec.rules)
            for place, action in zip(_entries(item, "actions"), rule.actions)
            if action.name == "submit"
        ]

    def run(self) -> None:
        self.actions()
        for node, jobs in self._sets:
            if jobs.parameters is not None and jobs.parameters.custom is None:
                wanted = _formats(jobs)
                for axis in jobs.parameters.axes if wanted else ():
                    # one value that does not fit tells enough
                    any(self._misfit(node, wanted, dict(zip(axis.names, row)), None) for row in axis.examples())
                self._places(node, jobs)
                self._size(node, jobs)

    def actions(self) -> None:
        """Only what stands in actions, where the sets are known to be good."""
        for place, action in self._actions:
            for node, jobs in self._sets:
                if jobs.name == action.label:
                    self._action(place, action, node, jobs)

    def _action(self, place: Node, action: Action, node: Node, jobs: JobSet) -> None:
        if action.parameters is None:
            self._endless(place, action, jobs)
            return
        at = place.get("parameters") or place
        names = jobs.parameters.names if jobs.parameters is not None else ()
        missing = [name for name in names if name not in action.parameters[0]]
        if missing:
            message = f"the points have no '{missing[0]}', which is a parameter of '{jobs.name}'"
            self._report.add(at, message, expected=f"a value of each of {listed(names)}")
            return
        wanted = _formats(jobs)
        if wanted:
            any(self._misfit(node, wanted, point, at) for point in action.parameters)

    def _endless(self, place: Node, action: Action, jobs: JobSet) -> None:
        space = jobs.parameters
        if space is None or space.custom is not None or action.count is not None or jobs.wanted is not None:
            return
        if total(jobs) is None:
            message = f"this submits all points of '{jobs.name}', of which there is no end"
            expected = "count here or in the group, or samples in the group"
            self._report.add(place.get("label") or place, message, expected=expected)

    def _misfit(self, node: Node, wanted: _Formats, point: Mapping[str, Value], at: Optional[Node]) -> bool:
        """Can a value not stand where it is wanted? Then a fault is told, at the points `at` or at the place."""
        found = False
        for key, hole in wanted:
            if hole.name not in point:
                continue
            try:
                templates.formatted(point[hole.name], hole)
            except ValueError as exc:
                self._report.add(at or node.get(key) or node, str(exc), expected="another format, or other values")
                found = True
        return found

    def _places(self, node: Node, jobs: JobSet) -> None:
        assert jobs.parameters is not None
        names = jobs.parameters.names
        given = {name for _, action in self._actions if action.label == jobs.name for name in _names(action)}
        used: Set[str] = set()
        for key, text in templates.texts(jobs):
            used.update(name for name in names if templates.variable(name) in text)
            for hole in templates.holes(text):
                used.add(hole.name)
                near = nearest(hole.name, names) if hole.name not in (*names, *given) else None
                if near is not None:
                    message = f"'{{{hole.name}}}' is no parameter, and so stays as it is"
                    self._report.warn(node.get(key) or node, message, expected=f"{{{near}}}, if that is meant")
            for name in names:
                if f"${{{name}}}" in text and key != "script":
                    message = f"'${{{name}}}' is left to a shell, and so is not the parameter"
                    self._report.warn(node.get(key) or node, message, expected=f"{{{name}}}, if that is meant")
        for name in names:
            if name not in used:
                message = f"no key uses the parameter '{name}'; jobs find it in {templates.variable(name)} alone"
                parameters = node.get("parameters")
                self._report.warn(parameters or node, message, expected=f"{{{name}}} in the command, say")

    def _size(self, node: Node, jobs: JobSet) -> None:
        number = total(jobs)
        most = self._spec.limits.max_jobs
        whole = any(a.label == jobs.name and a.count is None and a.parameters is None for _, a in self._actions)
        if number is not None and number > most and whole and jobs.wanted is None:
            message = f"'{jobs.name}' has {number} points, and the limit max_jobs is {most}"
            self._report.warn(node.key("parameters"), message, expected="a higher limit, or count")


def _formats(jobs: JobSet) -> _Formats:
    """The places of a set that want a format, each with its key."""
    return [(key, hole) for key, text in templates.texts(jobs) for hole in templates.holes(text) if hole.format]


def _names(action: Action) -> Iterable[str]:
    return action.parameters[0] if action.parameters else ()


def _entries(node: Node, key: str) -> Tuple[Node, ...]:
    value = node.get(key)
    return value.items if value is not None else ()


def unseeded(spec: Spec) -> List[int]:
    """The sets, by number in the file, that draw their points and have no seed."""
    return [
        number
        for number, jobs in enumerate(spec.jobs)
        if jobs.parameters is not None
        and jobs.parameters.custom is None
        and jobs.seed is None
        and (jobs.sample or default_sample(jobs.parameters)) not in WALKS
    ]


def draw(spec: Spec, below: Callable[[int], int]) -> Dict[str, int]:
    """Seeds for the sets that need one, to be kept with the ensemble. `below(n)` draws a number from 0 to n - 1."""
    return {str(number): below(SEEDS) for number in unseeded(spec)}


def seeded(spec: Spec, seeds: Mapping[str, int]) -> Spec:
    """The spec with the seeds that `draw` drew."""
    if not seeds:
        return spec
    jobs = [
        one.model_copy(update={"seed": seeds[str(number)]}) if str(number) in seeds else one
        for number, one in enumerate(spec.jobs)
    ]
    return spec.model_copy(update={"jobs": tuple(jobs)})


def uses_scipy(spec: Spec) -> bool:
    """Are points drawn by scipy?"""
    return any(jobs.sample in QMC for jobs in spec.jobs)
