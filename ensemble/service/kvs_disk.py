# SPDX-License-Identifier: MIT
"""Whether what the KVS takes reaches its disk. Imports flux.

Theory of operation. The KVS takes changes into the broker's memory, and Flux writes them to its disk a moment later.
Where the disk refuses them (it is full, say) the KVS goes on all the same, and a crash of the broker would undo what
came since. `content.flush` tells: it is answered once everything is on the disk, or with why not. So it is asked every
few seconds while something is changed. Where it says no, `refused` is told, and a small write is tried again and again:
without one Flux would repeat its old answer for ever.

Flux 0.88 never writes again what was refused once, and then `content.flush` gives no answer any more when later
writes succeed; a commit that waits for the disk (SYNC) would hang, and with it all of the KVS. So none is sent before
the disk was asked, and an answer that does not come is taken for what it then most likely is: the disk takes changes,
but what it refused before will never be on it. That is told once, and things go on.
"""

from __future__ import annotations

import errno
import syslog
import time
from typing import Any, Callable, Optional

import flux
import flux.kvs

from ensemble.members.guard import Log, guarded

#: seconds of changes after which the disk is asked
_EVERY = 5.0
#: seconds for an answer, after which there will be none
_PATIENCE = 5.0
#: seconds between two tries where the disk refuses: at first, at most
_RETRY = (0.2, 5.0)
#: what a try writes; not among the ensembles
_TRIAL = "ensemble-disk"


class Disk:
    """`refused(reason)` is called with a sentence when the disk has begun to refuse changes, with None when it has ended."""

    def __init__(self, handle: flux.Flux, log: Log, refused: Callable[[Optional[str]], None]) -> None:
        self._handle = handle
        self._log = log
        self._refused = refused
        self._asked = float("-inf")
        #: the question of `changed` is on its way
        self._asking = False
        #: Flux gave no answer, the last time
        self._stuck = False
        self._trouble = False
        self._delay = _RETRY[0]
        # a watcher is kept by its handle until it is destroyed, so there is one, set anew each time
        self._timer: Any = handle.timer_watcher_create(0.0, guarded(log, lambda *_: self._try()))
        self._closed = False

    def changed(self) -> None:
        """Something was changed: ask now and then."""
        if not self._asking and not self._trouble and time.monotonic() > self._asked + _EVERY:
            self._asking = True
            self._flush(self._answered)

    def ask(self, then: Callable[[Optional[OSError]], None]) -> None:
        """Is everything on the disk? `then(None)` if so; with ETIMEDOUT where no answer comes, else with why not."""
        if self._stuck:
            self.changed()
            then(OSError(errno.ETIMEDOUT, "no answer"))
        else:
            self._flush(then)

    def close(self) -> None:
        """Ask nothing more."""
        self._closed = True
        self._timer.stop()
        self._timer.destroy()

    def _flush(self, then: Callable[[Optional[OSError]], None]) -> None:
        def answered(future: Any) -> None:
            error: Optional[OSError] = None
            try:
                future.get()
            except OSError as exc:
                error = exc
            future.cb_handle = None
            if not self._closed:
                self._note(error)
                then(error)

        self._asked = time.monotonic()
        self._handle.rpc("content.flush").then(guarded(self._log, answered), timeout=_PATIENCE)

    def _note(self, error: Optional[OSError]) -> None:
        """Tell people, once, that Flux does not finish its writing; and that it does so again."""
        stuck = error is not None and error.errno == errno.ETIMEDOUT
        if stuck and not self._stuck:
            self._log(
                syslog.LOG_WARNING,
                "Flux does not finish writing its KVS to the disk (content.flush gives no answer; after a full disk it "
                "never does): things go on, but when this instance ends, ensembles and jobs alike go back to what is "
                "written",
            )
        elif error is None and self._stuck:
            self._log(syslog.LOG_NOTICE, "Flux has written all of its KVS to the disk")
        self._stuck = stuck
        if error is not None and not stuck and not self._trouble:
            self._trouble = True
            self._refused(why(error))
            self._later()

    def _answered(self, error: Optional[OSError]) -> None:
        self._asking = False

    def _later(self) -> None:
        self._timer.reset(self._delay)
        self._delay = min(2 * self._delay, _RETRY[1])

    def _try(self) -> None:
        """Write something new, so that Flux finds out anew whether the disk takes it."""

        def written(future: Any) -> None:
            future.cb_handle = None
            if not self._closed:
                self._flush(self._tried)

        txn = flux.kvs.KVSTxn(self._handle)
        txn.put(_TRIAL, time.time())
        flux.kvs.commit_async(self._handle, 0, "primary", txn.txn).then(guarded(self._log, written))

    def _tried(self, error: Optional[OSError]) -> None:
        if error is not None and not self._stuck:
            self._later()
            return
        self._trouble = False
        self._delay = _RETRY[0]
        self._refused(None)


def why(exc: OSError) -> str:
    """The reason of a refusal, as people want it."""
    text = str(exc.strerror or exc)
    return f"{text}: is the disk of the instance's statedir full?" if exc.errno == errno.ENOSPC else text
