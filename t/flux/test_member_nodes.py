# SPDX-License-Identifier: MIT
"""The Flux member in an instance of several brokers, on a handle whose address it has to find out itself."""

# Without Flux nothing of this can be imported: the skip has to come first.
# ruff: noqa: E402

from __future__ import annotations

from typing import Iterator, List

import pytest

pytestmark = pytest.mark.flux
try:
    import flux
except ImportError as exc:
    pytest.skip(f"Flux tests: the bindings do not load ({exc})", allow_module_level=True)

from flux.idset import IDset

from ensemble.members.flux import FluxMember
from t.contract.flux_driver import FluxDriver
from t.flux_instance import FluxInstance

FLUX_SIZE = 4


class OnHandle(FluxDriver):
    """Knows the instance by a handle alone."""

    def begin(self) -> None:
        self.member.stop()
        self.handle = flux.Flux(self.instance.uri)
        self.member = FluxMember(self.handle)
        super().begin()


@pytest.fixture
def driver(flux_instance: FluxInstance) -> Iterator[FluxDriver]:
    made = OnHandle(instance=flux_instance)
    yield made
    made.close()


def test_tasks_on_several_nodes(driver: FluxDriver) -> None:
    command = ["sh", "-c", "echo $FLUX_TASK_RANK $(flux getattr rank)"]
    driver.open("e1", {"name": "wide", "command": command, "nodes": 3}, events=["alloc"])
    ids = [driver.submit_id("e1", "wide"), driver.submit_id("e1", "wide", nodes=4)]
    for id, size in zip(ids, (3, 4)):
        driver.wait_event(id, "clean")
        assert driver.names(id) == ["submit", "alloc", "start", "finish", "clean"]
        ranks = driver.event(id, "alloc").context["ranks"]
        lines = sorted(line.split() for line in driver.output("e1", id).splitlines())
        assert [task for task, _ in lines] == [str(task) for task in range(size)]

        assert {rank for _, rank in lines} == set(expand(ranks))
        assert len(expand(ranks)) == size


def expand(ranks: str) -> List[str]:
    """An idset, one by one."""
    return [str(rank) for rank in IDset(ranks)]


def test_a_killed_broker_fails_its_job(driver: FluxDriver) -> None:
    """The loss of a node reaches the ensemble as the exception that Flux raises."""
    driver.open(
        "e1", {"name": "g", "command": "sleep 300", "attributes": {"constraints": {"ranks": ["3"]}}}, events=["alloc"]
    )
    id = driver.submit_id("e1", "g")
    driver.wait_event(id, "start")
    assert driver.event(id, "alloc").context["ranks"] == "3"
    driver.instance.run("flux", "overlay", "disconnect", "3")
    exception = driver.wait_event(id, "exception").context
    assert exception["severity"] == 0
    driver.wait_event(id, "clean")
