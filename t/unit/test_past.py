# SPDX-License-Identifier: MIT
"""Packs of log lines: nothing is lost or out of order in them, and the oldest shelves go first."""

from __future__ import annotations

import json
from typing import List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.service import past
from ensemble.service.past import Packer, superfluous, unpack


@given(st.lists(st.tuples(st.text(max_size=9000), st.sampled_from(("add", "pack", "take"))), max_size=60))
def test_what_is_packed_comes_back(lines: List[Tuple[str, str]]) -> None:
    packer, packs = Packer(), []
    for number, (text, then) in enumerate(lines, 7):
        packer.add(number, json.dumps([number, text]))
        if then == "pack":
            packer.pack()
        if then == "take":
            packs += packer.take()
    packs += packer.take()
    assert packer.take() == []
    found = []
    for pack in packs:
        inner = list(unpack(pack.data))
        assert inner[0][0] == pack.first
        found += inner
    assert found == [[number, text] for number, (text, _) in enumerate(lines, 7)]


@pytest.mark.parametrize("step", [1, 700, 10_000])
def test_a_pack_is_small_and_of_bounded_size(step: int) -> None:
    """However many lines come between two looks at whether there are enough for a part."""
    packer = Packer()
    line = json.dumps([1, [1, "JobEvent", 1700000000.25, 123456789, "submit", {}, "ens/rule-1/1/77/0"], []])
    for number in range(1, 10_001):
        packer.add(
            number, line.replace("[1, [", f"[{number}, [").replace("123456789", str(100_000_000 + 7919 * number))
        )
        if not number % step:
            packer.pack()
    packs = packer.take()
    assert len(packs) > 3, "a page of events should not take the whole log"
    assert sum(len(pack.data) for pack in packs) < 10_000 * len(line) / 5
    found = [[entry[0] for entry in unpack(pack.data)] for pack in packs]
    assert [numbers[0] for numbers in found] == [pack.first for pack in packs]
    assert [number for numbers in found for number in numbers] == list(range(1, 10_001))


def test_the_oldest_shelves_go_and_never_the_newest() -> None:
    kept = past.KEPT
    assert superfluous({}) == []
    assert superfluous({3: 10 * kept}) == []
    assert superfluous({5: kept // 2, 3: kept // 2}) == []
    assert superfluous({5: kept // 2, 3: kept // 2, 4: 1}) == [3]
    assert superfluous({7: 2 * kept, 3: 5, 4: 1}) == [3, 4]
