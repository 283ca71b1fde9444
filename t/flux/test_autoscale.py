# SPDX-License-Identifier: MIT
"""The algorithm `autoscale` in an instance whose ranks come up later: nodes come while jobs wait, and go when none do."""

# Without Flux nothing of this can be imported: the skip has to come first.
# ruff: noqa: E402

from __future__ import annotations

import re
import time
from typing import Any, Dict, Iterator, List

import pytest
import yaml

pytestmark = [pytest.mark.flux, pytest.mark.timeout(300)]
try:
    import flux

    from t.flux.growing import growing
except ImportError as exc:
    pytest.skip(f"Flux tests: the bindings do not load ({exc})", allow_module_level=True)

from t.flux.real_service import serving
from t.flux.test_scaler_command import Site


@pytest.fixture
def site() -> Iterator[Site]:
    with growing() as place, serving(place.instance) as _:
        yield Site(place)


@pytest.mark.parametrize("metric", ["waiting", "backlog"])
def test_nodes_come_while_jobs_wait_and_go_at_last(site: Site, metric: str) -> None:
    """Each job takes a node; the first one gets through alone, so that the others wait."""
    algorithm: Dict[str, Any] = {
        "name": "autoscale", "metric": metric, "grow_above": 1, "shrink_below": 0.1, "cooldown": 1,
    }  # fmt: skip
    text = {
        "scaler": {"name": "command", "command": site.place.command, "min": 1, "max": 3},
        "logging": {"heartbeat": 0.5},
        "jobs": [{"name": "a", "command": "sleep 5", "nodes": 1, "exclusive": True, "count": 9}],
        "algorithm": algorithm,
        "rules": [{"trigger": "start", "action": {"name": "submit", "label": "a"}}],
    }
    id = site.submit(yaml.safe_dump(text))
    assert site.end(id) == "complete"
    assert site.ask("status", {"id": id})["groups"]["a"]["success"] == 9
    assert site.errors(id) == []
    said = [record["text"] for record in site.records(id) if record["type"] == "action"]
    grown = [line for line in said if re.fullmatch(r"grow is done: \d nodes are up", line)]
    assert grown == ["grow is done: 2 nodes are up", "grow is done: 3 nodes are up"]
    begun = [match.group() for match in (re.match(r"(grow|shrink) from \d to \d", line) for line in said) if match]
    assert begun[:2] == ["grow from 1 to 2", "grow from 2 to 3"], begun
    # those that went are those that came, be it while the last jobs ran or at the end
    assert begun[2:] in (["shrink from 3 to 2", "shrink from 2 to 1"], ["shrink from 3 to 1"]), begun
    site.wait(lambda: site.place.online() == "0", "end of the brokers that were started")


@pytest.mark.parametrize(("name", "grown"), [("command", ["2", "3", "4"]), ("drain", [])])
def test_it_asks_for_no_more_than_there_may_be(site: Site, name: str, grown: List[str]) -> None:
    """The scaler has no maximum, and nothing is waited for: still there is one refusal, and another one where a node came back."""
    table = {"name": name, "command": site.place.command} if name == "command" else {"name": name}
    text = {
        "scaler": table,
        "logging": {"heartbeat": 0.3},
        "jobs": [{"name": "a", "command": "sleep 60", "nodes": 1, "exclusive": True, "count": 9}],
        "algorithm": {
            "name": "autoscale", "metric": "backlog", "grow_above": 0.1, "shrink_below": 0.05, "cooldown": 0,
            "at_end": "keep",
        },
        "rules": [{"trigger": "start", "action": {"name": "submit", "label": "a"}}],
    }  # fmt: skip
    id = site.submit(yaml.safe_dump(text))
    most = grown[-1] if grown else "1"
    refused = f"grow: this queue can have no more than {most} node{'' if most == '1' else 's'}"
    site.wait(lambda: site.errors(id), "refusal")
    time.sleep(3)
    assert site.errors(id) == [refused]
    said = [record["text"] for record in site.records(id) if record["type"] == "action"]
    assert [m[1] for m in (re.search(r"grow is done: (\d) nodes are up", line) for line in said) if m] == grown
    # the bound is another one by now: it is tried again
    start = flux.Flux(site.place.environment["FLUX_START_URI"])
    if grown:
        start.rpc("start.kill", {"rank": 3, "signum": 15}).get()
        site.wait(lambda: site.errors(id)[1:], "another refusal, once the node is back")
        assert site.place.online() == "0-3"
    else:
        start.rpc("start.run", {"rank": 1}).get()
        site.wait(lambda: site.errors(id)[1:], "another refusal, as there are two now")
    assert site.errors(id)[1] == refused.replace("1 node", "2 nodes")
    time.sleep(1.5)
    assert len(site.errors(id)) == 2
    site.ask("cancel", {"id": id})
