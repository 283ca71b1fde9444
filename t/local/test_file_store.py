# SPDX-License-Identifier: MIT
"""The store of the local queue: what it gives back, what a full disk does to it, and who may write."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest

from ensemble.service import file_store
from ensemble.service.file_store import FORMAT, FileStore, Locked
from ensemble.service.store import Commit, Snapshot

GIVEN: Dict[str, Any] = {
    "name": "bag", "file": "bag.yaml", "text": "jobs: []", "submitter": {}, "t_submit": 5.0, "version": "1"
}  # fmt: skip
STATUS: Dict[str, Any] = {
    "id": "b", "name": "bag", "state": "complete", "reason": "done", "t_submit": 5.0, "t_end": 9.0, "jobs": {},
    "groups": {}, "metrics": {}, "rules": [], "variables": {},
}  # fmt: skip


def commit(number: int) -> Commit:
    record = {"seq": number, "t": 1.0, "type": "log", "text": "x" * 5000, "rule": None}
    return Commit(number, ["begin", float(number)], [f"b/r/1/{number}/0"], [record], [{"id": str(number)}])


class House:
    """A store, and what it has told and asked for."""

    def __init__(self, rundir: Path, *take: str) -> None:
        self.done: List[Tuple[str, Optional[str]]] = []
        self.deferred: List[Tuple[float, Callable[[], None]]] = []
        self.logged: List[str] = []
        self.store = FileStore(
            rundir,
            lambda seconds, callback: self.deferred.append((seconds, callback)),
            lambda level, text: self.logged.append(text),
            take,
        )

    def told(self, name: str) -> Callable[[Optional[str]], None]:
        return lambda error: self.done.append((name, error))

    def create(self, id: str = "b") -> None:
        self.store.create(id, GIVEN, self.told("create"))
        assert self.done.pop() == ("create", None)

    def commit(self, *numbers: int) -> None:
        for number in numbers:
            self.store.commit("b", commit(number), self.told(str(number)))

    def again(self) -> float:
        """Let it try again; the seconds that it wanted to wait."""
        ((seconds, callback),) = self.deferred
        self.deferred.clear()
        callback()
        return seconds

    def full(self, full: bool) -> None:
        """Let the file take no more pages, or as many as it likes."""
        self.store._open("b").execute(f"pragma max_page_count={1 if full else 1 << 30}")


@pytest.fixture
def house(tmp_path: Path) -> Any:
    made = House(tmp_path)
    made.create()
    yield made
    made.store.close()


def test_what_is_kept_comes_back(house: House, tmp_path: Path) -> None:
    house.commit(1, 2, 3)
    house.store.snapshot("b", Snapshot(2, 2, {"x": 1}))
    assert house.done == [("1", None), ("2", None), ("3", None)]
    house.store.close()
    again = House(tmp_path, "b")
    again.store.lock("b")
    (stored,) = again.store.load()
    assert (stored.given, stored.status, stored.damaged) == (GIVEN, None, None)
    assert stored.snapshot == Snapshot(2, 2, {"x": 1})
    assert stored.events == [(3, ["begin", 3.0])]
    assert stored.seq == 3
    assert [row["id"] for row in again.store.rows("b", 1, 9)] == ["2", "3"]
    assert [record["seq"] for record in again.store.records("b", 1, 1)] == [2]
    assert (again.store.row_count("b"), again.store.last_job("b")) == (3, 3)
    again.store.close()


def test_a_full_disk_is_waited_out_and_nothing_overtakes(house: House) -> None:
    house.commit(1)
    house.full(True)
    house.commit(2, 3)
    house.store.snapshot("b", Snapshot(3, 3, {}))
    house.store.end("b", {**STATUS, "state": "halted"}, house.told("end"))
    assert house.done == [("1", None)], "nothing is done that is not kept"
    assert len(house.logged) == 1
    assert "stands still" in house.logged[0]
    waits = [house.again() for _ in range(8)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (0.2, 10.0)
    house.commit(4)
    assert house.done == [("1", None)]
    assert [row["id"] for row in house.store.rows("b", 0, 9)] == ["1"]
    house.full(False)
    house.again()
    assert house.done[1:] == [("2", None), ("3", None), ("end", None), ("4", None)]
    assert not house.deferred
    assert "can be written again" in house.logged[-1]
    stored = house.store.load_one("b")
    assert stored.snapshot == Snapshot(3, 3, {})
    assert [number for number, _ in stored.events] == [4]
    house.commit(5)
    assert house.done[-1] == ("5", None)


def test_what_a_done_leads_to_comes_behind_what_waits(house: House) -> None:
    house.full(True)
    house.store.commit("b", commit(1), lambda error: house.commit(3))
    house.commit(2)
    house.full(False)
    house.again()
    assert house.done == [("2", None), ("3", None)]
    assert [row["id"] for row in house.store.rows("b", 0, 9)] == ["1", "2", "3"]


def test_a_full_disk_of_one_ensemble_does_not_hold_another(house: House) -> None:
    house.create("other")
    house.full(True)
    house.commit(1)
    house.store.commit("other", commit(1), house.told("other"))
    assert house.done == [("other", None)]


def test_what_waits_is_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told once when too much waits, all ensembles together, and once when that is over."""
    monkeypatch.setattr(file_store, "FULL", 12_000)
    monkeypatch.setattr(file_store, "EASY", 6_000)
    told: List[bool] = []
    house.store.pressure = told.append
    house.commit(1, 2, 3, 4)
    assert told == [], "what is kept at once is no pressure"
    house.full(True)
    house.commit(5, 6)
    assert told == []
    house.commit(7, 8)
    house.again()
    assert told == [True]
    house.full(False)
    house.again()
    assert told == [True, False]
    assert house.done[-1] == ("8", None)
    assert house.store._size == 0
    house.full(True)
    house.commit(9, 10, 11)
    house.store.remove("b", house.told("remove"))
    assert told == [True, False, True, False], "with its ensemble goes what waits"


def test_what_waits_is_tried_once_more_at_the_end(house: House, tmp_path: Path) -> None:
    house.full(True)
    house.commit(1, 2)
    house.full(False)
    house.store.close()
    assert FileStore(tmp_path).row_count("b") == 2


def test_a_fault_that_no_waiting_mends_is_told(house: House) -> None:
    house.commit(1, 1)
    assert house.done[0] == ("1", None)
    assert "UNIQUE" in str(house.done[1][1])
    assert not house.deferred


def test_what_cannot_be_created_is_not_there(house: House, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = FileStore(tmp_path / "file", lambda *_: None)
    store.create("c", GIVEN, house.told("create"))
    assert "file" in str(house.done[-1][1])
    house.store.create("b", GIVEN, house.told("create"))
    assert "there already" in str(house.done[-1][1])
    assert house.store.load_one("b").damaged is None


def test_one_process_at_a_time_writes(house: House, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ensemble.service.file_store import *\n"
        "store = FileStore(Path(sys.argv[1])); print(store.alive('b'))\n"
        "try: store.lock('b')\n"
        "except Locked as exc: print(exc)"
    )

    def other() -> str:
        return subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
        ).stdout

    assert other() == "True\nanother process runs ensemble b\n"
    assert FileStore(tmp_path).alive("b")
    reader = FileStore(tmp_path)
    with pytest.raises(Locked):
        reader.lock("b")
    reader.remove("b", house.told("remove"))
    assert "another process" in str(house.done[-1][1])
    assert house.store.path("b").exists()
    house.store.end("b", STATUS, house.told("end"))
    assert other() == "False\n", "what has ended is let go"


def test_others_in_the_folder_are_left_alone(house: House, tmp_path: Path) -> None:
    assert list(House(tmp_path).store.load()) == []
    assert [stored.id for stored in FileStore(tmp_path, take=None).load()] == ["b"]


def test_removed(house: House, tmp_path: Path) -> None:
    (tmp_path / "b" / "work-1.out").write_text("precious")
    house.store.remove("b", house.told("remove"))
    assert house.done == [("remove", None)]
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["work-1.out"]
    house.create("c")
    house.store.remove("c", house.told("remove"))
    assert not (tmp_path / "c").exists()


def damage(house: House, change: str) -> None:
    house.commit(1, 2, 3)
    house.store.close()
    db = sqlite3.connect(house.store.path("b"))
    with db:
        db.execute(change)
    db.close()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (f"update kept set value = '{FORMAT + 1}' where name = 'format'", "newer release"),
        ("delete from log where number = 2", "event 2 is missing"),
        ("update log set event = '[' where number = 2", "cannot be read"),
        ("delete from kept where name = 'given'", "cannot be read"),
        ("drop table log", "no such table"),
    ],
)
def test_a_damaged_file_is_told(house: House, tmp_path: Path, change: str, why: str) -> None:
    damage(house, change)
    (stored,) = FileStore(tmp_path, take=None).load()
    assert why in str(stored.damaged)
    assert str(house.store.path("b")) in str(stored.damaged)


def test_no_database_at_all(house: House, tmp_path: Path) -> None:
    house.store.close()
    for path in (tmp_path / "b").glob("ensemble.db*"):
        path.write_bytes(b"not this" * 1000)
    (stored,) = FileStore(tmp_path, take=None).load()
    assert stored.damaged is not None
    assert FileStore(tmp_path).last_job("b") == 0
    assert json.dumps(stored.given)


def test_the_oldest_records_go_with_a_snapshot_and_rows_stay(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_store, "KEPT_RECORDS", 10)
    house.commit(*range(1, 31))
    assert len(house.store.records("b", 0, 100)) == 30
    house.store.snapshot("b", Snapshot(30, 30, {}))
    assert [record["seq"] for record in house.store.records("b", 0, 100)] == list(range(21, 31))
    assert house.store.row_count("b") == 30
