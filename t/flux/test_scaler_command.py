# SPDX-License-Identifier: MIT
"""The scaler `command` in an instance whose ranks come up later: through the service, from a file to the nodes."""

# Without Flux nothing of this can be imported: the skip has to come first.
# ruff: noqa: E402

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any, Dict, Iterator, List

import pytest
import yaml

pytestmark = [pytest.mark.flux, pytest.mark.timeout(400)]
try:
    import flux

    from t.flux.growing import Growing, growing
except ImportError as exc:
    pytest.skip(f"Flux tests: the bindings do not load ({exc})", allow_module_level=True)

from t.flux.processes import PATIENCE
from t.flux.real_service import RealService, serving

HEARD: List[Dict[str, Any]] = [
    {"id": how, "trigger": how, "repetitions": "unlimited",
     "action": {"name": "log", "value": f"{how} {{event.wanted}} {{event.size}}"}}
    for how in ("grow-finish", "grow-fail", "shrink-finish", "shrink-fail")
]  # fmt: skip


class Site(RealService):
    def __init__(self, place: Growing) -> None:
        self.place = place
        super().__init__(place.instance)
        self.submitter = {"environment": place.environment, "cwd": "/", "umask": 0o022, "rlimits": {}}

    def begin(self, rules: List[Dict[str, Any]], **scaler: Any) -> str:
        table = {"name": "command", "command": self.place.command, **scaler}
        jobs = [{"name": "a", "command": "true", "nodes": 3}]
        return self.submit(yaml.safe_dump({"scaler": table, "jobs": jobs, "rules": [*rules, *HEARD]}))

    def records(self, id: str) -> List[Dict[str, Any]]:
        return list(self.ask("log", {"id": id})["records"])

    def logged(self, id: str) -> List[str]:
        return [record["text"] for record in self.records(id) if record["type"] == "log"]

    def errors(self, id: str) -> List[str]:
        return [record["text"] for record in self.records(id) if record["type"] == "error"]

    def wait(self, what: Any, text: str) -> Any:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = what()
            if found:
                return found
            time.sleep(0.1)
        raise AssertionError(f"no {text}")

    def end(self, id: str) -> str:
        over = ("complete", "failed", "cancelled", "halted")
        self.wait(lambda: self.ask("status", {"id": id})["state"] in over, "end")
        return str(self.ask("status", {"id": id})["state"])


@pytest.fixture
def site() -> Iterator[Site]:
    with growing() as place, serving(place.instance) as _:
        yield Site(place)


def on(trigger: str, *actions: Dict[str, Any], **more: Any) -> Dict[str, Any]:
    return {"trigger": trigger, "actions": list(actions), **more}


def test_nodes_come_up_run_a_job_and_go_again(site: Site) -> None:
    """The job needs three nodes and there is one: it waits, and runs once two more are up."""
    rules = [
        on("start", {"name": "submit", "label": "a"}),
        on("start", {"name": "grow", "value": 2}),
        on("group-complete", {"name": "shrink", "value": 2}, name="a"),
    ]
    id = site.begin(rules, max=3)
    assert site.end(id) == "complete"
    assert site.logged(id) == ["grow-finish 3 3", "shrink-finish 1 1"]
    assert site.errors(id) == []
    up, down = site.place.told()
    assert (up["ENSEMBLE_ACTION"], up["ENSEMBLE_SIZE_WANTED"], up["ENSEMBLE_SIZE_CURRENT"]) == ("grow", "3", "1")
    assert (up["ENSEMBLE_SIZE_MIN"], up["ENSEMBLE_SIZE_MAX"], up["ENSEMBLE_ID"]) == ("1", "3", id)
    assert up["ENSEMBLE_RANKS"] == "1-3"
    assert (down["ENSEMBLE_ACTION"], down["ENSEMBLE_SIZE_WANTED"], down["ENSEMBLE_RANKS"]) == ("shrink", "1", "1-2")
    assert site.place.online() == "0", "it is done when they are gone"
    assert (up["ENSEMBLE_EXTENT"], down["ENSEMBLE_EXTENT"]) == ("3", "1")

    # what was drained to be taken is of use again when it comes back
    id = site.begin([on("start", {"name": "submit", "label": "a"}, {"name": "grow", "value": 2})])
    assert site.end(id) == "complete"
    site.wait(lambda: site.place.online() == "0-2", "the right ranks online and no others")
    assert site.place.handle.rpc("resource.status", {}, nodeid=0).get()["drain"] == {}

    # a script that fails, and one that takes too long
    site.place.how("fail")
    id = site.begin([on("start", {"name": "grow"}), on("grow-fail", {"name": "shrink"})])
    assert site.end(id) == "complete"
    reason = "flux has failed with exit code 3: there are no nodes today"
    assert site.errors(id) == [
        f"grow to 4 nodes has failed: {reason}",
        f"shrink to 2 nodes has failed: {reason}",
    ]
    assert site.logged(id) == ["grow-fail 4 3", "shrink-fail 2 3"]
    assert site.place.handle.rpc("resource.status", {}, nodeid=0).get()["drain"] == {}, "what was to go is given back"
    site.place.how("hang")
    id = site.begin([on("start", {"name": "grow"})], timeout="4s")
    assert site.end(id) == "complete"
    assert site.errors(id) == ["grow to 4 nodes has failed: after 4 s the scaler was still busy with it, and was ended"]
    pid = site.place.told()[-1]["pid"]
    site.wait(lambda: not os.path.exists(f"/proc/{pid}"), "end of the script that hangs")


def test_there_are_no_more_nodes_than_the_instance_has(site: Site) -> None:
    rules = [
        on("start", {"name": "grow", "value": 9}),
        on("grow-finish", {"name": "grow"}),
        on("grow-fail", {"name": "log", "value": "{event.reason}"}),
    ]
    id = site.begin(rules)
    assert site.end(id) == "complete"
    (told,) = site.place.told()
    assert (told["ENSEMBLE_SIZE_WANTED"], told["ENSEMBLE_SIZE_MAX"]) == ("4", "")
    bound = "this queue can have no more than 4 nodes"
    assert site.logged(id) == ["grow-finish 4 4", bound, "grow-fail 4 4"]
    assert f"grow from 1 to 4 nodes begins, and goes no further: {bound}" in json.dumps(site.records(id))
    # one that an administrator has taken out is none to count on
    site.place.instance.run("flux", "resource", "drain", "3", "a disk is broken")
    id = site.begin([on("start", {"name": "shrink"}), on("shrink-finish", {"name": "grow", "value": 5})])
    assert site.end(id) == "complete"
    assert site.logged(id) == ["shrink-finish 2 2", "grow-finish 3 3"]


def test_a_shrink_is_done_when_the_nodes_are_gone(site: Site) -> None:
    id = site.begin([on("start", {"name": "grow", "value": 3})])
    assert site.end(id) == "complete"
    site.place.how("later")
    id = site.begin([on("start", {"name": "shrink"}), on("shrink-finish", {"name": "log", "value": "{nodes.up}"})])
    site.wait(lambda: site.place.told()[1:], "call of the script")
    assert site.place.online() == "0-3"
    assert site.logged(id) == [], "the script has ended, and the node is there"
    assert site.end(id) == "complete"
    assert site.place.online() == "0-2"
    assert site.logged(id) == ["3", "shrink-finish 3 3"]
    # a script that says yes and does nothing: it may do it yet, so nothing may run there
    site.place.how("never")
    id = site.begin([on("start", {"name": "shrink"}), on("shrink-fail", {"name": "grow"})], timeout="3s")
    late = "after 3 s not all of the nodes are gone; ranks 2 stay drained, for they may yet be taken, until a grow"
    site.wait(lambda: site.errors(id), "end of the shrink")
    assert site.errors(id) == [f"shrink to 2 nodes has failed: {late}"]
    assert site.end(id) == "complete"
    assert site.logged(id) == ["shrink-fail 2 2", "grow-finish 3 3"]
    last = site.place.told()[-1]
    assert (last["ENSEMBLE_ACTION"], last["ENSEMBLE_SIZE_WANTED"]) == ("grow", "3"), "the owner is told first"
    assert site.place.online() == "0-2"
    assert "2" not in site.place.handle.rpc("resource.status", {}, nodeid=0).get()["drain"], "it is of use again"


def test_a_later_service_knows_what_the_owner_was_asked_to_take(site: Site) -> None:
    """The node stays drained until its owner was told otherwise, though the service that asked is dead."""
    heard = on("resource-drain", {"name": "log", "value": "drained {event.ranks}"}, repetitions="unlimited")
    id = site.begin([on("start", {"name": "grow", "value": 3})])
    assert site.end(id) == "complete"
    site.place.how("never")
    id = site.begin(
        [on("start", {"name": "shrink"}), on("shrink-fail", {"name": "log", "value": "late"}), heard], timeout="2s"
    )
    assert site.end(id) == "complete"
    assert site.logged(id) == ["drained 3", "late", "shrink-fail 3 3"], "another reason is no other drain"
    pid = site.pid
    os.kill(pid, signal.SIGKILL)
    site.wait(lambda: not os.path.exists(f"/proc/{pid}"), "end of the service")
    site.wait(lambda: _answers(site), "service after the restart")
    site.place.how("fail")
    id = site.begin([on("start", {"name": "shrink"})])
    assert site.end(id) == "complete"
    assert site.place.told()[-1]["ENSEMBLE_RANKS"] == "2-3"
    assert site.errors(id) == [
        "shrink to 2 nodes has failed: flux has failed with exit code 3: there are no nodes today; "
        "ranks 3 stay drained, for they may yet be taken, until a grow"
    ]
    assert list(site.place.handle.rpc("resource.status", {}, nodeid=0).get()["drain"]) == ["3"]
    site.place.how("")
    id = site.begin([on("start", {"name": "grow"})])
    assert site.end(id) == "complete"
    assert site.logged(id) == ["grow-finish 4 4"]
    assert site.place.handle.rpc("resource.status", {}, nodeid=0).get()["drain"] == {}


def test_nodes_that_were_lost_are_had_again(site: Site) -> None:
    """At its bound an ensemble that wants more than there is asks for what is missing."""
    rules = [
        on("start", {"name": "grow", "value": 9}),
        on("resource-down", {"name": "grow"}),
        on("signal", {"name": "log", "value": "x"}, name="never"),
    ]
    id = site.begin(rules, max=3)
    site.wait(lambda: site.logged(id) == ["grow-finish 3 3"], "nodes")
    start = flux.Flux(site.place.environment["FLUX_START_URI"])
    start.rpc("start.kill", {"rank": 2, "signum": 9}).get()
    site.wait(lambda: site.logged(id)[1:], "nodes, once more")
    assert site.logged(id)[1:] == ["grow-finish 3 3"]
    assert site.errors(id) == []
    site.ask("cancel", {"id": id})


def test_no_node_is_taken_from_under_a_job(site: Site) -> None:
    """Jobs come all the time while nodes are taken: each of them ends as it would have."""
    instance = site.place.instance
    id = site.begin([on("start", {"name": "grow", "value": 3})])
    assert site.end(id) == "complete"
    instance.run("flux", "submit", "--quiet", "--cc=1-40", "-n1", "-c2", "sleep", "0.4")
    id = site.begin([on("start", {"name": "shrink", "value": 2})])
    assert site.end(id) == "complete"
    assert site.logged(id) == ["shrink-finish 2 2"]
    instance.run("flux", "queue", "drain")
    results = instance.run("flux", "jobs", "-ano", "{result}").stdout.split()
    assert results[:40] == ["COMPLETED"] * 40
    # a long one on each of the two: it waits for the one that is to go, and does not ask before
    ids = [
        instance.run("flux", "submit", f"--requires=rank:{rank}", "sleep", "4").stdout.strip() for rank in ("0", "1")
    ]
    for one in ids:
        instance.run("flux", "job", "wait-event", "-t", "60", one, "start")
    asked = len(site.place.told())
    id = site.begin([on("start", {"name": "shrink"})])
    time.sleep(1.5)
    assert len(site.place.told()) == asked, "a job runs there"
    assert site.end(id) == "complete"
    assert site.place.online() == "0"
    assert instance.run("flux", "jobs", "-no", "{result}", *ids).stdout.split() == ["COMPLETED"] * 2


def test_a_service_that_is_killed_in_the_middle_goes_on_with_the_same_size(site: Site) -> None:
    site.place.how("hang")
    id = site.begin([on("start", {"name": "grow", "value": 2})])
    (first,) = site.wait(site.place.told, "call of the script")
    site.place.how("")
    os.kill(site.pid, signal.SIGKILL)
    site.wait(lambda: not os.path.exists(f"/proc/{first['pid']}"), "end of the script, which goes with the service")
    site.wait(lambda: _answers(site), "service after the restart")
    assert site.end(id) == "complete"
    assert site.logged(id) == ["grow-finish 3 3"]
    assert [one["ENSEMBLE_SIZE_WANTED"] for one in site.place.told()] == ["3", "3"]
    site.wait(lambda: site.place.online() == "0-2", "the right ranks online and no others")


@pytest.mark.parametrize("ends", [False, True])
def test_a_cooldown_outlives_the_service(site: Site, ends: bool) -> None:
    """Whether the ensemble whose change it was goes on or has ended."""
    grow, stays = {"name": "grow"}, on("signal", {"name": "grow"}, name="go")
    first = site.begin([on("start", grow), *([] if ends else [stays])], cooldown=20)
    site.wait(lambda: site.logged(first) == ["grow-finish 2 2"], "nodes")
    over = time.time()
    if ends:
        assert site.end(first) == "complete"
    until = site.ask("status", {"id": first})["scaling"]["cooling_until"]
    assert 15 < until - over < 20.5
    pid = site.pid
    os.kill(pid, signal.SIGKILL)
    # what is asked while it dies is never answered
    site.wait(lambda: not os.path.exists(f"/proc/{pid}"), "end of the service")
    site.wait(lambda: _answers(site), "service after the restart")
    if ends:
        second = site.begin([on("start", grow)], cooldown=20)
    else:
        second = first
        site.ask("signal", {"id": first, "name": "go", "data": {}, "token": "t:1"})
    told = site.wait(lambda: site.ask("status", {"id": second})["scaling"]["change"], "change")
    assert told == {"action": "grow", "wanted": 3, "waits": "cooldown"}
    assert len(site.place.told()) == 1
    site.wait(lambda: len(site.place.told()) == 2, "second change")
    assert 19 < time.time() - over < 30
    assert site.end(second) == "complete"
    status = site.ask("status", {"id": second})["scaling"]
    assert (status["wanted"], status["size"], status["change"], status["failed"]) == (3, 3, None, None)


def _answers(site: Site) -> bool:
    try:
        return bool(site.ask("stats"))
    except OSError:
        return False


def test_the_largest_size_wins_and_a_shrink_waits_for_whoever_objects(site: Site) -> None:
    stays = on("signal", {"name": "log", "value": "released"}, name="go")
    big = site.begin([on("start", {"name": "grow", "value": 3}), stays])
    site.wait(lambda: site.logged(big), "nodes of the first one")
    small = site.begin([on("start", {"name": "grow"}), on("grow-fail", {"name": "shrink", "value": 2}), stays], max=4)
    site.wait(lambda: site.errors(small), "refusal of a fifth node")
    waits = f"shrink waits: ensemble {big} wants 4 nodes"
    site.wait(lambda: waits in json.dumps(site.records(small)), "word of who objects")
    site.wait(lambda: site.place.online() == "0-3", "the right ranks online and no others")
    site.ask("signal", {"id": big, "name": "go", "data": {}, "token": "t:1"})
    assert site.end(big) == "complete"
    site.wait(lambda: "shrink-finish 2 2" in site.logged(small), "shrink")
    site.wait(lambda: site.place.online() == "0-1", "the right ranks online and no others")
    site.ask("cancel", {"id": small})
