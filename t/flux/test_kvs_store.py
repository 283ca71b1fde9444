# SPDX-License-Identifier: MIT
"""The store in the KVS keeps its promise, also while the KVS does not take changes, and past damaged records."""

# Without Flux nothing of this can be imported: the skip has to come first.

from __future__ import annotations

import errno
import json
from typing import Any, List, Tuple

import pytest

try:
    import flux  # noqa: F401
except ImportError as exc:
    pytest.skip(f"Flux tests: the bindings do not load ({exc})", allow_module_level=True)

from ensemble.service import kvs_segments, kvs_store, kvs_writer, past
from ensemble.service.kvs_store import KvsStore
from ensemble.service.store import Snapshot
from t.flux.kvs_shop import KvsShop
from t.unit.store_promise import Promise, all_records, all_rows, commit, given, status

pytestmark = [pytest.mark.flux, pytest.mark.timeout(300)]


class TestPromise(Promise):
    """Of the store in the KVS."""


def test_segments_are_closed_and_those_before_a_snapshot_unlinked(shop: KvsShop, monkeypatch: Any) -> None:
    monkeypatch.setattr(kvs_segments, "LINES", 10)
    monkeypatch.setattr(kvs_segments, "BUCKET", 30)
    shop.create("bbb")
    shop.commit("bbb", *range(1, 96))
    shop.quiet()
    assert shop.near("bbb") == [1, 11, 21, 31]
    assert shop.buckets("bbb", "log") == {"1": ["41", "51"], "2": ["61", "71", "81"], "3": ["91"]}
    for kind in ("records", "rows"):
        assert [len(names) for names in shop.buckets("bbb", kind).values()] == [3, 3, 3, 1]
    monkeypatch.setattr(kvs_store, "_RECENT", 5)
    shop.reopen()
    whole = list(range(1, 96))
    assert all_rows(shop.store, "bbb", 7) == all_records(shop.store, "bbb", 7) == whole
    for begin in range(0, 95, 9):
        assert [one["index"] for one in shop.store.rows("bbb", begin, 3)] == whole[begin : begin + 3]
        assert [one["seq"] for one in shop.store.records("bbb", begin, 3)] == whole[begin : begin + 3]
    shop.store.snapshot("bbb", Snapshot(95, 95, {}))
    shop.commit("bbb", 96)
    assert shop.buckets("bbb", "log") == {"3": ["96"]}, "with its last segment a directory goes"
    assert shop.near("bbb") == []
    shop.store.snapshot("bbb", Snapshot(96, 96, {}))
    shop.commit("bbb", *range(97, 109))
    assert (shop.near("bbb"), shop.buckets("bbb", "log")) == ([97, 107], {})
    assert [number for number, _ in shop.loaded()["bbb"].events] == list(range(97, 109))


def test_the_log_of_an_older_form_goes_on_in_it(shop: KvsShop, monkeypatch: Any) -> None:
    """So that the release that began it can still take it up."""
    monkeypatch.setattr(kvs_segments, "LINES", 10)
    shop.create("bbb")
    shop.put("ensemble.bbb.given", json.dumps({"format": 1, **given()}))
    shop.loaded()
    shop.commit("bbb", *range(1, 31))
    shop.store.snapshot("bbb", Snapshot(30, 30, {}))
    shop.commit("bbb", *range(31, 43))
    assert (shop.near("bbb"), shop.buckets("bbb", "log")) == ([], {"0": ["31", "41"]})
    assert [number for number, _ in shop.loaded()["bbb"].events] == list(range(31, 43))


class Faults:
    """Transactions that fail: before the KVS has them, or after it has done them all the same."""

    def __init__(self, store: KvsStore, after: bool, times: int) -> None:
        self.left = times
        self._plain = store._writer._transact
        self._after = after
        store._writer._transact = self  # type: ignore[method-assign, assignment]

    def __call__(self, puts: Any, sync: bool) -> Any:
        if not self.left:
            return self._plain(puts, sync)
        self.left -= 1
        if self._after:
            self._plain(puts, sync).get()
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("after", [False, True], ids=["refused", "done all the same"])
def test_a_commit_that_fails_is_tried_again_and_nothing_is_lost(shop: KvsShop, monkeypatch: Any, after: bool) -> None:
    monkeypatch.setattr(kvs_writer, "_RETRY", (0.01, 0.05))
    shop.reopen()
    shop.create("bbb")
    shop.create("ccc")
    shop.commit("bbb", 1, 2)
    assert isinstance(shop.store, KvsStore)
    faults = Faults(shop.store, after, 4)
    said: List[Any] = []
    for number in (3, 4, 5):
        shop.store.commit("bbb", commit(number), said.append)
        shop.store.commit("ccc", commit(number - 2), said.append)
    assert said == [], "nothing may happen before it is kept"
    shop.settle(lambda: faults.left < 4)
    assert "No space left" in (shop.store.trouble("bbb") or "")
    shop.store.create("ddd", given(), said.append)
    assert "statedir full?" in said.pop(), "an answer is not kept waiting"
    shop.settle(lambda: len(said) == 6)
    assert shop.store.trouble("bbb") is None
    assert faults.left == 0
    assert said == [None] * 6
    refused = [text for _, text in shop.logged if "refuses changes" in text]
    assert len(refused) == 1, "told once"
    assert any("takes changes again" in text for _, text in shop.logged)
    for _ in range(2):
        assert all_rows(shop.store, "bbb", 2) == all_records(shop.store, "bbb", 2) == [1, 2, 3, 4, 5]
        assert all_rows(shop.store, "ccc", 2) == [1, 2, 3]
        loaded = shop.loaded()
        assert [number for number, _ in loaded["bbb"].events] == [1, 2, 3, 4, 5]
        assert shop.store.row_count("bbb") == 5
    faults = Faults(shop.store, after, 3)
    shop.store.snapshot("bbb", Snapshot(5, 5, {}))
    shop.commit("bbb", 6, 7)
    shop.wait(lambda done: shop.store.end("bbb", status("halted"), done))
    assert faults.left == 0
    stored = shop.loaded()["bbb"]
    assert (stored.snapshot, [n for n, _ in stored.events]) == (Snapshot(5, 5, {}), [6, 7])
    assert all_rows(shop.store, "bbb", 3) == all_records(shop.store, "bbb", 3) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("after", [False, True], ids=["refused", "done all the same"])
def test_an_ensemble_that_cannot_be_created_is_not_kept(shop: KvsShop, after: bool) -> None:
    assert isinstance(shop.store, KvsStore)
    Faults(shop.store, after, 1)
    said: List[Any] = []
    shop.store.create("bbb", given(), said.append)
    shop.settle(lambda: said)
    assert "No space left" in said[0]
    shop.create("ccc")
    shop.commit("ccc", 1)
    assert list(shop.loaded()) == ["ccc"]


def test_one_who_is_told_and_breaks_keeps_it_from_nobody(shop: KvsShop) -> None:
    shop.create("bbb")

    def broken(error: Any) -> None:
        raise RuntimeError("broken")

    said: List[Any] = []
    for number in (1, 2, 3, 4):
        shop.store.commit("bbb", commit(number), broken if number in (1, 3) else said.append)
    shop.settle(lambda: len(said) == 2)
    assert any("broken" in text for _, text in shop.logged)
    shop.commit("bbb", 5)
    assert [number for number, _ in shop.loaded()["bbb"].events] == [1, 2, 3, 4, 5]


def newer(shop: KvsShop) -> Tuple[str, Any]:
    return "given", json.dumps({"format": 99, **given()})


DAMAGE = {
    "no JSON": ("given", "{"),
    "no object": ("given", "[]"),
    "nothing submitted": ("given", None),
    "no name": ("given", json.dumps({"format": 1, "text": "x"})),
    "a newer format": ("given", json.dumps({"format": 99, **given()})),
    "an event": ("log-1", '[1,[1,"x"],[],[],[]]\n[2,[1,\n[3,[1,"x"],[],[],[]]\n'),
    "a gap": ("log-1", '[1,[1,"x"],[],[],[]]\n[3,[1,"x"],[],[],[]]\n'),
    "a strange key": ("log.x", "1"),
    "a strange segment": ("log-x", "1"),
    "a directory": ("snapshot.x", "1"),
    "a snapshot": ("snapshot", '{"number": 1}'),
    "the last rows": ("rows.0.0.lines", "[0"),
    "the last records": ("records.0.1.lines", '{"seq"'),
    "the end": ("end", '{"state": "complete"}'),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_record_is_quarantined_and_hurts_no_other(shop: KvsShop, name: str) -> None:
    for id in ("bbb", "ccc", "ddd"):
        shop.create(id)
        shop.commit(id, 1, 2, 3)
    key, value = DAMAGE[name]
    shop.put(f"ensemble.ccc.{key}", value)
    loaded = shop.loaded()
    assert {id for id, stored in loaded.items() if stored.damaged} == {"ccc"}
    if name == "a newer format":
        assert "format 99" in loaded["ccc"].damaged
    assert shop.store.rows("ccc", 0, 10) == shop.store.records("ccc", 0, 10) == []
    for id in ("bbb", "ddd"):
        assert [number for number, _ in loaded[id].events] == [1, 2, 3]
        shop.commit(id, 4)
        assert all_rows(shop.store, id, 10) == all_records(shop.store, id, 10) == [1, 2, 3, 4]
    shop.wait(lambda done: shop.store.remove("ccc", done))
    assert set(shop.loaded()) == {"bbb", "ddd"}


def test_an_old_line_that_cannot_be_read_is_left_out(shop: KvsShop, monkeypatch: Any) -> None:
    monkeypatch.setattr(kvs_segments, "LINES", 3)
    shop.create("bbb")
    shop.commit("bbb", *range(1, 8))
    shop.put("ensemble.bbb.rows.0.0.lines", "[0,{")
    loaded = shop.loaded()
    assert loaded["bbb"].damaged is None
    assert all_rows(shop.store, "bbb", 10) == [4, 5, 6, 7]
    assert any("rows.0.0.lines cannot be read" in text for _, text in shop.logged)


def test_it_is_the_primary_namespace_also_within_a_job(shop: KvsShop, monkeypatch: Any) -> None:
    monkeypatch.setenv("FLUX_KVS_NAMESPACE", "job-1234")
    shop.create("bbb")
    shop.commit("bbb", 1)
    monkeypatch.delenv("FLUX_KVS_NAMESPACE")
    assert [number for number, _ in shop.loaded()["bbb"].events] == [1]
    monkeypatch.setenv("FLUX_KVS_NAMESPACE", "job-1234")
    assert list(shop.loaded()) == ["bbb"]


def test_a_store_that_is_closed_keeps_what_was_on_its_way(shop: KvsShop) -> None:
    shop.create("bbb")
    for number in range(1, 11):
        shop.store.commit("bbb", commit(number), lambda error: None)
    assert [number for number, _ in shop.loaded(clean=True)["bbb"].events] == list(range(1, 11))
    assert all_rows(shop.store, "bbb", 3) == list(range(1, 11))


def test_the_oldest_records_go_and_rows_stay(shop: KvsShop, monkeypatch: Any) -> None:
    monkeypatch.setattr(kvs_segments, "LINES", 10)
    monkeypatch.setattr(kvs_segments, "BUCKET", 30)
    monkeypatch.setattr(kvs_store, "_RECENT", 5)
    monkeypatch.setattr(kvs_store, "KEPT_RECORDS", 30)
    shop.create("bbb")
    shop.commit("bbb", *range(1, 101))
    shop.quiet()
    for _ in range(2):
        kept = [one["seq"] for one in shop.store.records("bbb", 0, 1000)]
        assert kept == list(range(71, 101)), "a segment goes once nothing in it is among the last 30"
        assert [one["seq"] for one in shop.store.records("bbb", 80, 5)] == [81, 82, 83, 84, 85]
        assert all_rows(shop.store, "bbb", 7) == list(range(1, 101))
        assert shop.loaded()["bbb"].seq == 100
    assert shop.buckets("bbb", "records") == {"2": ["71", "81"], "3": ["91"]}
    shop.commit("bbb", 101)
    assert [one["seq"] for one in shop.store.records("bbb", 0, 1)] == [71]


def test_what_the_kvs_holds_of_one_ensemble_does_not_grow_with_its_events(shop: KvsShop, monkeypatch: Any) -> None:
    """Ten times the events, with a snapshot every 100 of them, and no more bytes."""
    monkeypatch.setattr(kvs_segments, "LINES", 20)
    monkeypatch.setattr(kvs_store, "KEPT_RECORDS", 200)
    monkeypatch.setattr(past, "KEPT", 3000)
    monkeypatch.setattr(kvs_store, "SHELF", 100)
    shop.create("bbb")
    sizes: List[int] = []
    packs: List[int] = []
    for begin in range(1, 4001, 100):
        for number in range(begin, begin + 100):
            shop.store.commit("bbb", commit(number)._replace(rows=[]), lambda error: None)
        shop.store.snapshot("bbb", Snapshot(begin + 99, begin + 99, {"t": 1.0}))
        if begin in (301, 3901):
            assert isinstance(shop.store, KvsStore)
            shop.quiet()
            measured = shop.store.measure("bbb")
            assert set(measured) == {"given", "log", "records", "rows", "snapshot", "end", "past", "keys"}
            packs.append(measured.pop("past"))
            sizes.append(sum(measured.values()))
    assert 0 < sizes[1] < 1.2 * sizes[0], sizes
    assert 0 < packs[0] < 3000 + 100 * 50, packs
    assert 0 < packs[1] < 3000 + 100 * 50, packs


def test_pressure(shop: KvsShop, monkeypatch: Any) -> None:
    """Told once when too much waits, and once when that is over; a snapshot is no pressure."""
    monkeypatch.setattr(kvs_writer, "_RETRY", (0.01, 0.05))
    monkeypatch.setattr(kvs_writer, "FULL", 2000)
    monkeypatch.setattr(kvs_writer, "EASY", 500)
    told: List[bool] = []
    shop.store.pressure = told.append
    shop.create("bbb")
    assert isinstance(shop.store, KvsStore)
    shop.store.snapshot("bbb", Snapshot(0, 0, {"much": "x" * 5000}))
    faults = Faults(shop.store, False, 5)
    done: List[Any] = []
    numbers = range(1, 40)
    for number in numbers:
        shop.store.commit("bbb", commit(number), done.append)
        if told:
            break
    assert told == [True]
    assert 5 < number < 30
    shop.settle(lambda: len(done) == number)
    shop.settle(lambda: len(told) == 2)
    assert faults.left == 0
    assert told == [True, False]
    shop.settle(lambda: not shop.store._writer._size)  # type: ignore[attr-defined]


def test_of_an_ended_one_little_is_read_before_it_is_asked_for(shop: KvsShop, monkeypatch: Any) -> None:
    shop.create("bbb")
    shop.commit("bbb", *range(1, 200))
    shop.wait(lambda done: shop.store.end("bbb", status("complete"), done))
    looked: List[str] = []
    plain = KvsStore._lookup
    monkeypatch.setattr(KvsStore, "_lookup", lambda self, key: (looked.append(key), plain(self, key))[1])
    stored = shop.loaded()["bbb"]
    assert stored.status == status("complete")
    assert set(looked) == {"ensemble.bbb.given", "ensemble.bbb.end"}
    assert shop.store.row_count("bbb") == 199
    assert all_rows(shop.store, "bbb", 50) == all_records(shop.store, "bbb", 50) == list(range(1, 200))
    shop.put("ensemble.bbb.rows.x", "1")
    shop.reopen()
    assert shop.store.rows("bbb", 0, 10) == []
    assert any("records and rows of ensemble bbb cannot be read" in text for _, text in shop.logged)
