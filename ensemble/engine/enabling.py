# SPDX-License-Identifier: MIT
"""Rules that are switched on and off while the ensemble runs: one by one, or all that are part of an algorithm.

Law of this file: called by `Engine.handle` alone, on its way. A rule on `enabled` fires when it becomes enabled: at the
start of the ensemble if it is enabled then, and whenever an action enables it that was not. That is looked at with the
metrics that have changed (`tally.due`), so that rules that enable one another cannot loop inside one event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, List

from ensemble.engine.occasion import Occasion

if TYPE_CHECKING:
    from ensemble.engine.acting import Firing
    from ensemble.engine.engine import Engine
    from ensemble.engine.rules import RuleState
    from ensemble.spec.models import Action

TRIGGER = "enabled"


def begin(engine: Engine) -> None:
    """The ensemble starts: rules on `enabled` that are."""
    _look(engine, [rule for rule in engine.book.rules if rule.enabled])


def joined(engine: Engine, rule: RuleState) -> None:
    """A rule was added while the ensemble runs."""
    if rule.enabled:
        _look(engine, [rule])


def switch(firing: Firing, action: Action) -> None:
    """`enable` and `disable`, of the rule with that id, or of the algorithm."""
    engine, label, on = firing.engine, action.label or "", action.name == "enable"
    one = engine.book.by_id.get(label)
    rules = [one] if one is not None else [rule for rule in engine.book.rules if rule.rule.algorithm == label]
    turned = [rule for rule in rules if rule.enabled != on]
    for rule in turned:
        rule.enabled = on
        rule.switched = (engine.t, firing.rule.id, firing.number)
    if on:
        _look(engine, turned)
    firing.tell(action, f"{action.name} {label}" if one is not None else f"{action.name} the algorithm {label}")


def held_back(rule: RuleState, action: Action) -> bool:
    """Is this an answer that comes when its algorithm has been disabled meanwhile? Then it submits nothing more."""
    return action.name == "submit" and rule.rule.algorithm is not None and not rule.enabled


def _look(engine: Engine, rules: List[RuleState]) -> None:
    engine.tally.due.update(rule.number for rule in rules if rule.rule.trigger == TRIGGER)


def occasion(rule: RuleState) -> Occasion:
    """That of a rule that has been enabled."""
    about = f" {rule.rule.algorithm}" if rule.rule.algorithm is not None else ""
    return Occasion(f"{TRIGGER}{about}")
