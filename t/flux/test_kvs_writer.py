# SPDX-License-Identifier: MIT
"""Which changes of the store in the KVS go into which transaction: what nobody waits for is gathered, and nothing overtakes."""

# Without Flux nothing of this can be imported: the skip has to come first.
# ruff: noqa: E402

from __future__ import annotations

from typing import Any, Iterator, List

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
    assert {key.split(".")[2] for key in sent[0]} == {"log"}, "records and rows wait on"
    assert all_rows(shop.store, "bbb", 3) == all_records(shop.store, "bbb", 3) == [1, 2, 3, 4], "and are seen"
    # nothing may overtake: with the log's lines the snapshot makes their records and rows go
    shop.store.commit("bbb", patient(5), lambda error: said.append(5))
    shop.wait(lambda done: (shop.store.snapshot("bbb", Snapshot(5, 5, {})), shop.store.end("bbb", None, done)))
    assert {key.split(".")[2] for puts in sent[1:] for key in puts} >= {"log", "records", "rows", "snapshot", "end"}
    assert said == [1, 2, 3, 4, 5]
    shop.reopen(clean=False)
    assert all_rows(shop.store, "bbb", 3) == all_records(shop.store, "bbb", 3) == [1, 2, 3, 4, 5]


def test_what_is_gathered_is_sent_after_a_moment(shop: KvsShop) -> None:
    shop.create("bbb")
    assert isinstance(shop.store, KvsStore)
    sent = count_transactions(shop.store)
    said: List[Any] = []
    for number in range(1, 11):
        shop.store.commit("bbb", patient(number), said.append)
    shop.settle(lambda: len(said) == 10)
    assert len(sent) == 1
    assert {key.split(".")[2] for key in sent[0]} == {"log", "records", "rows"}
    shop.commit("bbb", 11)
    shop.settle(lambda: len(sent) == 3)
    assert [{key.split(".")[2] for key in puts} for puts in sent[1:]] == [{"log"}, {"records", "rows"}]


def test_records_and_rows_of_a_service_that_died_are_found_in_the_log(shop: KvsShop, monkeypatch: Any) -> None:
    monkeypatch.setattr(kvs_writer, "GATHER", 3600.0)
    shop.reopen()
    shop.create("bbb")
    shop.commit("bbb", *range(1, 31))
    assert shop.buckets("bbb", "log")
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


def count_transactions(store: KvsStore) -> List[List[str]]:
    """The keys of each transaction that is sent from now on."""
    plain, sent = store._writer._transact, []

    def counting(puts: Any, sync: bool) -> Any:
        sent.append([put.key for put in puts])
        return plain(puts, sync)

    store._writer._transact = counting  # type: ignore[method-assign]
    return sent
