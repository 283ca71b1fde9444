# SPDX-License-Identifier: MIT
"""A service that cannot live, records that cannot be read, and an instance that goes down with much left to submit."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any, Dict, List

import pytest

from ensemble.service import supervisor
from t.faults.counting import Count, ask, chains, connect, dying, each, keys, progress, submit
from t.flux.processes import alive, gone, until
from t.flux_instance import running

pytestmark = [pytest.mark.flux, pytest.mark.slow, pytest.mark.timeout(300)]


def test_the_supervisor_gives_up(flux_instance: Any) -> None:
    """Quick deaths again and again: one clear line in the log, and the commands say what happened."""
    stats = supervisor.start_detached(flux_instance.env, 60.0)
    id = submit(flux_instance, chains(2, head="sleep 20"))
    killed = 0
    while killed < supervisor.MAX_QUICK:
        pid = until(lambda: pid_of_service(flux_instance, stats["supervisor_pid"]), "the service")
        os.kill(pid, signal.SIGKILL)
        killed += 1
        gone(pid)
    gone(stats["supervisor_pid"])
    line = "was killed by SIGKILL, for the 5th time in a row"
    dmesg = flux_instance.run("flux", "dmesg").stdout.splitlines()
    assert len([one for one in dmesg if line in one and "ensemble.err" in one]) == 1
    for verb in (["list"], ["status", id], ["service", "status"]):
        done = flux_instance.run("flux", "ensemble", *verb, check=False)
        assert done.returncode != 0
        assert line in done.stderr, done.stderr
        assert "flux ensemble service start" in done.stderr
    flux_instance.run("flux", "ensemble", "service", "start")
    count = Count(flux_instance, id, each(2))
    count.told("quick deaths, given up, started by hand", killed)
    count.check(each(2))
    flux_instance.run("flux", "ensemble", "service", "stop")
    done = flux_instance.run("flux", "ensemble", "list", check=False)
    assert "given up" not in done.stderr, "what was, was told of until a service ran again"


def pid_of_service(instance: Any, parent: int) -> int:
    """The living child of the supervisor, 0 while there is none."""
    try:
        with open(f"/proc/{parent}/task/{parent}/children") as children:
            return next((pid for pid in map(int, children.read().split()) if alive(pid)), 0)
    except OSError:
        return 0


DAMAGE: Dict[str, Any] = {
    "a corrupt event": lambda handle, id: put(handle, f"ensemble.{id}.log.1", '[1,[1,"Begin"'),
    "a snapshot that is none": lambda handle, id: put(handle, f"ensemble.{id}.snapshot", '{"number":1,"seq":1}'),
    "a newer format": lambda handle, id: put(
        handle, f"ensemble.{id}.given", json.dumps({**json.loads(get(handle, f"ensemble.{id}.given")), "format": 99})
    ),
}


def put(handle: Any, key: str, value: str) -> None:
    from flux.core.inner import raw
    from flux.kvs import KVSTxn

    txn = KVSTxn(handle)
    raw.flux_kvs_txn_put_raw(txn.txn, 0, key.encode(), value.encode(), len(value.encode()))
    txn.commit()


def get(handle: Any, key: str) -> str:
    import base64

    value = handle.rpc("kvs.lookup", {"key": key, "namespace": "primary", "flags": 0}).get()["val"]
    return base64.b64decode(value["data"]).decode()


def test_records_that_cannot_be_read(flux_instance: Any, tmp_path: Path) -> None:
    """Each such ensemble is quarantined with its reason, after a kill of the service; the one between them goes on."""
    ids: List[str] = []
    with dying(flux_instance, tmp_path, []) as process:
        for _ in range(len(DAMAGE) + 1):
            ids.append(
                str(ask_once(flux_instance, {"text": chains(2, head="sleep 3"), "submitter": {"cwd": "/"}})["id"])
            )
        sound = ids.pop(1)
        os.kill(process.pid, signal.SIGSTOP)
        pid = ask(flux_instance, "stats", {})["pid"]
        os.kill(pid, signal.SIGKILL)
        gone(pid)
        handle = connect(flux_instance)
        for id, damage in zip(ids, DAMAGE.values()):
            damage(handle, id)
        os.kill(process.pid, signal.SIGCONT)
        for id, what in zip(ids, DAMAGE):
            status = ask(flux_instance, "status", {"id": id})
            assert status["state"] == "failed", what
            assert status["reason"].startswith("quarantined: "), what
            if what == "a newer format":
                assert "format 99" in status["reason"]
        count = Count(flux_instance, sound, each(2))
        count.told("records that cannot be read", len(DAMAGE))
        count.check(each(2))
        shown = flux_instance.run("flux", "ensemble", "list").stdout
        assert shown.count("quarantined") == len(DAMAGE)
        assert "is quarantined" in flux_instance.run("flux", "dmesg").stdout
        # none of their jobs was submitted again
        assert all(len(found) == 1 for found in keys(flux_instance).values())


def ask_once(instance: Any, payload: Dict[str, Any]) -> Dict[str, Any]:
    from t.faults.counting import request

    return request(instance, "submit", payload)


def test_a_shutdown_in_mid_run_submits_nothing(tmp_path: Path) -> None:
    """Thousands of submissions are held when the instance goes down: none goes out after the word of the shutdown."""
    (tmp_path / "state").mkdir()
    options = [f"-Sstatedir={tmp_path / 'state'}"]
    many = 3000
    text = f"jobs: [{{name: a, command: 'sleep 0.05', count: {many}}}]\nlimits: {{max_active: 20}}\n" + (
        "rules: [{trigger: start, action: {name: submit, label: a}}]\n"
    )
    with running(options=options) as instance, dying(instance, tmp_path / "1", []):
        id = submit(instance, text)
        until(lambda: progress(instance, id) >= 20, "some progress")
        assert instance.stop() == 0
    with running(options=options) as instance:
        from t.faults.test_restart import intents

        before, after = intents(instance, id)
        found = keys(instance)
        assert after == set()
        assert found.keys() <= before
        assert all(len(ids) == 1 for ids in found.values())
        assert len(found) < many / 2, "it was not in the middle of it"
        print(
            f"FAULTS shutdown in mid-run: 1 faults, {len(found)} of {many} submitted, after the shutdown {len(after)}"
        )
        # what was being submitted is made good after the restart
        with dying(instance, tmp_path / "2", []):
            until(lambda: progress(instance, id) >= len(found), "its going on")
            ask(instance, "cancel", {"id": id})
            until(lambda: ask(instance, "status", {"id": id})["state"] == "cancelled", "its end")
            assert all(len(ids) == 1 for ids in keys(instance).values())
