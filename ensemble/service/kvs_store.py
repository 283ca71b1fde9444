# SPDX-License-Identifier: MIT
"""The store in Flux's KVS: what was submitted outlives the service, and a restart of the instance. Imports flux.

    ensemble.<id>.given            what was submitted, and the version of the form
    ensemble.<id>.log.<b>.<n>.lines      events and intents, lines of JSON: [number, event, intents]
    ensemble.<id>.records.<b>.<n>.lines  records, lines of JSON; n is the first one's seq
    ensemble.<id>.rows.<b>.<n>.lines     rows of ended jobs, lines of JSON; n is the first one's place
    ensemble.<id>.snapshot         {number, seq, state, log, past}: `log` is the first segment after it, `past` the bytes of
                                   packs by shelf
    ensemble.<id>.past.<s>.<n>     lines of the log before the snapshot, packed (`past.py`); n is the first one's number
    ensemble.<id>.end              the final status

Law of this file: one transaction at a time is on its way, for all ensembles together, and what comes meanwhile makes
up the next one; so a busy instance pays one round trip for many events. The KVS keeps the list of a key's blobs in the
directory that the key is in, writes that directory and all above it anew at every append, and never gives space back.
So a segment is closed after SEGMENT appends, has a directory to itself, and these lie in directories `b` = n // BUCKET:
all are small. A transaction that fails is sent again until it is done; if it was done all the same, its lines stand
there twice, and the numbers tell. Nor is any sent while the disk under the KVS takes nothing (`kvs_disk.py`): ensembles
stand still rather than go on with what a crash of the broker would undo.
What waits is counted in bytes: from FULL on the store asks for no more events, until it is down to EASY. What the
KVS holds of one ensemble is bounded too: of the records the last KEPT_RECORDS and what else is in their first
segment, of the log what came after the last snapshot and the packs of what came before, and a row for each job that has
ended. (Flux itself reclaims no space on disk while the instance runs.)
Writing and reading stay in one file of more than 400 lines, because each is the other's explanation.
"""

from __future__ import annotations

import errno
import gzip
import json
import syslog
import zlib
from bisect import bisect_right
from collections import deque
from itertools import islice
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple, Union

import flux
import flux.kvs
from flux.core.inner import ffi, raw

from ensemble.members.guard import guarded
from ensemble.service.kvs_disk import Disk, why
from ensemble.service.past import SHELF, Packer, sizes_from, superfluous, unpack
from ensemble.service.store import KEPT_RECORDS, Commit, Done, Snapshot, Store, Stored, damaged, recent, sound

ROOT = "ensemble"
#: version of the form; a greater one was written by a newer release
FORMAT = 1
#: never that of a job, which its environment names
_NAMESPACE = "primary"
#: appends to one key before the next is begun; numbers of lines in one directory
SEGMENT = 50
BUCKET = 2500
#: records kept in memory of one ensemble, so that watchers need no look-up
_RECENT = 2000
#: seconds before a failed transaction is sent again: at first, at most
_RETRY = (0.2, 10.0)
#: bytes of one transaction; what is beyond waits for the next
_BYTES = 4 << 20
#: bytes of commits that wait, from which on there may be no more; and down to which
FULL, EASY = 16 << 20, 4 << 20
#: seconds given to `close` for what is on its way
_LAST = 5.0

_APPEND = 32
_SYNC = 4
#: how a pack begins, and no line of JSON
_GZIP = b"\x1f\x8b"


class _Put(NamedTuple):
    """One operation of a transaction. `value` None unlinks."""

    key: str
    value: Union[str, bytes, None]
    append: bool = False


class _Change(NamedTuple):
    """What goes into one transaction together, and who is told."""

    puts: Tuple[_Put, ...]
    done: Callable[[Optional[str]], None]
    #: bytes of the event that it keeps
    size: int = 0
    #: durable before it is done, and refused rather than tried again
    sync: bool = False


class _Segments:
    """The keys of one kind of line of one ensemble, named by the number of their first line."""

    def __init__(self, path: str) -> None:
        self.path = path
        #: numbers of first lines, ascending
        self.first: List[int] = []
        self._appends = 0

    def key(self, number: int) -> str:
        """The key for a line of that number; a new one where the last is full."""
        if not self.first or self._appends >= SEGMENT:
            self.rotate(number)
        self._appends += 1
        return self.name(self.first[-1])

    def name(self, first: int) -> str:
        """The key of the segment that begins with that number."""
        return f"{self.path}.{first // BUCKET}.{first}.lines"

    def rotate(self, number: int) -> None:
        if not self.first or self.first[-1] != number:
            self.first.append(number)
        self._appends = 0

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


class _Kept:
    """What the store knows of an ensemble without a look-up."""

    def __init__(self, id: str) -> None:
        self.path = f"{ROOT}.{id}"
        self.log = _Segments(f"{self.path}.log")
        self.records = _Segments(f"{self.path}.records")
        self.rows = _Segments(f"{self.path}.rows")
        #: lines of the log since the last snapshot, and the bytes of packs by shelf
        self.packer = Packer()
        self.past: Dict[int, int] = {}
        self.recent: Deque[Dict[str, Any]] = deque(maxlen=_RECENT)
        #: are the segments known? Those of an ended one are looked for when someone asks for them
        self.known = True
        #: rows committed; and rows committed or on their way
        self.row_count = 0
        self.row_next = 0


class KvsStore(Store):
    """Keeps ensembles in the primary namespace of a Flux instance's KVS."""

    def __init__(self, handle: flux.Flux, log: Callable[[int, str], None]) -> None:
        """`log(level, text)` takes syslog levels."""
        self._handle = handle
        self._log = log
        self._kept: Dict[str, _Kept] = {}
        self._waiting: Deque[_Change] = deque()
        self._sent: List[_Change] = []
        self._delay = _RETRY[0]
        self._timer: Any = None
        #: bytes of commits that are not done
        self._size = 0
        self._full = False
        #: why nothing is kept at present: the KVS takes nothing, or its disk does not
        self._trouble: Optional[str] = None
        self._disk_trouble: Optional[str] = None
        self._disk = Disk(handle, log, self._disk_refuses)

    def trouble(self, id: str) -> Optional[str]:
        reason = self._trouble or self._disk_trouble
        return None if reason is None else f"stands still: {reason}"

    # ---- writing

    def create(self, id: str, given: Dict[str, Any], done: Done) -> None:
        reason = self._trouble or self._disk_trouble
        if reason is not None:
            # behind what is tried again and again it would wait without an answer
            done(reason)
            return
        kept = self._kept[id] = _Kept(id)

        def created(error: Optional[str]) -> None:
            if error is not None:
                self._kept.pop(id, None)
                # it may have been done all the same
                self._change(_Change((_Put(kept.path, None),), lambda error: None))
            done(error)

        puts = (_Put(f"{kept.path}.given", _dumps({"format": FORMAT, **given})),)

        def asked(error: Optional[OSError]) -> None:
            # SYNC where nothing is on its way to the disk for ever; elsewhere it is as durable as the jobs are
            stuck = error is not None and error.errno == errno.ETIMEDOUT
            if error is None or stuck:
                self._change(_Change(puts, created, sync=not stuck))
            else:
                self._kept.pop(id, None)
                done(f"the KVS refuses changes ({why(error)})")

        self._disk.ask(asked)

    def commit(self, id: str, commit: Commit, done: Done) -> None:
        kept = self._kept[id]
        assert kept.known, "an ensemble that has ended is not written"
        line = _dumps([commit.number, commit.event, commit.intents])
        kept.packer.add(commit.number, line)
        puts = [_Put(kept.log.key(commit.number), line + "\n", append=True)]
        if commit.records:
            lines = "".join(_dumps(record) + "\n" for record in commit.records)
            puts.append(_Put(kept.records.key(commit.records[0]["seq"]), lines, append=True))
            old = kept.records.outdated(commit.records[-1]["seq"] - KEPT_RECORDS + 1)
            puts.extend(_Put(key, None) for key in old)
        if commit.rows:
            begin = kept.row_next
            lines = "".join(_dumps([begin + place, row]) + "\n" for place, row in enumerate(commit.rows))
            puts.append(_Put(kept.rows.key(begin), lines, append=True))
            kept.row_next += len(commit.rows)

        def committed(error: Optional[str]) -> None:
            kept.recent.extend(commit.records)
            kept.row_count += len(commit.rows)
            done(error)

        self._change(_Change(tuple(puts), committed, sum(len(put.value or "") for put in puts)))

    def snapshot(self, id: str, snapshot: Snapshot) -> None:
        kept = self._kept[id]
        kept.log.rotate(snapshot.number + 1)
        puts = [_Put(key, None) for key in kept.log.outdated(snapshot.number + 1)]
        for pack in kept.packer.take():
            shelf = pack.first // SHELF
            kept.past[shelf] = kept.past.get(shelf, 0) + len(pack.data)
            puts.append(_Put(f"{kept.path}.past.{shelf}.{pack.first}", pack.data))
        for shelf in superfluous(kept.past):
            del kept.past[shelf]
            puts.append(_Put(f"{kept.path}.past.{shelf}", None))
        value = {**snapshot._asdict(), "log": snapshot.number + 1, "past": kept.past}
        puts.append(_Put(f"{kept.path}.snapshot", _dumps(value)))
        self._change(_Change(tuple(puts), lambda error: None))

    def end(self, id: str, status: Optional[Dict[str, Any]], done: Done) -> None:
        kept = self._kept[id]
        value = None if status is None else _dumps(status)
        if status is not None:
            kept.recent = deque(list(kept.recent)[-50:], maxlen=_RECENT)
        self._change(_Change((_Put(f"{kept.path}.end", value),), done))

    def remove(self, id: str, done: Done) -> None:
        self._kept.pop(id, None)
        self._change(_Change((_Put(f"{ROOT}.{id}", None),), done))

    def close(self) -> None:
        """Wait a bounded time for the transaction on its way, and send one more with what waits."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        self._disk.close()
        rest = [*self._sent, *self._waiting]
        self._sent, self._waiting = [], deque()
        if not rest:
            return
        try:
            self._transact(change._replace(sync=False) for change in rest).wait_for(_LAST)
        except OSError as exc:
            self._log(syslog.LOG_ERR, f"{len(rest)} changes could not be stored at the end: {exc}")

    def _change(self, change: _Change) -> None:
        self._waiting.append(change)
        self._size += change.size
        if not self._sent and self._disk_trouble is None:
            self._send()
        if self._size > FULL and not self._full:
            self._full = True
            guarded(self._log, self.pressure)(True)

    def _send(self) -> None:
        size = 0
        while self._waiting and size < _BYTES:
            # one that must be durable goes alone, so that its refusal refuses nothing else
            if self._waiting[0].sync and self._sent:
                break
            change = self._waiting.popleft()
            self._sent.append(change)
            size += sum(len(put.value or "") for put in change.puts)
            if change.sync:
                break
        self._again()

    def _again(self) -> None:
        self._timer = None
        try:
            future = self._transact(self._sent)
        except OSError as exc:
            self._failed(exc)
            return
        future.then(guarded(self._log, self._committed))

    def _transact(self, changes: Iterable[_Change]) -> Any:
        """One transaction of these changes; a future. Appends to one key become one."""
        txn = flux.kvs.KVSTxn(self._handle)
        merged: Dict[str, List[str]] = {}
        sync = False
        for change in changes:
            sync = sync or change.sync
            for put in change.puts:
                if put.append:
                    merged.setdefault(put.key, []).append(str(put.value or ""))
                    continue
                if put.value is None:
                    # appends come last in the transaction, and would bring back what is unlinked
                    for key in [key for key in merged if key == put.key or key.startswith(f"{put.key}.")]:
                        del merged[key]
                    txn.unlink(put.key)
                else:
                    value = put.value if isinstance(put.value, bytes) else put.value.encode("utf-8", "surrogateescape")
                    raw.flux_kvs_txn_put_raw(txn.txn, 0, put.key.encode(), value, len(value))
        for key, lines in merged.items():
            value = "".join(lines).encode("utf-8", "surrogateescape")
            raw.flux_kvs_txn_put_raw(txn.txn, _APPEND, key.encode(), value, len(value))
        return flux.kvs.commit_async(self._handle, _SYNC if sync else 0, _NAMESPACE, txn.txn)

    def _committed(self, future: Any) -> None:
        try:
            future.get()
        except OSError as exc:
            self._failed(exc)
            return
        if self._trouble is not None:
            self._log(syslog.LOG_NOTICE, "the KVS takes changes again")
        self._trouble = None
        self._disk.changed()
        self._delay = _RETRY[0]
        self._tell(None)

    def _tell(self, error: Optional[str]) -> None:
        """Tell those whose changes were sent what became of them, and send the next ones."""
        sent, self._sent = self._sent, []
        self._size -= sum(change.size for change in sent)
        for change in sent:
            # what one makes of it must not keep it from the others
            guarded(self._log, change.done)(error)
        if self._waiting and not self._sent and self._disk_trouble is None:
            self._send()
        if self._full and self._size <= EASY:
            self._full = False
            guarded(self._log, self.pressure)(False)

    def _failed(self, exc: OSError) -> None:
        if any(change.sync for change in self._sent):
            self._tell(f"the KVS refused it ({why(exc)})")
            return
        if self._trouble is None:
            self._trouble = f"the KVS refuses changes ({why(exc)})"
            self._log(syslog.LOG_ERR, f"{self._trouble}: ensembles stand still until it takes them")
        self._timer = self._handle.timer_watcher_create(self._delay, guarded(self._log, lambda *_: self._again()))
        self._timer.start()
        self._delay = min(2 * self._delay, _RETRY[1])

    def _disk_refuses(self, reason: Optional[str]) -> None:
        if reason is not None:
            self._disk_trouble = f"the KVS cannot write to its disk ({reason})"
            self._log(syslog.LOG_ERR, f"{self._disk_trouble}: ensembles stand still until it can")
            return
        self._disk_trouble = None
        self._log(syslog.LOG_NOTICE, "the KVS can write to its disk again")
        if self._waiting and not self._sent:
            self._send()

    # ---- reading

    def load(self) -> Iterator[Stored]:
        found = []
        for id in self._list(ROOT):
            try:
                found.append(self._load(id))
            except (ValueError, TypeError, KeyError, IndexError, AttributeError, OSError) as exc:
                self._kept[id] = _Kept(id)
                found.append(damaged(id, f"its record in the KVS cannot be read ({exc})"))
        found.sort(key=lambda stored: (stored.given.get("t_submit", 0.0), stored.id))
        return iter(found)

    def _load(self, id: str) -> Stored:
        kept = self._kept[id] = _Kept(id)
        given = self._json(f"{kept.path}.given")
        if given is None:
            raise ValueError("what was submitted is missing")
        version = given.pop("format")
        if version > FORMAT:
            raise ValueError(f"a newer release wrote it in format {version}; this one reads up to {FORMAT}")
        stored = sound(Stored(id, given, status=self._json(f"{kept.path}.end")))
        kept.known = False
        if stored.status is not None and stored.status["state"] != "halted":
            return stored
        self._know(kept)
        kept.past, kept.log.first, number = self._read(stored, kept, kept.packer)
        kept.log.rotate(number + 1)
        return stored

    def _read(self, stored: Stored, kept: _Kept, packer: Packer) -> Tuple[Dict[int, int], List[int], int]:
        """Put the snapshot and the events since then into `stored`, their lines into `packer`.

        The sizes of packs, the segments of the log, and the number of the last event.
        """
        stored.seq = kept.recent[-1]["seq"] if kept.recent else 0
        segments, number, past = self._segments(kept.log), 0, {}
        snapshot = self._json(f"{kept.path}.snapshot")
        if snapshot is not None:
            stored.snapshot = Snapshot(snapshot["number"], snapshot["seq"], snapshot["state"])
            number, past = snapshot["number"], sizes_from(snapshot["past"])
        for first in segments:
            for line in self._lines(kept.log.name(first)):
                if line[0] == number + 1:
                    number += 1
                    stored.events.append((number, line[1]))
                    packer.add(number, _dumps(line))
                elif line[0] > number + 1:
                    raise ValueError(f"event {number + 1} is missing from the log")
        return past, segments, number

    def reload(self, id: str) -> Stored:
        try:
            kept = self._readable(id)
            given = self._json(f"{ROOT}.{id}.given")
            if kept is None or given is None:
                raise ValueError("what was submitted is missing")
            del given["format"]
            stored = sound(Stored(id, given, status=self._json(f"{kept.path}.end")))
            self._read(stored, kept, Packer())
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OSError) as exc:
            return damaged(id, f"its record in the KVS cannot be read ({exc})")
        return stored

    def _know(self, kept: _Kept) -> None:
        """Look which records and rows there are."""
        kept.known = True
        kept.records.first = self._segments(kept.records)
        kept.rows.first = self._segments(kept.rows)
        if kept.records.first:
            kept.recent.extend(_once(self._lines(kept.records.name(kept.records.first[-1])), _seq))
            kept.records.rotate(kept.recent[-1]["seq"] + 1 if kept.recent else 1)
        if kept.rows.first:
            rows = list(self._lines(kept.rows.name(kept.rows.first[-1])))
            kept.row_count = kept.row_next = rows[-1][0] + 1
            kept.rows.rotate(kept.row_count)

    def _segments(self, segments: _Segments) -> List[int]:
        """Numbers of first lines that are there, ascending."""
        buckets = self._list(segments.path)
        return sorted(int(name) for bucket in buckets for name in self._list(f"{segments.path}.{int(bucket)}"))

    def _readable(self, id: str) -> Optional[_Kept]:
        """What is known of an ensemble; None where there is none, or it cannot be read."""
        kept = self._kept.get(id)
        if kept is not None and not kept.known:
            try:
                self._know(kept)
            except (ValueError, TypeError, KeyError, IndexError, OSError) as exc:
                self._log(syslog.LOG_ERR, f"records and rows of ensemble {id} cannot be read ({exc!r}): left out")
        return kept

    def rows(self, id: str, start: int, max: int) -> List[Dict[str, Any]]:
        kept = self._readable(id)
        if kept is None or start >= kept.row_count:
            return []
        count = kept.row_count
        found = (row for place, row in self._numbered(kept.rows.holding(start), _place) if start <= place < count)
        return list(islice(found, max))

    def row_count(self, id: str) -> int:
        kept = self._readable(id)
        return kept.row_count if kept else 0

    def records(self, id: str, since: int, max: int) -> List[Dict[str, Any]]:
        kept = self._readable(id)
        if kept is None or not kept.recent:
            return []
        if kept.recent[0]["seq"] <= since + 1:
            return recent(kept.recent, since, max)
        last = kept.recent[-1]["seq"]
        lines = self._numbered(kept.records.holding(since + 1), _seq)
        return list(islice((record for record in lines if since < record["seq"] <= last), max))

    def events(self, id: str, after: int, max: int) -> List[List[Any]]:
        kept = self._readable(id)
        if kept is None:
            return []
        packs = self._past(kept, after + 1)
        while True:
            found = self._events(kept, packs, after, max)
            now = self._past(kept, after + 1)
            if now == packs:
                return found
            # a snapshot came between: what was in the log may be in a pack now
            packs = now

    def _events(self, kept: _Kept, packs: List[str], after: int, max: int) -> List[List[Any]]:
        found = list(islice((line for line in self._numbered(packs, _place) if line[0] > after), max))
        if len(found) < max:
            # the packs end where the log begins
            last = found[-1][0] if found else after
            segments = _Segments(kept.log.path)
            segments.first = self._segments(segments)
            rest = (line for line in self._numbered(segments.holding(last + 1), _place) if line[0] > last)
            found += islice(rest, max - len(found))
        return found

    def _past(self, kept: _Kept, number: int) -> List[str]:
        """Keys of the packs from the one that holds that event, in order."""
        path = f"{kept.path}.past"
        shelves = sorted(int(shelf) for shelf in self._list(path))
        first = sorted(int(name) for shelf in shelves for name in self._list(f"{path}.{shelf}"))
        first = first[max(0, bisect_right(first, number) - 1) :]
        return [f"{path}.{one // SHELF}.{one}" for one in first]

    def measure(self, id: str) -> Dict[str, int]:
        """Bytes that the KVS holds of an ensemble, by kind, and how many keys. Reads all of it. Raises OSError."""
        path = f"{ROOT}.{id}"
        found: Dict[str, int] = {"keys": 0}
        packs = list(filter(None, map(self._value, self._past(_Kept(id), 0))))
        found["keys"], found["past"] = len(packs), sum(map(len, packs))
        for kind in ("given", "snapshot", "end", "log", "records", "rows"):
            keys = [f"{path}.{kind}"]
            if kind in ("log", "records", "rows"):
                segments = _Segments(f"{path}.{kind}")
                keys = [segments.name(first) for first in self._segments(segments)]
            texts = [text for text in map(self._lookup, keys) if text is not None]
            found[kind] = sum(len(text.encode("utf-8", "surrogateescape")) for text in texts)
            found["keys"] += len(texts)
        return found

    def _numbered(self, keys: Iterable[str], number: Callable[[Any], int]) -> Iterator[Any]:
        """The lines of these keys that can be read, each once."""
        last = -1
        for key in keys:
            try:
                for line in _once(self._lines(key), number):
                    if number(line) > last:
                        last = number(line)
                        yield line
            except (ValueError, TypeError, KeyError, IndexError, EOFError, gzip.BadGzipFile, zlib.error) as exc:
                self._log(syslog.LOG_ERR, f"{key} cannot be read to its end ({exc!r}): the rest of it is left out")

    def _json(self, key: str) -> Any:
        text = self._lookup(key)
        return None if text is None else json.loads(text)

    def _lines(self, key: str) -> Iterator[Any]:
        value = self._value(key) or b""
        if value.startswith(_GZIP):
            yield from unpack(value)
            return
        for line in value.decode("utf-8", "surrogateescape").splitlines():
            yield json.loads(line)

    def _lookup(self, key: str) -> Optional[str]:
        """The text of a key, None where there is none."""
        value = self._value(key)
        return None if value is None else value.decode("utf-8", "surrogateescape")

    def _value(self, key: str) -> Optional[bytes]:
        """The value of a key, None where there is none."""
        future = raw.flux_kvs_lookup(self._handle.handle, _NAMESPACE.encode(), 0, key.encode())
        try:
            value = ffi.new("void **")
            size = ffi.new("size_t *")
            raw.flux_kvs_lookup_get_raw(future, value, size)
            return bytes(ffi.buffer(value[0], size[0])) if size[0] else b""
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                return None
            raise
        finally:
            raw.flux_future_destroy(future)

    def _list(self, path: str) -> List[str]:
        """The names in a directory; none where there is no such directory. Raises OSError."""
        try:
            return list(flux.kvs.get_dir(self._handle, path, namespace=_NAMESPACE))
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                return []
            raise


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _once(lines: Iterable[Any], number: Callable[[Any], int]) -> Iterator[Any]:
    """Those whose number is greater than all before: a transaction that was sent twice may stand there twice."""
    last = -1
    for line in lines:
        if number(line) > last:
            last = number(line)
            yield line


def _seq(record: Any) -> int:
    return int(record["seq"])


def _place(line: Any) -> int:
    return int(line[0])
