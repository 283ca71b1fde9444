# SPDX-License-Identifier: MIT
"""The journal of the job manager: which event of which job belongs to which open ensemble. Imports flux.

How it works. `job-manager.events-journal` streams job events to a handle of its own, filtered by name at the source.
One stream carries BASE_EVENTS for ever; each time an ensemble needs names that no stream carries, one more stream is
opened for just these (and ended a while after nobody needs them). The names of two streams never overlap, and all
streams arrive over one connection and one message handler, so a job's events come in the order in which the job had
them, whichever stream brings them.

A job is ours if its owner owns the instance and its jobspec carries the key of an open ensemble. That is looked at
once, at its `submit`; the ids of ours are kept until they are clean. A message about any other id is dropped before
its JSON is read.

What a stream brings before its sentinel (id -1) is the past:
- after `start`, and after the job manager went away, all streams are opened anew. Their past is gathered up to the
  last sentinel, stripped of what was delivered before (by number within a job; by job for those that were clean), and
  delivered in the order of time. Nothing is lost, and nothing comes twice, also where the clock was set meanwhile.
- a stream that is added for a new ensemble has no past that anyone asked for: the ensemble submits nothing until the
  stream is there (`ready`).

So an ensemble that has jobs already must be opened before `start`. Where the ids of all jobs that matter are known, the
streams are not asked for what has ended: what is missing then is looked up (`flux_lookup.py`), and only where that finds
it not is the whole past read.

A journal has no flow control, so who cannot take events must not listen: `hold` ends the streams, and the job manager
keeps what happens; `go_on` opens them anew, and their past brings it. What a re-read past lacks was purged meanwhile:
`on_past` is told of such jobs too. So memory grows with our jobs that have not ended, never with what others do.

It has more than 400 lines, because streams, their past and the jobs in them are one state that no part owns alone.
"""

from __future__ import annotations

import collections
import errno
import json
import os
import re
import syslog
import time
from typing import Any, Callable, Deque, Dict, FrozenSet, List, Optional, Set, Tuple

import flux
from flux.constants import FLUX_MSGTYPE_RESPONSE
from flux.core.inner import ffi, lib

from ensemble.engine.events import BASE_EVENTS, JobEvent, Key
from ensemble.members.flux_facts import output_of, owner_of, ranks_of
from ensemble.members.flux_jobspec import KEY_ATTRIBUTE
from ensemble.members.flux_lookup import LAST, Lookup
from ensemble.members.flux_messages import Messages
from ensemble.members.flux_timers import Timers
from ensemble.members.guard import Log

_TOPIC = b"job-manager.events-journal"
_BASE = frozenset(BASE_EVENTS)
_NOBODY = (1 << 64) - 1
#: seconds to the next try after the stream was lost, at first and at most
_BACKOFF = (0.1, 5.0)
#: seconds that the journal may be away before it is a warning
_PATIENCE = 30.0
#: seconds that a stream nobody needs is kept
_LINGER = 10.0
#: seconds for which a finished job is remembered by id; older ones are told by their time
_SLACK = 5.0
#: jobs beyond which they are not looked up one by one
_MOST_LOOKED_UP = 5000
#: stands among the streams for what is looked up
_LOOKED_UP = -1
#: what looks like a key, in JSON
_KEYS = re.compile(rb'"([^"/]+/[^"/]+/\d+/\d+/\d+)"').findall
#: output files of ended jobs that are remembered
_MAX_OUTPUTS = 1000


_decode = json.JSONDecoder().decode


class _Watched:
    """An open ensemble."""

    __slots__ = ("ids", "jobs", "keys", "names", "reads", "ready")

    def __init__(self, names: FrozenSet[str], reads: bool) -> None:
        self.names = names
        #: its jobs' output is read
        self.reads = reads
        #: of the past only these jobs are told; None for an ensemble that has none
        self.ids: Optional[Set[int]] = None
        self.keys: FrozenSet[Key] = frozenset()
        self.jobs: Set[int] = set()
        self.ready = False


class _Job:
    """One of our jobs that is not clean yet."""

    __slots__ = ("about", "clean", "ensemble", "key", "last", "names", "output", "passed", "told", "watched")

    def __init__(self, ensemble: str, key: Key, output: Optional[str], watched: _Watched) -> None:
        self.ensemble = ensemble
        self.key = key
        #: was its first event passed on, and its last?
        self.told = self.clean = False
        self.output = output
        self.watched = watched
        #: its key and the system's part of its jobspec, where its output is read
        self.about: Optional[Tuple[Key, Dict[str, Any]]] = None
        #: time of its last event that was passed on
        self.last = float("-inf")
        #: what was wanted from its first event on, and how many events of each name were passed on
        self.names = watched.names
        self.passed: Dict[str, int] = {}


class Journal:
    """Reads the journal on `handle`, which shares a reactor with the others of this thread.

    `sink(ensemble, event)` gets each event, `past(ensemble, event)` those that come in bulk; `submitted(key, id)` hears of each new job first; `on_ready(ensemble)` is
    called once all that an ensemble asked for is being listened to; `on_past(ensemble, ids)` once the past of a
    recovered ensemble was passed on, with those of its jobs that the journal does not have; `on_missing(ensemble, id, key)`
    for each job that is not in a past that was read again; `on_given_up(id)`, if given, for each active job of a recovered
    ensemble that is none of those it was recovered with.
    """

    def __init__(
        self,
        handle: flux.Flux,
        timers: Timers,
        log: Log,
        sink: Callable[[str, JobEvent], None],
        past: Callable[[str, JobEvent], None],
        submitted: Callable[[Key, int], None],
        on_ready: Callable[[str], None],
        on_past: Callable[[str, Set[int]], None],
        on_missing: Callable[[str, int, Key], None],
        on_given_up: Optional[Callable[[int], None]] = None,
    ) -> None:
        self.handle = handle
        self._timers = timers
        self._log = log
        self._sink = sink
        self._past_sink = past
        self._submitted = submitted
        self._on_ready = on_ready
        self._on_past = on_past
        self._on_missing = on_missing
        self._on_given_up = on_given_up
        self._owner = owner_of(handle)
        self._open: Dict[str, _Watched] = {}
        self._known: Dict[int, _Job] = {}
        #: matchtag to the names of a stream
        self._streams: Dict[int, FrozenSet[str]] = {}
        #: streams whose past is being gathered, and what of it is ours
        self._gathering: Set[int] = set()
        self._past: List[Tuple[float, int, int, _Job, JobEvent]] = []
        #: (stream, job) to the latest time gathered
        self._reached: Dict[Tuple[int, int], float] = {}
        #: (job, name) to how many events of that name were gathered
        self._gathered: Dict[Tuple[int, str], int] = {}
        #: where all open ensembles are recovered ones: ids and keys of those of the past that matter; else None
        self._sought: Optional[FrozenSet[int]] = None
        self._sought_keys: FrozenSet[bytes] = frozenset()
        self._lookup = Lookup(handle, timers, log)
        #: what ended is not asked for, but looked up; and it may be so
        self._brief = False
        self._may_be_brief = True
        #: our jobs that a past was seen to have
        self._there: Set[int] = set()
        #: streams whose past is of no interest
        self._skipping: Set[int] = set()
        #: when our latest event happened, and who was clean lately
        self._newest = float("-inf")
        #: the greatest id of a job that was told of
        self._highest = 0
        self._ended: Deque[Tuple[float, int]] = collections.deque()
        self._ended_ids: Set[int] = set()
        #: output files of the jobs that ended last
        self._outputs: collections.OrderedDict[int, str] = collections.OrderedDict()
        #: the earliest end of a job in the past, looked for until one is before the second time
        self._first_end = float("inf")
        self._witness_before = float("-inf")
        self._backoff = _BACKOFF[0]
        self._lost_since: Optional[float] = None
        self._text = ffi.new("char *[1]")
        self._tag = ffi.new("uint32_t [1]")
        #: None before `start` and after `stop`
        self._messages: Optional[Messages] = None
        self._held = False
        self._stopped = False

    # What the member calls

    def start(self) -> None:
        """Begin to listen."""
        self._messages = Messages(self.handle, FLUX_MSGTYPE_RESPONSE, _TOPIC, self._log, self._message)
        self._connect()

    def open(self, ensemble: str, names: FrozenSet[str], reads: bool = False) -> None:
        """Pass on the events of this ensemble: BASE_EVENTS and `names`. With `reads` jobs are known by `about`."""
        self._open[ensemble] = _Watched(_BASE | names, reads)
        if self._messages is not None:
            self._cover()

    def want(self, ensemble: str, names: FrozenSet[str]) -> None:
        """Pass on these too."""
        watched = self._open[ensemble]
        if not names <= watched.names:
            watched.names |= names
            watched.ready = False
            if self._messages is not None:
                self._cover()

    def recover(self, ensemble: str, ids: Set[int], keys: FrozenSet[Key]) -> None:
        """Before `start`: of the past, pass on the events of these jobs and of those with these keys."""
        self._open[ensemble].ids = ids
        self._open[ensemble].keys = keys

    def witness(self, t: float) -> None:
        """Before `start`: look in the past for a job of anybody's that ended before `t`."""
        self._witness_before = t if self._witness_before < 0 else min(t, self._witness_before)

    def whole_since(self, t: float) -> bool:
        """Is a job there that ended before `t`? The oldest are purged first, so none that ended later was purged."""
        return self._first_end < t

    def close(self, ensemble: str) -> None:
        """Pass on nothing more of this ensemble."""
        watched = self._open.pop(ensemble, None)
        if watched is not None:
            for id in watched.jobs:
                self._known.pop(id, None)
            self._timers.after(_LINGER, self._shrink)

    def ready(self, ensemble: str) -> bool:
        """Is all that the ensemble asked for being listened to?"""
        watched = self._open.get(ensemble)
        return watched is not None and watched.ready

    def live(self) -> bool:
        """Is everything up to now delivered, or on its way on this connection?"""
        return bool(self._streams) and not self._gathering

    def forget(self, id: int) -> None:
        """The last event of a job was delivered."""
        job = self._known.pop(id, None)
        if job is None:
            return
        job.watched.jobs.discard(id)
        self._ended.append((job.last, id))
        self._ended_ids.add(id)
        if job.output is not None:
            self._outputs[id] = job.output
            if len(self._outputs) > _MAX_OUTPUTS:
                self._outputs.popitem(last=False)
        while self._ended and self._ended[0][0] < self._newest - 2 * _SLACK:
            self._ended_ids.discard(self._ended.popleft()[1])

    def output(self, id: int) -> Optional[str]:
        """The output file of a job, if it has one and has not ended long ago."""
        job = self._known.get(id)
        return job.output if job else self._outputs.get(id)

    def hold(self) -> None:
        """Listen no more until `go_on`."""
        self._held = True
        self._drop()

    def go_on(self) -> None:
        """Listen again, from where `hold` broke off."""
        self._held = False
        if self._messages is not None:
            self._connect()

    def about(self, id: int) -> Optional[Tuple[Key, Dict[str, Any]]]:
        """The key and `attributes.system` of a job that is not clean yet, of an ensemble opened with `reads`."""
        job = self._known.get(id)
        return job.about if job else None

    def stop(self) -> None:
        """Listen no more."""
        self._stopped = True
        self._drop()
        if self._messages is not None:
            self._messages.stop()
            self._messages = None
        self._known.clear()
        self._past.clear()

    # Streams

    def _connect(self) -> None:
        if self._stopped or self._held or self._streams:
            return
        self._there.clear()
        self._first_end = float("inf")
        self._sought, self._sought_keys = None, frozenset()
        if not self._on_given_up and all(watched.ids is not None for watched in self._open.values()):
            self._sought = frozenset().union(*(watched.ids or () for watched in self._open.values()))
            keys = frozenset().union(*(watched.keys for watched in self._open.values()))
            self._sought_keys = frozenset(str(key).encode() for key in keys)
        extra = self._wanted() - _BASE
        sought = [(watched.ids, watched.keys) for watched in self._open.values()]
        # Of a job that ends between the requests of two streams the second would tell nothing.
        self._brief = (
            self._may_be_brief
            and not extra
            and all(ids is not None and not keys for ids, keys in sought)
            and sum(len(ids or ()) for ids, _ in sought) <= _MOST_LOOKED_UP
        )
        # Without an open ensemble there is no past to ask for.
        full = bool(self._open) and not self._brief
        for names in (_BASE, extra) if extra else (_BASE,):
            self._gathering.add(self._request(names, full))

    def _wanted(self) -> FrozenSet[str]:
        return frozenset().union(*(watched.names for watched in self._open.values()))

    def _cover(self) -> None:
        """Open a stream for the names that no stream brings yet."""
        missing = self._wanted().difference(*self._streams.values()) if self._streams else frozenset()
        if missing:
            self._skipping.add(self._request(missing, False))
        self._announce()

    def _announce(self) -> None:
        """Tell of those that have become ready, in the reactor's next turn."""
        if not self.live():
            return
        covered = frozenset().union(*(n for tag, n in self._streams.items() if tag not in self._skipping))
        for ensemble, watched in self._open.items():
            if not watched.ready and watched.names <= covered:
                watched.ready = True
                self._timers.after(0.0, lambda ensemble=ensemble: self._on_ready(ensemble))  # type: ignore[misc]

    def _shrink(self) -> None:
        """End the streams of which nobody needs a name."""
        wanted = self._wanted()
        for tag, names in list(self._streams.items()):
            if names is not _BASE and not names & wanted:
                self._cancel(tag)

    def _request(self, names: FrozenSet[str], full: bool) -> int:
        tag: int = lib.flux_matchtag_alloc(self.handle.handle)
        payload = json.dumps({"full": full, "allow": dict.fromkeys(sorted(names), 1)}).encode()
        msg = lib.flux_request_encode(_TOPIC, payload)
        lib.flux_msg_set_matchtag(msg, tag)
        lib.flux_msg_set_streaming(msg)
        self._streams[tag] = names
        sent = lib.flux_send(self.handle.handle, msg, 0)
        lib.flux_msg_destroy(msg)
        if sent < 0:
            raise OSError(ffi.errno, f"cannot ask for the journal: {os.strerror(ffi.errno)}")
        return tag

    def _cancel(self, tag: int) -> None:
        """End a stream. Its tag is given back when the end of it comes (see `_message`)."""
        for tags in (self._gathering, self._skipping):
            tags.discard(tag)
        self._streams.pop(tag, None)
        future = lib.flux_rpc(
            self.handle.handle,
            _TOPIC + b"-cancel",
            json.dumps({"matchtag": tag}).encode(),
            flux.constants.FLUX_NODEID_ANY,
            flux.constants.FLUX_RPC_NORESPONSE,
        )
        if future != ffi.NULL:
            lib.flux_future_destroy(future)

    def _lost(self, error: int, why: str) -> None:
        """A stream ended on its own: the job manager went away. Read everything anew, from the past on."""
        self._drop()
        now = time.monotonic()
        if self._lost_since is None:
            self._lost_since = now
            self._log(syslog.LOG_NOTICE, f"the job manager's journal ended ({why}): reading it again")
        elif now - self._lost_since > _PATIENCE:
            self._lost_since = now
            self._log(syslog.LOG_WARNING, f"the job manager's journal cannot be read ({why}): trying on")
        self._timers.after(self._backoff, self._connect)
        self._backoff = min(2 * self._backoff, _BACKOFF[1])

    def _drop(self) -> None:
        """End all streams, and forget what was gathered."""
        for tag in list(self._streams):
            self._cancel(tag)
        self._lookup.cancel()
        # of a recovered ensemble nothing was passed on yet: its jobs are looked for anew, and may be gone by then
        for id, job in list(self._known.items()):
            if job.watched.ids is not None:
                del self._known[id]
                job.watched.jobs.discard(id)
        self._gathering.clear()
        self._skipping.clear()
        self._past.clear()
        self._reached.clear()
        self._gathered.clear()

    # Messages

    def _message(self, message: Any) -> None:
        if lib.flux_msg_get_matchtag(message, self._tag) < 0:
            return
        tag = self._tag[0]
        if lib.flux_response_decode(message, ffi.NULL, self._text) < 0:
            error = ffi.errno
            lib.flux_matchtag_free(self.handle.handle, tag)
            if self._streams.pop(tag, None) is not None:
                self._lost(error, errno.errorcode.get(error, str(error)))
            return
        if tag not in self._streams or self._text[0] == ffi.NULL:
            return
        text: bytes = ffi.string(self._text[0])
        # A message begins with its id; most ids are not ours.
        if text.startswith(b'{"id":'):
            id = int(text[6 : text.index(b",", 6)])
            if id not in self._known and id not in (-1, _NOBODY) and self._foreign(id, text):
                if self._looks_back(tag) and b'"clean"' in text:
                    self._note_end(json.loads(text)["events"])
                return
        data = _decode(text.decode("utf-8", "surrogatepass"))
        if data["id"] in (-1, _NOBODY):
            self._sentinel(tag)
        elif tag not in self._skipping:
            self._record(tag, data)

    def _foreign(self, id: int, text: bytes) -> bool:
        """Is a message about an unknown job certainly of no interest? Looked at before its JSON is read."""
        if b'"ensemble"' not in text:
            return True
        # Of 100000 jobs in the past of recovered ensembles all but a few ended before the service did.
        if not self._gathering or self._sought is None or id in self._sought:
            return False
        return not self._sought_keys or self._sought_keys.isdisjoint(_KEYS(text))

    def _sentinel(self, tag: int) -> None:
        self._skipping.discard(tag)
        if tag in self._gathering:
            self._gathering.discard(tag)
            if self._gathering:
                return
            missing = set().union(*(watched.ids - watched.jobs for watched in self._open.values() if watched.ids))
            if self._brief and missing:
                self._gathering.add(_LOOKED_UP)
                self._lookup.begin(missing, lambda data: self._record(_LOOKED_UP, data), self._looked_up)
            else:
                self._tell_past()
        else:
            self._announce()

    def _looked_up(self, missing: Set[int]) -> None:
        if missing:
            # whether they were purged, or never came to be, the whole past can tell
            self._may_be_brief = False
            self._drop()
            self._connect()
        else:
            self._gathering.discard(_LOOKED_UP)
            self._tell_past()

    def _tell_past(self) -> None:
        """Pass on what was gathered, in the order of time."""
        past, self._past = self._past, []
        self._reached.clear()
        self._gathered.clear()
        past.sort(key=lambda entry: entry[:2])
        purged = [(id, job) for id, job in self._known.items() if id not in self._there and not job.clean]
        self._there.clear()
        for _, _, id, job, event in past:
            if self._known.get(id) is job:
                self._pass_on(job, event, self._past_sink)
        for id, job in purged:
            self._on_missing(job.ensemble, id, job.key)
            self.forget(id)
        for ensemble, watched in self._open.items():
            if watched.ids is not None:
                missing = watched.ids - watched.jobs
                watched.ids, watched.keys = None, frozenset()
                self._on_past(ensemble, missing)
        if self._lost_since is not None:
            self._log(syslog.LOG_NOTICE, "the job manager's journal is read again")
        self._lost_since = None
        self._backoff = _BACKOFF[0]
        self._cover()

    def _record(self, tag: int, data: Dict[str, Any]) -> None:
        id, events = data["id"], data["events"]
        if self._looks_back(tag):
            self._note_end(events)
        job = self._known.get(id) or self._adopt(id, events, data.get("jobspec"))
        if job is None:
            return
        if self._gathering:
            self._there.add(id)
        for entry in events:
            t, name = entry["timestamp"], entry["name"]
            if name not in job.watched.names:
                continue
            context = entry.get("context") or {}
            if name == "alloc" and "R" in data:
                context = {**context, "ranks": ranks_of(data["R"])}
            event = JobEvent(t, id, name, context, job.key if name == "submit" and not job.told else None)
            if not self._gathering:
                self._pass_on(job, event, self._sink)
            elif self._new(job, id, name, t):
                # a clock that was set back in between must not turn a job's events around
                order = self._reached[tag, id] = max(t, self._reached.get((tag, id), t))
                self._past.append((order, len(self._past), id, job, event))

    def _new(self, job: _Job, id: int, name: str, t: float) -> bool:
        """Is an event that is gathered one that was not passed on before?"""
        n = self._gathered[id, name] = self._gathered.get((id, name), 0) + 1
        # of what was asked for later, what came before that is not wanted
        return n > job.passed.get(name, 0) if name in job.names else t > job.last

    def _looks_back(self, tag: int) -> bool:
        """Is a witness still to be found? Only in what a stream tells of the past at one moment: what was looked up
        before may be purged by then, and what ends now tells nothing."""
        return tag in self._gathering and tag != _LOOKED_UP and self._first_end >= self._witness_before > float("-inf")

    def _note_end(self, events: List[Dict[str, Any]]) -> None:
        ends = [entry["timestamp"] for entry in events if entry["name"] == "clean"]
        self._first_end = min([self._first_end, *ends])

    def _pass_on(self, job: _Job, event: JobEvent, sink: Callable[[str, JobEvent], None]) -> None:
        job.last = max(job.last, event.t)
        job.passed[event.name] = job.passed.get(event.name, 0) + 1
        self._newest = max(self._newest, event.t)
        if event.key is not None:
            self._submitted(event.key, event.id)
            self._highest = max(self._highest, event.id)
            job.told = True
        if event.name in LAST:
            job.clean = True
        sink(job.ensemble, event)

    def _adopt(self, id: int, events: List[Dict[str, Any]], jobspec: Any) -> Optional[_Job]:
        """A job seen for the first time: ours, or None."""
        submit = next((entry for entry in events if entry["name"] == "submit"), None)
        if submit is None or submit["context"].get("userid") != self._owner or id in self._ended_ids:
            return None
        try:
            attributes = jobspec["attributes"]
            key = Key.parse(attributes["user"][KEY_ATTRIBUTE])
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        watched = self._open.get(key.ensemble)
        if watched is None:
            return None
        if self._gathering and watched.ids is not None and id not in watched.ids and key not in watched.keys:
            # it ended before the service did
            if self._on_given_up is not None and not any(entry["name"] in LAST for entry in events):
                self._on_given_up(id)
            return None
        if self._gathering:
            end = next((entry["timestamp"] for entry in events if entry["name"] in LAST), None)
            # the clock may have been set back; ids grow all the same
            if end is not None and end < self._newest - _SLACK and id <= self._highest:
                return None
        job = _Job(key.ensemble, key, output_of(attributes["system"], id), watched)
        if watched.reads:
            system = attributes["system"]
            job.about = key, {name: system.get(name) for name in ("cwd", "job", "shell")}
        self._known[id] = job
        watched.jobs.add(id)
        return job
