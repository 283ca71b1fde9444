# SPDX-License-Identifier: MIT
"""Which algorithms there are: those that are shipped, and those of installed packages.

Law of this file: standard library only. `names` imports nothing of a package's; `load` does, and so is called in worker
processes alone for those that are not shipped. A package cannot take the name of a shipped one.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module, metadata
from typing import Any, Dict, FrozenSet, Type

from ensemble.algorithms.contract import Algorithm

#: group of the entry points by which installed packages offer algorithms
ENTRY_POINTS = "ensemble.algorithms"
#: name -> module and class
SHIPPED: Dict[str, str] = {
    "sweep": "ensemble.algorithms.sweep:Sweep",
    "successive-halving": "ensemble.algorithms.successive:SuccessiveHalving",
    "asha": "ensemble.algorithms.asha:Asha",
    "adaptive-sampling": "ensemble.algorithms.adaptive:AdaptiveSampling",
    "bisect": "ensemble.algorithms.bisection:Bisect",
    "autoscale": "ensemble.algorithms.autoscale:Autoscale",
    "evolve": "ensemble.algorithms.evolution:Evolve",
}


@lru_cache(maxsize=1)
def installed() -> FrozenSet[str]:
    """Names of the algorithms that packages offer."""
    return frozenset(entry.name for entry in _entries()) - set(SHIPPED)


def names() -> FrozenSet[str]:
    """Names of all."""
    return installed() | set(SHIPPED)


def load(name: str) -> Type[Algorithm]:
    """The class of that name. Raises LookupError, TypeError for what is no Algorithm, and what importing it raises."""
    if name in SHIPPED:
        module, _, attribute = SHIPPED[name].partition(":")
        found: Any = getattr(import_module(module), attribute)
    else:
        entries = [entry for entry in _entries() if entry.name == name]
        if not entries:
            raise LookupError(f"no algorithm is called '{name}', and no installed package offers one")
        found = entries[0].load()
    if not isinstance(found, type) or not issubclass(found, Algorithm):
        raise TypeError(f"what is offered as the algorithm '{name}' is no subclass of ensemble.algorithms.Algorithm")
    return found


def _entries() -> Any:
    found: Any = metadata.entry_points()
    # Python 3.9 has a dict of lists
    return found.select(group=ENTRY_POINTS) if hasattr(found, "select") else found.get(ENTRY_POINTS, ())
