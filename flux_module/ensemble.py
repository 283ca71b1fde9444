# SPDX-License-Identifier: MIT
"""The service as a broker module: `flux module load ensemble`, or `flux module load PATH/flux_module/ensemble.py`.

The module answers the same requests as the service process; `flux ensemble` does not see a difference. What it
risks is another matter: a broker module that dies, by a signal or by an error of its own, takes its whole instance
down, unless the instance runs with `broker.module-nopanic`. The process is the default for that reason.

Flux imports this file under a name of its own, so it does not hide the package `ensemble`.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import ensemble_locate

ensemble_locate.extend_path()

from ensemble.service.main import serve_module  # noqa: E402 - the line above makes it importable


def mod_main(handle, *args):
    """Run until the module is unloaded. Raises only before it runs, so that `flux module load` reports it."""
    serve_module(handle, args)
