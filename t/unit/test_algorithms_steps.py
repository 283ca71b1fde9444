# SPDX-License-Identifier: MIT
"""`bisect` and `evolve` step by step, as the service drives them: each call is of an object restored from JSON."""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any, Callable, Dict, List, Optional

import pytest
from scipy import optimize

from ensemble.algorithms import Failed, Group, Told
from ensemble.algorithms.found import load
from ensemble.algorithms.options import check
from ensemble.custom import Metrics

SPACE = {"x": {"kind": "uniform", "low": -5.0, "high": 5.0}, "k": {"kind": "loguniform", "low": 1.0, "high": 1000.0}}


class Lab:
    """A group whose jobs are a function: each submission of the algorithm runs at once."""

    def __init__(self, name: str, job: Callable[[Dict[str, Any]], Any], space: Any = None, **options: Any) -> None:
        self.cls = load(name)
        found, wrong = check(self.cls.OPTIONS, options, name, ["y"])
        assert not wrong, wrong
        self.name, self.options, self.job = name, found, job
        self.rules = {
            rule["id"]: rule
            for rule in self.cls(name, "a", "g", found).expand(Group("g", variables=("y",), parameters=space or {}))
        }
        self.state: Dict[str, Any] = {}
        self.rows: List[Dict[str, Any]] = []
        #: rows that each kind of call has been told of
        self.told = {"start": 0, "round": 0, "next": 0}
        self.logged: List[str] = []
        self.done: Optional[Dict[str, Any]] = None
        self.draw = Random(0)
        self.submitted: List[List[Dict[str, Any]]] = []

    def call(self, word: str) -> Optional[List[Dict[str, Any]]]:
        """Make the call; the points that it submits, None for none."""
        algorithm = self.cls(self.name, "a", "g", self.options)
        if self.state:
            algorithm.restore(json.loads(json.dumps(self.state)))
        given = next(r["action"]["args"]["given"] for r in self.rules.values() if r["action"]["args"]["call"] == word)
        metrics = Metrics({"counts": {"g": {"active": 0}}, "statistics": [], "ensemble": {}})
        rows = self.rows[self.told[word] :]
        self.told[word] = len(self.rows)
        answer = getattr(algorithm, f"on_{word}")(Told({}, rows, metrics, 1, json.loads(json.dumps(given)))) or []
        self.state = json.loads(json.dumps(algorithm.save()))
        points = None
        for action in answer:
            if action.name == "log":
                self.logged.append(action.keys["value"])
            elif action.name == "signal":
                self.done = action.keys["data"]
            else:
                points = action.keys.get("parameters") or [self.drawn() for _ in range(action.keys["count"])]
        return points

    def drawn(self) -> Dict[str, Any]:
        return {"x": self.draw.uniform(-5, 5), "k": math.exp(self.draw.uniform(0, math.log(1000)))}

    def run(self, points: List[Dict[str, Any]]) -> None:
        self.submitted.append(points)
        for point in self.draw.sample(points, len(points)):
            y = self.job(point)
            result = "success" if y is not False else "failed"
            self.rows.append(
                {"params": point, "values": {"y": y} if isinstance(y, float) else {}, "result": result, "duration": 1.0}
            )

    def go(self, word: str) -> None:
        points = self.call("start")
        while points:
            self.run(points)
            points = self.call(word)


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_bisect_finds_what_scipy_finds(at_once: int) -> None:
    def f(x: float) -> float:
        return x**3 - 2 * x - 5

    root = optimize.bisect(f, 1, 4, xtol=1e-9)
    lab = Lab("bisect", lambda p: f(p["x"]) < 0, parameter="x", bracket=[1, 4], xtol=1e-6, max_concurrent=at_once)
    lab.go("round")
    assert lab.done is not None
    assert lab.done["low"] <= root <= lab.done["high"]
    assert lab.done["high"] - lab.done["low"] <= 1e-6
    assert len(lab.submitted) - 1 == math.ceil(math.log(3e6, at_once + 1))
    assert {len(points) for points in lab.submitted[1:]} == {at_once}


def test_bisect_by_a_metric() -> None:
    lab = Lab("bisect", lambda p: float(p["x"] ** 2), parameter="x", bracket=[0, 2], xtol=0.01, metric="y", target=2)
    lab.go("round")
    assert lab.done is not None
    assert lab.done["x"] == pytest.approx(2**0.5, abs=0.01)


def test_bisect_of_whole_numbers() -> None:
    lab = Lab("bisect", lambda p: p["n"] >= 37, parameter="n", bracket=[1, 100], xtol=1, integer=True)
    lab.go("round")
    assert lab.done == {"low": 36, "high": 37, "x": 36.5}
    assert all(isinstance(point["n"], int) for points in lab.submitted for point in points)


def test_bisect_ends_after_its_rounds() -> None:
    lab = Lab("bisect", lambda p: p["x"] < 0.3, parameter="x", bracket=[0, 1], xtol=1e-12, maxiter=3)
    lab.go("round")
    assert lab.done is not None
    assert lab.done["high"] - lab.done["low"] == 1 / 8


def test_bisect_says_what_it_cannot_do() -> None:
    lab = Lab("bisect", lambda p: True, parameter="x", bracket=[0, 1], xtol=0.1)
    with pytest.raises(Failed, match="the outcome is success at both ends"):
        lab.go("round")
    lab = Lab("bisect", lambda p: True, parameter="x", bracket=[0, 1], xtol=0.1, metric="y", target=0)
    with pytest.raises(Failed, match="reported no y"):
        lab.go("round")


def test_bisect_goes_on_where_it_was() -> None:
    """Disabled with probes asked for that were never submitted, or with probes that ended meanwhile."""
    straight = Lab("bisect", lambda p: p["x"] < 0.3, parameter="x", bracket=[0, 1], xtol=0.05)
    straight.go("round")
    lab = Lab("bisect", lambda p: p["x"] < 0.3, parameter="x", bracket=[0, 1], xtol=0.05)
    lab.run(lab.call("start") or [])
    dropped = lab.call("round")
    assert lab.call("start") == dropped, "asked for again"
    lab.run(dropped or [])
    points = lab.call("start")
    while points:
        lab.run(points)
        points = lab.call("round")
    assert lab.submitted == straight.submitted
    assert lab.done == straight.done


def bowl(point: Dict[str, Any]) -> float:
    return float((point["x"] - 1.5) ** 2 + (math.log(point["k"]) - 2) ** 2)


def evolve(job: Callable[[Dict[str, Any]], Any] = bowl, space: Any = SPACE, **options: Any) -> Lab:
    return Lab("evolve", job, space, metric="y", **{"population": 16, "elite": 4, "generations": 12, **options})


def test_evolve_gets_better_and_stays_inside() -> None:
    lab = evolve()
    lab.go("next")
    assert len(lab.submitted) == 12
    assert {len(points) for points in lab.submitted} == {16}
    best = min(bowl(point) for points in lab.submitted for point in points)
    assert lab.done is not None
    assert lab.done["value"] == best < 0.05
    assert all(-5 <= p["x"] <= 5 and 1 <= p["k"] <= 1000 for points in lab.submitted for p in points)
    # far better than as many points of the sample
    draw = Lab("evolve", bowl, SPACE, metric="y")
    assert best < min(bowl(draw.drawn()) for _ in range(12 * 16))


def test_evolve_turns_round_where_more_is_better() -> None:
    lab = evolve(lambda point: -bowl(point), mode="max")
    other = evolve()
    lab.go("next")
    other.go("next")
    assert lab.submitted == other.submitted


def test_evolve_does_not_care_for_the_order_of_results() -> None:
    one, two = evolve(), evolve()
    one.go("next")
    points = two.call("start")
    while points:
        two.submitted.append(points)
        rows = [{"params": p, "values": {"y": bowl(p)}, "result": "success", "duration": 1.0} for p in reversed(points)]
        two.rows += rows
        points = two.call("next")
    assert two.submitted[0] == one.submitted[0]
    assert two.submitted == one.submitted


def test_evolve_goes_on_where_it_was() -> None:
    straight, lab = evolve(), evolve()
    straight.go("next")
    lab.run(lab.call("start") or [])
    dropped = lab.call("next")
    assert lab.call("start") == dropped, "a generation that was never submitted is asked for again"
    lab.run(dropped or [])
    after = lab.call("start")
    assert after != dropped, "one that has ended meanwhile is followed by the next"
    assert lab.state["generation"] == 3
    while after:
        lab.run(after)
        after = lab.call("next")
    assert len(lab.submitted) == len(straight.submitted)


def test_evolve_begins_with_what_there_is() -> None:
    lab = evolve()
    lab.run([{"x": 1.5 + n / 10, "k": 7.0} for n in range(20)])
    points = lab.call("start")
    assert lab.logged == ["begins with the best of the group so far"]
    assert points is not None
    assert all(abs(point["x"] - 1.5) < 10 for point in points)
    assert lab.state["parents"][0][1] == {"x": 1.5, "k": 7.0}


def test_evolve_lives_with_failures_but_not_with_nothing() -> None:
    draw = Random(1)
    lab = evolve(lambda point: bowl(point) if draw.random() < 0.5 else False)
    lab.go("next")
    assert lab.done is not None
    lab = evolve(lambda point: False)
    with pytest.raises(Failed, match="no job of the first generation has a y"):
        lab.go("next")


def test_evolve_takes_values_of_lists() -> None:
    space = {"x": {"kind": "list", "values": [1, 2, 3]}, "k": {"kind": "list", "values": ["a", "b"]}}
    lab = evolve(lambda p: float(p["x"] if isinstance(p["x"], int) else 9) + (p["k"] == "b"), space, mutation=0.5)
    lab.drawn = lambda: {"x": lab.draw.choice([1, 2, 3]), "k": lab.draw.choice("ab")}  # type: ignore[method-assign]
    lab.go("next")
    assert lab.done == {"value": 1.0, "x": 1, "k": "a"}
    assert all(p["x"] in (1, 2, 3) and p["k"] in ("a", "b") for points in lab.submitted for p in points)
