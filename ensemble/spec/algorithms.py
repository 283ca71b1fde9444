# SPDX-License-Identifier: MIT
"""`algorithm:` of a file: from a name and options to rules, each fault at its place.

Law of this file: it looks at the tree, and answers rules as nodes, which are then read and checked as those of the file
are. What an algorithm makes of its options is the algorithm's (`ensemble.algorithms`). The rules are kept with the files
that go along (`Beside`), so that the service, and a later release that would expand otherwise, take these and no others;
where nothing was sent along only shipped algorithms can be expanded, since those of packages run where the user is.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ensemble.algorithms import expanding, foreign, found
from ensemble.algorithms.options import Wrong
from ensemble.spec import sampling, units
from ensemble.spec.beside import Beside
from ensemble.spec.faults import Report, listed, nearest, shown
from ensemble.spec.models import check_id
from ensemble.spec.reader import Node
from ensemble.spec.scaler import Scaler
from ensemble.spec.space import WALKS, Axis, Space
from ensemble.spec.syntax import MAX_DEPTH

_KEYS = ("name", "id", "group", "enabled")
#: algorithms of one file
_MOST = 100
#: values of a parameter that an algorithm is told
_MOST_VALUES = 1000


def expand(node: Node, file: Mapping[str, Tuple[Node, Node]], report: Report, beside: Beside) -> List[Node]:
    """The rules of the algorithms that stand there, in order. `file` has the file's `jobs` and `scaler`, in shape."""
    entries = node.items if node.kind == "list" else (node,)
    if node.kind == "scalar" or not entries or len(entries) > _MOST:
        told = "an empty list" if node.kind == "list" and not entries else str(node)
        report.add(node, f"algorithm cannot be {told}", expected="a mapping such as {name: sweep}, or a list of them")
        return []
    rules: List[Node] = []
    ids: Dict[str, Node] = {}
    for entry in entries:
        if entry.kind != "map":
            report.add(entry, f"an algorithm cannot be {entry}", expected="a mapping such as {name: sweep}")
            continue
        rules += _Entry(entry, file, report, beside).rules(ids)
    return rules


class _Known(NamedTuple):
    """One algorithm, as far as it is the same for all of them."""

    name: str
    id: str
    group: str
    enabled: bool


class _Entry:
    """One algorithm of the file."""

    def __init__(self, node: Node, file: Mapping[str, Tuple[Node, Node]], report: Report, beside: Beside) -> None:
        self._node = node
        self._jobs = file["jobs"][1] if "jobs" in file else None
        self._scaler = file["scaler"][1] if "scaler" in file else None
        self._report = report
        self._beside = beside

    def rules(self, ids: Dict[str, Node]) -> List[Node]:
        known = self._known(ids)
        if known is None:
            return []
        plain = self._expanded(known)
        at = self._node.value["name"][1]
        made = []
        for rule in plain or ():
            rule = {**rule, "algorithm": known.id}
            if not known.enabled:
                rule["enabled"] = False
            try:
                made.append(plain_node(rule, at))
            except ValueError as exc:
                self._report.add(at, f"the algorithm '{known.name}' gave a wrong rule: {exc}", value=known.name)
        return made

    def _known(self, ids: Dict[str, Node]) -> Optional[_Known]:
        report, node = self._report, self._node
        for word, (key, inner) in node.value.items():
            if inner.empty:
                report.add(key, f"the key {shown(word)} has no value", value=word, expected="a value behind the ':'")
                return None
        name = node.get("name")
        if name is None:
            report.add(node, "an algorithm has no name", expected=f"name: one of {listed(sorted(found.names()))}")
            return None
        if name.kind != "scalar":
            report.add(name, f"name cannot be {name}", expected=f"one of {listed(sorted(found.names()))}")
            return None
        if not self._is_known(name):
            return None
        group, enabled = self._group(), node.get("enabled")
        if enabled is not None and not isinstance(enabled.value, bool):
            report.add(enabled, f"enabled cannot be {enabled}", value=enabled.text or None, expected="true or false")
        id = node.get("id")
        at, text = (id, id.text) if id is not None else (name, name.text)
        try:
            if at.kind != "scalar":
                raise ValueError("expected a word")
            check_id(text, "an algorithm's id")
        except ValueError as exc:
            report.add(at, f"id cannot be {at}", value=at.text or None, expected=str(exc)[len("expected ") :])
            return None
        if text in ids:
            message = f"two algorithms have the id {shown(text)}; the first one is in line {ids[text].line}"
            report.add(at, message, value=text, expected="an id of its own for each")
            return None
        ids[text] = at
        return None if group is None else _Known(name.text, text, group, enabled is None or enabled.value is True)

    def _is_known(self, name: Node) -> bool:
        known = sorted(found.names())
        # what is installed here is what counts where the user is; the service has the rules that were sent along
        if name.text in known or not self._beside.here:
            return True
        self._report.add(
            name,
            f"no algorithm is called {shown(name.text)}",
            value=name.text,
            expected=f"one of {listed(known)}; a package may offer more (entry points '{found.ENTRY_POINTS}')",
            suggestion=lambda: nearest(name.text, known),
        )
        return False

    def _sets(self) -> Dict[str, List[Node]]:
        sets: Dict[str, List[Node]] = {}
        for item in self._jobs.items if self._jobs is not None else ():
            name = item.get("name")
            if name is not None and name.kind == "scalar":
                sets.setdefault(name.text, []).append(item)
        return sets

    def _group(self) -> Optional[str]:
        """The group that it drives: the one that it names, or the only one."""
        sets, node = self._sets(), self._node.get("group")
        if node is None:
            if len(sets) == 1:
                name = next(iter(sets))
                node = self._node
            else:
                if sets:
                    expected = f"group: one of {listed(sets, 10)}"
                    self._report.add(self._node, "the algorithm does not say which group it drives", expected=expected)
                return None
        else:
            name = node.text
        if name not in sets:
            self._report.add(
                node,
                f"no group is called {shown(name)}" if node.kind == "scalar" else f"group cannot be {node}",
                value=node.text or None,
                expected=f"one of {listed(sets, 60)}",
                suggestion=lambda: nearest(name, sets),
            )
            return None
        if len(sets[name]) > 1:
            message = f"the group '{name}' has {len(sets[name])} sets, and an algorithm drives a group of one"
            self._report.add(node, message, value=node.text or None, expected="a group with one entry under jobs")
            return None
        return name

    def _expanded(self, known: _Known) -> Optional[Sequence[Mapping[str, Any]]]:
        """The rules as plain data, None with faults in the report."""
        kept = f"algorithm {known.id}"
        sent = self._beside.kept(kept)
        if sent is not None:
            try:
                name, rules = json.loads(sent)
            except ValueError:
                name, rules = None, None
            if name == known.name and isinstance(rules, list) and all(isinstance(rule, dict) for rule in rules):
                self._beside.keep(kept, sent)
                return rules
        at = self._node.value["name"][1]
        shipped = known.name in found.SHIPPED
        if not shipped and not self._beside.here:
            self._report.add(
                at,
                f"the rules of the algorithm {shown(known.name)} were not sent along with the file",
                value=known.name,
                expected="a submission by the command 'flux ensemble' where the package is installed",
            )
            return None
        group = self._facts(known.group)
        if group is None:
            return None
        options = {word: _plain(inner) for word, (_, inner) in self._node.value.items() if word not in _KEYS}
        how = expanding.expand if shipped else foreign.expand
        try:
            answer = how(known.name, known.id, group, options)
        except expanding.Broken as exc:
            self._report.add(at, f"the algorithm {shown(known.name)} {exc}", value=known.name)
            return None
        for wrong in answer.get("wrong", ()):
            self._tell(Wrong(*wrong))
        rules = answer.get("rules")
        if rules is not None:
            try:
                self._beside.keep(kept, json.dumps([known.name, rules]))
            except ValueError as exc:
                self._report.add(at, f"the algorithm {shown(known.name)} is too large: {exc}", value=known.name)
        return rules

    def _tell(self, wrong: Wrong) -> None:
        entry = self._node.value.get(wrong.option)
        entry = self._node.value["name"] if entry is None else entry
        # a word that is unknown stands in the key
        at = entry[0] if wrong.option and wrong.value == wrong.option else entry[1]
        value = None if wrong.value is None else str(wrong.value)
        self._report.add(
            at,
            wrong.message,
            value=value,
            expected=wrong.expected,
            suggestion=(lambda: nearest(str(wrong.value), wrong.known)) if wrong.known and value else None,
        )

    def _facts(self, name: str) -> Optional[Dict[str, Any]]:
        """What the algorithm is told of its group; None where that has faults of its own, which are told."""
        (job,) = self._sets()[name]
        metrics, parameters = job.get("metrics"), job.get("parameters")
        variables = list(metrics.value) if metrics is not None and metrics.kind == "map" else []
        space = parameters.value if parameters is not None else Space()
        if not isinstance(space, Space):
            return None
        axes: Dict[str, Any] = {}
        for axis in space.axes:
            for place, one in enumerate(axis.names):
                axes[one] = _axis(axis, place)
        facts = {"name": name, "variables": variables, "parameters": axes, "points": _points(job, space)}
        return {**facts, "scaler": _scaling(self._scaler)}


def _scaling(node: Optional[Node]) -> Dict[str, float]:
    """What the scaler says of sizes and times; what has a fault is left out, and told elsewhere."""
    found: Dict[str, float] = {}
    if node is None or node.kind != "map":
        return found
    for word in ("min", "max", "timeout", "cooldown"):
        inner = node.get(word)
        default = Scaler.model_fields[word].default
        read = units.whole if word in ("min", "max") else units.duration
        try:
            value = default if inner is None else read(inner.value)
        except ValueError:
            continue
        if value is not None:
            found[word] = value
    return found


def variables(rules: Sequence[Node]) -> List[str]:
    """The variables that these rules of algorithms set, each once: nobody else has declared them."""
    named: Dict[str, None] = {}
    for rule in rules:
        one, several = rule.get("action"), rule.get("actions")
        for action in several.items if several is not None and several.kind == "list" else (one,):
            name, label = (action.get("name"), action.get("label")) if action is not None else (None, None)
            if name is not None and label is not None and name.text == "set":
                named[label.text] = None
    return list(named)


def _axis(axis: Axis, place: int) -> Dict[str, Any]:
    if axis.kind in ("uniform", "loguniform"):
        return {"kind": axis.kind, "low": axis.data[0], "high": axis.data[1]}
    if axis.kind == "file":
        return {"kind": "file"}
    return {"kind": "list", "values": [row[place] for row in axis.examples(_MOST_VALUES)]}


def _points(job: Node, space: Space) -> Optional[int]:
    """The points of the group's sample: None where there is no end of them, or a function says them."""
    if not space.axes:
        return None
    sample, samples = job.get("sample"), job.get("samples")
    how = sample.text if sample is not None else sampling.default_sample(space)
    if how not in WALKS:
        return samples.value if samples is not None and isinstance(samples.value, int) else None
    sizes = [axis.size for axis in space.axes]
    if None in sizes:
        return None
    number = 1
    for size in sizes:
        number = size or 0 if how == "zip" else number * (size or 0)
    return number


def _plain(node: Node) -> Any:
    """The node as plain data, without what a number remembers of how it was written."""
    value = node.plainly()
    return json.loads(json.dumps(value, default=str)) if isinstance(value, (dict, list)) else _number(value)


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return int(value) if isinstance(value, int) else float(value)


def plain_node(value: Any, at: Node, depth: int = 1) -> Node:
    """Plain data as a node that stands at that place. Raises ValueError."""
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        entries: Dict[str, Tuple[Node, Node]] = {}
        for key, one in value.items():
            if not isinstance(key, str):
                raise ValueError("expected words as keys")
            entries[key] = (Node("scalar", key, at, key), plain_node(one, at, depth + 1))
        return Node("map", entries, at)
    if isinstance(value, list):
        return Node("list", [plain_node(one, at, depth + 1) for one in value], at)
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return Node("scalar", value, at, text)
