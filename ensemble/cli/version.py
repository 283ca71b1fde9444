# SPDX-License-Identifier: MIT
"""`version`: ours, Flux's, river's and Python's."""

from __future__ import annotations

import platform
import shutil
import subprocess
from argparse import Namespace
from importlib import metadata
from typing import Dict, Optional

from ensemble import __version__
from ensemble.cli.common import clean, out, out_json
from ensemble.errors import MemberError


def version(args: Namespace) -> int:
    """Print what of it is found; what is not is `not found`, null in JSON."""
    found: Dict[str, Optional[str]] = {
        "ensemble": __version__,
        "flux_commands": _commands(),
        "flux_library": _library(),
        "river": _river(),
        "python": platform.python_version(),
    }
    if args.json:
        out_json(found)
        return 0
    for name, number in found.items():
        out(clean(f"{name.replace('_', '-') + ':':<16} {number or 'not found'}"))
    return 0


def _commands() -> Optional[str]:
    if shutil.which("flux") is None:
        return None
    try:
        done = subprocess.run(["flux", "version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    for line in done.stdout.splitlines():
        if line.startswith("commands:"):
            return line.split(":", 1)[1].strip()
    return None


def _library() -> Optional[str]:
    """The version of libflux-core that the bindings load."""
    from ensemble.service.flux_client import library_version

    try:
        return library_version()
    except MemberError:
        return None


def _river() -> Optional[str]:
    try:
        return metadata.version("river")
    except metadata.PackageNotFoundError:
        return None
