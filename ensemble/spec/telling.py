# SPDX-License-Identifier: MIT
"""What the models find wrong with a tree, in our words and at the position of the node.

Law of this file: it knows how pydantic calls its errors, and what a place of a file is to its user; nothing is checked here.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Tuple, Type

from pydantic import BaseModel, ValidationError

from ensemble.spec import (
    check,
    simulate_check,
)
from ensemble.spec.faults import Report, escape, listed, nearest, shown
from ensemble.spec.models import Action, Custom, JobSet, Limits, Logging, Rule, Spec
from ensemble.spec.places import Place
from ensemble.spec.reader import Node
from ensemble.spec.reports import Reported
from ensemble.spec.retries import Retries
from ensemble.spec.scaler import Scaler

#: stands for a value that is missing or wrong and that has been told
TOLD = Node("scalar", None, Node("scalar", None, type("_", (), {"line": 0, "column": 0})))

#: words for what the models call by their own
_KINDS: Dict[str, str] = {
    "string_type": "a string",
    "bool_type": "true or false",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
}
_ALL_BOOL = {
    "yes": "true",
    "on": "true",
    "no": "false",
    "off": "false",
    "y": "true",
    "n": "false",
    "1": "true",
    "0": "false",
}


def validate(root: Node, report: Report) -> Optional[Spec]:
    """The spec of a tree in shape; None where the report has faults of it."""
    try:
        return Spec.model_validate(root.plainly())
    except ValidationError as exc:
        for error in exc.errors(include_url=False, include_input=False):
            _tell(error["loc"], error["type"], error.get("ctx", {}), error["msg"], root, report)
        return None


def _tell(loc: Tuple[Any, ...], kind: str, context: Dict[str, Any], text: str, root: Node, report: Report) -> None:
    """One error of the models, as a fault at the node that it is about."""
    what, model = _subject(loc[:-1] if kind in ("missing", "extra_forbidden") else loc)
    if kind == "missing":
        parent = _walk(root, loc[:-1])[0]
        field = model.model_fields[str(loc[-1])]
        if check.misspelt(parent, str(loc[-1]), _keys(model)):
            return
        report.add(parent, f"{what} has no {loc[-1]}", expected=f"{loc[-1]}: {field.description}")
        return
    node, key = _walk(root, loc)
    if kind == "extra_forbidden":
        word = str(loc[-1])
        known = _keys(model)
        report.add(
            key,
            f"{what} has no key {shown(word)}",
            value=word,
            expected=f"one of {listed(known, 40)}",
            suggestion=lambda: nearest(word, known),
        )
        return
    if node is TOLD or kind == "one_command":
        return
    error = context.get("error")
    told = str(error) if error is not None else text
    expected = _KINDS.get(kind, told[len("expected ") :] if told.startswith("expected ") else told)
    suggestion = None
    if kind == "literal_error":
        words = re.findall(r"'(\w+)'", str(context.get("expected", "")))
        expected = f"one of {', '.join(words)}"
        suggestion = nearest(node.text, words)
    elif kind == "bool_type":
        suggestion = _ALL_BOOL.get(node.text.lower())
    name = next((str(part) for part in reversed(loc) if isinstance(part, str)), what)
    subject = what if loc and isinstance(loc[-1], int) else escape(name[:60])
    report.add(node, f"{subject} cannot be {node}", value=node.text or None, expected=expected, suggestion=suggestion)


def _subject(loc: Tuple[Any, ...]) -> Tuple[str, Type[BaseModel]]:
    """What a place is in the user's words, and the model that describes it."""
    if loc[:1] == ("jobs",) and len(loc) > 2 and loc[2] == "retries":
        return "a cause" if "causes" in loc[3:-1] else "retries", Retries
    if loc[:1] == ("jobs",) and len(loc) > 3 and loc[2] == "metrics":
        return "a variable", Reported
    if loc[:1] == ("jobs",) and len(loc) > 1:
        return "a job", JobSet
    if loc[:1] == ("rules",) and len(loc) > 3 and loc[2] == "actions":
        return "an action", Action
    if loc[:1] == ("rules",) and len(loc) > 1:
        return "a rule", Rule
    if loc[:1] == ("limits",):
        return "limits", Limits
    if loc[:1] == ("logging",):
        return "logging", Logging
    if loc[:1] == ("scaler",):
        return "the scaler", Scaler
    if loc[:1] == ("simulate",):
        return simulate_check.subject(loc)
    if loc[:1] == ("custom",):
        return "custom", Custom
    if loc[:1] == ("members",) and len(loc) > 1:
        return "a member", Place
    return "the file", Spec


def _keys(model: Type[BaseModel]) -> List[str]:
    """What a user may write there."""
    words = list(model.model_fields)
    if model is Rule:
        words.insert(words.index("actions"), "action")
    return words


def _walk(root: Node, loc: Tuple[Any, ...]) -> Tuple[Node, Node]:
    """The node of a place, as far as it can be followed, and the node of its key (or itself)."""
    node = key = root
    for part in loc:
        if node.kind == "map" and str(part) in node.value:
            key, node = node.value[str(part)]
        elif node.kind == "list" and isinstance(part, int) and part < len(node.value):
            key = node = node.value[part]
        else:
            break
    return node, key
