# SPDX-License-Identifier: MIT
"""Which changes of the store in the KVS go into which transaction: what nobody waits for is gathered, and nothing overtakes."""

# Without Flux nothing of this can be imported: the skip has to come first.
# ruff: noqa: E402

from __future__ import annotations

import time
from typing import Any, Iterator, List, Set

import pytest

pytestmark = [pytest.mark.flux, pytest.mark.timeout(300)]
try:
    import flux  # noqa: F401
except ImportError as exc:
    pytest.skip(f"Flux tests: the bindings do not load ({exc})", allow_module_level=True)

from ensemble.service import kvs_writer
from ensemble.service.kvs_store import KvsStore
from ensemble.service.store import Snapshot
from t.flux.kvs_shop import KvsShop
from t.unit.store_promise import all_records, all_rows, commit


@pytest.fixture
def shop(flux_instance: Any) -> Iterator[KvsShop]:
    yield from KvsShop.opened(flux_instance)


def patient(number: int) -> Any:
    return commit(number)._replace(patient=True)


def test_what_nobody_waits_for_goes_with_what_somebody_waits_for(shop: KvsShop, monkeypatch: Any) -> None:
    monkeypatch.setattr(kvs_writer, "GATHER", 3600.0)
    monkeypatch.setattr(kvs_writer, "LATER", 3600.0)
    shop.reopen()
    shop.create("bbb")
    assert isinstance(shop.store, KvsStore)
    sent = count_transactions(shop.store)
    said: List[int] = []
    for number in (1, 2, 3):
        shop.store.commit("bbb", patient(number), lambda error, number=number: said.append(number))  # type: ignore[misc]
    shop.handle.rpc("broker.ping", {}).get()
    shop.settle(lambda: True)
    assert (said, sent) == ([], [])
    shop.store.commit("bbb", commit(4), lambda error: said.append(4))
    shop.settle(lambda: said)
    assert said == [1, 2, 3, 4], "in order"
    assert len(sent) == 1
    assert kinds(sent) == [{"log"}], "records and rows wait on"
    assert all_rows(shop.store, "bbb", 3) == all_records(shop.store, "bbb", 3) == [1, 2, 3, 4], "and are seen"
    # nothing may overtake: with the log's lines the snapshot makes their records and rows go
    shop.store.commit("bbb", patient(5), lambda error: said.append(5))
    shop.wait(lambda done: (shop.store.snapshot("bbb", Snapshot(5, 5, {})), shop.store.end("bbb", None, done)))
    assert {kind(key) for puts in sent[1:] for key in puts} >= {"log", "records", "rows", "snapshot", "end"}
    assert said == [1, 2, 3, 4, 5]
    shop.reopen(clean=False)
    assert all_rows(shop.store, "bbb", 3) == all_records(shop.store, "bbb", 3) == [1, 2, 3, 4, 5]


def test_what_is_gathered_is_sent_after_a_moment(shop: KvsShop, monkeypatch: Any) -> None:
    monkeypatch.setattr(kvs_writer, "LATER", 0.3)
    shop.create("bbb")
    assert isinstance(shop.store, KvsStore)
    sent = count_transactions(shop.store)
    said: List[Any] = []
    begun = time.monotonic()
    for number in range(1, 11):
        shop.store.commit("bbb", patient(number), said.append)
    shop.settle(lambda: len(said) == 10)
    assert time.monotonic() - begun >= kvs_writer.GATHER
    assert kinds(sent) == [{"log"}]
    shop.commit("bbb", 11)
    shop.settle(lambda: len(sent) == 3)
    assert time.monotonic() - begun >= kvs_writer.GATHER + 0.3
    assert kinds(sent) == [{"log"}, {"log"}, {"records", "rows"}]
    shop.quiet()
    assert len(sent) == 3, "one for all of them"


def test_who_is_patient_waits_from_its_own_coming_on(shop: KvsShop, monkeypatch: Any) -> None:
    """One that went with others leaves no timer behind that would send the next one alone."""
    monkeypatch.setattr(kvs_writer, "GATHER", 0.3)
    monkeypatch.setattr(kvs_writer, "LATER", 3600.0)
    shop.reopen()
    shop.create("bbb")
    assert isinstance(shop.store, KvsStore)
    sent = count_transactions(shop.store)
    said: List[Any] = []
    shop.store.commit("bbb", patient(1), said.append)
    shop.commit("bbb", 2)
    soon = time.monotonic() + 0.2
    shop.settle(lambda: time.monotonic() > soon)
    begun = time.monotonic()
    shop.store.commit("bbb", patient(3), said.append)
    shop.settle(lambda: len(said) == 2)
    assert time.monotonic() - begun >= 0.3
    assert kinds(sent) == [{"log"}, {"log"}]


def test_who_is_patient_does_not_wait_for_what_was_put_off(shop: KvsShop, monkeypatch: Any) -> None:
    monkeypatch.setattr(kvs_writer, "LATER", 3600.0)
    shop.reopen()
    shop.create("bbb")
    assert isinstance(shop.store, KvsStore)
    sent = count_transactions(shop.store)
    shop.commit("bbb", 1)
    said: List[Any] = []
    shop.store.commit("bbb", patient(2), said.append)
    shop.settle(lambda: said)
    assert kinds(sent) == [{"log"}, {"log"}]


def test_what_is_put_off_is_bounded(shop: KvsShop, monkeypatch: Any) -> None:
    monkeypatch.setattr(kvs_writer, "LATER", 3600.0)
    monkeypatch.setattr(kvs_writer, "_MOST_PUT_OFF", 1000)
    shop.reopen()
    shop.create("bbb")
    assert isinstance(shop.store, KvsStore)
    sent = count_transactions(shop.store)
    for number in range(1, 41):
        shop.commit("bbb", number)
        assert shop.store._writer._put_off_size < 1300
    assert {"records", "rows"} in kinds(sent) or {"log", "records", "rows"} in kinds(sent)
    assert len(sent) < 60
    assert all_rows(shop.store, "bbb", 3) == all_records(shop.store, "bbb", 3) == list(range(1, 41))


def test_records_and_rows_of_a_service_that_died_are_found_in_the_log(shop: KvsShop, monkeypatch: Any) -> None:
    monkeypatch.setattr(kvs_writer, "GATHER", 3600.0)
    monkeypatch.setattr(kvs_writer, "LATER", 3600.0)
    shop.reopen()
    shop.create("bbb")
    shop.commit("bbb", *range(1, 31))
    assert shop.near("bbb")
    for kind in ("records", "rows"):
        assert not shop.buckets("bbb", kind)
    for _ in range(3):
        shop.reopen(clean=False)
        assert shop.loaded(clean=False)["bbb"].seq == 30
        for step in (4, 100):
            assert all_rows(shop.store, "bbb", step) == all_records(shop.store, "bbb", step) == list(range(1, 31))
    shop.commit("bbb", 31)
    shop.loaded(clean=True)
    shop.commit("bbb", 32)
    assert all_rows(shop.store, "bbb", 7) == all_records(shop.store, "bbb", 7) == list(range(1, 33))
    assert shop.buckets("bbb", "records"), "they have keys of their own by now"


def kinds(sent: List[List[str]]) -> List[Set[str]]:
    """What each transaction is about."""
    return [{kind(key) for key in puts} for puts in sent]


def count_transactions(store: KvsStore) -> List[List[str]]:
    """The keys of each transaction that is sent from now on."""
    plain, sent = store._writer._transact, []

    def counting(puts: Any, sync: bool) -> Any:
        sent.append([put.key for put in puts])
        return plain(puts, sync)

    store._writer._transact = counting  # type: ignore[method-assign]
    return sent


def kind(key: str) -> str:
    return key.split(".")[2].partition("-")[0]
