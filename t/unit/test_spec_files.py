# SPDX-License-Identifier: MIT
"""Whole files: the examples, files as ensemble-python takes them, and paths that lead to no file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ensemble.errors import SpecError, UsageError
from ensemble.spec.abilities import BUILT_IN
from ensemble.spec.load import Loaded, load, load_file

TOP = Path(__file__).resolve().parents[2]
DATA = Path(__file__).with_name("data")
EXAMPLES = sorted((TOP / "examples").glob("*.yaml"))
GOOD = (TOP / "examples" / "hello-world.yaml").read_text()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_load_without_a_warning(path: Path) -> None:
    loaded = load_file(path)
    assert loaded.warnings == ()
    assert loaded.spec.name == path.stem


def test_there_are_the_examples_that_are_promised() -> None:
    assert {path.stem for path in EXAMPLES} >= {
        "hello-world", "backoff", "terminate", "heartbeat", "bisection", "cancel-the-rest", "retry-lost-node",
        "two-phases",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["hello", "backoff", "merge", "custom", "grow"])
def test_files_of_the_predecessor_load(name: str) -> None:
    loaded = load_file(DATA / f"predecessor-{name}.yaml")
    assert isinstance(loaded, Loaded)
    assert loaded.spec.name == f"predecessor-{name}"


def test_what_the_predecessor_writes_means_what_it_meant() -> None:
    loaded = load_file(DATA / "predecessor-backoff.yaml")
    rules = loaded.spec.rules
    assert [rule.id for rule in rules] == ["rule-1", "rule-2", "rule-3", "rule-4", "rule-5"]
    assert [(rule.repetitions, rule.backoff) for rule in rules] == [(1, 0), (3, 0), (3, 2), (1, 0), (1, 0)]
    assert [len(sets) for sets in loaded.spec.groups.values()] == [1, 1, 2]
    assert loaded.spec.groups["base"][0].duration == 60
    assert loaded.spec.logging.heartbeat == 3
    # fewer tasks than nodes cannot be: as many as nodes are run, and that is said
    assert loaded.spec.groups["again"][0].tasks == 2
    raised = next(fault for fault in loaded.warnings if "tasks" in fault.message)
    assert raised.message == "1 tasks cannot fill 2 nodes, so 2 are run"
    assert (raised.line, raised.column, raised.severity) == (11, 12, "warning")
    tolerated = next(fault for fault in loaded.warnings if "ignored" in fault.message)
    assert tolerated.message == "terminate takes no value, it is ignored"
    assert len(loaded.warnings) == 2


def test_merge_keys_fill_what_they_fill() -> None:
    first, second = load_file(DATA / "predecessor-merge.yaml").spec.jobs
    assert (first.name, first.count, second.name, second.count) == ("first", 2, "second", 3)
    assert second.command == ("sleep", "1")


GROW = (18, 13, "the queue has no way to grow, so this will be refused whenever the rule fires")


def test_what_no_queue_can_do_is_a_warning_and_with_strict_a_fault(tmp_path: Path) -> None:
    loaded = load_file(DATA / "predecessor-grow.yaml")
    assert [(fault.line, fault.column, fault.message) for fault in loaded.warnings] == [GROW]
    text = (DATA / "predecessor-grow.yaml").read_text()
    assert load(text, "f.yaml", can=BUILT_IN | {"grow"}).warnings == ()
    assert load(text, "f.yaml", can=None).warnings == ()
    assert load("strict: true\n" + text, "f.yaml", can=BUILT_IN | {"grow"}).warnings == ()
    assert load("strict: false\n" + text, "f.yaml").warnings
    with pytest.raises(SpecError) as raised:
        load("strict: true\n" + text, "f.yaml")
    ((line, column, message),) = [(fault.line, fault.column, fault.message) for fault in raised.value.faults]
    assert (line - 1, column, message) == GROW


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    cases = {
        str(tmp_path / "missing.yaml"): "there is no file '.*missing.yaml'; give the path of an ensemble file",
        str(tmp_path): "is a directory; give the path",
        str(tmp_path / "fifo"): "is no plain file",
        "/dev/zero": "is no plain file",
        "": "there is no file ''",
        "a\0b": r"the file 'a\\x00b' cannot be opened: .*embedded null ",
        "x" * 5000: "cannot be opened: File name too long",
        str(tmp_path / "fifo" / "x"): "cannot be opened: Not a directory",
    }
    for path, message in cases.items():
        with pytest.raises(UsageError, match=message):
            load_file(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "secret.yaml"
    path.write_text(GOOD)
    path.chmod(0)
    with pytest.raises(UsageError, match="cannot be read: permission denied"):
        load_file(path)


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with open(path, "wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(SpecError, match="the file is larger than 1024 KiB"):
        load_file(path)


def test_the_file_is_called_as_the_user_called_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.yaml").write_text("x: 1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=r"^bad\.yaml:1:1: "):
        load_file("bad.yaml")
