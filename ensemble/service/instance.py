# SPDX-License-Identifier: MIT
"""Asks a Flux instance what it has and allows, for those who hold a file against it. Imports flux when called."""

from __future__ import annotations

from typing import Any, Dict, FrozenSet, List, Mapping, Optional

from ensemble.errors import MemberError
from ensemble.service.flux_client import open_handle
from ensemble.spec import units
from ensemble.spec.machine import Machine, Nodes, Queue
from ensemble.spec.scaler import Site, site

#: seconds for an answer
_PATIENCE = 10.0


def machine() -> Machine:
    """The nodes and queues of the enclosing instance. Raises MemberError where it does not tell its nodes."""
    handle = open_handle()
    try:
        status = handle.rpc("resource.sched-status", {}).wait_for(_PATIENCE).get()
    except OSError as exc:
        raise MemberError(f"the instance does not tell its nodes ({exc.strerror or exc})") from None
    config = _asked(handle, "config.get", {})
    enabled = {
        name: bool(_asked(handle, "job-manager.queue-status", {"name": name}).get("enable", True))
        for name in config.get("queues") or {}
    }
    return of(status, config, enabled)


def scaler() -> Optional[Site]:
    """The scaler that the instance's configuration names; None where there is none, or no instance."""
    try:
        table = _asked(open_handle(), "config.get", {})["ensemble"]["scaler"]
        return site(table)
    except (OSError, MemberError, KeyError, TypeError, ValueError):
        # the service tells what is wrong with it
        return None


def _asked(handle: Any, topic: str, payload: Dict[str, Any]) -> Dict[str, Any]:
    """An answer; nothing where there is none, since what it tells is not needed."""
    try:
        answer = handle.rpc(topic, payload).wait_for(_PATIENCE).get()
    except OSError:
        return {}
    return answer if isinstance(answer, dict) else {}


def of(status: Mapping[str, Any], config: Mapping[str, Any], enabled: Mapping[str, bool]) -> Machine:
    """The machine of an answer of `resource.sched-status`, a configuration (flux-config(5)), and which queues take jobs."""
    policy = config.get("policy")
    defaults = _inside(policy, "jobspec", "defaults", "system")
    queues = {
        str(name): _queue(queue, policy, enabled.get(name, True))
        for name, queue in _mapping(config.get("queues")).items()
    }
    default = defaults.get("queue")
    return Machine(
        tuple(_nodes(status.get("all"))), queues, None if default is None else str(default), _queue({}, policy, True)
    )


def _nodes(resources: Any) -> List[Nodes]:
    """The nodes of a resource set (RFC 20), those that are alike together."""
    execution = _inside(resources, "execution")
    properties: Dict[int, List[str]] = {}
    for name, ranks in _mapping(execution.get("properties")).items():
        for rank in _ids(ranks):
            properties.setdefault(rank, []).append(str(name))
    found: Dict[Nodes, int] = {}
    for entry in execution.get("R_lite") or ():
        children = _mapping(_mapping(entry).get("children"))
        cores, gpus = (len(_ids(children.get(kind))) for kind in ("core", "gpu"))
        for rank in _ids(entry.get("rank")):
            one = Nodes(1, cores, gpus, frozenset(properties.get(rank, ())))
            found[one] = found.get(one, 0) + 1
    return [one._replace(number=number) for one, number in found.items()]


def _ids(idset: Any) -> List[int]:
    return list(units.idset(idset)) if idset else []


def _queue(queue: Any, policy: Any, enabled: bool) -> Queue:
    """A queue of the configuration; what it does not say, the policy of the instance does."""
    own = _inside(queue, "policy")
    longest = _either(own, policy, "limits", "duration")
    usual = _either(own, policy, "jobspec", "defaults", "system", "duration")
    most: Dict[str, int] = {}
    for word in ("nnodes", "ncores", "ngpus"):
        number = _either(own, policy, "limits", "job-size", "max", word)
        if isinstance(number, int) and number >= 0:
            most[word] = number
    requires: FrozenSet[str] = frozenset(map(str, _mapping(queue).get("requires") or ()))
    return Queue(requires, _seconds(longest), _seconds(usual), most, enabled)


def _either(own: Any, policy: Any, *words: str) -> Any:
    *way, last = words
    found = _inside(own, *way).get(last)
    return _inside(policy, *way).get(last) if found is None else found


def _inside(value: Any, *words: str) -> Dict[str, Any]:
    for word in words:
        value = _mapping(value).get(word)
    return _mapping(value)


def _mapping(value: Any) -> Dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _seconds(value: Any) -> Optional[float]:
    """A Flux Standard Duration; None for none, and for one without an end."""
    try:
        return units.duration(value) or None
    except ValueError:
        return None
