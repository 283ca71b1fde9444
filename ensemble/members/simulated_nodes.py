# SPDX-License-Identifier: MIT
"""The nodes of a simulated queue: which have room for a job, and what is taken of each.

Law of this file: numbers alone, no time and no jobs. A job asks for tasks, each with cores and GPUs of one node, for a
number of nodes, or for whole nodes. Where there is a choice the node with the most free cores is taken, and of these the
one of the least rank, as Flux's own scheduler does. Nodes that have the same left are kept together, so that a job costs
a look at what differs, not at every node.
"""

from __future__ import annotations

import heapq
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

#: cores and GPUs of one node
Pair = Tuple[int, int]
#: of each node that a job has: its rank, and the cores and GPUs that it takes there
Placement = Tuple[Tuple[int, int, int], ...]


class Request(NamedTuple):
    """What a job asks for."""

    #: 0 leaves it to the queue
    nodes: int
    tasks: int
    #: of each task
    cores: int
    gpus: int
    #: whole nodes
    exclusive: bool


class Nodes:
    """All nodes, and what is free of each."""

    def __init__(self, nodes: Sequence[Pair], up: Optional[int] = None) -> None:
        """`up` are there at first, those of the least ranks; without it all."""
        self.sizes: Tuple[Pair, ...] = tuple(nodes)
        self.cores = sum(cores for cores, _ in nodes)
        self.gpus = sum(gpus for _, gpus in nodes)
        self.cores_up = self.cores
        self.free_cores = self.cores
        self.free_gpus = self.gpus
        #: nodes of which something is taken, and cores that are
        self.busy = 0
        self.used_cores = 0
        #: ranks that are down, for a reason of their own
        self.down: Set[int] = set()
        self._free: List[Pair] = list(nodes)
        #: what is left -> ranks that may have just that (they are looked at again), and the same as a set
        self._heaps: Dict[Pair, List[int]] = {}
        self._members: Dict[Pair, Set[int]] = {}
        #: cores left -> keys of the two, most free GPUs first; and how many nodes have so many left
        self._keys: Dict[int, List[Pair]] = {}
        most = max((cores for cores, _ in nodes), default=0)
        self._with = [0] * (most + 1)
        #: no node has more left
        self._top = most
        for cores, _ in nodes:
            self._with[cores] += 1
        for rank in range(len(nodes)):
            self._put(rank)
        for heap in self._heaps.values():
            heapq.heapify(heap)
        #: requests that were looked at -> why they can never be met
        self._reasons: Dict[Request, Optional[str]] = {}
        #: ranks that take no jobs, because nobody has started them or they are to go; and how many cores these have
        self.closed: Set[int] = set()
        self.cores_closed = 0
        #: of the nodes that are down or closed: what would be free of each; and how many of them still have a job
        self._away: Dict[int, Pair] = {}
        self._busy_away = 0
        for rank in range(len(nodes) if up is None else up, len(nodes)):
            self.close(rank)

    @classmethod
    def growing(cls, nodes: Sequence[Pair], most: Optional[int]) -> Nodes:
        """These nodes, and as many like the last one as may come to them until there are `most`."""
        return cls([*nodes, *list(nodes[-1:]) * ((most or 0) - len(nodes))], up=len(nodes))

    @property
    def up(self) -> int:
        """Nodes that take jobs."""
        return len(self.sizes) - len(self._away)

    @property
    def free_nodes(self) -> int:
        """Nodes that take jobs and have none."""
        return self.up - (self.busy - self._busy_away)

    def counts(self) -> Dict[str, Dict[str, int]]:
        """Nodes and cores, as a `Counted` has them."""
        up = self.up
        return {
            "nodes": {"up": up, "down": len(self.sizes) - up, "free": self.free_nodes, "allocated": self.busy},
            "cores": {
                "up": self.cores_up,
                "down": self.cores - self.cores_up,
                "free": self.free_cores,
                "allocated": self.used_cores,
            },
        }

    def idle(self, rank: int) -> bool:
        """Has no job any of it?"""
        return self._away.get(rank, self._free[rank]) == self.sizes[rank]

    def close(self, rank: int) -> None:
        """It takes no more jobs; those that run there go on."""
        if rank not in self.closed:
            self.closed.add(rank)
            self.cores_closed += self.sizes[rank][0]
            self._leave(rank)

    def open(self, rank: int) -> None:
        """It takes jobs again, or for the first time, unless it is down."""
        if rank in self.closed:
            self.closed.discard(rank)
            self.cores_closed -= self.sizes[rank][0]
            self._return(rank)

    def lose(self, rank: int) -> None:
        """The node goes down; nothing of it is taken any more."""
        self.down.add(rank)
        self._leave(rank)

    def regain(self, rank: int) -> None:
        """The node is up again, unless it is closed."""
        self.down.discard(rank)
        self._return(rank)

    def _leave(self, rank: int) -> None:
        if rank not in self._away:
            self._away[rank] = self._free[rank]
            self._busy_away += self._free[rank] != self.sizes[rank]
            self._set(rank, (0, 0))
            self.cores_up -= self.sizes[rank][0]

    def _return(self, rank: int) -> None:
        if rank in self._away and rank not in self.down and rank not in self.closed:
            left = self._away.pop(rank)
            self._busy_away -= left != self.sizes[rank]
            self._set(rank, left)
            self.cores_up += self.sizes[rank][0]

    def never(self, request: Request) -> Optional[str]:
        """Why no job can ever have this here; None where it can."""
        if request not in self._reasons:
            self._reasons[request] = self._never(request)
        return self._reasons[request]

    def _never(self, request: Request) -> Optional[str]:
        nodes, tasks, cores, gpus, _ = request
        if nodes > len(self.sizes):
            return f"it asks for {nodes} nodes, and there are {len(self.sizes)}"
        if nodes and tasks < nodes:
            return f"{nodes} nodes cannot be shared by {tasks} tasks"
        most = -(-tasks // nodes) if nodes else 1
        fitting = [_times(size, cores, gpus) for size in self.sizes]
        if sum(times >= most for times in fitting) < max(1, nodes):
            of = f"{most} tasks" if most > 1 else "a task"
            what = f"{most * cores} cores" + (f" and {most * gpus} GPUs" if gpus else "")
            return (
                f"{of} on one node asks for {what}, and no node has as many"
                if nodes < 2
                else (f"it asks for {nodes} nodes with {what} each, and there are not as many")
            )
        if sum(fitting) < tasks:
            return f"its {tasks} tasks ask for more cores or GPUs than there are"
        return None

    def take(self, request: Request) -> Optional[Placement]:
        """Room for a job, which is taken; None where there is none now."""
        nodes, tasks, cores, gpus, exclusive = request
        if tasks * cores > self.free_cores or tasks * gpus > self.free_gpus:
            return None
        if not nodes and tasks == 1 and not exclusive:
            rank = self._most_free(cores, gpus)
            if rank is None:
                return None
            placement: Placement = ((rank, cores, gpus),)
        else:
            found = self._spread(request) if nodes else self._packed(request)
            if found is None:
                return None
            placement = found
        for rank, of_cores, of_gpus in placement:
            self._change(rank, -of_cores, -of_gpus)
            self.used_cores += of_cores
        return placement

    def give(self, placement: Placement) -> None:
        """A job's part is free again."""
        for rank, cores, gpus in placement:
            self._change(rank, cores, gpus)
            self.used_cores -= cores

    def _most_free(self, cores: int, gpus: int) -> Optional[int]:
        count, top = self._with, self._top
        while top and not count[top]:
            top -= 1
        self._top = top
        for left in range(top, cores - 1, -1):
            if count[left]:
                for key in self._keys[left]:
                    if key[1] < gpus:
                        break
                    rank = self._first(key)
                    if rank is not None:
                        return rank
        return None

    def _first(self, key: Pair) -> Optional[int]:
        """The least rank that has just that free."""
        heap, members = self._heaps[key], self._members[key]
        while heap:
            rank = heap[0]
            if self._free[rank] == key:
                return rank
            heapq.heappop(heap)
            members.discard(rank)
        return None

    def _ordered(self, least: int, whole: bool) -> Iterator[int]:
        """Ranks with so many cores free, or of these those that are wholly free: most free cores first."""
        free, sizes = self._free, self.sizes
        for left in range(self._top, least - 1, -1):
            if self._with[left]:
                for key in self._keys[left]:
                    for rank in sorted(self._members[key]):
                        if free[rank] == key and (not whole or key == sizes[rank]):
                            yield rank

    def _spread(self, request: Request) -> Optional[Placement]:
        """That number of nodes, and of each what the node with most tasks needs, as Flux gives it."""
        nodes, tasks, cores, gpus, exclusive = request
        share = -(-tasks // nodes)
        if sum(self._with[share * cores :]) < nodes:
            return None
        found: List[Tuple[int, int, int]] = []
        for rank in self._ordered(share * cores, exclusive):
            if _times(self._free[rank], cores, gpus) >= share:
                found.append((rank, *self.sizes[rank]) if exclusive else (rank, share * cores, share * gpus))
                if len(found) == nodes:
                    return tuple(sorted(found))
        return None

    def _packed(self, request: Request) -> Optional[Placement]:
        """The tasks on as many nodes as they need."""
        _, tasks, cores, gpus, exclusive = request
        found: List[Tuple[int, int, int]] = []
        for rank in self._ordered(cores, exclusive):
            share = min(tasks, _times(self._free[rank], cores, gpus))
            if share:
                found.append((rank, *self.sizes[rank]) if exclusive else (rank, share * cores, share * gpus))
                tasks -= share
                if not tasks:
                    return tuple(sorted(found))
        return None

    def _change(self, rank: int, cores: int, gpus: int) -> None:
        size = self.sizes[rank]
        left = self._away.get(rank)
        before = self._free[rank] if left is None else left
        now = (before[0] + cores, before[1] + gpus)
        more = (now != size) - (before != size)
        self.busy += more
        if left is None:
            self._set(rank, now)
        else:
            self._away[rank] = now
            self._busy_away += more

    def _set(self, rank: int, now: Pair) -> None:
        before = self._free[rank]
        self._free[rank] = now
        self._with[before[0]] -= 1
        self._with[now[0]] += 1
        if now[0] > self._top:
            self._top = now[0]
        self.free_cores += now[0] - before[0]
        self.free_gpus += now[1] - before[1]
        self._put(rank)

    def _put(self, rank: int) -> None:
        key = self._free[rank]
        members = self._members.get(key)
        if members is None:
            members = self._members[key] = set()
            self._heaps[key] = []
            keys = self._keys.setdefault(key[0], [])
            keys.append(key)
            keys.sort(reverse=True)
        if rank not in members:
            members.add(rank)
            heapq.heappush(self._heaps[key], rank)


def _times(free: Pair, cores: int, gpus: int) -> int:
    """Tasks that fit into that."""
    return min(free[0] // cores, free[1] // gpus) if gpus else free[0] // cores
