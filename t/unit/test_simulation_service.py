# SPDX-License-Identifier: MIT
"""A simulated run is what the whole service makes of the same file on the same queue: event by event, line by line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import pytest

from ensemble.engine.actions import Record
from ensemble.members.simulated import SimulatedMember
from ensemble.members.simulated_nodes import Nodes
from ensemble.service.core import Service
from ensemble.service.fates import Fates
from ensemble.service.protocol import Host, Reply
from ensemble.service.simulation import Setting, Simulation
from ensemble.service.store import MemoryStore
from ensemble.spec.load import load

TOP = Path(__file__).resolve().parents[2]
NODES = [(4, 0)] * 3
#: files without seeds of their own would be drawn anew by the service, and one with functions takes real time
EXAMPLES = (
    "adaptive-batches",
    "backoff",
    "bisection",
    "cancel-the-rest",
    "heartbeat",
    "hello-world",
    "kill-poor-runs",
    "rehearsal",
    "terminate",
    "two-phases",
)
CHANCE = """
failures: all
jobs:
  - {name: a, command: 'true', count: 30, cores: 2, retries: 2}
  - {name: b, command: 'true', count: 10, nodes: 2, duration: 70}
  - {name: c, command: 'true', metrics: {y: {}}}
rules:
  - {trigger: start, actions: [{name: submit, label: a}, {name: submit, label: b}]}
  - {trigger: job-success, name: a, repetitions: 15, action: {name: submit, label: c, urgency: 20}}
  - {trigger: job-timeout, name: b, repetitions: unlimited, actions: [{name: log, value: late}, {name: signal, label: late}]}
  - {trigger: signal, name: late, repetitions: 3, keep_alive: false, action: {name: submit, label: c, count: 2}}
  - {trigger: report, name: c.y, when: event.value > 8, repetitions: unlimited, cooldown: 30s, action: {name: kill, job: event}}
  - {trigger: heartbeat, every: 45s, repetitions: 8, keep_alive: true, action: {name: log, value: '{count.a.pending} wait'}}
  - {trigger: metric, name: mean.a.duration, when: "> 40", repetitions: 5, backoff: 2, action: {name: log, value: slow}}
  - {trigger: idle, action: {name: submit, label: a, count: 3}}
limits: {max_active: 25}
simulate:
  groups:
    a: {duration: 'lognormal(50, 20)', fail: 15%}
    b: {duration: 'exponential(60)'}
    c: {duration: 30, metrics: {y: {value: report, noise: 'normal(0, 3)', every: 4}}}
"""


class _Answer(Reply):
    def __init__(self) -> None:
        self.caller = "test"
        self.answer: Dict[str, Any] = {}
        self.refusal: Optional[str] = None

    def send(self, payload: Dict[str, Any]) -> None:
        self.answer = payload

    def error(self, errno: int, text: str) -> None:
        self.refusal = text


def by_the_service(text: str, name: str, seed: int) -> Tuple[Dict[str, Any], List[Dict[str, Any]]]:
    """Status and records of the file, run by the service."""
    spec = load(text, f"{name}.yaml").spec
    fates = Fates(spec, spec.simulate.groups if spec.simulate else {}, seed)
    member = SimulatedMember(Nodes(NODES), fates.draw)
    told: List[str] = []
    service = Service(
        member,
        MemoryStore(),
        Host("local"),
        log=lambda level, line: told.append(line),
        on_quit=lambda: None,
        clock=member.clock,
    )
    service.start()

    def ask(endpoint: str, payload: Dict[str, Any]) -> Dict[str, Any]:
        reply = _Answer()
        service.handle(endpoint, payload, reply)
        assert reply.refusal is None, reply.refusal
        return reply.answer

    where = {"environment": {}, "cwd": "/", "umask": 18, "rlimits": {}}
    id = ask("submit", {"text": text, "file": f"{name}.yaml", "submitter": where})["id"]
    # retries and reports of virtual days, in turns, until there is nothing left to happen
    while member.run(member.clock() + 86400.0):
        pass
    status = ask("status", {"id": id})
    records = ask("log", {"id": id, "since": 0, "max": 10_000})["records"]
    service.stop()
    assert not told
    return status, records


def alone(text: str, name: str, seed: int) -> Tuple[Dict[str, Any], List[Record]]:
    """The same of a simulation."""
    spec = load(text, f"{name}.yaml").spec
    fates = Fates(spec, spec.simulate.groups if spec.simulate else {}, seed)
    records: List[Record] = []
    simulation = Simulation(spec, Setting(NODES, fates, seed, watch=lambda record, counts: records.append(record)))
    simulation.run()
    return simulation.result(), records


def comes_to_the_same(text: str, name: str, seed: int) -> None:
    status, served = by_the_service(text, name, seed)
    result, simulated = alone(text, name, seed)
    assert (result["state"], result["reason"]) == (status["state"], status["reason"])
    assert result["makespan"] == status["t_end"]
    for rule, other in zip(result["rules"], status["rules"]):
        assert {key: rule[key] for key in other} == other
    assert len(result["rules"]) == len(status["rules"])
    for group, counts in status["groups"].items():
        assert {key: result["groups"][group][key] for key in counts} == counts
    assert result["metrics"] == status["metrics"]
    # line by line, but for the first, which tells of the submission
    lines = [{"t": record.t, "type": record.type, **record.data} for record in simulated]
    shown = [
        {key: x for key, x in record.items() if key != "seq"} for record in served if record["type"] != "submitted"
    ]
    assert [{**line, "job": _shown(line)} for line in lines] == [{**line, "job": _shown(line)} for line in shown]


def _shown(line: Dict[str, Any]) -> Optional[str]:
    return None if line.get("job") is None else str(line["job"])


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str) -> None:
    comes_to_the_same((TOP / "examples" / f"{name}.yaml").read_text(), name, 3)


@pytest.mark.parametrize("seed", range(5))
def test_chance(seed: int) -> None:
    comes_to_the_same(CHANCE, "chance", seed)
