# SPDX-License-Identifier: MIT
"""Several members as one: nothing of the contract is left to the base class, which would answer for no queue at all."""

from __future__ import annotations

from ensemble.members.base import Member
from ensemble.members.several import Several


def test_every_word_of_the_contract_is_passed_on() -> None:
    words = [name for name, value in vars(Member).items() if callable(value) and not name.startswith("_")]
    assert {"perform", "recover", "hold", "hear", "where", "scaler"} <= set(words)
    assert [name for name in words if name not in vars(Several)] == []
