# SPDX-License-Identifier: MIT
"""How large the simulated queue is: as options say, else the file, else the running instance, else this machine.

Law of this file: each of nodes, cores and GPUs comes from the first of these that says it, and it is told from which.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ensemble.errors import MemberError
from ensemble.members.simulated_nodes import Pair
from ensemble.spec import units
from ensemble.spec.simulate import Simulate

#: seconds for the instance's answer
_PATIENCE = 10.0


class Cluster(NamedTuple):
    """The nodes, and where the numbers come from."""

    nodes: Tuple[Pair, ...]
    #: such as "2 nodes with 8 cores each"
    text: str
    #: such as "of the file"
    source: str


def cluster(
    given: Dict[str, Optional[int]], table: Optional[Simulate], instance: Callable[[], Optional[List[Pair]]]
) -> Cluster:
    """The queue for these options (`nodes`, `cores`, `gpus`; None where not given) and that table of the file.

    `instance` answers the nodes of the running instance, None where there is none; it is asked only where it matters.
    """
    said: Dict[str, int] = {}
    sources: Dict[str, str] = {}
    for name in ("nodes", "cores", "gpus"):
        for source, number in (("options", given.get(name)), ("file", getattr(table, name, None))):
            if number is not None and name not in said:
                said[name], sources[name] = number, source
    found: Optional[List[Pair]] = None
    base = ""
    if "nodes" not in said or "cores" not in said:
        # a queue that is described in part stands on what is there
        found, base = instance(), "the running instance"
        if not found:
            found, base = [(len(os.sched_getaffinity(0)), 0)], "this machine"
    if found is not None and not said:
        nodes = list(found)
    else:
        first = found[0] if found else (1, 0)
        pair = (said.get("cores", first[0]), said.get("gpus", first[1] if found else 0))
        if found is not None and "nodes" not in said and "cores" not in said:
            nodes = [(cores, said["gpus"]) for cores, _ in found]
        else:
            nodes = [pair] * said.get("nodes", len(found) if found else 1)
    told = list(dict.fromkeys([f"of the {one}" if one == "file" else f"by {one}" for one in sources.values()]))
    if base:
        told.append(f"of {base}" if not said else f"the rest of {base}")
    return Cluster(tuple(nodes), described(nodes), ", ".join(told))


def described(nodes: List[Pair]) -> str:
    """The nodes in words."""
    count = f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}"
    if len(set(nodes)) > 1:
        cores, gpus = sum(one for one, _ in nodes), sum(one for _, one in nodes)
        return f"{count} with {_of(cores, 'core')}{' and ' + _of(gpus, 'GPU') if gpus else ''} in all"
    cores, gpus = nodes[0]
    each = " each" if len(nodes) > 1 else ""
    return f"{count} with {_of(cores, 'core')}{' and ' + _of(gpus, 'GPU') if gpus else ''}{each}"


def _of(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def instance() -> List[Pair]:
    """Cores and GPUs of each node of the running instance that is up. Imports flux. Raises MemberError."""
    try:
        import flux
    except ImportError as exc:
        raise MemberError(f"the bindings of Flux cannot be loaded ({exc}); give --nodes and --cores") from None
    try:
        answer = flux.Flux().rpc("resource.sched-status", {}).wait_for(_PATIENCE).get()
    except OSError as exc:
        raise MemberError(
            f"the instance does not tell its nodes ({exc.strerror or exc}); give --nodes and --cores"
        ) from None
    return nodes_of(answer)


def nodes_of(answer: Dict[str, Any]) -> List[Pair]:
    """Cores and GPUs of each node, by rank, of an answer of `resource.sched-status`; those that are down are left out."""
    everything = _ranks(answer.get("all"))
    down = _ranks(answer.get("down"))
    return [pair for rank, pair in sorted(everything.items()) if rank not in down and pair[0]]


def _ranks(resources: Any) -> Dict[int, Pair]:
    """Rank to cores and GPUs, of a resource set of RFC 20."""
    found: Dict[int, Pair] = {}
    for entry in ((resources or {}).get("execution") or {}).get("R_lite") or ():
        children = entry.get("children") or {}
        pair = _size(children.get("core")), _size(children.get("gpu"))
        for rank in units.idset(entry["rank"]):
            found[rank] = pair
    return found


def _size(idset: Any) -> int:
    return len(units.idset(idset)) if idset else 0
