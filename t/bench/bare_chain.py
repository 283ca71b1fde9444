# SPDX-License-Identifier: MIT
"""What a user would write without ensembles: a chain of N mocked jobs, each submitted when the one before finishes."""

import os
import sys

import flux
from flux.constants import FLUX_RPC_STREAMING
from flux.job import JobspecV1, submit_async

left = int(sys.argv[1])
spec = JobspecV1.from_command(["true"])
spec.cwd = os.getcwd()
spec.environment = dict(os.environ)
spec.setattr("system.exec.test.run_duration", sys.argv[2])
jobspec = spec.dumps()
handle = flux.Flux()
ours = set()


def submit():
    global left
    left -= 1
    submit_async(handle, jobspec).then(lambda future: ours.add(future.get_id()))


def happened(future):
    record = future.get()
    if record["id"] == -1:
        submit()
    elif record["id"] in ours:
        if left == 0:
            handle.reactor_stop()
        else:
            submit()
    future.reset()


journal = handle.rpc("job-manager.events-journal", {"full": False, "allow": {"finish": 1}}, flags=FLUX_RPC_STREAMING)
journal.then(happened)
handle.reactor_run()
