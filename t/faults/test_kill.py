# SPDX-License-Identifier: MIT
"""kill -9 of the service, at named points and at any moment: no job is lost and none is run twice."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ensemble.errors import NoService, ServiceError
from t.faults.counting import (
    CHAINS,
    GROUPS,
    MOCK,
    SOAK,
    Count,
    ask,
    chains,
    deaths,
    dying,
    each,
    ended,
    keys,
    request,
    submit,
)
from t.flux.processes import gone, until
from t.flux_instance import running

pytestmark = [pytest.mark.flux, pytest.mark.slow, pytest.mark.timeout(600)]
SEED = 20261122

POINTS = {
    "before-intent": ["before-intent 1", "before-intent 5", "before-intent 12"],
    "after-intent": ["after-intent 1", "after-intent 4", "after-intent 11"],
    "after-send": ["after-send 1", "after-send 6", "after-send 13"],
    "after-ack": ["after-ack 1", "after-ack 7", "after-ack 14"],
    "after-event": ["after-event 1", "after-event 20", "after-event 50"],
    "in-recovery": ["after-send 3", "in-recovery 1", "in-recovery 1", "after-intent 5"],
}


@pytest.mark.parametrize("name", POINTS)
def test_killed_at_a_point(flux_instance: Any, tmp_path: Path, name: str) -> None:
    with dying(flux_instance, tmp_path, POINTS[name]):
        count = Count(flux_instance, submit(flux_instance, CHAINS), GROUPS)
        assert deaths(tmp_path) == [point.split()[0] for point in POINTS[name]], "it did not die as planned"
        count.told(name, len(POINTS[name]))
        count.check(GROUPS)


@pytest.mark.parametrize("purged", ["all", "older ones", "none"])
def test_jobs_purged_while_the_service_was_down(tmp_path: Path, purged: str) -> None:
    """A submission was sent, its job has ended, and Flux has forgotten it: nobody can tell, so a person has to look."""
    text = "jobs: [{name: a, command: 'true', count: 5}]\nrules: [{trigger: start, action: {name: submit, label: a}}]\n"
    with running() as instance, dying(instance, tmp_path, ["after-send 3"]) as process:
        if purged == "older ones":
            instance.run("flux", "run", "true")
            instance.run("flux", "run", "true")
            instance.run("flux", "job", "purge", "--force", "--num-limit=1")
        id = submit_held(instance, process.pid, text, tmp_path)
        # the queue is idle also before what was sent has become jobs
        until(lambda: len(keys(instance)) == 3, "the jobs that were sent")
        instance.run("flux", "queue", "idle")
        # the oldest go first, so one that is older than the service's end shows that no later one is gone
        instance.run("flux", "job", "purge", "--force", "--num-limit=0" if purged == "all" else "--num-limit=1000")
        os.kill(process.pid, signal.SIGCONT)
        status = ended(instance, id)
        if purged != "all":
            assert status["state"] == "complete"
            assert sorted(map(len, keys(instance).values())) == [1] * 5
            return
        assert status["state"] == "halted"
        assert "in doubt" in status["reason"]
        assert keys(instance) == {}, "none was submitted again"
        ask(instance, "resume", {"id": id})
        assert ended(instance, id)["state"] in ("failed", "complete")
        assert keys(instance) == {}


def submit_held(instance: Any, supervisor: int, text: str, folder: Path) -> str:
    """Submit an ensemble whose service dies over it; its supervisor is stopped, so that none comes after it."""
    os.kill(supervisor, signal.SIGSTOP)
    with contextlib.suppress(ServiceError, NoService):
        id = str(request(instance, "submit", {"text": text, "submitter": {}})["id"])
        # the answer comes before the first event is taken in
        until(lambda: deaths(folder), "the service's death")
        return id
    raise AssertionError("it died before it answered")


@pytest.mark.parametrize("seed", range(SEED, SEED + SOAK))
def test_killed_at_random_moments(flux_instance: Any, tmp_path: Path, seed: int) -> None:
    """Twenty kills in the life of 200 jobs, at moments of which only the seed knows."""
    moments = random.Random(seed)
    heads = 40
    marks = sorted(moments.sample(range(5 * heads - 5), 20))
    with dying(flux_instance, tmp_path, []) as process:
        id = submit(flux_instance, chains(heads))
        for mark in marks:
            until(lambda mark=mark: ask(flux_instance, "status", {"id": id})["jobs"]["finished"] >= mark, "progress")
            pid = ask(flux_instance, "stats", {})["pid"]
            time.sleep(moments.uniform(0.0, 0.2))
            os.kill(pid, signal.SIGKILL)
            gone(pid)
            assert process.poll() is None, "the supervisor has ended"
        count = Count(flux_instance, id, each(heads))
        count.told("killed at random moments", len(marks))
        count.check(each(heads))


@pytest.mark.parametrize("number", range(2 if SOAK == 1 else 30 * SOAK))
def test_killed_with_a_burst_on_its_way(flux_instance: Any, tmp_path: Path, number: int) -> None:
    """200 submissions at once, and death while up to all of them are on their way: those that come to be are found."""
    jobs = 200
    moment = random.Random(SEED + number).randint(1, jobs)
    text = f"jobs: [{{name: a, command: 'true', count: {jobs}{MOCK}}}]\n" + (
        "rules: [{trigger: start, action: {name: submit, label: a}}]\n"
    )
    with dying(flux_instance, tmp_path, [f"burst {moment}"]):
        count = Count(flux_instance, submit(flux_instance, text), {"a": jobs})
        assert deaths(tmp_path) == ["burst"]
        count.told(f"killed with {moment} of {jobs} submissions sent", 1)
        count.check({"a": jobs})
