# SPDX-License-Identifier: MIT
"""What every member does when told to: cancel, kill, and what comes back of it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from ensemble.engine.actions import Look
from ensemble.engine.events import ActionDone, Counted, JobId
from ensemble.members.contract.driver import MemberDriver, commands

SLEEP = {"name": "sleep", "command": "sleep 300"}


def running(driver: MemberDriver, path: Path) -> JobId:
    """A job whose process runs: at `start` a queue may not have made it yet, and a signal would miss it."""
    ready = path / "ready"
    driver.open("e1", {"name": "sleep", "script": f"touch '{ready}'\nexec sleep 300\n"})
    id = driver.submit_id("e1", "sleep")
    driver.wait_for(lambda: ready.exists() or not driver.runs_commands, "the job's process")
    driver.wait_event(id, "start")
    return id


QUICK = {"name": "quick", "command": "true"}


def done(driver: MemberDriver, id: int, action: str) -> ActionDone:
    """What became of the only action on that job."""
    driver.wait_for(lambda: driver.done(id), f"the outcome of {action}")
    (outcome,) = driver.done(id)
    assert outcome.action == action
    return outcome


def test_cancel_a_running_job(driver: MemberDriver, tmp_path: Path) -> None:
    id = running(driver, tmp_path)
    driver.cancel("e1", id)
    driver.wait_event(id, "clean")
    assert done(driver, id, "cancel").error is None
    assert driver.names(id) == ["submit", "start", "exception", "finish", "clean"]
    exception = driver.had(id, "exception").context
    assert (exception["type"], exception["severity"]) == ("cancel", 0)
    assert driver.had(id, "finish").context["status"] == (128 + signal.SIGTERM) << 8


def test_cancel_a_job_that_will_not_go(driver: MemberDriver) -> None:
    driver.open("e1", {"name": "g", "script": "trap '' TERM\nwhile :; do sleep 1; done\n"})
    id = driver.submit_id("e1", "g")
    driver.wait_event(id, "start")
    driver.run_for(0.5)
    driver.cancel("e1", id)
    driver.wait_event(id, "clean")
    assert driver.had(id, "finish").context["status"] == (128 + signal.SIGKILL) << 8


def test_cancel_a_pending_job(driver: MemberDriver) -> None:
    driver.open("e1", SLEEP)
    id = driver.submit_id("e1", "sleep", urgency=0)
    driver.cancel("e1", id)
    driver.wait_event(id, "clean")
    assert done(driver, id, "cancel").error is None
    assert driver.names(id) == ["submit", "exception", "clean"]
    assert driver.had(id, "exception").context["type"] == "cancel"


def test_a_cancelled_pending_job_does_not_hold_back_others(driver: MemberDriver) -> None:
    driver.open("e1", {**SLEEP, "cores": driver.cores}, QUICK)
    first = driver.submit_id("e1", "sleep")
    driver.wait_event(first, "start")
    second, third = driver.submit_id("e1", "sleep"), driver.submit_id("e1", "quick")
    driver.cancel("e1", second)
    driver.wait_event(second, "clean")
    driver.cancel("e1", first)
    driver.wait_event(third, "clean")
    assert driver.had(third, "finish").context["status"] == 0


def test_cancel_at_once(driver: MemberDriver) -> None:
    """Right behind the acknowledgement, wherever the job then is, it ends."""
    driver.open("e1", SLEEP)
    ids = [driver.submit_id("e1", "sleep") for _ in range(5)]
    for id in ids:
        driver.cancel("e1", id)
    for id in ids:
        driver.wait_event(id, "clean")
        assert done(driver, id, "cancel").error is None
        assert driver.had(id, "exception").context["type"] == "cancel"


@pytest.mark.parametrize("action", ["cancel", "kill"])
def test_too_late(driver: MemberDriver, action: str) -> None:
    """An answer comes, with or without an error; nothing is raised and nothing happens."""
    driver.open("e1", QUICK)
    id = driver.submit_id("e1", "quick")
    driver.wait_event(id, "clean")
    before = driver.names(id)
    if action == "cancel":
        driver.cancel("e1", id)
    else:
        driver.kill("e1", id, signal.SIGUSR1)
    outcome = done(driver, id, action)
    assert outcome.error is None or "inactive" in outcome.error
    assert driver.names(id) == before


def test_cancel_what_was_never_there(driver: MemberDriver) -> None:
    driver.open("e1", QUICK)
    driver.cancel("e1", 4711)
    assert done(driver, 4711, "cancel").error


def test_cancel_twice(driver: MemberDriver) -> None:
    driver.open("e1", SLEEP)
    id = driver.submit_id("e1", "sleep")
    driver.wait_event(id, "start")
    driver.cancel("e1", id)
    driver.cancel("e1", id)
    driver.wait_event(id, "clean")
    driver.wait_for(lambda: len(driver.done(id)) == 2, "two answers")
    assert driver.names(id).count("finish") == 1


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGKILL])
def test_kill(driver: MemberDriver, number: int, tmp_path: Path) -> None:
    id = running(driver, tmp_path)
    driver.kill("e1", id, number)
    driver.wait_event(id, "clean")
    assert done(driver, id, "kill").error is None
    assert driver.names(id) == ["submit", "start", "finish", "clean"]
    assert driver.had(id, "finish").context["status"] == (128 + number) << 8


@commands
def test_kill_reaches_all_tasks_and_a_job_may_live_on(driver: MemberDriver) -> None:
    script = "trap 'echo got it' USR1\necho ready\ni=0\nwhile [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done\n"
    driver.open("e1", {"name": "g", "script": script, "tasks": 2})
    id = driver.submit_id("e1", "g")
    driver.wait_event(id, "start")
    driver.run_for(1.5)
    driver.kill("e1", id, signal.SIGUSR1)
    driver.wait_event(id, "finish")
    assert driver.output("e1", id).count("got it") == 2


def test_kill_a_pending_job(driver: MemberDriver) -> None:
    driver.open("e1", SLEEP)
    id = driver.submit_id("e1", "sleep", urgency=0)
    driver.kill("e1", id, signal.SIGTERM)
    assert done(driver, id, "kill").error
    assert driver.names(id) == ["submit"]
    driver.cancel("e1", id)
    driver.wait_event(id, "clean")


def test_a_signal_that_does_not_exist(driver: MemberDriver, tmp_path: Path) -> None:
    id = running(driver, tmp_path)
    driver.kill("e1", id, 4711)
    assert done(driver, id, "kill").error
    driver.cancel("e1", id)
    driver.wait_event(id, "clean")


# urgency


def test_urgency_zero_holds_and_another_releases(driver: MemberDriver) -> None:
    driver.open("e1", {**SLEEP, "cores": driver.cores}, QUICK)
    first = driver.submit_id("e1", "sleep")
    driver.wait_event(first, "start")
    held, other = driver.submit_id("e1", "quick"), driver.submit_id("e1", "quick")
    driver.urgency("e1", held, 0)
    assert done(driver, held, "urgency").error is None
    driver.cancel("e1", first)
    driver.wait_event(other, "clean")
    driver.run_for(0.5)
    assert driver.names(held) == ["submit"]
    driver.urgency("e1", held, 16)
    driver.wait_event(held, "clean")
    assert driver.had(held, "finish").context["status"] == 0
    assert driver.names(held) == ["submit", "start", "finish", "clean"]


def test_a_job_that_was_submitted_held_is_released(driver: MemberDriver) -> None:
    driver.open("e1", QUICK)
    id = driver.submit_id("e1", "quick", urgency=0)
    driver.urgency("e1", id, 31)
    driver.wait_event(id, "clean")
    assert driver.had(id, "finish").context["status"] == 0


def test_the_more_urgent_job_starts_first(driver: MemberDriver) -> None:
    driver.open(
        "e1", {**SLEEP, "cores": driver.cores}, {**QUICK, "cores": driver.cores}, events=["urgency", "priority"]
    )
    first = driver.submit_id("e1", "sleep")
    driver.wait_event(first, "start")
    low, high, middle = (driver.submit_id("e1", "quick") for _ in range(3))
    for id, value in ((low, 3), (high, 5), (high, 30), (middle, 20)):
        driver.urgency("e1", id, value)
    driver.wait_for(lambda: len(driver.done(high)) == 2 and driver.done(low) and driver.done(middle), "the outcomes")
    driver.cancel("e1", first)
    for id in (low, high, middle):
        driver.wait_event(id, "clean")
    assert sorted((low, high, middle), key=lambda id: driver.had(id, "start").t) == [high, middle, low]
    told = [event.context["urgency"] for event in driver.of_job(high) if event.name == "urgency"]
    assert told == [5, 30]
    assert driver.names(low).count("start") == 1
    assert "priority" in driver.names(low)


def test_urgency_of_a_running_job(driver: MemberDriver) -> None:
    driver.open("e1", SLEEP)
    id = driver.submit_id("e1", "sleep")
    driver.wait_event(id, "start")
    driver.urgency("e1", id, 0)
    assert done(driver, id, "urgency").error
    driver.cancel("e1", id)
    driver.wait_event(id, "clean")
    assert driver.names(id) == ["submit", "start", "exception", "finish", "clean"]


def test_urgency_too_late_and_of_what_was_never_there(driver: MemberDriver) -> None:
    driver.open("e1", QUICK)
    id = driver.submit_id("e1", "quick")
    driver.wait_event(id, "clean")
    for one in (id, 4711):
        driver.urgency("e1", one, 20)
        assert done(driver, one, "urgency").error


# counting


def test_a_look_counts_nodes_cores_and_jobs(driver: MemberDriver) -> None:
    driver.open("e1", {**SLEEP, "cores": 1})
    id = driver.submit_id("e1", "sleep")
    driver.wait_event(id, "start")
    held = driver.submit_id("e1", "sleep", urgency=0)
    driver.perform("e1", Look())
    driver.wait_for(lambda: driver.of(Counted), "the numbers")
    (counted,) = driver.of(Counted)
    nodes, cores, queue = (counted.counts[name] for name in ("nodes", "cores", "queue"))
    assert set(nodes) == set(cores) == {"up", "down", "free", "allocated"}
    assert cores["up"] == cores["free"] + cores["allocated"]
    assert cores["allocated"] >= 1
    assert nodes["up"] >= nodes["allocated"] >= 1
    assert nodes["down"] == cores["down"] == 0
    assert queue["running"] >= 1
    assert queue["pending"] >= 1
    for one in (id, held):
        driver.cancel("e1", one)
        driver.wait_event(one, "clean")


def test_looks_are_answered_to_each_that_asked(driver: MemberDriver) -> None:
    for ensemble in ("e1", "e2", "e3"):
        driver.open(ensemble, QUICK)
    for ensemble in ("e1", "e2"):
        driver.perform(ensemble, Look())
    driver.wait_for(lambda: len(driver.of(Counted)) == 2, "the numbers")
    assert sorted(to for to, event in driver.delivered if isinstance(event, Counted)) == ["e1", "e2"]
    driver.perform("e3", Look())
    driver.wait_for(lambda: driver.of(Counted, "e3"), "the numbers of a later one")
