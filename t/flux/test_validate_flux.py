# SPDX-License-Identifier: MIT
"""`validate` against a real instance: what it says does not fit is what Flux refuses, or never runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from t.flux_instance import FluxInstance

FLUX_OPTIONS = [
    "--conf=queues.batch.policy.limits.duration=1h",
    "--conf=queues.debug.policy.limits.job-size.max.nnodes=1",
    "--conf=policy.jobspec.defaults.system.queue=debug",
]

FILE = """jobs:
- {{name: a, command: "true", {}}}
rules:
- {{trigger: start, action: {{name: submit, label: a}}}}
"""


def validate(instance: FluxInstance, path: Path, *options: str) -> Any:
    return instance.run("flux", "ensemble", "validate", *options, str(path), check=False)


#: keys, how `flux submit` says the same, and what is wrong; None where nothing is
CASES = [
    ("cores: 1", "-c1", None),
    ("queue: batch, duration: 30m", "-qbatch -t30m", None),
    ("queue: nosuch", "-qnosuch", "this instance has no queue 'nosuch'"),
    ("queue: batch", "-qbatch", "'a' has no time limit, and the queue 'batch' takes jobs of at most 1h alone"),
    ("queue: batch, duration: 2h", "-qbatch -t2h", "'a' may run 2h, and the queue 'batch' takes jobs of at most 1h"),
    ("nodes: 2", "-N2 -n2", "a job of 'a' takes 2 nodes, and the queue 'debug' lets one take 1"),
]


@pytest.mark.parametrize(("keys", "options", "message"), CASES)
def test_what_flux_refuses_is_told(
    flux_instance: FluxInstance, tmp_path: Path, keys: str, options: str, message: Any
) -> None:
    (tmp_path / "f.yaml").write_text(FILE.format(keys))
    done = validate(flux_instance, tmp_path / "f.yaml", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    found = [one["message"] for one in told["warnings"]]
    assert message in found if message else found == []
    assert told["instance"]["queues"] == ["batch", "debug"]
    # urgency 0: none of them shall run
    flux = flux_instance.run("flux", "submit", "--urgency=0", *options.split(), "true", check=False)
    assert (flux.returncode != 0) == (message is not None), flux.stderr


def test_what_no_node_has_is_told(flux_instance: FluxInstance, tmp_path: Path) -> None:
    cores = flux_instance.cores
    (tmp_path / "f.yaml").write_text(FILE.format(f"cores: {cores + 1}"))
    done = validate(flux_instance, tmp_path / "f.yaml")
    assert done.returncode == 0
    message = f"a task of 'a' takes {cores + 1} cores, and no node of the queue 'debug' has more than {cores}"
    assert message in done.stderr
    assert f"held against an instance of 1 node with {cores} cores in all" in done.stdout
    assert validate(flux_instance, tmp_path / "f.yaml", "--no-instance").stderr == ""


def test_a_queue_that_takes_no_jobs_is_told(flux_instance: FluxInstance, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(FILE.format("queue: debug"))
    flux_instance.run("flux", "queue", "disable", "debug")
    try:
        assert "the queue 'debug' takes no jobs at present" in validate(flux_instance, tmp_path / "f.yaml").stderr
    finally:
        flux_instance.run("flux", "queue", "enable", "debug")


def test_an_instance_that_is_gone_keeps_no_file_from_being_checked(flux_instance: FluxInstance, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(FILE.format("cores: 1"))
    env = {**flux_instance.env, "FLUX_URI": f"local://{tmp_path}/none"}
    done = flux_instance.run("flux-ensemble", "validate", str(tmp_path / "f.yaml"), env=env, check=False)
    assert done.returncode == 0
    assert "the file is not held against the running instance: no Flux instance answers" in done.stderr
    assert "no faults" in done.stdout
