# SPDX-License-Identifier: MIT
"""The job's end of `put` and `signal`: how a job finds the service of its ensemble, and waits for one that is away.

How it works. A job knows its key (ENSEMBLE_JOB) and its ensemble (ENSEMBLE_ID). Whom it asks: the local service that
started it (ENSEMBLE_SOCKET); then the enclosing Flux instance, and its parents, since a job may be an instance of its own
in which the ensemble is not known. Whoever knows the ensemble answers; a service that is away may be the one, so all are
asked again until `wait` seconds have passed. Each request has a token of its own, so that one that is sent again
takes effect once. What fails is raised; that a job never fails for it is up to the callers.

It imports neither river nor pydantic, for jobs call it often.
"""

from __future__ import annotations

import errno
import math
import os
import time
from binascii import hexlify
from threading import RLock
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Union

from ensemble.errors import MemberError, NoService, NotFound, ServiceError, ServiceLost, UsageError

#: seconds for which a service that is away is waited for
WAIT = 30.0
#: seconds for one answer; a service that dies with the request leaves it without one
_PATIENCE = 5.0
#: seconds between two rounds
_PAUSE = 0.5
#: errnos of a service that is there and cannot do it now
_LATER = (errno.ESHUTDOWN, errno.EIO, errno.EAGAIN)
#: Flux instances, one inside the other, that are asked
_DEEPEST = 10


class Inside:
    """A job's connection to the service of its ensemble. It is kept between calls, and any thread may use it."""

    def __init__(self, environ: Mapping[str, str] = os.environ, wait: float = WAIT) -> None:
        """Raises UsageError where this is no job of an ensemble."""
        self.key = environ.get("ENSEMBLE_JOB", "")
        self.ensemble = environ.get("ENSEMBLE_ID", "")
        if not self.key or not self.ensemble:
            raise UsageError(
                "this is no job of an ensemble (ENSEMBLE_JOB and ENSEMBLE_ID are not set): put works in a command that "
                "an ensemble runs"
            )
        self.wait = wait
        self._socket = environ.get("ENSEMBLE_SOCKET")
        self._flux = bool(environ.get("FLUX_URI")) or not self._socket
        self._lock = RLock()
        self._pid = os.getpid()
        self._source = _random()
        self._sent = 0
        self._levels: List[_Level] = []
        #: the one that knew the ensemble
        self._known: Optional[_Level] = None
        self._given_up = False

    def put(self, values: Mapping[str, Any], wait: Optional[float] = None) -> Dict[str, Any]:
        """Report values, numbers by name; the answer says which were taken. Raises ServiceError, MemberError."""
        return self.ask("put", {"key": self.key, "values": {n: _number(x) for n, x in values.items()}}, wait)

    def signal(
        self, name: str, data: Mapping[str, Any], to: Optional[str] = None, wait: Optional[float] = None
    ) -> Dict[str, Any]:
        """Send a signal to this job's ensemble, or to another one. Raises ServiceError, MemberError."""
        return self.ask("signal", {"id": to or self.ensemble, "name": name, "data": dict(data)}, wait)

    def ask(self, endpoint: str, payload: Dict[str, Any], wait: Optional[float] = None) -> Dict[str, Any]:
        """One request, sent until it is answered or the time is over."""
        with self._lock:
            self._after_fork()
            self._sent += 1
            payload = {**payload, "token": f"{self._source}:{self._sent}"}
            # one that was waited for in vain is not waited for again, or a job would wait at each of its values
            seconds = 0.0 if self._given_up else self.wait if wait is None else wait
            give_up = time.monotonic() + seconds
            unknown = NotFound(f"ensemble {self.ensemble} is not known")
            while True:
                away: Optional[Exception] = None
                for level in self._ways():
                    left = max(0.1, give_up - time.monotonic())
                    try:
                        answer = level.call(endpoint, payload, min(_PATIENCE, left))
                    except NotFound as exc:
                        unknown = exc
                        continue
                    except (NoService, ServiceLost, MemberError) as exc:
                        away = exc
                        continue
                    except ServiceError as exc:
                        if exc.errno not in _LATER:
                            raise
                        away = exc
                        continue
                    self._known, self._given_up = level, False
                    return answer
                if away is None:
                    raise unknown
                if time.monotonic() + _PAUSE > give_up:
                    self._given_up = True
                    raise away
                time.sleep(_PAUSE)

    def close(self) -> None:
        """Release the connections. Harmless when called twice."""
        with self._lock:
            for level in self._levels:
                level.drop()
            self._levels.clear()
            self._known = None

    def _after_fork(self) -> None:
        """A forked child has connections and a name of its own: those of its parent are the parent's."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._source = _random()
            self._sent = 0
            # forgotten and not closed, which would say goodbye in the parent's name
            _LEFT_BEHIND.extend(self._levels)
            self._levels, self._known = [], None

    def _ways(self) -> Iterator[_Level]:
        """Whom to ask, the likeliest first."""
        known = self._known
        if known is not None:
            yield known
        number = 0
        while number < len(self._levels) or self._more():
            level = self._levels[number]
            number += 1
            if level is not known:
                yield level

    def _more(self) -> bool:
        """Find one more place to ask. False where there is none."""
        if not self._levels and self._socket is not None:
            self._levels.append(_Level(True, self._socket))
            return True
        if not self._flux or len(self._levels) >= _DEEPEST:
            return False
        last = self._levels[-1] if self._levels else None
        if last is None or last.local:
            self._levels.append(_Level(False, None))
            return True
        parent = last.parent
        if parent is None:
            return False
        self._levels.append(_Level(False, parent))
        return True


#: connections that belong to the process that this one was forked from
_LEFT_BEHIND: List[Any] = []


class _Level:
    """One place where the ensemble may be known. Connected when used, and anew after a loss."""

    def __init__(self, local: bool, where: Optional[str]) -> None:
        """`where` is the path of a socket, or the address of a Flux instance (None: the enclosing one)."""
        self.local = local
        self._where = where
        self._client: Any = None

    @property
    def parent(self) -> Optional[str]:
        """The address of the Flux instance around this one, None where there is none or it cannot be told."""
        try:
            found: Optional[str] = self._connected().parent
        except (ServiceError, MemberError):
            return None
        return found

    def call(self, endpoint: str, payload: Dict[str, Any], timeout: float) -> Dict[str, Any]:
        """The answer to a request. Raises a ServiceError, or MemberError."""
        try:
            answer: Dict[str, Any] = self._connected().call(endpoint, payload, timeout)
            return answer
        except ServiceLost:
            self.drop()
            raise

    def drop(self) -> None:
        """Close the connection; the next call makes a new one."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _connected(self) -> Any:
        if self._client is None:
            if self.local:
                from pathlib import Path

                from ensemble.service.local_client import LocalConnection

                self._client = LocalConnection(Path(self._where or ""))
            else:
                from ensemble.service.flux_client import FluxClient

                self._client = FluxClient(self._where)
        return self._client


def _random() -> str:
    return hexlify(os.urandom(8)).decode()


def _number(x: Any) -> Union[float, str]:
    """The number as JSON has it. What is not finite goes as a word, so that it is refused and counted there."""
    if isinstance(x, str):
        return x
    number = float(x)
    return number if math.isfinite(number) else str(number)


#: this process's own, made at the first call
_ours: Optional[Inside] = None


def _inside() -> Inside:
    global _ours
    if _ours is None:
        _ours = Inside()
    return _ours


def put(values: Mapping[str, Any]) -> bool:
    """What `ensemble.put` does."""
    for name, x in values.items():
        if isinstance(x, (str, bytes)):
            raise TypeError(f"{name} is a string; put takes numbers")
    given = {name: float(x) for name, x in values.items()}
    return _never_fail(lambda: _refused(_inside().put(given)), f"the values {', '.join(given)} were dropped")


def signal(name: str, data: Mapping[str, Any], to: Optional[str]) -> bool:
    """What `ensemble.signal` does."""

    def send() -> str:
        _inside().signal(name, data, to)
        return ""

    return _never_fail(send, f"the signal '{name}' was dropped")


def refused(answer: Mapping[str, Any]) -> List[str]:
    """A sentence for each value that a `put` was refused."""
    return [f"{name} was not taken: {why}" for name, why in (answer.get("refused") or {}).items()]


def _refused(answer: Mapping[str, Any]) -> str:
    return "; ".join(refused(answer))


def _never_fail(send: Callable[[], str], lost: str) -> bool:
    """False, with a warning, where it was not taken. Raises UsageError outside of a job."""
    try:
        text = send()
    except (ServiceError, MemberError) as exc:
        text = f"{lost}: {exc}"
    if text:
        import warnings

        warnings.warn(text, RuntimeWarning, stacklevel=4)
    return not text
