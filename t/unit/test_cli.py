# SPDX-License-Identifier: MIT
"""The commands without a service: usage, files, examples, versions, and the sentences where no service runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, List

import pytest

from ensemble.cli.main import VERBS
from t.unit.socket_service import HELLO, Serve, expect_sentence


def test_help_names_every_verb(run: Any) -> None:
    done = run("--help", member=False)
    assert done.status == 0
    for verb in VERBS:
        assert f"    {verb} " in done.out


@pytest.mark.parametrize("verb", [*VERBS])
def test_every_verb_has_help(run: Any, verb: str) -> None:
    done = run(verb, "--help", member=False)
    assert done.status == 0
    assert done.out.startswith(f"usage: ensemble {verb}")


@pytest.mark.parametrize("verb", ["explains", "nonsense"])
def test_unknown_verbs_are_usage_errors(run: Any, verb: str) -> None:
    expect_sentence(run(verb, "x", member=False), 2, f"no verb is called '{verb}'")


def test_a_misspelt_verb_is_corrected(run: Any) -> None:
    expect_sentence(run("validat", "x", member=False), 2, "did you mean 'validate'?")


@pytest.mark.parametrize(
    "words",
    [[], ["run"], ["jobs"], ["service", "dance"], ["list", "--nonsense"], ["log", "x", "--since", "-3"], ["cancel"]],
)
def test_bad_usage_exits_2(run: Any, words: List[str]) -> None:
    done = run(*words, member=False)
    assert done.status == 2
    assert "usage: " in done.err
    assert done.err.splitlines()[-1].startswith("ensemble: ")


def test_flux_names_the_command(monkeypatch: pytest.MonkeyPatch, run: Any, place: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/flux-ensemble"])
    done = run("list")
    assert done.err.startswith("flux-ensemble: ")


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    code = "import sys; from ensemble.cli.main import main; main(['list', '--help']); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(out.split())
    assert "ensemble.cli.main" in loaded
    assert not loaded & {"flux", "river", "pydantic", "rich", "yaml", "asyncio", "numpy"}


def test_validate(run: Any, place: Path) -> None:
    done = run("validate", "hello.yaml", member=False)
    assert (done.status, done.out, done.err) == (0, "hello.yaml: no faults (groups: 1, rules: 1)\n", "")
    done = run("validate", "--json", "hello.yaml", member=False)
    told = {"file": "hello.yaml", "valid": True, "faults": [], "warnings": [], "instance": None}
    assert json.loads(done.out) == told


def test_validate_tells_warnings_and_faults_alike(run: Any, place: Path) -> None:
    rules = "  - {trigger: idle, enabled: false, action: {name: stop}}\n  - {trigger: idle, when: var.n > 2, action: {name: stop}}\n"
    (place / "odd.yaml").write_text(HELLO + rules)
    done = run("validate", "odd.yaml", member=False)
    assert (done.status, done.out) == (0, "odd.yaml: no faults, 2 warnings (groups: 1, rules: 3)\n")
    assert "warning: this rule is disabled, and no rule enables it" in done.err
    assert "warning: the variable 'n' is not declared" in done.err
    done = run("validate", "--json", "odd.yaml", member=False)
    told = json.loads(done.out)
    assert (done.status, told["valid"], told["faults"], len(told["warnings"])) == (0, True, [], 2)
    (place / "odd.yaml").write_text(HELLO + rules.replace("stop", "stpo", 1))
    done = run("validate", "odd.yaml", member=False)
    assert (done.status, done.out) == (2, "")
    assert "no action is called 'stpo'" in done.err
    assert "warning: the variable 'n' is not declared" in done.err
    done = run("validate", "--json", "odd.yaml", member=False)
    told = json.loads(done.out)
    assert (done.status, told["valid"]) == (2, False)
    (fault,), (warning,) = told["faults"], told["warnings"]
    assert (fault["severity"], fault["suggestion"]) == ("error", "stop")
    assert (warning["severity"], warning["message"]) == ("warning", "the variable 'n' is not declared")
    assert set(fault) == set(warning)


def faulty(place: Path) -> None:
    (place / "bad.yaml").write_text(HELLO.replace("label: sleep", "label: slep").replace("trigger", "triger"))


@pytest.mark.parametrize("verb", ["validate", "run", "submit"])
def test_a_faulty_file_is_told_whole(run: Any, place: Path, verb: str) -> None:
    faulty(place)
    done = run(verb, "bad.yaml", member=verb != "validate")
    assert (done.status, done.out) == (2, "")
    assert "bad.yaml:5:" in done.err
    assert "bad.yaml:6:" in done.err
    assert "did you mean 'sleep'?" in done.err


def test_a_faulty_file_in_json(run: Any, place: Path) -> None:
    faulty(place)
    done = run("validate", "--json", "bad.yaml", member=False)
    assert done.status == 2
    told = json.loads(done.out)
    assert told["valid"] is False
    assert {fault["line"] for fault in told["faults"]} == {5, 6}
    assert set(told["faults"][0]) == {"severity", "line", "column", "message", "value", "expected", "suggestion"}


@pytest.mark.parametrize("verb", ["validate", "run", "submit"])
@pytest.mark.parametrize("path", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read(run: Any, place: Path, verb: str, path: str) -> None:
    expect_sentence(run(verb, path, member=verb != "validate"), 2, f"'{path}'")


def test_examples(run: Any, place: Path) -> None:
    done = run("example", member=False)
    assert done.status == 0
    names = [line.split()[0] for line in done.out.splitlines()[1:]]
    assert "hello-world" in names
    assert all(len(line.split()) > 3 for line in done.out.splitlines()[1:])
    listed = json.loads(run("example", "--json", member=False).out)
    assert [entry["name"] for entry in listed] == names
    assert all(entry["description"].endswith(".") for entry in listed), "a whole sentence each"
    for name in names:
        text = run("example", name, member=False).out
        (place / "example.yaml").write_text(text)
        assert run("validate", "example.yaml", member=False).status == 0
    expect_sentence(run("example", "helo-world", member=False), 2, "did you mean 'hello-world'?")


def test_schema(run: Any) -> None:
    done = run("schema", member=False)
    assert done.status == 0
    assert {"jobs", "rules"} <= set(json.loads(done.out)["properties"])


def test_version(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ensemble import __version__

    told = json.loads(run("version", "--json", member=False).out)
    assert told["ensemble"] == __version__
    assert told["river"]
    assert told["python"] == ".".join(map(str, sys.version_info[:3]))
    monkeypatch.setenv("PATH", "/nowhere")
    assert "flux-commands:   not found" in run("version", member=False).out


@pytest.mark.parametrize(
    "words",
    [["list"], ["status"], ["status", "x"], ["jobs", "x"], ["watch", "x"], ["log", "x"], ["cancel", "x"],
     ["pause", "x"], ["resume", "x"], ["service", "status"], ["service", "stop"]],
)  # fmt: skip
def test_no_service(run: Any, place: Path, words: List[str]) -> None:
    expect_sentence(run(*words), 1, "no local service is running")


def test_a_stale_socket_is_no_service(run: Any, serve: Serve, place: Path) -> None:
    service = serve()
    service.stop()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(service.path))
    left.close()
    assert service.path.exists()
    expect_sentence(run("list"), 1, "no local service is running")


def test_a_foreign_socket_directory_is_refused(run: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(os.environ["XDG_RUNTIME_DIR"], "ensemble").write_text("")
    expect_sentence(run("list"), 1, "not a directory of yours")


def test_flux_without_an_instance(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("FLUX_URI", "local:///nowhere/local")
    monkeypatch.setitem(sys.modules, "flux", None)
    expect_sentence(run("list", member=False), 1, "bindings cannot be loaded", "--member local")
