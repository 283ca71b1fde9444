# SPDX-License-Identifier: MIT
"""Requests that a running instance cannot satisfy are told, each at its place; what fits stays untold."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

import pytest

from ensemble.service import instance
from ensemble.spec.load import load
from ensemble.spec.machine import Machine, Nodes, Queue

#: four nodes of 4 cores, two of which have 2 GPUs
PLAIN = Machine((Nodes(2, 4, 2, frozenset(("big",))), Nodes(2, 4, 0, frozenset(("small",)))))
BATCH = Queue(frozenset(("big",)), longest=3600.0, most={"nnodes": 1, "ncores": 8})
DEBUG = Queue(frozenset(("small",)), longest=7200.0, usual=600.0, most={"ncores": 8})
QUEUES = PLAIN._replace(queues={"batch": BATCH, "debug": DEBUG, "shut": Queue(enabled=False)}, default="debug")
MIXED = Machine((Nodes(1, 16), Nodes(3, 4, 1)))
SMALL = PLAIN._replace(policy=Queue(longest=60.0, most={"ngpus": 1}))


def told(machine: Optional[Machine], keys: str, action: str = "") -> List[str]:
    """The warnings for a set with these keys, each behind its place, as the word that stands there."""
    text = f"jobs:\n- {{name: a, command: x, {keys}}}\nrules:\n- {{trigger: start, action: {{name: submit, label: a{action}}}}}\n"
    found = []
    for one in load(text, "f.yaml", instance=machine).warnings:
        assert one.severity == "warning"
        rest = text.splitlines()[one.line - 1][one.column - 1 :]
        before = text.splitlines()[one.line - 1][: one.column - 1]
        found.append(
            f"{before.replace('{', ',').rpartition(',')[2].strip()} {rest.partition(',')[0].strip('}')}: {one.message}"
        )
    return found


MISFITS = [
    (PLAIN, "cores: 8", "cores: 8: a task of 'a' takes 8 cores, and no node of this instance has more than 4"),
    (PLAIN, "gpus: 1, cores: 5", "cores: 5: a task of 'a' takes 5 cores, and no node of this instance has more than 4"),
    (PLAIN, "gpus: 3", "gpus: 3: a task of 'a' takes 3 GPUs, and no node of this instance has more than 2"),
    (MIXED, "gpus: 1, cores: 8", "gpus: 1: a task of 'a' takes 1 GPU, and no node of this instance has as many beside the cores"),
    (MIXED._replace(nodes=(Nodes(1, 4),)), "gpus: 1", "gpus: 1: a task of 'a' takes 1 GPU, and no node of this instance has any"),
    (PLAIN, "tasks: 17", "tasks: 17: 'a' has 17 tasks of 1 core, and this instance has room for 16"),
    (PLAIN, "tasks: 5, cores: 3", "tasks: 5: 'a' has 5 tasks of 3 cores, and this instance has room for 4"),
    (PLAIN, "tasks: 5, gpus: 1", "tasks: 5: 'a' has 5 tasks of 1 core and 1 GPU, and this instance has room for 4"),
    (PLAIN, "nodes: 5", "nodes: 5: 'a' takes 5 nodes, and this instance has 4"),
    (PLAIN, "nodes: 3, gpus: 1", "nodes: 3: 'a' takes 3 nodes of this instance with 1 core and 1 GPU each, and 2 of its nodes have so many"),
    (PLAIN, "nodes: 2, tasks: 10", "nodes: 2: 'a' takes 2 nodes of this instance with 5 cores each, and none of its nodes has so many"),
    (MIXED, "nodes: 2, tasks: 10, exclusive: true", "nodes: 2: 'a' takes 2 nodes of this instance with 5 cores each, and 1 of its nodes has so many"),
    (PLAIN, "queue: batch", "queue: batch: this instance has no queues, and 'a' asks for 'batch'"),
    (QUEUES, "queue: bacth", "queue: bacth: this instance has no queue 'bacth'"),
    (QUEUES, "attributes: {system.queue: bacth}", "name: a: this instance has no queue 'bacth'"),
    (QUEUES._replace(default=None), "nodes: 1", "name: a: 'a' names no queue, and this instance has no default one"),
    (QUEUES, "queue: shut", "queue: shut: the queue 'shut' takes no jobs at present"),
    (QUEUES, "queue: batch", "name: a: 'a' has no time limit, and the queue 'batch' takes jobs of at most 1h alone"),
    (QUEUES, "queue: batch, duration: 90m", "duration: 90m: 'a' may run 90m, and the queue 'batch' takes jobs of at most 1h"),
    (QUEUES, "duration: 3h", "duration: 3h: 'a' may run 3h, and the queue 'debug' takes jobs of at most 2h"),
    (QUEUES, "queue: batch, duration: 1, nodes: 2", "nodes: 2: a job of 'a' takes 2 nodes, and the queue 'batch' lets one take 1"),
    (QUEUES, "gpus: 1", "gpus: 1: a task of 'a' takes 1 GPU, and no node of the queue 'debug' has any"),
    (QUEUES, "nodes: 3", "nodes: 3: 'a' takes 3 nodes, and the queue 'debug' has 2"),
    (SMALL, "duration: 2m", "duration: 2m: 'a' may run 2m, and this instance takes jobs of at most 1m"),
    (SMALL, "duration: 1m, gpus: 2", "gpus: 2: a job of 'a' takes 2 GPUs, and this instance lets one take 1"),
]  # fmt: skip


@pytest.mark.parametrize(("machine", "keys", "message"), MISFITS)
def test_what_does_not_fit_is_told(machine: Machine, keys: str, message: str) -> None:
    assert told(machine, keys) == [message]
    assert told(None, keys) == []


FITS = [
    (PLAIN, "cores: 4"),
    (PLAIN, "gpus: 2, cores: 4, nodes: 2"),
    (PLAIN, "nodes: 4, tasks: 16"),
    (PLAIN, "tasks: 16"),
    (PLAIN, "nodes: 4, exclusive: true"),
    (MIXED, "cores: 16"),
    (MIXED, "tasks: 28"),
    (QUEUES, "nodes: 2"),
    (QUEUES, "queue: batch, duration: 1h, gpus: 2"),
    (QUEUES, "queue: 'q-{x}', parameters: {x: [1]}"),
    (QUEUES, "queue: batch, attributes: {system.duration: 60}"),
    (QUEUES, "attributes: {queue: debug}"),
    (SMALL, "duration: 1m, gpus: 1"),
    (Machine((Nodes(1, 1),)), "duration: 0"),
    # an instance without a scheduler
    (Machine(()), "nodes: 3, cores: 4, gpus: 1"),
]


@pytest.mark.parametrize(("machine", "keys"), FITS)
def test_what_fits_is_not_told(machine: Machine, keys: str) -> None:
    assert told(machine, keys) == []


def test_what_an_action_asks_for_is_held_against_it_too() -> None:
    assert told(PLAIN, "nodes: 2", ", nodes: 5, tasks: 5") == ["nodes: 5: 'a' takes 5 nodes, and this instance has 4"]
    assert told(PLAIN, "cores: 2", ", tasks: 9") == [
        "tasks: 9: 'a' has 9 tasks of 2 cores, and this instance has room for 8"
    ]
    assert told(QUEUES, "nodes: 1", ", duration: 3h") == [
        "duration: 3h: 'a' may run 3h, and the queue 'debug' takes jobs of at most 2h"
    ]
    # what is wrong with the group is told there, and once
    assert len(told(PLAIN, "cores: 8", ", tasks: 2")) == 1
    assert told(PLAIN, "nodes: 2", ", nodes: 'count.a.failed + 5', tasks: 9") == []


#: as Flux answers: four nodes, of which the last is down
STATUS: Dict[str, Any] = {
    "all": {
        "version": 1,
        "execution": {
            "R_lite": [
                {"rank": "0-1", "children": {"gpu": "0-1", "core": "0-3"}},
                {"rank": "2-3", "children": {"core": "0-3"}},
            ],
            "nodelist": ["n[0-3]"],
            "properties": {"small": "2-3", "big": "0-1"},
        },
    },
    "down": {"version": 1, "execution": {"R_lite": [{"rank": "3", "children": {"core": "0-3"}}]}},
}
CONFIG: Dict[str, Any] = {
    "queues": {
        "batch": {"requires": ["big"], "policy": {"limits": {"duration": "1h", "job-size": {"max": {"nnodes": 1}}}}},
        "debug": {"requires": ["small"], "policy": {"jobspec": {"defaults": {"system": {"duration": "10m"}}}}},
        "shut": None,
    },
    "policy": {
        "limits": {"duration": "2h", "job-size": {"max": {"ncores": 8, "nnodes": -1}}},
        "jobspec": {"defaults": {"system": {"queue": "debug"}}},
    },
}


def test_what_flux_answers_is_read() -> None:
    machine = instance.of(STATUS, CONFIG, {"shut": False})
    assert machine.nodes == PLAIN.nodes
    assert machine.default == "debug"
    assert machine.queues == {
        "batch": BATCH,
        "debug": DEBUG,
        "shut": Queue(longest=7200.0, most={"ncores": 8}, enabled=False),
    }
    assert machine.policy == Queue(longest=7200.0, most={"ncores": 8})
    assert machine.facts() == {"nodes": 4, "cores": 16, "gpus": 4, "queues": ["batch", "debug", "shut"]}


@pytest.mark.parametrize("config", [{}, {"queues": 3, "policy": []}, {"policy": {"limits": {"duration": "often"}}}])
def test_what_is_not_told_is_no_limit(config: Any) -> None:
    machine = instance.of({"all": None}, config, {})
    assert (machine.nodes, machine.queues, machine.default, machine.policy) == ((), {}, None, Queue())
