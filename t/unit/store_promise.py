# SPDX-License-Identifier: MIT
"""What every store promises, as tests: a file that tests a store gives the fixture `shop` and a class of `Promise`."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Any, Callable, Dict, List, Optional

from ensemble.service import past
from ensemble.service.store import STATUS, Commit, Snapshot, Store, Stored

MANY = 1234


class Shop(ABC):
    """A place that keeps ensembles, and the store that is open in it now."""

    store: Store
    #: does what it keeps outlive the store?
    lasting = True

    @abstractmethod
    def reopen(self, clean: bool = True) -> Store:
        """A new store over the same place; the old one is closed before, or just left, as by a crash."""

    @abstractmethod
    def settle(self, condition: Callable[[], Any]) -> None:
        """Let things happen until that is true."""

    # ---- for tests

    def create(self, id: str, t: float = 1.0, **more: Any) -> None:
        self.wait(lambda done: self.store.create(id, given(t, **more), done))

    def commit(self, id: str, *numbers: int) -> None:
        """Commits with a record and a row each, all on their way before the first is waited for."""
        done: List[int] = []

        def note(number: int) -> Callable[[Optional[str]], None]:
            def noted(error: Optional[str]) -> None:
                assert error is None
                done.append(number)

            return noted

        for number in numbers:
            self.store.commit(id, commit(number), note(number))
        self.settle(lambda: len(done) == len(numbers))
        assert done == list(numbers), "not in the order in which they were made"

    def wait(self, begin: Callable[[Callable[[Optional[str]], None]], Any]) -> None:
        """Do what `begin(done)` begins, to its end without an error."""
        said: List[Optional[str]] = []
        begin(said.append)
        self.settle(lambda: said)
        assert said == [None]

    def loaded(self, clean: bool = True) -> Dict[str, Stored]:
        return {stored.id: stored for stored in self.reopen(clean).load()}


def given(t: float = 1.0, **more: Any) -> Dict[str, Any]:
    return {
        "version": "1", "name": "n\u2028\u00e9", "file": "f.yaml", "text": "a\nb\u2029\udcff\x1c", "submitter": {"cwd": "/"},
        "t_submit": t, **more,
    }  # fmt: skip


def commit(number: int) -> Commit:
    """The n-th event, with one record of seq n and one row."""
    return Commit(number, [1, "Begin", float(number)], [f"key/{number}"], [record(number)], [row(number)])


def record(number: int) -> Dict[str, Any]:
    return {"seq": number, "t": float(number), "type": "log", "text": f"line\u2028{number}\n"}


def row(number: int) -> Dict[str, Any]:
    return {"id": f"f{number}", "note": "\u2028", "index": number}


def status(state: str) -> Dict[str, Any]:
    return {**dict.fromkeys(STATUS), "state": state, "jobs": {}}


def all_rows(store: Store, id: str, step: int) -> List[int]:
    found: List[int] = []
    for start in itertools.count(0, step):
        page = store.rows(id, start, step)
        assert len(page) <= step
        found += [one["index"] for one in page]
        if len(page) < step:
            return found
    raise AssertionError


def all_records(store: Store, id: str, step: int) -> List[int]:
    found: List[int] = []
    while True:
        page = store.records(id, found[-1] if found else 0, step)
        assert len(page) <= step
        if not page:
            return found
        found += [one["seq"] for one in page]


def all_events(store: Store, id: str, step: int) -> List[int]:
    found: List[int] = []
    while True:
        page = store.events(id, found[-1] if found else 0, step)
        assert len(page) <= step
        if not page:
            return found
        for number, event, intents in page:
            assert [event, intents] == [commit(number).event, commit(number).intents]
            found.append(number)


class Promise:
    """Each of these holds for every store."""

    def test_an_empty_store(self, shop: Shop) -> None:
        assert list(shop.store.load()) == []
        assert shop.loaded() == {}

    def test_what_was_submitted_comes_back_as_it_was_oldest_first(self, shop: Shop) -> None:
        for id, t in (("bbb", 2.0), ("ddd", 1.0), ("ccc", 3.0)):
            shop.create(id, t)
        for _ in range(2):
            assert list(shop.loaded()) == ["ddd", "bbb", "ccc"]
            assert shop.loaded()["bbb"] == Stored("bbb", given(2.0))

    def test_what_was_committed_comes_back(self, shop: Shop) -> None:
        shop.create("bbb")
        shop.create("ccc")
        shop.commit("bbb", 1, 2, 3)
        shop.commit("ccc", 1)
        shop.wait(lambda done: shop.store.commit("bbb", Commit(4, [1, "x"], [], [], []), done))
        for clean in (True, False):
            assert [one["seq"] for one in shop.store.records("bbb", 0, 10)] == [1, 2, 3]
            assert shop.store.records("bbb", 2, 10) == [record(3)]
            assert shop.store.rows("bbb", 1, 1) == [row(2)]
            assert (shop.store.row_count("bbb"), shop.store.row_count("ccc")) == (3, 1)
            assert shop.store.rows("bbb", 3, 10) == shop.store.records("bbb", 3, 10) == []
            loaded = shop.loaded(clean)
            if shop.lasting:
                events = [(number, [1, "Begin", float(number)]) for number in (1, 2, 3)]
                assert loaded["bbb"].events == [*events, (4, [1, "x"])]
                assert (loaded["bbb"].seq, loaded["ccc"].seq) == (3, 1)

    def test_after_a_snapshot_only_what_came_later_is_replayed(self, shop: Shop) -> None:
        shop.create("bbb")
        shop.commit("bbb", 1, 2, 3)
        shop.store.snapshot("bbb", Snapshot(3, 3, {"t": 1.5}))
        shop.commit("bbb", 4, 5)
        stored = shop.loaded()["bbb"]
        if shop.lasting:
            assert stored.snapshot == Snapshot(3, 3, {"t": 1.5})
            assert [number for number, _ in stored.events] == [4, 5]
        shop.commit("bbb", 6)
        shop.store.snapshot("bbb", Snapshot(6, 6, {"t": 2.5}))
        shop.commit("bbb", 7)
        stored = shop.loaded()["bbb"]
        if shop.lasting:
            assert stored.snapshot == Snapshot(6, 6, {"t": 2.5})
            assert [number for number, _ in stored.events] == [7]
        assert all_records(shop.store, "bbb", 2) == all_rows(shop.store, "bbb", 2) == list(range(1, 8))

    def test_commits_on_their_way_around_a_snapshot(self, shop: Shop) -> None:
        shop.create("bbb")
        said: List[Optional[str]] = []
        for number in range(1, 41):
            shop.store.commit("bbb", commit(number), said.append)
            if number % 10 == 0:
                shop.store.snapshot("bbb", Snapshot(number, number, {"number": number}))
        shop.commit("bbb", 41)
        assert said == [None] * 40
        stored = shop.loaded()["bbb"]
        if shop.lasting:
            assert (stored.snapshot, [n for n, _ in stored.events]) == (Snapshot(40, 40, {"number": 40}), [41])
        assert all_rows(shop.store, "bbb", 7) == list(range(1, 42))

    def test_events_are_kept_also_when_recovery_needs_them_no_more(self, shop: Shop) -> None:
        shop.create("bbb")
        for begin in (1, 101, 401, 406):
            shop.commit("bbb", *range(begin, {1: 101, 101: 401, 401: 406, 406: 411}[begin]))
            if begin != 406:
                shop.store.snapshot("bbb", Snapshot(*2 * [{1: 100, 101: 400, 401: 405}[begin]], {"at": begin}))
            for step in (1000, 77):
                assert all_events(shop.store, "bbb", step) == list(range(1, shop.store.row_count("bbb") + 1))
            shop.loaded(clean=begin != 101)
        shop.commit("bbb", 411)
        assert shop.store.events("bbb", 409, 1) == [[410, [1, "Begin", 410.0], ["key/410"]]]
        assert shop.store.events("bbb", 411, 9) == shop.store.events("none", 0, 9) == []
        shop.wait(lambda done: shop.store.end("bbb", status("complete"), done))
        for clean in (True, False):
            assert all_events(shop.store, "bbb", 150) == list(range(1, 412))
            assert shop.loaded(clean)["bbb"].events == [] or not shop.lasting
            stored = shop.store.reload("bbb")
            assert stored.status == status("complete")
            assert stored.seq == 411
            assert [number for number, _ in stored.events][-6:] == list(range(406, 412))
            if shop.lasting:
                assert stored.snapshot == Snapshot(405, 405, {"at": 401})
                assert stored.events[0][0] == 406

    def test_the_oldest_events_go_where_there_are_too_many(self, shop: Shop, monkeypatch: Any) -> None:
        if not shop.lasting:
            return
        monkeypatch.setattr(past, "KEPT", 2000)
        monkeypatch.setattr(f"{type(shop.store).__module__}.SHELF", 100)
        shop.create("bbb")
        shop.create("ccc")
        shop.commit("ccc", 1)
        for begin in range(1, 1001, 50):
            shop.commit("bbb", *range(begin, begin + 50))
            shop.store.snapshot("bbb", Snapshot(begin + 49, begin + 49, {}))
        kept = all_events(shop.store, "bbb", 1000)
        assert kept[-1] == 1000
        assert kept == list(range(kept[0], 1001))
        assert 300 < kept[0] <= 901, "the bound is 2000 bytes"
        assert shop.store.events("bbb", 5, 1)[0][0] == kept[0]
        shop.loaded()
        shop.commit("bbb", 1001)
        shop.store.snapshot("bbb", Snapshot(1001, 1001, {}))
        shop.commit("bbb", 1002)
        assert all_events(shop.store, "bbb", 1000)[-3:] == [1000, 1001, 1002]
        assert all_events(shop.store, "ccc", 10) == [1]

    def test_an_end_is_kept_and_may_be_taken_back(self, shop: Shop) -> None:
        shop.create("bbb")
        shop.commit("bbb", 1, 2)
        shop.wait(lambda done: shop.store.end("bbb", status("halted"), done))
        stored = shop.loaded()["bbb"]
        assert stored.status == status("halted")
        if shop.lasting:
            assert [number for number, _ in stored.events] == [1, 2], "it may carry on"
        shop.wait(lambda done: shop.store.end("bbb", None, done))
        assert shop.loaded()["bbb"].status is None
        shop.commit("bbb", 3)
        shop.wait(lambda done: shop.store.end("bbb", status("complete"), done))
        assert shop.loaded()["bbb"].status == status("complete")
        assert all_records(shop.store, "bbb", 10) == all_rows(shop.store, "bbb", 10) == [1, 2, 3]

    def test_many_are_found_in_pages_of_any_size_also_after_a_restart(self, shop: Shop) -> None:
        shop.create("bbb")
        for begin in range(1, MANY, 100):
            shop.commit("bbb", *range(begin, min(begin + 100, MANY + 1)))
        whole = list(range(1, MANY + 1))
        for step in (1000, 499, 100):
            assert all_rows(shop.store, "bbb", step) == all_records(shop.store, "bbb", step) == whole
        for round in range(3):
            stored = shop.loaded(clean=bool(round))["bbb"]
            if shop.lasting:
                assert [number for number, _ in stored.events] == whole
                assert stored.seq == len(whole)
            assert shop.store.row_count("bbb") == len(whole)
            assert all_rows(shop.store, "bbb", 499) == all_records(shop.store, "bbb", 499) == whole
            shop.commit("bbb", len(whole) + 1)
            whole.append(len(whole) + 1)

    def test_what_is_removed_is_gone_and_no_other(self, shop: Shop) -> None:
        for id in ("bbb", "ccc"):
            shop.create(id)
            shop.commit(id, 1, 2)
        said: List[Optional[str]] = []
        shop.store.commit("bbb", commit(3), said.append)
        shop.wait(lambda done: shop.store.remove("bbb", done))
        assert list(shop.loaded()) == ["ccc"]
        assert all_rows(shop.store, "ccc", 10) == [1, 2]
        shop.create("bbb")
        shop.commit("bbb", 1)
        assert set(shop.loaded()) == {"bbb", "ccc"}
        assert all_records(shop.store, "bbb", 10) == [1]
