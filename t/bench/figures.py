# SPDX-License-Identifier: MIT
"""How a benchmark tells what it measured: one line, with its spread, beside the bare value and the target.

Law of this file: a figure is a list of repetitions, and nothing is left out of it. Where there is a bare value, the
two were measured by turns (A B B A) and a ratio is that of two neighbours; the target is held against each repetition.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field
from typing import Callable, List, Optional, Tuple


@dataclass
class Figure:
    """What one benchmark measured."""

    name: str
    #: ms, jobs/s, ...
    unit: str
    #: ours, one a repetition
    measured: List[float]
    #: the same without us, in the same order; empty where there is nothing to compare with
    bare: List[float] = field(default_factory=list)
    #: the ratio (measured / bare) is what the target speaks of, or else the value
    of_ratio: bool = True
    #: no more than this, or no less than this; None is no bound
    at_most: Optional[float] = None
    at_least: Optional[float] = None
    #: what was done, in a few words
    note: str = ""

    @property
    def ratios(self) -> List[float]:
        return [ours / theirs for ours, theirs in zip(self.measured, self.bare)]

    def line(self) -> str:
        """The figure as one line: name, value, bare value, ratio, target, spread."""
        parts = [f"{self.name:<22} {_number(statistics.median(self.measured))} {self.unit}"]
        if self.bare:
            parts.append(f"bare {_number(statistics.median(self.bare))}")
            parts.append(f"ratio {statistics.median(self.ratios):.3f}")
        else:
            parts.append("bare -")
            parts.append("ratio -")
        parts.append(self._target())
        spread = f"n={len(self.measured)} min/median/max {_spread(self.measured)}"
        if self.bare:
            spread += f", bare {_spread(self.bare)}, ratio {_spread(self.ratios)}"
        parts.append(spread)
        if self.note:
            parts.append(self.note)
        return " | ".join(parts)

    def _target(self) -> str:
        of_ratio = self.of_ratio and bool(self.bare)
        values = self.ratios if of_ratio else self.measured
        what = "ratio " if of_ratio else ""
        if self.at_most is not None:
            return f"target {what}<= {self.at_most:g}: {_verdict([value <= self.at_most for value in values])}"
        if self.at_least is not None:
            return f"target {what}>= {self.at_least:g}: {_verdict([value >= self.at_least for value in values])}"
        return "no target"


def _verdict(met: List[bool]) -> str:
    """Is the target reached? Where the repetitions do not agree, it says how many of them do."""
    if all(met):
        return "reached"
    return f"reached in {sum(met)} of {len(met)}" if any(met) else "MISSED"


def tell(figure: Figure) -> None:
    """Print it, at once."""
    print(figure.line(), flush=True)


def skip(name: str, why: str) -> None:
    """Say that a benchmark was not run."""
    print(f"{name:<22} skipped: {why}", flush=True)


def progress(text: str) -> None:
    """A word to who waits, on standard error."""
    print(f"  {text}", file=sys.stderr, flush=True)


def by_turns(
    ours: Callable[[], float], bare: Callable[[], float], repetitions: int, unit: str
) -> Tuple[List[float], List[float]]:
    """Measure both by turns, so that what else the machine does hits both alike; who goes first changes each time."""
    measured: List[float] = []
    without: List[float] = []
    for number in range(repetitions):
        turns = [(ours, measured), (bare, without)]
        for measure, into in turns if number % 2 else reversed(turns):
            into.append(measure())
        progress(f"{number + 1}/{repetitions}: {_number(measured[-1])} {unit}, bare {_number(without[-1])}")
    return measured, without


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _spread(values: List[float]) -> str:
    return "/".join(_number(v) for v in (min(values), statistics.median(values), max(values)))
