# SPDX-License-Identifier: MIT
"""The disk under the instance's KVS is full for a while: ensembles stand still, say so, and lose nothing."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from ensemble.errors import ServiceError
from t.faults.counting import Count, ask, chains, dying, each, kill_broker, progress, request, submit, submitter
from t.flux.processes import until
from t.flux_instance import running

pytestmark = [pytest.mark.flux, pytest.mark.slow, pytest.mark.timeout(240)]


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A file system of its own in a folder, of that size. Skips the test where none may be mounted."""
    # Flux takes a folder that all may write to for no statedir.
    options = f"size={megabytes}m,mode=0755"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a full disk: mounting a tmpfs is not permitted here ({done.stderr.strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    """No room is left there."""
    with (folder / "fill").open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        try:
            yield
        finally:
            (folder / "fill").unlink()


def test_the_disk_is_full_for_a_while(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    heads = 30
    groups = each(heads)
    options = [f"-Sstatedir={state}"]
    with small_disk(state, 16), running(options=options) as instance:
        with dying(instance, tmp_path / "1", []) as process:
            id = submit(instance, chains(heads, active=heads))
            until(lambda: progress(instance, id) >= 10, "some progress")
            with full(state):
                why = until(lambda: request(instance, "status", {"id": id})["reason"], "its standing still")
                assert "stands still" in why
                assert "No space left on device" in why
                assert "No space left on device" in instance.run("flux", "ensemble", "list").stdout
                # what was sent before has come to its end, and nothing follows
                instance.run("flux", "queue", "idle")
                before = instance.run("flux", "jobs", "-a", "-c0", "-n", "-o", "{id}").stdout.split()
                with pytest.raises(ServiceError, match=r"could not be stored.*No space left"):
                    request(instance, "submit", {"text": chains(1), "submitter": {}})
                assert instance.run("flux", "jobs", "-a", "-c0", "-n", "-o", "{id}").stdout.split() == before
                assert len(before) < 5 * heads
                # killed while it stands still, what it has not kept is found out about again
                os.kill(ask(instance, "stats", {})["pid"], 9)
            until(lambda: ask(instance, "status", {"id": id})["reason"] is None, "its going on")
            count = Count(instance, id, groups)
            count.told("disk full, and killed meanwhile", 2)
            count.check(groups)
            assert process.poll() is None, "the supervisor has ended"
            # Flux 0.88 never writes what its disk has once refused, but is alive, and so are we
            # it asks its disk before it answers, and may wait some seconds until it finds out that there is no answer
            other = str(request(instance, "submit", {"text": chains(2), "submitter": submitter(instance)}, 30)["id"])
            Count(instance, other, each(2)).check(each(2))
            assert "cannot write to its disk (No space left" in instance.stderr
        # for the same reason it does not end by itself
        kill_broker(instance)
