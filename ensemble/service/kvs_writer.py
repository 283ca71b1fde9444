# SPDX-License-Identifier: MIT
"""Writing to Flux's KVS: what goes into which transaction, and when. Imports flux.

Law of this file: one transaction at a time is on its way, for all ensembles together, and what comes meanwhile makes
up the next one; so a busy instance pays one round trip for many events. A transaction costs the broker as much as one
of a job's own, and the more the more directories it touches. So what nobody waits for (`patient`) waits up to GATHER
seconds for company, and what a change has to say besides (`later`) up to LATER. Nothing overtakes: changes are made in
the order in which they came, and what was put off never comes behind a change that `follows`.

A transaction that fails is sent again until it is done. Nor is any sent while the disk under the KVS takes nothing
(`kvs_disk.py`). What waits is counted in bytes: from FULL on `pressure` is told, until it is down to EASY.
"""

from __future__ import annotations

import os
import syslog
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, Iterable, List, NamedTuple, Optional, Sequence, Union

import flux
from flux.core.inner import ffi, lib
from flux.future import Future

from ensemble.members.guard import guarded
from ensemble.service.kvs_disk import Disk, why
from ensemble.service.store import Done

#: never that of a job, which its environment names
NAMESPACE = "primary"
_NAMESPACE = NAMESPACE.encode()
#: seconds before a failed transaction is sent again: at first, at most
_RETRY = (0.2, 10.0)
#: bytes of one transaction; what is beyond waits for the next
_BYTES = 4 << 20
#: bytes of changes that wait, from which on there may be no more; and down to which
FULL, EASY = 16 << 20, 4 << 20
#: seconds that a change which nobody waits for waits for others
GATHER = 0.05
#: seconds for which it is put off what a change has to say besides, and bytes of it
LATER, _MOST_PUT_OFF = 1.0, 1 << 20
#: seconds given to `close` for what is on its way
_LAST = 5.0

_APPEND = 32
_SYNC = 4


class Put(NamedTuple):
    """One operation of a transaction. `value` None unlinks."""

    key: str
    value: Union[str, bytes, None]
    append: bool = False


def _nobody(error: Optional[str]) -> None:
    return


def _error(future: Optional[Future] = None) -> OSError:
    """What libflux has just met, or what became of a future."""
    number = ffi.errno
    text = lib.flux_future_error_string(future.pimpl.handle) if future is not None else ffi.NULL
    return OSError(number, os.strerror(number) if text == ffi.NULL else ffi.string(text).decode(errors="replace"))


def _checked(status: int) -> None:
    if status < 0:
        raise _error()


def _put(txn: Any, flags: int, key: str, value: Union[str, bytes]) -> None:
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    _checked(lib.flux_kvs_txn_put_raw(txn, flags, key.encode(), data, len(data)))


class Change(NamedTuple):
    """What goes into one transaction together, and who is told."""

    #: called with the number of the transaction when the change's turn has come
    make: Callable[[int], Sequence[Put]]
    done: Done = _nobody
    #: bytes, about
    size: int = 0
    #: durable before it is done, and refused rather than tried again
    sync: bool = False
    #: nobody waits for it
    patient: bool = False
    #: what was put off before must not come after it
    follows: bool = True
    #: goes into this transaction or a later one
    later: Optional[Change] = None


class Writer:
    """Makes changes to the primary namespace, in order."""

    def __init__(self, handle: flux.Flux, log: Callable[[int, str], None], pressure: Callable[[bool], None]) -> None:
        self._handle = handle
        self._log = log
        self._pressure = guarded(log, pressure)
        self._waiting: Deque[Change] = deque()
        #: when the first of them came, by the clock that never goes back
        self._waiting_since = 0.0
        #: what those that were sent had to say besides, its bytes, and when the first of it was put off
        self._put_off: Deque[Change] = deque()
        self._put_off_size = 0
        self._put_off_since = 0.0
        self._sent: List[Change] = []
        #: the operations of what was sent, made once however often it is sent
        self._puts: List[Put] = []
        self._turn = 0
        self._delay = _RETRY[0]
        # A watcher is kept by its handle until it is destroyed, so there is one of each, set anew each time.
        self._retry = handle.timer_watcher_create(0.0, guarded(log, lambda *_: self._again()))
        self._gather = handle.timer_watcher_create(0.0, guarded(log, self._ran_out))
        #: when `_gather` runs out, by the clock that never goes back; None: it is not set
        self._gather_ends: Optional[float] = None
        self._on_committed = guarded(log, self._committed)
        #: of what waits, how many are not patient
        self._pressing = 0
        #: bytes that are not done
        self._size = 0
        self._full = False
        #: why nothing is kept at present: the KVS takes nothing, or its disk does not
        self._trouble: Optional[str] = None
        self._disk_trouble: Optional[str] = None
        self.disk = Disk(handle, log, self._disk_refuses)

    @property
    def trouble(self) -> Optional[str]:
        """Why nothing is kept at present; None where all is well."""
        return self._trouble or self._disk_trouble

    def change(self, change: Change) -> None:
        """Make a change, behind those that came before."""
        if not self._waiting:
            self._waiting_since = time.monotonic()
        self._waiting.append(change)
        self._size += change.size + (change.later.size if change.later else 0)
        self._pressing += not change.patient
        self._go_on()
        if self._size > FULL and not self._full:
            self._full = True
            self._pressure(True)

    def close(self) -> None:
        """Wait a bounded time for the transaction on its way, and send one more with what waits."""
        for timer in (self._retry, self._gather):
            timer.stop()
            timer.destroy()
        self.disk.close()
        rest = len(self._sent) + len(self._put_off) + len(self._waiting)
        self._turn += 1
        puts = list(self._puts)
        for change in (*self._put_off, *self._waiting):
            puts.extend(change.make(self._turn))
            if change.later is not None:
                puts.extend(change.later.make(self._turn))
        self._sent, self._puts, self._put_off, self._waiting = [], [], deque(), deque()
        if not rest:
            return
        try:
            self._transact(puts, sync=False).wait_for(_LAST)
        except OSError as exc:
            self._log(syslog.LOG_ERR, f"{rest} changes could not be stored at the end: {exc}")

    def _go_on(self) -> None:
        """Send what waits, if nothing is on its way; where nobody waits for any of it, a moment later."""
        if self._sent or not (self._waiting or self._put_off) or self._disk_trouble is not None:
            return
        now = time.monotonic()
        whole = bool(self._put_off) and (
            self._full or self._put_off_size > _MOST_PUT_OFF or now >= self._put_off_since + LATER
        )
        if whole or self._pressing or (self._waiting and now >= self._waiting_since + GATHER):
            self._send(whole, now)
        ends = [self._waiting_since + GATHER] if self._waiting else []
        if self._put_off:
            ends.append(self._put_off_since + LATER)
        # What has come may be due before what it was set for.
        if ends and (self._gather_ends is None or min(ends) < self._gather_ends):
            self._gather_ends = min(ends)
            self._set(self._gather, max(0.0, self._gather_ends - now))

    def _set(self, timer: Any, seconds: float) -> None:
        if timer.handle is None:
            # closed
            return
        # The reactor's idea of now is that of its last turn.
        lib.flux_reactor_now_update(lib.flux_get_reactor(self._handle.handle))
        lib.flux_watcher_stop(timer.handle)
        lib.flux_timer_watcher_reset(timer.handle, seconds, 0.0)
        lib.flux_watcher_start(timer.handle)

    def _ran_out(self, *_: Any) -> None:
        # What it was set for may have gone with others meanwhile; it is set anew for what is left.
        self._gather_ends = None
        self._go_on()

    def _send(self, whole: bool, now: float) -> None:
        self._turn += 1
        size = 0
        whole = whole or any(change.follows for change in self._waiting)
        if whole:
            while self._put_off and size < _BYTES:
                change = self._put_off.popleft()
                self._put_off_size -= change.size
                size += self._take(change)
        while self._waiting and size < _BYTES and not (whole and self._put_off):
            # one that must be durable goes alone, so that its refusal refuses nothing else
            if self._waiting[0].sync and self._sent:
                break
            change = self._waiting.popleft()
            self._pressing -= not change.patient
            size += self._take(change)
            if change.later is not None and whole:
                size += self._take(change.later)
            elif change.later is not None:
                if not self._put_off:
                    self._put_off_since = now
                self._put_off.append(change.later)
                self._put_off_size += change.later.size
            if change.sync:
                break
        self._again()

    def _take(self, change: Change) -> int:
        puts = change.make(self._turn)
        self._sent.append(change)
        self._puts.extend(puts)
        return sum(len(put.value or "") for put in puts)

    def _again(self) -> None:
        try:
            future = self._transact(self._puts, any(change.sync for change in self._sent))
        except OSError as exc:
            self._failed(exc)
            return
        future.then(self._on_committed)

    def _transact(self, puts: Iterable[Put], sync: bool) -> Future:
        """One transaction; a future. Appends to one key become one. Raises OSError."""
        txn = lib.flux_kvs_txn_create()
        try:
            merged: Dict[str, List[str]] = {}
            for put in puts:
                if put.append:
                    merged.setdefault(put.key, []).append(str(put.value or ""))
                    continue
                if put.value is None:
                    # appends come last in the transaction, and would bring back what is unlinked
                    for key in [key for key in merged if key == put.key or key.startswith(f"{put.key}.")]:
                        del merged[key]
                    _checked(lib.flux_kvs_txn_unlink(txn, 0, put.key.encode()))
                else:
                    _put(txn, 0, put.key, put.value)
            for key, lines in merged.items():
                _put(txn, _APPEND, key, "".join(lines))
            future = lib.flux_kvs_commit(self._handle.handle, _NAMESPACE, _SYNC if sync else 0, txn)
            if future == ffi.NULL:
                raise _error()
        finally:
            lib.flux_kvs_txn_destroy(txn)
        return Future(future)

    def _committed(self, future: Future) -> None:
        # Ends a cycle of references, so that the future is freed now.
        future.cb_handle = None
        if lib.flux_future_get(future.pimpl.handle, ffi.NULL) < 0:
            self._failed(_error(future))
            return
        if self._trouble is not None:
            self._log(syslog.LOG_NOTICE, "the KVS takes changes again")
        self._trouble = None
        self._delay = _RETRY[0]
        self._tell(None)
        self.disk.changed()

    def _tell(self, error: Optional[str]) -> None:
        """Tell those whose changes were sent what became of them, and send the next ones."""
        sent, self._sent, self._puts = self._sent, [], []
        self._size -= sum(change.size for change in sent)
        for change in sent:
            # what one makes of it must not keep it from the others
            guarded(self._log, change.done)(error)
        self._go_on()
        if self._full and self._size <= EASY:
            self._full = False
            self._pressure(False)

    def _failed(self, exc: OSError) -> None:
        if any(change.sync for change in self._sent):
            self._tell(f"the KVS refused it ({why(exc)})")
            return
        if self._trouble is None:
            self._trouble = f"the KVS refuses changes ({why(exc)})"
            self._log(syslog.LOG_ERR, f"{self._trouble}: ensembles stand still until it takes them")
        self._set(self._retry, self._delay)
        self._delay = min(2 * self._delay, _RETRY[1])

    def _disk_refuses(self, reason: Optional[str]) -> None:
        if reason is not None:
            self._disk_trouble = f"the KVS cannot write to its disk ({reason})"
            self._log(syslog.LOG_ERR, f"{self._disk_trouble}: ensembles stand still until it can")
            return
        self._disk_trouble = None
        self._log(syslog.LOG_NOTICE, "the KVS can write to its disk again")
        self._go_on()
