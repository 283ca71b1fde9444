# SPDX-License-Identifier: MIT
"""Expressions: what they mean, and that they agree with a slow and obvious evaluator."""

from __future__ import annotations

import math
from typing import Any, Dict, List, Tuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ensemble.spec import arithmetic
from ensemble.spec.expression import MAX_NESTING, compile
from ensemble.spec.metrics import Metric
from ensemble.spec.tokens import ExpressionError

GROUPS = ["a", "my-group", "sleep"]


class Scope:
    """Values by path, and how often each was asked for."""

    def __init__(self, **values: Any) -> None:
        self.values = {name.replace("__", "."): value for name, value in values.items()}
        self.asked: Dict[str, int] = {}

    def _ask(self, path: str) -> Any:
        self.asked[path] = self.asked.get(path, 0) + 1
        return self.values.get(path)

    def metric(self, metric: Metric) -> Any:
        return self._ask(str(metric))

    def event(self, words: Tuple[str, ...]) -> Any:
        return self._ask(".".join(("event", *words)))


def value(text: str, **values: Any) -> Any:
    return compile(text, GROUPS).value(Scope(**values))


def attempt(text: str) -> Any:
    """The compiled form, or the refusal, which has its place in the text."""
    try:
        return compile(text, GROUPS)
    except ExpressionError as exc:
        found = exc
    assert 0 <= found.offset <= len(text)
    assert found.message
    return found


MEANING = [
    ("1 + 2 * 3", 7), ("(1 + 2) * 3", 9), ("10 - 4 - 3", 3), ("-2 ** 2", -4), ("2 ** -1", 0.5), ("2 ** 3 ** 2", 512),
    ("7 // 2", 3), ("-7 // 2", -4), ("7 % 4", 3), ("-7 % 4", 1), ("7 / 2", 3.5), ("- - 3", 3), ("+3", 3), ("5-3", 2),
    ("min(3, 1, 2)", 1), ("max(3)", 3), ("abs(-2.5)", 2.5), ("sqrt(9)", 3), ("log(1)", 0), ("exp(0)", 1),
    ("floor(2.5)", 2), ("floor(-2.5)", -3), ("ceil(2.5)", 3), ("ceil(-2.5)", -2), ("floor(7)", 7), ("ceil(1e300)", 1e300), ("7 // ceil(1.5)", 3),
    ("1 < 2", True), ("1 < 2 < 2", False), ("3 > 2 >= 2 != 1", True), ("1 == 1.0", True), ("not 1 == 2", True),
    ("not true", False), ("true and not false or false", True), ("1 and 2", True), ("0 or 0.0", False), ("not 0", True),
    ("'a' == 'a'", True), ("'a' != \"b\"", True), ("'it is' == \"it's\"", False), ("true == true", True), ("\n 1\t+\n1 ", 2),
    ("1e3", 1000), (".5 + 5.", 5.5), ("9007199254740993 == 9007199254740992 + 1", True), ("''== ''", True),
    ("min(max(1, 2), (3)) + abs(-(1))", 3), ("'not (' == 'not ('", True), ("1 < 2 and 2 < 3 and 3 < 4", True),
]  # fmt: skip


@pytest.mark.parametrize(("text", "meant"), MEANING)
def test_meaning(text: str, meant: Any) -> None:
    found = value(text)
    assert found == meant
    assert isinstance(found, bool) == isinstance(meant, bool)


def test_paths() -> None:
    made = compile(
        "mean.my-group.duration - 1 > var.limit-2 * 2 and event.job.params.x == 'y' or count.sleep.failed > ensemble.active",
        GROUPS,
    )
    assert [str(metric) for metric in made.metrics] == [
        "mean.my-group.success.duration", "var.limit-2", "count.sleep.failed", "ensemble.active",
    ]  # fmt: skip
    assert made.variables == ("limit-2",)
    assert made.events == (("job", "params", "x"),)
    assert [read.path for read in made.reads] == [
        "mean.my-group.duration", "var.limit-2", "event.job.params.x", "count.sleep.failed", "ensemble.active",
    ]  # fmt: skip
    assert all(made.text[read.offset :].startswith(read.path) for read in made.reads)
    assert not made.constant
    assert made.kind == arithmetic.TRUTH
    scope = Scope(**{"mean.my-group.success.duration": 6, "var.limit-2": 2, "event.job.params.x": "y"})
    assert made.holds(scope)


def test_a_path_that_stands_twice_is_one() -> None:
    made = compile("var.n * var.n", GROUPS)
    assert (made.variables, len(made.reads)) == (("n",), 2)
    assert value("var.n * var.n", var__n=3) == 9


def test_what_has_no_value() -> None:
    for text in (
        "1 / 0",
        "1 // 0",
        "1 % 0",
        "log(0)",
        "log(-1)",
        "sqrt(-1)",
        "exp(1000)",
        "1e308 * 10",
        "var.x ** 0.5",
    ):
        assert value(text, var__x=-1) is None, text
    for text in ("var.n", "var.n + 1", "-var.n", "min(1, var.n)", "var.n == 1", "var.n != 1", "var.n < 1", "not var.n"):
        assert value(text) is None, text
        assert value(text, var__n=math.nan) is None, text
    for text in ("var.s + 1", "-var.s", "var.s < 'b'", "not var.s", "abs(var.s)", "var.s ** 2"):
        if "'" not in text:
            assert value(text, var__s="a") is None, text
    assert value("var.t + 1", var__t=True) is None
    assert value("var.x", var__x=[1]) is None
    assert value("var.x", var__x={}) is None


def test_values_of_two_kinds_are_never_equal() -> None:
    for one, other in ((1, True), (0, False), ("1", 1), ("true", True)):
        assert value("var.x == var.y", var__x=one, var__y=other) is False
        assert value("var.x != var.y", var__x=one, var__y=other) is True


@pytest.mark.parametrize(
    ("a", "b", "both", "either"),
    [
        (True, True, True, True), (True, False, False, True), (False, False, False, False), (None, True, None, True),
        (None, False, False, None), (None, None, None, None), ("s", True, None, True), (0, 2, False, True),
    ],
)  # fmt: skip
def test_logic_of_what_has_no_value(a: Any, b: Any, both: Any, either: Any) -> None:
    for one, other in ((a, b), (b, a)):
        assert value("var.x and var.y", var__x=one, var__y=other) is both
        assert value("var.x or var.y", var__x=one, var__y=other) is either
        assert compile("var.x and var.y", GROUPS).holds(Scope(var__x=one, var__y=other)) is (both is True)


def test_a_chain_looks_at_each_part_once() -> None:
    """Else a short text of chains in chains would take for ever."""
    scope = Scope(var__x=True)
    text = "var.x == var.x == true"
    for _ in range(MAX_NESTING - 2):
        text = f"true == ({text}) == true"
    assert compile(text, GROUPS).value(scope) is True
    assert scope.asked == {"var.x": 2}


def test_whole_numbers_stay_exact_and_bounded() -> None:
    big = 2**62
    assert value("var.x + 1", var__x=big) == big + 1
    assert type(value("var.x * var.x", var__x=big)) is float
    assert value("var.x", var__x=10**400) is None
    huge = compile("var.x * var.x * var.x * var.x", GROUPS)
    x: Any = 10**18
    for _ in range(20):
        x = huge.value(Scope(var__x=x))
    assert x is None


# ---- against a slow evaluator

LEAVES: List[Any] = [0, 1, 2, 3, 7, 0.5, 1e-3, 1e300, 2**62]
NAMES = ["var.a", "var.b", "count.a.failed", "mean.my-group.success.duration", "event.job.exit_code"]
VALUES = st.one_of(
    st.none(),
    st.integers(-5, 5),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(-10, 10),
)
numbers = st.recursive(
    st.one_of(st.sampled_from(LEAVES), st.sampled_from(NAMES)),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner, inner),
        st.tuples(st.just("**"), inner, st.sampled_from([-2, 0, 0.5, 2, 3])),
        st.tuples(st.just("negative"), inner),
        st.tuples(st.sampled_from(["abs", "floor", "ceil", "sqrt", "log", "exp"]), inner),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner, inner),
    ),
    max_leaves=12,
)
compared = st.tuples(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), numbers, numbers)
truths = st.recursive(
    st.one_of(compared, st.booleans(), st.sampled_from(["var.a", "var.b"])),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["and", "or"]), inner, inner, inner), st.tuples(st.just("not"), inner)
    ),
    max_leaves=10,
)


def written(node: Any) -> str:
    """The tree as a text with every parenthesis."""
    if isinstance(node, bool):
        return "true" if node else "false"
    if isinstance(node, str):
        return node
    if not isinstance(node, tuple):
        return repr(node) if node >= 0 else f"({node!r})"
    name, *parts = node
    inner = [written(part) for part in parts]
    if name in ("negative", "not"):
        return f"({'-' if name == 'negative' else 'not'} {inner[0]})"
    if name in ("abs", "floor", "ceil", "sqrt", "log", "exp", "min", "max"):
        return f"{name}({', '.join(inner)})"
    return "(" + f" {name} ".join(inner) + ")"


def slow(node: Any, values: Dict[str, Any]) -> Any:
    """What the tree means, said as plainly as can be. None is no value."""
    if isinstance(node, str):
        x = values.get(node)
        if isinstance(x, int) and abs(x) > 2**63:
            x = float(x)
        return None if x is None or not math.isfinite(x) else x
    if not isinstance(node, tuple):
        return node
    name, *parts = node
    xs = [slow(part, values) for part in parts]
    if name == "not":
        return None if xs[0] is None else xs[0] == 0
    if name in ("and", "or"):
        wins = name == "or"
        if any(x is not None and (x != 0) is wins for x in xs):
            return wins
        return None if None in xs else not wins
    if None in xs:
        return None
    try:
        if name == "negative":
            x = -xs[0]
        elif name == "**":
            x = float(xs[0]) ** float(xs[1])
        elif name in ("abs", "min", "max"):
            x = {"abs": abs, "min": min, "max": max}[name](*xs)
        elif name in ("floor", "ceil", "sqrt", "log", "exp"):
            x = getattr(math, name)(xs[0])
        else:
            x = eval(f"a {name} b", {"a": xs[0], "b": xs[1]})
    except (ZeroDivisionError, OverflowError, ValueError):
        return None
    if isinstance(x, bool):
        return x
    if isinstance(x, complex) or not math.isfinite(x):
        return None
    return float(x) if abs(x) > 2**63 else x


def same(found: Any, meant: Any) -> bool:
    if isinstance(meant, float) and isinstance(found, (int, float)) and not isinstance(found, bool):
        return found == meant or math.isclose(found, meant, rel_tol=1e-12)
    return bool(found == meant) and type(found) is type(meant)


def taken(text: str) -> Any:
    """The compiled form; None where constants make a power that no number can hold, which is refused."""
    made = attempt(text)
    if isinstance(made, ExpressionError):
        assert "power" in made.message or "exponent" in made.message, str(made)
        return None
    return made


@settings(max_examples=400)
@given(st.one_of(numbers, truths), st.lists(VALUES, min_size=5, max_size=5))
def test_the_compiled_form_agrees_with_a_slow_evaluator(node: Any, given_values: List[Any]) -> None:
    made, values = taken(written(node)), dict(zip(NAMES, given_values))
    if made is not None:
        assert same(made.value(Scope(**values)), slow(node, values)), written(node)


pieces = st.sampled_from(["1", "2", "3", "0.5", "4"])
signs = st.sampled_from(["+", "-", "*", "/", "//", "%", "**", "<", "<=", ">", ">=", "==", "!=", "and", "or"])


@settings(max_examples=400)
@given(pieces, st.lists(st.tuples(signs, st.booleans(), pieces), max_size=8), st.booleans())
def test_precedence_is_that_of_python(first: str, more: List[Tuple[str, bool, str]], negated: bool) -> None:
    text = f"not {first}" if negated else first
    for sign, prefixed, piece in more:
        prefix = ("not " if sign in ("and", "or") else "-") if prefixed else ""
        text += f" {sign} {prefix}{piece}"
    # Python would compute for ever at a tower of four
    assume(text.count("**") < 3)
    try:
        meant = eval(text)
    except (ZeroDivisionError, OverflowError):
        return
    made = taken(text)
    if made is None:
        return
    found = made.value(Scope())
    if isinstance(meant, complex) or "and" in text or "or" in text or "not" in text:
        # Python answers with an operand there, we with a truth
        assert isinstance(meant, complex) or arithmetic.truth(found) in (bool(meant), None)
    else:
        assert found == meant or found is None or math.isclose(found, meant, rel_tol=1e-12), (text, found, meant)


@settings(max_examples=300)
@given(st.text(alphabet="1.2aev_nr'\"+-*/%<>=!(),& \n#:[]{}\\", max_size=40))
def test_any_text_compiles_or_is_refused_within_itself(text: str) -> None:
    made = attempt(text)
    if not isinstance(made, ExpressionError):
        made.value(Scope())


@settings(max_examples=200)
@given(st.lists(st.sampled_from(["1", "var.n", "(", ")", "+", "-", "*", "**", "<", "==", "and", "or", "not", "min(", ",", "'a'", "true", "event.value"]), max_size=25))  # fmt: skip
def test_any_order_of_tokens_compiles_or_is_refused(tokens: List[str]) -> None:
    text = " ".join(tokens)
    made = attempt(text)
    if isinstance(made, ExpressionError):
        return
    for n in (None, 2, "a", True):
        made.value(Scope(**{"var.n": n, "event.value": n}))
