# SPDX-License-Identifier: MIT
"""Run ensembles of jobs: groups plus rules that decide, while the jobs run, what happens next.

Inside a job of an ensemble `ensemble.put(loss=0.3)` reports values and `ensemble.signal("done")` sends a signal.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Mapping, Optional

__version__ = "0.1.0"


def put(values: Optional[Mapping[str, float]] = None, /, **more: float) -> bool:
    """Report values of this job to its ensemble, as in `ensemble.put(loss=0.3, epoch=5)`.

    A value is anything that `float` takes and no string; a mapping serves for names that Python has no keywords for. The
    values of one call are one event. True once they are taken, for good. False, with a RuntimeWarning, where one is no
    finite number, or where the service of the ensemble did not answer for 30 seconds (it is then asked once at each
    call, until it answers): the job goes on. Raises ensemble.errors.UsageError outside of a job of an ensemble, and
    TypeError or ValueError for what is no number.
    """
    return bool(import_module("ensemble.service.inside").put({**(values or {}), **more}))


def signal(name: str, /, *, to: Optional[str] = None, **data: Any) -> bool:
    """Send a signal to this job's ensemble, or to the one with the id `to`; rules read `event.data.x`.

    The data are what JSON has a form for. Answers, waits and raises as `put` does.
    """
    return bool(import_module("ensemble.service.inside").signal(name, data, to))
