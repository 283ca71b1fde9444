# SPDX-License-Identifier: MIT
"""Who is let in, and what a call that fails is told.

`Gate` stands before every method: without the token a call is UNAUTHENTICATED, whatever it asks for; only the health
check answers everybody, for those that look after processes have no token. `answering` turns our errors into gRPC's
statuses, each with its sentence; what is no error of ours is a bug, is logged, and tells the caller nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import syslog
import traceback
from typing import Any, Callable, Iterator, Optional

import grpc

from ensemble.errors import EnsembleError, MemberError, NoService, NotFound, NotPermitted, ServiceError, ServiceLost
from ensemble.members.guard import Log

#: bytes of a header that a client surely takes
_ROOM = 6000
_HEALTH = "/grpc.health.v1.Health/"
_WHAT = "this call carries no valid token: send the metadata 'authorization: Bearer TOKEN', with what the server's token file holds"
#: errnos that stand for something else than a request that makes no sense
_CODES = {
    errno.EAGAIN: grpc.StatusCode.UNAVAILABLE,
    errno.ESHUTDOWN: grpc.StatusCode.UNAVAILABLE,
    errno.ECONNRESET: grpc.StatusCode.UNAVAILABLE,
    errno.ENOENT: grpc.StatusCode.NOT_FOUND,
    errno.EPERM: grpc.StatusCode.PERMISSION_DENIED,
    errno.EINVAL: grpc.StatusCode.INVALID_ARGUMENT,
    errno.EPROTO: grpc.StatusCode.INVALID_ARGUMENT,
    errno.EMSGSIZE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errno.EMFILE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errno.EOVERFLOW: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errno.EBUSY: grpc.StatusCode.FAILED_PRECONDITION,
    errno.EOPNOTSUPP: grpc.StatusCode.FAILED_PRECONDITION,
}


class Gate(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Lets in who has the token; everybody where there is none."""

    def __init__(self, token: Optional[str]) -> None:
        self._wanted = None if token is None else token.encode()

        def refuse(_request: Any, context: Any) -> None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, _WHAT)

        self._refuse = refuse

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """The method's own handler, or the one that refuses."""
        if self._wanted is None or details.method.startswith(_HEALTH):
            return continuation(details)
        for name, value in details.invocation_metadata:
            given = value.encode() if isinstance(value, str) else value
            # the scheme is of any case, and one or more spaces follow (RFC 6750, RFC 7235)
            scheme, _, token = given.partition(b" ")
            if name != "authorization" or scheme.lower() != b"bearer":
                continue
            if hmac.compare_digest(token.lstrip(b" "), self._wanted):
                return continuation(details)
        handler = continuation(details)
        streams = handler is not None and (handler.request_streaming or handler.response_streaming)
        make = grpc.stream_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        return make(self._refuse)


def code(exc: EnsembleError) -> Any:
    """The status of gRPC for an error of our tree."""
    if isinstance(exc, (NoService, ServiceLost, MemberError)):
        return grpc.StatusCode.UNAVAILABLE
    if isinstance(exc, NotFound):
        return grpc.StatusCode.NOT_FOUND
    if isinstance(exc, NotPermitted):
        return grpc.StatusCode.PERMISSION_DENIED
    if isinstance(exc, ServiceError):
        return _CODES.get(exc.errno, grpc.StatusCode.INTERNAL)
    return grpc.StatusCode.INVALID_ARGUMENT


@contextlib.contextmanager
def answering(context: Any, log: Log) -> Iterator[None]:
    """Ends the call with the status of the error that leaves the block."""
    try:
        yield
    except EnsembleError as exc:
        context.abort(code(exc), fitting(str(exc)))
    except Exception as exc:
        # grpc's own way to leave a method that has been aborted
        if type(exc) is Exception and context.code() is not None:
            raise
        log(syslog.LOG_ERR, f"a call failed:\n{traceback.format_exc()}")
        context.abort(grpc.StatusCode.INTERNAL, "the server met a fault of its own; its log has the traceback")


def fitting(text: str) -> str:
    """As much of a sentence as fits into the header that it travels in."""
    room = _ROOM
    for place, letter in enumerate(text):
        size = len(letter.encode(errors="replace"))
        # all but printable ASCII is written as %XX
        room -= 1 if size == 1 and " " <= letter <= "~" and letter != "%" else 3 * size
        if room < 0:
            return f"{text[:place]} ..."
    return text
