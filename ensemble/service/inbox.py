# SPDX-License-Identifier: MIT
"""What jobs and users send to an ensemble: values (`put`) and signals (`signal`).

Law of this file: from a checked request to the event, and its answer. A request is answered once its event is kept;
who has no answer sends it again under the same token, and the engine takes it once.
"""

from __future__ import annotations

import json
import math
from typing import Any, Dict

from ensemble.engine import reports
from ensemble.engine.events import Key, Report, Signal
from ensemble.errors import BadRequest
from ensemble.service.payloads import Put
from ensemble.service.payloads import Signal as SignalRequest
from ensemble.service.protocol import Reply
from ensemble.service.running import Running
from ensemble.spec.models import TITLE, check_variable
from ensemble.spec.reports import MOST_DATA, MOST_VARIABLES


def key_of(request: Put) -> Key:
    """The key that the request names. Raises BadRequest."""
    try:
        return Key.parse(request.key)
    except ValueError:
        raise BadRequest(f"'{request.key[:100]}' is no key of a job; a job has its own in ENSEMBLE_JOB") from None


def put(running: Running, request: Put, key: Key, t: float, reply: Reply) -> None:
    """Feed the values, and answer which of them were taken. Raises BadRequest for an attempt that has ended."""
    refusal = reports.refusal(running.engine, key)
    if refusal is not None:
        raise BadRequest(f"{refusal}, so its values are not taken")
    group = running.engine.jobs[key].group
    refused: Dict[str, str] = {}
    values: Dict[str, Any] = {}
    for name, given in request.values.items():
        try:
            check_variable(name)
        except ValueError as exc:
            refused[name] = str(exc)
            continue
        if not running.engine.tally.has_room(group, name):
            refused[name] = f"'{group}' has {MOST_VARIABLES} variables already"
            continue
        x = reports.number(given)
        if x is None or not math.isfinite(x):
            # the engine counts it, and feeds nothing
            refused[name] = f"'{str(given)[:50]}' is no finite number"
            x = math.nan
        values[name] = x if math.isfinite(x) else "nan"
    answer = {"taken": [name for name in values if name not in refused], "refused": refused}
    if values:
        running.feed(Report(t, key, values, request.token), then=lambda: reply.send(answer))
    else:
        reply.send(answer)


def signal(running: Running, request: SignalRequest, t: float, reply: Reply) -> None:
    """Feed a signal, and answer how many rules wait for it. Raises BadRequest for what is no signal."""
    if not TITLE.fullmatch(request.name):
        raise BadRequest("a signal's name has letters, digits, _, - and ., not first - or ., at most 100")
    if len(json.dumps(request.data)) > MOST_DATA:
        raise BadRequest(f"the data of a signal may have {MOST_DATA >> 10} KiB, and these have more")
    book = running.engine.book
    numbers = (*book.exactly("signal", request.name), *book.exactly("signal", None))
    answer = {"id": running.id, "name": request.name, "rules": sum(book.rules[n].live for n in numbers)}
    running.feed(Signal(t, request.name, request.data, request.token), then=lambda: reply.send(answer))
