# SPDX-License-Identifier: MIT
"""`scaler:` of a file, and the table `ensemble.scaler` of Flux's configuration: how a queue gets more or fewer nodes.

Law of this file: shape and ranges, which keys go with which scaler, which of the two tables counts, and what scalers there
are by name. Nothing here knows a queue: what a scaler does is a member's.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any, Collection, Dict, List, Mapping, Optional, Tuple

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError
from typing_extensions import Annotated

from ensemble.spec import units
from ensemble.spec.faults import Report, listed, nearest, shown
from ensemble.spec.reader import Node
from ensemble.spec.units import As, Between

DRAIN, COMMAND, MINICLUSTER = "drain", "command", "minicluster"
#: the scalers of this release; the others are brought by installed packages
BUILT_IN = (DRAIN, COMMAND, MINICLUSTER)
#: the group of entry points under which installed packages bring others
ENTRY_POINTS = "ensemble.scalers"
#: keys that only some scalers have -> which
_OF: Dict[str, Tuple[str, ...]] = {
    "command": (COMMAND,),
    "object": (MINICLUSTER,),
    "namespace": (MINICLUSTER,),
    "server": (MINICLUSTER,),
    "account": (MINICLUSTER,),
}
#: in `server`: a token must not go over a network in the clear
_LOOPBACK = ("http://127.", "http://localhost", "http://[::1]")

_Nodes = Annotated[int, Between(1, 1_000_000)]
_Duration = Annotated[float, As(units.duration, ({"type": "number", "minimum": 0}, {"type": "string"}))]
_Filled = Annotated[str, As(units.filled, ({"type": "string", "minLength": 1},))]
_Command = Annotated[
    Tuple[str, ...],
    As(units.command, ({"type": "string"}, {"type": "array", "items": {"type": ["string", "number"]}, "minItems": 1})),
]


class Scaler(BaseModel):
    """`scaler:` of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False, hide_input_in_errors=True)

    name: _Filled = Field(description=f"{', '.join(BUILT_IN)}, or one that an installed package brings")
    min: _Nodes = Field(1, description="nodes that a shrink leaves")
    max: Optional[_Nodes] = Field(None, description="nodes that a grow goes up to; without it all that there are")
    cooldown: _Duration = Field(0.0, description="time between two changes of the size; what is asked meanwhile waits")
    timeout: _Duration = Field(600.0, description="time after which a change of the size that is not done has failed")
    force: StrictBool = Field(False, description="true: a shrink does not wait for the jobs on the nodes that it takes")
    command: Optional[_Command] = Field(
        None, description="command: what changes the size, split as a shell splits words, or a list of words"
    )
    object: Optional[_Filled] = Field(
        None, description="minicluster: the MiniCluster's name; without it that which the host's name begins with"
    )
    namespace: Optional[_Filled] = Field(None, description="minicluster: its namespace; without it the pod's own")
    server: Optional[_Filled] = Field(
        None, description="minicluster: URL of the Kubernetes API; without it that which pods are told"
    )
    account: Optional[_Filled] = Field(
        None, description="minicluster: folder with token, ca.crt and namespace; without it that of pods"
    )
    options: Dict[str, Annotated[Any, As(units.jsonable, ({},))]] = Field(
        default_factory=dict, description="what a scaler of an installed package is told"
    )

    @property
    def way(self) -> Tuple[Any, ...]:
        """What the size is changed by: two tables that differ in bounds and times alone have the same."""
        options = sorted((name, repr(value)) for name, value in self.options.items())
        return (self.name, self.command, self.object, self.namespace, self.server, self.account, *options)


class Site(BaseModel):
    """What the configuration of a queue says: a scaler, and whether a file may bring another one."""

    model_config = ConfigDict(frozen=True)

    scaler: Scaler
    fixed: bool = False


def site(table: Mapping[str, Any]) -> Site:
    """The table `ensemble.scaler` of Flux's configuration. Raises ValueError with a sentence for its writer."""
    given = dict(table)
    fixed = given.pop("fixed", False)
    if not isinstance(fixed, bool):
        raise ValueError(f"ensemble.scaler.fixed is {shown(fixed)}, and has to be true or false")
    unknown = [word for word in given if word not in Scaler.model_fields]
    if unknown:
        near = nearest(unknown[0], Scaler.model_fields)
        hint = f"did you mean '{near}'?" if near else f"expected one of {', '.join((*Scaler.model_fields, 'fixed'))}"
        raise ValueError(f"ensemble.scaler has no key {shown(unknown[0])}; {hint}")
    try:
        scaler = Scaler.model_validate(given)
    except ValidationError as exc:
        fault = exc.errors()[0]
        where = ".".join(["ensemble.scaler", *map(str, fault["loc"])])
        raise ValueError(f"{where}: {fault['msg'].replace('Value error, ', '', 1)}") from None
    for word, text in _between({word: given[word] for word in given}, scaler.name, scaler.min, scaler.max):
        raise ValueError(f"ensemble.scaler.{word}: {text}")
    return Site(scaler=scaler, fixed=fixed)


def chosen(of_file: Optional[Scaler], of_site: Optional[Site]) -> Optional[Scaler]:
    """The scaler that counts. The file's, unless the site has fixed its own; the site's bounds hold for both."""
    if of_site is None:
        return of_file
    if of_file is None or of_site.fixed:
        return of_site.scaler
    mine, theirs = of_file, of_site.scaler
    most = min((one.max for one in (mine, theirs) if one.max is not None), default=None)
    least = max(mine.min, theirs.min)
    return mine.model_copy(update={"min": least if most is None else min(least, most), "max": most})


def installed() -> Dict[str, Any]:
    """Entry points of the scalers that packages bring, by name."""
    points: Any = importlib.metadata.entry_points()
    # before Python 3.10 a mapping
    ours = points.select(group=ENTRY_POINTS) if hasattr(points, "select") else points.get(ENTRY_POINTS, ())
    return {point.name: point for point in ours}


def check(root: Node, report: Report, past: bool) -> None:
    """Tell the faults of a file's table that lie between its keys, and a name that no scaler here has.

    `past`: the file was taken before, when there may have been one.
    """
    table = root.get("scaler")
    if table is None or table.kind != "map":
        return
    name = table.get("name")
    if name is None or name.kind != "scalar" or not isinstance(name.value, str):
        return
    if name.text and name.text not in BUILT_IN and not past:
        others = installed()
        if name.text not in others:
            names = (*BUILT_IN, *sorted(others))
            message = f"no scaler is called {shown(name.text)} here"
            expected = f"one of {listed(names)}, or one that an installed package brings"
            report.add(name, message, value=name.text, expected=expected, suggestion=nearest(name.text, names))
            return
    least, most = (_number(table.get(word)) for word in ("min", "max"))
    given = {word: node.text for word, (_, node) in table.value.items()}
    for word, text in _between(given, name.text, 1 if least is None else least, most):
        report.add(table.key(word) if word in table.value else table, text)


def warn(root: Node, report: Report, of_site: Optional[Site]) -> None:
    """Tell that a file's table is set aside where the site has fixed its own."""
    table = root.get("scaler")
    if table is not None and of_site is not None and of_site.fixed:
        report.warn(
            root.key("scaler"), f"the site has fixed the scaler '{of_site.scaler.name}', so this one is set aside"
        )


def _number(node: Optional[Node]) -> Optional[int]:
    try:
        return None if node is None else units.whole(node.value)
    except ValueError:
        return None


def _none(duration: Any) -> bool:
    try:
        return units.duration(duration) == 0
    except ValueError:
        return False


def _between(given: Mapping[str, Any], name: str, least: int, most: Optional[int]) -> List[Tuple[str, str]]:
    """Faults between the keys of a table: the key, and a sentence."""
    found = []
    if most is not None and 1 <= most < least:
        found.append(("min", f"min is {least}, which is more than max, {most}"))
    if "timeout" in given and _none(given["timeout"]):
        found.append(("timeout", "a timeout of 0 leaves no time for any change: each would fail at once"))
    if name == COMMAND and "command" not in given:
        found.append(("name", "the scaler 'command' has no command: give the one that changes the size"))
    for word, names in _OF.items():
        if word in given and name not in names:
            found.append((word, f"the scaler {shown(name)} has no {word}; {names[0]} has"))
    if "options" in given and name in BUILT_IN:
        found.append(("options", f"the scaler {shown(name)} takes no options; those of installed packages may"))
    server = str(given.get("server", ""))
    if server and not server.startswith(("https://", *_LOOPBACK)):
        found.append(("server", "server has to begin with https:// (http:// only on this machine)"))
    return found


def known(name: str, others: Collection[str]) -> str:
    """A sentence for a name that nothing is found under."""
    there = ", ".join((*BUILT_IN, *sorted(others)))
    return f"no scaler is called '{name}' here; there are {there}, and installed packages may bring others"
