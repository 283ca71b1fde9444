# SPDX-License-Identifier: MIT
"""The bus of a Flux instance: events of the topics that rules wait for. Imports flux.

How it works. Flux knows subscriptions by prefix; each pattern of a rule (`*` as in a shell) subscribes to what stands
before its first wildcard, and what comes is matched here. The handle is one of its own, opened when the first rule wants
it, so that a flood of events delays neither requests nor the journal. An ensemble gets `_RATE` events a second, in bursts
of as many; what comes beyond them is dropped, and that is logged once a minute. So is what comes while the service cannot
take events (`hold`), for the bus keeps nothing.
"""

from __future__ import annotations

import json
import syslog
import time
from collections import Counter
from typing import Any, Callable, Dict, FrozenSet

import flux
from flux.constants import FLUX_MSGTYPE_EVENT
from flux.core.inner import lib

from ensemble.engine.events import Signal
from ensemble.engine.signals import matches, subscription
from ensemble.members.guard import Log, guarded
from ensemble.spec.reports import MOST_DATA

#: events a second that one ensemble gets
_RATE = 200.0
#: seconds between two lines about events that were dropped
_QUIET = 60.0


class _Listener:
    """An ensemble that listens."""

    __slots__ = ("allowance", "t", "topics", "warned")

    def __init__(self) -> None:
        self.topics: FrozenSet[str] = frozenset()
        #: events that it may get now, and when that was counted
        self.allowance = _RATE
        self.t = 0.0
        self.warned = float("-inf")


class Bus:
    """Delivers events as signals, on the reactor of `main`. `connect()` opens a handle."""

    def __init__(
        self,
        main: flux.Flux,
        connect: Callable[[], flux.Flux],
        clock: Callable[[], float],
        log: Log,
        deliver: Callable[[str, Signal], None],
    ) -> None:
        self._main = main
        self._connect = connect
        self._clock = clock
        self._log = log
        self._deliver = deliver
        self._handle: Any = None
        self._watcher: Any = None
        self._listeners: Dict[str, _Listener] = {}
        self._held = False
        #: prefix -> patterns of ensembles that need it
        self._subscribed: Counter[str] = Counter()

    def hear(self, ensemble: str, topics: FrozenSet[str]) -> None:
        """Deliver the events of these topics to the ensemble from now on, and of no others. Raises OSError."""
        if not topics and ensemble not in self._listeners:
            return
        listener = self._listeners.setdefault(ensemble, _Listener())
        had, listener.topics = listener.topics, topics
        for pattern in topics - had:
            prefix = subscription(pattern)
            if not self._subscribed[prefix]:
                self._open().event_subscribe(prefix)
            self._subscribed[prefix] += 1
        for pattern in had - topics:
            prefix = subscription(pattern)
            self._subscribed[prefix] -= 1
            if not self._subscribed[prefix]:
                del self._subscribed[prefix]
                self._open().event_unsubscribe(prefix)
        if not topics:
            del self._listeners[ensemble]

    def hold(self, on: bool) -> None:
        """Deliver nothing while it is on."""
        self._held = on

    def stop(self) -> None:
        """Hear nothing more."""
        self._listeners.clear()
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.destroy()
            self._watcher = None
        self._handle = None

    def _open(self) -> Any:
        if self._handle is None:
            handle = self._connect()
            lib.flux_set_reactor(handle.handle, lib.flux_get_reactor(self._main.handle))
            # the reactor is freed with the handle that made it, which so has to go last
            handle.owner_of_reactor = self._main
            self._watcher = handle.msg_watcher_create(guarded(self._log, self._event), FLUX_MSGTYPE_EVENT, "*")
            self._watcher.start()
            self._handle = handle
        return self._handle

    def _event(self, _handle: Any, _watcher: Any, msg: Any, _args: Any) -> None:
        topic = msg.topic
        heard = [e for e, one in self._listeners.items() if any(matches(topic, pattern) for pattern in one.topics)]
        if not heard:
            return
        data = _data(msg)
        for ensemble in heard:
            if self._allowed(ensemble, topic):
                self._deliver(ensemble, Signal(self._clock(), topic, data, "", True))

    def _allowed(self, ensemble: str, topic: str) -> bool:
        listener, now = self._listeners[ensemble], time.monotonic()
        listener.allowance = min(_RATE, listener.allowance + (now - listener.t) * _RATE)
        listener.t = now
        if listener.allowance >= 1.0 and not self._held:
            listener.allowance -= 1.0
            return True
        if now - listener.warned > _QUIET:
            listener.warned = now
            why = "events are held" if self._held else f"more than {_RATE:.0f} events a second on the bus"
            text = f"ensemble {ensemble}: {why}, the last one {topic}; some are dropped"
            self._log(syslog.LOG_WARNING, text)
        return False


def _data(msg: Any) -> Dict[str, Any]:
    """The event's payload, where it is a JSON object and not too long."""
    try:
        text = msg.payload_str
        if text is None or len(text) > MOST_DATA:
            return {}
        data = json.loads(text, parse_constant=str)
    except (OSError, ValueError, UnicodeDecodeError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
