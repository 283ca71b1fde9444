# SPDX-License-Identifier: MIT
"""The Flux member when parts of Flux go away under it: nothing is lost, nothing comes twice, nothing is sent twice."""

# Without Flux nothing of this can be imported: the skip has to come first.
# ruff: noqa: E402

from __future__ import annotations

import errno
import json
import subprocess
import time
from typing import Any, Iterator, List

import pytest

pytestmark = pytest.mark.flux
try:
    import flux  # noqa: F401
except ImportError as exc:
    pytest.skip(f"Flux tests: the bindings do not load ({exc})", allow_module_level=True)

from _flux._core import lib

from ensemble.engine.events import Acknowledged, InDoubt, JobEvent, Key, Lost, Recovered, Refused
from t.contract.flux_driver import LIFE, MOCK, FluxDriver, ended
from t.flux_instance import FluxInstance, running


@pytest.fixture
def instance() -> Iterator[FluxInstance]:
    """One for each test: modules are taken out of it."""
    with running() as made:
        yield made


@pytest.fixture
def driver(instance: FluxInstance) -> Iterator[FluxDriver]:
    made = FluxDriver(instance=instance)
    yield made
    made.member.stop()
    assert not made.reentered


def without(names: List[str], *dropped: str) -> List[str]:
    """The names, less those that a reload of the job manager adds."""
    return [name for name in names if name not in dropped]


def keys_of_all_jobs(instance: FluxInstance) -> List[str]:
    """The key of every job of the instance, from the KVS."""
    ids = instance.run("flux", "jobs", "-a", "-c", "0", "-n", "-o", "{id}").stdout.split()
    specs = [json.loads(instance.run("flux", "job", "info", id, "jobspec").stdout) for id in ids]
    return sorted(spec["attributes"].get("user", {}).get("ensemble", "") for spec in specs)


def end_streams(driver: FluxDriver) -> None:
    """End the member's streams from outside, which looks to it as if the job manager had ended them."""
    for tag in list(driver.member._journal._streams):
        driver.member._journal.handle.rpc(
            "job-manager.events-journal-cancel", {"matchtag": tag}, flags=lib.FLUX_RPC_NORESPONSE
        )


def test_streams_that_end_lose_nothing_and_repeat_nothing(driver: FluxDriver) -> None:
    driver.open("e1", MOCK, events=["alloc", "priority"])
    keys: List[Any] = []
    for _ in range(6):
        keys += [driver.submit("e1", "mock") for _ in range(20)]
        half = len(keys) // 2
        driver.wait_for(lambda half=half: ended(driver) > half)
        end_streams(driver)
    driver.wait_for(lambda: ended(driver) >= len(keys))
    driver.run_for(0.5)
    for key in keys:
        assert driver.names(driver.id(key)) == ["submit", "priority", "alloc", "start", "finish", "clean"]


def test_what_happens_while_nobody_listens_is_delivered_later(driver: FluxDriver) -> None:
    """Jobs that are submitted, run and end between two streams."""
    driver.open("e1", MOCK, events=["alloc"])
    first = driver.submit_id("e1", "mock")
    driver.wait_event(first, "clean")
    driver.member._journal._backoff = 3.0
    end_streams(driver)
    driver.wait_for(lambda: not driver.member._journal.live())
    keys = [driver.submit("e1", "mock") for _ in range(30)]
    driver.wait_for(lambda: all(driver.answers(key) for key in keys))
    driver.instance.run("flux", "queue", "idle")
    assert ended(driver) == 1
    driver.wait_for(lambda: ended(driver) == 31)
    driver.run_for(0.3)
    for key in keys:
        assert driver.names(driver.id(key)) == ["submit", "alloc", "start", "finish", "clean"]
    assert driver.names(first) == ["submit", "alloc", "start", "finish", "clean"]
    submits = [event.t for event in driver.of(JobEvent)]
    assert submits == sorted(submits)


def test_a_clock_that_was_set_back_hides_nothing(driver: FluxDriver) -> None:
    """While nobody listens one job goes on and others come and go, all at times that seem to be past already."""
    driver.open("e1", MOCK, events=["alloc", "priority"])
    done = driver.submit_id("e1", "mock")
    driver.wait_event(done, "clean")
    held = driver.submit_id("e1", "mock", urgency=0)
    driver.wait_event(held, "priority")
    journal = driver.member._journal
    # an hour ago, as it seems now, the clock was an hour ahead
    journal._known[held].last += 3600
    journal._newest += 3600
    journal._ended.clear()
    journal._ended_ids.clear()
    journal._backoff = 3.0
    end_streams(driver)
    driver.wait_for(lambda: not journal.live())
    driver.urgency("e1", held, 16)
    keys = [driver.submit("e1", "mock") for _ in range(10)]
    driver.wait_for(lambda: all(driver.answers(key) for key in keys))
    driver.instance.run("flux", "queue", "idle")
    assert ended(driver) == 1
    driver.wait_for(lambda: ended(driver) == 12)
    driver.run_for(0.3)
    for key in keys:
        assert driver.names(driver.id(key)) == ["submit", "priority", "alloc", "start", "finish", "clean"]
    assert driver.names(held) == ["submit", "priority", "priority", "alloc", "start", "finish", "clean"]
    assert driver.names(done) == ["submit", "priority", "alloc", "start", "finish", "clean"]


@pytest.mark.timeout(240)
def test_the_job_manager_is_reloaded(driver: FluxDriver) -> None:
    """With held jobs, ended jobs, and submissions made while it is away."""
    run = driver.instance.run
    driver.open("e1", MOCK)
    done = [driver.submit("e1", "mock") for _ in range(10)]
    driver.wait_for(lambda: ended(driver) == 10)
    held = driver.submit_id("e1", "mock", urgency=0)
    for name in ("sched-simple", "job-exec", "job-list", "job-manager"):
        run("flux", "module", "remove", "-f", name)
    meanwhile = [driver.submit("e1", "mock") for _ in range(10)]
    driver.run_for(1.0)
    assert not any(driver.answers(key) for key in meanwhile)
    for name in ("job-manager", "job-list", "job-exec", "sched-simple"):
        run("flux", "module", "load", name)
    run("flux", "queue", "start", "--all", "--quiet", check=False)
    driver.wait_for(lambda: ended(driver) == 20)
    driver.wait_for(lambda: "flux-restart" in driver.names(held))
    run("flux", "job", "urgency", driver.member.show(held), "16")
    driver.wait_event(held, "clean")
    driver.run_for(0.5)
    assert without(driver.names(held), "flux-restart") == LIFE
    for key in done + meanwhile:
        assert len(driver.answers(key)) == 1
        assert driver.names(driver.id(key)) == LIFE
    assert keys_of_all_jobs(driver.instance) == sorted(str(event.key) for event in driver.of(Acknowledged))


@pytest.mark.timeout(240)
def test_job_ingest_is_reloaded_in_mid_flight(driver: FluxDriver) -> None:
    """Some submissions lose their answer: each still becomes exactly one job, and is answered once."""
    driver.open("e1", MOCK)
    keys = [driver.submit("e1", "mock") for _ in range(300)]
    driver.wait_for(lambda: len(driver.of(Acknowledged)) > 20)
    with subprocess.Popen(["flux", "module", "reload", "-f", "job-ingest"], env=driver.instance.env) as reload:
        keys += [driver.submit("e1", "mock") for _ in range(100)]
        driver.wait_for(lambda: reload.poll() is not None)
        assert reload.returncode == 0
    driver.wait_for(lambda: driver.of(Refused) or (ended(driver) == 400 and len(driver.of(Acknowledged)) == 400))
    assert driver.of(Refused) == []
    assert sorted(event.key for event in driver.of(Acknowledged)) == sorted(keys)
    for key in keys:
        assert driver.names(driver.id(key)) == LIFE
    assert len(driver.instance.run("flux", "jobs", "-a", "-c", "0", "-n", "-o", "{id}").stdout.split()) == 400


def test_a_lost_answer_whose_job_exists_is_found_in_the_journal(driver: FluxDriver) -> None:
    driver.open("e1", MOCK)
    requests = driver.member._requests
    plain, lost = requests._acknowledge, []

    def lose(submission: Any, id: int) -> None:
        """As if the answer had been an error that says nothing."""
        if lost:
            plain(submission, id)
        else:
            lost.append(id)
            requests._set_aside(submission, errno.ENOSYS)

    requests._acknowledge = lose
    key = driver.submit("e1", "mock")
    driver.wait_for(lambda: driver.answers(key))
    assert [driver.id(key)] == lost
    driver.wait_event(lost[0], "clean")
    second = driver.submit_id("e1", "mock")
    driver.wait_event(second, "clean")
    assert len({event.id for event in driver.of(JobEvent)}) == 2


def test_cancel_waits_for_the_job_manager(driver: FluxDriver) -> None:
    run = driver.instance.run
    driver.open("e1", MOCK)
    held = driver.submit_id("e1", "mock", urgency=0)
    for name in ("sched-simple", "job-exec", "job-list", "job-manager"):
        run("flux", "module", "remove", "-f", name)
    driver.cancel("e1", held)
    driver.run_for(0.5)
    assert not driver.done(held)
    for name in ("job-manager", "job-list", "job-exec", "sched-simple"):
        run("flux", "module", "load", name)
    driver.wait_event(held, "clean")
    assert [done.error for done in driver.done(held)] == [None]


class Successor(FluxDriver):
    """Takes up an ensemble whose one job Flux does not have."""

    KEY = Key("e1", "r", 1, 0, 0)

    def begin(self) -> None:
        self.asked: List[str] = []
        plain = self.member.handle.rpc

        def rpc(topic: str, *args: Any, **kwargs: Any) -> Any:
            self.asked.append(topic)
            return plain(topic, *args, **kwargs)

        self.member.handle.rpc = rpc  # type: ignore[method-assign]
        self.open("e1", MOCK)
        self.member.recover("e1", {1 << 40: self.KEY}, [], time.time())
        super().begin()


@pytest.mark.parametrize("purged", [False, True])
def test_a_known_job_that_is_not_there(instance: FluxInstance, purged: bool) -> None:
    """Where nothing was purged it never lasted, and is tried again; else nobody can tell whether it ran."""
    if purged:
        instance.run("flux", "run", "true")
        instance.run("flux", "job", "purge", "--force", "--num-limit=0")
    driver = Successor(instance=instance)
    driver.wait_for(lambda: driver.of(Recovered))
    driver.member.stop()
    assert [type(event) for _, event in driver.delivered] == [InDoubt if purged else Lost, Recovered]
    # job-list follows the job manager at its own pace: what it counts is asked behind an event, as purges are events
    asked = [topic for topic in driver.asked if topic in ("event.publish", "job-list.job-stats")]
    assert asked == ["event.publish", "job-list.job-stats"]
