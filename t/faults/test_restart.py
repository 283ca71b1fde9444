# SPDX-License-Identifier: MIT
"""The instance itself goes down, or a part of it: what it took with it is made good, and nothing runs twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Set, Tuple

import pytest

from t.faults.counting import (
    CHAINS,
    GROUPS,
    Count,
    ask,
    chains,
    connect,
    deaths,
    dying,
    each,
    keys,
    progress,
    shut_down_unheard,
    submit,
)
from t.flux.processes import gone, until
from t.flux_instance import FluxInstance, running

pytestmark = [pytest.mark.flux, pytest.mark.slow, pytest.mark.timeout(600)]

#: the heads run long enough to be met by a shutdown
LONG = chains(8, head="sleep 4")
LONG_GROUPS = each(8)


def intents(instance: Any, id: str) -> Tuple[Set[str], Set[str]]:
    """The keys that the log says were to be submitted: before the last time that the instance went down, and after."""
    from ensemble.service.kvs_store import KvsStore

    store = KvsStore(connect(instance), lambda level, text: None)
    (stored,) = [stored for stored in store.load() if stored.id == id]
    assert stored.snapshot is None, "a snapshot hides the log"
    before: Set[str] = set()
    after: Set[str] = set()
    log = store._kept[id].log
    for first in log.first:
        for _, event, caused, _, _ in store._lines(log.name(first)):
            if event and event[1] == "Frozen":
                before |= after
                after = set()
            after |= {intent for intent in caused if "/" in intent}
    assert before, "the shutdown was not seen"
    return before, after


def test_clean_restarts_of_the_instance(tmp_path: Path) -> None:
    """Three instances, one after the other, over one KVS: what a shutdown cancels is tried again after the restart."""
    options = [f"-Sstatedir={tmp_path / 'state'}"]
    (tmp_path / "state").mkdir()
    cancelled = 0
    with running(options=options) as instance, dying(instance, tmp_path / "1", []):
        id = submit(instance, LONG)
        until(lambda: progress(instance, id) >= 2, "some progress")
        assert instance.stop() == 0
    for round in (2, 3):
        with running(options=options) as instance:
            before, after = intents(instance, id)
            assert after == set(), "something was to be submitted while the instance went down"
            assert keys(instance).keys() <= before
            with dying(instance, tmp_path / str(round), []):
                if round == 2:
                    cancelled = int(Count.retried_now(instance, id))
                    assert cancelled, "the shutdown has cancelled nothing that is tried again"
                    until(lambda i=instance: progress(i, id) >= 4, "some progress")
                    assert instance.stop() == 0
                    continue
                count = Count(instance, id, LONG_GROUPS)
                count.told("clean restart of the instance", 2)
                count.check(LONG_GROUPS)
                assert count.retried >= cancelled
                again = [ids[0] for key, ids in count.keys.items() if not key.endswith("/0")]
                assert len(again) == count.retried


def test_the_service_dies_in_the_shutdown(tmp_path: Path) -> None:
    """Killed as the instance goes down: it cannot say that it did, and the jobs of the shutdown are told of later."""
    options = [f"-Sstatedir={tmp_path / 'state'}"]
    (tmp_path / "state").mkdir()
    with running(options=options) as instance, dying(instance, tmp_path / "1", []) as process:
        id = submit(instance, LONG)
        until(lambda: progress(instance, id) >= 2, "some progress")
        os.kill(process.pid, signal.SIGKILL)
        pid = ask(instance, "stats", {})["pid"]
        os.kill(pid, signal.SIGKILL)
        gone(pid)
        assert instance.stop() == 0
    with running(options=options) as instance, dying(instance, tmp_path / "2", []):
        count = Count(instance, id, LONG_GROUPS)
        count.told("killed, then restart of the instance", 2)
        count.check(LONG_GROUPS)


def test_the_service_hears_of_the_shutdown_with_its_cancels(tmp_path: Path) -> None:
    """It gets no time until they are there."""
    options = [f"-Sstatedir={tmp_path / 'state'}"]
    (tmp_path / "state").mkdir()
    with running(options=options) as instance, dying(instance, tmp_path / "1", []):
        id = submit(instance, LONG)
        until(lambda: progress(instance, id) >= 2, "some progress")
        shut_down_unheard(instance, ask(instance, "stats", {})["pid"])
    with running(options=options) as instance, dying(instance, tmp_path / "2", []):
        count = Count(instance, id, LONG_GROUPS)
        count.told("no time, then restart of the instance", 1)
        count.check(LONG_GROUPS)
        assert count.retried, "the shutdown has cancelled nothing"


def removed(instance: FluxInstance, module: str) -> bool:
    """Remove it, and look."""
    instance.run("flux", "module", "remove", "-f", module, check=False)
    loaded = instance.run("flux", "module", "list").stdout.splitlines()
    return module not in [line.split()[0] for line in loaded]


def reload(instance: FluxInstance, module: str) -> None:
    """Reload a module, and those that cannot do without it."""
    if module == "job-ingest":
        instance.run("flux", "module", "reload", "-f", module)
        return
    for name in ("sched-simple", "job-exec", "job-list", "job-manager"):
        # it refuses now and then, where it is asked in the middle of a message, and now and then it is gone all the same
        until(lambda name=name: removed(instance, name), f"the removal of {name}")
    for name in ("job-manager", "job-list", "job-exec", "sched-simple"):
        instance.run("flux", "module", "load", name)
    instance.run("flux", "queue", "start", "--all", "--quiet", check=False)


def flux_failed(instance: FluxInstance) -> bool:
    """Has Flux failed of itself, so that nothing was seen of what is looked at here? Both come with a reload of 0.88's job-manager.

    Once in some fifty it uses a list that it has freed, and takes the broker down with it: `flux start` says so. And now
    and then it has the new scheduler allocate a job that has its resources already, and so lets go of it: no job of
    anybody is scheduled any more (`flux queue status -v`: "Scheduler is offline").
    """
    told = instance.stderr
    return "Segmentation fault" in told or ("already allocated" in told and "failed to dequeue pending job" in told)


@pytest.mark.parametrize("die", [False, True], ids=["alone", "with the service"])
@pytest.mark.parametrize("module", ["job-manager", "job-ingest"])
def test_a_module_of_flux_is_reloaded_in_mid_run(tmp_path: Path, module: str, die: bool) -> None:
    for number in range(4):
        folder = tmp_path / str(number)
        with running() as instance:
            try:
                reloaded_in_mid_run(instance, folder, module, die)
                return
            except Exception:
                if number == 3 or not flux_failed(instance):
                    raise
                print(f"Flux itself failed as {module} was reloaded: tried again in another instance")


def reloaded_in_mid_run(instance: FluxInstance, folder: Path, module: str, die: bool) -> None:
    points = ["after-send 12"] if die else []
    with dying(instance, folder, points):
        id = submit(instance, CHAINS)
        for finished in (5, 30):
            until(lambda finished=finished: progress(instance, id) >= finished, "some progress")
            reload(instance, module)
        count = Count(instance, id, GROUPS)
        count.told(f"{module} reloaded", 2 + die)
        assert deaths(folder) == [point.split()[0] for point in points]
        count.check(GROUPS)
