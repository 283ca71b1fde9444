# SPDX-License-Identifier: MIT
"""Who asks the service of a story, and what is answered; what they do is planned by the story."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List, Optional

from ensemble.service.protocol import Reply
from t.engine.simulation.files import File


class Answer(Reply):
    """What one request is answered."""

    def __init__(
        self, caller: str, took: Callable[[Dict[str, Any]], None], refused: Callable[[int, str], None]
    ) -> None:
        self.caller = caller
        self._took = took
        self._refused = refused

    def send(self, payload: Dict[str, Any]) -> None:
        self._took(json.loads(json.dumps(payload, allow_nan=False)))

    def error(self, errno: int, text: str) -> None:
        self._refused(errno, text)


class User:
    """One who submits a file, watches it, and sees to it that it ends."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.id: Optional[str] = None
        self.resumed = 0
        self.over = False
        #: the life of the service to which the open stream leads; 0 for none
        self.watching = 0
        #: lines seen; those who watch come back with the last one they have
        self.seen: List[Dict[str, Any]] = []
