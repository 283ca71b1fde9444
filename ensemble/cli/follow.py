# SPDX-License-Identifier: MIT
"""Follows the record stream of one ensemble across a service that goes away and comes back.

Records have sequence numbers without a gap, so a stream that broke is taken up behind the last one seen and nothing
is told twice. A stream that ends before the final state was seen counts as broken too. One that is cut because what
the request bought is spent (EOVERFLOW) is asked for again at once: that is how a reader sets its own pace.
"""

from __future__ import annotations

import errno
import time
from typing import Any, Callable, Dict, Generator, Iterator, List, Optional

from ensemble.cli.common import hint, say
from ensemble.errors import MemberError, NoService, NotFound, ServiceError, ServiceLost
from ensemble.service.client import Client
from ensemble.service.protocol import ENDS

#: seconds after which a service that went away is given up
GIVE_UP = 30.0

Records = List[Dict[str, Any]]


class Follower:
    """Yields batches of records. `client` is the connection in use now, for requests in between."""

    def __init__(self, client: Client, id: str, reconnect: Callable[[], Client], since: int = 0) -> None:
        """`reconnect` opens a new connection. It raises NoService where nobody listens, which only on Flux is
        worth waiting for: there a supervisor restarts the service."""
        self.client = client
        self.id = id
        self.last = since
        #: state of the last state record seen, and its reason
        self.state: Optional[str] = None
        self.reason: Optional[str] = None
        self._reconnect = reconnect

    def batches(self) -> Generator[Optional[Records], None, None]:
        """Batches of new records until the final state; None as a tick. Raises a ServiceError."""
        lost: Optional[ServiceError] = None
        away = 0.0
        while True:
            begun = self.last
            try:
                for answer in self.client.stream("watch", {"id": self.id, "since": self.last}):
                    if lost is not None and answer is not None:
                        say("the service is back; going on where it broke off")
                        lost = None
                    if answer is None:
                        if lost is not None and time.monotonic() - away > GIVE_UP:
                            break
                        yield None
                        continue
                    records = self._new(answer.get("records") or [])
                    yield records
                    if self.state in ENDS:
                        return
                problem: ServiceError = ServiceLost("the service ended the stream before the ensemble had ended")
            except (NoService, ServiceLost) as exc:
                problem = exc
            except NotFound as exc:
                if lost is None:
                    raise
                raise ServiceLost(
                    f"the service was restarted and no longer knows ensemble {self.id}; its jobs may still be there"
                ) from exc
            except ServiceError as exc:
                if exc.errno != errno.EOVERFLOW:
                    raise
                if self.last == begun:
                    # a quiet stream has lived its time, or something is wrong: no hurry in either case
                    yield from _pause(0.2)
                continue
            if lost is None:
                lost, away = problem, time.monotonic()
                say(f"{problem}; trying for {GIVE_UP:g} s to reach it again")
            yield from self._again(lost, away)

    def _new(self, records: Records) -> Records:
        fresh = []
        for record in records:
            seq = int(record.get("seq") or 0)
            if record.get("type") != "metric":
                if seq <= self.last:
                    continue
                if seq > self.last + 1:
                    say(f"records {self.last + 1} to {seq - 1} of {self.id} are not kept any more")
                self.last = seq
            if record.get("type") == "state":
                self.state, self.reason = record.get("state"), record.get("reason")
            fresh.append(record)
        return fresh

    def _again(self, lost: ServiceError, away: float) -> Iterator[None]:
        """Ticks until there is a connection again. Raises ServiceLost when that takes too long or is hopeless."""
        self.client.close()
        while time.monotonic() - away <= GIVE_UP:
            yield from _pause(1.0)
            try:
                self.client = self._reconnect()
                return
            except (NoService, ServiceLost, MemberError) as exc:
                if self.client.member == "local" and isinstance(exc, NoService):
                    raise ServiceLost(
                        f"the local service has died, and the run of {self.id} with it; "
                        f"'{hint('resume', self.id)}' continues it"
                    ) from None
        raise ServiceLost(f"gave up after {GIVE_UP:g} s without the service: {lost}")


def _pause(seconds: float) -> Iterator[None]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.1)
        yield None
