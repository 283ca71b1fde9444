# SPDX-License-Identifier: MIT
"""The store in Flux's KVS: what was submitted outlives the service, and a restart of the instance. Imports flux.

    ensemble.<id>.given            what was submitted, and the version of the form
    ensemble.<id>.log-<n>          what events did, lines of JSON: [number, event, intents, records, rows]; where there are
    ensemble.<id>.log.<b>.<n>.lines      many of these since the last snapshot, the others lie here
    ensemble.<id>.records.<b>.<n>.lines  records, lines of JSON; n is the first one's seq
    ensemble.<id>.rows.<b>.<n>.lines     rows of ended jobs, lines of JSON; n is the first one's place
    ensemble.<id>.snapshot         {number, seq, state, log, past}: `log` is the first segment after it, `past` the bytes of
                                   packs by shelf
    ensemble.<id>.past.<s>.<n>     events and intents before the snapshot, packed (`past.py`); n is the first one's number
    ensemble.<id>.end              the final status

Law of this file: what is kept of an ensemble, and where. `kvs_writer.py` has when it goes into which transaction, and
`kvs_segments.py` why lines are laid out so. A line of the log, for which jobs wait, brings its records and rows with
it, and these go into keys of their own a second later: that saves the broker half of the work while they wait. Where
the service dies before that, `load` finds them in the log. If a transaction that failed was done all the same, its
lines stand there twice, and the numbers tell. While the KVS, or the disk under it, takes nothing, ensembles stand
still rather than go on with what a crash of the broker would undo.
What the KVS holds of one ensemble is bounded: of the records the last KEPT_RECORDS and what else is in their first
segment, of the log what came after the last snapshot and packs of what came before, and a row for each job that has
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
from itertools import chain, islice
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, List, Optional

import flux
from flux.core.inner import ffi, raw

from ensemble.service.kvs_disk import why
from ensemble.service.kvs_segments import NEAR, Log, Segments
from ensemble.service.kvs_writer import NAMESPACE, Change, Put, Writer
from ensemble.service.past import SHELF, Packer, sizes_from, superfluous, unpack
from ensemble.service.store import KEPT_RECORDS, Commit, Done, Snapshot, Store, Stored, damaged, recent, sound

ROOT = "ensemble"
#: version of the form; a greater one was written by a newer release. In 1 no part of the log lies in the ensemble's own
#: directory, and of what began so none ever does
FORMAT = 2
#: records kept in memory of one ensemble, so that watchers need no look-up; and of one that has ended
_RECENT, _RECENT_OF_ENDED = 2000, 50
#: how a pack begins, and no line of JSON
_GZIP = b"\x1f\x8b"


class _Kept:
    """What the store knows of an ensemble without a look-up."""

    def __init__(self, id: str) -> None:
        self.path = f"{ROOT}.{id}"
        self.log = Log(f"{self.path}.log")
        self.records = Segments(f"{self.path}.records")
        self.rows = Segments(f"{self.path}.rows")
        #: events since the last snapshot, and the bytes of packs by shelf
        self.packer = Packer()
        self.past: Dict[int, int] = {}
        #: the latest records: as many as `most`, and the `_apart` last ones, which are in the log alone until now
        self.recent: Deque[Dict[str, Any]] = deque()
        self.most = _RECENT
        self._apart = 0
        #: rows, with their places, which are in the log alone until now
        self.fresh: Deque[List[Any]] = deque()
        #: are the segments known? Those of an ended one are looked for when someone asks for them
        self.known = True
        #: rows committed; and rows committed or on their way
        self.row_count = 0
        self.row_next = 0

    def add(self, records: List[Dict[str, Any]], rows: List[List[Any]]) -> None:
        """These are in the log."""
        self.recent.extend(records)
        self._apart += len(records)
        self.fresh.extend(rows)
        self.row_count += len(rows)

    def settle(self, records: int, rows: int) -> None:
        """So many more are in keys of their own."""
        self._apart -= records
        while len(self.recent) > max(self.most, self._apart):
            self.recent.popleft()
        for _ in range(rows):
            self.fresh.popleft()


class KvsStore(Store):
    """Keeps ensembles in the primary namespace of a Flux instance's KVS."""

    def __init__(self, handle: flux.Flux, log: Callable[[int, str], None]) -> None:
        """`log(level, text)` takes syslog levels."""
        self._handle = handle
        self._log = log
        self._kept: Dict[str, _Kept] = {}
        self._writer = Writer(handle, log, lambda full: self.pressure(full))

    def trouble(self, id: str) -> Optional[str]:
        reason = self._writer.trouble
        return None if reason is None else f"stands still: {reason}"

    # ---- writing

    def create(self, id: str, given: Dict[str, Any], done: Done) -> None:
        reason = self._writer.trouble
        if reason is not None:
            # behind what is tried again and again it would wait without an answer
            done(reason)
            return
        kept = self._kept[id] = _Kept(id)

        def created(error: Optional[str]) -> None:
            if error is not None:
                self._kept.pop(id, None)
                # it may have been done all the same
                self._put(Put(kept.path, None))
            done(error)

        def asked(error: Optional[OSError]) -> None:
            # SYNC where nothing is on its way to the disk for ever; elsewhere it is as durable as the jobs are
            stuck = error is not None and error.errno == errno.ETIMEDOUT
            if error is None or stuck:
                self._put(Put(f"{kept.path}.given", _dumps({"format": FORMAT, **given})), created, sync=not stuck)
            else:
                self._kept.pop(id, None)
                done(f"the KVS refuses changes ({why(error)})")

        self._writer.disk.ask(asked)

    def _put(self, put: Put, done: Done = lambda error: None, sync: bool = False) -> None:
        self._writer.change(Change(lambda turn: (put,), done, sync=sync))

    def commit(self, id: str, commit: Commit, done: Done) -> None:
        kept = self._kept[id]
        assert kept.known, "an ensemble that has ended is not written"
        rows = [[place, row] for place, row in enumerate(commit.rows, kept.row_next)]
        kept.row_next += len(rows)
        event = _dumps([commit.number, commit.event, commit.intents])
        kept.packer.add(commit.number, event)
        record_lines, row_lines = list(map(_dumps, commit.records)), list(map(_dumps, rows))
        line = f"{event[:-1]},[{','.join(record_lines)}],[{','.join(row_lines)}]]\n"

        def committed(error: Optional[str]) -> None:
            kept.add(commit.records, rows)
            done(error)
            # it takes its time, and nobody waits any more
            kept.packer.pack()

        self._writer.change(
            Change(
                lambda turn: (Put(kept.log.key(commit.number, turn), line, append=True),),
                committed,
                len(line),
                patient=commit.patient,
                follows=False,
                later=self._apart(kept, commit.records, record_lines, rows, row_lines),
            )
        )

    def _apart(
        self,
        kept: _Kept,
        records: List[Dict[str, Any]],
        record_lines: List[str],
        rows: List[List[Any]],
        row_lines: List[str],
    ) -> Optional[Change]:
        """Put records and rows, which a line of the log has, into keys of their own; the lines are they in JSON."""
        if not records and not rows:
            return None

        def make(turn: int) -> List[Put]:
            puts = []
            if records:
                key = kept.records.key(records[0]["seq"], turn, len(records))
                puts.append(Put(key, _text(record_lines), append=True))
                old = kept.records.outdated(records[-1]["seq"] - KEPT_RECORDS + 1)
                puts.extend(Put(key, None) for key in old)
            if rows:
                puts.append(Put(kept.rows.key(rows[0][0], turn, len(rows)), _text(row_lines), append=True))
            return puts

        size = sum(map(len, record_lines)) + len(records) + sum(map(len, row_lines)) + len(rows)
        return Change(make, lambda error: kept.settle(len(records), len(rows)), size, patient=True)

    def snapshot(self, id: str, snapshot: Snapshot) -> None:
        kept = self._kept[id]
        begin = snapshot.number + 1
        puts: List[Put] = []
        for pack in kept.packer.take():
            shelf = pack.first // SHELF
            kept.past[shelf] = kept.past.get(shelf, 0) + len(pack.data)
            puts.append(Put(f"{kept.path}.past.{shelf}.{pack.first}", pack.data))
        for shelf in superfluous(kept.past):
            del kept.past[shelf]
            puts.append(Put(f"{kept.path}.past.{shelf}", None))
        puts.append(Put(f"{kept.path}.snapshot", _dumps({**snapshot._asdict(), "log": begin, "past": kept.past})))

        def make(turn: int) -> List[Put]:
            return [*puts, *(Put(key, None) for key in kept.log.cut(begin))]

        self._writer.change(Change(make))

    def end(self, id: str, status: Optional[Dict[str, Any]], done: Done) -> None:
        kept = self._kept[id]
        kept.most = _RECENT if status is None else _RECENT_OF_ENDED
        kept.settle(0, 0)
        self._put(Put(f"{kept.path}.end", None if status is None else _dumps(status)), done)

    def remove(self, id: str, done: Done) -> None:
        self._kept.pop(id, None)
        self._put(Put(f"{ROOT}.{id}", None), done)

    def close(self) -> None:
        """Wait a bounded time for what is on its way, and for what waits."""
        self._writer.close()

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
        kept.log.most = NEAR if version > 1 else 0
        stored = sound(Stored(id, given, status=self._json(f"{kept.path}.end")))
        kept.known = False
        if stored.status is not None and stored.status["state"] != "halted":
            return stored
        self._know(kept)
        self._find(kept.log)
        number = 0
        for line in self._since_snapshot(stored, kept, kept.log):
            number = line[0]
            kept.packer.add(number, _dumps(line[:3]))
            kept.packer.pack()
            self._catch_up(kept, line[3], line[4])
        kept.log.rotate((number or (stored.snapshot.number if stored.snapshot else 0)) + 1)
        stored.seq = kept.recent[-1]["seq"] if kept.recent else 0
        return stored

    def _since_snapshot(self, stored: Stored, kept: _Kept, log: Segments) -> Iterator[Any]:
        """The lines since the last snapshot; it, and the events, go into `stored`, and the sizes of packs into `kept`."""
        number = 0
        snapshot = self._json(f"{kept.path}.snapshot")
        if snapshot is not None:
            stored.snapshot = Snapshot(snapshot["number"], snapshot["seq"], snapshot["state"])
            number, kept.past = snapshot["number"], sizes_from(snapshot["past"])
        for first in log.first:
            for line in self._lines(log.name(first)):
                if line[0] == number + 1:
                    number += 1
                    stored.events.append((number, line[1]))
                    yield line
                elif line[0] > number + 1:
                    raise ValueError(f"event {number + 1} is missing from the log")

    def reload(self, id: str) -> Stored:
        try:
            kept = self._readable(id)
            given = self._json(f"{ROOT}.{id}.given")
            if kept is None or given is None:
                raise ValueError("what was submitted is missing")
            del given["format"]
            stored = sound(Stored(id, given, status=self._json(f"{kept.path}.end")))
            stored.seq = kept.recent[-1]["seq"] if kept.recent else 0
            log = Log(kept.log.path)
            self._find(log)
            deque(self._since_snapshot(stored, kept, log), maxlen=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OSError) as exc:
            return damaged(id, f"its record in the KVS cannot be read ({exc})")
        return stored

    def _catch_up(self, kept: _Kept, records: List[Dict[str, Any]], rows: List[List[Any]]) -> None:
        """Put those into their own keys which a service that died had not."""
        seq = kept.recent[-1]["seq"] if kept.recent else 0
        records = [record for record in records if record["seq"] > seq]
        rows = [row for row in rows if row[0] >= kept.row_next]
        change = self._apart(kept, records, list(map(_dumps, records)), rows, list(map(_dumps, rows)))
        if change is not None:
            kept.add(records, rows)
            kept.row_next = kept.row_count
            self._writer.change(change)

    def _know(self, kept: _Kept) -> None:
        """Look which records and rows there are."""
        kept.known = True
        self._find(kept.records)
        self._find(kept.rows)
        if kept.records.first:
            kept.recent.extend(_once(self._lines(kept.records.name(kept.records.first[-1])), _seq))
            kept.records.rotate(kept.recent[-1]["seq"] + 1 if kept.recent else 1)
        if kept.rows.first:
            rows = list(self._lines(kept.rows.name(kept.rows.first[-1])))
            kept.row_count = kept.row_next = rows[-1][0] + 1
            kept.rows.rotate(kept.row_count)

    def _find(self, segments: Segments) -> None:
        """Look which segments are there."""
        path = segments.path
        buckets = self._list(path)
        segments.first = sorted(int(name) for bucket in buckets for name in self._list(f"{path}.{int(bucket)}"))
        if isinstance(segments, Log):
            folder, _, kind = path.rpartition(".")
            begin = f"{kind}-"
            segments.found(int(name[len(begin) :]) for name in self._list(folder) if name.startswith(begin))

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
        fresh = kept.fresh[0][0] if kept.fresh else count
        lines = self._numbered(kept.rows.holding(start), _place) if start < fresh else iter(())
        stored = (row for place, row in lines if start <= place < fresh)
        return list(islice(chain(stored, (row for place, row in kept.fresh if place >= start)), max))

    def row_count(self, id: str) -> int:
        kept = self._readable(id)
        return kept.row_count if kept else 0

    def records(self, id: str, since: int, max: int) -> List[Dict[str, Any]]:
        kept = self._readable(id)
        if kept is None or not kept.recent:
            return []
        if kept.recent[0]["seq"] <= since + 1:
            return recent(kept.recent, since, max)
        first = kept.recent[0]["seq"]
        lines = self._numbered(kept.records.holding(since + 1), _seq)
        return list(islice(chain((record for record in lines if since < record["seq"] < first), kept.recent), max))

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
            log = Log(kept.log.path)
            self._find(log)
            rest = (line[:3] for line in self._numbered(log.holding(last + 1), _place) if line[0] > last)
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
        packs = list(filter(None, map(self._value, self._past(_Kept(id), 0))))
        found: Dict[str, int] = {"keys": len(packs), "past": sum(map(len, packs))}
        for kind in ("given", "snapshot", "end", "log", "records", "rows"):
            keys = [f"{path}.{kind}"]
            if kind in ("log", "records", "rows"):
                segments = (Log if kind == "log" else Segments)(f"{path}.{kind}")
                self._find(segments)
                keys = [segments.name(first) for first in segments.first]
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
        future = raw.flux_kvs_lookup(self._handle.handle, NAMESPACE.encode(), 0, key.encode())
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
            return list(flux.kvs.get_dir(self._handle, path, namespace=NAMESPACE))
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                return []
            raise


_encode = json.JSONEncoder(separators=(",", ":")).encode


def _dumps(value: Any) -> str:
    return _encode(value)


def _text(lines: List[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


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
