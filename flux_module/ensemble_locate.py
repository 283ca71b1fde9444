# SPDX-License-Identifier: MIT
"""Finds the library for what Flux itself starts: the broker module, the service entry, the command stub.

Flux starts these three under its own Python, which knows neither this package nor what it depends on. Each of them
imports this file from the folder that it really lies in (links resolved) and calls `extend_path`.

Installed, everything lies in one folder, and links lead to it from where Flux looks::

    LIBDIR/flux/ensemble/                 this folder's files
    LIBDIR/flux/ensemble/lib/             the package `ensemble` and its dependencies, for Flux's Python
    FLUXMODDIR/ensemble.py             -> LIBDIR/flux/ensemble/ensemble.py
    FLUXCMDDIR/flux-ensemble.py        -> LIBDIR/flux/ensemble/flux-ensemble.py
    FLUXCMDDIR/flux-ensemble-service.py -> LIBDIR/flux/ensemble/flux-ensemble-service.py

Looked at in this order: the folders in ENSEMBLE_PYTHONPATH, `lib` beside this file, and the checkout that this file
is part of, with the site-packages of its `.venv` where that was made with the same minor version of Python.
"""

from __future__ import annotations

import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))


def library_path() -> list[str]:
    """The folders to search for the library, first one first; empty if there is none."""
    named = os.environ.get("ENSEMBLE_PYTHONPATH", "")
    if named:
        return [folder for folder in named.split(os.pathsep) if folder]
    private = os.path.join(HERE, "lib")
    if os.path.isdir(os.path.join(private, "ensemble")):
        return [private]
    checkout = os.path.dirname(HERE)
    if not os.path.isdir(os.path.join(checkout, "ensemble")):
        return []
    minor = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = os.path.join(checkout, ".venv", "lib", minor, "site-packages")
    return [checkout, packages] if os.path.isdir(packages) else [checkout]


def extend_path() -> None:
    """Put the library on `sys.path`, before all else but Flux's own bindings.

    Folders that lead to our file `ensemble.py` are taken off it, because it would hide the package. Raises ImportError, with a sentence, if
    the library is nowhere.
    """
    module = os.path.join(HERE, "ensemble.py")
    sys.path[:] = [folder for folder in sys.path if os.path.realpath(os.path.join(folder, "ensemble.py")) != module]
    found = library_path()
    if not found:
        raise ImportError(
            f"the library of 'ensemble' is not in {HERE}/lib: install it again with 'make install', "
            "or name its folder in ENSEMBLE_PYTHONPATH"
        )
    bindings = [at for at, folder in enumerate(sys.path) if os.path.isdir(os.path.join(folder, "_flux"))]
    at = bindings[0] + 1 if bindings else 0
    sys.path[at:at] = [folder for folder in found if folder not in sys.path[:at]]
