# SPDX-License-Identifier: MIT
"""The line of a remote member: a stream of gRPC on one side, a `Link` of `members/remote.py` on the other.

Law of this file: from messages to what the member takes, and back. One thread of gRPC's reads; the call's own thread
writes. Of events that the service has not taken yet no more than `_WINDOW` are read.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from typing import Any, Dict, Iterator, Optional, Tuple

import grpc

from ensemble.errors import BadRequest, ServiceLost
from ensemble.members.guard import Log
from ensemble.members.remote import Link, Refusal
from ensemble.server.access import answering
from ensemble.server.host import HostedService
from ensemble.server.wire import message

#: events that are read and not taken yet
_WINDOW = 500
#: seconds for the first message
_PATIENCE = 30.0
#: seconds between two looks whether the line is still there
_TICK = 1.0
_ToMember = message("ToMember")


class _Line(Link):
    """Messages for the other side wait here until they are sent."""

    def __init__(self) -> None:
        #: a message, or why the line ends: status and sentence, None where the other side has ended it
        self.out: queue.Queue[Any] = queue.Queue()
        self.room = threading.BoundedSemaphore(_WINDOW)

    def welcome(self) -> None:
        self.out.put(_ToMember(welcome={"server": "ensemble"}))

    def action(self, id: str, ensemble: str, what: str, data: Dict[str, Any]) -> None:
        value: Any = True if what == "look" else data
        self.out.put(_ToMember(action={"id": id, "ensemble": ensemble, **{what: value}}))

    def acknowledge(self, seq: int) -> None:
        self.out.put(_ToMember(acknowledged=seq))

    def close(self, why: str) -> None:
        self.out.put((grpc.StatusCode.UNAVAILABLE, why))

    def refuse(self, why: str) -> None:
        """End the line for what the other side did."""
        self.out.put((grpc.StatusCode.FAILED_PRECONDITION, why))


class Members:
    """The servicer."""

    def __init__(self, host: HostedService, log: Log, streams: int) -> None:
        self._host = host
        self._log = log
        self._streams = threading.BoundedSemaphore(streams)

    def Attach(self, incoming: Iterator[Any], context: Any) -> Iterator[Any]:
        """A member's line, until it breaks."""
        if not self._streams.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many lines of members are open: end one")
        line = _Line()
        try:
            with answering(context, self._log):
                threading.Thread(target=self._read, args=(incoming, line, context), daemon=True).start()
                while context.is_active():
                    try:
                        found = line.out.get(timeout=_TICK)
                    except queue.Empty:
                        continue
                    if found is None:
                        return
                    if isinstance(found, tuple):
                        context.abort(*found)
                    yield found
        finally:
            with contextlib.suppress(ServiceLost):
                self._host.hand(lambda: self._host.member.detach(line))
            self._streams.release()

    def _read(self, incoming: Iterator[Any], line: _Line, context: Any) -> None:
        """Hand over what comes, no faster than it is taken."""
        try:
            first = next(incoming, None)
            if first is None or first.WhichOneof("what") != "register":
                line.refuse("the first message of a line is 'register', with the member's name and identity")
                return
            self._host.hand(lambda: self._attach(line, first.register))
            for given in incoming:
                if given.WhichOneof("what") != "event":
                    line.refuse("'register' is the first message of a line and no other: open a new one")
                    return
                while not line.room.acquire(timeout=_TICK):
                    if not context.is_active():
                        return
                self._event(line, given.event)
        except (BadRequest, Refusal) as exc:
            line.refuse(str(exc))
        except Exception:
            # the line broke, and whoever writes sees it; a message that is none has ended the call already
            return
        finally:
            line.out.put(None)

    def _attach(self, line: _Line, given: Any) -> None:
        try:
            self._host.member.attach(line, given.name, given.identity, given.capabilities)
        except Refusal as exc:
            line.refuse(str(exc))

    def _event(self, line: _Line, event: Any) -> None:
        what, data = event_data(event)

        def taken(refusal: Optional[str]) -> None:
            line.room.release()
            if refusal is not None:
                line.refuse(refusal)

        member = self._host.member
        self._host.hand(lambda: member.take(line, event.seq, event.t, event.ensemble, event.answers, what, data, taken))


def event_data(event: Any) -> Tuple[str, Dict[str, Any]]:
    """What the event says, and the fields of that. Raises BadRequest."""
    what = event.WhichOneof("what") or ""
    value: Any = getattr(event, what) if what else None
    if what in ("acknowledged", "refused", "in_doubt", "lost"):
        return what, {field.name: getattr(value, field.name) for field in value.DESCRIPTOR.fields}
    if what == "done":
        return what, {"id": value.id, "action": value.action, "error": value.error or None}
    if what == "job":
        return what, {
            "id": value.id,
            "name": value.name,
            "context": _object(value.context, event.seq),
            "key": value.key or None,
        }
    if what == "counted":
        return what, {"counts": _object(value, event.seq)}
    if what == "report":
        numbers = {name: x if x - x == 0.0 else "nan" for name, x in value.values.items()}
        return what, {"key": value.key, "values": numbers}
    return what, {}


def _object(text: str, seq: int) -> Dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadRequest(f"event {seq} needs a JSON object where it has {text[:50]!r}")
    return value
