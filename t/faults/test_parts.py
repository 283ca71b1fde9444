# SPDX-License-Identifier: MIT
"""Parts of it stop, are replaced or die while jobs go on: the service itself, the module that hosts it, a node."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, List

import pytest

from ensemble.errors import NoService
from ensemble.service import supervisor
from t.faults.counting import (
    MOCK,
    SOAK,
    Count,
    ask,
    chains,
    dying,
    each,
    keys,
    progress,
    request,
    submit,
)
from t.flux.installed import MODULE, environment, need_flux_python
from t.flux.processes import PATIENCE, gone, until
from t.flux_instance import FluxInstance, running

pytestmark = [pytest.mark.flux, pytest.mark.slow, pytest.mark.timeout(600)]

#: seconds; the longer one is beyond the service's patience with an answer
PAUSES = [10.0] if SOAK == 1 else [10.0, 20.0]


@pytest.mark.parametrize("pause", PAUSES)
def test_the_service_is_stopped_and_continued(flux_instance: Any, tmp_path: Path, pause: float) -> None:
    """By SIGSTOP, in the middle of submissions: jobs go on without it, and it learns of them later."""
    heads = 60
    with dying(flux_instance, tmp_path, []) as process:
        id = submit(flux_instance, chains(heads, active=60, more=MOCK))
        until(lambda: progress(flux_instance, id) >= 20, "some progress")
        pid = ask(flux_instance, "stats", {})["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            flux_instance.run("flux", "run", "true")
            with pytest.raises(NoService, match="gave no answer"):
                supervisor.service_status(connect_to(flux_instance), 1.0)
            flux_instance.run("flux", "queue", "idle")
            before = len(keys(flux_instance))
            time.sleep(max(0.0, begun + pause - time.monotonic()))
            assert len(keys(flux_instance)) == before < 5 * heads
        finally:
            os.kill(pid, signal.SIGCONT)
        count = Count(flux_instance, id, each(heads))
        count.told(f"stopped for {pause:g} s", 1)
        count.check(each(heads))
        assert ask(flux_instance, "stats", {})["pid"] == pid
        assert process.poll() is None


def connect_to(instance: FluxInstance) -> Any:
    import flux

    return flux.Flux(instance.uri)


def test_the_service_is_restarted_in_mid_burst(flux_instance: Any, tmp_path: Path) -> None:
    """By the command, again and again, while submissions are on their way."""
    heads, pids = 30, []
    flux_instance.run("flux", "ensemble", "service", "start")
    id = submit(flux_instance, chains(heads, active=30))
    for mark in (0, 10, 60, 100):
        until(lambda mark=mark: progress(flux_instance, id) >= mark, "some progress")
        pids.append(ask(flux_instance, "stats", {})["pid"])
        flux_instance.run("flux", "ensemble", "service", "restart")
    count = Count(flux_instance, id, each(heads))
    count.told("service restarted", len(pids))
    count.check(each(heads))
    last = supervisor.service_stop(connect_to(flux_instance), PATIENCE)
    gone(*pids, last["pid"], last["supervisor_pid"])
    assert len({*pids, last["pid"]}) == 5


def test_the_module_is_reloaded_in_mid_burst(tmp_path: Path) -> None:
    """The broker module as the host, reloaded while submissions are on their way."""
    need_flux_python()
    module = str(MODULE / "ensemble.py")
    heads = 30
    with running() as instance:
        instance.env = environment(instance.env, tmp_path, rc=False)
        instance.run("flux", "module", "load", module)
        id = submit(instance, chains(heads, active=30))
        pids: List[int] = []
        for mark in (0, 10, 60, 100):
            until(lambda mark=mark: progress(instance, id) >= mark, "some progress")
            pids.append(ask(instance, "stats", {})["pid"])
            instance.run("flux", "module", "reload", module)
        count = Count(instance, id, each(heads))
        count.told("broker module reloaded", len(pids))
        count.check(each(heads))
        assert request(instance, "stats", {})["host"] == "module"
        instance.run("flux", "module", "remove", "ensemble")
        gone(*pids)
    assert len(set(pids)) == 4


def broker(instance: FluxInstance, rank: int) -> int:
    return int(instance.run("flux", "exec", "-r", str(rank), "flux", "getattr", "broker.pid").stdout)


def test_a_leaf_broker_is_killed(tmp_path: Path) -> None:
    """Its jobs fail with the loss of their node, which is no fault of theirs: others are submitted in their place."""
    heads = 12
    with running(4, ["--test-exit-mode=leader", "--conf=tbon.topo=kary:3"]) as instance, dying(instance, tmp_path, []):
        leaf = broker(instance, 3)
        id = submit(instance, chains(heads, head="sleep 4", active=heads))
        until(lambda: "3" in ranks(instance), "a job on rank 3")
        os.kill(leaf, signal.SIGKILL)
        count = Count(instance, id, each(heads))
        count.told("leaf broker killed", 1)
        count.check(each(heads))
        assert count.retried >= 1
        again = [key for key in count.keys if not key.endswith("/0")]
        assert len(again) == count.retried
        lost = [row for row in count.rows if row["result"] == "retried"]
        assert {row["cause"] for row in lost} == {"infrastructure"}
        assert len(keys(instance)) == 5 * heads + count.retried


def ranks(instance: FluxInstance) -> List[str]:
    """Where jobs run now."""
    return list(instance.run("flux", "jobs", "-n", "-f", "run", "-o", "{ranks}").stdout.split())
