# SPDX-License-Identifier: MIT
"""The Flux transport: binds one service to one Flux handle, in a process of its own or in a broker module.

How it works. One handler takes every request below `ensemble.`; the broker's own endpoints of a module (shutdown,
stats-get, ...) are more exact and win. A guest gets EPERM and a sentence and never reaches the service. A request
that makes no sense is refused here; the others go to `Service.handle` with a `FluxReply`, the way back.

Three things end the run: the service itself (`quit`, or a signal), the broker that leaves the state `run`, and the
loss of the connection. The broker says that it is leaving (`state-machine.monitor`) before it cancels its jobs, which
looks like a user's cancel: the service is frozen at that word, and the process ends once jobs are gone, while the
KVS still answers. A lost connection shows as POLLERR on the handle, and the reactor returns -1.

Every callback that is registered here goes through the one guard: what it raises is logged, a request is answered,
and the service goes on.
"""

from __future__ import annotations

import errno
import json
import signal
import socket
import syslog
import time
import traceback
from typing import Any, Callable, Dict, List, Optional, Tuple

from _flux._core import ffi, lib
from flux.constants import FLUX_MSGTYPE_REQUEST, FLUX_POLLERR, FLUX_POLLIN, FLUX_RPC_STREAMING

from ensemble.errors import BadRequest, NoService, NotPermitted, ServiceError
from ensemble.members.flux_facts import log_to
from ensemble.members.guard import guarded
from ensemble.service.core import Service
from ensemble.service.protocol import ENDPOINTS, MAX_REQUEST, SERVICE, STREAMING, Reply

#: why a run ended
QUIT, SIGNALLED, SHUTDOWN, GONE, UNLOADED = "quit", "signal", "shutdown", "gone", "unloaded"

#: broker states after `run`, in their order (names, because the numbers differ between releases of Flux)
_LEAVING = ("cleanup", "shutdown", "finalize", "goodbye", "unload-builtins", "exit")
#: stops of the reactor that nobody asked for, within so many seconds, after which the run is given up
_MAX_STUMBLES, _STUMBLES_WITHIN = 10, 10.0
#: seconds for the last words to the broker
_FAREWELL = 2.0
#: messages read after the name was given back
_MAX_LAST = 1000

_GUEST = (
    "only the owner of this Flux instance is served here: start an instance of your own "
    "(flux alloc, or flux start) and run the ensemble in it"
)


class FluxReply(Reply):
    """The way back to one request. Nothing is sent any more once it was refused, ended, or answered for good."""

    def __init__(self, host: FluxHost, msg: Any, streaming: bool) -> None:
        self._host = host
        self._msg = msg
        self._streaming = streaming
        self._closed = False
        self.caller = _sender(msg)

    def send(self, payload: Dict[str, Any]) -> None:
        """The answer; for a stream, one of its answers. One that is no JSON is our bug and told as such."""
        if self._closed:
            return
        try:
            text = json.dumps(payload, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError):
            self._host.log(syslog.LOG_ERR, f"an answer cannot be written as JSON: {traceback.format_exc()}")
            self.error(errno.EPROTO, "the service met a fault of its own; 'flux dmesg' has the traceback")
            return
        self._closed = not self._streaming
        self._call(lib.flux_respond, text.encode())

    def error(self, errno: int, text: str) -> None:
        """The request is refused, or the stream is cut. Nothing follows."""
        if self._closed:
            return
        self._closed = True
        self._host.forget(self)
        self._call(lib.flux_respond_error, errno, text.encode("utf-8", "replace"))

    def _call(self, function: Callable[..., int], *args: Any) -> None:
        # A caller that is gone is no error; a lost connection is noticed by the reactor.
        function(self._host.handle.handle, self._msg.handle, *args)


class FluxHost:
    """Runs one service on one handle. The handle's reactor runs in `run`, and nowhere else.

    `module` says that the handle is a broker module's: the broker has registered the name then, and unloads us.
    """

    def __init__(self, handle: Any, *, module: bool = False) -> None:
        self.handle = handle
        self._module = module
        self._service: Optional[Service] = None
        self._why = ""
        self._frozen = False
        self._watchers: List[Any] = []
        self._stumbles: List[float] = []
        #: (caller, matchtag) of each open stream to its way back and its payload; a cancel request names the tag
        self._streams: Dict[Tuple[str, int], Tuple[FluxReply, Dict[str, Any]]] = {}

    def run(self, make: Callable[[FluxHost], Service], ready: Callable[[], None] = lambda: None) -> str:
        """Serve until the end, and say why it came: one of the constants above.

        `make` builds the service once the name is ours; `ready` is called when the next request will be answered.
        Raises ServiceError for what keeps it from starting, and what `make` and `Service.start` raise.
        """
        self._check_place()
        if not self._module:
            self._register()
            lib.flux_log_set_appname(self.handle.handle, SERVICE.encode())
        self._service = make(self)
        self._watch_requests()
        self._watch_broker()
        if not self._module:
            self._watch_signals()
        try:
            self._service.start()
            self.look_at_broker()
            ready()
            while not self._why:
                self._turn()
        finally:
            self._farewell()
        return self._why

    def stop(self, why: str = QUIT) -> None:
        """End the run; the first reason stands. May be called from any callback, and before `run` turns."""
        self._why = self._why or why
        self.handle.reactor_stop()

    def log(self, level: int, text: str) -> None:
        """Write to the broker's log ring; `level` is one of syslog's."""
        log_to(self.handle)(level, text)

    # Starting and ending

    def _check_place(self) -> None:
        rank = self.handle.get_rank()
        if rank != 0:
            raise BadRequest(
                f"the service runs on rank 0 of its instance, and this is rank {rank}: start it there "
                "(flux exec -r 0 flux ensemble service start)"
            )

    def _register(self) -> None:
        try:
            self.handle.service_register(SERVICE).get()
        except OSError as exc:
            if exc.errno == errno.EEXIST:
                raise ServiceError(
                    "a service already runs in this instance: 'flux ensemble service status' shows it", errno.EEXIST
                ) from None
            if exc.errno == errno.EPERM:
                raise NotPermitted(
                    "only the owner of this Flux instance can start the service in it: start an instance of your "
                    "own (flux alloc, or flux start)"
                ) from None
            raise NoService(f"the broker refuses the service name '{SERVICE}': {exc.strerror}", exc.errno) from exc

    def _turn(self) -> None:
        """Run the reactor until it stops, and find out why it did."""
        why = "the reactor has stopped, and nobody says why"
        try:
            self.handle.reactor_run()
        except KeyboardInterrupt:
            self._why = self._why or SIGNALLED
        except Exception:
            why = f"a callback has let an exception out: {traceback.format_exc()}"
        else:
            if self._module:
                # The broker's own handler of `shutdown` stops the reactor.
                self._why = self._why or UNLOADED
        if self._lost():
            self._why = self._why or GONE
        if not self._why:
            self._stumbled(why)

    def _stumbled(self, why: str) -> None:
        # Going on is right once, not for ever.
        self.log(syslog.LOG_ERR, f"going on: {why}")
        now = time.monotonic()
        self._stumbles = [t for t in self._stumbles if t > now - _STUMBLES_WITHIN] + [now]
        if len(self._stumbles) > _MAX_STUMBLES:
            raise ServiceError(f"the service stumbles again and again: {why}")

    def _lost(self) -> bool:
        events: int = lib.flux_pollevents(self.handle.handle)
        return bool(events < 0 or events & FLUX_POLLERR)

    def _farewell(self) -> None:
        """End streams, give the name back, and answer what came meanwhile."""
        service, self._service = self._service, None
        if service is not None:
            guarded(self.log, service.stop)()
        if not self._module and not self._lost():
            guarded(self.log, self._unregister)()
            guarded(self.log, self._drain)()
        for watcher in self._watchers:
            watcher.stop()
            watcher.destroy()
        self._watchers.clear()

    def _unregister(self) -> None:
        # The answer comes after all that was sent to us under that name, so that `_drain` finds it.
        self.handle.service_unregister(SERVICE).wait_for(_FAREWELL)

    def _drain(self) -> None:
        # A turn takes one message. The bound is for a member's stream that never falls silent.
        for _ in range(_MAX_LAST):
            if not lib.flux_pollevents(self.handle.handle) & FLUX_POLLIN:
                break
            self.handle.reactor_run(flags=lib.FLUX_REACTOR_NOWAIT)

    # Callbacks, each behind the guard

    def _watch_requests(self) -> None:
        watcher = self.handle.msg_watcher_create(
            guarded(self.log, self._on_request),
            FLUX_MSGTYPE_REQUEST,
            f"{SERVICE}.*",
            rolemask=lib.FLUX_ROLE_OWNER | lib.FLUX_ROLE_USER,
        )
        watcher.start()
        self._watchers.append(watcher)

    def _on_request(self, _handle: Any, _watcher: Any, msg: Any, _args: Any) -> None:
        endpoint = msg.topic[len(SERVICE) + 1 :]
        streaming = bool(lib.flux_msg_is_streaming(msg.handle))
        reply = FluxReply(self, msg, streaming)
        try:
            if not msg.rolemask & lib.FLUX_ROLE_OWNER:
                # A guest has no streams here, so a guest's disconnect has nothing to end.
                reply.error(errno.EPERM, _GUEST)
            elif self._service is None:
                reply.error(errno.ENOSYS, "the service is ending")
            elif endpoint == "disconnect":
                for key in [key for key in self._streams if key[0] == reply.caller]:
                    del self._streams[key]
                self._service.disconnect(reply.caller)
            elif endpoint == "ping":
                self._pong(reply, msg)
            elif endpoint == "watch-cancel":
                self._cancel(self._service, reply, msg)
            else:
                self._serve(self._service, endpoint, streaming, msg, reply)
        except Exception:
            reply.error(errno.EIO, f"'{endpoint}' failed by a fault of the service; 'flux dmesg' has the traceback")
            raise

    def _serve(self, service: Service, endpoint: str, streaming: bool, msg: Any, reply: FluxReply) -> None:
        if endpoint not in ENDPOINTS:
            reply.error(errno.ENOSYS, f"the service knows no '{endpoint}': it has {', '.join(ENDPOINTS)}")
            return
        if streaming != (endpoint in STREAMING):
            want = "a stream: send it with" if endpoint in STREAMING else "a single answer: send it without"
            reply.error(errno.EPROTO, f"'{endpoint}' is {want} FLUX_RPC_STREAMING")
            return
        try:
            payload = _payload(msg)
        except BadRequest as exc:
            reply.error(exc.errno, f"'{endpoint}' needs a JSON object: {exc}")
            return
        if streaming:
            self._streams[reply.caller, _matchtag(msg)] = reply, payload
        service.handle(endpoint, payload, reply)

    def _pong(self, reply: FluxReply, msg: Any) -> None:
        """Answer as `flux ping` expects it, and as libflux does for every broker module."""
        try:
            payload = _payload(msg)
        except BadRequest as exc:
            reply.error(exc.errno, f"'ping' needs a JSON object: {exc}")
            return
        route = lib.flux_msg_route_string(msg.handle)
        try:
            hops = bytes(ffi.string(route)).decode("utf-8", "replace") if route else ""
        finally:
            lib.free(route)
        who = {"userid": msg.userid, "rolemask": msg.rolemask, "rank": self.handle.get_rank()}
        reply.send({**payload, "route": f"{hops}!{SERVICE}", **who})

    def _cancel(self, service: Service, reply: FluxReply, msg: Any) -> None:
        try:
            tag = _payload(msg).get("matchtag")
        except BadRequest:
            return  # nobody waits for an answer to a cancel
        stream = self._streams.get((reply.caller, tag)) if isinstance(tag, int) else None
        if stream is not None:
            service.watch_cancel(reply.caller, stream[1])

    def forget(self, reply: FluxReply) -> None:
        """A stream has ended."""
        for key in [key for key, (one, _) in self._streams.items() if one is reply]:
            del self._streams[key]

    def _watch_signals(self) -> None:
        """End at SIGTERM or SIGINT.

        Not by a signal watcher of Flux: that blocks the signal in this thread only, and numpy has threads of its own,
        in which it would kill the process. A handler of Python is called for the whole process, and wakes us up here.
        """
        self._wakeup = socket.socketpair()
        self._wakeup[1].setblocking(False)
        signal.set_wakeup_fd(self._wakeup[1].fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        watcher = self.handle.fd_watcher_create(
            self._wakeup[0].fileno(), guarded(self.log, self._on_signal), FLUX_POLLIN
        )
        watcher.start()
        self._watchers.append(watcher)

    def _on_signal(self, *_: Any) -> None:
        if self._wakeup[0].recv(64):
            self.stop(SIGNALLED)

    def _watch_broker(self) -> None:
        """Be told when the broker changes its state."""
        future = self.handle.rpc("state-machine.monitor", flags=FLUX_RPC_STREAMING)
        future.then(guarded(self.log, self._state_changed))

    def _state_changed(self, future: Any) -> None:
        try:
            future.get()
        except OSError:
            return  # the stream ends with the broker; its loss is noticed elsewhere
        future.reset()
        self.handle.rpc("state-machine.get").then(guarded(self.log, self._state_named))

    def look_at_broker(self) -> None:
        """Know of a shutdown before anything is made of what it does: an earlier service may have died in it, or this one
        may have been kept from hearing of it."""
        self._state_named(self.handle.rpc("state-machine.get"))

    def _state_named(self, answer: Any) -> None:
        try:
            state = answer.get()["state"]
        except OSError:
            return
        if state not in _LEAVING or self._service is None:
            return
        if not self._frozen:
            self._frozen = True
            self._service.freeze(f"the Flux instance is shutting down (its broker is in state {state})")
        if state != _LEAVING[0] and not self._module:
            self.stop(SHUTDOWN)


def _sender(msg: Any) -> str:
    """The first hop of a request: one connection to one broker."""
    route = lib.flux_msg_route_first(msg.handle)
    return bytes(ffi.string(route)).decode("utf-8", "replace") if route else "local"


def _matchtag(msg: Any) -> int:
    tag = ffi.new("uint32_t [1]")
    lib.flux_msg_get_matchtag(msg.handle, tag)
    return int(tag[0])


def _payload(msg: Any) -> Dict[str, Any]:
    """The JSON object that a request carries. Raises BadRequest with the errno to answer."""
    size = ffi.new("size_t [1]")
    if lib.flux_msg_get_payload(msg.handle, ffi.NULL, size) == 0 and size[0] > MAX_REQUEST:
        raise BadRequest(f"this payload has more than {MAX_REQUEST >> 20} MiB", errno.EMSGSIZE)
    try:
        text = msg.payload_str
    except (OSError, UnicodeDecodeError):
        raise BadRequest("this payload is not text", errno.EPROTO) from None
    if text is None:
        raise BadRequest("this request has no payload", errno.EPROTO)
    try:
        payload = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadRequest("this payload is not JSON", errno.EPROTO) from None
    if not isinstance(payload, dict):
        raise BadRequest(f"this payload is {text[:60]!r}", errno.EINVAL)
    return payload


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
