# SPDX-License-Identifier: MIT
"""The JSON Schema: the examples fit it, what is wrong does not, and it says what the loader says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
import yaml

from ensemble.spec.models import ACTIONS, NOT_YET, TRIGGERS
from ensemble.spec.schema import schema

TOP = Path(__file__).resolve().parents[2]
FILES = [
    *sorted((TOP / "examples").glob("*.yaml")),
    *sorted(Path(__file__).with_name("data").glob("predecessor-[bhm]*.yaml")),
]
TYPES: Dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def complaints(value: Any, part: Any, whole: Dict[str, Any], at: str = "$") -> Iterator[str]:
    """What does not fit, for the words of JSON Schema that ours uses; any other word fails the test."""
    if isinstance(part, bool):
        if not part:
            yield f"{at}: not allowed"
        return
    for word, rule in part.items():
        if word == "$ref":
            yield from complaints(value, whole["$defs"][rule.rsplit("/", 1)[1]], whole, at)
        elif word == "type":
            kinds = rule if isinstance(rule, list) else [rule]
            if not any(is_type(value, kind) for kind in kinds):
                yield f"{at}: {value!r} is no {kinds}"
        elif word == "enum":
            if value not in rule:
                yield f"{at}: {value!r} is none of {rule}"
        elif word == "const":
            if value != rule:
                yield f"{at}: {value!r} is not {rule!r}"
        elif word == "required":
            yield from (f"{at}: no {key}" for key in rule if isinstance(value, dict) and key not in value)
        elif word == "properties":
            for key in rule.keys() & value.keys() if isinstance(value, dict) else ():
                yield from complaints(value[key], rule[key], whole, f"{at}.{key}")
        elif word == "additionalProperties":
            for key in value.keys() - part.get("properties", {}).keys() if isinstance(value, dict) else ():
                yield from complaints(value[key], rule, whole, f"{at}.{key}")
        elif word == "propertyNames":
            for key in value if isinstance(value, dict) else ():
                yield from complaints(key, rule, whole, f"{at}.{key}")
        elif word == "items":
            for index, item in enumerate(value if isinstance(value, list) else ()):
                yield from complaints(item, rule, whole, f"{at}[{index}]")
        elif word in ("minimum", "maximum"):
            if isinstance(value, (int, float)) and (value < rule if word == "minimum" else value > rule):
                yield f"{at}: {value} is beyond {rule}"
        elif word in ("minItems", "minLength"):
            if isinstance(value, list if word == "minItems" else str) and len(value) < rule:
                yield f"{at}: too short"
        elif word == "maxItems":
            if isinstance(value, list) and len(value) > rule:
                yield f"{at}: too long"
        elif word in ("minProperties", "maxProperties"):
            if isinstance(value, dict) and (len(value) < rule if word == "minProperties" else len(value) > rule):
                yield f"{at}: {len(value)} keys"
        elif word == "maxLength":
            if isinstance(value, str) and len(value) > rule:
                yield f"{at}: too long"
        elif word == "pattern":
            if isinstance(value, str) and not re.search(rule, value):
                yield f"{at}: {value!r} does not match {rule}"
        elif word in ("anyOf", "oneOf"):
            fitting = sum(not any(complaints(value, one, whole, at)) for one in rule)
            if fitting == 0 or (word == "oneOf" and fitting > 1):
                yield f"{at}: {value!r} fits {fitting} of {word}"
        elif word == "allOf":
            for one in rule:
                yield from complaints(value, one, whole, at)
        elif word == "not":
            if not any(complaints(value, rule, whole, at)):
                yield f"{at}: {value!r} is what it must not be"
        elif word == "if":
            branch = "else" if any(complaints(value, rule, whole, at)) else "then"
            yield from complaints(value, part.get(branch, True), whole, at)
        else:
            assert word in ("then", "else", "$schema", "$defs", "title", "description", "default"), word


def is_type(value: Any, kind: str) -> bool:
    if kind in ("number", "integer"):
        return isinstance(value, int if kind == "integer" else (int, float)) and not isinstance(value, bool)
    return isinstance(value, TYPES[kind])


def found(value: Any) -> List[str]:
    whole = schema()
    return list(complaints(value, whole, whole))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_that_load_fit(path: Path) -> None:
    assert found(yaml.safe_load(path.read_text())) == []


def good() -> Dict[str, Any]:
    return {
        "jobs": [{"name": "a", "command": "echo"}],
        "rules": [{"trigger": "start", "action": {"name": "submit", "label": "a"}}],
    }


@pytest.mark.parametrize("fail", [0.1, "5%", ["5%", {"rate": "x > 2", "exit": 3}], {"rate": 0.5, "signal": "KILL"}])
def test_what_simulate_takes_fits(fail: Any) -> None:
    told = {"loss": "x + 1", "score": 5, "more": {"value": 1, "noise": "normal(0, 1)", "every": "1m"}}
    groups = {"a": {"duration": "lognormal(60, 15)", "fail": fail, "metrics": told}}
    assert found({**good(), "simulate": {"nodes": 2, "groups": groups, "signals": [{"name": "x", "at": "5m"}]}}) == []


def test_what_a_user_may_write_besides_fits() -> None:
    file = good()
    file["rules"] += [
        {"trigger": "heartbeat", "every": "5s", "action": {"name": "stop", "repetitions": "unlimited", "backoff": 2}},
        {"trigger": "idle", "repetitions": "unlimited", "actions": [{"name": "log", "value": 5}]},
        {"trigger": "metric", "name": "count.a.success", "when": "> 5", "action": {"name": "terminate"}},
    ]
    file["jobs"] += [
        {"name": "b", "command": "x", "retries": retries}
        for retries in (
            2,
            {"max": 2},
            {"max": 1, "causes": "fail", "backoff": "30s"},
            {"max": 1, "causes": [3, "exec"]},
        )
    ]
    file["rules"] += [
        {"trigger": "job-retry", "action": {"name": "cancel", "job": "event"}},
        {"trigger": "job-submit", "action": {"name": "urgency", "label": "all", "value": 0, "state": "pending"}},
    ]
    file["rules"] += [
        {"trigger": "job-fail", "when": "event.job.exit_code == 3", "keep_alive": True, "action": {"name": "stop"}},
        {"trigger": "idle", "action": {"name": "submit", "label": "a", "count": "var.n * 2", "duration": "var.t"}},
        {"trigger": "idle", "action": {"name": "set", "label": "n", "value": "var.n + 1"}},
    ]
    file["variables"] = {"n": 1, "t": 0.5, "phase": "warm", "done": False, "best": None}
    file["failures"] = "10%"
    file["limits"] = {"max_failures": "5%", "duration": "1h"}
    assert found(file) == []


BAD = [
    ("jobs", None), ("rules", None), ("jobs", []), ("rules", []), ("nam", "x"), ("name", "a b"), ("failures", "some"),
    ("limits", {"max_jobs": 0}), ("limits", {"max_job": 1}), ("logging", {"debug": "yes"}),
    ("jobs", [{"name": "a"}]), ("jobs", [{"name": "a", "command": "x", "script": "y"}]), ("jobs", [{"command": "x"}]),
    ("jobs", [{"name": "all", "command": "x"}]), ("jobs", [{"name": "1", "command": "x"}]),
    ("jobs", [{"name": "a", "command": "x", "count": 0}]), ("jobs", [{"name": "a", "command": "x", "exclusive": "yes"}]),
    ("rules", [{"trigger": "start"}]), ("rules", [{"action": {"name": "stop"}}]),
    ("rules", [{"trigger": "strat", "action": {"name": "stop"}}]),
    ("rules", [{"trigger": "start", "action": {"name": "stop"}, "actions": [{"name": "stop"}]}]),
    ("rules", [{"trigger": "start", "actions": []}]),
    ("rules", [{"trigger": "start", "actions": [{"name": "stop", "repetitions": 2}]}]),
    ("rules", [{"trigger": "start", "repetitions": None, "action": {"name": "stop"}}]),
    ("rules", [{"trigger": "start", "action": {"name": "submit"}}]),
    ("rules", [{"trigger": "start", "action": {"name": "stop", "count": 1}}]),
    ("rules", [{"trigger": "start", "when": 3, "action": {"name": "stop"}}]),
    ("rules", [{"trigger": "start", "when": "> 3", "action": {"name": "stop"}}]),
    ("rules", [{"trigger": "start", "when": "3", "action": {"name": "stop"}}]),
    ("rules", [{"trigger": "start", "keep_alive": "yes", "action": {"name": "stop"}}]),
    ("rules", [{"trigger": "start", "action": {"name": "submit", "label": "a", "count": 0}}]),
    ("rules", [{"trigger": "start", "action": {"name": "submit", "label": "a", "urgency": True}}]),
    ("rules", [{"trigger": "start", "action": {"name": "set", "label": "n"}}]),
    ("variables", {"2n": 1}), ("variables", {"n": [1]}), ("variables", []),
    ("rules", [{"trigger": "metric", "action": {"name": "stop"}}]),
    ("rules", [{"trigger": "timer", "action": {"name": "stop"}}]),
    ("rules", [{"trigger": "start", "after": 5, "action": {"name": "stop"}}]),
    ("rules", [{"trigger": "start", "every": 5, "action": {"name": "stop"}}]),
    ("jobs", [{"name": "a", "command": "x", "retries": -1}]), ("jobs", [{"name": "a", "command": "x", "retries": {}}]),
    ("jobs", [{"name": "a", "command": "x", "retries": {"max": 1, "causes": ["exit"]}}]),
    ("jobs", [{"name": "a", "command": "x", "retries": {"max": 1, "causes": 0}}]),
    ("rules", [{"trigger": "job-start", "action": {"name": "cancel"}}]),
    ("rules", [{"trigger": "job-start", "action": {"name": "cancel", "label": "a", "job": "event"}}]),
    ("rules", [{"trigger": "job-start", "action": {"name": "urgency", "job": "event"}}]),
    ("rules", [{"trigger": "job-start", "action": {"name": "urgency", "job": "event", "value": 32}}]),
    ("simulate", {"nodes": 0}),
    ("simulate", {"groups": {"a": {"duration": True}}}),
    ("simulate", {"groups": {"a": {"fail": {"exit": 3}}}}),
    ("simulate", {"groups": {"a": {"fail": [{"rate": 0.1, "exit": 256}]}}}),
    ("simulate", {"groups": {"a": {"metrics": {"x": {"every": 5}}}}}),
    ("simulate", {"groups": {"a": {"metrics": {"x": [1]}}}}),
    ("simulate", {"signals": [{"name": "x"}]}),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), BAD)
def test_what_is_wrong_does_not_fit(key: str, value: Any) -> None:
    file = good()
    if value is None:
        del file[key]
    else:
        file[key] = value
    assert found(file)


def test_it_is_plain_data_with_words_for_every_key() -> None:
    whole = schema()
    assert json.loads(json.dumps(whole)) == whole
    assert whole["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for part in (whole, *whole["$defs"].values()):
        assert part["description"]
        for key, field in part["properties"].items():
            assert field.get("description"), key
    assert ".py" not in json.dumps(whole)


def test_it_knows_the_words_of_this_release_alone() -> None:
    parts = schema()["$defs"]
    assert parts["Rule"]["properties"]["trigger"]["enum"] == list(TRIGGERS)
    assert parts["Action"]["properties"]["name"]["enum"] == list(ACTIONS)
    assert not set(NOT_YET["file"]) & schema()["properties"].keys()
    assert not set(NOT_YET["job"]) & parts["JobSet"]["properties"].keys()


def test_each_call_makes_a_new_one() -> None:
    schema()["properties"].clear()
    assert schema()["properties"]
