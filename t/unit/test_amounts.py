# SPDX-License-Identifier: MIT
"""Amounts: what may be written, where a fault lies, and what the distributions draw, against numpy's own."""

from __future__ import annotations

import math
import statistics
from random import Random
from typing import Any, Optional

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.spec import amounts
from ensemble.spec.amounts import DISTRIBUTIONS, Known
from ensemble.spec.metrics import PathError

NAMES = ("x", "layers")


def drawn(text: Any, n: int = 1, seed: int = 1, **params: Any) -> Any:
    amount = amounts.read(text, NAMES, seconds=True)
    random = Random(seed)
    values = [amount.draw(random, Known(params)) for _ in range(n)]
    return values if n > 1 else values[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (5, 5.0),
        (2.5, 2.5),
        ("90", 90.0),
        ("5m", 300.0),
        ("1.5h", 5400.0),
        ("10 * x + 1", 31.0),
        ("params.x ** 2", 9.0),
        ("min(x, 2)", 2.0),
        ("x > 2", 1.0),
        ("1 / (x - 3)", None),
        ("layers", None),
        ("choice(7)", 7.0),
        ("uniform(2, 2)", 2.0),
        ("normal(x, 0)", 3.0),
        ("exponential(0)", 0.0),
        ("lognormal(0, 1)", 0.0),
        ("normal(layers, 1)", None),
    ],
)
def test_values(text: Any, value: Optional[float]) -> None:
    assert drawn(text, x=3) == value


def test_what_is_known_of_the_job() -> None:
    known = Known({}, attempt=2)
    known.elapsed, known.duration, known.report = 5.0, 60.0, 4
    found = [amounts.read(word, ()).draw(Random(), known) for word in ("elapsed", "duration", "report", "attempt")]
    assert found == [5.0, 60.0, 4.0, 2.0]


@pytest.mark.parametrize(
    ("text", "offset", "words", "suggestion"),
    [
        ("lognrmal(1, 2)", 0, "no distribution is called 'lognrmal'", "lognormal"),
        ("  normal(1)", 2, "normal has 2 arguments, not 1", None),
        ("normal(1, )", 9, "here an argument is missing", None),
        ("normal(1, 2", 6, "this ( is never closed", None),
        ("normal(1, 2) + 1", 12, "something stands behind normal(...)", None),
        ("normal(10 * layer, 2)", 12, "nothing is called 'layer' here", "layers"),
        ("10 * layer", 5, "nothing is called 'layer' here", "layers"),
        ("params.y", 7, "no parameter is called 'y'", None),
        ("mean.g.duration", 0, "nothing is called 'mean.g.duration' here", None),
        ("x >", 3, "the expression ends too early", None),
        ("True", 0, "expressions have no 'True'", None),
        ("'a'", 0, "this has no value", None),
        ("", 0, "the expression is empty", None),
        ("lognormal(60, -15)", 14, "std is never negative", None),
        ("gamma( -1, 2)", 7, "shape is never negative", None),
        ("-5m", 0, "a duration is never negative", None),
    ],
)
def test_faults(text: str, offset: int, words: str, suggestion: Optional[str]) -> None:
    with pytest.raises(PathError) as caught:
        amounts.read(text, NAMES, seconds=True)
    assert (caught.value.offset, caught.value.message) == (offset, words)
    assert suggestion in (None, caught.value.suggestion)


@pytest.mark.parametrize("text", [math.inf, math.nan])
def test_numbers_that_are_none(text: float) -> None:
    with pytest.raises(PathError, match="no finite number"):
        amounts.read(text, NAMES)


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), (0.25, 0.25), ("0.5", 0.5), ("100%", 1.0), ("x > 2", 1.0)])
def test_shares(text: Any, value: float) -> None:
    assert amounts.share(text, NAMES).draw(Random(), Known({"x": 3})) == value


@pytest.mark.parametrize("text", [5, "5", -0.1, "101%", "150%", "-5%", "normal(1, 2)"])
def test_what_is_no_share(text: Any) -> None:
    with pytest.raises(PathError):
        amounts.share(text, NAMES)


#: distribution -> the same drawn by numpy
BY_NUMPY = {
    "uniform(2, 9)": lambda rng, n: rng.uniform(2, 9, n),
    "normal(50, 7)": lambda rng, n: rng.normal(50, 7, n),
    "exponential(20)": lambda rng, n: rng.exponential(20, n),
    "gamma(2.5, 4)": lambda rng, n: rng.gamma(2.5, 4, n),
    "weibull(1.7, 30)": lambda rng, n: 30 * rng.weibull(1.7, n),
    "triangular(1, 2, 9)": lambda rng, n: rng.triangular(1, 2, 9, n),
    "choice(1, 4, 9)": lambda rng, n: rng.choice([1, 4, 9], n),
    # numpy takes the mean and std of the logarithm
    "lognormal(60, 15)": lambda rng, n: rng.lognormal(
        math.log(60) - math.log1p(1 / 16) / 2, math.sqrt(math.log1p(1 / 16)), n
    ),
}


def test_every_distribution_is_compared() -> None:
    assert {text.partition("(")[0] for text in BY_NUMPY} == set(DISTRIBUTIONS)


@pytest.mark.parametrize("text", BY_NUMPY)
def test_distributions_are_numpys(text: str) -> None:
    """The same quantiles, within five standard errors of each (by its own spread over batches)."""
    n, batches = 2000, 20
    ours = np.array(drawn(text, n * batches)).reshape(batches, n)
    theirs = BY_NUMPY[text](np.random.default_rng(7), n * batches).reshape(batches, n)
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        one, other = (np.quantile(values, share, axis=1) for values in (ours, theirs))
        error = math.hypot(one.std(), other.std()) / math.sqrt(batches)
        assert abs(one.mean() - other.mean()) <= 5 * error + 1e-9, share
    assert statistics.mean(ours.ravel()) == pytest.approx(theirs.mean(), rel=0.03)


def test_the_mean_and_deviation_of_lognormal_are_its_own() -> None:
    values = drawn("lognormal(1m, 15)", 20_000)
    assert statistics.mean(values) == pytest.approx(60, rel=0.01)
    assert statistics.stdev(values) == pytest.approx(15, rel=0.05)


@given(st.text(max_size=40))
def test_any_text_is_an_amount_or_a_fault(text: str) -> None:
    try:
        amount = amounts.read(text, NAMES, seconds=True)
    except PathError as exc:
        offset = exc.offset
    else:
        offset = 0
        value = amount.draw(Random(1), Known({"x": 1, "layers": 2}))
        assert value is None or math.isfinite(value)
    assert 0 <= offset <= len(text)
