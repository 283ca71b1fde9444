# SPDX-License-Identifier: MIT
"""Faults of `simulate:` that lie between two places: groups, parameters, amounts; and the same for options.

Law of this file: as `check`, it walks the tree, so that a fault has its place inside a text, and is silent where a value has
the wrong shape, since the models tell that.
"""

from __future__ import annotations

from typing import Any, Callable, Collection, Dict, Optional, Set, Tuple, Type

from pydantic import BaseModel

from ensemble.spec import amounts, computed, heard, sampling
from ensemble.spec.faults import Report, listed, nearest, shown
from ensemble.spec.metrics import PathError
from ensemble.spec.models import Spec, check_variable
from ensemble.spec.reader import Node
from ensemble.spec.simulate import Fails, Outage, Sent, Simulate, Simulated, Told


def check(root: Node, report: Report) -> None:
    """Tell the faults of the table."""
    table = root.get("simulate")
    if table is None or table.kind != "map":
        return
    jobs, rules = root.get("jobs"), root.get("rules")
    items = jobs.items if jobs is not None else ()
    names = [node.text for node in (item.get("name") for item in items) if node is not None and node.kind == "scalar"]
    params = sampling.known(items, rules.items if rules is not None else ())
    declared = heard.declared(items)
    groups = table.get("groups")
    for name, (key, group) in groups.value.items() if groups is not None and groups.kind == "map" else ():
        if names and name not in names:
            report.add(
                key,
                f"no group is called {shown(name)}",
                value=name,
                expected=f"one of {listed(dict.fromkeys(names))}",
                suggestion=nearest(name, names),
            )
        elif group.kind == "map":
            of = None if params is None else params.get(name, set())
            _Group(report, of).check(name, group, declared.get(name, set()))
    signals = table.get("signals")
    for item in signals.items if signals is not None and signals.kind == "list" else ():
        node = item.get("name") if item.kind == "map" else None
        if node is not None and node.kind == "scalar" and node.value is not None:
            heard.signal_name(report, node, node.text)


class _Group:
    def __init__(self, report: Report, names: Optional[Collection[str]]) -> None:
        self._report = report
        self._names = names

    def check(self, name: str, group: Node, declared: Set[str]) -> None:
        self._amount(group.get("duration"), lambda value: amounts.read(value, self._names, seconds=True))
        fails = group.get("fail")
        for item in fails.items if fails is not None and fails.kind == "list" else (fails,):
            rate = item.get("rate") if item is not None and item.kind == "map" else item
            self._amount(rate, lambda value: amounts.share(value, self._names))
        metrics = group.get("metrics")
        for variable, (key, told) in metrics.value.items() if metrics is not None and metrics.kind == "map" else ():
            try:
                check_variable(variable)
            except ValueError as exc:
                expected = str(exc)[len("expected ") :]
                self._report.add(key, f"no variable can be called {shown(variable)}", value=variable, expected=expected)
                continue
            if variable not in declared:
                heard.undeclared(self._report, key, name, variable)
            if told.kind != "map":
                self._amount(told, lambda value: amounts.read(value, self._names))
                continue
            for word in ("value", "noise"):
                self._amount(told.get(word), lambda value: amounts.read(value, self._names))
            every = told.get("every")
            if every is not None and every.kind == "scalar" and every.value in (0, "0", "0s"):
                self._report.add(every, "every cannot be 0", value=every.text, expected="a time between two reports")

    def _amount(self, node: Optional[Node], read: Callable[[Any], amounts.Amount]) -> None:
        if node is None or node.kind != "scalar" or node.value is None or isinstance(node.value, bool):
            return
        try:
            read(node.value if isinstance(node.value, str) else float(node.value))
        except PathError as exc:
            computed.tell(self._report, node, exc)


def subject(loc: Tuple[Any, ...]) -> Tuple[str, Type[BaseModel]]:
    """What a place of the table is in the user's words, and the model that describes it."""
    if loc[1:2] == ("signals",) and len(loc) > 2:
        return "a signal", Sent
    if loc[1:2] == ("outages",) and len(loc) > 2:
        return "an outage", Outage
    if loc[1:2] == ("groups",) and len(loc) > 2:
        if loc[3:4] == ("fail",) and len(loc) > 4:
            return "fail", Fails
        if loc[3:4] == ("metrics",) and len(loc) > 4:
            return "a variable", Told
        return "a simulated group", Simulated
    return "simulate", Simulate


def parameters(spec: Spec) -> Dict[str, Optional[Set[str]]]:
    """The parameters that jobs of each group may have; None where a function has a hand in it."""
    found: Dict[str, Optional[Set[str]]] = {group: set() for group in spec.groups}
    for jobs in spec.jobs:
        if jobs.parameters is None:
            continue
        names = found[jobs.name]
        if names is None or jobs.parameters.custom is not None:
            found[jobs.name] = None
        else:
            names.update(jobs.parameters.names)
    for rule in spec.rules:
        for action in rule.actions:
            if action.name == "custom":
                return dict.fromkeys(found)
            of = found.get(action.label or "")
            if action.parameters is not None and of is not None:
                of.update(name for point in action.parameters for name in point)
    return found


def amounts_of(said: Simulated, names: Optional[Collection[str]]) -> None:
    """Look at all that is drawn for a group with these parameters. Raises PathError at the first fault."""
    if said.duration is not None:
        amounts.read(said.duration, names, seconds=True)
    for way in said.fail:
        amounts.share(way.rate, names)
    for told in said.metrics.values():
        amounts.read(told.value, names)
        if told.noise is not None:
            amounts.read(told.noise, names)
