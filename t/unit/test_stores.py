# SPDX-License-Identifier: MIT
"""The stores that need no Flux keep their promise: in memory, and in files. The one in the KVS: `t/flux`."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import pytest

from ensemble.service.file_store import FileStore
from ensemble.service.store import STATUS, MemoryStore, Store, Stored, sound
from t.unit.store_promise import Promise, Shop, all_rows, commit, given


class MemoryShop(Shop):
    lasting = False

    def __init__(self) -> None:
        self.store: Store = MemoryStore()

    def reopen(self, clean: bool = True) -> Store:
        return self.store

    def settle(self, condition: Callable[[], Any]) -> None:
        assert condition(), "a store in memory answers at once"


class FileShop(Shop):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.later: List[Callable[[], None]] = []
        self.logged: List[Tuple[int, str]] = []
        self.store: Store = self._open()

    def _open(self) -> FileStore:
        return FileStore(
            self.folder,
            lambda pause, callback: self.later.append(callback),
            lambda level, text: self.logged.append((level, text)),
            take=None,
        )

    def reopen(self, clean: bool = True) -> Store:
        if clean:
            self.store.close()
        else:
            # the locks go with the process, and this one lives
            assert isinstance(self.store, FileStore)
            for id in list(self.store._locks):
                self.store._let_go(id)
        self.store = self._open()
        for stored in self.store.load():
            if stored.damaged is None:
                self.store.lock(stored.id)
        return self.store

    def settle(self, condition: Callable[[], Any]) -> None:
        for _ in range(100):
            if condition():
                return
            assert self.later, "nothing is left to happen"
            self.later.pop(0)()
        raise AssertionError("it does not happen")


@pytest.fixture(params=["memory", "file"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    shop = MemoryShop() if request.param == "memory" else FileShop(tmp_path)
    yield shop
    shop.store.close()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[FileShop]:
    shop = FileShop(tmp_path)
    yield shop
    shop.store.close()


class TestPromise(Promise):
    """Of both."""


def change(files: FileShop, id: str, statement: str, *values: Any) -> None:
    files.store.close()
    with sqlite3.connect(files.folder / id / "ensemble.db") as db:
        db.execute(statement, values)
    db.close()


DAMAGE = {
    "given": ("update kept set value = '{' where name = 'given'",),
    "a newer format": ("update kept set value = ? where name = 'format'", json.dumps(99)),
    "a gap": ("delete from log where number = 2",),
    "an event": ("update log set event = '[' where number = 3",),
    "the snapshot": ("insert into kept values ('snapshot', '[1]')",),
    "no table": ("drop table kept",),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_quarantined_and_hurts_no_other(files: FileShop, name: str) -> None:
    for id in ("bbb", "ccc", "ddd"):
        files.create(id)
        files.commit(id, 1, 2, 3)
    change(files, "ccc", *DAMAGE[name])
    loaded = files.loaded()
    assert {id for id, stored in loaded.items() if stored.damaged} == {"ccc"}
    assert "ccc" in loaded["ccc"].damaged
    if name == "a newer format":
        assert "newer release, format 99" in loaded["ccc"].damaged
    for id in ("bbb", "ddd"):
        assert [number for number, _ in loaded[id].events] == [1, 2, 3]
        files.commit(id, 4)
        assert all_rows(files.store, id, 10) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "wrong", [{"members": 5}, {"scaling": "x"}, {"scaling": {"t_done": "x"}}, {"members": ["a"]}], ids=str
)
def test_an_end_that_a_service_could_not_start_with_is_damaged(wrong: Any) -> None:
    status = dict.fromkeys(STATUS)
    for right in (
        {},
        {"members": {"a": "up"}, "scaling": None},
        {"scaling": {"t_done": None}},
        {"scaling": {"t_done": 1}},
    ):
        assert sound(Stored("ccc", given(), status={**status, **right}))
    with pytest.raises(ValueError, match="of the final status"):
        sound(Stored("ccc", given(), status={**status, **wrong}))


def test_a_file_that_is_no_database_is_quarantined(files: FileShop) -> None:
    files.create("bbb")
    (files.folder / "ccc").mkdir()
    (files.folder / "ccc" / "ensemble.db").write_text("x" * 5000)
    loaded = files.loaded()
    assert "cannot be read" in loaded["ccc"].damaged
    assert loaded["bbb"].damaged is None


def test_a_disk_that_refuses_for_a_while_loses_nothing(files: FileShop) -> None:
    """Another process that holds the file stands for a full disk."""
    files.create("bbb")
    files.create("ccc")
    files.commit("bbb", 1)
    assert isinstance(files.store, FileStore)
    plain, refusals = files.store._open, [5]

    def refuse(id: str) -> Any:
        if id == "bbb" and refusals[0]:
            refusals[0] -= 1
            raise sqlite3.OperationalError("database or disk is full")
        return plain(id)

    files.store._open = refuse  # type: ignore[method-assign]
    said: List[Any] = []
    for number in (2, 3, 4):
        files.store.commit("bbb", commit(number), said.append)
    assert said == [], "nothing may happen before it is kept"
    files.commit("ccc", 1)
    files.settle(lambda: len(said) == 3)
    assert said == [None] * 3
    assert refusals == [0]
    assert any("disk is full" in text for _, text in files.logged)
    assert [number for number, _ in files.loaded()["bbb"].events] == [1, 2, 3, 4]
    assert all_rows(files.store, "bbb", 10) == [1, 2, 3, 4]


def test_an_ensemble_that_cannot_be_created_is_not_kept(files: FileShop) -> None:
    said: List[Any] = []
    (files.folder / "bbb").write_text("in the way")
    files.store.create("bbb", given(), said.append)
    assert len(said) == 1
    assert "bbb" in said[0]
    assert files.loaded() == {}
