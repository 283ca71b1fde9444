# SPDX-License-Identifier: MIT
"""Submissions leave nothing behind in memory, and Flux takes the wrapping that is ours."""

# Without Flux nothing of this can be imported: the skip has to come first.
# ruff: noqa: E402

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.flux
try:
    import flux
    import flux.job
except ImportError as exc:
    pytest.skip(f"Flux tests: the bindings do not load ({exc})", allow_module_level=True)

from flux.core.inner import ffi, lib

from ensemble.members.flux_sign import Signer, wrapped
from t.flux_instance import FluxInstance


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_what_is_wrapped() -> None:
    header, payload, signature = wrapped(b'{"a": 1}', 1234).split(b".")
    assert base64.b64decode(payload) == b'{"a": 1}'
    assert signature == b"none"
    fields = base64.b64decode(header).split(b"\0")
    assert dict(zip(fields[::2], fields[1::2])) == {b"version": b"i1", b"userid": b"i1234", b"mechanism": b"snone"}


def submit(handle: flux.Flux, signer: Signer, jobspec: bytes, jobs: int) -> None:
    """Submit held jobs, and cancel them; all are taken."""
    id = ffi.new("flux_jobid_t[1]")
    for future in [signer.submit(handle.handle, signer.sign(jobspec), 0) for _ in range(jobs)]:
        assert lib.flux_job_submit_get_id(future, id) == 0, ffi.string(lib.flux_future_error_string(future))
        flux.job.cancel(handle, id[0])
        lib.flux_future_destroy(future)


@pytest.mark.parametrize("by_flux", [False, True])
def test_flux_takes_it_and_memory_does_not_grow(flux_instance: FluxInstance, by_flux: bool) -> None:
    signer = Signer()
    if by_flux:
        signer._leave_it_to_flux = True
    elif signer._leave_it_to_flux:
        pytest.skip("this Flux has flux-security, and wraps jobspecs itself")
    handle = flux.Flux(flux_instance.uri)
    spec = flux.job.JobspecV1.from_command(["true"])
    spec.cwd, spec.environment = "/", {"LONG": "x" * 100_000}
    jobspec = spec.dumps().encode()
    submit(handle, signer, jobspec, 20)
    before = resident()
    submit(handle, signer, jobspec, 100)
    # a copy of each jobspec would be 13 MB
    if not by_flux:
        assert resident() - before < 5 << 20
