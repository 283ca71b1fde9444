# SPDX-License-Identifier: MIT
"""In a real instance: one ensemble with very much to do and a storm of others' jobs leave the rest their turn."""

# Without Flux nothing of this can be imported: the skip has to come first.

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any, Iterator, List

import pytest

try:
    import flux  # noqa: F401
except ImportError as exc:
    pytest.skip(f"Flux tests: the bindings do not load ({exc})", allow_module_level=True)

from ensemble.members.flux_requests import STEADY, WINDOW
from t.flux.processes import until
from t.flux.real_service import MOCK, RealService, serving

pytestmark = [pytest.mark.flux, pytest.mark.timeout(400)]

#: more than anybody waits for here; the jobs that this test lets begin are few
MANY = 100_000
BAG = f"""
name: bag
jobs: [{{name: a, command: 'true', count: {MANY}, {MOCK}}}]
rules: [{{trigger: start, action: {{name: submit, label: a}}}}]
"""
CHAIN = f"""
name: chain
jobs: [{{name: b, command: 'true', urgency: 31, {MOCK}}}]
rules:
  - {{trigger: start, action: {{name: submit, label: b}}}}
  - {{trigger: job-success, name: b, repetitions: 3, action: {{name: submit, label: b}}}}
"""


@pytest.fixture
def service(flux_instance: Any) -> Iterator[RealService]:
    with serving(flux_instance) as made:
        yield made


def finished(service: RealService, id: str) -> int:
    return int(service.ask("status", {"id": id})["jobs"]["finished"])


def test_100000_submissions_leave_a_chain_its_turn(service: RealService) -> None:
    """What the big one gets submitted between two links of the chain is a batch, never all that it has."""
    bag = service.submit(BAG)
    try:
        _race(service, bag)
    finally:
        service.ask("cancel", {"id": bag})
        until(lambda: service.ask("status", {"id": bag})["t_end"], "the end of the big one")


def _race(service: RealService, bag: str) -> None:
    until(lambda: service.ask("status", {"id": bag})["jobs"]["submitted"] > WINDOW, "the end of its burst")
    chain = service.submit(CHAIN)
    until(lambda: service.ask("status", {"id": chain})["t_end"], "the end of the chain")
    status = service.ask("status", {"id": bag})
    rows = until(lambda: service.ask("jobs", {"id": chain})["jobs"][3:] and service.ask("jobs", {"id": chain})["jobs"])
    assert len(rows) == 4
    assert status["jobs"]["active"] > MANY // 2, "the big one is not through: it was a fair race"
    between = [_submitted_between(service, bag, a["t_end"], b["t_submit"]) for a, b in zip(rows, rows[1:])]
    told = "a reaction waited for more than a few batches of another's submissions"
    # one of them may have met a moment in which the machine was not ours
    assert statistics.median(between) <= 4 * STEADY, (told, between)
    assert max(between) <= 12 * STEADY, (told, between)


def _submitted_between(service: RealService, id: str, begin: float, end: float) -> int:
    """Submissions of an ensemble that Flux took between two times, of those that its record tells."""
    count, since = 0, 0
    while True:
        answer = service.ask("log", {"id": id, "since": since, "max": 10_000})
        told = [one for one in answer["records"] if one["type"] == "job" and one["event"] == "submit"]
        count += sum(begin < one["t"] < end for one in told)
        since = answer["last"]
        if len(answer["records"]) < 10_000:
            return count


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_a_storm_of_jobs_leaves_the_service_its_size(flux_instance: Any, service: RealService) -> None:
    """Jobs of others and of its own, each more than a thousand: memory goes with what is active, not with what was."""
    quiet = service.submit(
        f"jobs: [{{name: a, command: x, {MOCK}}}]\nrules: [{{trigger: timer, after: 1h, action: {{name: submit, label: a}}}}]"
    )
    text = f"jobs: [{{name: a, command: 'true', count: 600, {MOCK}}}]\nrules: [{{trigger: start, action: {{name: submit, label: a}}}}]"
    foreign = ["flux", "submit", "--quiet", "--cc=1-600", "--setattr=system.exec.test.run_duration=0.001s", "true"]

    def storm() -> None:
        flux_instance.run(*foreign, timeout=200)
        id = service.submit(text)
        end = time.monotonic() + 200
        while service.ask("status", {"id": id})["t_end"] is None:
            assert time.monotonic() < end
            time.sleep(0.2)
        flux_instance.run("flux", "queue", "idle", timeout=200)

    # the first one fills what is kept of the recent past
    storm()
    sizes: List[int] = [_resident(service.pid)]
    for _ in range(2):
        storm()
        sizes.append(_resident(service.pid))
    grown = sizes[-1] - sizes[0]
    assert grown < 6 << 20, f"{grown / 2400:.0f} bytes a job"
    assert service.ask("status", {"id": quiet})["state"] == "running"
    service.ask("cancel", {"id": quiet})
