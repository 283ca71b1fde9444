# SPDX-License-Identifier: MIT
"""Ensembles of the local queue outlive their service: killed runs go on, ended ones are seen and removed."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from ensemble.engine.events import Key
from t.unit.test_cli_local import LONG, PATIENCE, Place, Terminal, until

#: 12 jobs at once, a follower for each, and one job when all is done
BAG = """\
name: bag
jobs:
  - {name: first, script: "echo $ENSEMBLE_JOB >> KEYS; sleep 0.1", count: 12}
  - {name: second, script: "echo $ENSEMBLE_JOB >> KEYS"}
  - {name: last, script: "echo $ENSEMBLE_JOB >> KEYS; sleep 1"}
rules:
  - {trigger: start, action: {name: submit, label: first}}
  - {trigger: job-success, name: first, repetitions: unlimited, action: {name: submit, label: second}}
  - {trigger: metric, name: count.second.success, when: 12, action: {name: submit, label: last}}
"""
#: so often each rule fires, and so many jobs each group has, when nothing disturbs
FIRED = [1, 12, 1]
SUCCESS = {"first": 12, "second": 12, "last": 1}
#: rule, firing and index of a job, and how often it has begun
Ended = Dict[Tuple[str, int, int], int]


class Site(Place):
    """A place whose ensembles are kept in `state`."""

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    def bag(self) -> str:
        return self.write(BAG.replace("KEYS", str(self.keys)))

    def ran(self) -> List[Key]:
        """Keys of all jobs that have begun, as they told it themselves."""
        return [Key.parse(line) for line in self.keys.read_text().split()] if self.keys.exists() else []

    def kept(self) -> List[str]:
        return [path.parent.name for path in (self.state / "ensemble").glob("*/ensemble.db")]

    def kill(self, process: subprocess.Popen[str]) -> None:
        """The command and its service at once, as by a power cut."""
        (socket,) = self.sockets()
        os.kill(process.pid, signal.SIGKILL)
        os.kill(int(socket.stem), signal.SIGKILL)
        process.communicate(timeout=PATIENCE)
        until(lambda: not Path("/proc", socket.stem).exists() or _zombie(socket.stem))
        socket.unlink(missing_ok=True)

    def json(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def ended(self, id: str) -> Ended:
        """Jobs that the file knows as ended well, and how often each has begun by then."""
        rows = self.json("jobs", id)["jobs"]
        begun = collections.Counter((key.rule, key.firing, key.index) for key in self.ran())
        done = [(row["rule"], row["firing"], row["index"]) for row in rows if row["result"] == "success"]
        return {job: begun[job] for job in done}


def _zombie(pid: str) -> bool:
    with contextlib.suppress(OSError):
        return Path("/proc", pid, "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    return True


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    runtime = Path(tempfile.mkdtemp(prefix="ens-"))
    place = Site(tmp_path, runtime)
    yield place
    for path in place.sockets():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.stem), signal.SIGTERM)
    assert until(lambda: not place.sockets())
    shutil.rmtree(runtime)


def killed(site: Site, begun: int) -> str:
    """Run the bag and kill it once so many jobs have begun; the ensemble's id."""
    process = site.start("run", site.bag())
    until(lambda: site.kept() and len(site.ran()) >= begun)
    site.kill(process)
    (id,) = site.kept()
    return id


def check(site: Site, id: str, ended: Ended) -> None:
    """It stands as if nothing had happened, and `ended`, which had ended before, was not run again."""
    status = site.json("status", id)
    assert status["state"] == "complete"
    assert {group: counts["success"] for group, counts in status["groups"].items()} == SUCCESS
    assert {name: count for name, count in status["jobs"].items() if name != "retried"} == {
        "submitted": 25, "pending": 0, "running": 0, "active": 0, "finished": 25, "success": 25, "failed": 0,
        "cancelled": 0,
    }  # fmt: skip
    assert [rule["fired"] for rule in status["rules"]] == FIRED
    ran = site.ran()
    assert len(set(ran)) == len(ran), "no key has two jobs"
    jobs = [(key.rule, key.firing, key.index) for key in ran]
    assert len(set(jobs)) == 25
    assert {job: jobs.count(job) for job in ended} == ended, "what has ended is not run again"
    rows = site.json("jobs", id)["jobs"]
    assert sum(row["result"] == "success" for row in rows) == 25
    ids = [row["id"] for row in rows if row["id"] is not None]
    assert len(set(ids)) == len(ids), "a number is given once"
    seqs = [json.loads(line)["seq"] for line in site.run("log", id, "--json").stdout.splitlines()]
    assert seqs == list(range(1, len(seqs) + 1))


def test_undisturbed(site: Site) -> None:
    done = site.run("run", site.bag())
    assert done.returncode == 0, done.stderr
    check(site, site.kept()[0], {})


@pytest.mark.parametrize("begun", [0, 1, 5, 12, 18, 24])
def test_a_killed_run_goes_on(site: Site, begun: int) -> None:
    id = killed(site, begun)
    ended = site.ended(id)
    done = site.run("resume", id)
    if done.returncode:
        # it had come to its end before it was killed
        assert f"{id} (bag) has ended: complete" in done.stderr
    else:
        assert "goes on where its run ended" in done.stderr
        assert "bag" in done.stdout
        assert ": complete after " in done.stdout
    check(site, id, ended)
    assert site.sockets() == []


def test_killed_again_and_again(site: Site) -> None:
    """More often than a lost job is tried again, and in the end by its name."""
    id = killed(site, 1)
    ended = site.ended(id)
    for begun in (3, 5, 7, 9, 11):
        process = site.start("resume", id)
        until(lambda: site.sockets() and len({(k.rule, k.firing, k.index) for k in site.ran()}) >= begun)  # noqa: B023
        site.kill(process)
        ended = {**site.ended(id), **ended}
    done = site.run("resume", "bag", "--json")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert records[-1]["state"] == "complete"
    assert records[0]["type"] != "submitted", "what was told before is not told again"
    check(site, id, ended)


def test_a_died_one_is_seen_and_resumed_on_a_terminal(site: Site) -> None:
    id = killed(site, 3)
    (summary,) = site.json("list")
    assert (summary["id"], summary["state"]) == (id, "running")
    why = f"its run died; `ensemble resume {id}` continues it"
    assert summary["reason"] == why
    assert site.json("status", id[:4])["reason"] == why
    watched = site.run("watch", "bag")
    assert watched.returncode == 1
    assert watched.stderr.splitlines()[-1].endswith(why)
    assert "submitted" in watched.stdout
    refused = site.run("cancel", id)
    assert refused.returncode == 1
    assert why in refused.stderr
    terminal = Terminal(site, "resume", id, COLUMNS="100", LINES="30")
    terminal.expect("goes on where its run ended")
    assert terminal.end() == 0
    assert "\x1b[" in terminal.seen
    assert site.run("watch", id).returncode == 0
    assert site.run("resume", id).returncode == 1


def test_two_do_not_take_up_the_same(site: Site) -> None:
    process = site.start("run", site.write(LONG))
    until(lambda: site.kept() and site.json("list")[0]["jobs"]["running"] == 1)
    (id,) = site.kept()
    site.kill(process)
    first = site.start("resume", id)
    until(lambda: site.sockets() and site.json("list")[0]["jobs"]["running"] == 1)
    # out of sight of the first one
    other = {**site.env, "XDG_RUNTIME_DIR": str(site.folder / "elsewhere")}
    done = subprocess.run(
        site.command("resume", id), capture_output=True, text=True, env=other, cwd=site.folder, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert f"another process runs ensemble {id}" in done.stderr
    # and in sight of it, it is the resume of a paused one
    assert site.run("pause", id).returncode == 0
    assert site.run("resume", id).stdout == f"{id}: running\n"
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=PATIENCE)
    assert first.returncode == 4


def test_a_halted_one_carries_on_without_its_service(site: Site) -> None:
    text = BAG.replace("KEYS", str(site.keys)).replace("rules:", "limits: {max_jobs: 14}\nrules:")
    assert site.run("run", site.write(text)).returncode == 3
    (id,) = site.kept()
    assert site.json("status", id)["state"] == "halted"
    ended = site.ended(id)
    done = site.run("resume", id)
    assert done.returncode == 1
    assert "--limit" in done.stderr
    assert site.run("resume", id, "--limit", "max_jobs=100").returncode == 0
    check(site, id, ended)


def test_others_in_the_folder_are_left_alone(site: Site) -> None:
    """A new run beside one that died."""
    id = killed(site, 1)
    before = site.json("status", id)["jobs"]
    site.keys.unlink()
    assert site.run("run", site.bag()).returncode == 0
    assert site.json("status", id)["jobs"] == before
    new = [one["id"] for one in site.json("list") if one["id"] != id]
    check(site, new[0], {})


def test_purge(site: Site) -> None:
    ended = []
    for text in (site.bag(), site.bag()):
        assert site.run("run", text).returncode == 0
        ended += [id for id in site.kept() if id not in ended]
    site.keys.unlink()
    process = site.start("run", site.write(BAG.replace("KEYS", str(site.keys)).replace("name: bag", "name: died")))
    until(lambda: len(site.ran()) >= 1)
    site.kill(process)
    (died,) = set(site.kept()) - set(ended)
    refused = site.run("purge", died)
    assert refused.returncode == 1
    assert "has not ended" in refused.stderr
    assert site.json("purge", "--older-than", "1h") == {"removed": []}
    assert site.json("purge", "--keep", "2") == {"removed": []}
    assert [one["id"] for one in site.json("purge", "--keep", "1")["removed"]] == ended[:1]
    assert sorted(site.kept()) == sorted([ended[1], died])
    done = site.run("purge")
    assert done.stdout == f"{ended[1]}: removed (bag, complete)\n"
    assert site.kept() == [died]
    assert list((site.state / "ensemble" / ended[1]).glob("*.out")), "the jobs' output stays"
    assert site.run("status", ended[1]).returncode == 1
    assert "nothing to remove" in site.run("purge").stderr
    assert site.run("purge", "--older-than", "soon").returncode == 2


def test_purge_of_what_a_living_service_has(site: Site) -> None:
    short = site.run("submit", site.bag()).stdout.strip()
    assert site.run("watch", short).returncode == 0
    long = site.run("submit", site.write(LONG)).stdout.strip()
    assert [one["id"] for one in site.json("purge")["removed"]] == [short]
    assert site.kept() == [long]
    assert [one["id"] for one in site.json("list")] == [long]
    assert site.run("purge", long).returncode == 1
    assert site.run("service", "stop").returncode == 0


def test_a_full_disk_is_waited_out(site: Site) -> None:
    """The service may write no byte for a while: nothing acts meanwhile, and then all is as ever."""
    import resource

    process = site.start("run", site.bag())
    until(lambda: len(site.ran()) >= 3)
    service = int(site.sockets()[0].stem)
    before = resource.prlimit(service, resource.RLIMIT_FSIZE)
    resource.prlimit(service, resource.RLIMIT_FSIZE, (1, before[1]))
    log = site.state / "ensemble" / "service.log"
    (id,) = site.kept()
    stopped: Dict[str, Any] = until(lambda: _still(site))
    assert stopped["begun"] < 25
    resource.prlimit(service, resource.RLIMIT_FSIZE, before)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert ": complete after " in out
    # what it said in between went to the same full disk
    assert "can be written again" in log.read_text()
    assert "Traceback" not in log.read_text()
    check(site, id, {})


def _still(site: Site) -> Any:
    """How many jobs have begun, once none has for a second."""
    import time

    begun = len(site.ran())
    time.sleep(1.0)
    return {"begun": begun} if len(site.ran()) == begun else None
