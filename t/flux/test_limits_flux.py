# SPDX-License-Identifier: MIT
"""Every limit, in a real instance."""

from __future__ import annotations

from typing import Any, Iterator

import pytest

from t import limits
from t.flux.real_service import RealService, serving

pytestmark = [pytest.mark.flux, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def service(flux_instance: Any) -> Iterator[RealService]:
    with serving(flux_instance) as made:
        yield made


def test_there_is_a_case_for_each() -> None:
    limits.all_limits_are_there()


@pytest.mark.parametrize("limit", limits.HALT)
def test_it_halts_and_carries_on_with_a_raised_limit(service: RealService, limit: str) -> None:
    limits.halts_and_carries_on(service.ask, limit)


@pytest.mark.parametrize("limit", limits.WAIT)
def test_submissions_wait(service: RealService, limit: str) -> None:
    limits.submissions_wait(service.ask, limit)
