# SPDX-License-Identifier: MIT
"""One `watch` stream, and how much of it one request buys.

Law of this file: nobody is sent more than they have asked for. Flux has no flow control: what is sent to a process
that is stopped, or slow, queues in its broker without end. So one request buys WATCH_RECORDS records and
WATCH_MESSAGES messages, signs of life included. Then the stream is cut with a reason, the service forgets it, and who
has read it all asks again behind the last record that came. One that reads is served at its own pace and loses
nothing; one that does not costs a bounded number of bytes, and no time.
"""

from __future__ import annotations

import errno
from typing import Any, Callable, Dict, List, Optional

from ensemble.service.protocol import ENDS, WATCH_MESSAGES, WATCH_RECORDS, Reply

#: records in one message
MESSAGE = 500

#: at most so many records (the second) with a greater seq (the first), in order
Read = Callable[[int, int], List[Dict[str, Any]]]


class Watcher:
    """One stream, until what was bought is spent."""

    def __init__(self, reply: Reply, since: int, payload: Any = None) -> None:
        self.reply = reply
        #: seq of the last record sent
        self.since = since
        #: what the caller sent, to match a `watch-cancel`
        self.payload = payload
        #: False once it was cut or has ended: nothing is sent any more
        self.open = True
        self._records = WATCH_RECORDS
        self._messages = WATCH_MESSAGES

    def tell(self, read: Read, picture: Optional[Dict[str, Any]] = None) -> None:
        """Send the records behind the last one sent, and then the `metric` record, if one is given."""
        if not self.open:
            return
        wanted = self._records
        records = read(self.since, wanted)
        # the picture goes before the record of the end, which closes the stream
        if picture is not None and len(records) < wanted:
            if records and is_end(records[-1]):
                end = records[-1]
                records = [*records[:-1], {**picture, "seq": end["seq"] - 1}, end]
            else:
                records = [*records, picture]
        for begin in range(0, len(records), MESSAGE):
            part = records[begin : begin + MESSAGE]
            # a picture carries the seq of a record that may not have been sent
            self.since = next((one["seq"] for one in reversed(part) if one["type"] != "metric"), self.since)
            self._send(part)
            if not self.open:
                return

    def keepalive(self) -> None:
        """Show that the service lives."""
        if self.open:
            self._send([])

    def end(self) -> None:
        """All has been sent: the stream is complete."""
        if self.open:
            self.open = False
            self.reply.end()

    def cut(self, number: int, reason: str) -> None:
        """End the stream before its end."""
        if self.open:
            self.open = False
            self.reply.error(number, reason)

    def _send(self, records: List[Dict[str, Any]]) -> None:
        self.reply.send({"records": records})
        self._records -= len(records)
        self._messages -= 1
        if self._records <= 0 or self._messages <= 0:
            self.cut(
                errno.EOVERFLOW,
                f"cut: one request is answered by {WATCH_RECORDS} records in {WATCH_MESSAGES} messages at most, so that "
                f"one who does not read holds nobody up; ask again with since={self.since}",
            )


def is_end(record: Dict[str, Any]) -> bool:
    """Is it the record of a final state?"""
    return record["type"] == "state" and record.get("state") in ENDS
