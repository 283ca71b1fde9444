# SPDX-License-Identifier: MIT
"""What needs two places of a file at once: labels, names, metric paths, the keys of an action.

What is computed, conditions and expressions, is looked at in `computed.py`.

`check` walks the tree, not the models, so that a fault in one place hides none in another. It is silent where a
value has the wrong shape, since the models tell that, and about groups where it cannot know them all.
"""

from __future__ import annotations

from typing import Any, Collection, Dict, Iterable, List, Optional, Tuple

from ensemble.spec import heard, metrics, places, reading, sampling, targets, units
from ensemble.spec.computed import Computed
from ensemble.spec.custom import Functions
from ensemble.spec.faults import Report, listed, nearest, shown
from ensemble.spec.models import ACTIONS, END_STATES, JOB_TRIGGERS, LATER, NOT_YET, TRIGGERS, Action, JobSet, Rule, Spec
from ensemble.spec.reader import Node
from ensemble.spec.space import Space

#: seconds, where a file needs heartbeats and sets no period
HEARTBEAT = 60.0
#: variables that only heartbeats feed
_AGES = ("waiting", metrics.LEGACY_PENDING)
#: seconds; a shorter period would leave no time for anything else
SHORTEST = 0.01

OVERRIDES = ("count", "duration", "nodes", "parameters", "tasks", "urgency")
#: action -> keys that it needs, keys that it takes as well
KEYS: Dict[str, Tuple[Tuple[str, ...], Tuple[str, ...]]] = {
    "submit": (("label",), OVERRIDES),
    "cancel": ((), ("label", "job", "state")),
    "kill": ((), ("label", "job", "state", "signal")),
    "urgency": (("value",), ("label", "job", "state")),
    "stop": ((), ()),
    "terminate": ((), ("status",)),
    "log": (("value",), ()),
    "enable": (("label",), ()),
    "disable": (("label",), ()),
    "custom": (("label",), ("args", "value")),
    "set": (("label", "value"), ()),
    "signal": (("label",), ("data",)),
    "grow": ((), ("value",)),
    "shrink": ((), ("value",)),
}
#: ensemble-python took these with any action; they do nothing here
TOLERATED: Dict[str, Tuple[str, ...]] = {"stop": ("label", "value"), "terminate": ("label", "value")}


def heartbeat_period(spec: Spec) -> float:
    """Seconds between two heartbeats of the ensemble; 0 where it has none.

    That is `logging.heartbeat`, and HEARTBEAT where the file sets none and uses what only heartbeats drive: a
    heartbeat rule without a period of its own, a metric that looks at the jobs still pending, or a rule that waits
    for time to pass (a `log` line has the time without them).
    """
    if spec.logging.heartbeat > 0:
        return spec.logging.heartbeat
    groups = spec.groups
    for rule in spec.rules:
        if rule.trigger == "heartbeat" and not rule.every:
            return HEARTBEAT
        waking = reading.wakes(rule, groups)
        if any(metric.stat == "ensemble" and metric.variable == "elapsed" for metric in waking):
            return HEARTBEAT
        if any(metric.stat in metrics.OF_QUEUE for metric in waking):
            return HEARTBEAT
        if any(action.name in ("grow", "shrink") for action in rule.actions):
            return HEARTBEAT
        if any(metric.variable in _AGES and metric.group for metric in (*waking, *reading.looks(rule, groups))):
            return HEARTBEAT
    return 0.0


def check(
    root: Node, report: Report, functions: Functions, ids: Iterable[str] = (), algorithms: Iterable[str] = ()
) -> None:
    """Tell every fault that lies between places. `functions` are those of actions; `ids` are of rules elsewhere, and
    `algorithms` those that they are part of."""
    _Check(root, report, functions, ids, algorithms).run()


class _Everything(Dict[str, Node]):
    """Stands for the groups where they cannot be known: any name is one."""

    def __contains__(self, name: object) -> bool:
        return True


def word(node: Optional[Node]) -> Optional[str]:
    """The text of a scalar that may stand for a name; None for anything else."""
    if node is None or node.kind != "scalar" or node.value is None or isinstance(node.value, bool):
        return None
    return node.text


def misspelt(node: Node, key: str, known: Collection[str]) -> bool:
    """Is there an unknown key that was probably meant to be this one? Then it is told as that, not as missing."""
    unknown = [other for other in node.value if other not in known][:5]
    return any(nearest(other, known) == key for other in unknown)


class _Check:
    def __init__(
        self, root: Node, report: Report, functions: Functions, ids: Iterable[str], algorithms: Iterable[str]
    ) -> None:
        self._report = report
        self._functions = functions
        self._root = root
        self._jobs = root.get("jobs")
        self._rules = root.get("rules")
        names = [(word(item.get("name")), item) for item in (self._jobs.items if self._jobs else ())]
        known = bool(names) and all(name is not None for name, _ in names)
        #: group -> its first set
        self._groups: Dict[str, Node] = {} if known else _Everything()
        for name, item in names if known else ():
            self._groups.setdefault(str(name), item)
        #: group -> variables that its jobs report
        self._variables = heard.declared(item for _, item in names)
        self._ids: Dict[str, Node] = dict.fromkeys(ids, root)
        #: algorithms that rules are part of -> the first one that says so
        self._algorithms: Dict[str, Node] = {}
        for item in self._rules.items if self._rules else ():
            part_of = word(item.get("algorithm"))
            if part_of is not None:
                self._algorithms.setdefault(part_of, item)
        self._algorithms.update(dict.fromkeys(algorithms, root))
        self._computed = Computed(root, report, self._groups, self._variables if known else None)

    def run(self) -> None:
        for section, node in (("jobs", self._jobs), ("rules", self._rules)):
            if node is not None and node.kind == "list" and not node.value:
                self._report.add(node, f"{section} is an empty list", expected=f"at least one of the {section}")
        for item in self._jobs.items if self._jobs else ():
            if item.kind == "map":
                self._job(item)
        rules = [item for item in (self._rules.items if self._rules else ()) if item.kind == "map"]
        self._computed.variables()
        places.check(self._root, self._report)
        for item in rules:
            self._id(item)
        for item in rules:
            self._rule(item)
        logging = self._root.get("logging")
        if logging is not None:
            self._period(logging.get("heartbeat"), "0, or a duration of at least 10ms", off=True)

    def _job(self, job: Node) -> None:
        command, script = job.get("command"), job.get("script")
        if command is not None and script is not None:
            self._report.add(job.key("script"), "a job has both command and script", expected="one of them")
        elif command is script is None and not any(
            misspelt(job, key, list(JobSet.model_fields)) for key in ("command", "script")
        ):
            self._report.add(
                job, "a job has no command", expected="command: a command line, or script: lines for /bin/sh"
            )
        heard.names(self._report, job)
        exclusive = job.get("exclusive")
        if exclusive is not None and exclusive.value is True and job.get("nodes") is None:
            self._report.add(job.key("exclusive"), "exclusive takes whole nodes", expected="nodes beside it")
        sampling.check_set(job, self._report)
        space = job.get("parameters")
        if space is not None and isinstance(space.value, Space) and space.value.custom is not None:
            self._function(space, space.value.custom)

    def _id(self, rule: Node) -> None:
        node = rule.get("id")
        name = word(node)
        if node is None or name is None:
            return
        if name in self._ids:
            message = f"the id {shown(name)} is given twice; the first one is in line {self._ids[name].line}"
            self._report.add(node, message, value=name, expected="each id once")
        elif name in self._algorithms:
            message = f"the id {shown(name)} is that of an algorithm"
            self._report.add(node, message, value=name, expected="another id")
        else:
            self._ids[name] = node

    def _rule(self, rule: Node) -> None:
        node = rule.get("trigger")
        trigger = word(node)
        if node is not None and trigger is not None and self._word(node, trigger, "trigger", TRIGGERS):
            about = word(rule.get("name")) if trigger in targets.WITH_JOB else None
            self._computed.about(about.partition(".")[0] if about is not None else None)
            self._trigger(rule, trigger)
        actions = rule.get("actions")
        for action in actions.items if actions else ():
            if action.kind == "map":
                self._action(action, trigger if trigger in TRIGGERS else None)

    def _word(self, node: Node, name: str, kind: str, known: Collection[str]) -> bool:
        if name in known:
            return True
        if name in NOT_YET[kind]:
            self._report.add(node, f"the {kind} '{name}' is not supported yet", value=name, expected=LATER)
        else:
            self._unknown(node, name, f"no {kind} is called", known)
        return False

    def _unknown(self, node: Node, name: str, message: str, known: Collection[str]) -> None:
        self._report.add(
            node,
            f"{message} {shown(name)}",
            value=name,
            expected=f"one of {listed(known, 60)}" if known else None,
            suggestion=lambda: nearest(name, known),
        )

    def _group(self, node: Node, name: str, also: Tuple[str, ...] = ()) -> None:
        if name not in self._groups and name not in also:
            self._unknown(node, name, "no group is called", [*self._groups, *also])

    def _trigger(self, rule: Node, trigger: str) -> None:
        node = rule.get("name")
        name = word(node)
        if node is not None and name is not None:
            if trigger == "metric":
                self._computed.metric(node, name)
            elif trigger in JOB_TRIGGERS or trigger == "group-complete":
                self._group(node, name)
            elif trigger == "report":
                group = heard.report_name(self._report, node, name, list(self._groups), self._variables)
                if group is not None:
                    self._group(node, group)
            elif trigger == "signal":
                heard.signal_name(self._report, node, name)
            elif trigger in places.MEMBER_TRIGGERS:
                places.trigger_name(node, self._root, self._report)
            elif trigger == "end" and name not in END_STATES:
                self._unknown(node, name, "no ensemble ends in a state called", END_STATES)
        elif trigger == "metric" and "name" not in rule.value and not misspelt(rule, "name", list(Rule.model_fields)):
            self._report.add(
                rule, "a rule on a metric has no name", expected="name: the metric's path, as in count.GROUP.success"
            )
        self._computed.when(rule, trigger, name)
        heard.signal_rule(self._report, rule, trigger)
        keep = rule.get("keep_alive")
        if keep is not None and keep.value is True and trigger == "end":
            message = "a rule on the end cannot keep the ensemble from ending"
            self._report.add(rule.key("keep_alive"), message, expected="keep_alive with another trigger")
        for key, owner in (("after", "timer"), ("every", "heartbeat")):
            if key in rule.value and trigger != owner:
                self._report.add(
                    rule.key(key),
                    f"a rule on {trigger} takes no {key}",
                    value=key,
                    expected=f"{key} with the trigger {owner} alone",
                )
        if trigger == "timer" and "after" not in rule.value and not misspelt(rule, "after", list(Rule.model_fields)):
            self._report.add(
                rule, "a rule on a timer has no after", expected="after: a duration from the start of the ensemble"
            )
        if trigger == "heartbeat":
            self._period(rule.get("every"), "a duration of at least 10ms", off=False)

    def _period(self, node: Optional[Node], expected: str, *, off: bool) -> None:
        if node is None or node.kind != "scalar":
            return
        try:
            seconds = units.duration(node.value)
        except ValueError:
            return
        if seconds < SHORTEST and not (off and seconds == 0):
            self._report.add(node, f"the period {shown(node.text)} is too short", value=node.text, expected=expected)

    def _action(self, action: Node, trigger: Optional[str]) -> None:
        node = action.get("name")
        name = word(node)
        if node is None or name is None or not self._word(node, name, "action", ACTIONS):
            return
        needs, takes = KEYS[name]
        for key in needs:
            if key not in action.value and not misspelt(action, key, list(Action.model_fields)):
                self._report.add(node, f"{name} has no {key}", expected=f"{key}: {self._wanted(name, key)}")
        for key in action.value:
            if key == "name" or key in needs or key in takes or key not in Action.model_fields:
                continue
            if key in TOLERATED.get(name, ()):
                self._report.warn(action.key(key), f"{name} takes no {key}, it is ignored")
                continue
            known = listed((*needs, *takes))
            self._report.add(
                action.key(key),
                f"{name} takes no {key}",
                value=key,
                expected=f"one of {known}" if known else "no such key",
            )
        label, told = action.get("label"), word(action.get("label"))
        if label is not None and told is not None:
            if name == "submit":
                self._group(label, told)
            elif name in targets.ACTIONS:
                self._group(label, told, ("all",))
            elif name in ("enable", "disable") and told not in self._ids and told not in self._algorithms:
                what = "no rule or algorithm has the id" if self._algorithms else "no rule has the id"
                self._unknown(label, told, what, [*self._ids, *self._algorithms])
            elif name == "custom":
                self._function(label, told)
            elif name == "signal":
                heard.signal_name(self._report, label, told)
        if name in targets.ACTIONS:
            typo = any(misspelt(action, key, list(Action.model_fields)) for key in ("label", "job"))
            targets.check(action, trigger, None if typo else self._wanted(name, "label"), self._report)
        self._computed.action(action, name, trigger)

    def _function(self, node: Node, name: str) -> None:
        known, doubtful, of, algorithms = self._functions
        algorithm, colon, _ = name.partition(":")
        if colon:
            if algorithm not in algorithms and "*" not in algorithms:
                expected = f"one of {listed(sorted(algorithms))}"
                self._report.add(node, f"no algorithm is called {shown(algorithm)}", value=algorithm, expected=expected)
            return
        if name in known or "*" in known:
            return
        if doubtful:
            self._report.warn(node, f"{of} may have no function {shown(name)}")
            return
        self._report.add(
            node,
            f"no function is called {shown(name)}",
            value=name,
            expected=f"one of {listed(sorted(known))}" if known else "custom: with the function's Python source",
            suggestion=lambda: nearest(name, known),
        )

    def _wanted(self, action: str, key: str) -> str:
        if action == "custom":
            return "the function's name"
        if action == "log":
            return "the line"
        if action == "signal":
            return "the signal's name"
        if action == "set":
            return "the name of a variable" if key == "label" else "a number, a string, true, false, or an expression"
        if key == "value":
            return "a number from 0 to 31"
        if action in ("enable", "disable"):
            return f"the id of a rule ({listed(self._ids, 10)})"
        groups = listed(self._groups, 10)
        return ("a group" + (f" ({groups})" if groups else "")) + ("" if action == "submit" else ", or all")


def settle(spec: Spec, root: Node, report: Report) -> Spec:
    """The spec as it will run: where a set has fewer tasks than nodes, as many as nodes. Tells what it changes.

    What an action overrides is told as a fault where the result has fewer tasks than nodes, which Flux refuses.
    """
    jobs: List[Any] = []
    for item, job in zip(_entries(root, "jobs"), spec.jobs):
        if job.tasks is not None and job.nodes is not None and job.tasks < job.nodes:
            node = item.get("tasks") or item
            report.warn(node, f"{job.tasks} tasks cannot fill {job.nodes} nodes, so {job.nodes} are run")
            job = job.model_copy(update={"tasks": job.nodes})
        jobs.append(job)
    spec = spec.model_copy(update={"jobs": tuple(jobs)})
    groups = spec.groups
    for item, rule in zip(_entries(root, "rules"), spec.rules):
        for place, action in zip(_entries(item, "actions"), rule.actions):
            if action.name != "submit" or (action.nodes is None and action.tasks is None):
                continue
            for job in groups[action.label or ""]:
                nodes, tasks = action.nodes or job.nodes, action.tasks or job.tasks
                # where an expression has a hand in it, the firing tells
                if isinstance(nodes, int) and isinstance(tasks, int) and tasks < nodes:
                    at = place.key("nodes" if action.nodes is not None else "tasks")
                    expected = f"tasks: {nodes} or more, or fewer nodes"
                    report.add(at, f"{tasks} tasks cannot fill {nodes} nodes", expected=expected)
    return spec


def _entries(node: Node, key: str) -> Tuple[Node, ...]:
    value = node.get(key)
    return value.items if value is not None else ()
