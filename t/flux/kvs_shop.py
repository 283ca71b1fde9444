# SPDX-License-Identifier: MIT
"""A store in the KVS of a real instance, for tests. Imports flux."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, Iterator, List, Tuple

from ensemble.service.kvs_store import KvsStore
from ensemble.service.store import Store
from t.unit.store_promise import Shop

PATIENCE = 60.0


class KvsShop(Shop):
    def __init__(self, instance: Any) -> None:
        import flux

        self.handle = flux.Flux(instance.uri)
        self.logged: List[Tuple[int, str]] = []
        self.store: Store = self._open()

    @classmethod
    def opened(cls, instance: Any) -> Iterator[KvsShop]:
        """For a fixture: an empty one, and empty it is left."""
        shop = cls(instance)
        yield shop
        shop.store.close()
        shop.put("ensemble", None)

    def _open(self) -> KvsStore:
        return KvsStore(self.handle, lambda level, text: self.logged.append((level, text)))

    def reopen(self, clean: bool = True) -> Store:
        if clean:
            self.store.close()
        self.store = self._open()
        list(self.store.load())
        return self.store

    def settle(self, condition: Callable[[], Any]) -> None:
        from flux.core.inner import lib

        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, "it does not happen"
            self.handle.reactor_run(flags=lib.FLUX_REACTOR_NOWAIT)
            time.sleep(0.0005)

    def quiet(self) -> None:
        """Wait until nothing is on its way, nor put off."""
        assert isinstance(self.store, KvsStore)
        writer = self.store._writer
        self.settle(lambda: not (writer._sent or writer._put_off or writer._waiting))

    def buckets(self, id: str, kind: str) -> Dict[str, List[str]]:
        """The directories of a kind of line, and the names in each."""
        assert isinstance(self.store, KvsStore)
        path = f"ensemble.{id}.{kind}"
        names = sorted(self.store._list(path), key=int)
        return {name: sorted(self.store._list(f"{path}.{name}"), key=int) for name in names}

    def near(self, id: str) -> List[int]:
        """The segments of the log that lie in the ensemble's own directory."""
        assert isinstance(self.store, KvsStore)
        return sorted(int(name[4:]) for name in self.store._list(f"ensemble.{id}") if name.startswith("log-"))

    def put(self, key: str, value: Any) -> None:
        """Write a key as it stands there; None unlinks it."""
        from flux.core.inner import raw
        from flux.kvs import KVSTxn

        txn = KVSTxn(self.handle)
        if value is None:
            txn.unlink(key)
        else:
            data = value.encode()
            raw.flux_kvs_txn_put_raw(txn.txn, 0, key.encode(), data, len(data))
        txn.commit()
