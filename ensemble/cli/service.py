# SPDX-License-Identifier: MIT
"""`service start|stop|restart|status`: the service itself.

On Flux it is the one service of the instance. On the local queue there may be several, each with ensembles of its
own; `status` shows and `stop` ends all of them.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any, Dict, List

from ensemble.cli.common import clean, columns, out, out_json, say
from ensemble.cli.local_start import background, start_background
from ensemble.errors import NoService, ServiceError, ServiceLost
from ensemble.service.client import choose, connect
from ensemble.service.local_client import LocalClient
from ensemble.spec.units import fsd

#: `service status --json`, in this order
KEYS = ("host", "pid", "supervisor_pid", "version", "t_start", "restarts", "ensembles")


def service(args: Namespace) -> int:
    """Do what `args.what` says. Returns the exit status: 1 for `status` and `stop` where none runs."""
    args.member = choose(args.member)
    what = args.what
    if what == "status":
        return _show(args, _all_stats(args))
    if what in ("stop", "restart"):
        try:
            _stop(args)
        except NoService:
            if what == "stop":
                raise
    if what in ("start", "restart"):
        return _start(args)
    return 0


def _all_stats(args: Namespace) -> List[Dict[str, Any]]:
    client = connect(args.member)
    try:
        connections = client.connections if isinstance(client, LocalClient) else [client]
        stats = []
        for connection in connections:
            try:
                stats.append(connection.call("stats", {}))
            except ServiceLost:
                if len(connections) == 1:
                    raise
        return stats
    finally:
        client.close()


def _show(args: Namespace, services: List[Dict[str, Any]]) -> int:
    if args.json:
        for stats in services:
            out_json({key: stats.get(key) for key in KEYS})
        return 0
    import time

    rows = []
    for stats in services:
        begun = stats.get("t_start")
        rows.append(
            [
                *(stats.get(key) for key in ("host", "pid", "supervisor_pid", "version")),
                None if begun is None else fsd(max(0.0, time.time() - begun)),
                *(stats.get(key) for key in ("restarts", "ensembles", "active")),
            ]
        )
    for line in columns(["HOST", "PID", "SUPERVISOR", "VERSION", "UP", "RESTARTS", "ENSEMBLES", "ACTIVE"], rows):
        out(line)
    return 0


def _start(args: Namespace) -> int:
    if args.member == "flux":
        from ensemble.service.flux_client import FluxClient

        stats = FluxClient().start_service()
        new = bool(stats.get("started"))
    else:
        connection = background()
        new = connection is None
        if connection is None:
            connection = start_background(args.rundir).connection
        stats = connection.call("stats", {})
        connection.close()
    if args.json:
        out_json({key: stats.get(key) for key in KEYS})
    else:
        said = "started" if new else "was running already"
        out(clean(f"the service {said} (host {stats.get('host')}, pid {stats.get('pid')})"))
    return 0


def _stop(args: Namespace) -> None:
    stopped = _stop_flux() if args.member == "flux" else _stop_local()
    for stats in stopped:
        active = int(stats.get("active") or 0)
        if active:
            say(f"{active} ensemble{' was' if active == 1 else 's were'} still running in the service that was stopped")
        if args.json and args.what == "stop":
            out_json({key: stats.get(key) for key in KEYS})
        else:
            say(f"stopped the service (pid {stats.get('pid')})")


def _stop_flux() -> List[Dict[str, Any]]:
    from ensemble.service.flux_client import FluxClient

    return [FluxClient().stop_service()]


def _stop_local() -> List[Dict[str, Any]]:
    client = LocalClient()
    stopped = []
    for connection in client.connections:
        try:
            stats = connection.call("stats", {})
            connection.call("quit", {})
            stopped.append(stats)
            _gone(connection)
        except ServiceLost:
            continue
    client.close()
    return stopped


def _gone(connection: Any) -> None:
    """Wait until a service that said it will end has closed our connection."""
    import time

    give_up = time.monotonic() + 30.0
    while time.monotonic() < give_up:
        try:
            connection.call("stats", {}, timeout=5.0)
        except ServiceError:
            return
        time.sleep(0.1)
    say(f"the service at {connection.path} has not ended within 30 s")
