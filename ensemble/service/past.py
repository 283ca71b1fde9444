# SPDX-License-Identifier: MIT
"""The log of events beyond what recovery needs: kept packed, so that a run can be replayed when it has ended.

Law of this file: a snapshot makes the events before it superfluous for recovery. Their lines go into packs then, which are
let go of, oldest first, once there are more than KEPT bytes of them. Nothing here does I/O, or adds to a commit: a line
that waits for the next snapshot costs its place in memory, and about a tenth of it once PART bytes of them are packed.
"""

from __future__ import annotations

import gzip
import json
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple

#: bytes of packs kept of one ensemble; a job of a plain bag makes some 65
KEPT = 16 << 20
#: bytes of lines that are packed together, and how many such parts make a pack
_PART, _PARTS = 16 << 10, 16
#: packs lie on shelves, by the number of their first event; a shelf goes as a whole
SHELF = 25_000


class Pack(NamedTuple):
    """Lines of consecutive events, from number `first` on."""

    first: int
    data: bytes


class Packer:
    """Takes lines of the log, and gives them back packed."""

    def __init__(self) -> None:
        self._lines: List[str] = []
        self._size = 0
        self._number = 0
        # each a gzip file of its own; put together they are one as well
        self._parts: List[Pack] = []

    def add(self, number: int, line: str) -> None:
        """One more line, without its end; its number follows that of the last one. `pack` is what takes time."""
        if not self._lines:
            self._number = number
        self._lines.append(line)
        self._size += len(line)

    def pack(self) -> None:
        """Pack the lines, as far as they fill parts."""
        if self._size >= _PART:
            self._pack()

    def take(self) -> List[Pack]:
        """All lines since the last call."""
        self._pack()
        if self._lines:
            self._part(self._lines)
            self._lines, self._size = [], 0
        parts, self._parts = self._parts, []
        packs = [parts[n : n + _PARTS] for n in range(0, len(parts), _PARTS)]
        return [Pack(pack[0].first, b"".join(part.data for part in pack)) for pack in packs]

    def _pack(self) -> None:
        begin = size = 0
        for end, line in enumerate(self._lines, 1):
            size += len(line)
            if size >= _PART:
                self._part(self._lines[begin:end])
                self._number += end - begin
                begin, size = end, 0
        self._lines, self._size = self._lines[begin:], size

    def _part(self, lines: List[str]) -> None:
        text = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
        self._parts.append(Pack(self._number, gzip.compress(text, 6, mtime=0)))


def unpack(data: bytes) -> Iterator[Any]:
    """What the lines of a pack hold. Raises OSError, EOFError or ValueError for a damaged one."""
    for line in gzip.decompress(data).decode("utf-8", "surrogateescape").splitlines():
        yield json.loads(line)


def superfluous(sizes: Mapping[int, int]) -> List[int]:
    """The shelves to be emptied, oldest first, where all have these sizes in bytes; never the newest."""
    left, gone = dict(sizes), []
    while len(left) > 1 and sum(left.values()) > KEPT:
        oldest = min(left)
        del left[oldest]
        gone.append(oldest)
    return gone


def sizes_from(record: Any) -> Dict[int, int]:
    """Sizes by shelf as JSON has them."""
    return {int(shelf): int(size) for shelf, size in (record or {}).items()}
