# SPDX-License-Identifier: MIT
"""The JSON Schema of a file, for editors and other programs.

It follows from the models, and adds what a user may write besides: defaults that depend on the place, `action` for
`actions`, what a lone action carries for its rule, `unlimited`. What needs two places of a file is not in it.
"""

from __future__ import annotations

import copy
from typing import Any, Dict

from ensemble.algorithms.found import SHIPPED
from ensemble.spec import targets
from ensemble.spec.check import KEYS, TOLERATED
from ensemble.spec.load import LIFTED
from ensemble.spec.models import ACTIONS, NAME, NUMBERS, RESERVED, TITLE, TRIGGERS, Spec
from ensemble.spec.reports import OF_JOBS
from ensemble.spec.units import OrExpression

#: a condition where there is no metric that it could speak of
_EXPRESSION = {"type": "string", "not": {"pattern": r"^\s*([<>=!]|[+-]?[0-9.]+(e[+-]?[0-9]+)?\s*$)"}}
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> Dict[str, Any]:
    """A schema of draft 2020-12, as plain data, a new copy at each call."""
    made: Dict[str, Any] = _without_titles(Spec.model_json_schema())
    parts = made.pop("$defs")
    job, rule, action = parts["JobSet"], parts["Rule"], parts["Action"]

    job["properties"]["name"] = _named(job["properties"]["name"], NAME.pattern)
    job["properties"]["name"]["not"] = {"enum": sorted(RESERVED)}
    job["oneOf"] = [{"required": ["command"]}, {"required": ["script"]}]

    retries = parts["Retries"]["properties"]
    job["properties"]["retries"]["anyOf"].insert(0, copy.deepcopy(retries["max"]))
    several = {key: retries["causes"].pop(key) for key in ("type", "items")}
    retries["causes"]["anyOf"] = [several, several["items"]]

    variables = job["properties"]["metrics"]
    variables["propertyNames"] = {"pattern": f"^{NAME.pattern}$", "not": {"enum": sorted(RESERVED | {*OF_JOBS})}}
    # a variable of which there is nothing to say
    variables["additionalProperties"] = {"anyOf": [variables["additionalProperties"], {"type": "null"}]}

    action["properties"]["name"] = {"enum": list(ACTIONS), "description": "what to do"}
    action["description"] = "One action of a rule; its name says which keys go with it."
    action["allOf"] = [_keys_of(name) for name in ACTIONS]
    lone = copy.deepcopy(action)
    lone["description"] = "The only action of a rule; repetitions, backoff and cooldown may stand in it or in the rule."

    fields = rule["properties"]
    fields["id"] = _named(fields["id"], NAME.pattern)
    fields["trigger"]["enum"] = list(TRIGGERS)
    fields["trigger"].pop("anyOf", None)
    times = next(one for one in fields["repetitions"]["anyOf"] if one.get("type") == "integer")
    fields["repetitions"]["anyOf"] = [times, {"const": "unlimited"}]
    for key in LIFTED:
        lone["properties"][key] = copy.deepcopy(fields[key])
    fields["action"] = {"$ref": "#/$defs/LoneAction", "description": "what the rule does"}
    fields["actions"]["minItems"] = 1
    rule["required"] = ["trigger"]
    rule["oneOf"] = [{"required": ["action"]}, {"required": ["actions"]}]
    rule["allOf"] = [
        _if("trigger", "metric", {"required": ["name"]}, {"properties": {"when": _EXPRESSION}}),
        _if("trigger", "timer", {"required": ["after"]}, {"properties": {"after": False}}),
        _if("trigger", "heartbeat", {}, {"properties": {"every": False}}),
        _if("trigger", "signal", {}, {"properties": {"topic": False}}),
    ]

    # a lone number or text stands for a mapping, and a lone way to fail for a list
    simulated = parts["Simulated"]["properties"]
    fails, told = simulated["fail"], simulated["metrics"]
    one = {"anyOf": [*copy.deepcopy(parts["Fails"]["properties"]["rate"]["anyOf"]), fails.pop("items")]}
    fails["anyOf"] = [{"type": fails.pop("type"), "items": one}, one]
    amount = copy.deepcopy(parts["Told"]["properties"]["value"]["anyOf"])
    told["additionalProperties"] = {"anyOf": [*amount, told["additionalProperties"]]}

    made["properties"]["variables"]["propertyNames"] = {"pattern": f"^{NAME.pattern}$", "maxLength": 100}
    made["properties"]["name"] = _named(made["properties"]["name"], TITLE.pattern)
    made["properties"]["custom"] = _custom(made["properties"]["custom"], parts.pop("Custom"))
    made["properties"]["algorithm"] = _algorithm(made["properties"]["algorithm"])
    made["required"] = ["jobs"]
    made["anyOf"] = [{"required": ["rules"]}, {"required": ["algorithm"]}]
    for key in ("jobs", "rules"):
        made["properties"][key]["minItems"] = 1
    parts["LoneAction"] = lone
    made["description"] = "An ensemble: groups of jobs, and rules that decide while they run what happens next."
    return {"$schema": DIALECT, "title": "ensemble", **made, "$defs": parts}


def _custom(field: Dict[str, Any], part: Dict[str, Any]) -> Dict[str, Any]:
    places = [
        {
            "type": "object",
            "properties": {key: part["properties"][key]},
            "required": [key],
            "additionalProperties": False,
        }
        for key in ("file", "module")
    ]
    return {"anyOf": [{"type": "string", "minLength": 1}, *places], "description": field["description"]}


def _algorithm(field: Dict[str, Any]) -> Dict[str, Any]:
    """One or a list; which options go with which name the algorithm knows."""
    id = {"type": "string", "pattern": f"^{NAME.pattern}$", "maxLength": 100}
    one = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": f"{', '.join(SHIPPED)}, or one of an installed package"},
            "id": {**id, "description": "names it for enable and disable; without it its name"},
            "group": {**id, "description": "the group that it drives; without it the only one"},
            "enabled": {"type": "boolean", "description": "false: rests until an action enables it"},
        },
        "required": ["name"],
    }
    return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}], "description": field["description"]}


def _named(field: Dict[str, Any], pattern: str) -> Dict[str, Any]:
    return {"type": "string", "pattern": f"^{pattern}$", "maxLength": 100, "description": field["description"]}


def _keys_of(action: str) -> Dict[str, Any]:
    """The keys that go with that action."""
    needs, takes = KEYS[action]
    known = {key for pair in KEYS.values() for part in pair for key in part}
    others = sorted(known - {*needs, *takes, *TOLERATED.get(action, ())})
    properties: Dict[str, Any] = dict.fromkeys(others, False)
    then: Dict[str, Any] = {"required": list(needs), "properties": properties}
    if action in targets.ACTIONS:
        then["oneOf"] = [{"required": ["label"]}, {"required": ["job"]}]
    number = NUMBERS.get(action, {}).get("value")
    if number is not None:
        properties["value"] = OrExpression(number).schema()
    return _if("name", action, then, None)


def _if(key: str, value: str, then: Dict[str, Any], otherwise: Any) -> Dict[str, Any]:
    made: Dict[str, Any] = {"if": {"properties": {key: {"const": value}}, "required": [key]}, "then": then}
    if otherwise is not None:
        made["else"] = otherwise
    return made


def _without_titles(part: Any) -> Any:
    """Without the titles that pydantic makes of field names; they say nothing new."""
    if isinstance(part, list):
        return [_without_titles(one) for one in part]
    if not isinstance(part, dict):
        return part
    kept: Dict[str, Any] = {}
    for key, value in part.items():
        if key == "title" and isinstance(value, str):
            continue
        kept[key] = (
            {name: _without_titles(one) for name, one in value.items()}
            if key == "properties"
            else _without_titles(value)
        )
    return kept
