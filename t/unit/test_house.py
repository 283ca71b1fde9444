# SPDX-License-Identifier: MIT
"""The laws of the house that a reader of one file cannot see: who imports whom, what is pure, what every file has."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

import pytest

TOP = Path(__file__).resolve().parents[2]
LIBRARY = sorted((TOP / "ensemble").rglob("*.py"))
OURS = sorted(path for folder in ("ensemble", "flux_module", "t") for path in (TOP / folder).rglob("*.py"))

#: each may import only what stands before it; a file is what its longest prefix says
ORDER = (
    ("ensemble.errors", "ensemble.custom", "ensemble.algorithms"),
    ("ensemble.engine.events", "ensemble.engine.actions"),
    ("ensemble.spec",),
    ("ensemble.engine",),
    ("ensemble.members",),
    ("ensemble.service",),
    ("ensemble.cli", "ensemble.server"),
)
#: the only ones that may know Flux
MAY_IMPORT_FLUX = ("ensemble.members.flux", "ensemble.service")
#: the only one that may know gRPC, and what came with it
MAY_IMPORT_GRPC = "ensemble.server"
GRPC = ("grpc", "grpc_health", "grpc_reflection", "google", "cryptography")
#: what a pure engine has no use for
IMPURE_MODULES = {
    "asyncio", "datetime", "io", "logging", "multiprocessing", "os", "pathlib", "selectors", "shutil", "socket",
    "subprocess", "sys", "tempfile", "threading", "time", "uuid", "secrets",
}  # fmt: skip
IMPURE_CALLS = {"print", "open", "input", "exec", "eval", "breakpoint", "__import__"}
#: modules of which only these names are pure: a generator with a seed, the names and numbers of signals
PURE_PARTS = {"random": {"Random"}, "signal": {"Signals", "SIGTERM", "SIGKILL"}}


def module_name(path: Path) -> str:
    parts = path.relative_to(TOP).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def level(module: str) -> int:
    """The place of a module in ORDER, by its longest prefix there; -1 for the package itself."""
    best = (-1, -1)
    for place, names in enumerate(ORDER):
        for name in names:
            if module == name or module.startswith(name + "."):
                best = max(best, (len(name), place))
    return best[1]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports(tree: ast.AST, package: str) -> Iterator[Tuple[int, str]]:
    """Line and full name of every module that is imported at run time, wherever in the file."""
    nodes: List[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, base] if base else up)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield node.lineno, whole if is_module(whole) else base
        nodes.extend(ast.iter_child_nodes(node))


def is_module(name: str) -> bool:
    path = TOP.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def wrong_order(source: str, module: str, package: str) -> List[str]:
    own = level(module)
    faults = []
    for line, name in imports(ast.parse(source), package):
        if name == "ensemble" or name.startswith("ensemble."):
            if level(name) > own or (own == -1 and name != "ensemble"):
                faults.append(f"{module}:{line} imports {name}, which stands above it")
        elif name.split(".")[0] in ("flux", "_flux") and not module.startswith(MAY_IMPORT_FLUX):
            faults.append(f"{module}:{line} imports {name}; only {', '.join(MAY_IMPORT_FLUX)} may")
        elif name.split(".")[0] in GRPC and not module.startswith(MAY_IMPORT_GRPC):
            faults.append(f"{module}:{line} imports {name}; only {MAY_IMPORT_GRPC} may")
        elif name.startswith("ensemble.server") and not module.startswith(MAY_IMPORT_GRPC):
            faults.append(f"{module}:{line} imports {name}, which not every user has installed")
        elif name.split(".")[0] in ("flux_module", "t"):
            faults.append(f"{module}:{line} imports {name}, which is not part of the library")
    return faults


def impure(source: str, module: str) -> List[str]:
    faults = []
    tree = ast.parse(source)
    for line, name in imports(tree, module):
        if name.split(".")[0] in IMPURE_MODULES:
            faults.append(f"{module}:{line} imports {name}")
    alias = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            alias.update({name.asname or name.name: name.name for name in node.names if name.name in PURE_PARTS})
    for node in ast.walk(tree):
        taken: List[str] = []
        whole = ""
        if isinstance(node, ast.ImportFrom) and node.module in PURE_PARTS:
            whole, taken = node.module, [name.name for name in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in alias:
            whole, taken = alias[node.value.id], [node.attr]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            faults.append(f"{module}:{node.lineno} calls {node.func.id}()")
        for name in taken:
            if name not in PURE_PARTS[whole]:
                faults.append(f"{module}:{node.lineno} uses {whole}.{name}, which reaches outside the engine")
    return faults


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(TOP).parent.parts)


def test_order_of_imports() -> None:
    faults = [fault for path in LIBRARY for fault in wrong_order(path.read_text(), module_name(path), package_of(path))]
    assert LIBRARY
    assert not faults, "\n".join(faults)


def test_every_file_of_the_library_has_a_place() -> None:
    homeless = [module_name(path) for path in LIBRARY if level(module_name(path)) < 0]
    assert homeless == ["ensemble"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ensemble.spec.x", "from ensemble.engine import machine"),
        ("ensemble.spec.x", "from ..engine.machine import y"),
        ("ensemble.engine.x", "def f():\n    import ensemble.members.base"),
        ("ensemble.engine.events", "from ensemble.spec import models"),
        ("ensemble.members.local", "import flux"),
        ("ensemble.members.x", "from ensemble.service import protocol"),
        ("ensemble.cli.x", "from flux.job import JobID"),
        ("ensemble.errors", "import ensemble.spec"),
        ("ensemble.cli.x", "import grpc"),
        ("ensemble.members.x", "from google.protobuf import message"),
    ],
)
def test_wrong_order_is_seen(module: str, source: str) -> None:
    assert wrong_order(source, module, module.rpartition(".")[0])


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ensemble.spec.x", "from ensemble.engine.events import Key"),
        ("ensemble.engine.x", "from ensemble.spec import models"),
        ("ensemble.members.flux", "import flux"),
        ("ensemble.errors", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ensemble.spec"),
    ],
)
def test_right_order_is_taken(module: str, source: str) -> None:
    assert not wrong_order(source, module, module.rpartition(".")[0])


def test_engine_is_pure() -> None:
    engine = [path for path in LIBRARY if module_name(path).startswith("ensemble.engine")]
    faults = [fault for path in engine for fault in impure(path.read_text(), module_name(path))]
    assert len(engine) > 2
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from os import path",
        "import random\nrandom.random()",
        "import signal as s\ns.alarm(1)",
        "from random import shuffle",
        "print('x')",
        "open('x')",
        "import socket",
    ],
)
def test_impurity_is_seen(source: str) -> None:
    assert impure(source, "ensemble.engine.x")


@pytest.mark.parametrize(
    "source", ["import random\nr = random.Random(3)\nr.random()", "import signal as s\ns.Signals['SIGTERM']"]
)
def test_purity_is_taken(source: str) -> None:
    assert not impure(source, "ensemble.engine.x")


NO_FLUX = """
import importlib, pkgutil, sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("flux", "_flux"):
            raise ImportError(name + " is not to be had here")

sys.meta_path.insert(0, Wall())
try:
    import flux
except ImportError:
    pass
else:
    sys.exit("the wall has a hole")
for top in sys.argv[1:]:
    package = importlib.import_module(top)
    for found in pkgutil.walk_packages(package.__path__, top + "."):
        importlib.import_module(found.name)
        print(found.name)
"""


def test_spec_and_engine_import_without_flux() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_FLUX, "ensemble.spec", "ensemble.engine"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {"ensemble.spec.models", "ensemble.engine.events"} <= set(done.stdout.split())


def test_local_queue_and_command_import_without_flux() -> None:
    code = NO_FLUX + "\nimport ensemble.members.local, ensemble.cli.main"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def sources() -> List[Path]:
    """Every file of ours that a person writes code in."""
    scripts = [path for folder in ("etc", ".ci", "flux_module") for path in (TOP / folder).rglob("*") if path.is_file()]
    return sorted({*OURS, *scripts, TOP / "Makefile"})


def test_every_source_names_its_licence() -> None:
    without = [
        str(path.relative_to(TOP))
        for path in sources()
        if "__pycache__" not in path.parts
        and not any("SPDX-License-Identifier: MIT" in line for line in path.read_text().splitlines()[:2])
    ]
    assert not without, "no SPDX line at the top of " + ", ".join(without)


def test_every_module_says_what_lives_in_it() -> None:
    without = [
        str(path.relative_to(TOP))
        for path in OURS
        if path.read_text().strip().count("\n") and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not without, "no docstring at the top of " + ", ".join(without)


def test_long_files_say_why() -> None:
    """A file past 400 lines says in its header why it was not split: the docstring has the word `lines`."""
    long = [path for path in OURS if len(path.read_text().splitlines()) > 400]
    silent = [
        f"{path.relative_to(TOP)} ({len(path.read_text().splitlines())} lines)"
        for path in long
        if "lines" not in (ast.get_docstring(ast.parse(path.read_text())) or "")
    ]
    assert not silent, "split these, or say in the header why they have so many lines: " + ", ".join(silent)


def merge_marks(text: str) -> List[int]:
    """The lines in which an unfinished merge has left its marks."""
    return [number for number, line in enumerate(text.splitlines(), 1) if line[:8] in ("<" * 7 + " ", ">" * 7 + " ")]


def test_no_merge_was_left_unfinished() -> None:
    texts = [*sources(), *(path for folder in ("doc", "examples") for path in (TOP / folder).iterdir())]
    marked = {str(path.relative_to(TOP)): merge_marks(path.read_text()) for path in texts if path.suffix != ".pyc"}
    assert not {name: lines for name, lines in marked.items() if lines}
    assert merge_marks("a\n" + "<" * 7 + " HEAD\nb\n" + ">" * 7 + " main\n") == [2, 4]


def called(function: ast.AST) -> Set[str]:
    """The names of what a function calls, the last part of each."""
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    return {func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in calls}


def asserts(function: ast.AST) -> bool:
    """Can it fail by itself?"""
    return any(isinstance(node, (ast.Assert, ast.Raise)) for node in ast.walk(function)) or bool(
        called(function) & {"raises", "fail"}
    )


def empty_tests(sources: Dict[str, str]) -> List[str]:
    """The tests in which nothing is asserted, neither there nor in what they call among these sources."""
    functions = [
        (where, node)
        for where, text in sources.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    helpers = {node.name for _, node in functions if asserts(node) and not node.name.startswith("test_")}
    more = True
    while more:
        found = {node.name for _, node in functions if not node.name.startswith("test_") and called(node) & helpers}
        more = not found <= helpers
        helpers |= found
    return [
        f"{where}::{node.name}"
        for where, node in functions
        if node.name.startswith("test_") and not asserts(node) and not called(node) & helpers
    ]


def test_every_test_can_fail() -> None:
    places = (TOP / "t", TOP / "ensemble" / "members" / "contract")
    empty = empty_tests({str(path.relative_to(TOP)): path.read_text() for top in places for path in top.rglob("*.py")})
    assert not empty, "nothing is asserted in " + ", ".join(empty)


def test_an_empty_test_is_seen() -> None:
    helper = "def check(x):\n    assert x\ndef look(x):\n    check(x)\n"
    tests = "def test_a():\n    look(1)\ndef test_b():\n    print(1)\ndef test_c():\n    assert 1\n"
    assert empty_tests({"helper": helper, "tests": tests}) == ["tests::test_b"]
