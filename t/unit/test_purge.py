# SPDX-License-Identifier: MIT
"""What a purge removes, and what it never removes."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

import pytest

from ensemble.errors import BadRequest
from ensemble.service.purge import purgeable
from ensemble.service.store import Done, MemoryStore
from t.unit.fake_member import CHAIN, THREE, House

NOW = 1000.0


def one(id: str, state: str, t_end: Optional[float]) -> Dict[str, Any]:
    return {"id": id, "name": "n", "state": state, "t_end": t_end}


ALL = [
    one("old", "complete", 100.0),
    one("new", "failed", 990.0),
    one("mid", "cancelled", 500.0),
    one("halted", "halted", 200.0),
    one("damaged", "failed", None),
    one("running", "running", None),
    one("paused", "paused", None),
    one("stopping", "stopping", None),
]


@pytest.mark.parametrize(
    ("keys", "gone"),
    [
        ({}, ["old", "mid", "new"]),
        ({"older_than": 400.0}, ["old", "mid"]),
        ({"older_than": 500.0}, ["old", "mid"]),
        ({"older_than": 501.0}, ["old"]),
        ({"keep": 1}, ["old", "mid"]),
        ({"keep": 3}, []),
        ({"keep": 9}, []),
        ({"keep": 1, "older_than": 600.0}, ["old"]),
    ],
)
def test_which(keys: Dict[str, Any], gone: List[str]) -> None:
    assert [summary["id"] for summary in purgeable(ALL, NOW, **keys)] == gone


def test_named_ones() -> None:
    ended = [summary for summary in ALL if summary["id"] in ("halted", "damaged", "new")]
    assert {summary["id"] for summary in purgeable(ended, NOW, named=True)} == {"halted", "damaged", "new"}
    for summary in ALL[5:]:
        with pytest.raises(BadRequest, match="has not ended"):
            purgeable([*ended, summary], NOW, named=True)


class Stubborn(MemoryStore):
    """Forgets only those whose time has come."""

    def remove(self, id: str, done: Done) -> None:
        done("it is stuck")


def ended(house: House) -> str:
    id = house.submit(CHAIN)
    house.ask("cancel", {"id": id})
    house.member.refuse(id)
    assert house.status(id)["state"] == "cancelled"
    return id


def test_the_service_forgets_it() -> None:
    house = House()
    gone, stays = ended(house), house.submit(THREE)
    (summary,) = [one for one in house.ask("list").answer["ensembles"] if one["id"] == gone]
    assert house.ask("purge", {"ids": [stays]}).refusal[1].startswith(f"ensemble {stays} (hello) has not ended")
    assert house.ask("purge", {"ids": ["nobody"]}).refusal[1].startswith("no ensemble has")
    assert house.ask("purge").answer == {"removed": [summary]}
    assert [one["id"] for one in house.ask("list").answer["ensembles"]] == [stays]
    assert [stored.id for stored in house.store.load()] == [stays]
    assert house.ask("purge").answer == {"removed": []}


def test_a_halted_one_goes_only_by_its_name() -> None:
    house = House()
    id = house.submit("limits: {max_jobs: 2}" + THREE)
    for number in (0, 1):
        house.member.run(id, house.member.submit(id, number))
    assert house.status(id)["state"] == "halted"
    assert house.ask("purge").answer == {"removed": []}
    watch = house.watch(id)
    assert house.ask("purge", {"ids": [id, id]}).answer["removed"][0]["state"] == "halted"
    assert house.member.closed == [id]
    assert watch.errors
    assert house.ask("resume", {"id": id, "limits": {"max_jobs": 9}}).errors


def test_one_that_cannot_be_removed_stays() -> None:
    house = House(Stubborn())
    id = ended(house)
    assert house.ask("purge").refusal[1] == "1 of 1 ensembles could not be removed: it is stuck"
    assert house.status(id)["state"] == "cancelled"


def test_nothing_is_removed_while_the_instance_goes_down() -> None:
    house = House()
    id = ended(house)
    house.service.freeze("the end is near")
    assert house.ask("purge").refusal
    assert house.status(id)
