# SPDX-License-Identifier: MIT
"""The scaler `minicluster`, with a server that answers as the API of Kubernetes does and an operator played by this test:
it starts and stops the brokers of the ranks below and above `spec.size`."""

# Without Flux nothing of this can be imported: the skip has to come first.
# ruff: noqa: E402

from __future__ import annotations

from typing import Any, Iterator, List, Optional, Tuple

import pytest

pytestmark = [pytest.mark.flux, pytest.mark.timeout(300)]
try:
    from t.contract.flux_driver import FluxDriver
    from t.flux.growing import Growing, growing
except ImportError as exc:
    pytest.skip(f"Flux tests: the bindings do not load ({exc})", allow_module_level=True)

import flux

from ensemble.members.scaler import Order
from ensemble.spec.scaler import Scaler
from t.unit.kubernetes_api import Api, serving


class Cluster:
    def __init__(self, place: Growing, api: Api, server: str) -> None:
        self.place = place
        self.api = api
        self.driver = FluxDriver(instance=place.instance)
        table = Scaler(
            name="minicluster", object="flux-sample", server=server, account=str(place.folder / "account"), max=4
        )
        self.scaler = self.driver.member.scaler(table, None)
        self.running = 1
        api.object["spec"].update(size=1, maxSize=4)

    def operate(self) -> None:
        """What the operator does when the object has changed: pods of the greatest index go."""
        size = self.api.object["spec"]["size"]
        start = flux.Flux(self.place.environment["FLUX_START_URI"])
        while self.running < size:
            start.rpc("start.run", {"rank": self.running}).get()
            self.running += 1
        while self.running > size:
            self.running -= 1
            start.rpc("start.kill", {"rank": self.running, "signum": 15}).get()
            start.rpc("start.wait", {"rank": self.running}).get()

    def do(self, action: str, wanted: int, timeout: float = 120.0) -> Tuple[Optional[int], str]:
        answers: List[Any] = []
        order = Order(wanted, action, "ens", 1, 4, timeout, False)
        self.scaler.resize(order, lambda size, error: answers.append((size, error)))

        def turn() -> bool:
            self.operate()
            return bool(answers)

        self.driver.wait_for(turn, f"the {action}")
        return answers[0]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with growing() as place, serving(place.folder / "account") as (api, server):
        made = Cluster(place, api, server)
        yield made
        made.scaler.stop()
        made.driver.close()


def test_the_size_of_the_object_follows_and_no_job_loses_its_node(cluster: Cluster) -> None:
    instance, api = cluster.place.instance, cluster.api
    assert cluster.do("grow", 3) == (3, "")
    assert cluster.place.online() == "0-2"
    # the operator takes the last pods: rank 2 has a job, so a shrink to two waits for it, and rank 1 stays
    job = instance.run("flux", "submit", "--requires=rank:2", "sleep", "3").stdout.strip()
    instance.run("flux", "job", "wait-event", "-t", "60", job, "start")
    assert cluster.do("shrink", 2) == (2, "")
    assert instance.run("flux", "jobs", "-no", "{status}", job).stdout.strip() == "COMPLETED", "it has ended by itself"
    assert api.object["spec"]["size"] == 2
    # one that an administrator has drained is a pod all the same
    instance.run("flux", "resource", "drain", "1", "a disk is broken")
    assert cluster.do("grow", 2) == (2, "")
    assert (api.object["spec"]["size"], cluster.place.online()) == (3, "0-2")
    # the object's own bound
    api.bump(maxSize=3)
    size, error = cluster.do("grow", 3)
    assert (size, error) == (2, "the MiniCluster has 3 nodes, and its maxSize of 3 allows no grow")
