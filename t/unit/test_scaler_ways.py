# SPDX-License-Identifier: MIT
"""Programs that change a size, how they end, and scalers that installed packages bring."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import sys
import time
from pathlib import Path
from typing import Any, List, Optional, Tuple

import pytest

from ensemble.errors import MemberError
from ensemble.members import scaler
from ensemble.members.local import LocalMember
from ensemble.members.scaler import Change, Order, Way
from ensemble.members.scaler_program import Program, outcome, told
from ensemble.spec.scaler import Scaler as Table

ORDER = Order(6, "grow", "ens", 2, None, 60.0, False)
CHANGE = Change(ORDER, 4, 7, "4-6")


@pytest.mark.parametrize(
    ("status", "output", "name", "answer"),
    [
        (0, "hello\nENSEMBLE_EXTENT=5\n", "x.sh", ("", 5)),
        (0, "", "x.sh", ("", None)),
        (3, "a\n  no quota left \n\n", "x.sh", ("x.sh has failed with exit code 3: no quota left", None)),
        (1, "", "x.sh", ("x.sh has failed with exit code 1: it printed nothing", None)),
        (-9, "a", "x.sh", ("x.sh was killed by SIGKILL: a", None)),
        (-250, "a", "x.sh", ("x.sh was killed by signal 250: a", None)),
        (None, "no such file", "x.sh", ("x.sh cannot be started: no such file", None)),
        (1, "the object is gone", "", ("the object is gone", None)),
    ],
)
def test_how_a_program_has_ended(status: Optional[int], output: str, name: str, answer: Any) -> None:
    assert outcome(status, output, name) == answer


def test_what_a_program_is_told() -> None:
    assert told(CHANGE) == {
        "ENSEMBLE_ACTION": "grow",
        "ENSEMBLE_SIZE_WANTED": "6",
        "ENSEMBLE_SIZE_CURRENT": "4",
        "ENSEMBLE_SIZE_MIN": "2",
        "ENSEMBLE_SIZE_MAX": "",
        "ENSEMBLE_EXTENT": "7",
        "ENSEMBLE_RANKS": "4-6",
        "ENSEMBLE_ID": "ens",
    }
    assert told(CHANGE._replace(order=ORDER._replace(max=9)))["ENSEMBLE_SIZE_MAX"] == "9"


class Running:
    """A program on the loop of a local queue, which is not started."""

    def __init__(self, folder: Path, *command: str, **environment: str) -> None:
        self.member = LocalMember(folder)
        environment = {"PATH": os.environ["PATH"], **environment}
        self.program = Program(self.member, command, environment, str(folder), name="it")
        self.answers: List[Tuple[str, Optional[int]]] = []
        self.program.change(CHANGE, lambda *answer: self.answers.append(answer))
        assert not self.answers, "never from inside a call"

    def until(self, what: Any) -> None:
        async def wait() -> None:
            end = time.monotonic() + 60
            while not what():
                assert time.monotonic() < end
                await asyncio.sleep(0.02)

        self.member.loop.run_until_complete(wait())

    def answer(self) -> Tuple[str, Optional[int]]:
        self.until(lambda: self.answers)
        self.member.loop.close()
        (answer,) = self.answers
        return answer


def test_a_program_runs_in_its_folder_with_its_environment(tmp_path: Path) -> None:
    script = 'test "$BIG" && echo "$ENSEMBLE_SIZE_WANTED $ENSEMBLE_RANKS" >told && echo ENSEMBLE_EXTENT=5'
    big = "x" * 100_000
    assert Running(tmp_path, "sh", "-c", script, **{f"BIG{n}": big for n in range(5)}, BIG=big).answer() == ("", 5)
    assert (tmp_path / "told").read_text() == "6 4-6\n"
    text = "it has failed with exit code 4: last"
    assert Running(tmp_path, "sh", "-c", "echo first; echo last >&2; exit 4").answer() == (text, None)
    error, _ = Running(tmp_path, str(tmp_path / "nothing")).answer()
    assert error.startswith("it cannot be started: ")
    assert "nothing" in error


def test_what_a_program_leaves_running_is_not_waited_for(tmp_path: Path) -> None:
    script = "sleep 300 & echo $! >pid; echo ENSEMBLE_EXTENT=3"
    try:
        assert Running(tmp_path, "sh", "-c", script).answer() == ("", 3)
    finally:
        os.kill(int((tmp_path / "pid").read_text()), 15)


def test_a_program_that_is_given_up_is_ended(tmp_path: Path) -> None:
    ignores = "import os, signal, time; open('pid', 'w').write(str(os.getpid())); time.sleep(1000)"
    running = Running(tmp_path, sys.executable, "-c", ignores)
    path = tmp_path / "pid"
    running.until(lambda: path.exists() and path.read_text())
    running.program.stop()
    running.until(lambda: not os.path.exists(f"/proc/{path.read_text()}"))
    assert running.answers == []
    running.member.loop.close()


class Entry:
    """An entry point of an installed package."""

    def __init__(self, name: str, made: Any) -> None:
        self.name = name
        self.made = made

    def load(self) -> Any:
        return self.made


class Cloud(Way):
    def __init__(self, table: Table, loop: Any) -> None:
        self.table = table
        if "zone" not in table.options:
            raise ValueError("no zone is given")

    def change(self, change: Change, done: Any) -> None:
        done("", None)


def test_an_installed_package_may_bring_one(monkeypatch: Any) -> None:
    entries = [Entry("cloud", Cloud), Entry("odd", lambda table, loop: 3)]

    class Points(List[Any]):
        def select(self, group: str) -> List[Any]:
            return list(self) if group == "ensemble.scalers" else []

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda: Points(entries))
    made = scaler.way(Table(name="cloud", options={"zone": "b"}), None)
    assert isinstance(made, Cloud)
    assert made.table.options == {"zone": "b"}
    with pytest.raises(MemberError, match=r"the scaler 'cloud' cannot be made \(ValueError: no zone is given\)"):
        scaler.way(Table(name="cloud"), None)
    with pytest.raises(MemberError, match=r"the scaler 'odd' is no ensemble\.members\.scaler\.Way but int"):
        scaler.way(Table(name="odd"), None)
    with pytest.raises(
        MemberError, match="no scaler is called 'clod' here; there are drain, command, minicluster, cloud, odd"
    ):
        scaler.way(Table(name="clod"), None)
