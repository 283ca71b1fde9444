# SPDX-License-Identifier: MIT
"""A file as a graph: its groups, rules and signals, and what leads from one to the other.

How to use it. `flow(spec)` gives nodes and edges, in file order. A node is named by its kind and name (`Node.key`); an
edge says what its source does to its target: a group, a signal or a variable *triggers* a rule, or the rule only *reads* it;
a rule *submits*, *cancels*, *kills* or *urges* a group, *sends* a signal, *enables* or *disables* a rule, *sets* a variable,
*calls* a function, *ends* the ensemble; a function *answers* the points of a group, and *may submit* those that no rule does.

Law of this file: plain data in plain words, made of a spec that has no faults; how it looks is for those who draw it. A custom
function may do anything besides, of which nothing is known here.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ensemble.spec import metrics, reading, sampling
from ensemble.spec.bounds import about
from ensemble.spec.metrics import Metric
from ensemble.spec.models import JOB_TRIGGERS, Action, JobSet, Rule, Spec
from ensemble.spec.reach import Reach

#: kinds of nodes. `begin` and `end` are those of the ensemble; `any` stands for all groups, where there are many
KINDS = ("begin", "group", "any", "rule", "signal", "topic", "variable", "function", "end")
#: kinds of edges
DOES = ("triggers", "reads", "submits", "cancels", "kills", "urges", "sends", "enables", "disables", "sets", "calls",
        "answers", "may submit", "ends")  # fmt: skip
#: groups that a rule about all of them has an edge each from; where there are more, one from `any`
_FEW = 5
_ON_JOBS = {"cancel": "cancels", "kill": "kills", "urgency": "urges"}
#: actions about one thing -> kind of the thing, kind of the edge
_SIMPLE = {
    "submit": ("group", "submits"),
    "signal": ("signal", "sends"),
    "enable": ("rule", "enables"),
    "disable": ("rule", "disables"),
    "set": ("variable", "sets"),
    "custom": ("function", "calls"),
}


class Node(NamedTuple):
    """One thing of a file."""

    kind: str
    name: str
    #: what it is, in lines for people. Of a group its sets; of a rule what it waits for
    lines: Tuple[str, ...] = ()
    #: of a rule: its condition; '' where it has none
    when: str = ""
    #: of a rule: how often it fires, and its pauses; '' for once
    times: str = ""
    #: of a rule: what it does, one line an action
    actions: Tuple[str, ...] = ()
    #: of a rule: false where it rests until it is enabled
    enabled: bool = True
    #: why it never comes about, as far as can be told; '' where it may
    never: str = ""

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.name}"


class Edge(NamedTuple):
    """The source does that to the target."""

    source: str
    target: str
    #: one of DOES
    kind: str
    #: for people: the trigger, the metric, or what is asked for besides; '' where there is nothing to say
    text: str = ""


class Flow(NamedTuple):
    """The graph of a file."""

    name: str
    nodes: Tuple[Node, ...]
    edges: Tuple[Edge, ...]

    def to_json(self) -> Dict[str, Any]:
        """Plain data: `name`, `nodes`, `edges`."""
        nodes = [{"key": node.key, **node._asdict()} for node in self.nodes]
        return {"name": self.name, "nodes": nodes, "edges": [edge._asdict() for edge in self.edges]}


def flow(spec: Spec) -> Flow:
    """The graph of a spec."""
    return _Maker(spec).run()


class _Maker:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._groups = spec.groups
        self._reach = Reach(spec)
        self._nodes: Dict[str, Node] = {}
        self._edges: Dict[Tuple[str, str, str], Edge] = {}

    def run(self) -> Flow:
        if any(_begins(rule) for rule in self._spec.rules):
            self._node(Node("begin", "start"))
        for name, sets in self._groups.items():
            never = "" if self._reach.jobs[name] else "no job of it is ever submitted"
            self._node(Node("group", name, tuple(map(_set, sets)), never=never))
            for jobs in sets:
                if jobs.parameters is not None and jobs.parameters.custom is not None:
                    self._edge(self._node(Node("function", jobs.parameters.custom)), f"group:{name}", "answers")
        for number, rule in enumerate(self._spec.rules):
            self._node(self._rule(number, rule))
        for rule in self._spec.rules:
            key = f"rule:{rule.id}"
            for cause, text in self._sources(rule):
                self._edge(cause, key, "triggers", text)
            for action in rule.actions:
                self._action(rule, key, action)
            for metric in reading.looks(rule, self._groups):
                source = self._of(metric)
                if source is not None and (source, key, "triggers") not in self._edges:
                    self._edge(source, key, "reads", _measure(metric))
        self._left_to_functions()
        return Flow(self._spec.name, tuple(self._nodes.values()), tuple(self._edges.values()))

    def _left_to_functions(self) -> None:
        """Groups that no rule submits are there for the functions that rules call."""
        submitted = {edge.target for edge in self._edges.values() if edge.kind == "submits"}
        called = list(dict.fromkeys(edge.target for edge in self._edges.values() if edge.kind == "calls"))
        for name in self._groups:
            if f"group:{name}" not in submitted:
                for function in called[:_FEW]:
                    self._edge(function, f"group:{name}", "may submit")

    def _node(self, node: Node) -> str:
        self._nodes.setdefault(node.key, node)
        return node.key

    def _edge(self, source: str, target: str, kind: str, text: str = "") -> None:
        before = self._edges.get((source, target, kind))
        if before is not None and text and text not in before.text.split(", "):
            text = f"{before.text}, {text}" if before.text else text
        elif before is not None:
            return
        self._edges[source, target, kind] = Edge(source, target, kind, text)

    def _rule(self, number: int, rule: Rule) -> Node:
        term, reason = self._reach.conditions[number], self._reach.never.get(number)
        when = "" if rule.when is None else str(rule.when if term is None else term)
        waits = trigger(rule)
        if rule.trigger == "metric" and term is not None:
            own = metrics.parse(rule.name or "", self._groups)
            if any(part.read is not None and part.read.metric == own for part in term.walk()):
                # the condition says it all
                waits = ""
        actions = tuple(map(action_words, rule.actions))
        never = "" if reason is None else reason.text
        return Node("rule", rule.id, (waits,) if waits else (), when, times(rule), actions, rule.enabled, never)

    def _sources(self, rule: Rule) -> Iterator[Tuple[str, str]]:
        """What gives the rule its occasions: keys of nodes, with a word on each."""
        group = about(rule)
        if _begins(rule):
            yield self._node(Node("begin", "start")), ""
        elif group is not None:
            variable = (rule.name or "").partition(".")[2] if rule.trigger == "report" else ""
            for one in self._each(group):
                yield one, f"{rule.trigger} {variable}".rstrip()
        elif rule.trigger == "metric":
            for metric in reading.wakes(rule, self._groups):
                source = self._of(metric)
                if source is not None:
                    yield source, _measure(metric)
        elif rule.trigger == "signal":
            kind, name = ("topic", rule.topic) if rule.topic is not None else ("signal", rule.name)
            yield self._node(Node(kind, name or "any signal")), ""

    def _each(self, group: str) -> List[str]:
        """The node of a group; of all where '' or `all` stands for these."""
        if group not in ("", "all"):
            return [f"group:{group}"]
        if len(self._groups) <= _FEW:
            return [f"group:{name}" for name in self._groups]
        return [self._node(Node("any", "any group"))]

    def _of(self, metric: Metric) -> Optional[str]:
        """The node that a metric is of; None where it is of none."""
        if metric.stat == "var":
            value = self._spec.variables.get(metric.variable)
            return self._node(Node("variable", metric.variable, () if value is None else (_value(value),)))
        return f"group:{metric.group}" if metric.group else None

    def _action(self, rule: Rule, key: str, action: Action) -> None:
        label = action.label or ""
        first = (
            [one for one in self._spec.rules if one.algorithm == label] if action.name in ("enable", "disable") else []
        )
        if first:
            # an algorithm: those of its rules that begin it stand for all
            for one in [one for one in first if one.trigger == "enabled"] or first:
                self._edge(key, f"rule:{one.id}", _SIMPLE[action.name][1], label)
        elif action.name in _SIMPLE:
            kind, does = _SIMPLE[action.name]
            if kind == "variable":
                self._of(Metric("var", "", "", label))
            target = f"{kind}:{label}" if kind in ("rule", "group", "variable") else self._node(Node(kind, label))
            self._edge(key, target, does, _more(action) if action.name == "submit" else "")
        elif action.name in _ON_JOBS:
            for target in self._each((about(rule) or "") if action.job is not None else label):
                self._edge(key, target, _ON_JOBS[action.name], action.state or "")
        elif action.name in ("stop", "terminate"):
            self._edge(key, self._node(Node("end", action.name)), "ends", action.status or "")


def _begins(rule: Rule) -> bool:
    """Does the start of the ensemble make it fire?"""
    return rule.trigger == "start" or (rule.trigger == "enabled" and rule.enabled)


def trigger(rule: Rule) -> str:
    """What the rule waits for, in words."""
    name = rule.name
    if rule.trigger == "metric":
        return f"change of {name}"
    if rule.trigger in JOB_TRIGGERS or rule.trigger in ("group-complete", "report"):
        return f"{rule.trigger} of {name or 'any group'}"
    if rule.trigger == "signal":
        return f"topic {rule.topic}" if rule.topic is not None else f"signal {name}" if name else "any signal"
    if rule.trigger == "timer":
        return f"timer, after {seconds(rule.after or 0.0)}"
    if rule.trigger == "heartbeat":
        return f"heartbeat, every {seconds(rule.every)}" if rule.every else "heartbeat"
    return f"end {name}" if rule.trigger == "end" and name else rule.trigger


def times(rule: Rule) -> str:
    """How often the rule fires and what is between two firings, in words; '' for once."""
    told = []
    if rule.repetitions is None:
        told.append("again and again")
    elif rule.repetitions != 1:
        told.append(f"up to {rule.repetitions} times" if rule.repetitions else "never")
    if rule.backoff:
        told.append(f"backoff {rule.backoff}")
    if rule.cooldown:
        told.append(f"cooldown {seconds(rule.cooldown)}")
    return ", ".join(told)


def action_words(action: Action) -> str:
    """What an action does, in words."""
    name, label = action.name, action.label
    if name == "submit":
        more = _more(action)
        return f"submit {label}{', ' if more else ''}{more}"
    if name in _ON_JOBS:
        whom = "this job" if action.job is not None else label
        told = f"{name} {whom}" if name != "urgency" else f"urgency of {whom}: {action.value}"
        told += f", {action.state} ones" if action.state else ""
        return f"{told}, {action.signal}" if action.signal is not None else told
    if name == "set":
        value = action.value
        return f"set {label} = {value if reading.set_text(value) is not None else _value(value)}"
    if name == "log":
        return f'log "{" ".join(str(action.value).split())}"'
    if name == "custom":
        return f"call {label}"
    if name == "terminate":
        return f"terminate, {action.status}" if action.status else name
    if name in ("grow", "shrink"):
        return f"{name} by {1 if action.value is None else action.value} nodes"
    return f"{name} {label}" if label is not None and name != "stop" else name


def _more(action: Action) -> str:
    """What a submission asks for besides the group."""
    told = []
    if action.count is not None:
        told.append(f"count {action.count}")
    if action.parameters is not None:
        points = len(action.parameters)
        told.append(f"{points} point{'' if points == 1 else 's'}")
    for key in ("duration", "nodes", "tasks", "urgency"):
        value = getattr(action, key)
        if value is not None:
            told.append(f"{key} {seconds(value) if isinstance(value, float) and key == 'duration' else value}")
    return ", ".join(told)


def _set(jobs: JobSet) -> str:
    """A set of jobs in one line: how many, what they take, and what they run."""
    points = sampling.total(jobs)
    if jobs.wanted is not None:
        told = [f"{jobs.wanted} job{'' if jobs.wanted == 1 else 's'}"]
        if points is not None:
            told.append(f"{points} points in all")
    elif points is not None:
        told = [f"{points} point{'' if points == 1 else 's'}"]
    else:
        told = ["points of a function"]
    for number, word in ((jobs.nodes, "node"), (jobs.tasks, "task")):
        if number is not None:
            told.append(f"{number} {word}{'' if number == 1 else 's'}")
    if jobs.cores != 1:
        told.append(f"{jobs.cores} cores a task")
    if jobs.gpus:
        told.append(f"{jobs.gpus} GPU{'' if jobs.gpus == 1 else 's'} a task")
    if jobs.exclusive:
        told.append("exclusive")
    if jobs.duration:
        told.append(f"at most {seconds(jobs.duration)}")
    return f"{', '.join(told)}: {command(jobs)}"


def command(jobs: JobSet) -> str:
    """What a set runs, on one line; of a script its first line that does anything."""
    if jobs.script is None:
        return " ".join(" ".join(jobs.command).split())
    lines: Sequence[str] = [line.strip() for line in jobs.script.splitlines()]
    doing = [line for line in lines if line and not line.startswith(("#", "set "))] or [line for line in lines if line]
    return " ".join(doing[0].split()) + (" ..." if len(doing) > 1 else "")


def _measure(metric: Metric) -> str:
    """A metric of a group without the group."""
    if metric.stat == "var":
        return ""
    words = (metric.stat, metric.state if metric.stat == "count" or metric.state != "success" else "", metric.variable)
    return " ".join(word for word in words if word)


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def seconds(value: float) -> str:
    """A duration as a file would have it."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if value >= size and value % size == 0:
            return f"{value // size:g}{unit}"
    return f"{value:g}s"
