# SPDX-License-Identifier: MIT
"""One who watches and does not read, on the local queue."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Dict

from hosts import Client, Host

from t.stopped_watcher import stopped_and_continued


def test_a_stopped_watcher_is_cut_and_misses_nothing(
    start: Callable[..., Host], connect: Callable[[Host], Client], tmp_path: Path
) -> None:
    client = connect(start())

    def ask(endpoint: str, payload: Dict[str, Any]) -> Dict[str, Any]:
        answer: Dict[str, Any] = client.call(endpoint, payload)["ok"]
        return answer

    stopped_and_continued(ask, "local", {**os.environ}, tmp_path)
