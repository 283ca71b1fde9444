# SPDX-License-Identifier: MIT
"""A disk under the KVS that refuses changes for a while: it is asked again and again, and that leaves nothing behind."""

# Without Flux nothing of this can be imported: the skip has to come first.

from __future__ import annotations

import errno
from typing import Any, Callable, List, Optional

import pytest

try:
    import flux  # noqa: F401
except ImportError as exc:
    pytest.skip(f"Flux tests: the bindings do not load ({exc})", allow_module_level=True)

from flux.core.watchers import TimerWatcher

from ensemble.service import kvs_disk
from ensemble.service.kvs_disk import Disk
from t.flux.kvs_shop import KvsShop

pytestmark = [pytest.mark.flux, pytest.mark.timeout(300)]


class Full(Disk):
    """A disk that is full the first times that it is asked."""

    full = 6

    def _flush(self, then: Callable[[Optional[OSError]], None]) -> None:
        error = OSError(errno.ENOSPC, "No space left on device") if self.full else None
        self.full = max(0, self.full - 1)
        self._note(error)
        then(error)


def test_many_tries_keep_one_watcher(shop: KvsShop, monkeypatch: Any) -> None:
    monkeypatch.setattr(kvs_disk, "_RETRY", (0.01, 0.02))

    def timers() -> int:
        # the test's own turns of the reactor have watchers of signals
        return sum(isinstance(watcher, TimerWatcher) for watcher in shop.handle._active_watchers)

    before = timers()
    told: List[Optional[str]] = []
    disk = Full(shop.handle, lambda level, text: None, told.append)
    disk.changed()
    shop.settle(lambda: len(told) == 2)
    assert (disk.full, told) == (0, ["No space left on device: is the disk of the instance's statedir full?", None])
    assert timers() == before + 1
    disk.close()
    assert timers() == before
