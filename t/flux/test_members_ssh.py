# SPDX-License-Identifier: MIT
"""A member on another machine, by `ssh://`: Flux runs what FLUX_SSH names, here a script that runs the command itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Dict, List

import pytest

from t.flux.processes import until
from t.flux.real_service import RealService, serving
from t.flux_instance import running

pytestmark = [pytest.mark.flux, pytest.mark.timeout(300)]
#: options and the host come first, then the command; while the file `cut` is there nobody answers
SSH = """\
#!/bin/sh
if [ -e {folder}/cut ]; then echo "ssh: connect to host: No route to host" >&2; exit 255; fi
while [ "${{1#-}}" != "$1" ]; do shift; done
echo "$$ $1" >>{folder}/calls
shift
exec sh -c "exec $*"
"""
FILE = """
members: {{far: {{uri: '{uri}', timeout: 1h}}}}
jobs:
  - {{name: g, script: 'echo "$ENSEMBLE_JOB" >>{folder}/ran; while [ ! -e {folder}/flag ]; do sleep 0.1; done', member: far}}
  - {{name: more, script: 'echo "$ENSEMBLE_JOB" >>{folder}/ran', member: far, count: 3}}
rules:
  - {{trigger: start, action: {{name: submit, label: g}}}}
  - {{id: down, trigger: member-down, name: far, action: {{name: submit, label: more}}}}
  - {{id: up, trigger: member-up, name: far, repetitions: unlimited, action: {{name: log, value: "{{event.name}} is back"}}}}
"""


def status(service: RealService, id: str) -> Dict[str, Any]:
    return service.ask("status", {"id": id})


def test_a_member_by_ssh_that_breaks_and_comes_back(tmp_path: Path) -> None:
    """What was submitted meanwhile waits, what ended meanwhile is told, and nothing runs twice."""
    script = tmp_path / "ssh"
    script.write_text(SSH.format(folder=tmp_path))
    script.chmod(0o755)

    def calls() -> List[List[str]]:
        path = tmp_path / "calls"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    with running(1, []) as home, running(1, []) as far:
        home.env["FLUX_SSH"] = str(script)
        with serving(home) as service:
            uri = f"ssh://localhost{far.uri[len('local://') :]}"
            id = service.submit(FILE.format(uri=uri, folder=tmp_path))
            until(lambda: status(service, id)["groups"]["g"]["running"] == 1, "the job beyond the line")
            lines = calls()
            assert {host for _, host in lines} == {"localhost"}
            (tmp_path / "cut").touch()
            for relay, _ in lines:
                os.kill(int(relay), signal.SIGKILL)
            until(lambda: status(service, id)["members"]["far"] == "down", "that it is down")
            found = status(service, id)
            assert (found["groups"]["g"]["running"], found["groups"]["more"]["active"]) == (1, 3)
            (tmp_path / "flag").touch()
            until(lambda: far.run("flux", "jobs", "-n").stdout == "", "the end of the job beyond the line")
            assert status(service, id)["groups"]["g"]["running"] == 1, "nobody has told yet"
            assert calls() == lines
            (tmp_path / "cut").unlink()
            until(lambda: status(service, id)["state"] not in ("running", "stopping"), "its end")
            found = status(service, id)
            assert (found["state"], found["members"]) == ("complete", {"far": "up"})
            assert found["groups"]["g"]["success"] == 1
            assert found["groups"]["more"]["success"] == 3
            ran = (tmp_path / "ran").read_text().split()
            assert len(ran) == len(set(ran)) == 4
            rows = service.ask("jobs", {"id": id, "max": 10})["jobs"]
            assert {row["where"].split()[:3][-1] for row in rows} == {uri}, "its output is found by the same way"
