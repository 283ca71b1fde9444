# SPDX-License-Identifier: MIT
"""Taking the messages of one kind off a handle, as they are. Imports flux.

Flux's bindings make an object of each message first, which costs more than all that is done with most of the journal's.
So libflux calls us itself. Where the system lets no process make a function for C at run time, the bindings are used.
"""

from __future__ import annotations

from typing import Any, Callable

import flux
from flux.core.inner import ffi, lib

from ensemble.members.guard import Log, guarded

#: makes a function for C; raises MemoryError where it may not
_callback = ffi.callback


class Messages:
    """Calls `take(flux_msg_t *)` for each message of that type and topic, until `stop`. Raises OSError."""

    def __init__(self, handle: flux.Flux, type: int, topic: bytes, log: Log, take: Callable[[Any], None]) -> None:
        taken = guarded(log, take)
        self._watcher: Any = None
        self._handler: Any = None
        try:
            # kept as long as the handler is, which knows it by its address alone
            self._function = _callback("flux_msg_handler_f", lambda _handle, _handler, msg, _arg: taken(msg))
        except (MemoryError, SystemError):
            self._watcher = handle.msg_watcher_create(lambda _h, _w, msg, _a: taken(msg.handle), type, topic.decode())
            self._watcher.start()
            return
        glob = ffi.new("char[]", topic)
        match = ffi.new(
            "struct flux_match *",
            {"typemask": type, "matchtag": flux.constants.FLUX_MATCHTAG_NONE, "topic_glob": glob},
        )
        self._handler = lib.flux_msg_handler_create(handle.handle, match[0], self._function, ffi.NULL)
        if self._handler == ffi.NULL:
            raise OSError(ffi.errno, f"messages of {topic.decode()} cannot be taken")
        lib.flux_msg_handler_start(self._handler)

    def stop(self) -> None:
        """Take none any more."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.destroy()
        elif self._handler is not None:
            lib.flux_msg_handler_stop(self._handler)
            lib.flux_msg_handler_destroy(self._handler)
        self._watcher = self._handler = None
