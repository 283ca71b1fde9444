# SPDX-License-Identifier: MIT
"""What tests of the Flux member and of the store in the KVS share. Nothing of Flux is imported before one of them asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator

import pytest

if TYPE_CHECKING:
    from t.contract.flux_driver import FluxDriver
    from t.flux.kvs_shop import KvsShop
    from t.flux_instance import FluxInstance


@pytest.fixture
def driver(flux_instance: FluxInstance) -> Iterator[FluxDriver]:
    """A member in the instance of the file, which has no jobs when the test has ended."""
    from t.contract.flux_driver import FluxDriver

    made = FluxDriver(instance=flux_instance)
    yield made
    made.close()
    assert not made.reentered


@pytest.fixture
def shop(flux_instance: FluxInstance) -> Iterator[KvsShop]:
    """A store in the KVS of that instance, which is empty when the test has ended."""
    from t.flux.kvs_shop import KvsShop

    yield from KvsShop.opened(flux_instance)
