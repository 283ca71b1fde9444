# SPDX-License-Identifier: MIT
"""What every member tells of a job's life: answers, order of events, statuses."""

from __future__ import annotations

import os
import signal

import pytest

from ensemble.engine.events import BASE_EVENTS, Acknowledged, JobEvent, Refused
from ensemble.members.contract.driver import MemberDriver, commands

SLEEP = {"name": "sleep", "command": "sleep 300"}
QUICK = {"name": "quick", "command": "true"}
#: all events of an undisturbed job that a rule can ask for, in the order of RFC 21
LIFE = ["submit", "validate", "depend", "priority", "alloc", "start", "finish", "release", "free", "clean"]
BASE_LIFE = [name for name in LIFE if name in BASE_EVENTS]


def status_of(driver: MemberDriver, command: object, **more: object) -> int:
    """Run one job to its end; its wait status."""
    driver.open("e1", {"name": "g", "command": command, **more})
    id = driver.submit_id("e1", "g")
    driver.wait_event(id, "clean")
    status = driver.wait_event(id, "finish").context["status"]
    assert isinstance(status, int)
    return status


def test_a_job_from_submission_to_end(driver: MemberDriver) -> None:
    driver.open("e1", QUICK)
    key = driver.submit("e1", "quick")
    driver.wait_for(lambda: driver.answers(key), "an answer")
    id = driver.id(key)
    driver.wait_event(id, "clean")
    assert driver.names(id) == BASE_LIFE
    assert driver.answers(key) == [Acknowledged(driver.answers(key)[0].t, key, id)]
    assert driver.had(id, "finish").context["status"] == 0
    assert {ensemble for ensemble, _ in driver.delivered} == {"e1"}


def test_the_key_comes_with_submit_alone(driver: MemberDriver) -> None:
    driver.open("e1", QUICK, events=LIFE)
    key = driver.submit("e1", "quick")
    driver.wait_for(lambda: driver.answers(key))
    driver.wait_event(driver.id(key), "clean")
    assert [(event.name, event.key) for event in driver.of_job(driver.id(key))] == [
        (name, key if name == "submit" else None) for name in LIFE
    ]


def test_times_are_of_now_and_do_not_go_back(driver: MemberDriver) -> None:
    before = driver.now()
    driver.open("e1", QUICK, events=LIFE)
    id = driver.submit_id("e1", "quick")
    driver.wait_event(id, "clean")
    times = [event.t for event in driver.of_job(id)]
    assert times == sorted(times)
    assert before - 1 <= times[0] <= times[-1] <= driver.now() + 1


def test_events_beyond_the_base_only_where_asked_for(driver: MemberDriver) -> None:
    driver.open("plain", QUICK)
    driver.open("nosy", QUICK, events=["alloc", "priority"])
    plain, nosy = driver.submit_id("plain", "quick"), driver.submit_id("nosy", "quick")
    driver.wait_event(plain, "clean")
    driver.wait_event(nosy, "clean")
    assert driver.names(plain) == BASE_LIFE
    assert driver.names(nosy) == [name for name in LIFE if name in (*BASE_LIFE, "alloc", "priority")]


@pytest.mark.parametrize("code", [1, 3, 255])
def test_exit_status(driver: MemberDriver, code: int) -> None:
    assert status_of(driver, ["sh", "-c", f"exit {code}"]) == code << 8


def test_death_by_signal(driver: MemberDriver) -> None:
    """The Flux shell codes it as exit code 128 + N, and so does every member."""
    assert status_of(driver, ["sh", "-c", "kill -KILL $$"]) == (128 + signal.SIGKILL) << 8


@pytest.mark.parametrize(
    ("command", "code"), [("/no/such/command --at all", 127), ("no-such-command-in-path", 127), ("/etc/passwd", 126)]
)
def test_a_command_that_cannot_run(driver: MemberDriver, command: str, code: int) -> None:
    status = status_of(driver, command)
    assert os.WIFEXITED(status)
    assert os.WEXITSTATUS(status) == code
    (exception,) = [event for event in driver.of(JobEvent) if event.name == "exception"]
    assert (exception.context["type"], exception.context["severity"]) == ("exec", 0)
    assert command.split()[0] in exception.context["note"]
    names = driver.names(exception.id)
    assert names == ["submit", "start", "exception", "finish", "clean"]


def test_a_script(driver: MemberDriver) -> None:
    script = "x=4\nif [ $x = 4 ]\nthen exit 5\nfi\n"
    driver.open("e1", {"name": "g", "script": script})
    id = driver.submit_id("e1", "g")
    assert driver.wait_event(id, "finish").context["status"] == 5 << 8


@commands
def test_several_tasks(driver: MemberDriver) -> None:
    assert status_of(driver, ["sh", "-c", "echo $FLUX_TASK_RANK of $FLUX_JOB_SIZE"], tasks=2) == 0
    (id,) = {event.id for event in driver.of(JobEvent)}
    assert sorted(driver.output("e1", id).split("\n")) == ["", "0 of 2", "1 of 2"]


@commands
@pytest.mark.parametrize("worst", [0, 1])
def test_the_worst_status_of_several_tasks(driver: MemberDriver, worst: int) -> None:
    """Whichever task it is; rank 0 ends first."""
    script = f"sleep $FLUX_TASK_RANK\nif [ $FLUX_TASK_RANK = {worst} ]; then exit 5; fi\nexit 2\n"
    driver.open("e1", {"name": "g", "script": script, "tasks": 2})
    id = driver.submit_id("e1", "g")
    assert driver.wait_event(id, "finish").context["status"] == 5 << 8


@commands
def test_tasks_of_the_action_outrank_the_group(driver: MemberDriver) -> None:
    driver.open("e1", {"name": "g", "command": ["sh", "-c", "exit $FLUX_JOB_SIZE"]})
    id = driver.submit_id("e1", "g", tasks=2)
    assert driver.wait_event(id, "finish").context["status"] == 2 << 8


def test_sets_of_one_group(driver: MemberDriver) -> None:
    driver.open(
        "e1",
        {"name": "g", "command": ["sh", "-c", "exit 1"]},
        {"name": "other", "command": ["sh", "-c", "exit 2"]},
        {"name": "g", "command": ["sh", "-c", "exit 3"]},
    )
    ids = [driver.submit_id("e1", "g", 0), driver.submit_id("e1", "other"), driver.submit_id("e1", "g", 1)]
    assert [driver.wait_event(id, "finish").context["status"] >> 8 for id in ids] == [1, 2, 3]


def test_the_time_limit(driver: MemberDriver) -> None:
    driver.open("e1", {"name": "g", "command": "sleep 300", "duration": 0.5})
    id = driver.submit_id("e1", "g")
    driver.wait_event(id, "clean")
    assert driver.names(id) == ["submit", "start", "exception", "finish", "clean"]
    exception = driver.had(id, "exception").context
    assert (exception["type"], exception["severity"]) == ("timeout", 0)
    assert driver.had(id, "finish").context["status"] == (128 + signal.SIGALRM) << 8


def test_the_time_limit_of_the_action_outranks_the_group(driver: MemberDriver) -> None:
    driver.open("e1", SLEEP)
    id = driver.submit_id("e1", "sleep", duration=0.5)
    assert driver.wait_event(id, "exception").context["type"] == "timeout"
    driver.wait_event(id, "clean")


def test_a_submission_that_the_queue_refuses(driver: MemberDriver) -> None:
    driver.open("e1", {**QUICK, "queue": "no-such-queue"}, {"name": "good", "command": "true"})
    bad, good = driver.submit("e1", "quick"), driver.submit("e1", "good")
    driver.wait_for(lambda: driver.answers(bad) and driver.answers(good))
    driver.wait_event(driver.id(good), "clean")
    (refused,) = driver.answers(bad)
    assert isinstance(refused, Refused)
    assert "no-such-queue" in refused.reason
    assert not [
        event for event in driver.of(JobEvent) if event.name in ("start", "finish") and event.id != driver.id(good)
    ]


def test_more_urgent_first_and_ties_by_submission(driver: MemberDriver) -> None:
    whole = {"cores": driver.cores}
    driver.open("e1", {"name": "g", "command": "true", **whole}, {"name": "first", "command": "sleep 300", **whole})
    blocker = driver.submit_id("e1", "first")
    driver.wait_event(blocker, "start")
    ids = [driver.submit_id("e1", "g", urgency=urgency) for urgency in (16, 10, 31, 16)]
    driver.cancel("e1", blocker)
    for id in ids:
        driver.wait_event(id, "clean")
    started = [event.id for event in driver.of(JobEvent) if event.name == "start"]
    assert started == [blocker, ids[2], ids[0], ids[3], ids[1]]


def test_urgency_0_holds(driver: MemberDriver) -> None:
    driver.open("e1", QUICK)
    held = driver.submit_id("e1", "quick", urgency=0)
    other = driver.submit_id("e1", "quick")
    driver.wait_event(other, "clean")
    driver.run_for(0.3)
    assert driver.names(held) == ["submit"]
    driver.cancel("e1", held)
    driver.wait_event(held, "clean")


@pytest.mark.timeout(300)
def test_a_burst(driver: MemberDriver) -> None:
    """300 at once: each is answered once and ends, and each job's events are in order."""
    driver.open("e1", QUICK)
    keys = [driver.submit("e1", "quick") for _ in range(300)]

    def ended() -> bool:
        return len([event for event in driver.of(JobEvent) if event.name == "clean"]) >= 300

    driver.wait_for(ended, "the end of 300 jobs", patience=240)
    answers = driver.of((Acknowledged, Refused))  # type: ignore[arg-type]
    assert sorted(answer.key for answer in answers) == sorted(keys)
    assert len({driver.id(key) for key in keys}) == 300
    for key in keys:
        events = driver.of_job(driver.id(key))
        assert [event.name for event in events] == BASE_LIFE
        assert events[0].key == key
