# SPDX-License-Identifier: MIT
"""A replay: the events of a run that is past, or still goes on, against its own rules or against others.

Theory of operation. `fetch` asks a service for all events that it keeps of an ensemble, page by page, so that the service is
never held up; the engines run here, in the process of whoever asks. Against its own rules a replay is a check: the engine
must fire what was recorded, and ask for the same at every single event. Against other rules it is a rehearsal
(`engine/rehearsal.py` says what that means). The result is plain data, REPLAYED below.

REPLAYED {id, name, state, file, own, events, t_begin, t_last, check, rules: [RULE], timeline: [FIRING], groups: [GROUP], end,
          ignored: {GROUP: jobs}, late, not_called: {FUNCTION: calls}, answered: {FUNCTION: calls}, notes: [str]}
  check   None for other rules; else {same, firings, events, differences: [str]}
  RULE    {rule, trigger, firings, first, last, did: [str], recorded: {firings, first, last, same} or None}, the rules of either;
          firings is None for a rule that only the recorded run has, `recorded` None for one that only the others have
  FIRING  {t, rule, firing, event, did: [str], recorded: t or None}
  GROUP   {group, would, unknown, recorded}: jobs that the rules would have submitted, submissions whose number only a function
          could have said, and jobs that the recorded run has submitted; None where only one of the two knows the group
  end     None where the ensemble would not have ended by then; else {t, state, reason}
Times are seconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from ensemble import __version__
from ensemble.engine.actions import Finished, Record, SetTimer
from ensemble.engine.events import RESOURCES, from_json
from ensemble.engine.recorded import Did, Fired, Firings, Recorded
from ensemble.engine.rehearsal import Rehearsal, parsed_elsewhere
from ensemble.errors import NotFound
from ensemble.service.client import Client
from ensemble.service.past import KEPT
from ensemble.service.recovery import spec_of
from ensemble.service.running import intent
from ensemble.spec.models import Spec

#: events and records asked for in one request
_PAGE = 5000
#: differences that are told
_MOST = 10
#: seconds by which times may differ and are the same all the same
_SAME = 1e-3


@dataclass
class Log:
    """What a service keeps of a run."""

    summary: Dict[str, Any]
    given: Dict[str, Any]
    #: number, event (JSON), intents; in order
    events: List[Any] = field(default_factory=list)
    #: RECORDs of firings, and the seq of the first record that is kept
    fired: List[Dict[str, Any]] = field(default_factory=list)
    first_record: int = 1
    broken: Optional[str] = None


def fetch(client: Client, id: str) -> Log:
    """All that is kept of that ensemble. Raises a ServiceError, or NotFound where the beginning is gone."""
    answer = client.call("events", {"id": id, "max": _PAGE})
    log = Log(answer["ensemble"], answer["given"], [], broken=answer["broken"])
    id, last = log.summary["id"], 0
    first: Optional[int] = None
    while answer["last"] > last:
        if first is None and answer["events"]:
            first = answer["events"][0][0]
        log.events += answer["events"]
        last = answer["last"]
        answer = client.call("events", {"id": id, "after": last, "max": _PAGE})
    # the first number is the line that says what was submitted, and no event
    if not log.events or log.events[0][1][1] != "Begin":
        begin = "nothing" if first is None else f"nothing before event {first}"
        raise NotFound(
            f"the beginning of the events of ensemble {id} is not kept ({begin} of them is there): a replay from the middle "
            f"would tell nothing that is true. {KEPT >> 20} MiB of packed events are kept of each ensemble"
        )
    since = 0
    while True:
        records = client.call("log", {"id": id, "since": since, "max": _PAGE})["records"]
        if not records:
            return log
        if since == 0:
            log.first_record = records[0]["seq"]
        since = records[-1]["seq"]
        log.fired += [record for record in records if record["type"] == "rule"]


def replay(log: Log, other: Optional[Spec] = None, file: Optional[str] = None) -> Dict[str, Any]:
    """REPLAYED: against `other` rules, which stand in `file`, or against its own."""
    recorded = Recorded(spec_of(log.given), log.summary["id"])
    if other is None:
        check = _check(log, recorded)
        return _result(log, recorded, recorded.firings, None, check)
    rehearsal = Rehearsal(other, recorded)
    for _, event, _ in log.events:
        rehearsal.feed(from_json(event))
    return {**_result(log, recorded, rehearsal.firings, rehearsal, None), "file": file}


def _check(log: Log, recorded: Recorded) -> Dict[str, Any]:
    """Does the engine do again what was done?"""
    differences: List[str] = []
    count = 0
    for number, event, intents in log.events:
        try:
            actions = recorded.feed(from_json(event))
        except Exception as exc:
            differences.append(f"event {number} ({event[1]}) cannot be taken: {type(exc).__name__}: {exc}")
            break
        count += 1
        asked = [intent(action) for action in actions if not isinstance(action, (Record, Finished, SetTimer))]
        if asked != intents and len(differences) < _MOST:
            differences.append(f"event {number} ({event[1]}): recorded {_some(intents)}, and now {_some(asked)}")
    found = [(one.rule, one.firing, one.t) for one in recorded.firings.all]
    told = [(one["rule"], one["firing"], one["t"]) for one in log.fired]
    if log.first_record == 1:
        compared = told[: len(found)] if log.summary["t_end"] is None else told
    else:
        # the oldest records go first
        compared = told if log.summary["t_end"] is not None else told[: len(found)]
        found = found[len(found) - len(compared) :]
    for one, then in zip(found, compared):
        if one != then and len(differences) < _MOST:
            differences.append(
                f"recorded: rule '{then[0]}' fired ({then[1]}) at {then[2]:.3f}; now: '{one[0]}' ({one[1]}) at {one[2]:.3f}"
            )
    if len(found) != len(compared):
        differences.append(f"{len(compared)} firings were recorded, and now there are {len(found)}")
    return {"same": not differences, "firings": len(compared), "events": count, "differences": differences}


def _some(words: Sequence[str]) -> str:
    if not words:
        return "nothing"
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def _result(
    log: Log, recorded: Recorded, firings: Firings, rehearsal: Optional[Rehearsal], check: Optional[Dict[str, Any]]
) -> Dict[str, Any]:
    engine = recorded.engine
    then: Dict[Tuple[str, int], float] = {(one.rule, one.firing): one.t for one in recorded.firings.all}
    mine = engine if rehearsal is None else rehearsal.engine
    end: Optional[Dict[str, Any]] = None
    if rehearsal is not None:
        if rehearsal.ending is not None:
            end = dict(zip(("t", "state", "reason"), rehearsal.ending))
    elif engine.final is not None:
        end = {"t": engine.t_end, "state": engine.final, "reason": engine.reason}
    return {
        "id": log.summary["id"],
        "name": log.summary["name"],
        "state": log.summary["state"],
        "file": log.given["file"],
        "own": rehearsal is None,
        "events": len(log.events),
        "t_begin": engine.t_begin,
        "t_last": engine.t,
        "check": check,
        "rules": list(_rules(mine, firings.all, engine, recorded.firings.all)),
        "timeline": [
            {
                "t": one.t,
                "rule": one.rule,
                "firing": one.firing,
                "event": one.event,
                "did": [did.text for did in one.did],
                "recorded": then.get((one.rule, one.firing)),
            }
            for one in firings.all
        ],
        "groups": list(_groups(recorded, rehearsal)),
        "end": end,
        "ignored": {} if rehearsal is None else rehearsal.ignored,
        "late": 0 if rehearsal is None else rehearsal.late,
        "not_called": {} if rehearsal is None else rehearsal.not_called,
        "answered": {} if rehearsal is None else rehearsal.answered,
        "notes": list(_notes(log, recorded, rehearsal)),
    }


def _rules(mine: Any, firings: Sequence[Fired], then: Any, recorded: Sequence[Fired]) -> Iterable[Dict[str, Any]]:
    """A row for each rule of either, those that are replayed first."""
    here, there = _by_rule(firings), _by_rule(recorded)
    for rule in mine.book.rules:
        fired, past = here.get(rule.id, []), there.get(rule.id, [])
        known = rule.id in then.book.by_id
        same = len(fired) == len(past) and all(abs(a.t - b.t) <= _SAME for a, b in zip(fired, past))
        yield {
            "rule": rule.id,
            "trigger": " ".join(filter(None, (rule.rule.trigger, rule.rule.name))),
            **_span(fired),
            "did": summed([did for one in fired for did in one.did]),
            "recorded": {**_span(past), "same": same} if known else None,
        }
    for rule in then.book.rules:
        if rule.id not in mine.book.by_id:
            trigger = " ".join(filter(None, (rule.rule.trigger, rule.rule.name)))
            span = {**_span(there.get(rule.id, [])), "same": False}
            yield {
                "rule": rule.id,
                "trigger": trigger,
                "firings": None,
                "first": None,
                "last": None,
                "did": [],
                "recorded": span,
            }


def _by_rule(firings: Sequence[Fired]) -> Dict[str, List[Fired]]:
    found: Dict[str, List[Fired]] = {}
    for one in firings:
        found.setdefault(one.rule, []).append(one)
    return found


def _span(firings: Sequence[Fired]) -> Dict[str, Any]:
    times = [one.t for one in firings]
    return {"firings": len(times), "first": times[0] if times else None, "last": times[-1] if times else None}


def summed(all: Sequence[Did]) -> List[str]:
    """What many firings did, each kind of thing once."""
    times: Dict[Tuple[str, Optional[str]], List[Did]] = {}
    for did in all:
        times.setdefault((did.action, did.label), []).append(did)
    found = []
    for (action, label), these in times.items():
        jobs = sum(did.jobs or 0 for did in these)
        if len(these) == 1:
            found.append(these[0].text)
        elif any(did.jobs is not None for did in these):
            found.append(f"{action} {label or 'the job'} ({jobs} jobs in {len(these)} times)")
        else:
            found.append(f"{action}{' ' + label if label else ''} ({len(these)} times)")
    return found


def _groups(recorded: Recorded, rehearsal: Optional[Rehearsal]) -> Iterable[Dict[str, Any]]:
    if rehearsal is None:
        for group, count in recorded.submitted.items():
            yield {"group": group, "would": count, "unknown": 0, "recorded": count}
        return
    for group, would in rehearsal.would.items():
        then = recorded.submitted.get(group)
        yield {"group": group, "would": would, "unknown": rehearsal.unknown.get(group, 0), "recorded": then}
    for group, count in recorded.submitted.items():
        if group not in rehearsal.would:
            yield {"group": group, "would": None, "unknown": 0, "recorded": count}


def _notes(log: Log, recorded: Recorded, rehearsal: Optional[Rehearsal]) -> Iterable[str]:
    """What the result rests on, and what it cannot tell."""
    if log.summary["t_end"] is None:
        yield "the run has not ended: this is what has happened so far"
    if log.broken is not None:
        yield f"the run was quarantined, and its events end there: {log.broken}"
    if log.given.get("version") != __version__:
        yield f"version {log.given.get('version')} ran it, and this is {__version__}, which may act otherwise"
    if rehearsal is None:
        return
    mine, then = rehearsal.engine, recorded.engine
    for group, jobs in rehearsal.ignored.items():
        yield f"the events of {_jobs(jobs)} of {group} are left out: the other rules know no such group"
    for group, would in rehearsal.would.items():
        had = recorded.submitted.get(group, 0)
        if would > had:
            yield (
                f"{would - had} of the {_jobs(would)} of {group} that the rules would have submitted have no events: the run "
                f"has submitted {had}"
            )
        if had > would:
            yield f"{_jobs(had - would)} of {group} that the run has submitted, and these rules would not have, count all the same"
    for group in rehearsal.unknown:
        yield f"how many jobs of {group} would have been submitted is not known: a function says their points"
    if rehearsal.late:
        yield f"{_jobs(rehearsal.late)} submitted after these rules would have ended the ensemble are left out"
    for function, times in rehearsal.not_called.items():
        yield f"function {function} was not called ({times} times): the run has no answer of it for these calls"
    for function, times in rehearsal.answered.items():
        yield f"function {function} was not called ({times} times): the answers of the run were taken"
    for name in sorted(mine.wanted_events - then.wanted_events):
        what = "changes of nodes" if name == RESOURCES else f"events '{name}' of jobs"
        yield f"{what} were not recorded, since no rule of the run heard them: rules on them have not fired here"
    for topic in mine.book.topics:
        if topic not in then.book.topics:
            yield f"events of the topic {topic} were not recorded, since no rule of the run heard them"
    for variable in parsed_elsewhere(then, mine):
        yield f"{variable} has no values here: the run did not look for them in the output of its jobs"


def _jobs(count: int) -> str:
    return f"{count} job{'s' if count != 1 else ''}"
