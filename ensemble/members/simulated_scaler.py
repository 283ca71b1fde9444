# SPDX-License-Identifier: MIT
"""The scaler of the simulated queue: nodes come up some time after they were asked for, and go once no job runs there.

Law of this file: the promises of `flux_scaler.py` on a virtual clock. Idle nodes go first, and of those the ones of the
greatest rank; no job starts on a node that is to go, and with `force` nobody waits for those that run there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, List, Optional, Sequence

from ensemble.members.base import Timer
from ensemble.members.scaler import Order, Scaler, Sized

if TYPE_CHECKING:
    from ensemble.members.simulated import SimulatedMember


class SimulatedScaler(Scaler):
    """Opens and closes nodes of a simulated queue."""

    def __init__(self, member: SimulatedMember, delay: float) -> None:
        self._member = member
        self._delay = delay
        self._order: Optional[Order] = None
        self._done: Sized = lambda size, error: None
        self._limit: Optional[Timer] = None
        #: nodes on their way up
        self._coming: Dict[int, Timer] = {}
        #: nodes that this order has closed
        self._going: List[int] = []

    def size(self, then: Sized) -> None:
        member = self._member
        self.most = len(member.nodes.sizes)
        member.call_at(member.clock(), lambda: then(member.nodes.up, ""))

    def resize(self, order: Order, done: Sized) -> None:
        member = self._member
        self._drop_limit()
        self._order, self._done, self._going = order, done, []
        self._limit = member.call_at(member.clock() + order.timeout, self._too_late)
        member.on_freed = self._look
        member.call_at(member.clock(), lambda: self._begin(order))

    def stop(self) -> None:
        self._order = None
        self._drop_limit()
        self._member.on_freed = None
        for timer in self._coming.values():
            timer.cancel()
        self._coming.clear()

    def _drop_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _begin(self, order: Order) -> None:
        if self._order is not order:
            return
        member, nodes = self._member, self._member.nodes
        if order.action == "grow":
            missing = order.wanted - nodes.up - len(self._coming)
            # those that still have jobs need not come up
            there = sorted(nodes.closed - nodes.down)
            for rank in [rank for rank in there if not nodes.idle(rank)][: max(0, missing)]:
                self._open(rank)
                missing -= 1
            there = sorted(nodes.closed - nodes.down - set(self._coming))
            for rank in there[: max(0, missing)]:
                self._coming[rank] = member.call_at(member.clock() + self._delay, lambda rank=rank: self._up(rank))  # type: ignore[misc]
        else:
            for timer in self._coming.values():
                timer.cancel()
            self._coming.clear()
            out = nodes.closed | nodes.down
            there = [rank for rank in range(1, len(nodes.sizes)) if rank not in out]
            there.sort(key=lambda rank: (not nodes.idle(rank), -rank))
            self._going = there[: max(0, nodes.up - order.wanted)]
            member.account()
            for rank in self._going:
                nodes.close(rank)
            if self._going:
                member.changed("down", sorted(self._going))
        self._look()

    def _up(self, rank: int) -> None:
        self._coming.pop(rank, None)
        self._open(rank)
        self._look()

    def _open(self, rank: int) -> None:
        self._member.account()
        self._member.nodes.open(rank)
        self._member.changed("up", [rank])

    def _look(self) -> None:
        """Is it done?"""
        order, nodes = self._order, self._member.nodes
        if order is None:
            return
        if order.action == "grow":
            if nodes.up >= order.wanted:
                self._end("")
            elif not self._coming:
                self._end(f"the simulated machine has {len(nodes.sizes)} nodes")
        elif order.force or all(nodes.idle(rank) for rank in self._going):
            self._end("")

    def _too_late(self) -> None:
        self._limit = None
        order = self._order
        if order is None:
            return
        for timer in self._coming.values():
            timer.cancel()
        self._coming.clear()
        for rank in self._going:
            if not self._member.nodes.idle(rank):
                self._open(rank)
        done = "up" if order.action == "grow" else "free of jobs"
        self._end(f"after {order.timeout:g} s not all of the nodes are {done}")

    def _end(self, error: str) -> None:
        done, size = self._done, self._member.nodes.up
        self._order = None
        self._drop_limit()
        self._member.on_freed = None
        # from the clock, not from inside what a job's end does
        self._member.call_at(self._member.clock(), lambda: done(size, error))


def idset(ranks: Sequence[int]) -> str:
    """Ascending ranks, as Flux writes them."""
    parts: List[str] = []
    first = last = ranks[0]
    for rank in [*ranks[1:], -2]:
        if rank == last + 1:
            last = rank
            continue
        parts.append(str(first) if first == last else f"{first}-{last}")
        first = last = rank
    return ",".join(parts)
