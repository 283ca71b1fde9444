# SPDX-License-Identifier: MIT
"""The scaler `drain` in an instance of four brokers: idle nodes first, never from under a job, and only what is ours."""

# Without Flux nothing of this can be imported: the skip has to come first.
# ruff: noqa: E402

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest

pytestmark = [pytest.mark.flux, pytest.mark.timeout(300)]
try:
    from flux.idset import IDset

    from ensemble.members.flux_nodes import REASON
except ImportError as exc:
    pytest.skip(f"Flux tests: the bindings do not load ({exc})", allow_module_level=True)

from ensemble.members.scaler import Order
from ensemble.spec.scaler import Scaler
from t.contract.flux_driver import FluxDriver
from t.flux_instance import FluxInstance

FLUX_SIZE = 4

Outcome = Tuple[Optional[int], str]


class Scaling:
    """A scaler of that instance, and what it has answered."""

    def __init__(self, driver: FluxDriver) -> None:
        self.driver = driver
        self.scaler = driver.member.scaler(Scaler(name="drain"), None)

    def begin(self, action: str, wanted: int, timeout: float = 120.0, force: bool = False) -> List[Outcome]:
        answers: List[Outcome] = []
        order = Order(wanted, action, "ens", 1, None, timeout, force)
        self.scaler.resize(order, lambda size, error: answers.append((size, error)))
        assert not answers, "never from inside a call"
        return answers

    def do(self, action: str, wanted: int, **more: Any) -> Outcome:
        answers = self.begin(action, wanted, **more)
        self.driver.wait_for(lambda: answers, f"the {action}")
        return answers[0]

    def size(self) -> Optional[int]:
        answers: List[Any] = []
        self.scaler.size(lambda size, error: answers.append(size))
        self.driver.wait_for(lambda: answers, "the size")
        return int(answers[0])

    def drained(self) -> Dict[str, str]:
        status = self.driver.handle.rpc("resource.status", {}, nodeid=0).get()
        return {ranks: why["reason"] for ranks, why in status["drain"].items()}

    def ranks(self) -> List[int]:
        return sorted(rank for ranks in self.drained() for rank in IDset(ranks))


@pytest.fixture
def scaling(flux_instance: FluxInstance) -> Iterator[Scaling]:
    driver = FluxDriver(instance=flux_instance)
    made = Scaling(driver)
    yield made
    made.scaler.stop()
    driver.close()
    flux_instance.run("flux", "resource", "undrain", "0-3", check=False)
    for rank in "0123":
        flux_instance.run("flux", "resource", "undrain", rank, check=False)


def busy(scaling: Scaling, rank: int) -> str:
    """A job that runs on that node."""
    instance = scaling.driver.instance
    id = str(instance.run("flux", "submit", f"--requires=rank:{rank}", "sleep", "1000").stdout.strip())
    instance.run("flux", "job", "wait-event", "-t", "60", id, "start")
    return id


def test_it_takes_the_last_idle_nodes_and_gives_the_first_ones_back(scaling: Scaling) -> None:
    job = busy(scaling, 3)
    assert scaling.size() == 4
    assert scaling.do("shrink", 2) == (2, "")
    assert scaling.drained() == {"1-2": f"{REASON} of ensemble ens"}
    assert scaling.do("grow", 3) == (3, "")
    assert scaling.ranks() == [2]
    assert scaling.do("grow", 3) == (3, ""), "asked for again, it is the same"
    assert scaling.do("shrink", 3) == (3, "")
    assert scaling.ranks() == [2]
    assert scaling.do("grow", 4) == (4, "")
    scaling.driver.instance.run("flux", "cancel", job)


def test_a_job_on_a_node_that_is_to_go_ends_by_itself(scaling: Scaling) -> None:
    jobs = {rank: busy(scaling, rank) for rank in (0, 2, 3)}
    answers = scaling.begin("shrink", 2)
    scaling.driver.wait_for(lambda: scaling.size() == 2, "the drain of two nodes")
    assert scaling.ranks() == [1, 3], "the idle one, and of the others the last one"
    scaling.driver.run_for(1.5)
    assert answers == [], "a job runs there"
    states = scaling.driver.instance.run("flux", "jobs", "-no", "{state}").stdout.split()
    assert states == ["RUN"] * 3
    scaling.driver.instance.run("flux", "cancel", jobs[3])
    scaling.driver.wait_for(lambda: answers, "the shrink")
    assert answers == [(2, "")]
    assert scaling.do("shrink", 1, force=True) == (1, ""), "with force nobody waits for the job on rank 2"
    assert scaling.ranks() == [1, 2, 3]
    assert scaling.do("grow", 4) == (4, "")


def test_what_is_not_free_in_time_is_given_back(scaling: Scaling) -> None:
    busy(scaling, 3)
    busy(scaling, 2)
    size, error = scaling.do("shrink", 1, timeout=2.0)
    assert (size, error) == (3, "after 2 s not all of the nodes are free of jobs")
    assert scaling.ranks() == [1]
    assert scaling.do("grow", 4) == (4, "")


def test_what_others_have_drained_is_theirs_and_rank_0_stays(scaling: Scaling) -> None:
    scaling.driver.instance.run("flux", "resource", "drain", "2", "a disk is broken")
    assert scaling.size() == 3
    assert scaling.do("shrink", 1) == (1, "")
    size, error = scaling.do("grow", 4)
    assert (size, error) == (3, "no more nodes are there that a shrink has drained")
    assert scaling.drained() == {"2": "a disk is broken"}


def test_a_grow_beyond_all_goes_as_far_as_these_and_one_that_gets_nowhere_fails(scaling: Scaling) -> None:
    assert scaling.do("shrink", 2) == (2, "")
    assert scaling.do("grow", 11) == (4, "")
    assert scaling.do("grow", 11) == (4, "no more nodes are there that a shrink has drained")


def test_another_order_takes_the_place_of_one_that_is_not_done(scaling: Scaling) -> None:
    busy(scaling, 3)
    busy(scaling, 2)
    first = scaling.begin("shrink", 1)
    scaling.driver.wait_for(lambda: scaling.size() == 1, "the drain of three nodes")
    assert scaling.do("grow", 3) == (3, "")
    scaling.driver.run_for(0.5)
    assert first == []
    assert scaling.ranks() == [3]
    assert scaling.do("grow", 4) == (4, "")
