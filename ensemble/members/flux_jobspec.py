# SPDX-License-Identifier: MIT
"""From a set of a group to the jobspec (RFC 25, version 1) of each of its jobs. Does not import flux.

A jobspec is built and turned into JSON once for a set (and once more for each combination of overrides, and of names of
parameters). What differs from job to job, its key and its parameters, has places in that text; `Template.fill` puts it in.
The shape of the resources, the environment and the limits that travel are what `flux submit` would make of the same
request.
"""

from __future__ import annotations

import copy
import json
import math
import posixpath
from typing import Any, Callable, Collection, Dict, List, Mapping, Optional, Tuple

from ensemble.errors import MemberError
from ensemble.members.base import Submitter
from ensemble.spec import templates
from ensemble.spec.models import JobSet
from ensemble.spec.space import Point

#: where a job carries its key, under attributes.user
KEY_ATTRIBUTE = "ensemble"
#: and its parameters, a mapping of names to values
PARAMS_ATTRIBUTE = "ensemble_params"

#: what the job shell replaces by the job's id in ASCII
ID_TAG = "{{id.f58plain}}"

#: variables that say where a process runs: the job shell sets them anew, so the submitter's must not travel
_LOCAL_VARIABLES = frozenset(
    (
        "FLUX_URI",
        "FLUX_KVS_NAMESPACE",
        "FLUX_PROXY_REMOTE",
        "FLUX_TERMINUS_SESSION",
        "ENSEMBLE_JOB",
        "ENSEMBLE_ID",
        "ENSEMBLE_SOCKET",
    )
)
_LOCAL_PREFIXES = ("FLUX_JOB_", "FLUX_TASK_", "ENSEMBLE_PARAM_", "PMI_")
#: limits that `flux submit` leaves at home
_LOCAL_LIMITS = frozenset(("memlock", "ofile", "msgqueue", "nice", "rtprio", "rttime", "sigpending"))

#: bytes; a longer script does not fit into one argument of execve(2)
_LONGEST_ARGUMENT = 64 * 1024
_SCRIPT_FILE = "ensemble-script"


#: what stands in a place of a jobspec, as JSON without quotes, for a job with that key and those parameters
_Hole = Callable[[str, Point], str]


class _Holes:
    """The places of a jobspec that is being built. Each is a mark around its number, and no text has that mark."""

    def __init__(self, taken: str) -> None:
        self.mark = "@ENSEMBLE@"
        while self.mark in taken:
            self.mark += "@"
        self.all: List[_Hole] = []
        #: places that stand in no quotes
        self.bare: List[str] = []
        self._places: Dict[str, str] = {}

    def place(self, name: str, hole: _Hole) -> str:
        """The place for what `hole` answers, the same for the same name."""
        if name not in self._places:
            self._places[name] = f"{self.mark}{len(self.all)}{self.mark}"
            self.all.append(hole)
        return self._places[name]


class Template:
    """A jobspec with places for a job's key and parameters. `urgency` goes with the submission, not in the jobspec."""

    __slots__ = ("_holes", "_parts", "urgency")

    def __init__(self, jobspec: Mapping[str, Any], holes: _Holes, urgency: int) -> None:
        text = json.dumps(jobspec, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        for place in holes.bare:
            text = text.replace(f'"{place}"', place)
        parts = text.split(holes.mark)
        #: what stands between the places, and the number of the place behind each but the last
        self._parts: List[Tuple[bytes, int]] = [
            (part.encode(), int(number)) for part, number in zip(parts[::2], [*parts[1::2], "-1"])
        ]
        self._holes = holes.all
        self.urgency = urgency

    def fill(self, key: str, params: Point) -> bytes:
        """The jobspec of the job with this key and these parameters, as JSON.

        Raises ValueError with a sentence where a value does not fit the format of its place.
        """
        values = [hole(key, params).encode() for hole in self._holes]
        values.append(b"")
        made = bytearray()
        for part, number in self._parts:
            made += part
            made += values[number]
        return bytes(made)


def template(
    jobs: JobSet,
    ensemble: str,
    submitter: Submitter,
    *,
    umask: Optional[int] = None,
    overrides: Optional[Mapping[str, Any]] = None,
    names: Collection[str] = (),
) -> Template:
    """The template of one set's jobs, which have the parameters `names`.

    `umask` is the one that jobs have by themselves; where the submitter's is another one, the job sets it first.
    `overrides` outrank the set's own values. Raises MemberError, with the group's name, where Flux has no way to
    say what the set asks for.
    """
    if overrides:
        jobs = jobs.model_copy(update=dict(overrides))
    try:
        holes = _Holes(json.dumps(_jobspec(jobs, ensemble, submitter, umask), ensure_ascii=False, allow_nan=False))
        key = holes.place("key", lambda key, params: _escaped(key))
        with_places = templates.filled(jobs, lambda text: _with_places(text, names, holes)) if names else jobs
        jobspec = _jobspec(with_places, ensemble, submitter, umask)
        system, user = jobspec["attributes"]["system"], jobspec["attributes"].setdefault("user", {})
        user[KEY_ATTRIBUTE] = key
        system["environment"]["ENSEMBLE_JOB"] = key
        if names:
            user[PARAMS_ATTRIBUTE] = holes.place("params", lambda key, params: json.dumps(params, ensure_ascii=False))
            holes.bare.append(user[PARAMS_ATTRIBUTE])
            for name in names:
                system["environment"][templates.variable(name)] = _place(templates.Hole(name, "", 0), holes)
            if jobs.workdir is not None:
                # a value may make it absolute
                system["cwd"] = holes.place("workdir", _cwd(submitter.cwd, jobs.workdir))
        return Template(jobspec, holes, jobs.urgency)
    except UnicodeEncodeError:
        raise MemberError(f"group '{jobs.name}': its command, paths or options are not valid UTF-8") from None
    except (TypeError, ValueError) as exc:
        raise MemberError(f"group '{jobs.name}': {exc}") from None


def _with_places(text: str, names: Collection[str], holes: _Holes) -> str:
    parts = templates.pieces(text, names)
    return "".join(part if isinstance(part, str) else _place(part, holes) for part in parts)


def _place(hole: templates.Hole, holes: _Holes) -> str:
    name = hole.name
    return holes.place(
        f"{{{name}:{hole.format}}}", lambda key, params: _escaped(templates.formatted(params[name], hole))
    )


def _cwd(begin: str, workdir: str) -> _Hole:
    return lambda key, params: _escaped(posixpath.join(begin, templates.fill(workdir, params)))


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _jobspec(jobs: JobSet, ensemble: str, submitter: Submitter, umask: Optional[int]) -> Dict[str, Any]:
    resources, count = _resources(jobs)
    system: Dict[str, Any] = {
        "duration": jobs.duration,
        "cwd": posixpath.join(submitter.cwd, jobs.workdir) if jobs.workdir else submitter.cwd,
        "environment": _environment(jobs, ensemble, submitter),
        "job": {"name": jobs.name},
        "shell": {"options": _shell_options(jobs, submitter)},
    }
    if jobs.queue is not None:
        system["queue"] = jobs.queue
    if jobs.bank is not None:
        system["bank"] = jobs.bank
    attributes: Dict[str, Any] = {"system": system}
    for name, value in jobs.attributes.items():
        _put(attributes, _attribute_path(name), value, "attributes")
    command = _command(jobs, system)
    if submitter.umask is not None and submitter.umask != umask:
        command = ["/bin/sh", "-c", f'umask {submitter.umask:04o} && exec "$@"', "sh", *command]
    return {
        "version": 1,
        "resources": [resources],
        "tasks": [{"command": command, "slot": "task", "count": count}],
        "attributes": attributes,
    }


def _resources(jobs: JobSet) -> Tuple[Dict[str, Any], Dict[str, int]]:
    """The resource and the task count, as `flux submit -N -n -c -g` would ask for them."""
    tasks = jobs.tasks if jobs.tasks is not None else (jobs.nodes or 1)
    inner: List[Dict[str, Any]] = [{"type": "core", "count": jobs.cores}]
    if jobs.gpus:
        inner.append({"type": "gpu", "count": jobs.gpus})
    slot = {"type": "slot", "count": tasks, "with": inner, "label": "task"}
    if jobs.nodes is None:
        if jobs.exclusive:
            raise ValueError("'exclusive' needs 'nodes', the number of whole nodes")
        return slot, {"per_slot": 1}
    if jobs.nodes > tasks:
        raise ValueError(f"{jobs.nodes} nodes cannot be shared by {tasks} tasks; ask for at least {jobs.nodes} tasks")
    slot["count"] = math.ceil(tasks / jobs.nodes)
    node: Dict[str, Any] = {"type": "node", "count": jobs.nodes, "with": [slot]}
    if jobs.exclusive:
        node["exclusive"] = True
    return node, ({"total": tasks} if tasks % jobs.nodes else {"per_slot": 1})


def _environment(jobs: JobSet, ensemble: str, submitter: Submitter) -> Dict[str, str]:
    environment = {
        name: value
        for name, value in submitter.environment.items()
        if name not in _LOCAL_VARIABLES and not name.startswith(_LOCAL_PREFIXES) and _is_text(name + value)
    }
    for name, setting in jobs.environment.items():
        if setting is None:
            environment.pop(name, None)
        else:
            environment[name] = setting
    environment["ENSEMBLE_ID"] = ensemble
    return environment


def _is_text(value: str) -> bool:
    """Can JSON carry it? A jobspec has no form for bytes that are not UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _command(jobs: JobSet, system: Dict[str, Any]) -> List[str]:
    if jobs.script is None:
        return list(jobs.command)
    if len(jobs.script.encode()) <= _LONGEST_ARGUMENT and "{{" not in jobs.script:
        return ["/bin/sh", "-c", jobs.script]
    # As a file of the job, so that neither the kernel's limit nor the shell's own {{templates}} touch it.
    files = system.setdefault("files", {})
    files[_SCRIPT_FILE] = {"mode": 0o100600, "encoding": "utf-8", "data": jobs.script}
    return ["/bin/sh", "{{tmpdir}}/" + _SCRIPT_FILE]


def _shell_options(jobs: JobSet, submitter: Submitter) -> Dict[str, Any]:
    options: Dict[str, Any] = {}
    limits = {name: value for name, value in submitter.rlimits.items() if name not in _LOCAL_LIMITS}
    if limits:
        options["rlimit"] = limits
    for stream, path in (("input.stdin", jobs.input), ("output.stdout", jobs.output), ("output.stderr", jobs.error)):
        if path is not None and (stream == "input.stdin" or path not in ("none", "kvs")):
            _put(options, [*stream.split("."), "type"], "file", "output")
            _put(options, [*stream.split("."), "path"], _ascii_ids(path), "output")
    for name, value in jobs.shell.items():
        _put(options, name.split("."), value, "shell")
    return options


def _ascii_ids(path: str) -> str:
    """The path with its job ids in ASCII, so that the name does not depend on the locale of the job's shell."""
    return path.replace("{{id}}", ID_TAG).replace("{{jobid}}", ID_TAG)


def _attribute_path(name: str) -> List[str]:
    """Where `flux submit --setattr=NAME` puts it, from `attributes` on."""
    if name.startswith("."):
        name = name[1:]
    elif name.startswith("attributes."):
        name = name[len("attributes.") :]
    elif not name.startswith(("user.", "system.")):
        name = "system." + name
    return name.split(".")


def _put(tree: Dict[str, Any], path: List[str], value: Any, what: str) -> None:
    """Set a dotted path. Raises ValueError if it is no path, or leads through a value."""
    if not all(path):
        raise ValueError(f"'{'.'.join(path)}' of '{what}' is no dotted name")
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise ValueError(f"'{'.'.join(path)}' of '{what}' leads through '{part}', which has a value already")
    if isinstance(value, dict) and isinstance(tree.get(path[-1]), dict):
        for name, inner in value.items():
            _put(tree[path[-1]], [str(name)], inner, what)
    else:
        tree[path[-1]] = copy.deepcopy(value)


def umask_of(pid: int) -> Optional[int]:
    """The umask of a process of this machine, None where it cannot be told (proc(5): `Umask` in its status)."""
    try:
        with open(f"/proc/{pid}/status") as status:
            return next(int(line.split()[1], 8) for line in status if line.startswith("Umask:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
