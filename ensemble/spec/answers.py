# SPDX-License-Identifier: MIT
"""What a function answers, read as the ensemble's own file was: the same shape, the same checks, the same models.

Law of this file: an answer is a list of `{"action": {...}}` and `{"rule": {...}}`, plain data as in a file. It is good as a
whole or refused as a whole, with a sentence that says which item is wrong and what would be right.
"""

from __future__ import annotations

from typing import Any, Collection, Dict, List, NamedTuple, Optional

from ensemble.spec import check, custom, sampling
from ensemble.spec.beside import Beside
from ensemble.spec.faults import Place, Report
from ensemble.spec.load import Shape
from ensemble.spec.models import Action, Rule, Spec
from ensemble.spec.reader import Node
from ensemble.spec.syntax import MAX_DEPTH
from ensemble.spec.telling import validate

#: items of one answer
MOST = 1000


class WrongAnswer(ValueError):
    """The function answered something that no file could say; a sentence."""


class Item(NamedTuple):
    """One item of an answer: an action, or a rule with its plain form, from which `rule` makes it again."""

    action: Optional[Action] = None
    rule: Optional[Rule] = None
    plain: Any = None


def read(spec: Spec, ids: Collection[str], items: Any, prefix: str) -> List[Item]:
    """The items of an answer. `ids` are those of the rules there are; a rule without one is called after `prefix`.

    Raises WrongAnswer.
    """
    if not isinstance(items, list) or len(items) > MOST:
        raise WrongAnswer(f"expected a list of at most {MOST} actions and rules")
    if not items:
        return []
    report = Report("answer", "")
    shape = Shape(report, "answer", Beside())
    nodes: List[Node] = []
    taken = set(ids)
    for number, item in enumerate(items, 1):
        rule = _described(number, item)
        given = rule.get("id")
        if given is not None and given in taken:
            raise WrongAnswer(f"item {number}: a rule has the id '{given}' already; leave the id out, or give another")
        if given is None:
            rule["id"] = _free(f"{prefix[:80]}-{number}" if len(items) > 1 else prefix[:80], taken)
        taken.add(str(rule["id"]))
        nodes.append(shape.rule(_node(rule, Place(number, 1), number)))
    assert spec._tree is not None, "only a file with custom functions has answers to read"
    written = spec._tree.root
    entries = dict(written.value)
    entries["rules"] = (written, Node("list", nodes, written))
    root = Node("map", entries, written)
    parts = [rule.algorithm for rule in spec.rules if rule.algorithm is not None]
    check.check(root, report, custom.functions(root.get("custom"), Beside()), ids, parts)
    made = validate(root, report)
    if made is not None and not report.faults:
        made = check.settle(made, root, report)
        sampling.settle_actions(made, root, report)
    if report.faults or made is None:
        raise WrongAnswer("; ".join(_told(fault, items) for fault in report.faults[:3]))
    return [
        Item(action=rule.actions[0]) if "action" in item else Item(rule=rule, plain=node.plainly())
        for item, rule, node in zip(items, made.rules, nodes)
    ]


def rule(plain: Any) -> Rule:
    """The rule of that plain form. Raises ValueError."""
    return Rule.model_validate(plain)


def _described(number: int, item: Any) -> Dict[str, Any]:
    if isinstance(item, dict) and len(item) == 1:
        ((kind, given),) = item.items()
        if kind in ("action", "rule") and isinstance(given, dict):
            return dict(given) if kind == "rule" else {"trigger": "start", "action": given}
    raise WrongAnswer(f"item {number} is neither an action nor a rule")


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "x"
    return name


def _node(value: Any, at: Place, number: int, depth: int = 1) -> Node:
    """Plain data as a node; its line is the number of its item."""
    if depth > MAX_DEPTH:
        raise WrongAnswer(f"item {number} is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        entries = {
            str(key): (Node("scalar", str(key), at, str(key)), _node(one, at, number, depth + 1))
            for key, one in value.items()
        }
        return Node("map", entries, at)
    if isinstance(value, list):
        return Node("list", [_node(one, at, number, depth + 1) for one in value], at)
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return Node("scalar", value, at, text)


def _told(fault: Any, items: List[Any]) -> str:
    kind = "action" if "action" in items[fault.line - 1] else "rule"
    which = f"{kind} {fault.line}: " if len(items) > 1 else f"{kind}: "
    expected = f"; expected {fault.expected}" if fault.expected else ""
    near = f"; did you mean '{fault.suggestion}'?" if fault.suggestion else ""
    return f"{which}{fault.message}{expected}{near}"
