# SPDX-License-Identifier: MIT
"""Ended ensembles are listed until they are purged, by age and by number; then the KVS has nothing of them."""

from __future__ import annotations

import time
from typing import Any, List

import pytest

from t.flux.processes import until
from t.flux.real_service import MOCK, serving

pytestmark = [pytest.mark.flux, pytest.mark.timeout(300)]

ONE = f"jobs: [{{name: a, command: 'true', {MOCK}}}]\nrules: [{{trigger: start, action: {{name: submit, label: a}}}}]"


def test_purge_by_number_and_by_age(flux_instance: Any) -> None:
    from ensemble.service.kvs_store import KvsStore

    with serving(flux_instance) as service:
        store = KvsStore(service.handle, lambda level, text: None)

        def listed() -> List[str]:
            return [one["id"] for one in service.ask("list")["ensembles"]]

        def removed(**keys: Any) -> List[str]:
            return [one["id"] for one in service.ask("purge", keys)["removed"]]

        ids = []
        for _ in range(4):
            ids.append(service.submit(ONE))
            until(lambda: service.ask("status", {"id": ids[-1]})["t_end"], "its end")
            until(lambda: service.ask("jobs", {"id": ids[-1]})["jobs"][0]["t_end"], "its row")
        active = service.submit(
            "jobs: [{name: a, command: sleep 600}]\nrules: [{trigger: start, action: {name: submit, label: a}}]"
        )
        assert listed() == [*ids, active]
        assert all(0 < sum(store.measure(id).values()) < 20_000 for id in ids)
        assert removed(keep=4) == []
        assert removed(keep=3) == ids[:1]
        assert removed(older_than=3600) == []
        ends = {one["id"]: one["t_end"] for one in service.ask("list")["ensembles"]}
        # between the ends of the second and the third
        middle = (ends[ids[1]] + ends[ids[2]]) / 2
        assert removed(older_than=time.time() - middle) == ids[1:2]
        assert listed() == [*ids[2:], active]
        for id in ids[:2]:
            assert sum(store.measure(id).values()) == 0
        service.ask("cancel", {"id": active})
        until(lambda: service.ask("status", {"id": active})["t_end"], "its end")
    with serving(flux_instance) as service:
        assert [one["id"] for one in service.ask("list")["ensembles"]] == [*ids[2:], active]
        assert [row["result"] for row in service.ask("jobs", {"id": ids[2]})["jobs"]] == ["success"]
        assert service.ask("log", {"id": ids[2]})["records"][-1]["state"] == "complete"
        assert len(service.ask("purge")["removed"]) == 3
        assert service.ask("list") == {"ensembles": []}
