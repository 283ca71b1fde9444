# SPDX-License-Identifier: MIT
"""What operators ask for: the predecessor's two methods, and those of `Ensembles`.

Law of this file: from a message to a request of `service/protocol.py`, and back. Whether a request makes sense, and
what it does, is decided by the service.
"""

from __future__ import annotations

import errno
import json
import secrets
import threading
from typing import Any, Callable, Dict, Iterator, Optional

import grpc

from ensemble.cli.act import limit
from ensemble.cli.common import submitter
from ensemble.errors import BadRequest, NotFound, ServiceError
from ensemble.members.guard import Log
from ensemble.server.access import answering
from ensemble.server.wire import OPERATOR, message

_M: Callable[[str], Any] = message
Response = message(OPERATOR.rsplit(".", 1)[0] + ".Response")
#: kinds of queues of ours
_KINDS = ("flux", "local", "remote")
#: errno of a queue that has no way to grow or shrink
_UNABLE = errno.EOPNOTSUPP
_COUNTS = ("submitted", "pending", "running", "active", "finished", "success", "failed", "cancelled", "retried")


class Asked:
    """What both servicers share: the service behind, and the way errors go."""

    def __init__(self, backend: Any, log: Log) -> None:
        """`backend` has `kind`, `call` and `watch` as `backend.Backend` has them."""
        self._backend = backend
        self._log = log


class Operator(Asked):
    """The predecessor's service."""

    def RequestStatus(self, request: Any, context: Any) -> Any:
        """The status of one ensemble, or of all."""
        with answering(context, self._log):
            self._is_ours(request.member)
            if request.name:
                answer = self._backend.call("status", {"id": request.name})
            else:
                answer = {**self._backend.call("stats"), **self._backend.call("list")}
            return Response(payload=json.dumps(answer), status=Response.SUCCESS)

    def RequestAction(self, request: Any, context: Any) -> Any:
        """Have the queue of an ensemble grow or shrink."""
        with answering(context, self._log):
            if request.action not in ("grow", "shrink"):
                raise BadRequest(f"'{request.action[:50]}' is no action; there are grow and shrink")
            payload = _object(request.payload, "payload")
            # the predecessor's clients send a shrink with either sign
            by = payload.get(request.action, 1)
            if request.action == "shrink" and type(by) is int:
                by = abs(by)
            if type(by) is not int or by < 1:
                raise BadRequest(
                    f"'{request.action}' needs a number of nodes, 1 or more, as in "
                    f'{{"{request.action}": 2}}; this one has {json.dumps(by)[:50]}'
                )
            self._is_ours(request.member)
            if not request.name:
                raise BadRequest("name the ensemble whose queue is to change its size, in the field 'name'")
            try:
                answer = self._backend.call(
                    "resize", {"id": request.name, "by": by if request.action == "grow" else -by}
                )
            except ServiceError as exc:
                if exc.errno != _UNABLE:
                    raise
                return Response(payload=str(exc), status=Response.DENIED)
            return Response(payload=json.dumps(answer), status=Response.SUCCESS)

    def _is_ours(self, member: str) -> None:
        """The predecessor's members give their kind, or a plural of their name; only another kind of ours is a fault."""
        if member in _KINDS and member != self._backend.kind:
            raise NotFound(f"this server offers the queue '{self._backend.kind}', not '{member}'")


class Ensembles(Asked):
    """All that an operator may do."""

    def __init__(self, backend: Any, log: Log, streams: int) -> None:
        """At most `streams` may be watched at a time: each keeps a thread busy."""
        super().__init__(backend, log)
        self._streams = threading.BoundedSemaphore(streams)
        self._most = streams

    def Submit(self, request: Any, context: Any) -> Any:
        """Submit a file."""
        with answering(context, self._log):
            where = submitter()
            if request.cwd:
                where["cwd"] = request.cwd
            if request.environment:
                where["environment"] = dict(request.environment)
            answer = self._backend.call(
                "submit",
                {
                    "text": request.text,
                    "file": request.file or "ensemble.yaml",
                    "files": dict(request.files),
                    "submitter": where,
                },
            )
            return _M("SubmitReply")(id=answer["id"], name=answer["name"], warnings=answer.get("warnings", []))

    def List(self, request: Any, context: Any) -> Any:
        """All ensembles, oldest first."""
        with answering(context, self._log):
            found = self._backend.call("list")["ensembles"]
            return _M("ListReply")(ensembles=[_summary(each) for each in found])

    def Status(self, request: Any, context: Any) -> Any:
        """One of them, with groups, rules and metrics."""
        with answering(context, self._log):
            answer = self._backend.call("status", {"id": _id(request)})
            return _M("StatusReply")(summary=_summary(answer), json=json.dumps(answer))

    def Jobs(self, request: Any, context: Any) -> Any:
        """Its jobs, a page of them."""
        with answering(context, self._log):
            payload: Dict[str, Any] = {"id": _id(request), "start": request.start, "max": request.max or 1000}
            if request.group:
                payload["group"] = request.group
            answer = self._backend.call("jobs", payload)
            return _M("JobsReply")(jobs=[json.dumps(row) for row in answer["jobs"]], total=answer["total"])

    def Watch(self, request: Any, context: Any) -> Iterator[Any]:
        """What happens in it, as it happens."""
        if not self._streams.acquire(blocking=False):
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._most} streams are open at this server, and there may be no more: end one, or ask for the status",
            )
        try:
            with answering(context, self._log):
                for record in self._backend.watch(_id(request), request.since, context.is_active):
                    if not context.is_active():
                        return
                    yield _M("Record")(seq=record["seq"], t=record["t"], type=record["type"], json=json.dumps(record))
        finally:
            self._streams.release()

    def Cancel(self, request: Any, context: Any) -> Any:
        """Cancel it with all its jobs."""
        return self._command("cancel", request, context)

    def Pause(self, request: Any, context: Any) -> Any:
        """Hold its submissions."""
        return self._command("pause", request, context)

    def Resume(self, request: Any, context: Any) -> Any:
        """Carry on after a pause, or after a limit that is raised with it."""
        return self._command("resume", request, context, lambda: {"limits": _limits(request.limits)})

    def _command(self, verb: str, request: Any, context: Any, more: Callable[[], Dict[str, Any]] = lambda: {}) -> Any:
        with answering(context, self._log):
            answer = self._backend.call(verb, {"id": _id(request), **more()})
            return _M("StateReply")(id=answer["id"], state=answer["state"])

    def Signal(self, request: Any, context: Any) -> Any:
        """Send it a signal."""
        with answering(context, self._log):
            payload = {"id": _id(request), "name": request.name, "data": _object(request.data, "data")}
            answer = self._backend.call("signal", {**payload, "token": request.token or secrets.token_hex(8)})
            return _M("SignalReply")(**{name: answer[name] for name in ("id", "name", "rules")})

    def Put(self, request: Any, context: Any) -> Any:
        """Report values of one of its jobs."""
        with answering(context, self._log):
            values = {name: value if value - value == 0.0 else str(value) for name, value in request.values.items()}
            answer = self._backend.call(
                "put", {"key": request.key, "values": values, "token": request.token or secrets.token_hex(8)}
            )
            return _M("PutReply")(taken=answer["taken"], refused=answer["refused"])


def _id(request: Any) -> str:
    if not request.id:
        raise BadRequest("the field 'id' is empty: give an ensemble's id, the beginning of one, or a name")
    return str(request.id)


def _limits(given: Any) -> Dict[str, Any]:
    return dict(limit(f"{name}={value}") for name, value in given.items())


def _object(text: str, field: str) -> Dict[str, Any]:
    """The JSON object in that field, {} where it is empty. Raises BadRequest."""
    if not text:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise BadRequest(f"the field '{field}' is no JSON: {exc}") from None
    if not isinstance(value, dict):
        raise BadRequest(f"the field '{field}' must hold a JSON object, as in {{\"name\": 1}}")
    return value


def _summary(each: Dict[str, Any]) -> Any:
    counts: Optional[Dict[str, int]] = each.get("jobs")
    found = _M("Summary")(
        id=each["id"],
        name=each["name"],
        state=each["state"],
        reason=each.get("reason") or "",
        jobs=_M("Counts")(**{name: (counts or {}).get(name, 0) for name in _COUNTS}),
    )
    for name in ("t_submit", "t_end"):
        if each.get(name) is not None:
            setattr(found, name, each[name])
    return found
