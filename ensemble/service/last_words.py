# SPDX-License-Identifier: MIT
"""Why no service runs any more: kept in the KVS by a supervisor that gives up, told to whoever asks for the service.

Flux is imported when something is written, by callers who have a handle. What cannot be written or read is left out: these are words for
people, and the broker's log has them too.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any

#: not among the ensembles
_KEY = "ensemble-service"
_NAMESPACE = "primary"
#: seconds that anybody waits for the KVS
_PATIENCE = 2.0


def keep(handle: Any, text: str) -> None:
    """Have `read` return this sentence until a service runs again."""
    _commit(handle, {"t": time.time(), "text": text})


def forget(handle: Any) -> None:
    """A service runs."""
    _commit(handle, None)


def read(handle: Any) -> str:
    """When the service was given up and why, as a sentence; empty where it was not."""
    try:
        future = handle.rpc("kvs.lookup", {"key": _KEY, "namespace": _NAMESPACE, "flags": 0})
        future.wait_for(_PATIENCE)
        # a treeobj (RFC 11) of type val
        kept = json.loads(base64.b64decode(future.get()["val"]["data"]))
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(kept["t"]))
        return f"at {when} it was given up: {kept['text']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _commit(handle: Any, value: Any) -> None:
    import flux.kvs

    try:
        txn = flux.kvs.KVSTxn(handle)
        if value is None:
            txn.unlink(_KEY)
        else:
            txn.put(_KEY, value)
        flux.kvs.commit_async(handle, 0, _NAMESPACE, txn.txn).wait_for(_PATIENCE)
    except OSError:
        return
