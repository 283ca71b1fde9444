# SPDX-License-Identifier: MIT
"""What Flux finds in an installation, taken from the checkout: by environment, so that nothing is installed."""

from __future__ import annotations

import functools
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Dict

import pytest

TOP = Path(__file__).resolve().parents[2]
MODULE = TOP / "flux_module"


@functools.cache
def flux_python() -> str:
    """The minor version of the Python that Flux runs its modules with, such as 3.11."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run(["flux", "python", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def need_flux_python() -> None:
    """Skip where Flux's Python cannot use the packages of the Python that runs the tests."""
    ours = "{}.{}".format(*sys.version_info)
    if flux_python() != ours:
        pytest.skip(f"Flux tests: Flux's Python is {flux_python()}, its packages here are those of {ours}")


def environment(base: Dict[str, str], folder: Path, rc: bool = True) -> Dict[str, str]:
    """`base`, with which Flux finds the module, the commands and, if `rc`, the rc scripts.

    Where the checkout's packages do not fit Flux's Python, the service entry is a script in `folder` that runs the
    same under ours.
    """
    commands = MODULE
    if flux_python() != "{}.{}".format(*sys.version_info):
        commands = folder
        entry = folder / "flux-ensemble-service"
        entry.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ensemble.service.main "$@"\n')
        entry.chmod(0o755)
    env = {
        **base,
        "ENSEMBLE_PYTHONPATH": f"{TOP}:{sysconfig.get_path('purelib')}",
        "FLUX_EXEC_PATH_PREPEND": str(commands),
        "FLUX_MODULE_PATH_PREPEND": str(MODULE),
        "FLUX_MODPROBE_PATH_APPEND": str(TOP / "etc"),
    }
    return {**env, "FLUX_RC_EXTRA": str(TOP / "etc")} if rc else env
