# SPDX-License-Identifier: MIT
"""What a running instance has and allows, and which requests of a file do not fit it.

Law of this file: plain data and arithmetic; who asks the instance is the service's (`service.instance`). A request that does not
fit is a warning, since the file may be meant for another instance. Nodes that are down count: they may come back. What is
computed when a rule fires, or depends on parameters, is not looked at.
"""

from __future__ import annotations

import math
from typing import Dict, FrozenSet, List, Mapping, NamedTuple, Optional, Tuple

from ensemble.spec import templates
from ensemble.spec.faults import Report, listed, nearest
from ensemble.spec.flow import seconds
from ensemble.spec.models import JobSet, Spec
from ensemble.spec.reader import Node as Place


class Nodes(NamedTuple):
    """Nodes that are alike."""

    number: int
    cores: int
    gpus: int = 0
    properties: FrozenSet[str] = frozenset()


class Queue(NamedTuple):
    """A queue, or, without a name, the instance where it has none."""

    #: properties that a node must have
    requires: FrozenSet[str] = frozenset()
    #: seconds that a job may run; None is no limit
    longest: Optional[float] = None
    #: seconds that a job without a time limit gets; None is none
    usual: Optional[float] = None
    #: "nnodes", "ncores", "ngpus" -> the most that a job may ask for
    most: Mapping[str, int] = {}
    #: it takes jobs now
    enabled: bool = True


class Machine(NamedTuple):
    """The nodes of an instance and its queues."""

    nodes: Tuple[Nodes, ...]
    #: name -> queue; empty where none are configured
    queues: Mapping[str, Queue] = {}
    #: of jobs that name no queue; None where such are refused, or where there are no queues
    default: Optional[str] = None
    #: what holds where there are no queues
    policy: Queue = Queue()

    def __str__(self) -> str:
        nodes, cores = sum(one.number for one in self.nodes), sum(one.number * one.cores for one in self.nodes)
        return f"{_of(nodes, 'node')} with {_of(cores, 'core')} in all"

    def facts(self) -> Dict[str, object]:
        """Plain data: numbers of nodes, cores and GPUs, and the names of the queues."""
        return {
            "nodes": sum(one.number for one in self.nodes),
            "cores": sum(one.number * one.cores for one in self.nodes),
            "gpus": sum(one.number * one.gpus for one in self.nodes),
            "queues": sorted(self.queues),
        }


def check(spec: Spec, root: Place, report: Report, machine: Machine) -> None:
    """Warn of requests that no node, or no queue, of the machine can satisfy. The spec has no faults."""
    fit = _Fit(machine, report)
    for place, jobs in zip(_entries(root, "jobs"), spec.jobs):
        fit.check(place, jobs, {})
    groups = spec.groups
    for item, rule in zip(_entries(root, "rules"), spec.rules):
        for place, action in zip(_entries(item, "actions"), rule.actions):
            given = {key: getattr(action, key) for key in ("nodes", "tasks", "duration")}
            written = {key: value for key, value in given.items() if value is not None}
            if action.name != "submit" or not written or any(isinstance(value, str) for value in written.values()):
                continue
            for jobs in groups[action.label or ""]:
                fit.check(place, jobs.model_copy(update=written), {key: place.get(key) or place for key in written})


class _Fit:
    def __init__(self, machine: Machine, report: Report) -> None:
        self._machine = machine
        self._report = report

    def check(self, place: Place, jobs: JobSet, given: Dict[str, Place]) -> None:
        """One set of jobs. `given` are the keys that an action has said: only these are looked at then."""
        queue = self._queue(place, jobs, given)
        if queue is None:
            return
        name, limits = queue
        where = f"the queue '{name}'" if name else "this instance"
        nodes = [one for one in self._machine.nodes if limits.requires <= one.properties]
        # an instance without a scheduler tells of no nodes
        if self._machine.nodes and (not given or "nodes" in given or "tasks" in given):
            self._room(place, jobs, given, nodes, where)
        if not given or "nodes" in given or "tasks" in given:
            self._sizes(place, jobs, given, limits, where)
        if not given or "duration" in given:
            self._duration(place, jobs, given, limits, where)

    def _queue(self, place: Place, jobs: JobSet, given: Dict[str, Place]) -> Optional[Tuple[str, Queue]]:
        """The queue that takes the jobs, by name; None where there is none, which is told, or it cannot be known."""
        machine, name = self._machine, jobs.queue
        for key in ("queue", "system.queue", "attributes.system.queue"):
            if key in jobs.attributes:
                name = str(jobs.attributes[key])
        if name is not None and any(True for _ in templates.holes(name)):
            return None
        at = place.get("queue") or place.get("name") or place
        if not machine.queues:
            if name is not None and not given:
                self._report.warn(at, f"this instance has no queues, and '{jobs.name}' asks for '{name}'")
            return None if name is not None else ("", machine.policy)
        name = name or machine.default
        known = sorted(machine.queues)
        if name is None or name not in machine.queues:
            if name is None:
                message = f"'{jobs.name}' names no queue, and this instance has no default one"
            else:
                message = f"this instance has no queue '{name}'"
            if not given:
                near = nearest(name or "", known)
                self._report.add(
                    at, message, expected=f"one of {listed(known)}", suggestion=near, severity="warning", value=name
                )
            return None
        if not machine.queues[name].enabled and not given:
            self._report.warn(at, f"the queue '{name}' takes no jobs at present")
        return name, machine.queues[name]

    def _room(self, place: Place, jobs: JobSet, given: Dict[str, Place], nodes: List[Nodes], where: str) -> None:
        """Nodes, cores and GPUs."""
        tasks = jobs.tasks if jobs.tasks is not None else jobs.nodes or 1
        able = [one for one in nodes if one.cores >= jobs.cores and one.gpus >= jobs.gpus]
        if not able:
            if given:
                return
            cores = max((one.cores for one in nodes), default=0)
            if not nodes:
                message = f"{where} has no nodes"
            elif cores < jobs.cores:
                message = f"a task of '{jobs.name}' takes {_of(jobs.cores, 'core')}, and no node of {where} has more than {cores}"
            else:
                gpus = max(one.gpus for one in nodes)
                most = f"more than {gpus}" if gpus < jobs.gpus else "as many beside the cores"
                message = f"a task of '{jobs.name}' takes {_of(jobs.gpus, 'GPU')}, and no node of {where} has {most if gpus else 'any'}"
            key = "cores" if cores < jobs.cores else "gpus"
            self._report.warn(place.get(key) or place.get("name") or place, message)
            return
        if jobs.nodes is None:
            room = sum(one.number * _slots(one, jobs) for one in able)
            if room < tasks:
                message = (
                    f"'{jobs.name}' has {_of(tasks, 'task')} of {_needs(jobs, 1)}, and {where} has room for {room}"
                )
                self._report.warn(given.get("tasks") or place.get("tasks") or place, message)
            return
        at = given.get("nodes") or given.get("tasks") or place.get("nodes") or place
        each = math.ceil(tasks / jobs.nodes)
        fitting = sum(one.number for one in able if _slots(one, jobs) >= each)
        total = sum(one.number for one in nodes)
        if total < jobs.nodes:
            self._report.warn(at, f"'{jobs.name}' takes {_of(jobs.nodes, 'node')}, and {where} has {total}")
        elif fitting < jobs.nodes:
            has = "have" if fitting != 1 else "has"
            many = f"{fitting} of its nodes {has}" if fitting else "none of its nodes has"
            message = f"'{jobs.name}' takes {_of(jobs.nodes, 'node')} of {where} with {_needs(jobs, each)} each, and {many} so many"
            self._report.warn(at, message)

    def _sizes(self, place: Place, jobs: JobSet, given: Dict[str, Place], limits: Queue, where: str) -> None:
        tasks = jobs.tasks if jobs.tasks is not None else jobs.nodes or 1
        slots = tasks if jobs.nodes is None else jobs.nodes * math.ceil(tasks / jobs.nodes)
        asked = (("nodes", jobs.nodes or 0), ("cores", slots * jobs.cores), ("gpus", slots * jobs.gpus))
        for key, number in asked:
            most = limits.most.get(f"n{key}")
            if most is not None and number > most:
                at = given.get("nodes") or given.get("tasks") or place.get(key) or place.get("tasks") or place
                word = {"nodes": "node", "cores": "core", "gpus": "GPU"}[key]
                self._report.warn(
                    at, f"a job of '{jobs.name}' takes {_of(number, word)}, and {where} lets one take {most}"
                )

    def _duration(self, place: Place, jobs: JobSet, given: Dict[str, Place], limits: Queue, where: str) -> None:
        if limits.longest is None or any(key.endswith("duration") for key in jobs.attributes):
            return
        at = given.get("duration") or place.get("duration") or place.get("name") or place
        duration = jobs.duration or limits.usual or 0.0
        most = seconds(limits.longest)
        if not duration:
            message = f"'{jobs.name}' has no time limit, and {where} takes jobs of at most {most} alone"
        elif duration > limits.longest:
            message = f"'{jobs.name}' may run {seconds(duration)}, and {where} takes jobs of at most {most}"
        else:
            return
        self._report.warn(at, message, expected=f"a duration of at most {most}")


def _slots(node: Nodes, jobs: JobSet) -> int:
    """Tasks that fit on such a node at a time."""
    by_cores = node.cores // jobs.cores
    return min(by_cores, node.gpus // jobs.gpus) if jobs.gpus else by_cores


def _needs(jobs: JobSet, tasks: int) -> str:
    gpus = f" and {_of(tasks * jobs.gpus, 'GPU')}" if jobs.gpus else ""
    return f"{_of(tasks * jobs.cores, 'core')}{gpus}"


def _of(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _entries(node: Place, key: str) -> Tuple[Place, ...]:
    value = node.get(key)
    return value.items if value is not None else ()
