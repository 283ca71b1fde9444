# SPDX-License-Identifier: MIT
"""The Flux member beyond the contract: foreign jobs, what reaches a job, bursts, extra events, bad callbacks."""

# Without Flux nothing of this can be imported: the skip has to come first.
# ruff: noqa: E402

from __future__ import annotations

import json
import os
import time
from typing import Any, Dict, List

import pytest

pytestmark = pytest.mark.flux
try:
    import flux  # noqa: F401
except ImportError as exc:
    pytest.skip(f"Flux tests: the bindings do not load ({exc})", allow_module_level=True)

from ensemble.engine.actions import Submit
from ensemble.engine.events import BASE_EVENTS, Acknowledged, ActionDone, JobEvent, Key, Refused
from ensemble.errors import MemberError
from ensemble.members.base import Submitter
from ensemble.members.flux import FluxMember
from ensemble.members.flux_requests import WINDOW
from t.contract.flux_driver import LIFE, MOCK, FluxDriver, ended
from t.flux_instance import FluxInstance

QUICK = {"name": "quick", "command": "true"}


def jobspec(instance: FluxInstance, id: int) -> Dict[str, Any]:
    """What Flux has for a job, its environment included."""
    spec: Dict[str, Any] = json.loads(instance.run("flux", "job", "info", "--original", str(id), "jobspec").stdout)
    return spec


def test_no_event_of_200_foreign_jobs(driver: FluxDriver) -> None:
    run = driver.instance.run
    mock = "--setattr=system.exec.test.run_duration=0.001s"
    # One that looks like a job of ours, but of an ensemble that nobody has opened; and ones whose key is none.
    liars = ["e2/r/1/0/0", "e1", "e1/r/x/0/0", "e1/r/1/0/0/0", ""]
    driver.open("e1", MOCK, events=["alloc"])
    run("flux", "submit", "--cc=1-195", "--quiet", mock, "true")
    for liar in liars:
        run("flux", "submit", "--quiet", mock, f"--setattr=user.ensemble={json.dumps(liar)}", "true")
    run("flux", "submit", "--quiet", mock, "--setattr=user.ensemble=7", "true")
    id = driver.submit_id("e1", "mock")
    driver.wait_event(id, "clean")
    run("flux", "queue", "idle")
    driver.run_for(0.5)
    listed = run("flux", "jobs", "-a", "-n", "-o", "{id.dec}", "-c", "0").stdout.split()
    assert len(listed) >= 202
    assert {event.id for event in driver.of(JobEvent)} == {id}


def test_300_at_once_with_extra_events(driver: FluxDriver) -> None:
    """Each answered once, events in order though two streams bring them."""
    extra = ["validate", "depend", "priority", "alloc", "release", "free"]
    whole = ["submit", "validate", "depend", "priority", "alloc", "start", "finish", "release", "free", "clean"]
    driver.open("e1", MOCK, events=extra)
    keys = [driver.submit("e1", "mock") for _ in range(300)]
    driver.wait_for(lambda: ended(driver) == 300)
    assert sorted(event.key for event in driver.of(Acknowledged)) == sorted(keys)
    for key in keys:
        assert driver.names(driver.id(key)) == whole
        assert driver.event(driver.id(key), "alloc").context["ranks"] == "0"


def test_what_is_foreseen_for_ever_is_bounded_and_dropped_once_sent(driver: FluxDriver) -> None:
    driver.open("e1", MOCK)
    written = driver.member._requests._foreseen
    for number in range(500):
        driver.member.foresee("e1", Submit(Key("e1", "r", number, 0, 0), "mock", 0, {}))
    assert list(written) == [Key("e1", "r", number, 0, 0) for number in range(436, 500)]
    driver.perform("e1", Submit(Key("e1", "r", 499, 0, 0), "mock", 0, {}))
    driver.wait_for(lambda: driver.answers(Key("e1", "r", 499, 0, 0)))
    assert len(written) == 63


def test_two_that_burst_take_turns(driver: FluxDriver) -> None:
    """The few jobs of one ensemble do not wait behind the many of another."""
    driver.open("many", MOCK)
    driver.open("few", MOCK)
    for _ in range(WINDOW + 700):
        driver.submit("many", "mock", urgency=0)
    keys = [driver.submit("few", "mock", urgency=0) for _ in range(5)]
    driver.wait_for(lambda: all(driver.answers(key) for key in keys))
    assert len(driver.of(Acknowledged, "many")) < WINDOW + 500


def test_an_ensemble_that_asks_for_more_later(driver: FluxDriver) -> None:
    driver.open("e1", MOCK, events=["alloc"])
    driver.open("e2", MOCK)
    first = driver.submit_id("e1", "mock")
    driver.open("e3", MOCK, events=["alloc", "priority", "free"])
    third, second = driver.submit_id("e3", "mock"), driver.submit_id("e2", "mock")
    driver.wait_for(lambda: ended(driver) == 3)
    assert driver.names(first) == ["submit", "alloc", "start", "finish", "clean"]
    assert driver.names(second) == LIFE
    assert driver.names(third) == ["submit", "priority", "alloc", "start", "finish", "free", "clean"]


def test_the_jobspec_says_what_the_file_says(driver: FluxDriver) -> None:
    submitter = Submitter(
        environment={
            "PATH": os.environ["PATH"], "KEPT": "ü", "GONE": "1", "BYTES": "\udcff", "FLUX_URI": "local:///none",
            "FLUX_JOB_ID": "f1", "FLUX_PROXY_REMOTE": "elsewhere", "ENSEMBLE_ID": "other", "FLUX_EXEC_PATH": "/x",
        },
        cwd="/tmp",
        rlimits={"nofile": 99, "memlock": 5},
    )  # fmt: skip
    driver.open(
        "e1",
        {
            "name": "whole",
            "command": ["echo", "a b", 'quo"te', "@ENSEMBLE-KEY@"],
            "nodes": 2,
            "tasks": 3,
            "cores": 2,
            "gpus": 1,
            "exclusive": True,
            "duration": "90s",
            "workdir": "sub",
            "environment": {"SET": "x", "GONE": None},
            "bank": "shares",
            "urgency": 0,
            "input": "in",
            "output": "out-{{id}}",
            "error": "err",
            "shell": {"verbose": 2, "output.limit": "1M"},
            "attributes": {"dw": "persist", "system.foo.bar": [1], ".user.note": "n", "user.other": {"a": 1}},
        },
        submitter=submitter,
    )
    # A job for two nodes cannot run in an instance of one, and is refused for that; what was asked for is in J.
    key = driver.submit("e1", "whole")
    driver.wait_for(lambda: driver.answers(key))
    (submit,) = [event for event in driver.of(JobEvent) if event.name == "submit"]
    (answer,) = driver.answers(key)
    if isinstance(answer, Acknowledged):
        assert answer.id == submit.id
    assert submit.key == key
    spec = jobspec(driver.instance, submit.id)
    assert spec["version"] == 1
    slot = {"type": "slot", "count": 2, "label": "task"}
    slot["with"] = [{"type": "core", "count": 2}, {"type": "gpu", "count": 1}]
    assert spec["resources"] == [{"type": "node", "count": 2, "exclusive": True, "with": [slot]}]
    command = ["echo", "a b", 'quo"te', "@ENSEMBLE-KEY@"]
    assert spec["tasks"] == [{"command": command, "slot": "task", "count": {"total": 3}}]
    assert spec["attributes"]["user"] == {"note": "n", "other": {"a": 1}, "ensemble": str(key)}
    system = spec["attributes"]["system"]
    environment = system.pop("environment")
    assert environment == {
        "PATH": os.environ["PATH"], "KEPT": "ü", "FLUX_EXEC_PATH": "/x", "SET": "x",
        "ENSEMBLE_ID": "e1", "ENSEMBLE_JOB": str(key),
    }  # fmt: skip
    assert system == {
        "duration": 90.0,
        "cwd": "/tmp/sub",
        "job": {"name": "whole"},
        "bank": "shares",
        "dw": "persist",
        "foo": {"bar": [1]},
        "shell": {
            "options": {
                "rlimit": {"nofile": 99},
                "input": {"stdin": {"type": "file", "path": "in"}},
                "output": {
                    "stdout": {"type": "file", "path": "out-{{id.f58plain}}"},
                    "stderr": {"type": "file", "path": "err"},
                    "limit": "1M",
                },
                "verbose": 2,
            }
        },
    }
    assert submit.context["urgency"] == 0


def test_overrides(driver: FluxDriver) -> None:
    driver.open("e1", {**MOCK, "urgency": 3})
    plain, other = driver.submit_id("e1", "mock", urgency=0), driver.submit_id("e1", "mock", tasks=2, duration=7.5)
    assert driver.event(plain, "submit").context["urgency"] == 0
    assert driver.event(other, "submit").context["urgency"] == 3
    assert jobspec(driver.instance, plain)["resources"][0]["count"] == 1
    spec = jobspec(driver.instance, other)
    assert spec["resources"][0]["count"] == 2
    assert spec["attributes"]["system"]["duration"] == 7.5


def test_an_override_that_makes_no_sense_is_refused(driver: FluxDriver) -> None:
    driver.open("e1", {**QUICK, "tasks": 2})
    key = driver.submit("e1", "quick", nodes=3)
    driver.wait_for(lambda: driver.answers(key))
    assert driver.answers(key)[0].reason.startswith("group 'quick': 3 nodes cannot be shared by 2 tasks")


def test_refused_by_the_validator(driver: FluxDriver) -> None:
    driver.open(
        "e1", {**QUICK, "attributes": {"dependencies": [{"scheme": 1, "value": "x"}]}}, {**MOCK, "queue": "nowhere"}
    )
    keys = [driver.submit("e1", "quick"), driver.submit("e1", "mock")]
    driver.wait_for(lambda: all(driver.answers(key) for key in keys))
    for key, word in zip(keys, ("dependency scheme", "nowhere")):
        (answer,) = driver.answers(key)
        assert isinstance(answer, Refused)
        assert word in answer.reason
        assert answer.reason.startswith("Flux refused the job: ")


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"nodes": 3, "tasks": 2}, "3 nodes cannot be shared by 2 tasks"),
        ({"exclusive": True}, "'exclusive' needs 'nodes'"),
        ({"shell": {"verbose": 1, "verbose.more": 2}}, "leads through 'verbose'"),
        ({"attributes": {"a..b": 1}}, "no dotted name"),
        ({"attributes": {".user": "x"}}, "group 'quick'"),
    ],
)
def test_what_flux_cannot_say_opens_nothing(driver: FluxDriver, more: Dict[str, Any], what: str) -> None:
    with pytest.raises(MemberError, match=what):
        driver.open("e1", {**QUICK, **more})
    driver.open("e1", QUICK)
    driver.wait_event(driver.submit_id("e1", "quick"), "clean")


def test_scripts_reach_the_shell_as_they_are(driver: FluxDriver) -> None:
    braces = "echo '{{id}}' $0\n"
    driver.open(
        "e1",
        {"name": "braces", "script": braces},
        {"name": "long", "script": "# " + "x" * 200_000 + "\necho end\n"},
    )
    for group, expected in (("braces", "{{id}} "), ("long", "end\n")):
        id = driver.submit_id("e1", group)
        driver.wait_event(id, "clean")
        assert driver.event(id, "finish").context["status"] == 0
        assert driver.output("e1", id).startswith(expected)


def test_1000_cancels(driver: FluxDriver) -> None:
    driver.open("e1", MOCK)
    keys = [driver.submit("e1", "mock", urgency=0) for _ in range(1000)]
    driver.wait_for(lambda: len(driver.of(Acknowledged)) == 1000)
    for key in keys:
        driver.cancel("e1", driver.id(key))
    driver.wait_for(lambda: ended(driver) == 1000)
    assert [done.error for done in driver.of(ActionDone)] == [None] * 1000
    note = driver.event(driver.id(keys[0]), "exception").context["note"]
    assert note == "the test said so"


def test_callbacks_that_raise(driver: FluxDriver) -> None:
    """They are logged, and the reactor goes on."""
    plain, calls = driver.deliver, []

    def deliver(ensemble: str, event: Any) -> None:
        plain(ensemble, event)
        raise RuntimeError("oops from deliver")

    def late() -> None:
        calls.append(1)
        raise RuntimeError("oops from a timer")

    driver.deliver = deliver  # type: ignore[method-assign]
    driver.open("e1", MOCK)
    driver.member.call_at(time.time(), late)
    driver.wait_event(driver.submit_id("e1", "mock"), "clean")
    assert calls == [1]
    log = driver.instance.run("flux", "dmesg").stdout
    assert "oops from deliver" in log
    assert "oops from a timer" in log
    assert "Traceback" in log


def test_many_timers(driver: FluxDriver) -> None:
    called: List[int] = []
    now = time.time()
    timers = [driver.member.call_at(now + 0.2 + i / 1000, lambda i=i: called.append(i)) for i in range(500)]
    for timer in timers[::2]:
        timer.cancel()
    driver.wait_for(lambda: len(called) >= 250)
    driver.run_for(0.1)
    assert called == list(range(1, 500, 2))


def test_opened_before_start_it_gets_the_past(flux_instance: FluxInstance, driver: FluxDriver) -> None:
    """A second member that takes over an ensemble hears all of its jobs' events from the start, in order of time."""
    driver.open("past", MOCK, events=["alloc"])
    keys = [driver.submit("past", "mock") for _ in range(40)]
    driver.wait_for(lambda: ended(driver) == 40)
    held = driver.submit_id("past", "mock", urgency=0)
    driver.member.stop()

    class Late(FluxDriver):
        def begin(self) -> None:
            self.open("past", MOCK, events=["alloc"])
            super().begin()

    late = Late(instance=flux_instance)
    late.wait_for(lambda: ended(late) == 40 and late.names(held))
    past = [event for event in late.of(JobEvent) if event.id != held]
    assert [event.t for event in past] == sorted(event.t for event in past)
    assert {event.key for event in past if event.key} == set(keys)
    for key in keys:
        assert late.names(driver.id(key)) == ["submit", "alloc", "start", "finish", "clean"]
    next = late.submit_id("past", "mock")
    late.wait_event(next, "clean")
    late.close()


def test_no_instance() -> None:
    with pytest.raises(MemberError, match="no Flux instance"):
        FluxMember(uri="local:///nowhere/at-all")


def test_show(driver: FluxDriver) -> None:
    run = driver.instance.run
    driver.open("e1", MOCK)
    id = driver.submit_id("e1", "mock")
    assert run("flux", "job", "id", "--to=f58plain", str(id)).stdout.strip() == driver.member.show(id)
    assert driver.member.where("e1", id) == f"flux job attach {driver.member.show(id)}"
    assert set(BASE_EVENTS) >= {event.name for event in driver.of(JobEvent)}
    assert isinstance(driver.of(Acknowledged)[0].key, Key)
