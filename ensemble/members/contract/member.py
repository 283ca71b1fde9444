# SPDX-License-Identifier: MIT
"""What every member promises as a whole: who hears what, what reaches a job, timers, and the end."""

from __future__ import annotations

import json
import os
import resource
import stat
from pathlib import Path
from typing import List

import pytest

from ensemble.engine.actions import Submit
from ensemble.engine.events import JobEvent, Key
from ensemble.members.base import Submitter
from ensemble.members.contract.driver import MemberDriver, commands

SLEEP = {"name": "sleep", "command": "sleep 300"}
QUICK = {"name": "quick", "command": "true"}


def test_it_says_what_it_is(driver: MemberDriver) -> None:
    assert driver.member.name == driver.name
    assert {"submit", "cancel", "kill"} <= driver.member.capabilities
    driver.open("e1", QUICK)
    id = driver.submit_id("e1", "quick")
    assert driver.member.show(id)
    assert driver.member.where("e1", id)
    driver.wait_event(id, "clean")


def test_two_ensembles_apart(driver: MemberDriver) -> None:
    driver.open("e1", QUICK)
    driver.open("e2", QUICK)
    for _ in range(5):
        driver.submit("e1", "quick")
        driver.submit("e2", "quick")
    driver.wait_for(lambda: len([event for event in driver.of(JobEvent) if event.name == "clean"]) == 10)
    for ensemble in ("e1", "e2"):
        events = driver.of(JobEvent, ensemble)
        assert {event.key.ensemble for event in events if event.key} == {ensemble}
        assert len({event.id for event in events}) == 5
    assert not {event.id for event in driver.of(JobEvent, "e1")} & {event.id for event in driver.of(JobEvent, "e2")}


def test_foreign_jobs_are_not_delivered(driver: MemberDriver) -> None:
    driver.open("e1", QUICK)
    ended = driver.foreign(["true"])
    if ended is None:
        pytest.skip(f"nobody but an ensemble can use the queue {driver.name}")
    id = driver.submit_id("e1", "quick")
    driver.wait_event(id, "clean")
    driver.wait_for(ended, "the end of the foreign job")
    driver.run_for(0.3)
    assert {event.id for event in driver.of(JobEvent)} == {id}


@commands
def test_a_closed_ensemble_hears_nothing_and_its_jobs_go_on(driver: MemberDriver, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    driver.open("e1", {"name": "g", "command": ["sh", "-c", f"sleep 1; echo ran > {proof}"]})
    id = driver.submit_id("e1", "g")
    driver.wait_event(id, "start")
    driver.member.close("e1")
    before = len(driver.delivered)
    driver.wait_for(lambda: proof.is_file() and proof.read_text(), "the job's file")
    driver.run_for(0.3)
    assert len(driver.delivered) == before


def test_what_is_under_way_when_an_ensemble_is_closed(driver: MemberDriver) -> None:
    driver.open("e1", QUICK)
    driver.open("e2", QUICK)
    for _ in range(3):
        driver.submit("e1", "quick")
    driver.member.close("e1")
    before = len([1 for ensemble, _ in driver.delivered if ensemble == "e1"])
    driver.wait_event(driver.submit_id("e2", "quick"), "clean")
    driver.run_for(0.3)
    assert len([1 for ensemble, _ in driver.delivered if ensemble == "e1"]) == before


@commands
def test_environment(driver: MemberDriver) -> None:
    submitter = Submitter(
        environment={**os.environ, "KEPT": "as it was", "CHANGED": "old", "GONE": "here"}, cwd=str(Path("/").resolve())
    )
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    driver.open(
        "e1",
        {
            "name": "g",
            "command": ["python3", "-c", code],
            "environment": {"CHANGED": "new ü", "GONE": None, "ADDED": "1"},
        },
        submitter=submitter,
    )
    key = driver.submit("e1", "g")
    driver.wait_for(lambda: driver.answers(key))
    driver.wait_event(driver.id(key), "clean")
    environment = json.loads(driver.output("e1", driver.id(key)))
    assert environment["KEPT"] == "as it was"
    assert environment["CHANGED"] == "new ü"
    assert environment["ADDED"] == "1"
    assert "GONE" not in environment
    assert environment["ENSEMBLE_JOB"] == str(key)
    assert Key.parse(environment["ENSEMBLE_JOB"]) == key
    assert environment["ENSEMBLE_ID"] == "e1"
    assert environment["FLUX_TASK_RANK"] == "0"


@commands
def test_directory_umask_and_limits(driver: MemberDriver, tmp_path: Path) -> None:
    place = tmp_path / "a place"
    place.mkdir()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 321
    assert wanted != soft
    submitter = Submitter(
        environment=dict(os.environ), cwd=str(place), umask=0o027, rlimits={"nofile": wanted, "core": 0}
    )
    driver.open("e1", {"name": "g", "script": "pwd\nulimit -Sn\nulimit -Sc\n> made\n"}, submitter=submitter)
    id = driver.submit_id("e1", "g")
    driver.wait_event(id, "clean")
    assert driver.output("e1", id).splitlines() == [str(place), str(wanted), "0"]
    assert stat.S_IMODE((place / "made").stat().st_mode) == 0o640


@commands
def test_workdir_of_the_group(driver: MemberDriver, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    submitter = Submitter(environment=dict(os.environ), cwd=str(tmp_path))
    driver.open(
        "e1",
        {"name": "absolute", "command": "pwd", "workdir": str(tmp_path / "sub")},
        {"name": "relative", "command": "pwd", "workdir": "sub"},
        submitter=submitter,
    )
    for group in ("absolute", "relative"):
        id = driver.submit_id("e1", group)
        driver.wait_event(id, "clean")
        assert driver.output("e1", id) == f"{tmp_path / 'sub'}\n"


@commands
def test_output_error_and_input(driver: MemberDriver, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("from the file\n")
    driver.open(
        "e1",
        {
            "name": "both",
            "command": ["sh", "-c", "cat; echo wrong >&2"],
            "input": str(tmp_path / "in.txt"),
            "output": str(tmp_path / "both-{{id}}-{{name}}.out"),
        },
        {
            "name": "apart",
            "command": ["sh", "-c", "echo right; echo wrong >&2"],
            "output": "apart-{{jobid}}.out",
            "error": "apart.err",
        },
        submitter=Submitter(environment=dict(os.environ), cwd=str(tmp_path)),
    )
    both, apart = driver.submit_id("e1", "both"), driver.submit_id("e1", "apart")
    for id in (both, apart):
        assert driver.wait_event(id, "finish").context["status"] == 0
        driver.wait_event(id, "clean")
    (one,) = tmp_path.glob("both-*.out")
    assert one.name == f"both-{driver.member.show(both)}-both.out"
    assert sorted(one.read_text().splitlines()) == ["from the file", "wrong"]
    assert (tmp_path / f"apart-{driver.member.show(apart)}.out").read_text() == "right\n"
    assert (tmp_path / "apart.err").read_text() == "wrong\n"
    assert str(one) in driver.member.where("e1", both)


@commands
def test_output_that_cannot_be_written(driver: MemberDriver, tmp_path: Path) -> None:
    driver.open("e1", {**QUICK, "output": str(tmp_path / "nowhere" / "x")})
    id = driver.submit_id("e1", "quick")
    driver.wait_event(id, "clean")
    assert driver.had(id, "exception").context["type"] == "exec"
    assert driver.had(id, "finish").context["status"] == 1 << 8


def test_timers_in_order_and_cancelled(driver: MemberDriver) -> None:
    called: List[str] = []
    now = driver.now()
    times = {}

    def note(name: str) -> None:
        called.append(name)
        times[name] = driver.now()

    driver.member.call_at(now + 0.6, lambda: note("late"))
    driver.member.call_at(now + 0.3, lambda: note("early"))
    driver.member.call_at(now - 10, lambda: note("past"))
    dropped = driver.member.call_at(now + 0.1, lambda: note("dropped"))
    dropped.cancel()
    assert called == []  # only ever from the loop
    driver.wait_for(lambda: "late" in called)
    assert called == ["past", "early", "late"]
    assert times["early"] >= now + 0.299
    assert times["late"] >= now + 0.599
    dropped.cancel()


def test_a_timer_cancelled_after_it_expired(driver: MemberDriver) -> None:
    called: List[int] = []
    timer = driver.member.call_at(driver.now(), lambda: called.append(1))
    driver.wait_for(lambda: called)
    timer.cancel()
    driver.run_for(0.1)
    assert called == [1]


def test_actions_from_inside_a_delivery(driver: MemberDriver) -> None:
    """A service acts while an event is delivered to it; the outcome comes later, never within."""
    driver.open("e1", QUICK)
    inside: List[bool] = []
    plain = driver.deliver
    keys: List[Key] = []

    def deliver(ensemble: str, event: object) -> None:
        inside.append(True)
        assert len(inside) == 1, "re-entered"
        plain(ensemble, event)  # type: ignore[arg-type]
        if isinstance(event, JobEvent) and event.name == "clean" and len(keys) < 3:
            keys.append(Key("e1", "chain", len(keys) + 1, 0, 0))
            driver.perform("e1", Submit(keys[-1], "quick", 0))
        inside.pop()

    driver.deliver = deliver  # type: ignore[method-assign]
    driver.submit("e1", "quick")
    driver.wait_for(lambda: len([event for event in driver.of(JobEvent) if event.name == "clean"]) == 4)
    assert len(keys) == 3


def test_stop_delivers_nothing_more(driver: MemberDriver) -> None:
    driver.open("e1", QUICK, SLEEP)
    id = driver.submit_id("e1", "quick")
    driver.wait_event(id, "clean")
    running = driver.submit_id("e1", "sleep")
    driver.wait_event(running, "start")
    for _ in range(20):
        driver.submit("e1", "quick")
    driver.member.stop()
    before = len(driver.delivered)
    driver.run_for(0.5)
    assert len(driver.delivered) == before
