# SPDX-License-Identifier: MIT
"""Journals of a real Flux instance, replayed against the actions that they gave: a change in semantics shows here.

`data/NAME.json` holds a file as its user wrote it, and the events that the Flux member delivered, each with what the
engine answered. They were recorded with flux-core 0.88. Where a change is meant, `python -m t.engine.test_recorded`
writes the answers anew, and the difference is there to be read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

import pytest

from ensemble.engine.actions import Finished, Submit
from ensemble.engine.engine import Engine
from ensemble.engine.events import JobEvent, from_json
from ensemble.engine.snapshot import restore, snapshot
from ensemble.spec.load import load

DATA = Path(__file__).with_name("data")
NAMES = ("burst", "cancels", "everything-heard", "failures", "refusals")


def read(name: str) -> Dict[str, Any]:
    found: Dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    return found


def engine_of(journal: Dict[str, Any]) -> Engine:
    return Engine(load(journal["file"], "recorded.yaml").spec, journal["id"])


def plain(answer: List[Any]) -> List[Any]:
    """Actions as JSON has them: the type, then its fields; a key as its text."""
    told = []
    for action in answer:
        fields = list(action)
        if isinstance(action, Submit):
            fields[0] = str(action.key)
        told.append([type(action).__name__, *fields])
    return list(json.loads(json.dumps(told, allow_nan=False)))


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_journal_gives_the_actions_it_gave(name: str) -> None:
    journal = read(name)
    engine = engine_of(journal)
    for number, (event, answer) in enumerate(journal["steps"]):
        assert plain(engine.handle(from_json(event))) == answer, f"event {number} of {name}: {event}"
    assert engine.final == journal["final"]
    assert dict(engine.tally.counts) == journal["counts"]


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_journal_told_twice_gives_the_same_jobs_and_firings(name: str) -> None:
    """As after a lost connection: each event of a job once more at once, and the job's past at its end."""
    journal = read(name)
    engine = engine_of(journal)
    past: Dict[int, List[Any]] = {}
    out: List[Any] = []
    for record, _ in journal["steps"]:
        event = from_json(record)
        again: List[Any] = []
        if isinstance(event, JobEvent):
            past.setdefault(event.id, []).append(event)
            again = past[event.id] if event.name in ("start", "finish") else [event]
        for one in [event, *again]:
            out += engine.handle(one)
            engine = restore(engine.spec, json.loads(json.dumps(snapshot(engine))))
    first = [action for _, answer in journal["steps"] for action in answer]
    for kind in (Submit, Finished):
        assert plain([a for a in out if isinstance(a, kind)]) == [a for a in first if a[0] == kind.__name__]
    fired = [a[3]["rule"] for a in first if a[0] == "Record" and a[2] == "rule"]
    assert [a.data["rule"] for a in out if type(a).__name__ == "Record" and a.type == "rule"] == fired
    assert engine.final == journal["final"]
    assert dict(engine.tally.counts) == journal["counts"]


def test_every_recording_is_replayed() -> None:
    assert sorted(path.stem for path in DATA.glob("*.json")) == sorted(NAMES)


def write() -> None:
    """The answers as they are now."""
    for name in NAMES:
        journal = read(name)
        engine = engine_of(journal)
        steps = [json.dumps([event, plain(engine.handle(from_json(event)))]) for event, _ in journal["steps"]]
        head = {"id": journal["id"], "file": journal["file"], "final": engine.final, "counts": engine.tally.counts}
        lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
        text = "\n".join(["{", *lines, ' "steps": [', "  " + ",\n  ".join(steps), " ]", "}", ""])
        (DATA / f"{name}.json").write_text(text)


if __name__ == "__main__":
    write()
