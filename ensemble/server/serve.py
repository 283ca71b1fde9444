# SPDX-License-Identifier: MIT
"""The server itself: the methods behind the gate, with reflection and health checking, until it is told to end.

Calls are answered by threads, and each stream keeps one: so streams have a number that they cannot pass, and there
are threads beyond it that only short calls get. What is larger than a request may be is refused by gRPC before it
is read.
"""

from __future__ import annotations

import argparse
import signal
import syslog
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import Any, Callable, List, Optional

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ensemble.errors import EnsembleError, UsageError
from ensemble.server import wire
from ensemble.server.access import Gate
from ensemble.server.attach import Members
from ensemble.server.backend import Backend
from ensemble.server.credentials import Credentials, state_dir
from ensemble.server.host import HostedService
from ensemble.server.operators import Ensembles, Operator
from ensemble.service.client import choose
from ensemble.service.protocol import MAX_REQUEST

#: threads for calls that are no streams
_CALLS = 16
#: seconds between two looks whether the service behind answers
_LOOK = 5.0
#: seconds that calls under way get at the end
_GRACE = 3.0
_LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


class Server:
    """One gRPC server over one service."""

    def __init__(
        self, backend: Any, token: Optional[str], streams: int, log: Callable[[int, str], None], more: Any = ()
    ) -> None:
        """`more` are pairs of a service's name and its servicer, offered beside those of operators."""
        self._backend = backend
        self._log = log
        self._server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=_CALLS + 2 * streams, thread_name_prefix="grpc"),
            interceptors=[Gate(token)],
            maximum_concurrent_rpcs=4 * (_CALLS + 2 * streams),
            options=[
                # what is larger than a request may be, and not absurdly so, gets a sentence of ours
                ("grpc.max_receive_message_length", 2 * MAX_REQUEST),
                # an answer is as large as it is
                ("grpc.max_send_message_length", -1),
                # one that listens there already is an error, not somebody to share with
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", 20_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        services = [(wire.OPERATOR, Operator(backend, log)), (wire.ENSEMBLES, Ensembles(backend, log, streams)), *more]
        for name, servicer in services:
            self._server.add_generic_rpc_handlers((wire.handlers(name, servicer, MAX_REQUEST),))
        self._names = [name for name, _ in services]
        self._health = health.HealthServicer(
            experimental_non_blocking=True, experimental_thread_pool=futures.ThreadPoolExecutor(max_workers=4)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        told = (*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(told, self._server, wire.pool_with_health())
        self._ended = threading.Event()
        self.set_health(True)

    def listen(self, host: str, port: int, shown: Optional[Credentials]) -> int:
        """Listen; returns the port. Raises UsageError where that is taken, or not ours."""
        address = f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
        try:
            if shown is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, grpc.ssl_server_credentials([(shown.key, shown.chain)]))
        except RuntimeError:
            bound = 0
        if not bound:
            raise UsageError(
                f"cannot listen at {address}: another process does, or it is no address of this machine; "
                "name another with --host and --port"
            )
        self._server.start()
        return int(bound)

    def set_health(self, well: bool) -> None:
        """Tell those that check: the server as a whole, and each of its services."""
        status = health_pb2.HealthCheckResponse.SERVING if well else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            self._health.set(name, status)

    def look(self, every: float = _LOOK) -> None:
        """See to it, until the end, that the health is that of the service behind."""
        well = True
        while not self._ended.wait(every):
            try:
                self._backend.call("stats")
                now, why = True, "answers again"
            except EnsembleError as exc:
                now, why = False, f"does not answer: {exc}"
            if now != well:
                well = now
                self.set_health(well)
                self._log(syslog.LOG_NOTICE if well else syslog.LOG_ERR, f"the service behind {why}")

    def end(self) -> None:
        """Take no more calls, and end those that are open."""
        self._ended.set()
        self._health.enter_graceful_shutdown()
        self._server.stop(_GRACE).wait()


def serve(
    args: argparse.Namespace,
    shown: Optional[Credentials],
    token: Optional[str],
    where: Optional[Path],
    say: Callable[[str], None],
) -> int:
    """Serve until a signal; returns the exit status. Raises EnsembleError for what keeps it from starting."""

    def log(level: int, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
        say("\n".join(f"{stamp} {_LEVELS[level]}: {line}" for line in text.splitlines()))

    stop: List[int] = []
    over = threading.Event()

    def on_signal(number: int, _frame: Any) -> None:
        stop.append(number)
        over.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    host: Optional[HostedService] = None
    if args.member == "remote":
        folder = Path(args.rundir).absolute() if args.rundir else state_dir().parent / "remote" / args.name
        host = HostedService(args.name, folder, log)
    backend = host or Backend(choose(args.member), args.rundir)
    stats = backend.start()
    more = [] if host is None else [(wire.MEMBERS, Members(host, log, args.streams))]
    server = Server(backend, token, args.streams, log, more)
    port = server.listen(args.host, args.port, shown)
    for line in _how(args.host, port, shown, where, backend.kind, stats["pid"]):
        say(line)
    # for those who start it from a program: the one line on standard output
    print(port, flush=True)
    looking = threading.Thread(target=server.look, daemon=True)
    looking.start()
    while not over.wait(3600):
        pass
    say(f"ending: {signal.Signals(stop[0]).name}")
    server.end()
    if host is not None:
        host.stop()
    return 0


def _how(host: str, port: int, shown: Optional[Credentials], token: Optional[Path], kind: str, pid: int) -> List[str]:
    """What a client must know."""
    target = f"{host}:{port}"
    lines = [f"offering the ensemble service of {kind} (pid {pid}) at {target}"]
    if shown is None:
        lines.append(
            "WITHOUT TLS" + ("" if token else " AND WITHOUT A TOKEN: every user of this machine can act as you")
        )
    else:
        lines.append(f"clients trust the certificate {shown.cert}")
    if token is not None:
        lines.append(f"clients send the metadata 'authorization: Bearer TOKEN', TOKEN as in {token}")
    tls = "-plaintext " if shown is None else f"-cacert {shown.cert} "
    sent = "" if token is None else f'-H "authorization: Bearer $(cat {token})" '
    lines.append(f"for example: grpcurl {tls}{sent}{target} ensemble.v1.Ensembles/List")
    return lines
