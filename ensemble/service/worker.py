# SPDX-License-Identifier: MIT
"""The program that runs an ensemble's custom functions: `python worker.py FD`, started by `keeper.py`.

Law of this file: a program of its own, standard library only, run by path, and no part of the service: whatever a
function does here, it does to this process. FD is a socket to the keeper; both sides write frames (four bytes of length,
then JSON). The first frame says where the functions are; each one after it is a call, and is answered by one frame:
`{"call", "answer": [...], "state"?}` or `{"call", "error", "traceback"?}`. Standard output and error are the ensemble's log.
"""

from __future__ import annotations

import importlib
import inspect
import io
import json
import linecache
import os
import socket
import struct
import sys
import traceback
import types
from typing import Any, Callable, Dict, List, NoReturn, Optional

#: bytes of an answer, and of what a function keeps, as JSON
MOST_ANSWER, MOST_STATE = 1 << 20, 1 << 18
#: characters of a traceback
_MOST_TRACEBACK = 16_000
#: what a function may ask for, by name
OFFERED = ("metrics", "event", "rule", "action", "handle", "params", "args", "results", "state")


class Wrong(Exception):
    """A function that cannot be called, or answered what cannot be sent; the rest of the sentence "function 'f' ..."."""


class LazyHandle:
    """Stands for a Flux handle that is opened at its first use."""

    def __init__(self, open: Callable[[], Any]) -> None:
        object.__setattr__(self, "_open", open)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_open")(), name)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(object.__getattribute__(self, "_open")())


class Worker:
    """Answers calls, one after the other."""

    def __init__(self, peer: socket.socket, custom: types.ModuleType) -> None:
        self._peer = peer
        self._custom = custom
        self._settings: Dict[str, Any] = {}
        self._module: Optional[types.ModuleType] = None
        self._handle: Any = None

    def run(self) -> None:
        """Until the keeper is gone."""
        settings = self._read()
        if settings is None:
            return
        self._settings = settings
        self._paths()
        while True:
            request = self._read()
            if request is None:
                return
            answer = json.dumps({"call": request["call"], **self._answer(request)}).encode()
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except (OSError, ValueError, AttributeError):
                    continue  # closed, or replaced by something else
            self._peer.sendall(struct.pack("!I", len(answer)) + answer)

    def _read(self) -> Optional[Dict[str, Any]]:
        head = self._exactly(4)
        body = None if head is None else self._exactly(struct.unpack("!I", head)[0])
        return None if body is None else json.loads(body)

    def _exactly(self, size: int) -> Optional[bytes]:
        data = bytearray()
        while len(data) < size:
            part = self._peer.recv(min(size - len(data), 1 << 20))
            if not part:
                return None
            data += part
        return bytes(data)

    def _paths(self) -> None:
        """Where Python looks: beside the file, in the working directory, where it does by itself, in the service's places."""
        first = [path for path in self._settings["first"] if path not in sys.path]
        last = [path for path in self._settings["last"] if path not in sys.path]
        sys.path[:] = [*first, *sys.path, *last]

    # ---- one call

    def _answer(self, request: Dict[str, Any]) -> Dict[str, Any]:
        try:
            return self._call(request)
        except Wrong as exc:
            return {"error": str(exc)}
        except MemoryError as exc:
            return {"error": f"failed: it ran out of memory ({_size(self._settings['memory'])})", **_traceback(exc)}
        except SystemExit as exc:
            return {"error": f"failed: it asked to exit ({exc.code!r})", **_traceback(exc)}
        except BaseException as exc:
            if getattr(type(exc), "for_people", False):
                return {"error": f"failed: {exc}"}
            return {"error": f"failed: {_summary(exc)}", **_traceback(exc)}

    def _call(self, request: Dict[str, Any]) -> Dict[str, Any]:
        function = self._function(request["function"])
        state = request["state"]
        before = json.dumps(state)
        result = function(**self._arguments(function, request))
        if inspect.isawaitable(result) or inspect.isgenerator(result):
            raise Wrong("gave a wrong answer: it is a generator or a coroutine, which nobody runs")
        answer = _points(result) if request.get("points") else [self._item(item) for item in _flat(result)]
        text = _dumped(answer, "gave a wrong answer: it holds what cannot be sent")
        if len(text) > MOST_ANSWER:
            raise Wrong(f"gave a wrong answer: it has {len(text)} bytes, and {MOST_ANSWER} are the most")
        kept = _dumped(state, "keeps in its state what cannot be stored")
        if len(kept) > MOST_STATE:
            raise Wrong(f"keeps a state of {len(kept)} bytes, and {MOST_STATE} are the most")
        found = {"answer": json.loads(text)}
        return found if kept == before else {**found, "state": json.loads(kept)}

    def _item(self, item: Any) -> Dict[str, Any]:
        for kind in ("Action", "Rule"):
            if isinstance(item, getattr(self._custom, kind)):
                return {kind.lower(): item.plain()}
        raise Wrong(f"gave a wrong answer: expected None, an Action, a Rule, or a list of these, not {item!r:.100}")

    def _function(self, name: str) -> Callable[..., Any]:
        if ":" in name:
            # of an algorithm of the file, as its expansion calls it
            return importlib.import_module("ensemble.algorithms.calling").function(name)  # type: ignore[no-any-return]
        found = getattr(self._loaded(), name, None)
        if found is None:
            found = self._installed(name)
        if not callable(found):
            where = self._settings["module"] or self._settings["file"] or "custom"
            raise Wrong(f"cannot be called: {where} has no function of that name, and no installed package offers one")
        return found  # type: ignore[no-any-return]

    def _installed(self, name: str) -> Any:
        from importlib import metadata

        entries: Any = metadata.entry_points()
        group = self._settings["entry_points"]
        found = entries.select(group=group) if hasattr(entries, "select") else entries.get(group, ())
        for entry in found:
            if entry.name == name:
                return entry.load()
        return None

    def _loaded(self) -> Optional[types.ModuleType]:
        if self._module is not None:
            return self._module
        source, name = self._settings["source"], self._settings["module"]
        if name is not None:
            self._module = importlib.import_module(name)
        elif source is not None:
            path = self._settings["path"]
            module = types.ModuleType("ensemble_functions")
            module.__file__ = path
            vars(module).update(Action=self._custom.Action, Rule=self._custom.Rule)
            # for tracebacks, which show source lines, and for what pickles by name
            linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
            sys.modules[module.__name__] = module
            exec(compile(source, path, "exec"), vars(module))
            self._module = module
        return self._module

    def _arguments(self, function: Callable[..., Any], request: Dict[str, Any]) -> Dict[str, Any]:
        """What the function asks for, by the names of its parameters; all of it for `**kwargs`."""
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            return self._offer(request, lazily=True)
        everything = any(one.kind is one.VAR_KEYWORD for one in parameters)
        asked = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        strange = [one.name for one in asked if one.default is one.empty and one.name not in OFFERED]
        if strange or any(one.kind is one.POSITIONAL_ONLY and one.default is one.empty for one in parameters):
            raise Wrong(
                f"cannot be called: it asks for {', '.join(strange) or 'arguments without a name'}, and a function is "
                f"given {', '.join(OFFERED)}"
            )
        by_name = {one.name for one in asked}
        offer = self._offer(request, lazily="handle" not in by_name)
        return offer if everything else {name: offer[name] for name in offer if name in by_name}

    def _offer(self, request: Dict[str, Any], lazily: bool) -> Dict[str, Any]:
        handle = None
        if self._settings["uri"] is not None:
            handle = LazyHandle(self._flux) if lazily else self._flux()
        action = self._custom.Action(request["action"])
        return {
            "metrics": self._custom.Metrics(request["metrics"]),
            "event": request["event"],
            "rule": self._custom.Rule({**request["rule"], "action": action}),
            "action": action,
            "handle": handle,
            "params": request["params"],
            "args": {} if request["args"] is None else request["args"],
            "results": request["results"],
            "state": request["state"],
        }

    def _flux(self) -> Any:
        if self._handle is None:
            import flux

            self._handle = flux.Flux(self._settings["uri"])
        return self._handle


def _flat(result: Any) -> List[Any]:
    if result is None:
        return []
    if isinstance(result, (list, tuple)):
        return [item for one in result for item in _flat(one)]
    return [result]


def _points(result: Any) -> List[Any]:
    points = [] if result is None else result
    if not isinstance(points, (list, tuple)) or not all(isinstance(point, dict) for point in points):
        raise Wrong(f"gave a wrong answer: expected a list of points, which are mappings, not {result!r:.100}")
    return list(points)


def _dumped(value: Any, what: str) -> str:
    try:
        return json.dumps(value, allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as exc:
        raise Wrong(f"{what}: {exc}") from None


def _plain(value: Any) -> Any:
    """Numbers of numpy as numbers, its arrays as lists, paths as strings."""
    for name in ("item", "tolist"):
        if hasattr(value, name):
            try:
                return getattr(value, name)()
            except (TypeError, ValueError):
                continue
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is no number, string, list or mapping")


def _summary(exc: BaseException) -> str:
    try:
        return "".join(traceback.format_exception_only(type(exc), exc)).strip().splitlines()[-1][:500]
    except BaseException:
        return type(exc).__name__


def _traceback(exc: BaseException) -> Dict[str, Any]:
    try:
        trace = exc.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        text = "".join(traceback.format_exception(type(exc), exc, trace))
        return {"traceback": text if len(text) <= _MOST_TRACEBACK else "...\n" + text[-_MOST_TRACEBACK:]}
    except BaseException:
        return {}


def _size(number: int) -> str:
    return f"{number / (1 << 30):.1f} GiB" if number else "no limit is set"


def main() -> NoReturn:
    """Serve the keeper at the other end of the socket."""
    number = int(sys.argv[1])
    del sys.argv[1:]
    # the folder of this file holds parts of the service, which are not the user's to import
    sys.path[:] = [
        path for path in sys.path if os.path.abspath(path or ".") != os.path.dirname(os.path.abspath(__file__))
    ]
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path.insert(0, top)
    custom = importlib.import_module("ensemble.custom")
    sys.path.remove(top)
    sys.path.append(top)
    # ensemble-python has them there
    for name in ("ensemble.config", "ensemble.config.types"):
        older = types.ModuleType(name)
        vars(older).update(Action=custom.Action, Rule=custom.Rule)
        sys.modules[name] = older
    peer = socket.socket(fileno=number)
    os.set_inheritable(number, False)
    # what a function forks is no second worker
    os.register_at_fork(after_in_child=peer.close)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    Worker(peer, custom).run()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
