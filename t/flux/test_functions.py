# SPDX-License-Identifier: MIT
"""Custom functions in a real instance: answers, generations, a killed service, and functions that mean no good."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Dict, List

import pytest

from t import steered
from t.faults.counting import ask
from t.flux.processes import gone, until

pytestmark = [pytest.mark.flux, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def service(flux_instance: Any) -> Any:
    from t.flux.real_service import serving

    with serving(flux_instance) as made:
        yield made


def submit(service: Any, text: str, folder: Path) -> str:
    submitter = {**service.submitter, "cwd": str(folder)}
    return str(service.ask("submit", {"text": text, "file": "it.yaml", "submitter": submitter})["id"])


def ended(instance: Any, id: str) -> Dict[str, Any]:
    def look() -> Any:
        status = ask(instance, "status", {"id": id})
        return status if status["t_end"] is not None else None

    found: Dict[str, Any] = until(look, "the end of the ensemble")
    return found


def log(instance: Any, id: str) -> List[Dict[str, Any]]:
    return list(ask(instance, "log", {"id": id, "max": 1000})["records"])


def test_answers(service: Any, flux_instance: Any, tmp_path: Path) -> None:
    id = submit(service, steered.ANSWERS, tmp_path)
    steered.check_answers(ended(flux_instance, id), log(flux_instance, id), "0")


def test_generations(service: Any, flux_instance: Any, tmp_path: Path) -> None:
    id = submit(service, steered.GENERATIONS, tmp_path)
    status = ended(flux_instance, id)
    jobs = ask(flux_instance, "jobs", {"id": id, "max": 100})["jobs"]
    steered.check_generations(status, jobs, log(flux_instance, id))


def test_a_call_is_made_again_when_the_service_was_killed(service: Any, flux_instance: Any, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    id = submit(service, steered.SLOW.replace("CALLS", str(calls)), tmp_path)
    until(lambda: calls.exists() and calls.read_text().strip(), "the first call")
    pid = service.pid
    os.kill(pid, signal.SIGKILL)
    gone(pid, int(calls.read_text().split()[0]))
    status = ended(flux_instance, id)
    assert status["state"] == "complete"
    assert len(calls.read_text().split()) == 2, "called again, once"
    assert status["groups"]["work"]["success"] == 2, "and its answer took effect once"
    assert [rule["id"] for rule in status["rules"]] == ["rule-1", "added"]
    assert "checked 2" in steered.texts(log(flux_instance, id), "log")


def test_added_rules_and_states_survive_a_killed_service(service: Any, flux_instance: Any, tmp_path: Path) -> None:
    text = f"""
jobs:
  - {{name: hold, command: "sh -c 'while [ ! -e {tmp_path}/go ]; do sleep 0.1; done'"}}
custom: |
  def f(state):
      state["n"] = state.get("n", 0) + 1
      print("n", state["n"])
      return Rule("job-success", name="hold", action=Action("custom", label="f")) if state["n"] == 1 else None
rules:
  - {{trigger: start, actions: [{{name: custom, label: f}}, {{name: submit, label: hold}}]}}
"""
    id = submit(service, text, tmp_path)
    until(lambda: len(ask(flux_instance, "status", {"id": id})["rules"]) == 2, "the rule")
    until(lambda: ask(flux_instance, "status", {"id": id})["jobs"]["running"] == 1, "the job")
    pid = service.pid
    os.kill(pid, signal.SIGKILL)
    gone(pid)
    assert [rule["id"] for rule in ask(flux_instance, "status", {"id": id})["rules"]] == ["rule-1", "rule-1-1"]
    (tmp_path / "go").write_text("")
    assert ended(flux_instance, id)["state"] == "complete"
    assert steered.texts(log(flux_instance, id), "log") == ["n 1", "n 2"]


def test_the_service_and_others_go_on_whatever_a_function_does(
    service: Any, flux_instance: Any, tmp_path: Path
) -> None:
    pid = service.pid
    hold = f"jobs: [{{name: w, command: \"sh -c 'while [ ! -e {tmp_path}/go ]; do sleep 0.1; done'\"}}]\n"
    other = submit(service, hold + "rules: [{trigger: start, action: {name: submit, label: w}}]\n", tmp_path)
    ids = {deed: submit(service, steered.EVIL.replace("BODY", body), tmp_path) for deed, body in steered.DEEDS.items()}
    for deed, id in ids.items():
        assert ended(flux_instance, id)["state"] == "complete", deed
        told = steered.texts(log(flux_instance, id), "error")
        assert any(text.startswith("rule 'rule-1' failed: function 'evil'") for text in told), (deed, told)
    (tmp_path / "go").write_text("")
    assert ended(flux_instance, other)["state"] == "complete"
    assert service.pid == pid, "it was the same service all the time"
    assert "quarantined" not in flux_instance.run("flux", "dmesg").stdout


def test_a_handle_among_all_keywords_is_one(service: Any, flux_instance: Any, tmp_path: Path) -> None:
    text = """
jobs: [{name: a, command: "true"}]
custom: |
  def f(**kwargs):
      import flux.core.handle, flux.job
      handle = kwargs["handle"]
      print(isinstance(handle, flux.core.handle.Flux), handle.attr_get("size"))
      print(int(flux.job.submit(handle, flux.job.JobspecV1.from_command(["true"]))) > 0)
rules: [{trigger: start, action: {name: custom, label: f}}]
"""
    id = submit(service, text, tmp_path)
    assert ended(flux_instance, id)["state"] == "complete", log(flux_instance, id)
    assert steered.texts(log(flux_instance, id), "log") == ["True 1", "True"]
