# SPDX-License-Identifier: MIT
"""How lines are laid out in Flux's KVS: in segments, so that an append stays cheap however many came before it.

The KVS keeps the list of a key's blobs in the directory that the key is in, writes that directory and all above it
anew at every append, and never gives space back. So a segment is closed after APPENDS appends or LINES lines, has a
directory to itself, and these lie in directories `b` = n // BUCKET: all are small. For the log, for which jobs wait,
less depth counts more: each level costs an append about a tenth of a millisecond. Of the log only what came after the last
snapshot is there, so its first few segments may lie in the directory of the ensemble itself.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Iterable, Iterator, List, Set

#: appends to one key, and lines in it, before the next is begun
APPENDS = 50
LINES = 500
#: numbers of lines in one directory
BUCKET = 2500
#: segments of the log that lie in the ensemble's own directory, at most
NEAR = 4


class Segments:
    """The keys of one kind of line of one ensemble, named by the number of their first line."""

    def __init__(self, path: str) -> None:
        self.path = path
        #: numbers of first lines, ascending
        self.first: List[int] = []
        self._appends = self._lines = 0
        #: the transaction that appends at present: its lines to one key are one append
        self._turn = -1

    def key(self, number: int, turn: int, lines: int = 1) -> str:
        """The key for so many lines from that number on, in that transaction; a new one where the last is full."""
        if not self.first or self._lines >= LINES or (self._appends >= APPENDS and turn != self._turn):
            self.rotate(number)
        if turn != self._turn or not self._appends:
            self._turn = turn
            self._appends += 1
        self._lines += lines
        return self.name(self.first[-1])

    def name(self, first: int) -> str:
        """The key of the segment that begins with that number."""
        return f"{self.path}.{first // BUCKET}.{first}.lines"

    def rotate(self, number: int) -> None:
        """Begin a new segment with the line of that number."""
        if not self.first or self.first[-1] != number:
            self.first.append(number)
        self._appends = self._lines = 0

    def outdated(self, number: int) -> List[str]:
        """Forget the segments that hold nothing from that number on; what is to be unlinked for it."""
        gone = []
        while len(self.first) > 1 and self.first[1] <= number:
            first = self.first.pop(0)
            # with its last segment a directory goes
            whole = first // BUCKET != self.first[0] // BUCKET
            gone.append(f"{self.path}.{first // BUCKET}" + ("" if whole else f".{first}"))
        return gone

    def holding(self, number: int) -> Iterator[str]:
        """Keys from the one that holds that number, in order."""
        for first in self.first[max(0, bisect_right(self.first, number) - 1) :]:
            yield self.name(first)


class Log(Segments):
    """The keys of the log: as many as NEAR of them are `<path>-<n>`. With `near` 0 there are none of these."""

    def __init__(self, path: str, near: int = NEAR) -> None:
        super().__init__(path)
        self.most = near
        #: of `first`, those that lie near
        self.near: Set[int] = set()

    def found(self, near: Iterable[int]) -> None:
        """These are there besides."""
        self.near = set(near)
        self.first = sorted({*self.first, *self.near})

    def name(self, first: int) -> str:
        return f"{self.path}-{first}" if first in self.near else super().name(first)

    def rotate(self, number: int) -> None:
        new = number not in self.first
        super().rotate(number)
        if new and len(self.near) < self.most:
            self.near.add(number)

    def cut(self, number: int) -> List[str]:
        """Begin a new segment with that number, behind all there is, and forget the others: what is to be unlinked for it."""
        old = [first for first in self.first if first < number]
        gone = [self.name(first) for first in old if first in self.near]
        far = [first for first in old if first not in self.near]
        self.first = self.first[len(old) :]
        self.near.intersection_update(self.first)
        self.rotate(number)
        buckets = {first // BUCKET for first in self.first if first not in self.near}
        for first in far:
            bucket = first // BUCKET
            # with its last segment a directory goes
            key = f"{self.path}.{bucket}.{first}" if bucket in buckets else f"{self.path}.{bucket}"
            if key not in gone:
                gone.append(key)
        return gone
