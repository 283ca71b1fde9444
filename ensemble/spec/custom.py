# SPDX-License-Identifier: MIT
"""`custom:` of a file: where its functions come from, and which there are.

Law of this file: nothing of the user's is run or imported here. Source is parsed, a module is looked for and its source
is parsed, so that a wrong name or a slip in the syntax is told with its place. What a function does is the worker's.
"""

from __future__ import annotations

import ast
import os
import warnings
from functools import lru_cache
from importlib import machinery, metadata
from typing import Any, FrozenSet, Iterator, List, NamedTuple, Optional

from ensemble.algorithms import found as algorithms
from ensemble.spec.beside import Beside
from ensemble.spec.faults import Place, Report, escape, shown
from ensemble.spec.reader import Node

#: group of the entry points by which installed packages offer functions
ENTRY_POINTS = "ensemble.functions"
EXPECTED = "Python source, {file: steer.py}, or {module: package.module}"
#: what stands for the names of a source that cannot tell them
ANY: FrozenSet[str] = frozenset(("*",))


class Functions(NamedTuple):
    """The functions that a file's actions may name."""

    #: ANY where they cannot be told
    names: FrozenSet[str]
    #: can a name that is not among them only be warned of?
    doubtful: bool = False
    #: where they come from, for messages
    of: str = "the file"
    #: whose functions are called NAME:ID
    algorithms: FrozenSet[str] = ANY


def shape(node: Node, report: Report, beside: Beside) -> Node:
    """The node as a mapping of `source`, `file` and `module`, as the models have it; faults go to the report."""
    empty = Node("map", {}, node)
    if node.kind == "scalar" and isinstance(node.value, str):
        if not node.text.strip():
            report.add(node, "custom is empty", expected=EXPECTED)
        _parse(node.text, node, report, None)
        return Node("map", {"source": (node, node)}, node)
    if node.kind != "map":
        report.add(node, f"custom cannot be {node}", value=node.text or None, expected=EXPECTED)
        return empty
    for word in node.value:
        if word not in ("file", "module"):
            report.add(node.key(word), f"custom has no key {shown(word)}", value=word, expected="file or module")
    entries = {word: node.value[word] for word in ("file", "module") if word in node.value}
    if len(entries) != 1:
        if len(entries) == len(node.value):
            report.add(node, "custom needs one place where its functions are", expected=EXPECTED)
        return empty
    (word, (key, value)) = next(iter(entries.items()))
    if value.kind != "scalar" or not isinstance(value.value, str) or not value.text.strip():
        report.add(value, f"{word} cannot be {value}", expected="a name")
        return empty
    if word == "module":
        if not all(part.isidentifier() for part in value.text.split(".")):
            report.add(
                value, f"{shown(value.text)} is no name of a module", value=value.text, expected="package.module"
            )
        return Node("map", entries, node)
    try:
        text = beside.text(value.text)
    except ValueError as exc:
        report.add(value, f"the file {shown(value.text)} gives no functions: {exc}", value=value.text)
        return Node("map", entries, node)
    _parse(text, value, report, value.text)
    source = Node("scalar", text, value, text)
    return Node("map", {**entries, "source": (key, source)}, node)


def functions(node: Optional[Node], beside: Beside) -> Functions:
    """The functions that `custom`, as `shape` made it, and installed packages offer."""
    known = _functions(node, beside)
    return known._replace(algorithms=algorithms.names()) if beside.here else known


def _functions(node: Optional[Node], beside: Beside) -> Functions:
    if node is None or node.kind != "map":
        return Functions(_installed())
    source, module = node.get("source"), node.get("module")
    if source is not None:
        return Functions(names(source.text) | _installed(), of="custom")
    if module is not None and beside.here:
        path = find(module.text, [os.getcwd()])
        if path is None:
            return Functions(_installed(), True, f"no module {shown(module.text)} is to be found here, so it")
        try:
            with open(path, encoding="utf-8") as file:
                return Functions(names(file.read()) | _installed(), True, f"the module {shown(module.text)}")
        except (OSError, ValueError):
            return Functions(ANY)
    return Functions(ANY)


def names(source: str) -> FrozenSet[str]:
    """What the source binds at its top level; ANY where that cannot be told without running it."""
    try:
        tree = _tree(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ANY
    found = set(_bound(tree.body))
    return ANY if "*" in found else frozenset(found)


def find(module: str, first: List[str]) -> Optional[str]:
    """The path of a module's source, looked for in `first` and where Python looks; None where there is none."""
    import sys

    where: Optional[List[str]] = [*first, *sys.path]
    spec = None
    for part in module.split("."):
        try:
            spec = machinery.PathFinder.find_spec(part, where)
        except (ImportError, ValueError):
            return None
        if spec is None:
            return None
        where = list(spec.submodule_search_locations) if spec.submodule_search_locations is not None else []
    return spec.origin if spec is not None and (spec.origin or "").endswith(".py") else None


@lru_cache(maxsize=1)
def _installed() -> FrozenSet[str]:
    found: Any = metadata.entry_points()
    # Python 3.9 has a dict of lists
    entries = found.select(group=ENTRY_POINTS) if hasattr(found, "select") else found.get(ENTRY_POINTS, ())
    return frozenset(entry.name for entry in entries)


def _tree(source: str) -> ast.Module:
    with warnings.catch_warnings():
        # an invalid escape, say: Python itself will tell it, in the worker
        warnings.simplefilter("ignore")
        return ast.parse(source)


def _parse(source: str, node: Node, report: Report, file: Optional[str]) -> None:
    try:
        _tree(source)
    except SyntaxError as exc:
        line, offset = exc.lineno or 1, max(exc.offset or 1, 1)
        told = f"this is no Python: {exc.msg}"
        if file is not None:
            report.add(node, f"{escape(file)}:{line}:{offset}: {told}", value=file)
            return
        at = _place(source, node, report, line, offset)
        if at is None:
            report.add(node, f"{told} (line {line} of custom)")
        else:
            report.add(at, told, value=(exc.text or "").strip() or None)
    except (ValueError, RecursionError, MemoryError) as exc:
        report.add(node, f"this is no Python that can be read: {exc or type(exc).__name__}")


def _place(source: str, node: Node, report: Report, line: int, offset: int) -> Optional[Place]:
    """Where in the file that place of the source stands; None where it is not written as it reads."""
    text = source.split("\n")[line - 1] if line <= source.count("\n") + 1 else ""
    # a block scalar begins in the line behind its `|`; any other one where its node is
    for number in (node.line + line, node.line + line - 1):
        written = report.lines[number - 1] if number <= len(report.lines) else ""
        start = written.find(text, node.column - 1 if number == node.line else 0)
        if text and start >= 0:
            return Place(number, start + offset)
    return None


def _bound(body: List[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield alias.asname or alias.name.split(".")[0]
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from (name.id for name in ast.walk(target) if isinstance(name, ast.Name))
        elif isinstance(node, (ast.If, ast.For, ast.While, ast.With, ast.Try)):
            for field in ("body", "orelse", "finalbody"):
                yield from _bound(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from _bound(handler.body)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            # globals().update(...), exec(...): whatever it likes
            called = {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}
            if called & {"exec", "globals", "setattr", "vars"}:
                yield "*"
