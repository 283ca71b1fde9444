# SPDX-License-Identifier: MIT
"""The broker of rank 0 is killed: the ensemble agrees with the last checkpoint of the KVS, and goes on from there."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import List

import pytest

from t.faults.counting import SOAK, Count, ask, chains, dying, each, kill_broker, progress, submit
from t.flux.processes import until
from t.flux_instance import running

pytestmark = [pytest.mark.flux, pytest.mark.slow, pytest.mark.timeout(600)]
SEED = 20261123


def options(folder: Path, period: str) -> List[str]:
    folder.mkdir(exist_ok=True)
    return [f"-Sstatedir={folder}", f"--conf=kvs.checkpoint-period={period}"]


@pytest.mark.parametrize("number", range(SOAK))
def test_killed_with_a_checkpoint_period(tmp_path: Path, number: int) -> None:
    """Twice in the life of one ensemble; what came after a checkpoint never was, for jobs and ensemble alike."""
    moments = random.Random(SEED + number)
    heads = 12
    begin = options(tmp_path / "state", "1s")
    id = ""
    for life in (1, 2, 3):
        with running(options=begin) as instance, dying(instance, tmp_path / str(life), []):
            if life == 1:
                id = submit(instance, chains(heads, head="sleep 1", link="sleep 0.3"))
            else:
                assert ask(instance, "status", {"id": id})["state"] == "running"
            if life < 3:
                mark = progress(instance, id)
                until(lambda i=instance, m=mark, id=id: progress(i, id) >= m + 8, "some progress")
                time.sleep(moments.uniform(0.0, 1.5))
                kill_broker(instance)
                continue
            count = Count(instance, id, each(heads))
            count.told("rank 0 killed", 2)
            count.check(each(heads))


def test_killed_right_after_the_answer(tmp_path: Path) -> None:
    """Without a checkpoint but the one that the submitter waited for: the ensemble is there."""
    heads = 4
    begin = options(tmp_path / "state", "1h")
    with running(options=begin) as instance, dying(instance, tmp_path / "1", []):
        id = submit(instance, chains(heads))
        kill_broker(instance)
    with running(options=begin) as instance, dying(instance, tmp_path / "2", []):
        count = Count(instance, id, each(heads))
        count.told("rank 0 killed right after the answer", 1)
        count.check(each(heads))
