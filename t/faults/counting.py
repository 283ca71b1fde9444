# SPDX-License-Identifier: MIT
"""Running an ensemble whose result does not depend on order, through faults, and counting its jobs by key."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple

from ensemble.errors import NoService, ServiceError
from ensemble.service import supervisor
from t.flux.processes import gone, until

HERE = Path(__file__).parent
#: seconds that one ensemble may take, with all its faults
PATIENCE = 240.0

#: how many times as much is done: 1 within `make check`, more where somebody has the time for it
SOAK = int(os.environ.get("ENSEMBLE_FAULTS", "1"))


def chains(heads: int, head: str = "sleep 0.2", link: str = "sleep 0.1", active: int = 8, more: str = "") -> str:
    """An ensemble of so many heads at once, each with a chain of four more: 5 x `heads` jobs, whatever the order.

    `head` and `link` are their commands; `more` goes into each group, such as `, attributes: {...}`.
    """
    groups = "".join(
        f"  - {{name: {name}, command: {link if follows else head}, count: {1 if follows else heads}{more}}}\n"
        for name, follows in zip("abcde", (False, True, True, True, True))
    )
    rules = "".join(
        f"  - {{trigger: job-success, name: {before}, repetitions: unlimited, action: {{name: submit, label: {after}}}}}\n"
        for before, after in zip("abcd", "bcde")
    )
    start = "  - {trigger: start, action: {name: submit, label: a}}\n"
    return f"name: chains\njobs:\n{groups}limits: {{max_active: {active}}}\nrules:\n{start}{rules}"


def each(heads: int) -> Dict[str, int]:
    """How many jobs each group of `chains(heads)` has."""
    return dict.fromkeys("abcde", heads)


CHAINS = chains(12)
GROUPS = each(12)
#: jobs of which Flux says that they ran: no process is started
MOCK = ', attributes: {exec.test.run_duration: "0.01s"}'


def connect(instance: Any) -> Any:
    import flux

    return flux.Flux(instance.uri)


def ask(instance: Any, endpoint: str, payload: Dict[str, Any]) -> Dict[str, Any]:
    """One answer of the service, however often it dies meanwhile. A request that must not be repeated is not for this."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return request(instance, endpoint, payload)
        except (NoService, ServiceError, OSError):
            assert time.monotonic() < end, f"no answer to {endpoint}"
            time.sleep(0.05)


def request(instance: Any, endpoint: str, payload: Dict[str, Any], patience: float = 3.0) -> Dict[str, Any]:
    """One answer of the service; it has so many seconds, since who asks a dying one gets none, ever."""
    import flux

    handle = connect(instance)
    future = handle.rpc(f"ensemble.{endpoint}", payload)
    try:
        future.wait_for(patience)
        return dict(future.get())
    except OSError as exc:
        raise ServiceError(f"{endpoint}: {future.error_string() or exc}", exc.errno or 5) from None
    finally:
        del future, handle
        assert flux


def submitter(instance: Any) -> Dict[str, Any]:
    """Where one stands who submits."""
    return {"environment": {"PATH": os.environ.get("PATH", os.defpath)}, "cwd": str(instance.folder)}


def submit(instance: Any, text: str) -> str:
    """Submit once and return the id; where the service died over it, the id of what was kept."""
    before = [one["id"] for one in ask(instance, "list", {})["ensembles"]]
    with contextlib.suppress(ServiceError, NoService):
        return str(request(instance, "submit", {"text": text, "submitter": submitter(instance)})["id"])
    kept = [one for one in ask(instance, "list", {})["ensembles"] if one["id"] not in before]
    assert len(kept) == 1, f"the service died while it answered, and keeps {kept}"
    return str(kept[0]["id"])


def ended(instance: Any, id: str) -> Dict[str, Any]:
    """The status of an ensemble at its end."""
    end = time.monotonic() + PATIENCE
    while True:
        status = ask(instance, "status", {"id": id})
        if status["state"] not in ("running", "stopping", "paused"):
            return status
        assert time.monotonic() < end, f"it has not ended: {status}"
        time.sleep(0.1)


def progress(instance: Any, id: str) -> int:
    return int(ask(instance, "status", {"id": id})["jobs"]["finished"])


def keys(instance: Any) -> Dict[str, List[int]]:
    """The key of each job that Flux has, to the ids that carry it. Those that Flux found invalid are none."""
    import flux
    from flux.job.journal import JournalConsumer

    assert flux
    consumer = JournalConsumer(connect(instance), include_sentinel=True).start()
    found: Dict[str, List[int]] = collections.defaultdict(list)
    past: Dict[int, Tuple[str, List[str]]] = {}
    while True:
        event = consumer.poll(timeout=PATIENCE)
        assert event is not None, "the journal has no end"
        if event.is_empty():
            break
        user = (event.jobspec or {}).get("attributes", {}).get("user", {})
        past.setdefault(event.jobid, (user.get("ensemble", ""), []))[1].append(event.name)
    consumer.stop()
    for id, (key, names) in past.items():
        if key and "invalidate" not in names:
            found[key].append(id)
    return found


class Count:
    """How many jobs were lost and how many doubled, after the end of one ensemble."""

    def __init__(self, instance: Any, id: str, groups: Dict[str, int]) -> None:
        self.status = ended(instance, id)
        #: a job is named by its key without the attempt
        jobs: Dict[str, List[int]] = collections.defaultdict(list)
        self.keys = {key: ids for key, ids in keys(instance).items() if key.startswith(f"{id}/")}
        for key in self.keys:
            name, _, attempt = key.rpartition("/")
            jobs[name].append(int(attempt))
        self.doubled = {key: ids for key, ids in self.keys.items() if len(ids) > 1}
        self.lost = sum(groups.values()) - len(jobs)
        rows = ask(instance, "jobs", {"id": id, "max": 10000})
        self.rows = rows["jobs"]
        self.retried = sum(row["result"] == "retried" for row in self.rows)
        self.groups = {group: self.status["groups"][group] for group in groups}

    @staticmethod
    def retried_now(instance: Any, id: str) -> int:
        """How many attempts were lost so far and are tried again, once the service has told the past."""
        rows: List[Any] = []

        def look() -> int:
            rows[:] = ask(instance, "jobs", {"id": id, "max": 10000})["jobs"]
            return sum(row["result"] == "retried" for row in rows)

        with contextlib.suppress(AssertionError):
            return int(until(look))
        raise AssertionError(f"no job is tried again: {[row for row in rows if row['result'] != 'success']}")

    def check(self, groups: Dict[str, int]) -> None:
        """None twice, none missing, and the counts of a run without a fault."""
        assert self.doubled == {}
        bad = [row for row in self.rows if row["result"] not in ("success", "retried")]
        assert not bad, f"these did not end well: {bad}"
        assert self.lost == 0
        assert self.status["state"] == "complete", self.status
        for group, number in groups.items():
            counts = {name: n for name, n in self.groups[group].items() if n and name != "retried"}
            assert counts == {"submitted": number, "finished": number, "success": number}, (group, counts)
        shown = collections.Counter((r["rule"], r["firing"], r["index"], r["attempt"]) for r in self.rows)
        assert set(shown.values()) == {1}, "a row stands there twice"
        assert len(shown) == len(self.keys), "a job has no row"
        firings = {rule["id"]: rule["fired"] for rule in self.status["rules"]}
        assert sum(firings.values()) == 1 + sum(groups.values()) - groups["a"], firings

    def told(self, what: str, faults: int) -> None:
        """One line for whoever reads the output of the tests (`pytest -s`)."""
        print(
            f"FAULTS {what}: {faults} faults, {len(self.keys)} jobs, lost {self.lost}, doubled {len(self.doubled)}, "
            f"retried {self.retried}"
        )


def kill_broker(instance: Any) -> None:
    """As by a power cut, and with all that then goes down on its own."""
    pid = int(instance.run("flux", "getattr", "broker.pid").stdout)
    os.kill(pid, signal.SIGKILL)
    gone(pid)
    instance.stop()


def shut_down_unheard(instance: Any, pid: int) -> None:
    """End the instance while that process gets no time: word of the shutdown and its cancels reach it at once, in any order."""
    from flux.job.journal import JournalConsumer

    consumer = JournalConsumer(connect(instance), full=False).start()
    os.kill(pid, signal.SIGSTOP)
    try:
        going = threading.Thread(target=instance.stop)
        going.start()
        while getattr(consumer.poll(timeout=PATIENCE), "name", "") != "exception":
            pass
    finally:
        os.kill(pid, signal.SIGCONT)
    del consumer
    going.join()


@contextlib.contextmanager
def dying(instance: Any, folder: Path, points: Sequence[str]) -> Iterator[subprocess.Popen]:
    """A supervised service that dies at these points, one after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "points").write_text("".join(f"{point}\n" for point in points))
    env = supervisor.python_environment(instance.env)
    with (folder / "stderr").open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "service_that_dies.py"), str(folder)],
            env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
        )  # fmt: skip
    try:
        until(lambda: _up(instance), "the service")
        yield process
    finally:
        with contextlib.suppress(NoService, ServiceError, OSError):
            process.send_signal(signal.SIGCONT)
            request(instance, "quit", {})
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait(30)
        gone(process.pid)


def _up(instance: Any) -> bool:
    try:
        return bool(request(instance, "stats", {}))
    except (NoService, ServiceError, OSError):
        return False


def deaths(folder: Path) -> List[str]:
    try:
        return (folder / "deaths").read_text().splitlines()
    except FileNotFoundError:
        return []
