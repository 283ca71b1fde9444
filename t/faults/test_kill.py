# SPDX-License-Identifier: MIT
"""kill -9 of the service, at named points and at any moment: no job is lost and none is run twice."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from t.faults.counting import CHAINS, GROUPS, Count, ask, deaths, dying, submit
from t.flux.processes import gone, until

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
        print(f"{name}: {len(POINTS[name])} faults, lost {count.lost}, doubled {len(count.doubled)}")
        count.check(GROUPS)


def test_killed_at_random_moments(flux_instance: Any, tmp_path: Path) -> None:
    """Ten kills, at moments of which only the seed knows."""
    moments = random.Random(SEED)
    kills = 0
    with dying(flux_instance, tmp_path, []) as process:
        id = submit(flux_instance, CHAINS)
        while kills < 10:
            time.sleep(moments.uniform(0.02, 0.6))
            if ask(flux_instance, "status", {"id": id})["state"] != "running":
                break
            pid = ask(flux_instance, "stats", {})["pid"]
            time.sleep(moments.uniform(0.0, 0.3))
            os.kill(pid, signal.SIGKILL)
            kills += 1
            gone(pid)
            until(lambda: process.poll() is None, "the supervisor")
        count = Count(flux_instance, id, GROUPS)
        print(f"random: {kills} faults, lost {count.lost}, doubled {len(count.doubled)}")
        count.check(GROUPS)
        assert kills == 10, "it ended too soon to be killed ten times"
