# SPDX-License-Identifier: MIT
"""The expansion of an algorithm of an installed package, in a process of its own.

Law of this file: nothing of the package is imported here. Only the command calls it, as the user; the service never does,
and takes the rules that the command has sent along. Whatever the package does, an answer or a sentence is there within
TIME_LIMIT.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

from ensemble.algorithms.expanding import MOST, Broken

#: seconds
TIME_LIMIT = 20.0
#: bytes of address space
_MEMORY = 4 << 30
_TOP = str(Path(__file__).resolve().parents[2])
#: a file of the current directory is no module of anybody's
_PROGRAM = (
    "import sys; sys.path[:] = [p for p in sys.path if p] + [sys.argv[1]]\n"
    "from ensemble.algorithms.expanding import main; main()"
)


def expand(name: str, id: str, group: Dict[str, Any], options: Dict[str, Any]) -> Dict[str, Any]:
    """As `expanding.expand`. Raises Broken."""
    request = json.dumps({"name": name, "id": id, "group": group, "options": options})
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, _TOP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    with contextlib.suppress(OSError, ValueError):
        resource.prlimit(process.pid, resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    try:
        said, _ = process.communicate(request, timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        raise Broken(f"did not answer within {TIME_LIMIT:g} s, and was killed") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if len(said) > 4 * MOST:
        raise Broken(f"gave {len(said)} characters, which is too much")
    try:
        answer: Dict[str, Any] = json.loads(said)
    except ValueError:
        raise Broken(f"ended without an answer (exit status {process.returncode})") from None
    if "broken" in answer:
        raise Broken(str(answer["broken"]))
    return answer
