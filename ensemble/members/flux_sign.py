# SPDX-License-Identifier: MIT
"""Wrapping a jobspec as Flux asks of an instance's owner: with a "signature" of none (RFC 15, mechanism none). Imports flux.

Flux does so itself in `flux_job_submit`. But where it was built without flux-security (as it is for those who install it
for themselves) it leaves a copy of each jobspec behind in memory, 0.88 at least: with a user's environment that is some
kilobytes a job, for as long as the service lives. So there the wrapping is done here, and nothing is left.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

from flux.core.inner import lib

#: of libflux-core's job.h
_PRE_SIGNED = 1


def _has_security() -> bool:
    """Is this libflux one with flux-security? It is then loaded along with it."""
    try:
        return b"libflux-security" in Path("/proc/self/maps").read_bytes()
    except OSError:
        return True


def wrapped(jobspec: bytes, userid: int) -> bytes:
    """HEADER.PAYLOAD.none of RFC 15."""
    header = b"".join(part + b"\0" for part in (b"version", b"i1", b"userid", b"i%d" % userid, b"mechanism", b"snone"))
    return b"%s.%s.none" % (base64.b64encode(header), base64.b64encode(jobspec))


class Signer:
    """Submits jobspecs of this process's user over a handle."""

    def __init__(self) -> None:
        self._leave_it_to_flux = _has_security()
        self._userid = os.getuid()

    def sign(self, jobspec: bytes) -> bytes:
        """What `submit` takes."""
        return jobspec if self._leave_it_to_flux else wrapped(jobspec, self._userid)

    def submit(self, handle: object, signed: bytes, urgency: int) -> object:
        """The future of a `flux_job_submit` over a `flux_t *`; NULL, with errno set, where it cannot be sent."""
        return lib.flux_job_submit(handle, signed, urgency, 0 if self._leave_it_to_flux else _PRE_SIGNED)
