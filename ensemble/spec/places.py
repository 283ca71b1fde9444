# SPDX-License-Identifier: MIT
"""`members:` of a file and `member:` of a group: the Flux instances besides the service's own in which jobs run.

Law of this file: shape, and what lies between the two; which instance a job goes to is the engine's
(`ensemble.engine.places`). HOME names the service's own instance, where a group runs that says nothing.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Tuple

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import Annotated

from ensemble.spec import units
from ensemble.spec.faults import Report, listed, nearest, shown
from ensemble.spec.reader import Node
from ensemble.spec.units import As, Between

#: the service's own instance, beside the names under `members:`
HOME = "home"
#: a member goes away, comes back, or is given up
MEMBER_TRIGGERS = ("member-down", "member-up", "member-gone")
#: seconds that a member may be away before its jobs are given up
TIMEOUT = 300.0
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")
_MOST = 100
#: what says where a member is
_KINDS = ("uri", "job", "nodes")
_FILLED = As(units.filled, ({"type": "string", "minLength": 1}, {"type": "number"}))
_DURATION = As(units.duration, ({"type": "number", "minimum": 0}, {"type": "string"}))


class Place(BaseModel):
    """One of `members:`."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False, hide_input_in_errors=True)

    uri: Optional[Annotated[str, _FILLED]] = Field(None, description="the instance's URI, as FLUX_URI has it there")
    job: Optional[Annotated[str, _FILLED]] = Field(
        None, description="the job of the service's own instance in which the instance runs"
    )
    nodes: Optional[Annotated[int, Between(1, 1_000_000)]] = Field(
        None, description="nodes of an instance that the ensemble starts itself, in a job, and ends with its own end"
    )
    cores: Optional[Annotated[int, Between(1, 1_000_000)]] = Field(
        None, description="with nodes: cores of each; without it they are whole nodes"
    )
    duration: Annotated[float, _DURATION] = Field(0.0, description="with nodes: time limit of its job; 0 is none")
    queue: Optional[Annotated[str, _FILLED]] = Field(None, description="with nodes: queue of its job")
    timeout: Annotated[float, _DURATION] = Field(
        TIMEOUT, description="time that it may be away before its unfinished jobs are given up as lost"
    )


def _names(value: Any) -> Tuple[str, ...]:
    given = value if isinstance(value, (list, tuple)) else (value,)
    # none at all is what a dump has where the file names none
    if not all(isinstance(name, str) and name for name in given):
        raise ValueError("expected the name of a member, or a list of names in order of preference")
    return tuple(given)


#: of a set of jobs: where it may run, best first
Names = Annotated[
    Tuple[str, ...],
    As(_names, ({"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1})),
]


def check(root: Node, report: Report) -> None:
    """Tell the faults of `members:`, and of the groups that name one."""
    members = root.get("members")
    known = list(members.value) if members is not None and members.kind == "map" else []
    if len(known) > _MOST and members is not None:
        report.add(members, f"there are {len(known)} members", expected=f"at most {_MOST}")
    seen: Dict[Tuple[str, str], str] = {}
    for name in known:
        assert members is not None
        node = members.get(name)
        if not _NAME.fullmatch(name) or name == HOME:
            why = "is the service's own instance" if name == HOME else "is no name"
            report.add(members.key(name), f"{shown(name)} {why}", value=name, expected="letters, digits, _ and -")
        if node is None or node.kind != "map":
            continue
        given = [key for key in _KINDS if node.get(key) is not None]
        if len(given) != 1:
            says = f"says {listed(given)}" if given else "does not say where it is"
            report.add(node, f"the member '{name}' {says}", expected=f"one of {listed(_KINDS)}")
            continue
        if given[0] == "nodes":
            continue
        for key in ("cores", "duration", "queue"):
            if key in node.value:
                what = f"{key} is for an instance that is started, and '{name}' is one that is there"
                report.add(node.key(key), what, value=key, expected="nodes beside it")
        place = node.get(given[0])
        if place is None or place.kind != "scalar":
            continue
        if given[0] == "uri" and "://" not in place.text:
            report.add(
                place,
                f"{shown(place.text)} is no URI of an instance",
                value=place.text,
                expected="as 'flux uri' prints it, such as local:///run/flux/local or ssh://host/run/flux/local",
            )
        first = seen.setdefault((given[0], place.text), name)
        if first != name:
            report.add(place, f"'{first}' is that instance already", value=place.text, expected="each instance once")
    jobs = root.get("jobs")
    for item in jobs.items if jobs is not None else ():
        node = item.get("member") if item.kind == "map" else None
        if node is not None and node.kind == "list" and not node.items:
            report.add(node, "member is an empty list", expected="the name of a member, or a list of names, best first")
        for one in node.items if node is not None and node.kind == "list" else [node] if node is not None else []:
            if one.kind == "scalar":
                _known(one, known, report)


def trigger_name(node: Node, root: Node, report: Report) -> None:
    """Tell a rule's name that is no member's."""
    members = root.get("members")
    _known(node, list(members.value) if members is not None and members.kind == "map" else [], report, home=False)


def _known(node: Node, members: List[str], report: Report, home: bool = True) -> None:
    # a member must not be called so, which is told there
    known = [*(name for name in members if name != HOME), HOME] if home else members
    if node.text not in known:
        report.add(
            node,
            f"no member is called {shown(node.text)}",
            value=node.text,
            expected=f"one of {listed(known)}" if known else "members: with that name in it",
            suggestion=lambda: nearest(node.text, known),
        )
