# SPDX-License-Identifier: MIT
"""The nodes of a Flux instance as its scaler sees them, and how it marks those that it takes. Imports flux.

A node that was drained to be taken says so by the reason of its drain, which the instance keeps: so a later service knows
it from one that an administrator has drained, and knows whether the owner of the node was asked to take it already.
"""

from __future__ import annotations

from typing import Any, Dict, FrozenSet, Iterable, NamedTuple, Optional, Set

from flux.idset import IDset

#: how the reason begins of a drain of ours, and of one that the owner of the node was asked to take
REASON = "ensemble: taken by shrink"
GIVEN = f"{REASON}, and its owner was asked to take it,"


class Nodes(NamedTuple):
    """The nodes of an instance at one moment, as sets of ranks."""

    #: may run jobs
    up: FrozenSet[int]
    #: drained by a scaler, and those of them that are online
    ours: FrozenSet[int]
    ready: FrozenSet[int]
    #: those of them that are online and that the owner was asked to take
    given: FrozenSet[int]
    #: out of use for other reasons: drained by somebody else, or excluded
    others: FrozenSet[int]
    #: without a node
    offline: FrozenSet[int]
    #: a job runs there
    busy: FrozenSet[int]
    #: the scheduler may put jobs there
    seen: FrozenSet[int]
    #: all that the instance may ever have for jobs: but for those that its configuration excludes
    all: FrozenSet[int]


def looked(status: Dict[str, Any], scheduler: Dict[str, Any]) -> Nodes:
    """What `resource.status` and `resource.sched-status` answer. Raises KeyError, TypeError, ValueError."""
    online, offline, excluded = (_ranks(status.get(word)) for word in ("online", "offline", "exclude"))
    ours: Set[int] = set()
    given: Set[int] = set()
    others: Set[int] = set(excluded)
    for ranks, why in status["drain"].items():
        reason = str((why or {}).get("reason") or "")
        (ours if reason.startswith(REASON) else others).update(_ranks(ranks))
        if reason.startswith(GIVEN):
            given |= _ranks(ranks)
    ours -= others
    everything, down, busy = (_of(scheduler[word]) for word in ("all", "down", "allocated"))
    return Nodes(
        frozenset(online - ours - others),
        frozenset(ours),
        frozenset(ours & online),
        frozenset((given - others) & online),
        frozenset(others),
        frozenset(offline - others),
        frozenset(busy),
        frozenset(everything - down),
        frozenset((online | offline) - excluded),
    )


def _ranks(text: Optional[str]) -> Set[int]:
    return set(IDset(text or ""))


def _of(R: Any) -> Set[int]:
    """The ranks of a resource set (RFC 20)."""
    found: Set[int] = set()
    for entry in (R or {}).get("execution", {}).get("R_lite", ()):
        found |= _ranks(str(entry["rank"]))
    return found


def idset(ranks: Iterable[int]) -> str:
    """The ranks as Flux writes them."""
    return str(IDset(",".join(map(str, sorted(ranks)))))
