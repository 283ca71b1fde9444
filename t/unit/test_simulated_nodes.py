# SPDX-License-Identifier: MIT
"""Nodes of the simulated queue: never more taken than there is, and room is found where there is some."""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.members.simulated_nodes import Nodes, Placement, Request

ONE = Request(0, 1, 1, 0, False)

sizes = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3)), min_size=1, max_size=6)
requests = st.builds(
    Request,
    nodes=st.integers(0, 4),
    tasks=st.integers(1, 8),
    cores=st.integers(1, 4),
    gpus=st.integers(0, 2),
    exclusive=st.booleans(),
).map(lambda r: r if not r.nodes or r.tasks >= r.nodes else r._replace(tasks=r.nodes))
#: a request to take, or the number of an earlier one to give back
steps = st.lists(st.one_of(requests, st.integers(0, 20)), max_size=40)


def free(nodes: Nodes, taken: List[Placement]) -> List[Tuple[int, int]]:
    left = [list(size) for size in nodes.sizes]
    for placement in taken:
        for rank, cores, gpus in placement:
            left[rank][0] -= cores
            left[rank][1] -= gpus
    return [(cores, gpus) for cores, gpus in left]


def fits(left: List[Tuple[int, int]], whole: List[bool], request: Request) -> bool:
    """Is there room, by plain counting?"""
    usable = [pair for pair, is_whole in zip(left, whole) if is_whole or not request.exclusive]
    times = [min(c // request.cores, g // request.gpus if request.gpus else c) for c, g in usable]
    if not request.nodes:
        return sum(times) >= request.tasks
    return sum(t >= -(-request.tasks // request.nodes) for t in times) >= request.nodes


@given(sizes, steps)
def test_taking_and_giving(sizes: List[Tuple[int, int]], steps: List[object]) -> None:
    nodes = Nodes(sizes)
    taken: List[Placement] = []
    for step in steps:
        if isinstance(step, Request):
            left = free(nodes, taken)
            whole = [pair == tuple(size) for pair, size in zip(left, sizes)]
            never = nodes.never(step)
            place = None if never else nodes.take(step)
            room = fits(left, whole, step)
            if never:
                assert not room
            else:
                assert (place is not None) == room
            if place is not None:
                taken.append(place)
                _is_what_was_asked(nodes, step, place, left)
        elif taken:
            nodes.give(taken.pop(int(str(step)) % len(taken)))
        left = free(nodes, taken)
        assert all(cores >= 0 and gpus >= 0 for cores, gpus in left)
        assert (nodes.free_cores, nodes.free_gpus) == (sum(c for c, _ in left), sum(g for _, g in left))
        assert nodes.used_cores == nodes.cores - nodes.free_cores
        assert nodes.busy == sum(pair != tuple(size) for pair, size in zip(left, sizes))


def _is_what_was_asked(nodes: Nodes, request: Request, place: Placement, left: List[Tuple[int, int]]) -> None:
    ranks = [rank for rank, _, _ in place]
    assert len(set(ranks)) == len(ranks)
    if request.exclusive:
        assert all((cores, gpus) == nodes.sizes[rank] == left[rank] for rank, cores, gpus in place)
        assert request.nodes in (0, len(place))
        return
    if request.nodes:
        share = -(-request.tasks // request.nodes)
        assert len(place) == request.nodes
        assert {(cores, gpus) for _, cores, gpus in place} == {(share * request.cores, share * request.gpus)}
    else:
        assert sum(cores for _, cores, _ in place) == request.tasks * request.cores
        assert sum(gpus for _, _, gpus in place) == request.tasks * request.gpus


@given(sizes, requests)
def test_what_can_never_be_had_is_what_an_empty_queue_cannot_give(
    sizes: List[Tuple[int, int]], request: Request
) -> None:
    nodes = Nodes(sizes)
    reason = nodes.never(request)
    assert (reason is None) == (nodes.take(request) is not None), reason


def test_the_node_with_most_cores_free_is_taken_and_of_these_the_first() -> None:
    nodes = Nodes([(2, 0), (4, 0), (4, 0)])
    assert [nodes.take(ONE) for _ in range(5)] == [((rank, 1, 0),) for rank in (1, 2, 1, 2, 0)]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(5, 5, 1, 0, False), "it asks for 5 nodes, and there are 4"),
        (Request(0, 1, 9, 0, False), "a task on one node asks for 9 cores, and no node has as many"),
        (Request(0, 1, 1, 3, False), "a task on one node asks for 1 cores and 3 GPUs, and no node has as many"),
        (Request(2, 10, 2, 0, False), "it asks for 2 nodes with 10 cores each, and there are not as many"),
        (Request(0, 99, 1, 0, False), "its 99 tasks ask for more cores or GPUs than there are"),
        (Request(3, 2, 1, 0, False), "3 nodes cannot be shared by 2 tasks"),
        (Request(4, 4, 8, 2, True), None),
    ],
)
def test_why_never(request_: Request, words: Optional[str]) -> None:
    assert Nodes([(8, 2)] * 4).never(request_) == words


def test_a_node_that_is_down_takes_nothing() -> None:
    nodes = Nodes([(2, 0), (4, 1)])
    nodes.lose(1)
    assert (nodes.free_cores, nodes.busy, nodes.take(Request(0, 1, 3, 0, False))) == (2, 0, None)
    place = nodes.take(ONE)
    assert place == ((0, 1, 0),)
    assert nodes.take(Request(2, 2, 1, 0, False)) is None
    # it is there, though not now
    assert nodes.never(Request(0, 1, 3, 1, False)) is None
    nodes.regain(1)
    assert (nodes.free_cores, nodes.free_gpus, nodes.busy, nodes.used_cores) == (5, 1, 1, 1)
    assert nodes.take(Request(0, 1, 3, 1, False)) == ((1, 3, 1),)


def test_many_jobs_leave_nothing_behind() -> None:
    """What is kept of the nodes does not grow with the jobs that come and go."""
    nodes = Nodes([(4, 0)] * 3)
    kept: Dict[int, int] = {}
    for turn in range(2000):
        place = nodes.take(ONE)
        assert place is not None
        nodes.give(place)
        kept[turn] = sum(len(heap) for heap in nodes._heaps.values())
    assert max(kept.values()) <= 3 * 5
