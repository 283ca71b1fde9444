# SPDX-License-Identifier: MIT
"""The analysis of conditions errs on one side alone: what it calls impossible is false for every value there may be."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ensemble.spec import expression, ranges, suppose
from ensemble.spec.expression import Read
from ensemble.spec.metrics import Metric
from ensemble.spec.ranges import Range

NAMES = ("a", "b", "c")
NUMBERS = st.one_of(
    st.integers(-9, 9), st.sampled_from([0.5, -2.5, 1e-9, 1e10, 2**53, 2**60 + 1, 1e300]), st.floats(-10, 10)
)
ATOMS = st.one_of(
    st.sampled_from([f"var.{name}" for name in NAMES]),
    NUMBERS.map(lambda n: f"({n!r})" if n < 0 else repr(n)),
    st.sampled_from(["'x'", "'y'", "true", "false"]),
)
#: what a path may be, and values of that kind
KINDS: List[Tuple[Any, Any]] = [
    (st.tuples(st.integers(-5, 5), st.integers(0, 6)), True),
    (st.tuples(st.floats(-5, 5), st.floats(0, 6)), False),
]


def _texts(inner: Any) -> Any:
    numeric = st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]), inner)
    call = st.tuples(st.sampled_from(["min", "max"]), inner, inner)
    return st.one_of(
        numeric.map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        call.map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
        st.tuples(st.sampled_from(["abs", "floor", "ceil", "sqrt", "log", "exp", "-"]), inner).map(
            lambda t: f"{t[0]}({t[1]})"
        ),
    )


SUMS = st.recursive(ATOMS, _texts, max_leaves=4)
COMPARISONS = st.tuples(SUMS, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), SUMS).map(" ".join)


def _logic(inner: Any) -> Any:
    joined = st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})")
    return st.one_of(joined, inner.map(lambda text: f"(not {text})"))


CONDITIONS = st.recursive(st.one_of(COMPARISONS, st.just("var.a")), _logic, max_leaves=5)


@st.composite
def spans(draw: Any) -> Tuple[Range, List[Any]]:
    """A range, and some of its values."""
    kind = draw(st.sampled_from(["whole", "real", "text", "truth", "none", "mixed"]))
    if kind == "none":
        return ranges.NOTHING, [None]
    if kind == "text":
        texts = draw(st.sets(st.sampled_from(["x", "y", "z"]), min_size=1))
        return Range(texts=frozenset(texts)), [None, *texts]
    if kind == "truth":
        truths = draw(st.sets(st.booleans(), min_size=1))
        return Range(truths=frozenset(truths)), [None, *truths]
    low = draw(st.integers(-5, 5) if kind == "whole" else st.floats(-5, 5))
    high = low + draw(st.integers(0, 6) if kind == "whole" else st.floats(0, 6))
    if kind == "whole":
        return Range(float(low), float(high)), [None, *range(low, high + 1)]
    values = [None, low, high, *draw(st.lists(st.floats(low, high), max_size=3))]
    if kind == "real":
        return Range(low, high, False), values
    return Range(low, high, False, frozenset(("x",)), frozenset((True,))), [*values, "x", True]


class World:
    """Some ranges, and one value out of each."""

    def __init__(self, spans: Dict[str, Range], values: Dict[str, Any]) -> None:
        self._spans = spans
        self._values = values

    def of(self, read: Read) -> Range:
        assert read.metric is not None
        return self._spans[read.metric.variable]

    def why(self, read: Read) -> str:
        return ""

    def wider(self) -> None:
        return None

    def metric(self, metric: Metric) -> Any:
        return self._values[metric.variable]

    def event(self, words: Any) -> Any:
        raise AssertionError("there is no event here")


def compiled(text: str) -> expression.Expression:
    return expression.compile(text, ())


def tried(data: Any, text: str) -> Tuple[expression.Expression, List[World]]:
    """The expression, and worlds to try it in. One that is none is passed over."""
    try:
        made = compiled(text)
    except ValueError:
        assume(False)
        raise
    drawn = {name: data.draw(spans(), label=name) for name in NAMES}
    known = {name: span for name, (span, _) in drawn.items()}
    draws = [{n: data.draw(st.sampled_from(values)) for n, (_, values) in drawn.items()} for _ in range(12)]
    return made, [World(known, values) for values in draws]


@settings(max_examples=150, deadline=None)
@given(st.data(), CONDITIONS)
def test_what_is_called_impossible_does_not_hold(data: Any, text: str) -> None:
    made, worlds = tried(data, text)
    if suppose.impossible(made.term, worlds[0]) is not None:
        assert not any(made.holds(world) for world in worlds)


@settings(max_examples=150, deadline=None)
@given(st.data(), SUMS)
def test_a_value_lies_in_its_range(data: Any, text: str) -> None:
    made, worlds = tried(data, text)
    for world in worlds:
        value = made.value(world)
        span = ranges.value(made.term, world)
        if value is not None:
            found = ranges.exactly(value)
            assert not found.common(span).empty, (value, span)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.one_of(CONDITIONS, SUMS))
def test_a_term_reads_back_as_itself(data: Any, text: str) -> None:
    """What messages quote means what the file says."""
    made, worlds = tried(data, text)
    assume("no value" not in str(made.term))
    again = compiled(str(made.term))
    for world in worlds:
        assert again.value(world) == made.value(world), str(made.term)


@pytest.mark.parametrize("text", [r"var.a == 'a\b'", """var.a == "it's\"""", "var.a == 'a\nb'"])
def test_a_string_reads_back_as_itself(text: str) -> None:
    made = compiled(text)
    assert compiled(str(made.term)).term == made.term


IMPOSSIBLE = [
    "var.a > 5 and var.a < 3",
    "var.a > 5 and not var.a > 4",
    "var.a < var.b and var.b < 2 and var.a > 3",
    "var.a == 'x' and var.a == 'y'",
    "var.a + 1 > 4 and var.a < 2",
    "4 - var.a > 3 and var.a > 2",
    "abs(var.a) < 0",
    "min(var.a, 3) > 4",
    "floor(var.a) > 3 and var.a < 4",
    "ceil(var.a) < 3 and var.a > 2.5",
    "floor(var.a) == 2.5",
    "max(var.a, 3) < 2",
    "exp(var.a) < -1",
    "var.a ** 2 < -1 and var.a > 0",
    "var.a % 3 > 4 ",
    "(var.a < 1 or var.a < 3) and 4 < var.a < 8",
]


@pytest.mark.parametrize("text", IMPOSSIBLE)
def test_contradictions_are_seen(text: str) -> None:
    anything = dict.fromkeys(NAMES, ranges.ANYTHING)
    made = compiled(text)
    assert suppose.impossible(made.term, World(anything, {})) is not None
