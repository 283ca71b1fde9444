# SPDX-License-Identifier: MIT
"""Stored events and snapshots: through JSON and back, and what is damaged or newer is refused with a sentence."""

from __future__ import annotations

import json
import math
from typing import Any, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.engine import events
from ensemble.engine import snapshot as snapshots
from ensemble.engine.engine import Engine
from ensemble.engine.events import (
    Acknowledged,
    ActionDone,
    Begin,
    Command,
    JobEvent,
    Key,
    Refused,
    TimerExpired,
    from_json,
    to_json,
)
from ensemble.engine.snapshot import restore, snapshot
from ensemble.errors import RecordError
from t.engine.harness import World, act, make_spec, rule

KEY = Key("ens", "start", 1, 0, 0)
ONE_OF_EACH = [
    Begin(1.5),
    JobEvent(2.0, 7, "submit", {"x": [1, {"y": None}]}, KEY),
    JobEvent(3.0, 1 << 62, "memo", {}),
    Acknowledged(2.0, KEY, 7),
    Refused(2.0, KEY, "a sentence"),
    ActionDone(2.0, 7, "kill"),
    ActionDone(2.0, 7, "cancel", "why not"),
    TimerExpired(2.0, "again"),
    Command(2.0, "resume", {"limits": {"max_jobs": 5}}),
]

times = st.floats(0, 4e9, allow_nan=False)
names = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="/"), max_size=20)
keys = st.builds(Key, names, names, st.integers(1), st.integers(0), st.integers(0))
jsonable = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
contexts = st.dictionaries(names, jsonable, max_size=3)
anything = st.one_of(
    st.builds(Begin, times),
    st.builds(JobEvent, times, st.integers(0, 2**64), names, contexts, st.none() | keys),
    st.builds(Acknowledged, times, keys, st.integers(0, 2**64)),
    st.builds(Refused, times, keys, names),
    st.builds(ActionDone, times, st.integers(0, 2**64), names, st.none() | names),
    st.builds(TimerExpired, times, names),
    st.builds(Command, times, names, contexts),
)


@given(anything)
def test_through_json_and_back(event: Any) -> None:
    again = from_json(json.loads(json.dumps(to_json(event), allow_nan=False)))
    assert again == event
    assert type(again) is type(event)


@pytest.mark.parametrize("event", ONE_OF_EACH)
def test_the_format_stands_in_the_record(event: Any) -> None:
    record = to_json(event)
    assert record[:2] == [events.FORMAT, type(event).__name__]
    with pytest.raises(RecordError, match="newer release"):
        from_json([events.FORMAT + 1, *record[1:]])


@pytest.mark.parametrize("event", ONE_OF_EACH)
def test_any_field_of_a_wrong_type_is_told(event: Any) -> None:
    record = json.loads(json.dumps(to_json(event)))
    optional = {"JobEvent": {6}, "ActionDone": {5}}.get(record[1], set())
    for place in range(len(record)):
        odd: List[Any] = [{}, [], "x", 1, None, True, math.nan]
        for value in odd:
            same = type(value) is type(record[place]) or (place == 2 and value == 1 and value is not True)
            sentence = record[1] == "ActionDone" and (place, value) == (5, "x")
            if (same and value == value) or (value is None and place in optional) or sentence:
                continue
            with pytest.raises(RecordError):
                from_json([*record[:place], value, *record[place + 1 :]])


@pytest.mark.parametrize(
    "record",
    [
        None, 5, "x", [], [1], {}, {"a": 1}, [1, "Begin"], [1, "Begin", 1.0, 2], [1, "Nothing", 1.0], [1, None, 1.0],
        [1, "Acknowledged", 1.0, "a/b/c", 7], [1, "Acknowledged", 1.0, "a/b/1/x/0", 7], [1, "Acknowledged", 1.0, None, 7],
        ["1", "Begin", 1.0], [0, "Begin", 1.0], [True, "Begin", 1.0], [1, ["Begin"], 1.0], [1, "JobEvent", 1.0],
        [1, "JobEvent", 1.0, 7, "submit", {}, "no key"], [1, "Begin", math.inf], [1, "Begin", 10**400],
    ],
)  # fmt: skip
def test_damaged_records(record: Any) -> None:
    with pytest.raises(RecordError):
        from_json(record)


@pytest.mark.parametrize("text", ["", "a", "a/b/1/0", "a/b/1/0/0/0", "a/b/x/0/0", "a/b/1/0/", "a/b/1.0/0/0"])
def test_no_key(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Key.parse(text)


SPEC = make_spec(
    [
        rule("start", act("submit", "a")),
        rule("metric", act("log", value="{mad.a.duration}"), name="median.a.duration", repetitions="unlimited"),
    ],
    [{"name": "a", "count": 9}],
    limits={"max_active": 3},
)


def state_half_way() -> Any:
    w = World(SPEC)
    w.run(until=15.0)
    return json.loads(json.dumps(snapshot(w.engine)))


def test_a_newer_snapshot_is_refused() -> None:
    with pytest.raises(RecordError, match="newer release"):
        restore(SPEC, {**state_half_way(), "format": snapshots.FORMAT + 1})


def test_a_snapshot_of_another_file_is_refused() -> None:
    state = state_half_way()
    others = [
        make_spec([rule("start", act("submit", "a"))]),
        make_spec([rule("start", act("submit", "b"))] * 2, ["b"]),
        make_spec([rule("start", act("submit", "a"), id="x"), rule("start", act("stop"))]),
    ]
    for other in others:
        with pytest.raises(RecordError):
            restore(other, state)


def test_each_part_of_a_snapshot_is_needed() -> None:
    state = state_half_way()
    for name in state:
        with pytest.raises(RecordError):
            restore(SPEC, {n: v for n, v in state.items() if n != name})


def places(value: Any, path: Any = ()) -> Any:
    """The path of every value within."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inner:
        yield from places(item, (*path, name))


def test_any_damage_of_a_snapshot_is_told_or_harmless() -> None:
    """Each value in turn is replaced; no exception but RecordError may come of it."""
    state = state_half_way()
    refused = 0
    for path in places(state):
        for odd in (None, "x", -1, [], {}, 1e400):
            copy = json.loads(json.dumps(state))
            if not path:
                copy = odd
            else:
                inner = copy
                for name in path[:-1]:
                    inner = inner[name]
                inner[path[-1]] = odd
            try:
                engine = restore(SPEC, copy)
            except RecordError:
                refused += 1
            else:
                assert isinstance(engine, Engine)
    assert refused > 300
