# SPDX-License-Identifier: MIT
"""`successive-halving` and `asha` against the arithmetic of their papers, on seeded curves.

The references here are written from the papers' pseudocode and know nothing of the code that they check:
Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization" (AISTATS 2016), figure 3;
Li et al., "A system for massively parallel hyperparameter tuning" (MLSys 2020), algorithms 1 and 2.
"""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

import pytest

from ensemble.algorithms import Group, Told, WrongOption, rungs
from ensemble.algorithms.contract import Algorithm
from ensemble.algorithms.found import load
from ensemble.algorithms.options import check

#: loss of arm i after resource r
Curve = Callable[[int, float], float]


def curves(seed: int, n: int) -> Curve:
    """Losses that fall to limits of their own at rates of their own, so that early leaders may be overtaken."""
    draw = Random(seed)
    arms = [(draw.uniform(0, 1), draw.uniform(0.2, 2), draw.uniform(0.3, 1.2)) for _ in range(n)]
    return lambda i, r: arms[i][0] + arms[i][1] * r ** -arms[i][2]


# ---- the papers


def top_k(losses: Dict[int, float], k: int) -> Set[int]:
    return set(sorted(losses, key=lambda i: losses[i])[:k])


def li_sha(n: int, r: float, big_r: float, eta: int, s: int, loss: Curve) -> List[Set[int]]:
    """Algorithm 1, SHA: the configurations at each rung."""
    s_max = math.floor(math.log(big_r / r, eta) + 1e-9)
    assert n >= eta ** (s_max - s)
    alive = set(range(n))
    found = []
    for i in range(s_max - s + 1):
        n_i, r_i = math.floor(n * eta**-i + 1e-9), r * eta ** (i + s)
        found.append(alive)
        alive = top_k({theta: loss(theta, r_i) for theta in alive}, math.floor(n_i / eta))
    return found


def jamieson(n: int, budget: float, loss: Curve) -> List[Set[int]]:
    """Figure 3, SuccessiveHalving: the arms S_k of each round, and the one that is left."""
    arms, pulled, found = set(range(n)), 0, []
    for _ in range(math.ceil(math.log2(n))):
        found.append(arms)
        if len(arms) == 1:
            break
        pulled += math.floor(budget / (len(arms) * math.ceil(math.log2(n))))
        arms = top_k({i: loss(i, pulled) for i in arms}, math.floor(len(arms) / 2))
    return found if len(found[-1]) == 1 else [*found, arms]


class Li2020:
    """Algorithm 2, ASHA: rungs that fill in any order, and which configurations of a rung may be promoted."""

    def __init__(self, eta: int) -> None:
        self.eta = eta
        self.rungs: Dict[int, Dict[int, float]] = {}

    def report(self, k: int, theta: int, loss: float) -> None:
        self.rungs.setdefault(k, {})[theta] = loss

    def promotable(self, k: int) -> Set[int]:
        """top_k(rung k, |rung k| / eta)"""
        return top_k(self.rungs[k], len(self.rungs[k]) // self.eta)


# ---- what is checked, driven as the service drives it


class Driven:
    """An algorithm at load and in its worker: every call is made of an object that is restored from JSON."""

    def __init__(self, name: str, n: int, **options: Any) -> None:
        self.cls = load(name)
        found, wrong = check(self.cls.OPTIONS, {"metric": "loss", "num_samples": n, **options}, name, ["loss", "epoch"])
        assert not wrong, wrong
        self.name, self.found = name, found
        group = Group("g", variables=("loss", "epoch"), parameters={"x": {"kind": "uniform", "low": 0, "high": 1}})
        self.rules = {rule["id"]: rule for rule in self._new().expand(group)}
        self.state: Dict[str, Any] = {}

    def _new(self) -> Algorithm:
        return self.cls(self.name, "a", "g", self.found)

    @property
    def resources(self) -> List[float]:
        """The resource of each rung rule, from its condition."""
        whens = [rule["when"] for id, rule in self.rules.items() if id.startswith("a-rung-")]
        return [float(when.split("==")[-1] if "==" in when else when.split()[2]) for when in whens]

    @property
    def out(self) -> Set[int]:
        """Jobs that successive halving has no use for any more."""
        values = [found for name, found in self.state.items() if name.startswith("rung ")]
        return {int(key.split("/")[2]) for one in values for key, x in one.items() if x is None}

    def call(self, rule: str, i: int, loss: Optional[float], result: Optional[str] = None) -> Set[int]:
        """A job reaches a rung, or ends; the jobs that are cancelled then."""
        algorithm = self._new()
        if self.state:
            algorithm.restore(json.loads(json.dumps(self.state)))
        args = self.rules[rule]["action"]["args"]
        data = {} if loss is None else {"loss": loss}
        event = {"key": f"r/1/{i}", "data": data, "values": data, "result": result, "job": {"attempt": 0}}
        told = Told(event, [], None, 1, args["given"])  # type: ignore[arg-type]
        answer = getattr(algorithm, f"on_{args['call']}")(told)
        self.state = algorithm.save()
        cancelled: Set[int] = set()
        for action in answer:
            if action.name == "cancel":
                keys = action.keys["job"]
                cancelled |= {int(key.split("/")[2]) for key in ([keys] if isinstance(keys, str) else keys)}
        return cancelled


def race(driven: Driven, n: int, loss: Curve, seed: int) -> Tuple[List[Set[int]], List[Tuple[int, int]]]:
    """Jobs that reach their rungs in a drawn order and stop when they are told to: who has passed each rung, and the order."""
    draw = Random(seed)
    at = dict.fromkeys(range(n), 0)
    resources = driven.resources
    out: Set[int] = set()
    passed: List[Set[int]] = [set(range(n)), *(set() for _ in resources)]
    order = []
    while at:
        i = draw.choice(sorted(at))
        k = at[i]
        order.append((i, k))
        stopped = driven.call(f"a-rung-{k}", i, loss(i, resources[k]))
        assert not stopped & out, "nobody is stopped twice"
        out |= stopped
        if i not in out:
            passed[k + 1].add(i)
            at[i] += 1
        for j in [j for j in at if j in out or at[j] == len(resources)]:
            del at[j]
    return passed, order


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("n", "r", "big_r", "eta", "s"),
    [(64, 1, 64, 4, 0), (81, 1, 81, 3, 0), (30, 1, 9, 3, 0), (64, 1, 64, 2, 2), (50, 2, 30, 2, 0)],
)
def test_successive_halving_keeps_whom_the_paper_keeps(n: int, r: int, big_r: int, eta: int, s: int, seed: int) -> None:
    loss = curves(seed, n)
    paper = li_sha(n, r, big_r, eta, s, loss)
    driven = Driven(
        "successive-halving", n, min_resource=r, max_resource=big_r, reduction_factor=eta, min_early_stopping_rate=s
    )
    assert driven.resources == [r * eta ** (s + k) for k in range(len(paper) - 1)]
    passed, _ = race(driven, n, loss, seed + 100)
    # who had passed a rung before it was certain that he would be out does not get to the end
    survivors = set(range(n)) - driven.out
    assert survivors == paper[-1]
    assert all(wanted <= had for wanted, had in zip(paper, passed))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n", "budget"), [(16, 160), (64, 2000), (64, 384), (5, 40), (23, 400), (2, 10)])
def test_a_budget_is_spent_as_in_the_paper(n: int, budget: int, seed: int) -> None:
    loss = curves(seed, n)
    paper = jamieson(n, budget, loss)
    driven = Driven("successive-halving", n, budget=budget, reduction_factor=2)
    race(driven, n, loss, seed)
    survivors = set(range(n)) - driven.out
    assert survivors == paper[-1]
    assert len(survivors) == 1
    # what all arms together were given, each up to the round in which it went, is within the budget
    spent = sum(r * (len(a) - len(b)) for r, a, b in zip(driven.resources, paper, [*paper[1:], set()]))
    assert spent + driven.resources[-1] * len(paper[-1]) <= budget + driven.resources[-1]


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_reports_changes_no_survivor(seed: int) -> None:
    loss = curves(seed, 40)
    found = []
    for order in range(5):
        driven = Driven("successive-halving", 40, max_resource=27, reduction_factor=3)
        race(driven, 40, loss, order)
        found.append(set(range(40)) - driven.out)
    assert len({frozenset(one) for one in found}) == 1


def test_jobs_that_end_early_stand_for_what_they_have() -> None:
    """A success keeps its last value for the rungs it has not reached; a failure is the worst."""
    driven = Driven("successive-halving", 4, max_resource=4, reduction_factor=2)
    assert driven.call("a-rung-0", 0, 0.5) == set()
    assert driven.call("a-ended", 1, None, "failed") == set()
    assert driven.call("a-ended", 2, 0.1, "success") == set()
    # two of four go on: the first and the third are, and the fourth has to be better than the first
    assert driven.call("a-rung-0", 3, 0.6) == {3}
    assert driven.call("a-rung-1", 0, 0.05) == set()
    assert 2 in driven.out, "the third is beaten at the second rung, though it has ended"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("n", "big_r", "eta"), [(64, 64, 4), (100, 27, 3), (33, 16, 2)])
def test_asha_decides_by_the_rung_as_it_is(n: int, big_r: int, eta: int, seed: int) -> None:
    loss = curves(seed, n)
    driven = Driven("asha", n, max_resource=big_r, reduction_factor=eta)
    passed, order = race(driven, n, loss, seed)
    # the same order through the paper's rungs
    paper = Li2020(eta)
    on = [set(range(n)), *(set() for _ in driven.resources)]
    for i, k in order:
        assert i in on[k]
        paper.report(k, i, loss(i, eta**k))
        promoted = paper.promotable(k)
        # before a rung has eta losses nobody is promotable in the paper; of these the best goes on here
        if i in promoted or (not promoted and i in top_k(paper.rungs[k], 1)):
            on[k + 1].add(i)
    assert passed == on
    assert driven.resources == [eta**k for k in range(len(on) - 1)]
    best = min(range(n), key=lambda i: loss(i, 1))
    assert best in passed[1]


def test_asha_takes_the_same_decisions_again() -> None:
    loss = curves(1, 30)
    one = race(Driven("asha", 30, max_resource=16, reduction_factor=2), 30, loss, 5)
    two = race(Driven("asha", 30, max_resource=16, reduction_factor=2), 30, loss, 5)
    assert one == two


def test_equal_values_go_on_together() -> None:
    driven = Driven("asha", 16, max_resource=4)
    assert [driven.call("a-rung-0", i, 1.0) for i in range(8)] == [set()] * 8
    assert driven.call("a-rung-0", 8, 1.5) == {8}


def test_more_is_better_where_the_mode_says_so() -> None:
    driven = Driven("asha", 16, max_resource=4, mode="max")
    assert driven.call("a-rung-0", 0, 0.5) == set()
    assert driven.call("a-rung-0", 1, 0.4) == {1}
    assert driven.call("a-rung-0", 2, 0.6) == set()


def test_one_that_was_stopped_has_no_say_at_the_next_rung() -> None:
    """It may have reported once more before it heard of it."""
    driven = Driven("asha", 16, max_resource=16)
    assert driven.call("a-rung-0", 0, 1.0) == set()
    assert driven.call("a-rung-0", 1, 2.0) == {1}
    assert driven.call("a-rung-1", 1, 0.1) == set()
    assert driven.call("a-rung-1", 0, 0.5) == set()
    assert driven.state["rung 1"] == [1, [0.5]]
    assert driven.state["on 0"] == []


def test_a_rung_forgets_what_cannot_matter() -> None:
    driven = Driven("asha", 20, max_resource=4)
    for i in range(20):
        driven.call("a-rung-0", i, float(i))
    m, best = driven.state["rung 0"]
    assert (m, best) == (20, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])


@pytest.mark.parametrize(
    ("r", "most", "eta", "s", "expected"),
    [(1, 64, 4, 0, [1, 4, 16, 64]), (1, 64, 4, 2, [16, 64]), (1, 63, 4, 0, [1, 4, 16]), (0.1, 0.9, 3, 0, [0.1, 0.3, 0.9]), (1, 243, 3, 1, [3, 9, 27, 81, 243])],
)  # fmt: skip
def test_the_rungs(r: float, most: float, eta: float, s: int, expected: List[float]) -> None:
    options = {"min_resource": r, "max_resource": most, "reduction_factor": eta, "min_early_stopping_rate": s}
    assert rungs.resources(options) == pytest.approx(expected)


def test_rungs_that_are_none() -> None:
    options = {"min_resource": 1, "max_resource": 3, "reduction_factor": 4, "min_early_stopping_rate": 0}
    with pytest.raises(WrongOption, match="no job is ever stopped"):
        rungs.resources(options)
    with pytest.raises(WrongOption, match="more than 64 rungs"):
        rungs.resources({**options, "max_resource": 1e6, "reduction_factor": 1.01})


def test_a_whole_quotient_is_not_lost_to_rounding() -> None:
    assert [rungs.kept(n, eta) for n, eta in ((243, 3**5), (1000, 10**3), (49, 49.0), (48, 49), (7, 0.7 * 10))] == [
        1,
        1,
        1,
        0,
        1,
    ]
