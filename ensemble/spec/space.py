# SPDX-License-Identifier: MIT
"""The space of parameters that the jobs of a set are drawn from: plain values, no file, no seed, no position.

A space is a list of axes. An axis has one parameter, or, where it is the rows of a CSV file, several that vary
together. An axis with a `size` has that many values, which `at` names by number; every axis can be asked for the value
at a share from 0 to 1 (`along`), which is how random samples are drawn. Nothing is held but what the file lists.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

#: a parameter
IDENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: how points are chosen; the first two walk the values, the others draw
SAMPLES = ("grid", "zip", "random", "lhs", "sobol", "halton")
WALKS = ("grid", "zip")
#: drawn by scipy.stats.qmc
QMC = ("lhs", "sobol", "halton")
#: points of a space; JSON and Flux carry whole numbers below 2**63
MOST_POINTS = 10**15
#: greatest seed
MOST_SEED = 2**63 - 1
#: numbers that a latin hypercube may have, points times parameters: it is drawn as a whole, and held
MOST_LHS = 1_000_000

#: what a parameter may be; it reaches the job as text, and rules and functions as it is
Value = Union[str, int, float, bool]
Point = Dict[str, Value]


class Axis(NamedTuple):
    """One parameter, or several that vary together."""

    names: Tuple[str, ...]
    #: list, choice, file: `data` is the values (tuples of values for a file). range: first, step and how many.
    #: linspace: first, last and how many. uniform, loguniform: the two bounds
    kind: str
    data: Tuple[Any, ...]

    @property
    def size(self) -> Optional[int]:
        """Its values; None where it has no end of them."""
        if self.kind in ("uniform", "loguniform"):
            return None
        return int(self.data[2]) if self.kind in ("range", "linspace") else len(self.data)

    @property
    def drawn(self) -> bool:
        """Is it a distribution, and no list?"""
        return self.kind in ("uniform", "loguniform", "choice")

    def at(self, n: int) -> Tuple[Value, ...]:
        """The value of each parameter at place `n`, from 0."""
        if self.kind == "range":
            return (_stepped(self.data[0], self.data[1], n),)
        if self.kind == "linspace":
            first, last, number = self.data
            if n == number - 1 and number > 1:
                return (float(last),)
            return (float(first + (last - first) * n / max(1, number - 1)),)
        row = self.data[n]
        return row if self.kind == "file" else (row,)

    def along(self, share: float) -> Tuple[Value, ...]:
        """The value of each parameter at that share (0 to 1, 1 excluded) of the axis."""
        if self.kind == "uniform":
            low, high = self.data
            return (min(high, low + (high - low) * share),)
        if self.kind == "loguniform":
            low, high = self.data
            drawn = math.exp(math.log(low) + (math.log(high) - math.log(low)) * share)
            return (max(low, min(high, drawn)),)
        size = self.size or 1
        return self.at(min(size - 1, int(share * size)))

    def examples(self, most: int = 1000) -> List[Tuple[Value, ...]]:
        """Values of it, all where it has no more than `most`; two of a distribution."""
        if self.size is None:
            return [self.along(0.0), self.along(0.999)]
        return [self.at(n) for n in range(min(self.size, most))]


class Space(NamedTuple):
    """The axes of a set, in file order; or the name of the function that answers the points."""

    axes: Tuple[Axis, ...] = ()
    custom: Optional[str] = None

    @property
    def names(self) -> Tuple[str, ...]:
        """The parameters; empty where a function says them."""
        return tuple(name for axis in self.axes for name in axis.names)

    @property
    def drawn(self) -> bool:
        """Is there a distribution in it?"""
        return any(axis.drawn for axis in self.axes)


def _stepped(first: Union[int, float], step: Union[int, float], n: int) -> Union[int, float]:
    """`first` and `n` steps, rounded once: the third of 0, 0.1, ... is 0.2 and the fourth 0.3."""
    if isinstance(first, int) and isinstance(step, int):
        return first + n * step
    return float(exact(first) + n * exact(step))


def exact(number: Union[int, float]) -> Fraction:
    """The number as it is written, so that 0.1 is a tenth."""
    return Fraction(repr(number))


def steps(first: Union[int, float], end: Union[int, float], step: Union[int, float]) -> int:
    """How many of first, first + step, ... come before the end, which is excluded. `step` is not 0."""
    return max(0, math.ceil((exact(end) - exact(first)) / exact(step)))
