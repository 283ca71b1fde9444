# SPDX-License-Identifier: MIT
"""The stream of nodes' events: who is told what, over the loss of the stream; and how nodes are counted."""

# Without Flux nothing of this can be imported: the skip has to come first.
# ruff: noqa: E402

from __future__ import annotations

import time
from typing import Any, Iterator, List

import pytest

pytestmark = pytest.mark.flux
try:
    from ensemble.members.flux_resources import counted, end_stream
except ImportError as exc:
    pytest.skip(f"Flux tests: the bindings do not load ({exc})", allow_module_level=True)

from ensemble.engine.actions import Look
from ensemble.engine.events import RESOURCES, Counted, Resources
from t.contract.flux_driver import FluxDriver
from t.flux_instance import FluxInstance

FLUX_SIZE = 2


@pytest.fixture
def driver(flux_instance: FluxInstance) -> Iterator[FluxDriver]:
    made = FluxDriver(instance=flux_instance)
    yield made
    made.close()


JOB = {"name": "a", "command": "true"}


def told(driver: FluxDriver, ensemble: str) -> List[Any]:
    return [(event.name, event.ranks) for event in driver.of(Resources, ensemble)]


def drain(driver: FluxDriver, how: str, rank: str) -> None:
    driver.instance.run("flux", "resource", how, rank)


def test_who_asked_is_told_of_what_comes_and_of_nothing_before(driver: FluxDriver) -> None:
    drain(driver, "drain", "1")
    driver.open("e1", JOB, events=[RESOURCES, "alloc"])
    driver.open("e2", JOB)
    drain(driver, "undrain", "1")
    driver.wait_for(lambda: told(driver, "e1"), "the undrain")
    driver.open("e3", JOB, events=[RESOURCES])
    drain(driver, "drain", "1")
    driver.wait_for(lambda: told(driver, "e3"), "the drain")
    assert told(driver, "e1") == [("undrain", "1"), ("drain", "1")]
    assert told(driver, "e3") == [("drain", "1")]
    assert told(driver, "e2") == []
    driver.member.close("e1")
    drain(driver, "undrain", "1")
    driver.wait_for(lambda: len(told(driver, "e3")) == 2, "the undrain")
    assert len(told(driver, "e1")) == 2
    # an ensemble with these events runs its jobs as any other
    id = driver.submit_id("e3", "a")
    driver.wait_event(id, "clean")


def test_a_stream_that_ends_is_opened_anew_and_nothing_is_missed_or_told_twice(driver: FluxDriver) -> None:
    driver.open("e1", JOB, events=[RESOURCES])
    drain(driver, "drain", "1")
    driver.wait_for(lambda: told(driver, "e1"), "the drain")
    watch: Any = driver.member._resources
    stream = watch._stream
    # what the module does when it goes away, as far as the stream can tell
    end_stream(driver.member.handle, stream)
    drain(driver, "undrain", "1")
    driver.wait_for(lambda: len(told(driver, "e1")) == 2, "the undrain, over a new stream")
    assert told(driver, "e1") == [("drain", "1"), ("undrain", "1")]
    assert watch._stream is not stream


def test_an_ensemble_of_an_earlier_service_is_told_what_it_missed(driver: FluxDriver) -> None:
    before = time.time()
    drain(driver, "drain", "1")
    drain(driver, "undrain", "1")
    watch: Any = driver.member._resources
    driver.open("e1", JOB, events=[RESOURCES])
    watch.since("e1", before)
    driver.wait_for(lambda: len(told(driver, "e1")) == 2, "both")
    assert told(driver, "e1") == [("drain", "1"), ("undrain", "1")]


def test_numbers_that_were_asked_for_before_are_no_answer_to_who_asks_now(driver: FluxDriver) -> None:
    for ensemble in ("e1", "e2"):
        driver.open(ensemble, JOB)
    driver.perform("e1", Look())
    drain(driver, "drain", "1")
    driver.perform("e2", Look())
    driver.perform("e1", Look())
    driver.wait_for(lambda: driver.of(Counted, "e2") and len(driver.of(Counted, "e1")) == 2, "the numbers")
    drain(driver, "undrain", "1")
    assert [event.counts["nodes"]["down"] for event in driver.of(Counted, "e1")] == [0, 1]
    assert [event.counts["nodes"]["down"] for event in driver.of(Counted, "e2")] == [1]
    driver.run_for(0.2)
    assert len(driver.of(Counted)) == 3


def R(*entries: Any) -> Any:
    return {"execution": {"R_lite": [{"rank": rank, "children": {"core": core}} for rank, core in entries]}}


def test_counting() -> None:
    status = {"all": R(("0-3", "0-7"), ("4", "0-1")), "down": R(("1", "0-7")), "allocated": R(("0", "0-7"), ("2", "3"))}
    assert counted(status) == {
        "nodes": {"up": 4, "down": 1, "free": 2, "allocated": 2},
        "cores": {"up": 26, "down": 8, "free": 17, "allocated": 9},
    }
    # a node that went down under a job is not free
    assert counted({"all": R(("0-1", "0-3")), "down": R(("1", "0-3")), "allocated": R(("1", "0-3"))})["cores"] == {
        "up": 4,
        "down": 4,
        "free": 4,
        "allocated": 4,
    }
    assert counted({"all": R(), "down": None, "allocated": R()})["nodes"]["up"] == 0
