# SPDX-License-Identifier: MIT
"""The points of a set by number, and how submissions take them one after the other.

Law of this file: a point is computed from its number and the seed when its job is made, and then travels with the job;
nothing is held but what the file lists, one block of drawn numbers, and a cursor a set. So a grid of any size costs
nothing until it is walked, and the same seed gives the same points, after a restart too. (`lhs` is made as a whole, and
has a cap for that.) scipy is loaded when the first such point is drawn. Its other releases may draw other points for a
seed: jobs that were submitted keep theirs.
"""

from __future__ import annotations

import random
import warnings
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ensemble.engine.submissions import Batch
from ensemble.spec.models import Action, JobSet
from ensemble.spec.sampling import default_sample, total
from ensemble.spec.space import WALKS, Point, Space

if TYPE_CHECKING:
    from ensemble.engine.engine import Engine

#: points that scipy draws at a time; a power of 2, as sobol wants it
_BLOCK = 256


class Points:
    """The points of one set."""

    def __init__(self, jobs: JobSet, space: Space) -> None:
        self._axes = space.axes
        self.sample = jobs.sample or default_sample(space)
        self.seed = jobs.seed or 0
        #: how many there are; None where there is no end of them
        self.total = total(jobs)
        #: number of the first point of the block that is held, and the shares of its points
        self._block: Tuple[int, Any] = (0, ())

    def facts(self) -> Dict[str, Any]:
        """The names of the parameters, the sample, the seed where there is one, and the total."""
        names = [name for axis in self._axes for name in axis.names]
        seed = None if self.sample in WALKS else self.seed
        return {"names": names, "sample": self.sample, "seed": seed, "total": self.total}

    def point(self, n: int) -> Point:
        """Point `n`, from 0: a value of each parameter."""
        made: Point = {}
        if self.sample == "zip":
            for axis in self._axes:
                made.update(zip(axis.names, axis.at(n)))
        elif self.sample == "grid":
            # as nested loops go: the last axis moves first
            places: List[int] = []
            for axis in reversed(self._axes):
                n, place = divmod(n, axis.size or 1)
                places.append(place)
            for axis, place in zip(self._axes, reversed(places)):
                made.update(zip(axis.names, axis.at(place)))
        else:
            for axis, share in zip(self._axes, self._shares(n)):
                made.update(zip(axis.names, axis.along(share)))
        return made

    def _shares(self, n: int) -> Sequence[float]:
        """Of each axis how far along it the point lies: at least 0, below 1."""
        if self.sample == "random":
            drawn = random.Random(f"{self.seed}:{n}")
            return [drawn.random() for _ in self._axes]
        first, block = self._block
        if not first <= n < first + len(block):
            first, block = self._block = self._drawn(n)
        return [float(share) for share in block[n - first]]

    def _drawn(self, n: int) -> Tuple[int, Any]:
        """The block of shares that point `n` lies in."""
        from scipy.stats import qmc

        if self.sample == "lhs":
            sampler: Any = _seeded(qmc.LatinHypercube, len(self._axes), self.seed)
            return 0, sampler.random(self.total or 1)
        sampler = _seeded(qmc.Sobol if self.sample == "sobol" else qmc.Halton, len(self._axes), self.seed)
        first = n - n % _BLOCK
        if first:
            sampler.fast_forward(first)
        with warnings.catch_warnings():
            # what sobol says of numbers of points that are no power of 2
            warnings.simplefilter("ignore")
            return first, sampler.random(_BLOCK)


def _seeded(kind: Any, axes: int, seed: int) -> Any:
    try:
        return kind(axes, rng=seed)
    except TypeError:  # scipy before 1.15
        return kind(axes, seed=seed)


class Samples:
    """The points of every set of an ensemble."""

    def __init__(self, groups: Dict[str, Tuple[JobSet, ...]]) -> None:
        self._sets: Dict[str, Tuple[Optional[Points], ...]] = {
            group: tuple(_points(jobs) for jobs in sets)
            for group, sets in groups.items()
            if any(jobs.parameters is not None for jobs in sets)
        }
        #: sets whose points a function says
        self._custom = {
            (group, number)
            for group, sets in groups.items()
            for number, jobs in enumerate(sets)
            if jobs.parameters is not None and jobs.parameters.custom is not None
        }

    def of(self, group: str, number: int) -> Optional[Points]:
        """The points of that set; None where it has no parameters, or where a function says them."""
        sets = self._sets.get(group)
        return sets[number] if sets is not None else None

    def table(self, taken: Dict[str, List[int]]) -> Dict[str, List[Dict[str, Any]]]:
        """Of each group its sets with parameters: `names`, `sample`, `seed`, `taken` and `total` points. JSON-able."""
        custom: Dict[str, Any] = {"names": [], "sample": "custom", "seed": None, "total": None}
        return {
            group: [
                {"set": n, **(custom if points is None else points.facts()), "taken": taken[group][n]}
                for n, points in enumerate(sets)
                if points is not None or (group, n) in self._custom
            ]
            for group, sets in self._sets.items()
        }

    def params(self, batch: Batch, index: int = 0) -> Point:
        """The parameters of that job of the batch, the first being 0."""
        if batch.points is not None:
            return batch.points[(batch.point + index) % len(batch.points)] if batch.points else {}
        points = self.of(batch.group, batch.set)
        return {} if points is None else points.point(batch.point + index)


def _points(jobs: JobSet) -> Optional[Points]:
    space = jobs.parameters
    return Points(jobs, space) if space is not None and space.custom is None else None


class Taken(NamedTuple):
    """What one submission of one set takes: as many jobs, from that point on, of its own points or of the set's."""

    jobs: int
    point: int = 0
    points: Optional[List[Point]] = None


def take(engine: Engine, action: Action, asked: Optional[int], group: str, number: int, jobs: JobSet) -> Taken:
    """What this action submits of this set; the cursor moves on by that much.

    The points of the action come first: each of them as often as `asked`, the action's count, says (once). Else it is the
    next points of the set, as many as asked for there or in the set, and all that remain where neither says it. Without
    parameters it is that many equal jobs.
    """
    if action.parameters is not None:
        points = list(action.parameters)
        return Taken(len(points) * (1 if asked is None else asked), 0, points)
    count = jobs.wanted if asked is None else asked
    sample = engine.samples.of(group, number)
    if sample is None:
        return Taken(jobs.count if count is None else count)
    first = engine.taken[group][number]
    left = count if sample.total is None else sample.total - first
    assert left is not None, "the file was checked: a sample without an end has a count"
    taken = left if count is None else min(left, count)
    engine.taken[group][number] += taken
    return Taken(taken, first)


def spent(engine: Engine, group: str) -> str:
    """Why a submission of the group takes nothing; a sentence."""
    return f"all {sum(engine.taken[group])} points of {group} have been taken, so nothing is submitted"
