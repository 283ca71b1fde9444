# SPDX-License-Identifier: MIT
"""The service process: `python -m ensemble.service.main`, and what the broker module runs.

Without an option it serves in the foreground until it is told to end. `--supervised` puts a supervisor above it,
`--detached` takes both to the background. `--start`, `--stop` and `--status` are what the rc scripts call; they exit
0 if all went well, 1 with one sentence if not. The other options are the supervisor's own.

Flux, the service and what they need are imported late: the supervisor and the rc scripts do without them.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any, Callable, List, Optional, Sequence

from ensemble.service import supervisor

if TYPE_CHECKING:
    from ensemble.service.core import Service
    from ensemble.service.flux_host import FluxHost
    from ensemble.service.protocol import Host


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Do what the arguments say; the exit status."""
    args = _parser().parse_args(argv)
    if args.report:
        return _report(args.report)
    if args.start or args.stop or args.status:
        return _client(args)
    if args.supervised:
        return supervisor.supervise(args.detached)
    return _serve_process(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flux ensemble-service", description="The ensemble service of a Flux instance"
    )
    verb = parser.add_mutually_exclusive_group()
    verb.add_argument("--start", action="store_true", help="start it in the background and wait for its first answer")
    verb.add_argument("--stop", action="store_true", help="end it")
    verb.add_argument("--status", action="store_true", help="print what it says of itself")
    verb.add_argument("--supervised", action="store_true", help="serve, and restart the service if it dies")
    verb.add_argument("--report", metavar="TEXT", help=argparse.SUPPRESS)
    parser.add_argument("--wait", type=float, default=10.0, metavar="SECONDS", help="how long to wait (default 10)")
    parser.add_argument("--process-only", action="store_true", help="with --stop: leave a broker module alone")
    parser.add_argument("--detached", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--supervisor", type=int, metavar="PID", help=argparse.SUPPRESS)
    parser.add_argument("--restarts", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--cause", default="", help=argparse.SUPPRESS)
    return parser


def _client(args: argparse.Namespace) -> int:
    from ensemble.errors import EnsembleError

    try:
        if args.start:
            supervisor.start_detached(wait=args.wait)
        else:
            _ask(args)
    except EnsembleError as exc:
        return _say(str(exc), 1)
    return 0


def _ask(args: argparse.Namespace) -> None:
    import json

    import flux

    from ensemble.errors import NoService

    try:
        handle = flux.Flux()
    except OSError as exc:
        raise NoService(f"no Flux instance can be reached ({exc.strerror or exc})") from None
    stats = supervisor.service_status(handle, args.wait)
    if args.status:
        print(json.dumps(stats))
    elif stats.get("host") == "process" or not args.process_only:
        supervisor.service_stop(handle, args.wait)


def _say(text: str, status: int) -> int:
    print(f"flux-ensemble: {text}", file=sys.stderr, flush=True)
    return status


def _report(text: str) -> int:
    """Write one line at level err into the broker's log, and keep it for those who ask for the service."""
    import syslog

    import flux

    try:
        handle = flux.Flux()
    except OSError:
        return supervisor.EXIT_GONE
    from ensemble.service import last_words

    last_words.keep(handle, text)
    handle.flux_log_set_appname("ensemble")
    handle.log(syslog.LOG_ERR, text.replace("%", "%%"))
    # An answer to this comes after the line was taken.
    handle.rpc("attr.get", {"name": "rank"}).get()
    return 0


def _serve_process(args: argparse.Namespace) -> int:
    """Serve in this process; one of the supervisor's exit statuses, or an exception where the service has a bug."""
    import syslog
    import traceback

    from ensemble.errors import EnsembleError

    try:
        import flux

        from ensemble.service import flux_host
        from ensemble.service.protocol import Host

        handle = flux.Flux()
    except ImportError as exc:
        return _say(
            f"the library of Flux or of ensemble cannot be loaded by {sys.executable}: {exc}", supervisor.EXIT_REFUSED
        )
    except OSError as exc:
        return _say(f"no Flux instance can be reached ({exc.strerror or exc})", supervisor.EXIT_GONE)
    host = flux_host.FluxHost(handle)
    # one that was killed is our parent no more
    maker = service_maker(Host("process", args.supervisor, args.restarts, lambda: os.getppid() == args.supervisor))

    def ready() -> None:
        again = f", restarted because it {args.cause} (restart {args.restarts})" if args.cause else ""
        host.log(syslog.LOG_WARNING if args.cause else syslog.LOG_INFO, f"service started{again}")
        if args.detached:
            supervisor.close_standard_files()

    try:
        why = host.run(maker, ready)
    except EnsembleError as exc:
        return _say(str(exc), supervisor.EXIT_REFUSED)
    except Exception as exc:
        host.log(syslog.LOG_ERR, f"the service has failed\n{traceback.format_exc()}")
        return _say(f"the service has failed ({exc!r}); 'flux dmesg' has the traceback", 1)
    return supervisor.EXIT_GONE if why == flux_host.GONE else supervisor.EXIT_DONE


def serve_module(handle: Any, args: Sequence[str]) -> None:
    """Serve in a broker module until it is unloaded.

    An exception that leaves a running module takes the whole instance down, so one that cannot be helped ends the
    module instead, with its traceback in the log. Before it runs OSError is raised, which `flux module load` shows.
    """
    import errno
    import syslog
    import traceback

    from ensemble.errors import EnsembleError, ServiceError
    from ensemble.service.flux_host import FluxHost
    from ensemble.service.protocol import Host

    host = FluxHost(handle, module=True)
    running: List[bool] = []
    if args:
        host.log(syslog.LOG_ERR, f"this module takes no arguments, and was given: {' '.join(args)}")
        raise OSError(errno.EINVAL, "this module takes no arguments")
    try:
        host.run(service_maker(Host("module")), lambda: running.append(True))
    except Exception as exc:
        text = str(exc) if isinstance(exc, EnsembleError) else traceback.format_exc()
        host.log(syslog.LOG_ERR, f"the service has ended: {text}")
        if not running:
            number = exc.errno if isinstance(exc, ServiceError) else errno.ECONNRESET
            raise OSError(number, str(exc)) from None


def service_maker(where: Host) -> Callable[[FluxHost], Service]:
    """What `FluxHost.run` needs to build the real service."""

    def make(host: FluxHost) -> Service:
        # Read once, by numpy: a thread for each core of a big machine is nothing that statistics of ours need.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from ensemble.members.flux import FluxMember
        from ensemble.members.several import Several
        from ensemble.service import last_words
        from ensemble.service.core import Service
        from ensemble.service.kvs_store import KvsStore

        if not where.restarts:
            last_words.forget(host.handle)
        home = FluxMember(handle=host.handle)
        home.before_cancel = host.look_at_broker
        member = Several(home, host.log)
        return Service(member, KvsStore(host.handle, host.log), where, log=host.log, on_quit=host.stop)

    return make


if __name__ == "__main__":
    sys.exit(main())
