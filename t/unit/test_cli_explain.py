# SPDX-License-Identifier: MIT
"""`explain` as people and programs read it."""

from __future__ import annotations

import errno
import json
from typing import Any, Dict

from ensemble.errors import NotFound
from t.unit.socket_service import Serve


def path(text: str, value: Any, why: Any = None) -> Dict[str, Any]:
    return {"text": text, "kind": "path", "value": value, "why": why, "terms": []}


def explained(**given: Any) -> Dict[str, Any]:
    return {
        "rule": "more",
        "number": 2,
        "answer": "Rule 'more' has not fired: its condition does not hold, because \x1b[31mcount.a.success is 3 and so forth and so on.",
        "why": "condition",
        "trigger": "metric",
        "name": "count.a.success",
        "when": "> 5 and x",
        "actions": [{"name": "submit", "label": "b", "count": 4}, {"name": "stop"}],
        "state": "cooldown",
        "fired": 1,
        "remaining": 2,
        "repetitions": 3,
        "backoff": {"of": 2, "left": 1},
        "cooldown": {"of": 60.0, "left": 12.0, "until": 1030.0},
        "enabled": True,
        "enabled_by": {"by": "rule", "rule": "on", "firing": 3, "t": 1004.0},
        "waits_for": "a change of count.a.success",
        "next": 1030.0,
        "holds": False,
        "condition": {
            "text": "count.a.success > 5 and mean.a.loss < 1", "kind": "and", "value": None, "why": None,
            "terms": [
                {"text": "count.a.success > 5", "kind": "comparison", "value": True, "why": None, "terms": [path("count.a.success", 6)]},
                {"text": "mean.a.loss < 1", "kind": "comparison", "value": None, "why": None,
                 "terms": [path("mean.a.loss", None, "no job of a has reported loss yet")]},
            ],
        },
        "looked": {"t": 1018.0, "event": "count.a.success = 3", "outcome": "false", "text": "its condition did not hold"},
        "firings": [{"firing": 1, "t": 1010.0, "event": "count.a.success = 2", "did": ["submit b (4 jobs)", "stop"]}],
        "error": None,
        "ensemble": {"id": "bcdfgh", "name": "hello", "state": "running", "reason": None, "t_begin": 1000.0, "t": 1020.0},
        **given,
    }  # fmt: skip


def test_for_people(run: Any, serve: Serve) -> None:
    service = serve(explain=explained())
    done = run("explain", "bcd", "more")
    assert service.asked("explain") == [{"id": "bcd", "rule": "more"}]
    lines = done.out.splitlines()
    assert lines[0].startswith("Rule 'more' has not fired: its condition does not hold")
    assert lines[2] == ""
    assert "\x1b" not in done.out
    assert max(map(len, lines[:2])) <= 110
    facts = dict(line.split("  ", 1) for line in lines[3 : lines.index("", 3)])
    assert facts["does"].strip() == "submit b (count: 4); stop"
    assert facts["repetitions"].strip() == "3, of which 2 are left; fired 1"
    assert facts["backoff"].strip() == "2 occasions, of which 1 are still to pass"
    assert facts["cooldown"].strip() == "1m, 12s left"
    assert facts["enabled"].strip().startswith("yes, by rule on at its firing 3, +4.0s (")
    assert facts["last look"].strip().startswith("+18.0s (")
    assert facts["waits for"].strip().startswith("a change of count.a.success, due at +30.0s")
    at = lines.index("condition (does not hold):")
    assert [line.split() for line in lines[at + 1 : at + 4]] == [
        ["VALUE", "TERM"],
        ["no", "value", *["count.a.success", ">", "5", "and", "mean.a.loss", "<", "1"]],
        ["true", *["count.a.success", ">", "5"]],
    ]
    assert lines[at + 6].endswith("mean.a.loss  (no job of a has reported loss yet)")
    assert lines[-2].split()[-4:] == ["submit", "b", "(4", "jobs)"]
    assert lines[-1].strip() == "stop"


def test_for_programs(run: Any, serve: Serve) -> None:
    serve(explain=explained())
    assert json.loads(run("explain", "bcd", "more", "--json").out) == explained()


def test_of_a_rule_without_condition_or_past(run: Any, serve: Serve) -> None:
    none = {"by": "file", "rule": None, "firing": None, "t": None}
    of = {"of": 0, "left": 0}
    serve(
        explain=explained(
            condition=None, holds=None, looked=None, firings=[], next=None, repetitions=None, remaining=None,
            backoff=of, cooldown={**of, "until": None}, enabled=False, enabled_by=none, error="it broke",
        )
    )  # fmt: skip
    out = run("explain", "bcd", "more").out
    assert "none yet" in out
    assert "unlimited; fired 1" in out
    assert "no, as the file says" in out
    assert "error        it broke" in out
    for word in ("condition (", "firings", "backoff", "cooldown  "):
        assert word not in out


def test_of_firings_whose_records_are_gone(run: Any, serve: Serve) -> None:
    gone = [{"firing": n, "t": 1000.0 + n, "event": None, "did": []} for n in (7, 8, 9)]
    by = {"by": "on_error", "rule": "more", "firing": 2, "t": 1003.0}
    serve(explain=explained(fired=9, firings=gone, enabled=False, enabled_by=by))
    out = run("explain", "bcd", "more").out
    assert "firings (the last 3):" in out
    assert out.count("(its record is not kept any more)") == 3
    assert "no, since it failed at +3.0s" in out


def test_a_wrong_rule(run: Any, serve: Serve) -> None:
    serve(explain=NotFound("no rule of ensemble bcdfgh is called 'x'", errno.ENOENT))
    done = run("explain", "bcd", "x")
    assert done.status == 1
    assert "no rule of ensemble bcdfgh is called 'x'" in done.err
