# SPDX-License-Identifier: MIT
"""A file into a `Spec`, or into all of its faults at once.

Four steps: `reader` makes a tree of nodes with positions; `Shape` here brings the tree into the one form that the
models know (defaults that depend on the place, `action` and `actions`, what a lone action may carry for its rule);
`check` looks at what needs two places at once; the models look at shape and ranges (`telling.py`). Each step goes on
behind a fault, so that one run tells them all.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Any, Collection, Dict, List, NamedTuple, Optional, Set, Tuple, Type, Union

from pydantic import BaseModel

from ensemble.errors import SpecError, UsageError
from ensemble.spec import (
    abilities,
    advice,
    algorithms,
    check,
    custom,
    machine,
    parameters,
    sampling,
    scaler,
    simulate_check,
)
from ensemble.spec.abilities import BUILT_IN
from ensemble.spec.beside import Beside, Folder
from ensemble.spec.faults import Fault, Report, escape, shown
from ensemble.spec.machine import Machine
from ensemble.spec.models import LATER, NOT_YET, TITLE, Action, JobSet, Limits, Logging, Rule, Spec, Tree
from ensemble.spec.reader import MAX_BYTES, Node, decode, read
from ensemble.spec.retries import Retries
from ensemble.spec.scaler import Scaler
from ensemble.spec.simulate import Simulate, Simulated
from ensemble.spec.telling import TOLD, validate

#: keys of a rule that may stand inside its lone action
LIFTED = ("repetitions", "backoff", "cooldown")


class Loaded(NamedTuple):
    """A file that may run, and what looks wrong with it all the same."""

    spec: Spec
    warnings: Tuple[Fault, ...]
    #: texts of the files that it names, by their names as written; to load it again without them
    files: Dict[str, str]
    #: the tree as it was written, with the rules that its algorithms stand for in their place
    written: Tree


def load(
    text: Union[str, bytes],
    file: str,
    beside: Optional[Beside] = None,
    can: Optional[Collection[str]] = BUILT_IN,
    instance: Optional[Machine] = None,
    site: Optional[scaler.Site] = None,
) -> Loaded:
    """The spec that the text describes. `file` names it in messages, and its stem is the default name.

    `beside` has the files that it names, `can` what the queue can do (None: do not look), `instance` the nodes
    and queues that it is held against (None: none), `site` the queue's own scaler. Raises SpecError with every fault, in
    file order.
    """
    beside = beside or Beside()
    characters, report = decode(text, file)
    root = None if characters is None else read(characters, report)
    if root is None:
        raise SpecError(report.faults)
    shape = Shape(report, file, beside)
    root = shape.file(root)
    check.check(root, report, custom.functions(root.get("custom"), beside))
    simulate_check.check(root, report)
    scaler.check(root, report, past=can is None)
    spec = validate(root, report)
    if spec is not None and not report.faults:
        spec = check.settle(spec, root, report)
        sampling.settle(spec, root, report)
        advice.advise(spec, root, report)
        if can is not None:
            abilities.check(spec, root, report, can)
            scaler.warn(root, report, site)
        if instance is not None:
            machine.check(spec, root, report, instance)
    if report.faults or spec is None:
        raise SpecError(report.faults, report.warnings)
    if spec.steered:
        spec._tree = Tree(root)
    return Loaded(spec, report.warnings, dict(beside.read), Tree(shape.written))


def load_file(
    path: Union[str, os.PathLike[str]], instance: Optional[Machine] = None, site: Optional[scaler.Site] = None
) -> Loaded:
    """As `load`, of the file at that path; a queue with a scaler of its own can grow and shrink.

    Raises UsageError where there is no plain file that can be read, and SpecError.
    """
    name = os.fspath(path)
    told = escape(name)
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UsageError(f"there is no file '{told}'; give the path of an ensemble file") from None
    except PermissionError:
        raise UsageError(f"the file '{told}' cannot be read: permission denied") from None
    except (OSError, ValueError) as exc:
        raise UsageError(f"the file '{told}' cannot be opened: {getattr(exc, 'strerror', None) or exc}") from None
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise UsageError(f"'{told}' is a directory; give the path of an ensemble file")
        if not stat.S_ISREG(mode):
            raise UsageError(f"'{told}' is no plain file; give the path of an ensemble file")
        text = _read(fd)
    except OSError as exc:
        raise UsageError(f"the file '{told}' cannot be read: {exc.strerror}") from None
    finally:
        os.close(fd)
    can = BUILT_IN if site is None else BUILT_IN | abilities.SCALING
    return load(text, name, Folder(os.path.dirname(name)), can, instance, site)


def _read(fd: int) -> bytes:
    """The file's bytes, at most one more than are allowed."""
    text = b""
    while len(text) <= MAX_BYTES:
        part = os.read(fd, MAX_BYTES + 1 - len(text))
        if not part:
            break
        text += part
    return text


class Shape:
    """Brings the tree into the form that the models know. Nodes may be shared by aliases: new ones are made."""

    def __init__(self, report: Report, file: str, beside: Beside) -> None:
        self._report = report
        self._file = file
        self._beside = beside
        #: see `Loaded`
        self.written: Node = TOLD

    def file(self, root: Node) -> Node:
        if root.kind != "map":
            self._report.add(root, f"the file cannot be {root}", expected="a mapping with the keys jobs and rules")
            raise SpecError(self._report.faults)
        entries = self._known(root, "file")
        for section in ("logging", "limits", "variables", "simulate", "scaler", "members"):
            # a section whose lines are all commented out is as good as none
            if section in entries and entries[section][1].empty:
                del entries[section]
        self._filled(entries)
        if "name" not in entries:
            stem = re.sub(r"\.ya?ml$", "", os.path.basename(self._file))
            entries["name"] = (root, _scalar(_title(stem), root))
        if "custom" in entries and entries["custom"][1] is not TOLD:
            entries["custom"] = (entries["custom"][0], custom.shape(entries["custom"][1], self._report, self._beside))
        if "limits" in entries:
            entries["limits"] = (entries["limits"][0], self._section(entries["limits"][1], "limit"))
        if "logging" in entries:
            entries["logging"] = (entries["logging"][0], self._section(entries["logging"][1], "logging"))
        if "simulate" in entries and entries["simulate"][1].kind == "map":
            entries["simulate"] = (entries["simulate"][0], self._simulate(entries["simulate"][1]))
        if "scaler" in entries and entries["scaler"][1].kind == "map":
            entries["scaler"] = (entries["scaler"][0], self._section(entries["scaler"][1], "scaler"))
        if "variables" in entries and entries["variables"][1].kind == "map":
            place, given = entries["variables"]
            variables = dict(given.value)
            self._filled(variables)
            entries["variables"] = (place, Node("map", variables, given))
        written = {"name": entries["name"], **root.value}
        for key, each in (("jobs", self._job), ("rules", self.rule)):
            if key == "rules" and "algorithm" in entries:
                self._algorithms(entries, written)
            if key in entries and entries[key][1].kind == "list":
                node = entries[key][1]
                made = [each(item) if item.kind == "map" else item for item in node.items]
                entries[key] = (entries[key][0], Node("list", made, node))
        self.written = Node("map", written, root)
        if "rules" in entries:
            self._ids(entries["rules"][1])
        return Node("map", entries, root)

    def _algorithms(self, entries: Dict[str, Tuple[Node, Node]], written: Dict[str, Tuple[Node, Node]]) -> None:
        """Put the rules of the algorithms behind those of the file."""
        del written["algorithm"]
        place, node = entries.pop("algorithm")
        more = [] if node is TOLD else algorithms.expand(node, entries, self._report, self._beside)
        self._declare(algorithms.variables(more), place, entries, written)
        own = entries.get("rules")
        if own is not None and own[1].kind != "list" and not own[1].empty:
            return
        rules = Node("list", [*(own[1].items if own is not None else ()), *more], own[1] if own is not None else node)
        if not more and own is None:
            # the faults are told: that there are no rules is none of its own
            entries["rules"] = (place, TOLD)
            return
        entries["rules"] = written["rules"] = (own[0] if own is not None else place, rules)

    def _declare(
        self, names: List[str], at: Node, entries: Dict[str, Tuple[Node, Node]], written: Dict[str, Tuple[Node, Node]]
    ) -> None:
        """Declare the variables of algorithms, without a value; what the file declares itself stays."""
        for tree in (entries, written) if names else ():
            place, own = tree.get("variables", (_scalar("variables", at), at))
            if "variables" in tree and own.kind != "map" and not own.empty:
                continue
            had = own.value if "variables" in tree and own.kind == "map" else {}
            more = {name: (_scalar(name, at), _scalar(None, at)) for name in names if name not in had}
            tree["variables"] = (place, Node("map", {**had, **more}, own))

    def _known(self, node: Node, where: str) -> Dict[str, Tuple[Node, Node]]:
        """The entries without those of a later release, which are told here."""
        entries = dict(node.value)
        for word in NOT_YET.get(where, ()):
            if word in entries:
                self._report.add(entries.pop(word)[0], f"'{word}' is not supported yet", value=word, expected=LATER)
        for word, field in _MODELS[where].model_fields.items():
            # null, written out, is as good as no key, where no key is as good as None
            if field.default is None and word in entries and _null(entries[word][1]):
                del entries[word]
        return entries

    def _filled(self, entries: Dict[str, Tuple[Node, Node]]) -> None:
        """A key without any value is told, and left out."""
        for word, (key, node) in list(entries.items()):
            if node.empty:
                self._report.add(
                    key, f"the key {shown(word)} has no value", value=word, expected="a value behind the ':'"
                )
                entries[word] = (key, TOLD)

    def _section(self, node: Node, where: str) -> Node:
        if node.kind != "map":
            return node
        entries = self._known(node, where)
        self._filled(entries)
        return Node("map", entries, node)

    def _job(self, node: Node) -> Node:
        made = self._section(node, "job")
        if "retries" in made.value:
            key, retries = made.value["retries"]
            made.value["retries"] = (key, self._section(retries, "retries"))
        if "parameters" in made.value:
            key, inner = made.value["parameters"]
            space = None if inner is TOLD else parameters.shape(inner, self._report, self._beside.text)
            made.value["parameters"] = (key, space or TOLD)
        return made

    def _simulate(self, node: Node) -> Node:
        made = self._section(node, "simulate")
        groups = made.get("groups")
        if groups is not None and groups.kind == "map":
            inner = {name: (key, self._section(of, "group")) for name, (key, of) in groups.value.items()}
            made.value["groups"] = (made.key("groups"), Node("map", inner, groups))
        return made

    def rule(self, node: Node) -> Node:
        """A rule in the form of the models, save its id."""
        entries = self._known(node, "rule")
        self._filled(entries)
        report = self._report
        if "action" in entries:
            key, action = entries.pop("action")
            if "actions" in entries:
                report.add(key, "this rule has both action and actions", expected="one of them")
            elif action.kind == "map":
                entries["actions"] = (key, Node("list", [self._action(action, entries)], action))
            elif action is TOLD:
                entries["actions"] = (key, action)
            else:
                hint = (
                    "a mapping; several stand under actions"
                    if action.kind == "list"
                    else "a mapping such as {name: stop}"
                )
                report.add(action, f"action cannot be {action}", value=action.text, expected=hint)
                entries["actions"] = (key, TOLD)
        elif "actions" in entries:
            key, actions = entries["actions"]
            made = [self._action(item, None) if item.kind == "map" else item for item in actions.items]
            if actions.kind == "list":
                if not made:
                    report.add(actions, "this rule has no action", expected="at least one action")
                entries["actions"] = (key, Node("list", made, actions))
        else:
            report.add(node, "this rule has no action", expected="action, or a list of actions under actions")
            entries["actions"] = (node, TOLD)
        if "repetitions" in entries:
            key, times = entries["repetitions"]
            if times.kind == "scalar" and times.text == "unlimited":
                entries["repetitions"] = (key, _scalar(None, times))
            elif times is not TOLD and times.value is None:
                report.add(times, "repetitions cannot be null", expected="a whole number, or unlimited")
        return Node("map", entries, node)

    def _action(self, node: Node, rule: Optional[Dict[str, Tuple[Node, Node]]]) -> Node:
        """`rule` takes in what a lone action carries for it; None where the action is one of a list."""
        later = node.get("name")
        if later is not None and later.text in NOT_YET["action"]:
            # the name itself is told by `check`; its keys need not be
            return Node("map", {"name": node.value["name"]}, node)
        entries = self._known(node, "action key")
        self._filled(entries)
        for word in LIFTED:
            if word not in entries:
                continue
            key, value = entries.pop(word)
            if rule is None:
                self._report.add(
                    key,
                    f"'{word}' belongs to the rule, not to one of its actions",
                    value=word,
                    expected=f"{word} beside actions",
                )
            elif word in rule:
                self._report.add(
                    key,
                    f"'{word}' is given twice, with the rule and with its action",
                    value=word,
                    expected="one of them",
                )
            else:
                rule[word] = (key, value)
        return Node("map", entries, node)

    def _ids(self, rules: Node) -> None:
        """Rules without an id get `rule-N`; where that is taken, with a letter more."""
        given: Set[str] = {node.text for node in (item.get("id") for item in rules.items) if node is not None}
        for number, item in enumerate(rules.items, 1):
            if item.kind == "map" and "id" not in item.value:
                name = f"rule-{number}"
                while name in given:
                    name += "x"
                given.add(name)
                item.value["id"] = (item, _scalar(name, item))


_MODELS: Dict[str, Type[BaseModel]] = {
    "file": Spec,
    "logging": Logging,
    "limit": Limits,
    "job": JobSet,
    "retries": Retries,
    "rule": Rule,
    "action key": Action,
    "scaler": Scaler,
    "simulate": Simulate,
    "group": Simulated,
}


def _null(node: Node) -> bool:
    return node.kind == "scalar" and node.value is None and not node.empty and node is not TOLD


def _scalar(value: Any, at: Node) -> Node:
    return Node("scalar", value, at, "" if value is None else str(value))


def _title(stem: str) -> str:
    """The stem as a legal name."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.")[:100]
    return name if TITLE.fullmatch(name) else "ensemble"
