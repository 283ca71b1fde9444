# SPDX-License-Identifier: MIT
"""A member of an ensemble goes away: what is lost with it is made good, and nothing is lost or doubled when it comes back."""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from t.faults.counting import (
    ask,
    chains,
    dying,
    each,
    ended,
    keys,
    kill_broker,
    progress,
    shut_down_unheard,
    submit,
)
from t.flux.processes import until
from t.flux_instance import FluxInstance, running

pytestmark = [pytest.mark.flux, pytest.mark.slow, pytest.mark.timeout(400)]
HEADS = 8
GROUPS = each(HEADS)


class Away:
    """An instance that keeps its address and its state over its lives."""

    def __init__(self, folder: Path) -> None:
        # short, as a socket's path must be
        self.rundir = Path(tempfile.mkdtemp(prefix="ens-away-"))
        self.state = folder / "away"
        self.state.mkdir()
        self.instance = self.begin()

    def begin(self) -> FluxInstance:
        options = [f"--test-rundir={self.rundir}", f"-Sstatedir={self.state}", "--conf=kvs.checkpoint-period=1s"]
        self.instance = FluxInstance(options=options)
        return self.instance

    def end(self) -> None:
        self.instance.stop()
        self.instance.remove()


@contextlib.contextmanager
def away(folder: Path) -> Iterator[Away]:
    one = Away(folder)
    try:
        yield one
    finally:
        one.end()
        shutil.rmtree(one.rundir, ignore_errors=True)


def text(uri: str, timeout: str = "120s", member: str = "a", **given: Any) -> str:
    file = chains(HEADS, more=f", member: {member}", **given)
    return f"members: {{a: {{uri: '{uri}', timeout: {timeout}}}}}\n{file}"


def check(status: Dict[str, Any], rows: List[Dict[str, Any]], *instances: FluxInstance) -> None:
    """None twice, none missing, each job a success once."""
    found: Dict[str, List[int]] = collections.defaultdict(list)
    for instance in instances:
        for key, ids in keys(instance).items():
            if key.startswith(f"{status['id']}/"):
                found[key] += ids
    assert {key: ids for key, ids in found.items() if len(ids) > 1} == {}
    assert status["state"] == "complete", status
    bad = [row for row in rows if row["result"] not in ("success", "retried")]
    assert not bad, bad
    good = collections.Counter((row["rule"], row["firing"], row["index"]) for row in rows if row["result"] == "success")
    assert set(good.values()) == {1}
    assert len(good) == sum(GROUPS.values())
    for group, number in GROUPS.items():
        assert status["groups"][group]["success"] == status["groups"][group]["submitted"] == number


def rows_of(instance: FluxInstance, id: str) -> List[Dict[str, Any]]:
    rows: List[Dict[str, Any]] = ask(instance, "jobs", {"id": id, "max": 10000})["jobs"]
    return rows


def log_of(instance: FluxInstance, id: str) -> str:
    records = ask(instance, "log", {"id": id, "since": 0, "max": 10000})["records"]
    return "\n".join(str(record.get("text")) for record in records)


def down(instance: FluxInstance, id: str) -> bool:
    return bool(ask(instance, "status", {"id": id})["members"]["a"] != "up")


def unheard(home: FluxInstance, other: FluxInstance) -> None:
    """Shut it down while what follows it there gets no time."""
    service = ask(home, "stats", {})["pid"]
    children = Path(f"/proc/{service}/task/{service}/children").read_text().split()
    (pid,) = [int(child) for child in children if b"flux_remote" in Path(f"/proc/{child}/cmdline").read_bytes()]
    shut_down_unheard(other, pid)


@pytest.mark.parametrize("how", ["killed", "shut down", "shut down unheard"])
def test_an_instance_is_restarted_over_its_state(tmp_path: Path, how: str) -> None:
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        if restarted_over_its_state(folder, how):
            return
        print("Flux's scheduler gave up as the instance came back: tried again in another one")
    pytest.fail("Flux's scheduler gave up three times")


def scheduler_gave_up(instance: FluxInstance) -> bool:
    """Flux 0.88, restarted after a crash, may allocate a job twice, and then schedules nothing more. It says so."""
    time.sleep(0.5)
    return "alloc: stop due to alloc response error" in instance.run("flux", "dmesg").stdout


def restarted_over_its_state(tmp_path: Path, how: str) -> bool:
    """False where Flux itself did not come back, so that nothing was seen of what is looked at here."""
    with away(tmp_path) as other, running() as home, dying(home, tmp_path / "1", []):
        id = submit(home, text(other.instance.uri, head="sleep 2", link="sleep 0.5"))
        until(lambda: progress(home, id) >= 6, "some progress")
        if how == "killed":
            # else its KVS may go back to before any of those that run had begun, and Flux itself would begin them again
            other.instance.run("flux", "kvs", "put", "--sync", "t=1")
            kill_broker(other.instance)
        elif how == "shut down unheard":
            unheard(home, other.instance)
        else:
            assert other.instance.stop() == 0
        other.instance.remove()
        until(lambda: down(home, id), "the word that it is down")
        before = progress(home, id)
        other.begin()
        if how == "killed" and scheduler_gave_up(other.instance):
            kill_broker(other.instance)
            return False
        status = ended(home, id)
        rows = rows_of(home, id)
        check(status, rows, home, other.instance)
        assert before < sum(GROUPS.values())
        assert {row["member"] for row in rows} == {"a"}
        assert any(row["result"] == "retried" for row in rows)
        assert {row["cause"] for row in rows if row["result"] == "retried"} == {"infrastructure"}
        assert status["members"] == {"a": "up"}
    return True


def test_an_instance_never_comes_back(tmp_path: Path) -> None:
    """What may run elsewhere does, and no job has ended for good where it cannot."""
    with away(tmp_path) as other, running() as home, dying(home, tmp_path / "1", []):
        file = text(other.instance.uri, "2s", "[a, home]", head="sleep 2", link="sleep 0.5")
        file = file.replace(
            "rules:\n",
            "rules:\n  - {id: gone, trigger: member-gone, name: a, action: {name: log, value: '{event.name} it is'}}\n",
        )
        id = submit(home, file)
        until(lambda: progress(home, id) >= 3, "some progress")
        kill_broker(other.instance)
        status = ended(home, id)
        rows = rows_of(home, id)
        check(status, rows, home)
        assert {row["member"] for row in rows} == {"a", None}
        assert status["members"] == {"a": "gone"}
        assert [rule["fired"] for rule in status["rules"] if rule["id"] == "gone"] == [1]
        assert "a it is" in log_of(home, id)


def test_a_job_that_may_run_nowhere_else_fails(tmp_path: Path) -> None:
    file = (
        "members: {a: {uri: 'local:///nowhere/at/all', timeout: 0.5s}}\n"
        "jobs: [{name: g, command: 'true', member: a, count: 3}]\nrules: [{trigger: start, action: {name: submit, label: g}}]\n"
    )
    with running() as home, dying(home, tmp_path / "1", []):
        id = submit(home, file)
        status = ended(home, id)
        assert status["state"] == "failed"
        assert status["groups"]["g"]["failed"] == 3
        rows = rows_of(home, id)
        assert all("'a'" in row["note"] for row in rows), rows


def test_it_comes_back_with_jobs_that_were_given_up(tmp_path: Path) -> None:
    """They are cancelled, and not counted twice."""
    file = (
        "jobs:\n  - {name: g, command: sleep 600, member: [a, home], count: 2}\n"
        "  - {name: k, command: sleep 600}\nrules:\n  - {trigger: start, actions: [{name: submit, label: g}, {name: submit, label: k}]}\n"
    )
    with away(tmp_path) as other, running() as home, dying(home, tmp_path / "1", []):
        id = submit(home, f"members: {{a: {{uri: '{other.instance.uri}', timeout: 1s}}}}\n{file}")
        until(lambda: ask(home, "status", {"id": id})["groups"]["g"]["running"] == 2, "jobs that run there")
        pid = int(other.instance.run("flux", "getattr", "broker.pid").stdout)
        os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: ask(home, "status", {"id": id})["members"]["a"] == "gone", "that it is given up")
            until(lambda: len(rows_of(home, id)) == 5, "that they are tried again at home")
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: ask(home, "status", {"id": id})["members"]["a"] == "up", "that it is back")
        until(lambda: not other.instance.run("flux", "jobs", "-no", "{id}").stdout.strip(), "the end of its jobs")
        status = ask(home, "status", {"id": id})
        assert status["state"] == "running"
        counts = {name: n for name, n in status["groups"]["g"].items() if n}
        assert counts == {
            "submitted": 2,
            "active": 2,
            "retried": 2,
            **{n: counts[n] for n in ("running", "pending") if n in counts},
        }
        assert len(keys(other.instance)) == 2
        ask(home, "cancel", {"id": id})
        assert ended(home, id)["state"] == "cancelled"


def children(pid: int) -> List[int]:
    """The processes that drive members for the service of that id."""
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (one / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and b"flux_remote" in (one / "cmdline").read_bytes():
                found.append(int(one.name))
    return found


def test_the_service_and_its_processes_are_killed(tmp_path: Path) -> None:
    """In turn and in the middle of submissions; what was in doubt is looked for where it was sent."""
    with away(tmp_path) as other, running() as home, dying(home, tmp_path / "1", []):
        id = submit(home, text(other.instance.uri))
        for mark, service in ((3, True), (10, False), (17, True), (24, False)):
            until(lambda mark=mark: progress(home, id) >= mark, "some progress")
            pid = int(ask(home, "stats", {})["pid"])
            if service:
                os.kill(pid, signal.SIGKILL)
            else:
                (child,) = until(lambda pid=pid: children(pid), "the process that drives the member")
                os.kill(child, signal.SIGKILL)
            time.sleep(0.2)
        status = ended(home, id)
        rows = rows_of(home, id)
        check(status, rows, home, other.instance)
        assert {row["member"] for row in rows} == {"a"}
        assert not any(row["result"] == "retried" for row in rows)
