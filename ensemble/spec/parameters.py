# SPDX-License-Identifier: MIT
"""`parameters:` of a set: from what the user wrote to a `Space`, each fault at its place.

Law of this file: `read` looks at the node of `parameters` alone. What goes with what stands in `sampling.py`. The content
of a file is given as text by `text_of`: nothing here opens one.
"""

from __future__ import annotations

import csv
import io
import math
import re
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

from ensemble.spec.faults import Report, nearest, shown
from ensemble.spec.reader import Node
from ensemble.spec.space import IDENT, Axis, Point, Space, Value, steps
from ensemble.spec.templates import variable

#: what a parameter may be made of, besides a list: its word -> what stands behind it
KINDS = {
    "range": "[from, to, step], 'to' excluded",
    "linspace": "[first, last, how many]",
    "uniform": "[from, to]",
    "loguniform": "[from, to], both greater than 0",
    "choice": "a list of values",
    "file": "the name of a CSV file",
}
_EXPECTED = f"a list of values, or one of {', '.join('{' + kind + ': ...}' for kind in KINDS)}"
_WHOLE = "a mapping of names to lists or distributions, {file: points.csv}, or {custom: function}"
#: values of one axis
_MOST_VALUES = 10_000_000
#: characters of a name, and of one value
_LONGEST_NAME, _LONGEST = 60, 32_768
_INT = re.compile(r"[-+]?\d{1,18}", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.\d+|\d+(?:\.\d*)?)(?:[eE][-+]?\d{1,3})?", re.ASCII)
_NAME = f"letters, digits and _, not first a digit, at most {_LONGEST_NAME}"

#: parts of the JSON Schema
_VALUE = {"type": ["number", "string", "boolean"]}
_POINT = {"type": "object", "additionalProperties": _VALUE, "minProperties": 1}
_NUMBER = {"type": "number"}
_AXIS: Dict[str, Any] = {
    "anyOf": [
        {"type": "array", "items": _VALUE, "minItems": 1},
        *(
            {"type": "object", "properties": {kind: schema}, "required": [kind], "additionalProperties": False}
            for kind, schema in (
                ("range", {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 3}),
                ("linspace", {"type": "array", "items": _NUMBER, "minItems": 3, "maxItems": 3}),
                ("uniform", {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2}),
                ("loguniform", {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2}),
                ("choice", {"type": "array", "items": _VALUE, "minItems": 1}),
                ("file", {"type": "string"}),
            )
        ),
    ]
}
SPACE: Dict[str, Any] = {
    "type": "object",
    "minProperties": 1,
    "properties": {"file": {"anyOf": [{"type": "string"}, _AXIS]}, "custom": {"anyOf": [{"type": "string"}, _AXIS]}},
    "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$", "maxLength": 60},
    "additionalProperties": _AXIS,
}
POINTS: Tuple[Dict[str, Any], ...] = (_POINT, {"type": "array", "items": _POINT, "minItems": 1})

#: the content of a file that the spec names. Raises ValueError with a sentence
TextOf = Callable[[str], str]
Number = Union[int, float]


def read(node: Node, report: Report, text_of: TextOf) -> Optional[Space]:
    """The space that `parameters` describes, or None with faults in the report."""
    return _Reader(report, text_of).space(node)


def shape(node: Node, report: Report, text_of: TextOf) -> Optional[Node]:
    """The node with the space that `read` reads as its value; of a function it stands where the function's name does."""
    space = read(node, report, text_of)
    if space is None:
        return None
    return Node("scalar", space, (space.custom and node.get("custom")) or node)


def is_name(name: object) -> bool:
    """May a parameter be called so?"""
    return isinstance(name, str) and bool(IDENT.fullmatch(name)) and len(name) <= _LONGEST_NAME


def clash(names: List[str]) -> Optional[Tuple[str, str]]:
    """Two of the names that would share an environment variable, if there are."""
    seen: Dict[str, str] = {}
    for name in names:
        if seen.setdefault(variable(name), name) != name:
            return seen[variable(name)], name
    return None


def value(given: Any) -> Value:
    """A value of a parameter in its plain type. Raises ValueError."""
    if isinstance(given, bool):
        return given
    if isinstance(given, int):
        return int(given)
    if isinstance(given, float):
        if not math.isfinite(given):
            raise ValueError("expected a number that is finite")
        return float(given)
    if isinstance(given, str):
        if "\0" in given or len(given) > _LONGEST:
            raise ValueError(f"expected a string without NUL, of at most {_LONGEST} characters")
        return given
    raise ValueError("expected a number, a string, true or false")


def points(given: Any) -> List[Point]:
    """The points of an action: of one mapping, or of a list of them, all with the same names. Raises ValueError."""
    made: List[Point] = []
    many = list(given) if isinstance(given, (list, tuple)) else [given]
    if not many:
        raise ValueError("expected a point, or a list of points, this one is empty")
    for one in many:
        if not isinstance(one, dict) or not one:
            raise ValueError("expected a point (a mapping of names to values), or a list of points")
        for name in one:
            if not is_name(name):
                raise ValueError(f"expected names of parameters ({_NAME}), not {shown(name)}")
        try:
            point = {name: value(inner) for name, inner in one.items()}
        except ValueError as exc:
            raise ValueError(f"{exc} as the value of a parameter") from None
        made.append(point)
    names = set(made[0])
    for number, point in enumerate(made, 1):
        if set(point) != names:
            odd = min(set(point) ^ names)
            raise ValueError(f"expected points with the same names, and point {number} differs in {shown(odd)}")
    both = clash(list(made[0]))
    if both:
        raise ValueError(f"expected names that differ in more than case, not '{both[0]}' and '{both[1]}'")
    # the names in one order, so that equal jobs look alike
    return [{name: point[name] for name in made[0]} for point in made]


def points_or_none(given: Any) -> Optional[Tuple[Point, ...]]:
    """As `points`; None is none."""
    return None if given is None else tuple(points(given))


def space_or_none(given: Any) -> Optional[Space]:
    """What `read` made, or None. Raises ValueError for anything else."""
    if given is None or isinstance(given, Space):
        return given
    raise ValueError("expected a mapping of names to lists or distributions")


class _Reader:
    def __init__(self, report: Report, text_of: TextOf) -> None:
        self._report = report
        self._text_of = text_of

    def space(self, node: Node) -> Optional[Space]:
        if node.kind != "map" or not node.value:
            told = "an empty mapping" if node.kind == "map" else str(node)
            self._report.add(node, f"parameters cannot be {told}", expected=_WHOLE)
            return None
        custom = node.get("custom")
        if custom is not None and custom.kind == "scalar":
            return self._custom(node, custom)
        axes: List[Optional[Axis]] = []
        names: Dict[str, str] = {}
        for name, (key, inner) in node.value.items():
            axis = self._axis(name, key, inner)
            axes.append(axis)
            for one in axis.names if axis is not None else ():
                other = names.setdefault(variable(one), one)
                if other == one and sum(one in a.names for a in axes if a is not None) == 1:
                    continue
                also = "is there twice" if other == one else f"and '{other}' would both be {variable(one)}"
                self._report.add(key, f"the parameter '{one}' {also}", value=one, expected="another name")
                axes.append(None)
        if any(axis is None for axis in axes):
            return None
        return Space(tuple(axis for axis in axes if axis is not None))

    def _custom(self, node: Node, custom: Node) -> Optional[Space]:
        others = [key for key in node.value if key != "custom"]
        if others:
            self._report.add(
                node.key(others[0]),
                "a function answers whole points, so nothing goes beside it",
                value=others[0],
                expected="custom alone",
            )
            return None
        if not isinstance(custom.value, str) or not is_name(custom.text):
            self._report.add(custom, f"custom cannot be {custom}", expected="the name of a function")
            return None
        return Space(custom=custom.text)

    def _axis(self, name: str, key: Node, node: Node) -> Optional[Axis]:
        if name == "file" and node.kind == "scalar" and not node.empty:
            return self._file(node)
        if not is_name(name):
            self._report.add(key, f"{shown(name)} is no name of a parameter", value=name, expected=_NAME)
            return None
        if node.kind == "list":
            return self._values(name, "list", node)
        if node.kind != "map" or len(node.value) != 1:
            self._report.add(node, f"the parameter '{name}' cannot be {node}", expected=_EXPECTED)
            return None
        ((kind, (at, inner)),) = node.value.items()
        if kind not in KINDS:
            self._report.add(
                at,
                f"no sample of values is called {shown(kind)}",
                value=kind,
                expected=_EXPECTED,
                suggestion=lambda: nearest(kind, KINDS),
            )
            return None
        if kind == "file":
            return self._file(inner)
        if kind == "choice":
            return self._values(name, kind, inner)
        return self._numbers(name, kind, inner)

    def _values(self, name: str, kind: str, node: Node) -> Optional[Axis]:
        if node.kind != "list" or not node.value:
            told = "an empty list" if node.kind == "list" else str(node)
            self._report.add(node, f"the values of '{name}' cannot be {told}", expected="a list of values")
            return None
        found: List[Value] = []
        for item in node.items:
            try:
                found.append(value(item.value if item.kind == "scalar" else None))
            except ValueError as exc:
                expected = str(exc)[len("expected ") :]
                self._report.add(item, f"a value of '{name}' cannot be {item}", expected=expected)
        return Axis((name,), kind, tuple(found)) if len(found) == len(node.value) else None

    def _numbers(self, name: str, kind: str, node: Node) -> Optional[Axis]:
        wanted = 2 if kind in ("uniform", "loguniform") else 3
        given = [_number(item) for item in node.items]
        numbers = [number for number in given if number is not None]
        if kind == "range" and len(given) == 2:
            numbers.append(1)
            given.append(1)
        if len(numbers) != wanted or len(given) != wanted:
            self._report.add(
                node, f"{kind} cannot be {node}", value=kind, expected=f"{kind}: {KINDS[kind]}, as numbers"
            )
            return None
        data, trouble = _settled(kind, numbers)
        if trouble:
            self._report.add(node, f"{kind} of '{name}' is wrong: {trouble[0]}", expected=trouble[1])
            return None
        return Axis((name,), kind, data)

    def _file(self, node: Node) -> Optional[Axis]:
        if node.kind != "scalar" or not isinstance(node.value, str) or not node.text.strip():
            self._report.add(node, f"file cannot be {node}", expected=KINDS["file"])
            return None
        try:
            names, rows = _table(self._text_of(node.text))
        except ValueError as exc:
            self._report.add(node, f"the file {shown(node.text)} cannot be taken: {exc}", value=node.text)
            return None
        return Axis(names, "file", rows)


def _number(node: Node) -> Optional[Number]:
    if node.kind != "scalar" or isinstance(node.value, bool) or not isinstance(node.value, (int, float)):
        return None
    if not math.isfinite(node.value):
        return None
    return int(node.value) if isinstance(node.value, int) else float(node.value)


def _settled(kind: str, numbers: List[Number]) -> Tuple[Tuple[Number, ...], Optional[Tuple[str, str]]]:
    """What an axis of that kind keeps of its numbers; and what is wrong with them, and what would be right."""
    low, high = numbers[0], numbers[1]
    if kind == "range":
        step = numbers[2]
        number = steps(low, high, step) if step else 0
        if not number:
            trouble = "the step is 0" if not step else "no value lies between its ends"
            return (), (trouble, "a step that leads from the first number to the second")
        if number > _MOST_VALUES:
            return (), (f"it has {number} values", f"at most {_MOST_VALUES}")
        return (low, step, number), None
    if kind == "linspace":
        if numbers[2] != int(numbers[2]) or not 1 <= numbers[2] <= _MOST_VALUES:
            return (), (f"{numbers[2]} is no number of values", f"a whole number from 1 to {_MOST_VALUES}")
        return (low, high, int(numbers[2])), None
    if not math.isfinite(high - low):
        return (), ("its ends are too far apart", "ends whose difference is a number")
    if not low < high:
        return (), (f"{low} is not below {high}", "[from, to], the smaller one first")
    if kind == "loguniform" and low <= 0:
        return (), (f"{low} has no logarithm", KINDS[kind])
    return (float(low), float(high)), None


def _table(text: str) -> Tuple[Tuple[str, ...], Tuple[Tuple[Value, ...], ...]]:
    """Header and rows of a CSV file. Raises ValueError with a sentence."""
    names: List[str] = []
    rows: List[Tuple[Value, ...]] = []
    lines = csv.reader(io.StringIO(text[1:] if text[:1] == "\ufeff" else text), skipinitialspace=True, strict=True)
    try:
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = [cell.strip() for cell in cells]
                _check_header(names)
            elif len(cells) != len(names):
                raise ValueError(f"line {lines.line_num} has {len(cells)} values for {len(names)} columns")
            else:
                rows.append(tuple(_cell(cell) for cell in cells))
    except csv.Error as exc:
        raise ValueError(f"line {lines.line_num} is no CSV ({exc})") from None
    if not rows:
        raise ValueError("it has no rows" if names else "it is empty; expected a line of names and a line a point")
    return tuple(names), tuple(rows)


def _check_header(names: List[str]) -> None:
    for name in names:
        if not is_name(name):
            raise ValueError(f"its first line names the parameters, and {shown(name)} is no name: expected {_NAME}")
        if names.count(name) > 1:
            raise ValueError(f"its first line has {shown(name)} twice")


def _cell(text: str) -> Value:
    plain = text.strip()
    if _INT.fullmatch(plain):
        return int(plain)
    if _FLOAT.fullmatch(plain) and math.isfinite(float(plain)):
        return float(plain)
    return value(text)
