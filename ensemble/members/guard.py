# SPDX-License-Identifier: MIT
"""The one guard that every callback of an event loop goes through.

A callback that raises must never stop the loop that serves everyone else: the error is logged with its traceback,
and the loop goes on.
"""

from __future__ import annotations

import syslog
import traceback
from typing import Any, Callable

#: takes a syslog level and a text
Log = Callable[[int, str], None]


def guarded(log: Log, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, made so that it never raises: an exception is logged at LOG_ERR and None is returned."""

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception:
            name = getattr(function, "__qualname__", repr(function))
            log(syslog.LOG_ERR, f"error in {name}, going on: {traceback.format_exc()}")
            return None

    return call
