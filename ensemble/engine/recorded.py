# SPDX-License-Identifier: MIT
"""A run as it was: its own rules on its own events, and the firings of an engine as its records tell them.

Law of this file: it drives an engine through `handle` and reads what that answers; nothing here is a part of a running
ensemble.
"""

from __future__ import annotations

import contextlib
from typing import Dict, List, NamedTuple, Optional, Tuple

from ensemble.engine import acting
from ensemble.engine.acting import Firing
from ensemble.engine.actions import Action, Record
from ensemble.engine.engine import Engine
from ensemble.engine.events import Event
from ensemble.errors import TransitionError
from ensemble.spec.models import Action as Said
from ensemble.spec.models import Spec


class Did(NamedTuple):
    """What a firing did, and with how many jobs where it is about jobs."""

    action: str
    label: Optional[str]
    jobs: Optional[int]
    text: str


class Fired(NamedTuple):
    """One firing. `did` is what it did, as records tell it; answers of functions add to it later."""

    t: float
    rule: str
    firing: int
    trigger: str
    event: str
    did: List[Did]


class Firings:
    """The firings of an engine, in order, read from what it records."""

    def __init__(self) -> None:
        self.all: List[Fired] = []
        self._known: Dict[Tuple[str, int], Fired] = {}
        self._last: Dict[str, Fired] = {}

    def read(self, actions: List[Action]) -> None:
        for action in actions:
            if not isinstance(action, Record):
                continue
            data = action.data
            if action.type == "rule":
                fired = Fired(action.t, data["rule"], data["firing"], data["trigger"], data["text"], [])
                self.all.append(fired)
                self._known[fired.rule, fired.firing] = self._last[fired.rule] = fired
            elif action.type == "action":
                about = self._known.get((data["rule"], data["firing"]))
                if about is not None:
                    about.did.append(Did(data["action"], data["label"], data["count"], data["text"]))
            elif action.type in ("log", "error") and data.get("rule") in self._last:
                about = self._last[data["rule"]]
                if about.t == action.t:
                    about.did.append(Did(action.type, None, None, f"{action.type}: {data['text']}"))


class Recorded:
    """The run as it was: its own rules, on its own events."""

    def __init__(self, spec: Spec, id: str) -> None:
        self.engine = Engine(spec, id)
        self.engine.hands = {**acting.ACTIONS, "submit": self._submit}
        self.firings = Firings()
        #: jobs submitted by the last event, by group; and in all
        self.more: Dict[str, int] = {}
        self.submitted: Dict[str, int] = dict.fromkeys(self.engine.groups, 0)
        #: it is idle, or was for a moment of the last event
        self.idle = False

    def feed(self, event: Event) -> List[Action]:
        """Give it the next event; what it answers. Raises what a broken engine raises."""
        self.more = {}
        actions: List[Action] = []
        falls = self.engine.falls
        # such an event was dropped then, too
        with contextlib.suppress(TransitionError):
            actions = self.engine.handle(event)
        self.idle = self.engine.idle_seen or self.engine.falls > falls or self.engine.final is not None
        self.firings.read(actions)
        return actions

    def _submit(self, firing: Firing, action: Said, only: Optional[int] = None) -> None:
        group = action.label or ""
        before = self.engine.unfinished[group]
        acting.submit(firing, action, only)
        count = self.engine.unfinished[group] - before
        self.more[group] = self.more.get(group, 0) + count
        self.submitted[group] += count
