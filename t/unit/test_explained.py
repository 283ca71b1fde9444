# SPDX-License-Identifier: MIT
"""Conditions term by term: what is explained is what is evaluated, and each term is what its own text comes to."""

from __future__ import annotations

from typing import Any, Iterator, List

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.spec import condition
from ensemble.spec.explained import Term, explain, of_rule, paths, settling
from ensemble.spec.expression import compile
from t.unit.test_expression import GROUPS, NAMES, VALUES, Scope, numbers, same, taken, truths, written


def every(term: Term) -> Iterator[Term]:
    yield term
    for inner in term.terms:
        yield from every(inner)


def tree(term: Term) -> Any:
    return [term.text, term.value, *map(tree, term.terms)] if term.terms else [term.text, term.value]


def test_each_term_has_its_value() -> None:
    scope = Scope(count__a__success=3, event__value=2.5)
    found = explain("(count.a.success > 5 or event.value * 2 == 5) and not mean.a.duration < 1", GROUPS, None, scope)
    assert tree(found) == [
        "(count.a.success > 5 or event.value * 2 == 5) and not mean.a.duration < 1", None,
        ["count.a.success > 5 or event.value * 2 == 5", True,
         ["count.a.success > 5", False, ["count.a.success", 3], ["5", 5]],
         ["event.value * 2 == 5", True, ["event.value * 2", 5.0, ["event.value", 2.5], ["2", 2]], ["5", 5]]],
        ["not mean.a.duration < 1", None, ["mean.a.duration < 1", None, ["mean.a.duration", None], ["1", 1]]],
    ]  # fmt: skip
    assert [term.kind for term in every(found)][:4] == ["and", "or", "comparison", "path"]
    assert [path.text for path in paths(found)] == ["count.a.success", "event.value", "mean.a.duration"]


def test_terms_of_one_kind_stand_side_by_side() -> None:
    found = explain("1 + var.n - 2 < min(3, var.n) < 9", GROUPS, None, Scope(var__n=4))
    assert [inner.text for inner in found.terms] == ["1 + var.n - 2", "min(3, var.n)", "9"]
    assert [inner.value for inner in found.terms] == [3, 3, 9]
    assert [inner.text for inner in found.terms[0].terms] == ["1", "var.n", "2"]
    assert found.value is False


@pytest.mark.parametrize(
    ("text", "settled"),
    [
        ("var.t and var.f and var.none", ["var.f"]),
        ("var.t and var.none", ["var.none"]),
        ("var.f or var.none", ["var.f", "var.none"]),
        ("var.f or var.t or var.t", ["var.t"]),
        ("not (var.t or var.f)", ["var.t"]),
        ("not (var.t and var.f)", ["var.f"]),
        ("var.t and (var.f or var.n > 3)", ["var.f", "var.n > 3"]),
        ("var.t and var.n < 3", ["var.t", "var.n < 3"]),
    ],
)
def test_the_terms_that_settle_it(text: str, settled: List[str]) -> None:
    found = explain(text, GROUPS, None, Scope(var__t=True, var__f=False, var__n=2))
    assert [term.text for term in settling(found)] == settled


@settings(max_examples=400)
@given(st.one_of(numbers, truths), st.lists(VALUES, min_size=5, max_size=5))
def test_what_is_explained_is_what_is_evaluated(node: Any, given_values: List[Any]) -> None:
    text, scope = written(node), Scope(**dict(zip(NAMES, given_values)))
    made = taken(text)
    if made is None:
        return
    found = explain(text, GROUPS, None, scope)
    assert same(found.value, made.value(scope)), text
    assert (found.truth is True) == made.holds(scope)
    for term in every(found):
        alone = taken(term.text)
        # a sign before a constant, or a power, may be refused on its own where it is none in the whole
        if alone is not None:
            assert same(alone.value(scope), term.value), (text, term.text)
    assert settling(found)


@given(st.sampled_from(["<", "<=", ">", ">=", "==", "!=", "=", ""]), st.floats(-9, 9), VALUES)
def test_the_short_form_is_explained_as_it_is_evaluated(sign: str, number: float, x: Any) -> None:
    when: Any = f"{sign}{number!r}" if sign else number
    compiled = condition.compile(when, GROUPS, "metric", "max.a.duration")
    assert isinstance(compiled, condition.Condition)
    scope = Scope(**{"max.a.success.duration": x})
    found = of_rule(when, compiled, GROUPS, "metric", "max.a.duration", scope)
    assert found is not None
    assert (found.truth is True) == compiled.holds(x)
    assert found.terms[0].text == "max.a.success.duration"


@pytest.mark.parametrize("when", ["> var.n", "  = var.n * 1", ">= var.n and var.n > 1"])
def test_a_condition_that_begins_with_a_comparator_has_both_sides(when: str) -> None:
    compiled = condition.compile(when, GROUPS, "metric", "count.a.failed")
    for n in (1, 2, 3):
        scope = Scope(count__a__failed=2, var__n=n)
        found = of_rule(when, compiled, GROUPS, "metric", "count.a.failed", scope)
        assert found is not None
        assert found.text.startswith("count.a.failed")
        assert (found.truth is True) == compiled.holds(scope)  # type: ignore[union-attr]


def test_a_rule_without_a_condition_has_nothing_to_explain() -> None:
    assert of_rule(None, None, GROUPS, "start", None, Scope()) is None


def test_the_parser_itself_is_as_it_was() -> None:
    assert compile("1 + 2 * var.n", GROUPS).value(Scope(var__n=3)) == 7
