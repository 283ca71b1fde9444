# SPDX-License-Identifier: MIT
"""Every limit, on the local queue."""

from __future__ import annotations

from typing import Any, Callable, Dict

import pytest
from hosts import Client, Host

from t import limits


@pytest.fixture
def ask(start: Callable[..., Host], connect: Callable[[Host], Client]) -> limits.Ask:
    client = connect(start())

    def ask(endpoint: str, payload: Dict[str, Any]) -> Dict[str, Any]:
        answer = client.call(endpoint, payload)
        if "error" in answer:
            raise OSError(answer["errno"], answer["error"])
        found: Dict[str, Any] = answer["ok"]
        return found

    return ask


@pytest.mark.parametrize("limit", limits.HALT)
def test_it_halts_and_carries_on_with_a_raised_limit(ask: limits.Ask, limit: str) -> None:
    limits.halts_and_carries_on(ask, limit)


@pytest.mark.parametrize("limit", limits.WAIT)
def test_submissions_wait(ask: limits.Ask, limit: str) -> None:
    limits.submissions_wait(ask, limit)
