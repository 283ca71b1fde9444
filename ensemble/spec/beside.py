# SPDX-License-Identifier: MIT
"""The files that a spec names: read once, by whoever submits it, and from then on kept with it as text.

Law of this file: content is looked up by the path as the spec spells it. The command reads from its own directory
(`Disk`) and sends along what it read; the service, and whoever brings an ensemble back, has only that (`Given`).
"""

from __future__ import annotations

import os
import stat
from typing import Dict, Mapping

from ensemble.spec.faults import escape

#: bytes that all such files may have together; they travel, and are kept, with the spec
MOST_BYTES = 1 << 20


class Files:
    """Where the content of files comes from. `read` has what was asked for so far."""

    def __init__(self) -> None:
        self.read: Dict[str, str] = {}

    def text(self, path: str) -> str:
        """The content of that file. Raises ValueError with a sentence."""
        if path not in self.read:
            self.read[path] = self._text(path)
        return self.read[path]

    def _text(self, path: str) -> str:
        raise NotImplementedError


class Given(Files):
    """Content that is there already."""

    def __init__(self, given: Mapping[str, str]) -> None:
        super().__init__()
        self._given = given

    def _text(self, path: str) -> str:
        if path not in self._given:
            raise ValueError("it was not sent along with the ensemble; submit it with `run` or `submit`")
        return self._given[path]


class Disk(Files):
    """The file system, from the current directory on."""

    def _text(self, path: str) -> str:
        room = MOST_BYTES - sum(len(text.encode()) for text in self.read.values())
        try:
            # O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ValueError(f"there is no such file in {escape(os.getcwd())}") from None
        except (OSError, ValueError) as exc:
            raise ValueError(f"it cannot be opened ({getattr(exc, 'strerror', None) or exc})") from None
        with open(fd, "rb") as file:
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise ValueError("it is no plain file")
                data = file.read(room + 1)
            except OSError as exc:
                raise ValueError(f"it cannot be read ({exc.strerror})") from None
        if len(data) > room:
            raise ValueError(f"the files that an ensemble names may have {MOST_BYTES >> 10} KiB together")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise ValueError("it is no text in UTF-8") from None
