# SPDX-License-Identifier: MIT
"""Worlds for the tests of the engine: whatever a test makes is looked at once more behind it."""

from __future__ import annotations

from typing import Any, Iterator, List

import pytest

from t.engine.harness import World, make_spec


@pytest.fixture
def world() -> Iterator[Any]:
    """`world(rules, jobs, plans=..., by_hand=..., **top)` makes a World that has begun."""
    made: List[World] = []

    def make(
        rules: Any, jobs: Any = None, *, plans: Any = None, by_hand: bool = False, functions: Any = None, **top: Any
    ) -> World:
        new = World(make_spec(rules, jobs, **top), plans, by_hand=by_hand, functions=functions)
        made.append(new)
        return new

    yield make
    for one in made:
        one.over()
