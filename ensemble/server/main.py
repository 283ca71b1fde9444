# SPDX-License-Identifier: MIT
"""The command `ensemble-server`: `start` offers the ensemble service over gRPC until SIGTERM or SIGINT.

Law of this file: what is safe is what happens by itself. TLS and a token, made at the first start where none are
given; this machine alone, unless told otherwise; nothing without both but to this machine, and then only by the
word `--insecure`. gRPC is imported last, so that a machine without it gets a sentence.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import List, Optional

from ensemble import __version__
from ensemble.errors import EnsembleError, UsageError
from ensemble.server import credentials
from ensemble.service.client import MEMBERS
from ensemble.spec.models import TITLE

PORT = 50051
#: modules that the extra `grpc` brings
_NEEDED = ("grpc", "grpc_health", "grpc_reflection", "google.protobuf", "cryptography")


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command. Returns the exit status: 0, 1 where it cannot serve, 2 for a wrong command line."""
    args = _parser().parse_args(argv)
    try:
        _check_installed()
        return _start(args)
    except UsageError as exc:
        say(str(exc))
        return 2
    except EnsembleError as exc:
        say(str(exc))
        return 1


def say(text: str) -> None:
    """A line about what we do, on standard error."""
    for line in text.splitlines():
        print(f"ensemble-server: {line}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ensemble-server", description="Offer the ensemble service over gRPC to members and operators elsewhere."
    )
    parser.add_argument("--version", action="version", version=f"ensemble-server {__version__}")
    start = parser.add_subparsers(dest="verb", metavar="start", required=True).add_parser(
        "start",
        help="offer the service until SIGTERM or SIGINT",
        description="Offer the service until SIGTERM or SIGINT.",
    )
    start.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine)")
    start.add_argument("--port", type=int, default=PORT, help="port, 0 for any that is free (default: %(default)s)")
    start.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate, PEM (default: one is made)")
    start.add_argument("--tls-key", type=Path, metavar="FILE", help="its key, PEM (default: one is made)")
    start.add_argument("--token-file", type=Path, metavar="FILE", help="what clients must send (default: one is made)")
    start.add_argument(
        "--insecure",
        action="store_true",
        help="go without TLS, and without a token unless --token-file names one: every user of this machine can then "
        "act as you",
    )
    start.add_argument(
        "--state", type=Path, metavar="DIR", help=f"where what is made is kept (default: {credentials.state_dir()})"
    )
    start.add_argument(
        "--member",
        choices=(*MEMBERS, "remote"),
        default="auto",
        help="whose service is offered (default: auto); remote: one of the server's own, for a queue that attaches",
    )
    start.add_argument("--name", default="remote", help="what the remote member is called (default: %(default)s)")
    start.add_argument(
        "--rundir", metavar="DIR", help="where the local queue keeps its output, and a service of the server's own all"
    )
    start.add_argument(
        "--streams", type=int, default=100, metavar="N", help="streams open at a time (default: %(default)s)"
    )
    return parser


def _check_installed() -> None:
    """Raises UsageError where gRPC is missing."""
    missing = []
    for name in _NEEDED:
        with contextlib.suppress(ModuleNotFoundError):
            if find_spec(name) is not None:
                continue
        missing.append(name)
    if missing:
        raise UsageError(
            f"ensemble-server needs gRPC, and this Python has no {', '.join(missing)}: "
            f"install it with '{sys.executable} -m pip install \"ensemble[grpc]\"', or '.[grpc]' in a checkout"
        )


def _start(args: argparse.Namespace) -> int:
    if not 0 <= args.port <= 65535:
        raise UsageError(f"--port {args.port}: a port is a number from 0 to 65535")
    if args.streams < 1:
        raise UsageError(f"--streams {args.streams}: there must be room for one at least")
    if not TITLE.fullmatch(args.name):
        raise UsageError("--name: a name has letters, digits, _, - and ., not first - or ., at most 100")
    if args.insecure and (args.tls_cert or args.tls_key):
        raise UsageError("--insecure goes without TLS, and --tls-cert and --tls-key ask for it: choose one")
    if args.insecure and not _is_loopback(args.host):
        raise UsageError(
            f"--host {args.host} lets other machines in, and --insecure lets in whoever comes: leave out --insecure, "
            "so that there are TLS and a token, or listen at 127.0.0.1"
        )
    folder = (args.state or credentials.state_dir()).absolute()
    shown = None if args.insecure else credentials.tls(args.tls_cert, args.tls_key, folder, args.host)
    token, where = (None, None) if args.insecure and not args.token_file else credentials.token(args.token_file, folder)

    from ensemble.server.serve import serve

    return serve(args, shown, token, where, say)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


if __name__ == "__main__":
    raise SystemExit(main())
