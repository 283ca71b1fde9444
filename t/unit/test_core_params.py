# SPDX-License-Identifier: MIT
"""Parameters in the service: seeds and files are kept, points are counted, and a million held jobs cost a page."""

from __future__ import annotations

import tracemalloc
from typing import Any, Dict, List

import pytest

from ensemble.engine.engine import Engine
from ensemble.service.store import MemoryStore, Store
from t.unit.fake_member import House

DRAWN = """
limits: {max_active: 2}
jobs:
  - {name: a, command: 'x {x}', parameters: {x: {uniform: [0, 1]}}, samples: 10, count: 4}
rules:
  - {trigger: start, action: {name: submit, label: a}}
"""
GRID = """
limits: {max_active: 3, max_jobs: 2000000}
jobs:
  - {name: a, command: 'x {x} {y}', parameters: {x: {range: [0, 1000]}, y: {range: [0, 1000]}}}
  - {name: b, command: y, count: 2}
rules:
  - {trigger: start, actions: [{name: submit, label: a}, {name: submit, label: b}]}
"""


def params(house: House, id: str, **keys: Any) -> List[Dict[str, Any]]:
    return [row["params"] for row in house.ask("jobs", {"id": id, **keys}).answer["jobs"]]


def test_a_seed_that_is_left_out_is_drawn_and_kept() -> None:
    store = MemoryStore()
    house = House(store)
    id, other = house.submit(DRAWN), house.submit(DRAWN)
    first, second = params(house, id), params(house, other)
    assert first != second
    assert len({point["x"] for point in first}) == 4
    (of,) = house.status(id)["parameters"]["a"]
    assert of == {"set": 0, "names": ["x"], "sample": "random", "seed": of["seed"], "taken": 4, "total": 10}
    again = House(store)
    assert again.status(id)["parameters"] == {"a": [of]}
    assert params(again, id) == first


def test_a_seed_of_the_file_is_kept_as_it_is() -> None:
    house = House()
    text = DRAWN.replace("samples: 10", "samples: 10, seed: 7")
    id, other = house.submit(text), house.submit(text)
    assert params(house, id) == params(house, other)
    assert house.status(id)["parameters"]["a"][0]["seed"] == 7


def test_another_release_of_scipy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    house = House(store)
    id = house.submit(DRAWN.replace("samples: 10", "samples: 10, sample: sobol"))
    first = params(house, id)
    assert not any("scipy" in line for _, line in House(store).logged)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99.1")
    again = House(store)
    (line,) = [line for _, line in again.logged if "scipy" in line]
    assert f"ensemble {id}: points were drawn by scipy" in line
    assert "drawn by 99.1" in line
    assert params(again, id) == first


def test_a_file_of_points_is_kept_with_the_ensemble() -> None:
    store: Store = MemoryStore()
    house = House(store)
    text = """
limits: {max_active: 1}
jobs:
  - {name: a, command: 'x {x} {who}', parameters: {file: points.csv}}
rules:
  - {trigger: start, action: {name: submit, label: a}}
"""
    sent = {"text": text, "file": "a.yaml", "submitter": {}, "files": {"points.csv": "x,who\n1,me\n2.5,you\n"}}
    id = house.ask("submit", sent).answer["id"]
    points = [{"x": 1, "who": "me"}, {"x": 2.5, "who": "you"}]
    assert params(house, id) == points
    assert params(House(store), id) == points
    refused = house.ask("submit", {**sent, "files": {}})
    assert "the file 'points.csv' cannot be taken: it was not sent along" in str(refused.errors)


def test_a_million_held_jobs_are_listed_by_the_page(monkeypatch: Any) -> None:
    house = House()
    tracemalloc.start()
    try:
        id = house.submit(GRID)
        answer = house.ask("jobs", {"id": id, "max": 10}).answer
        last = house.ask("jobs", {"id": id, "start": 999_998, "max": 10}).answer
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer["total"] == last["total"] == 1_000_002
    assert [row["state"] for row in answer["jobs"]] == ["submitting"] * 3 + ["held"] * 7
    assert [row["params"] for row in answer["jobs"]] == [{"x": 0, "y": n} for n in range(10)]
    assert [row["index"] for row in answer["jobs"]] == list(range(10))
    assert [row["params"] for row in last["jobs"]] == [{"x": 999, "y": 998}, {"x": 999, "y": 999}, {}, {}]
    assert [(row["group"], row["index"]) for row in last["jobs"]] == [
        ("a", 999_998),
        ("a", 999_999),
        ("b", 1_000_000),
        ("b", 1_000_001),
    ]
    assert used < 20_000_000
    only = house.ask("jobs", {"id": id, "group": "b"}).answer
    assert (only["total"], [row["index"] for row in only["jobs"]]) == (2, [1_000_000, 1_000_001])
    (of,) = house.status(id)["parameters"]["a"]
    assert (of["taken"], of["total"]) == (1_000_000, 1_000_000)
    engine: Engine = house.service._running[id].engine
    assert len(engine.jobs) == 3
