# SPDX-License-Identifier: MIT
"""`replay`: the log of a service against its own rules and against others, and how that is shown."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest

from ensemble.cli.replay import lines
from ensemble.engine.events import Signal
from ensemble.errors import NotFound, UsageError, service_error
from ensemble.service import replay as replaying
from ensemble.service import replay_file
from ensemble.service.client import Client
from ensemble.service.replay import Log, fetch, replay
from ensemble.spec.load import load
from t.unit.fake_member import T0, House

FILE = """
name: asked
jobs:
  - {name: a, command: x, count: 2}
  - {name: b, command: x}
rules:
  - {id: begin, trigger: start, action: {name: submit, label: a}}
  - {id: many, trigger: job-success, name: a, repetitions: unlimited, action: {name: submit, label: b}}
  - {id: wait, trigger: signal, name: go, action: {name: submit, label: b, count: 2}}
"""
OTHER = """
name: other
jobs:
  - {name: a, command: x, count: 5}
rules:
  - {id: begin, trigger: start, action: {name: submit, label: a}}
  - {id: many, trigger: job-success, name: a, repetitions: 1, action: {name: log, value: "x"}}
  - {id: alloc, trigger: job-alloc, action: {name: log, value: "x"}}
  - {id: node, trigger: resource-down, action: {name: log, value: "x"}}
  - {id: bus, trigger: signal, topic: "some.*", action: {name: log, value: "x"}}
"""


class Direct(Client):
    """A client of a house."""

    member = "fake"

    def __init__(self, house: House) -> None:
        self.house = house
        self.asked: List[str] = []

    def call(self, endpoint: str, payload: Optional[Dict[str, Any]] = None, timeout: float = 1.0) -> Dict[str, Any]:
        self.asked.append(endpoint)
        reply = self.house.ask(endpoint, payload)
        if reply.errors:
            raise service_error(*reply.errors[0])
        return json.loads(json.dumps(reply.answer))  # type: ignore[no-any-return]

    def stream(self, endpoint: str, payload: Any = None, tick: float = 0.25) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        return


def log(ended: bool = True, house: Optional[House] = None) -> Log:
    house = house or House()
    id = house.submit(FILE)
    for number in (0, 1):
        house.member.run(id, house.member.submit(id, number))
    house.member.tell(id, Signal(house.member.t, "go", {}, ""))
    if ended:
        for number in range(2, 6):
            house.member.run(id, house.member.submit(id, number))
        assert house.status(id)["state"] == "complete"
    return fetch(Direct(house), "asked")


def other(text: str = OTHER) -> Any:
    return load(text, "other.yaml").spec


@pytest.mark.parametrize("ended", [True, False])
def test_against_its_own_rules_it_is_the_same(ended: bool) -> None:
    found = replay(log(ended))
    assert found["check"] == {"same": True, "firings": 4, "events": found["events"], "differences": []}
    assert found["own"]
    assert [(rule["rule"], rule["firings"]) for rule in found["rules"]] == [("begin", 1), ("many", 2), ("wait", 1)]
    assert found["rules"][1]["did"] == ["submit b (2 jobs in 2 times)"]
    assert [group["recorded"] for group in found["groups"]] == [2, 4]
    assert (found["end"] is not None) == ended
    assert ("the run has not ended" in str(found["notes"])) != ended
    assert json.loads(json.dumps(found)) == found


def test_in_pages_of_any_size(monkeypatch: Any) -> None:
    whole = replay(log())
    monkeypatch.setattr(replaying, "_PAGE", 3)
    assert replay(log())["check"] == whole["check"]


def test_a_difference_is_told() -> None:
    one = log()
    one.fired[1]["t"] += 5
    one.events[0][2].append("asked/begin/1/7/0")
    found = replay(one)
    assert not found["check"]["same"]
    assert len(found["check"]["differences"]) == 2
    assert "event 2 (Begin): recorded" in found["check"]["differences"][0]
    assert "rule 'many' fired (1)" in found["check"]["differences"][1]
    del one.fired[-1]
    assert "3 firings were recorded, and now there are 4" in replay(one)["check"]["differences"]
    one.events[3][1] = [1, "Nonsense"]
    assert "event 5 (Nonsense) cannot be taken" in str(replay(one)["check"]["differences"])
    assert "The replay is NOT what was recorded:" in lines(replay(one))


def test_records_that_are_gone_are_not_compared() -> None:
    one = log()
    one.first_record, one.fired = 50, one.fired[2:]
    found = replay(one)
    assert found["check"]["same"]
    assert found["check"]["firings"] == 2


def test_a_log_without_its_beginning() -> None:
    house = House()
    log(house=house)
    (id,) = house.service._stored
    house.store._events[id].popleft()  # type: ignore[attr-defined]
    house.store._events[id].popleft()  # type: ignore[attr-defined]
    with pytest.raises(NotFound, match="nothing before event 3 of them is there"):
        fetch(Direct(house), id)
    with pytest.raises(NotFound):
        fetch(Direct(house), "nobody")


def test_against_other_rules() -> None:
    found = replay(log(), other(), "other.yaml")
    assert found["check"] is None
    assert not found["own"]
    rules = {rule["rule"]: rule for rule in found["rules"]}
    assert list(rules) == ["begin", "many", "alloc", "node", "bus", "wait"]
    assert rules["begin"]["recorded"] == {"firings": 1, "first": T0, "last": T0, "same": True}
    assert (rules["many"]["firings"], rules["many"]["recorded"]["firings"]) == (1, 2)
    assert (rules["alloc"]["firings"], rules["alloc"]["recorded"]) == (0, None)
    assert (rules["wait"]["firings"], rules["wait"]["recorded"]["firings"]) == (None, 1)
    assert found["groups"] == [
        {"group": "a", "would": 5, "unknown": 0, "recorded": 2},
        {"group": "b", "would": None, "unknown": 0, "recorded": 4},
    ]
    assert found["end"] is None
    assert next((one["rule"], one["recorded"]) for one in found["timeline"]) == ("begin", T0)
    notes = "\n".join(found["notes"])
    assert "the events of 4 jobs of b are left out: the other rules know no such group" in notes
    assert "3 of the 5 jobs of a that the rules would have submitted have no events: the run has submitted 2" in notes
    assert "events 'alloc' of jobs were not recorded" in notes
    assert "changes of nodes were not recorded" in notes
    assert "events of the topic some.* were not recorded" in notes
    text = "\n".join(lines(found, timeline=True))
    assert "against other.yaml" in text
    assert "Nothing was carried out" in text
    assert "would not have ended" in text


def test_it_fits_a_terminal_of_80_columns(monkeypatch: Any) -> None:
    found = replay(log(), other(), "other.yaml")
    monkeypatch.delenv("COLUMNS", raising=False)
    assert max(map(len, lines(found, timeline=True))) > 80
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, lines(found, timeline=True))) <= 80
    assert max(map(len, lines(replay(log(), None, None), timeline=True))) <= 80


def test_what_the_run_did_not_look_for() -> None:
    text = OTHER.replace("count: 5}", "count: 5, metrics: {loss: {regex: 'loss=(.*)'}, x: {}}}")
    assert "a.loss has no values here" in str(replay(log(), other(text), "other.yaml")["notes"])


def test_an_end_that_would_have_come_earlier() -> None:
    text = (
        OTHER.split("  - {id: alloc")[0]
        + "  - {id: stop, trigger: job-success, action: {name: terminate, status: failure}}\n"
    )
    found = replay(log(), other(text.replace("count: 5", "count: 2")), "other.yaml")
    assert found["end"]["state"] == "failed"
    assert "would have ended failed: terminated by rule 'stop'" in "\n".join(lines(found))


def test_other_versions_and_quarantines_are_told() -> None:
    one = log()
    one.given["version"] = "0.0.1"
    one.broken = "an error inside ensemble"
    notes = str(replay(one)["notes"])
    assert "version 0.0.1 ran it" in notes
    assert "the run was quarantined" in notes


def test_what_became_of_the_queue_is_a_fact_for_all_rules() -> None:
    house = House()
    grows = FILE.replace("rules:\n", "rules:\n  - {trigger: start, action: {name: grow}}\n", 1)
    assert grows != FILE
    id = house.submit(grows)
    house.member.advance(0.0)
    waits = "\n  - {id: told, trigger: grow-fail, action: {name: log, value: x}}"
    found = replay(fetch(Direct(house), id), load(grows.rstrip() + waits, "f.yaml", can=None).spec, "other.yaml")
    assert "told" in [one["rule"] for one in found["timeline"]]


def test_the_command(run: Any, serve: Any, tmp_path: Any) -> None:
    one = log()
    events = {
        "events": one.events,
        "last": one.events[-1][0],
        "ensemble": one.summary,
        "broken": None,
        "given": one.given,
    }
    none = {**events, "events": [], "given": None}

    def paged(payload: Dict[str, Any]) -> Dict[str, Any]:
        return events if not payload.get("after") else none

    def records(payload: Dict[str, Any]) -> Dict[str, Any]:
        return {"records": [] if payload["since"] else one.fired, "last": 0}

    one.fired[0]["seq"] = 1
    serve(events=paged, log=records)
    done = run("replay", "asked")
    assert done.status == 0, done.err
    assert "The replay is what was recorded: the same 4 firings" in done.out
    assert json.loads(run("replay", "asked", "--json").out)["check"]["same"]
    (tmp_path / "other.yaml").write_text(OTHER)
    done = run("replay", "asked", "--rules", str(tmp_path / "other.yaml"), "--timeline")
    assert done.status == 0
    assert "RECORDED" in done.out
    assert run("replay", "asked", "--rules", "no-such.yaml").status == 2
    (tmp_path / "faulty.yaml").write_text("jobs: []\n")
    assert run("replay", "asked", "--rules", str(tmp_path / "faulty.yaml")).status == 2
    one.fired.pop()
    assert run("replay", "asked").status == 1


def test_a_service_that_does_not_know_it(run: Any, serve: Any) -> None:
    serve(events=NotFound("no ensemble has the id or name 'x'", errno.ENOENT))
    assert run("replay", "x").status == 1


def test_a_run_that_was_saved(run: Any, tmp_path: Path, runtime_dir: Any) -> None:
    one, path = log(), tmp_path / "run.jsonl"
    replay_file.save(one, path)
    again = replay_file.read(path)
    assert replay(again) == replay(one)
    assert replay(again, other(), "o.yaml") == replay(one, other(), "o.yaml")
    assert json.loads(run("replay", "--events", str(path), "--json").out)["check"]["same"]
    assert run("replay", "--events", str(path), "--save", str(tmp_path / "copy")).status == 0
    assert (tmp_path / "copy").read_text() == path.read_text()
    done = run("replay", "--events", str(path), "--save", str(path))
    assert done.status == 2
    assert "cannot be written: File exists" in done.err
    for words in (("replay",), ("replay", "x", "--events", str(path)), ("replay", "--events", str(tmp_path / "none"))):
        assert run(*words).status == 2


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "x", '{"format": 1}', '{"format": "x"}', '{"format": 1, "ensemble": {"id": 1}, "given": 5}'],
)
def test_a_file_that_is_none_of_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "it").write_text(text)
    with pytest.raises(UsageError, match=r"is no file that `replay ID --save FILE` has written$"):
        replay_file.read(tmp_path / "it")


def test_a_newer_file(tmp_path: Path) -> None:
    (tmp_path / "it").write_text('{"format": 99}')
    with pytest.raises(UsageError, match="written by a newer release, in format 99"):
        replay_file.read(tmp_path / "it")
