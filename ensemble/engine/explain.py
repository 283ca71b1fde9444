# SPDX-License-Identifier: MIT
"""Why a rule has fired, or has not: its condition term by term, its gates, what it waits for, and a sentence that answers.

Law of this file: it looks and changes nothing. What it tells is what `handle` would decide by, computed by the same code
(`spec.explained`), and what rules remember of the last event that they looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple

from ensemble.engine import awaited, ending
from ensemble.engine.rules import (
    CLOSED,
    COOLING,
    FAILED,
    FALSE,
    FIRE,
    LATER,
    LIMITED,
    RESTING,
    SKIPPED,
    RuleState,
)
from ensemble.engine.values import shown, told
from ensemble.spec.explained import CONSTANT, PATH, Term, of_rule, paths, settling
from ensemble.spec.metrics import GROUPLESS, LEGACY_PENDING, OF_QUEUE, VARIABLES, Metric

if TYPE_CHECKING:
    from ensemble.engine.engine import Engine
    from ensemble.spec.expression import Read

#: what became of the event that a rule looked at last, for people; the words stand in `engine.rules`
OUTCOMES = {
    FIRE: "it fired",
    FALSE: "its condition did not hold",
    COOLING: "dropped: it was in its cooldown",
    LATER: "dropped: it was in its cooldown, at whose end it looks once more",
    SKIPPED: "skipped: backoff",
    RESTING: "not looked at: it was disabled, spent or failed",
    LIMITED: "it waits for a greater max_firings",
    CLOSED: "not looked at: nothing fired any more",
    FAILED: "its condition could not be computed",
}
_DROPPED = {
    COOLING: "it made nothing, being in its cooldown",
    LATER: "it made nothing, being in its cooldown",
    SKIPPED: "it made nothing (backoff)",
    CLOSED: "it made nothing: nothing fired any more",
}
#: state of a statistic -> what a job has done that counts there
_ENDED = {"success": "succeeded", "failed": "failed", "finished": "ended"}
_TWO_VALUES = ("variance", "std", "sem")
#: terms of one sentence
_MOST = 3


class _Now:
    """A scope: the present values, and of the event what the rule has seen last."""

    def __init__(self, engine: Engine, rule: RuleState) -> None:
        self._values = engine.values
        self._rule = rule

    def metric(self, metric: Metric) -> Any:
        return self._values.metric(metric)

    def event(self, words: Tuple[str, ...]) -> Any:
        if self._rule.metric is not None:
            found: Any = {"value": self.metric(self._rule.metric)}
        else:
            found = self._rule.seen or {}
        for word in words:
            found = found.get(word) if isinstance(found, dict) else None
        return found


def explain(engine: Engine, rule: RuleState, now: float) -> Dict[str, Any]:
    """EXPLAINED of the protocol, without what the records alone know of its firings. `now` is seconds since the epoch."""
    told_of = _About(engine, rule, now)
    said, left = rule.rule, max(0.0, rule.until - now) if engine.final is None else 0.0
    return {
        "rule": rule.id,
        "number": rule.number + 1,
        "answer": told_of.answer(),
        "why": told_of.why,
        "trigger": said.trigger,
        "name": said.name or said.topic,
        "when": said.when,
        "actions": [_action(action) for action in said.actions],
        "state": rule.state(now),
        "fired": rule.fired,
        "remaining": rule.remaining,
        "repetitions": said.repetitions,
        "backoff": {"of": said.backoff, "left": rule.skip},
        "cooldown": {"of": said.cooldown, "left": left, "until": rule.until if left else None},
        "enabled": rule.enabled,
        "enabled_by": told_of.switch(),
        "waits_for": told_of.waits,
        "next": awaited.due(engine, rule),
        "holds": None if told_of.condition is None else told_of.condition.truth is True,
        "condition": None if told_of.condition is None else told_of.term(told_of.condition),
        "looked": told_of.looked(),
        "firings": [
            {"firing": rule.fired - len(rule.times) + n, "t": t, "event": None, "did": []}
            for n, t in enumerate(rule.times, 1)
        ],
        "error": rule.error,
        "ensemble": {
            "id": engine.id,
            "name": engine.spec.name,
            "state": engine.state,
            "reason": engine.reason,
            "t_begin": engine.t_begin,
            "t": engine.t,
        },
    }


def moment(seconds: float) -> str:
    """A time after the begin, as `+12.3s`, or `+1:02:03` from ten minutes on."""
    if seconds < 600:
        return f"+{max(0.0, seconds):.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    return f"+{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _action(action: Any) -> Dict[str, Any]:
    """The action as the file has it."""
    found: Dict[str, Any] = action.model_dump(exclude_none=True)
    return found


class _About:
    """What there is to say of one rule now."""

    def __init__(self, engine: Engine, rule: RuleState, now: float) -> None:
        self._engine = engine
        self._rule = rule
        self._now = now
        said = rule.rule
        self.condition: Optional[Term] = of_rule(
            said.when, rule.condition, engine.groups, said.trigger, said.name, _Now(engine, rule)
        )
        self.waits = awaited.occasion(rule, self.condition)
        #: why it does not fire now: one of the words of EXPLAINED
        self.why = self._reason()

    def _reason(self) -> str:
        engine, rule = self._engine, self._rule
        if rule.failed:
            return "failed"
        if rule.remaining == 0:
            return "spent"
        if not rule.enabled:
            return "disabled"
        if any(number == rule.number for number, _ in engine.postponed):
            return "limit"
        if engine.final is not None and engine.final != "halted":
            return "ended"
        if engine.closed or (rule.rule.trigger in ("timer", "heartbeat") and ending.stopped(engine)):
            return "closed"
        if self._now < rule.until:
            return "cooldown"
        if rule.skip:
            return "backoff"
        if self._wanting:
            return "condition"
        return "event"

    @property
    def _wanting(self) -> bool:
        """Is it its condition that keeps it from firing?"""
        if self.condition is None or self.condition.truth is True:
            return False
        # what reads the event says nothing before there was one
        return self._rule.metric is not None or not self._rule.events or self._rule.seen is not None

    # ---- sentences

    def answer(self) -> str:
        """One plain sentence, perhaps two, which answers the question."""
        told = self._rule.error is None or self.why in ("failed", "disabled")
        return self._sentence() + ("" if told else f" It went wrong: {self._rule.error}.")

    def _sentence(self) -> str:
        rule, engine = self._rule, self._engine
        head = f"Rule '{rule.id}' has {self._count()}"
        if self.why == "failed":
            return f"{head}, and fires no more, because it failed: {rule.error}."
        if self.why == "spent":
            return f"{head}, which is all that its repetitions ({rule.rule.repetitions}) allow."
        if self.why == "disabled":
            return f"{head}: it is disabled, {self._switched()}."
        if self.why == "limit":
            limit = engine.limits["max_firings"]
            return f"{head}, and waits for a greater limit max_firings ({limit}), which its next firing would pass."
        if self.why == "ended":
            return f"{head}: {self._short(past=True)}. The ensemble has ended ({engine.final}), and nothing fires any more."
        if self.why == "closed":
            return f"{head}, and fires no more: the ensemble is {engine.state} ({engine.reason})."
        if self.why == "cooldown":
            more = f"{head}, and is in its cooldown for another {self._rule.until - self._now:.1f} s"
            return f"{more}; {self._short()}." if self._wanting else f"{more}."
        if self.why == "backoff":
            times = "time" if rule.skip == 1 else f"{rule.skip} times"
            return f"{head}, and lets its occasion pass the next {times} (backoff); it waits for {self.waits}."
        joined = ", and now" if rule.fired else ":"
        return f"{head}{joined} {self._short()}."

    def _count(self) -> str:
        rule = self._rule
        if not rule.fired:
            return "not fired"
        times = "once" if rule.fired == 1 else f"{rule.fired} times"
        last = f", {'' if rule.fired == 1 else 'last '}at {self.at(rule.times[-1])}" if rule.times else ""
        event = ""
        if rule.looked is not None and rule.looked[1] == FIRE:
            event = f" on {self._looked_text()}"
        return f"fired {times}{last}{event}"

    def _short(self, past: bool = False) -> str:
        """Why not, in a clause. `past`: of an ensemble that has ended."""
        if self._wanting:
            assert self.condition is not None
            found = settling(self.condition)
            more = f"; and {len(found) - _MOST} more" if len(found) > _MOST else ""
            held = "did" if past else "does"
            return f"its condition {held} not hold, because {'; '.join(map(self._settled, found[:_MOST]))}{more}"
        looked = self._rule.looked
        due = awaited.due(self._engine, self._rule)
        yet = awaited.why_not_yet(self._engine, self._rule) if due is None else f"that is due at {self.at(due)}"
        if past:
            waited = f"it {'last ' if self._rule.fired else ''}waited for {self.waits}"
            if looked is not None and looked[1] in _DROPPED:
                return f"{waited}, and of the last ({self.at(looked[0])}, {self._looked_text()}) {_DROPPED[looked[1]]}"
            return f"{waited}{', but ' + yet if yet else ''}".replace(" yet", "")
        waits = f"it waits for {self.waits}"
        if self.condition is not None and looked is not None and looked[1] == FALSE and self._rule.metric is None:
            return f"{waits}: its condition holds now, but did not at {self.at(looked[0])} ({self._looked_text()})"
        return f"{waits}{': ' + yet if yet else ''}"

    def _settled(self, term: Term) -> str:
        """What a term is, and why."""
        truth = "has no value" if term.value is None else f"is {shown(term.value)}"
        found = [path for path in paths(term) if path.kind == PATH]
        if term.kind == PATH:
            why = self._why(term)
            return f"{term.text} {truth}" + (f" ({why})" if why else "")
        facts = []
        for path in found:
            why = self._why(path)
            worth = "has no value" if path.value is None else f"is {shown(path.value)}"
            facts.append(f"{path.text} {worth}" + (f" ({why})" if why else ""))
        return f"{' and '.join(facts)}, so '{term.text}' {truth}" if facts else f"'{term.text}' {truth}"

    def term(self, term: Term) -> Dict[str, Any]:
        """TERM of the protocol."""
        found: Dict[str, Any] = {"text": term.text, "kind": term.kind, "value": term.value, "why": self._why(term)}
        found["terms"] = [self.term(inner) for inner in term.terms if inner.kind != CONSTANT]
        return found

    def _why(self, term: Term) -> Optional[str]:
        """Why a path has no value."""
        if term.read is None or term.value is not None:
            return None
        if term.read.metric is not None:
            return self._why_none(term.read.metric)
        return self._why_no_event(term.read)

    def _why_none(self, metric: Metric) -> str:
        engine, group = self._engine, metric.group
        if metric.stat == "var":
            return "nothing has set it"
        if metric.stat in OF_QUEUE:
            return "the queue has not been counted yet"
        if metric.stat in GROUPLESS:
            return "it has not begun"
        n = engine.tally.get(metric._replace(stat="n"))
        if n and metric.stat in _TWO_VALUES:
            return "it takes two values"
        if metric.variable == LEGACY_PENDING:
            return f"no job of {group} has started yet"
        if metric.variable == "waiting":
            return f"no heartbeat has found a pending job of {group} yet"
        if metric.variable not in VARIABLES:
            told = f"has reported {metric.variable}"
            return (
                f"no job of {group} {told} and {_ENDED[metric.state]} yet"
                if metric.state
                else f"no job of {group} {told} yet"
            )
        done = _ENDED[metric.state]
        if engine.tally.counts[group]["success" if metric.state == "success" else metric.state]:
            return f"no job of {group} that has run has {done} yet"
        return f"no job of {group} has {done} yet"

    def _why_no_event(self, read: Read) -> str:
        if self._rule.metric is None and self._rule.seen is None:
            return "no event has been looked at yet"
        return "the event had none"

    # ---- the past

    def at(self, t: float) -> str:
        begin = self._engine.t_begin
        return moment(t - (t if begin is None else begin))

    def _looked_text(self) -> str:
        assert self._rule.looked is not None
        _, _, text, value = self._rule.looked
        return told(self._rule, value) if text is None else text

    def looked(self) -> Optional[Dict[str, Any]]:
        if self._rule.looked is None:
            return None
        t, outcome, _, _ = self._rule.looked
        text = OUTCOMES[outcome]
        return {
            "t": t,
            "event": self._looked_text(),
            "outcome": "cooldown" if outcome == LATER else outcome,
            "text": text,
        }

    def switch(self) -> Dict[str, Any]:
        """Who enabled or disabled it last."""
        if self._rule.switched is None:
            return {"by": "file", "rule": None, "firing": None, "t": None}
        t, by, firing = self._rule.switched
        own = by == self._rule.id and not self._rule.enabled and self._rule.error is not None
        return {"by": "on_error" if own else "rule", "rule": by, "firing": firing, "t": t}

    def _switched(self) -> str:
        found = self.switch()
        if found["by"] == "file":
            return "by the file (enabled: false), and no rule has enabled it"
        if found["by"] == "on_error":
            return f"because it failed at {self.at(found['t'])} (on_error: disable): {self._rule.error}"
        return f"by rule '{found['rule']}' (firing {found['firing']}, {self.at(found['t'])})"
