# SPDX-License-Identifier: MIT
"""Files that an ensemble's file names, such as `custom: {file: steer.py}`: read once, where the user submits.

Law of this file: whoever loads a spec asks a `Beside` for the text of such a file and never opens one. The command has
one that reads, from the folder of the ensemble's file or else from its own directory, and keeps what it has read (`read`):
that is sent along and stored with the ensemble. The service has one of the stored texts, so that a restart needs no file of the user's.
"""

from __future__ import annotations

import os
from typing import Dict, Mapping, Optional

#: bytes of one file, and of all files of an ensemble: they travel in one request
MOST, MOST_IN_ALL = 1 << 20, 2 << 20


class Beside:
    """The texts of files by the names that the ensemble's file has for them."""

    #: is this where the user submits, so that what is installed here is what the user has?
    here = False

    def __init__(self, texts: Optional[Mapping[str, str]] = None) -> None:
        #: name as written -> text, of all that was asked for
        self.read: Dict[str, str] = {}
        self._texts = dict(texts or {})

    def text(self, name: str) -> str:
        """The text of the file of that name. Raises ValueError with a sentence."""
        if name not in self.read:
            self.read[name] = self._text(name)
            self._bounded()
        return self.read[name]

    def _bounded(self) -> None:
        if sum(len(text) for text in self.read.values()) > MOST_IN_ALL:
            raise ValueError(f"the files that this one names have more than {MOST_IN_ALL >> 20} MiB in all")

    def kept(self, name: str) -> Optional[str]:
        """What was made where the user submitted, and sent along under that name; None where nothing was."""
        return self._texts.get(name)

    def keep(self, name: str, text: str) -> None:
        """Have a text that was made here sent along. Raises ValueError with a sentence."""
        self.read[name] = text
        self._bounded()

    def _text(self, name: str) -> str:
        if name not in self._texts:
            raise ValueError("it was not sent along with the ensemble's file: submit with the command 'flux ensemble'")
        return self._texts[name]


class Folder(Beside):
    """Reads the files, each once, relative to a folder; one that is not there, from the current directory on."""

    here = True

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def _text(self, name: str) -> str:
        path = os.path.join(self._folder, name)
        if not os.path.lexists(path):
            path = name
        try:
            # as for the ensemble's own file, a FIFO must not hold us up
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as file:
                data = file.read(MOST + 1)
        except (OSError, ValueError) as exc:
            raise ValueError(f"it cannot be read: {getattr(exc, 'strerror', None) or exc}") from None
        if len(data) > MOST:
            raise ValueError(f"it is larger than {MOST >> 20} MiB")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise ValueError(f"its byte {exc.start + 1} is not UTF-8") from None
