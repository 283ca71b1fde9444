# SPDX-License-Identifier: MIT
"""`explain` and `events` of the service: of ensembles that run, have ended, were quarantined; and what is no rule."""

from __future__ import annotations

import errno
import json
from typing import Any, Dict, List

import pytest

from ensemble.engine import signals
from ensemble.engine.engine import Engine
from ensemble.engine.events import Signal
from ensemble.service import explaining
from t.unit.fake_member import House

FILE = """
name: asked
jobs:
  - {name: a, command: x, count: 2}
  - {name: b, command: x}
rules:
  - {id: begin, trigger: start, action: {name: submit, label: a}}
  - id: many
    trigger: job-success
    name: a
    repetitions: unlimited
    actions: [{name: log, value: "after {event.job.id}"}, {name: submit, label: b}]
  - {id: more, trigger: metric, name: count.a.success, when: "> 5", action: {name: stop}}
  - {id: wait, trigger: signal, name: go, action: {name: submit, label: a}}
"""


@pytest.fixture
def house() -> House:
    return House()


def ask(house: House, rule: str, id: str = "asked") -> Dict[str, Any]:
    return house.ask("explain", {"id": id, "rule": rule}).answer


def begun(house: House) -> str:
    """Two jobs of a have ended well; those of b are pending."""
    id = house.submit(FILE)
    for number in (0, 1):
        house.member.run(id, house.member.submit(id, number))
    return id


def test_of_one_that_runs(house: House) -> None:
    begun(house)
    found = ask(house, "many")
    assert found["fired"] == 2
    assert [one["event"] for one in found["firings"]] == ["job-success a", "job-success a"]
    assert [one["did"][1] for one in found["firings"]] == ["submit b (1 job)"] * 2
    assert found["firings"][0]["did"][0].startswith("log: after ")
    assert found["ensemble"]["state"] == "running"
    assert ask(house, "more")["holds"] is False
    assert "waits for the signal go" in ask(house, "wait")["answer"]


def test_of_one_that_has_ended_it_is_the_same(house: House) -> None:
    id = begun(house)
    house.ask("cancel", {"id": id})
    for number in (2, 3):
        house.member.run(id, house.member.submit(id, number), 15)
    assert house.status(id)["state"] == "cancelled"
    assert id not in house.service._running
    found = ask(house, "many")
    assert (found["fired"], found["why"]) == (2, "ended")
    assert [one["did"][1] for one in found["firings"]] == ["submit b (1 job)"] * 2
    assert found["ensemble"]["state"] == "cancelled"
    assert "count.a.success is 2" in ask(house, "more")["answer"]


def test_a_rule_is_found_by_id_number_and_beginning(house: House) -> None:
    begun(house)
    assert ask(house, "2")["rule"] == "many"
    assert ask(house, "man")["rule"] == ask(house, "many")["rule"] == "many"
    assert ask(house, "4")["number"] == 4
    number, text = house.ask("explain", {"id": "asked", "rule": "m"}).refusal
    assert (number, "many, more" in text) == (errno.ENOENT, True)
    for wrong in ("5", "0", "mony", "x" * 200, ""):
        number, text = house.ask("explain", {"id": "asked", "rule": wrong}).refusal
        assert number == errno.ENOENT
        assert "begin, many, more, wait" in text
        assert ("did you mean 'many'?" in text) == (wrong == "mony")
    assert house.ask("explain", {"id": "nobody", "rule": "many"}).refusal[0] == errno.ENOENT


def test_of_one_that_was_quarantined(house: House, monkeypatch: Any) -> None:
    id = begun(house)
    monkeypatch.setattr(signals, "take", lambda engine, event: 1 / 0)
    house.member.tell(id, Signal(house.member.t, "go", {}, ""))
    assert house.status(id)["state"] == "failed"
    found = ask(house, "many")
    assert found["fired"] == 2
    assert found["ensemble"]["state"] == "failed"
    assert "Then its ensemble was quarantined: an error inside ensemble" in found["answer"]
    assert house.ask("events", {"id": id}).answer["broken"].startswith("an error inside ensemble")


def test_a_firing_is_found_in_a_long_log(house: House) -> None:
    id = begun(house)
    store = house.store
    last = store.records(id, 0, 10_000)[-1]
    long = [{"seq": last["seq"] + n, "t": last["t"] + n / 10, "type": "job"} for n in range(1, 5000)]
    store._records[id].extend(long)  # type: ignore[attr-defined]
    asked: List[Any] = []
    records = store.records

    def counted(*args: Any) -> Any:
        asked.append(args)
        return records(*args)

    store.records = counted  # type: ignore[method-assign]
    house.service._running[id].seq = long[-1]["seq"]
    found = ask(house, "many")
    assert [one["did"][1] for one in found["firings"]] == ["submit b (1 job)"] * 2
    assert len(asked) < 60


def test_records_that_are_gone(house: House) -> None:
    id = begun(house)
    house.store._records[id].clear()  # type: ignore[attr-defined]
    found = ask(house, "many")
    assert [(one["firing"], one["event"], one["did"]) for one in found["firings"]] == [(1, None, []), (2, None, [])]


def test_a_firing_that_did_much_is_cut(monkeypatch: Any) -> None:
    monkeypatch.setattr(explaining, "_MOST", 3)
    firing: Dict[str, Any] = {"firing": 1, "t": 1.0, "event": None, "did": []}
    records = [{"type": "rule", "rule": "r", "firing": 1, "text": "start"}]
    records += [{"type": "action", "rule": "r", "firing": 1, "text": str(n)} for n in range(5)]
    records += [
        {"type": "rule", "rule": "r", "firing": 2, "text": "later"},
        {"type": "log", "rule": "r", "text": "not its own"},
    ]
    explaining._fill(firing, "r", records)
    assert firing["event"] == "start"
    assert firing["did"] == ["0", "1", "2", "and 2 more"]


def test_events_in_pages(house: House) -> None:
    id = begun(house)
    first = house.ask("events", {"id": id, "max": 3}).answer
    assert first["given"]["text"] == FILE
    assert "submitter" not in first["given"]
    assert first["last"] == 3
    found, last = first["events"], first["last"]
    while True:
        page = house.ask("events", {"id": id, "after": last, "max": 3}).answer
        assert page["given"] is None
        if page["last"] == last:
            break
        found, last = found + page["events"], page["last"]
    assert found[0][1][1] == "Begin"
    assert found[0][2] == [f"{id}/begin/1/0/0", f"{id}/begin/1/1/0"]
    assert [number for number, _, _ in found] == sorted(number for number, _, _ in found)
    engine = Engine(house.service._running[id].engine.spec, id)
    assert engine.state == "running"
    assert len(json.dumps(found)) > 500


def test_what_an_answer_may_weigh(house: House, monkeypatch: Any) -> None:
    from ensemble.service import events

    monkeypatch.setattr(events, "_BYTES", 300)
    id = begun(house)
    page = house.ask("events", {"id": id}).answer
    assert 0 < page["last"] < 8
