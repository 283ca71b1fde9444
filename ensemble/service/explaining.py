# SPDX-License-Identifier: MIT
"""The answer to `explain`: the engine's own account of a rule, and from the records what its last firings did.

Law of this file: it reads and changes nothing. The engine of an ensemble that has ended is made anew from its last
snapshot and the events since then; so what is explained of it is what its engine held, whichever service ran it. Records
are found by the time of a firing, so that the answer costs some twenty look-ups however long the log is.
"""

from __future__ import annotations

import contextlib
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ensemble.engine.engine import Engine
from ensemble.engine.events import from_json
from ensemble.engine.explain import explain
from ensemble.engine.rules import RuleState
from ensemble.errors import BadRequest, NotFound, TransitionError
from ensemble.service.events import why_broken
from ensemble.service.recovery import engine_of, spec_of
from ensemble.service.running import Running
from ensemble.service.store import Store, Stored
from ensemble.spec.faults import listed, nearest, shown

#: records read at a time, and around one firing: what a function answers later is found there
_PAGE = 500
_AROUND = 2000
#: records before the one that has the time: those that no event has caused carry another clock's
_BEFORE = 100
#: things that one firing did, as they are told
_MOST = 20


def explained(stored: Stored, running: Optional[Running], store: Store, wanted: str, now: float) -> Dict[str, Any]:
    """EXPLAINED of the protocol. Raises NotFound for a rule that is not there, BadRequest where nothing can be told."""
    broken = why_broken(stored, running)
    if running is not None and broken is None:
        engine, seq = running.engine, running.seq
    else:
        engine, seq = _revived(stored, store)
        now = engine.t
    rule = find(engine, wanted)
    answer = explain(engine, rule, now)
    for firing in answer["firings"]:
        _fill(firing, rule.id, _records(store, stored.id, seq, float(firing["t"])))
    if broken is not None:
        answer["ensemble"].update(state="failed", reason=broken)
        answer["answer"] += f" Then its ensemble was quarantined: {broken}."
    return answer


def find(engine: Engine, wanted: str) -> RuleState:
    """The rule of that id, number (from 1, in file order), or beginning of an id. Raises NotFound, with those there are."""
    rules = engine.book.rules
    if wanted in engine.book.by_id:
        return engine.book.by_id[wanted]
    if wanted.isdecimal() and 1 <= int(wanted[:9]) <= len(rules):
        return rules[int(wanted[:9]) - 1]
    begin = [rule for rule in rules if wanted and rule.id.startswith(wanted)]
    if len(begin) == 1:
        return begin[0]
    ids = [rule.id for rule in rules]
    if begin:
        raise NotFound(f"{shown(wanted)} may be any of {listed(rule.id for rule in begin)}; give more of the id")
    near = nearest(wanted, ids)
    guess = f"; did you mean '{near}'?" if near else ""
    raise NotFound(
        f"no rule of ensemble {engine.id} is called {shown(wanted)}{guess} (rules, numbered from 1: {listed(ids)})"
    )


def _revived(stored: Stored, store: Store) -> Tuple[Engine, int]:
    """The engine as it was at the end, and the seq of the last record."""
    if stored.damaged is not None:
        raise BadRequest(f"ensemble {stored.id} cannot be explained: {stored.damaged}")
    whole = store.reload(stored.id)
    if whole.damaged is not None:
        raise BadRequest(f"ensemble {stored.id} cannot be explained: {whole.damaged}")
    engine = engine_of(whole, spec_of(whole.given))
    for _, record in whole.events:
        if not record:
            continue
        with contextlib.suppress(TransitionError):
            engine.handle(from_json(record))
    return engine, whole.seq


def _records(store: Store, id: str, last: int, t: float) -> List[Dict[str, Any]]:
    """Records from about that time on."""
    page = store.records(id, max(0, last - _PAGE), _PAGE)
    since = max(0, last - _PAGE)
    if since and page and page[0]["t"] >= t:
        low, high = 0, since
        while low < high:
            middle = (low + high) // 2
            found = store.records(id, middle, 1)
            if found and found[0]["t"] < t:
                low = middle + 1
            else:
                high = middle
        since = max(0, low - _BEFORE)
        page = store.records(id, since, _PAGE)
    while page and len(page) < _AROUND:
        more = store.records(id, page[-1]["seq"], _PAGE)
        if not more:
            break
        page += more
    return page


def _fill(firing: Dict[str, Any], rule: str, records: Sequence[Dict[str, Any]]) -> None:
    """What the firing was on, and what it did."""
    number, begun = firing["firing"], False
    did: List[str] = []
    for record in records:
        if record.get("rule") != rule:
            continue
        kind = record["type"]
        if kind == "rule":
            if record["firing"] == number:
                firing["event"], begun = record["text"], True
            else:
                begun = begun and record["firing"] < number
        elif kind == "action" and record["firing"] == number:
            did.append(record["text"])
        elif begun and kind in ("log", "error"):
            did.append(f"{kind}: {record['text']}")
    firing["did"] = did[:_MOST] + ([f"and {len(did) - _MOST} more"] if len(did) > _MOST else [])
