# SPDX-License-Identifier: MIT
"""Variables and expressions on a queue with real jobs: the example, and what `status` has of its variables."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, Callable, Dict, List

from hosts import Client, Host

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "adaptive-batches.yaml"


def run(client: Client, text: str) -> List[Dict[str, Any]]:
    """The records of an ensemble, to its end."""
    submitter = {"environment": dict(os.environ), "cwd": "/"}
    id = client.call("submit", {"text": text, "file": "test.yaml", "submitter": submitter})["ok"]["id"]
    watch = client.send("watch", {"id": id})
    records: List[Dict[str, Any]] = []
    while True:
        answer = client.read()
        assert answer is not None
        if answer["id"] != watch:
            continue
        if "errno" in answer:
            assert answer["errno"] == errno.ENODATA
            return records
        records += answer["ok"].get("records") or []


def test_adaptive_batches(start: Callable[..., Host], connect: Callable[[Host], Client]) -> None:
    client = connect(start())
    records = run(client, EXAMPLE.read_text())
    assert records[-1]["state"] == "complete", records[-1]
    sizes = [r["count"] for r in records if r["type"] == "action" and r["action"] == "submit"]
    assert sizes == ([2, 4, 8] + [16] * 20)[: len(sizes)]
    assert len(sizes) >= 2
    listed = client.call("list")["ok"]["ensembles"]
    status = client.call("status", {"id": listed[-1]["id"]})["ok"]
    assert status["variables"] == {
        "size": sizes[-1], "most": 16, "least": 6, "precision": 0.1, "batches": len(sizes),
    }  # fmt: skip
    assert [r["text"] for r in records if r["type"] == "log"][-1].endswith(f"s, in {len(sizes)} batches")


def test_a_condition_on_how_a_real_job_ended(start: Callable[..., Host], connect: Callable[[Host], Client]) -> None:
    text = """
jobs:
  - {name: three, script: exit 3}
  - {name: five, script: exit 5}
rules:
  - trigger: start
    actions: [{name: submit, label: three}, {name: submit, label: five}]
  - trigger: job-fail
    when: event.job.exit_code == 3 and event.group == 'three'
    repetitions: unlimited
    action: {name: log, value: "{event.group} ended with {event.job.exit_code}, cause {event.job.cause}"}
"""
    records = run(connect(start()), text)
    assert [r["text"] for r in records if r["type"] == "log"] == ["three ended with 3, cause fail"]
    assert records[-1]["state"] == "complete"
